"""The package as a whole: its public names, how light it imports, its version, and what must not stand in its files."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import nestvox

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.glob("nestvox/**/*.py")
)
HEAVY = {"torch", "polars", "pyarrow", "matplotlib", "scipy", "sklearn", "numpy"}


PUBLIC_MODULES = ["nestvox.errors", "nestvox.mrl", "nestvox.testing"]
PACKAGES = [name for name in MODULES if SOURCE.joinpath(*name.split("."), "__init__.py").exists()]


def house_order(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then the rest: the order that ruff keeps (RUF022)."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_public_is_what_a_package_lists_and_nothing_else() -> None:
    wrong = []
    for module, imported in {name: importlib.import_module(name) for name in MODULES}.items():
        listed = getattr(imported, "__all__", None)
        if listed is None:
            continue
        if module not in PACKAGES + PUBLIC_MODULES:
            wrong.append(f"{module} has an __all__; only packages list names: remove it")
        if listed != sorted(set(listed), key=house_order):
            wrong.append(f"{module}.__all__ is not sorted or lists a name twice")
        wrong += [
            f"{module}.__all__ names {name}, which is not there" for name in listed if not hasattr(imported, name)
        ]
        # Once a module is imported it stands in the place of a name that is resolved when it is first used.
        hidden = [name for name in listed if isinstance(getattr(imported, name, None), ModuleType)]
        wrong += [f"{module}.{name} is a name and a module" for name in hidden]
    assert not wrong, "\n".join(wrong)


def test_a_name_with_an_underscore_stays_in_its_module() -> None:
    wrong = []
    for path in SOURCE.glob("nestvox/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nestvox"):
                wrong += [
                    f"{path.name} imports {node.module}.{alias.name}"
                    for alias in node.names
                    if re.match("_[a-z]", alias.name)
                ]
    assert not wrong, "\n".join(wrong)


def test_dir_shows_the_public_names() -> None:
    assert set(nestvox.__all__) <= set(dir(nestvox))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nestvox.nothing


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a new interpreter has loaded after `code`."""
    report = "import sys, json; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    child = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(json.loads(child.stdout.splitlines()[-1]))


def test_import_loads_nothing_heavy() -> None:
    assert not loaded_by("import nestvox") & HEAVY


def test_help_loads_nothing_heavy() -> None:
    calls = [["--help"], ["--version"], ["embed", "--help"], ["models", "--help"]]
    runs = [f"try:\n    main({call!r})\nexcept SystemExit as end:\n    assert not end.code" for call in calls]
    assert not loaded_by("\n".join(["from nestvox.cli.main import main", *runs])) & HEAVY


def test_a_cache_without_augmentation_does_not_wait_for_filters() -> None:
    assert "scipy" not in loaded_by("import nestvox.extraction.cache.feature_cache")


def test_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == nestvox.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert changelog.index("## [Unreleased]") == changelog.index("## ["), "Unreleased stands first"
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, flags=re.MULTILINE)
    coming = re.findall(r"^To be released as (\d+\.\d+\.\d+)\.$", changelog, flags=re.MULTILINE)
    assert nestvox.__version__ == (coming or released)[0]
    assert importlib.metadata.version("nestvox") == nestvox.__version__, (
        "installed from other sources: make install-dev"
    )


def tracked_files() -> list[Path]:
    """Files that a clone holds; where there is no git (an sdist), those of the folders that are shipped."""
    git = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if git.returncode == 0:
        names = [name for name in git.stdout.split("\0") if name]
        return [ROOT / name for name in names if (ROOT / name).is_file()]
    return [path for folder in ("src", "tests", "docs") for path in (ROOT / folder).rglob("*") if path.is_file()]


# Written in pieces, so that this file does not accuse itself.
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.\-/:])/(?:" + r"wo" + r"rk|ho" + r"me|ro" + r"ot|Us" + r"ers)/\w"),
    "a host of a package index": re.compile(
        r"pypi\." + r"org|python" + r"hosted\.|download\.pyto" + r"rch|registry\.np" + r"mjs|anaconda" + r"\.org"
    ),
    "a note to do something": re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
}


def test_no_file_mentions_what_is_forbidden() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for what, pattern in FORBIDDEN.items():
            for match in pattern.finditer(text):
                number = text.count("\n", 0, match.start()) + 1
                found.append(f"{path.relative_to(ROOT)}:{number}: {what}: {match[0]}")
    assert not found, "\n".join(found)


def test_forbidden_patterns_do_find() -> None:
    samples = {
        "a path of one machine": "open('/" + "home/me/x.wav')",
        "a host of a package index": "https://pypi" + ".org/simple",
        "a note to do something": "# TO" + "DO later",
    }
    for what, sample in samples.items():
        assert FORBIDDEN[what].search(sample)
    assert not FORBIDDEN["a path of one machine"].search("src/work/x and ../home/y and https://example.org/home/x")


def test_constraints_pin_every_direct_requirement() -> None:
    pins = {}
    for line in (ROOT / "constraints" / "pinned.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{line}: not one plain version"
            pins[re.sub(r"[-_.]+", "-", name).lower()] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = list(project["project"]["dependencies"]) + project["build-system"]["requires"]
    for requirements in project["project"]["optional-dependencies"].values():
        wanted += requirements
    for name, requirements in project["dependency-groups"].items():
        if name not in {"parity", "toolkits"}:  # these pin what they compare with
            wanted += requirements
    names = {re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[; ]", requirement)[0]).lower() for requirement in wanted}
    assert names <= set(pins), f"constraints/pinned.txt lacks {sorted(names - set(pins))}"
