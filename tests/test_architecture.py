"""The house: floors, sizes, no drawers, and a test for every invariant that exists."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "nestvox").glob("**/*.py"))
DRAWERS = {"base", "common", "helpers", "misc", "tools", "util", "utils"}


def test_modules_import_only_from_the_floors_below() -> None:
    pytest.importorskip("importlinter", reason="the group lint is not installed")
    # In a new interpreter: the linter installs settings of its own, and reads the configuration from where it runs.
    code = "import sys\nfrom importlinter import cli\nsys.exit(cli.lint_imports(no_cache=True))"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout + child.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", child.stdout), child.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_file_is_one_thing_of_a_readable_size(path: Path) -> None:
    assert path.stem not in DRAWERS, "name it after what it is"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 600, f"{len(lines)} lines: look for the seam"
    assert ast.get_docstring(ast.parse("\n".join(lines))), "a module says what it is"


def test_no_folder_is_a_drawer() -> None:
    assert not {path.parent.name for path in SOURCES} & DRAWERS


def invariants() -> list[tuple[str, str]]:
    """Rows of the table in CONTRIBUTING.md: the invariant and the tests that hold it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## Invariants", maxsplit=1)[1].split("\n## ", maxsplit=1)[0]
    rows = re.findall(r"^\| *(\d+\. .+?) *\| *(.+?) *\|$", section, flags=re.MULTILINE)
    return [(name, tests) for name, tests in rows if not name.startswith("---")]


def test_invariants_are_numbered_in_order() -> None:
    numbers = [int(name.split(".")[0]) for name, _ in invariants()]
    assert numbers == list(range(1, 11))


@pytest.mark.parametrize(("name", "tests"), invariants(), ids=lambda value: value[:40])
def test_every_invariant_names_tests_that_exist(name: str, tests: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
    if not named:
        assert re.match(r"not yet: .+", tests), f"{name} has neither a test nor a reason"
        return
    for file, function in named:
        path = ROOT / file
        assert path.is_file(), f"{file} is named for invariant {name} and does not exist"
        functions = {
            node.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)
        }
        assert function in functions, f"{file} has no {function}"
