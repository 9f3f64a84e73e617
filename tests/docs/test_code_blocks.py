"""Every fenced code block of README, CONTRIBUTING and docs runs, or is checked, so that none goes stale.

Python blocks of a page share one namespace; both languages run in one empty folder a page. Shell lines run as a user
types them in README and in the slow tests; elsewhere a plain `nestvox` line is called in this process, which has loaded
torch already. CONTRIBUTING.md says how a block tells what it needs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from nestvox.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TIMEOUT_S = {False: 100, True: 1500}
WIDTH = {"COLUMNS": "120"}  # of the terminal
_ENDS_WITH = re.compile(r" \|\| test \$\? -eq (\d)$")  # the exit status that a line tells its reader of


def _load_fences():
    # pytest imports by file (importlib mode), so a neighbour is not on the path.
    spec = importlib.util.spec_from_file_location("fences", Path(__file__).with_name("fences.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["fences"] = module
    spec.loader.exec_module(module)
    return module


fences = _load_fences()


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def has_commands(page: Path) -> bool:
    return re.search(r"^\s*```(bash|console)$|doctest:.*\bslow\b", page.read_text(encoding="utf-8"), re.M) is not None


def called(arguments: list[str]) -> tuple[object, str]:
    """Exit status of `nestvox` in this process, and all that it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code, said.getvalue()


@pytest.fixture(scope="session")
def package_index() -> None:
    """Skip where the weights of the demo's encoder can be had neither from the cache nor from the package index."""
    status, said = called(["models", "fetch", "ge2e"])
    if status != 0:
        pytest.skip(f"no package index: {said.strip()[-300:]}")


def provide(need: str, folder: Path, request: pytest.FixtureRequest) -> str | None:
    """Bring what a block needs into its folder; the reason if it cannot be had here."""
    try:
        if need == "network":
            request.getfixturevalue("package_index")
        elif need in {"speech", "lists"} and not (folder / need).exists():
            (folder / need).symlink_to(request.getfixturevalue(f"{need}_dir").resolve())
    except pytest.skip.Exception as reason:
        return str(reason)
    return None


def run_shell(command: str, folder: Path, block) -> None:
    environment = os.environ | WIDTH | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    child = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S[block.slow],
        stdin=subprocess.DEVNULL,
    )
    if child.returncode != 0:
        pytest.fail(
            f"{block.place}: $ {command}\nexit {child.returncode}\n{child.stdout[-3000:]}{child.stderr[-3000:]}",
            pytrace=False,
        )


def is_plain(command: str) -> bool:
    """Whether a line calls `nestvox` and leaves nothing to the shell but words and quotes."""
    return command.startswith("nestvox ") and re.search(r"[|&;<>()$`*?~\[\]{}#!]", _ENDS_WITH.sub("", command)) is None


def run_here(command: str, folder: Path, block) -> None:
    told = _ENDS_WITH.search(command)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        for name, value in WIDTH.items():
            patch.setenv(name, value)
        status, said = called(shlex.split(_ENDS_WITH.sub("", command))[1:])
    if status != (int(told[1]) if told else 0):
        pytest.fail(f"{block.place}: $ {command}\nexit {status}\n{said[-3000:]}", pytrace=False)


def run_python(block, namespace: dict[str, object], folder: Path) -> None:
    code = compile(block.text, block.place, "exec", dont_inherit=True)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        try:
            exec(code, namespace)
        except Exception as error:
            pytest.fail(f"{block.place}: {type(error).__name__}: {error}", pytrace=True)


def check_parsed(block) -> None:
    parse = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}[block.language]
    parse(block.text)


def check_install(block) -> None:
    """A line that installs is not run: its tool is known, and the targets, extras and groups that it names exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for command in fences.commands_of(block):
        words = shlex.split(command, comments=True)
        assert words[0] in {"cd", "git", "make", "nestvox", "pip", "pre-commit", "python3", "."}, (
            f"{block.place}: {command}"
        )
        if words[0] == "make":
            named = {word for word in words[1:] if "=" not in word and not word.startswith("-")}
            assert named <= targets, f"{block.place}: no target {sorted(named - targets)}"
        for extras in re.findall(r"(?:nestvox|\.)\[([\w,-]+)\]", command):
            unknown = set(extras.split(",")) - set(project["project"]["optional-dependencies"])
            assert not unknown, f"{block.place}: no extra {sorted(unknown)}"
        for group in re.findall(r"--group[ =](\w+)", command):
            assert group in project["dependency-groups"], f"{block.place}: no group {group}"


def run_page(page: Path, folder: Path, request: pytest.FixtureRequest, *, slow: bool, typed: bool = True) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    unmet: list[str] = []
    for block in fences.blocks_of(page):
        if block.slow and not slow:
            continue
        if block.language in fences.PARSED:
            check_parsed(block)
        elif block.language in fences.RUN and "install" in block.needs:
            check_install(block)
        elif block.language in fences.RUN:
            reasons = [reason for need in sorted(block.needs) if (reason := provide(need, folder, request))]
            if reasons:
                unmet.append(f"{block.place}: {'; '.join(reasons)}")
            elif block.language == "python":
                run_python(block, namespace, folder)
            else:
                for command in fences.commands_of(block):
                    run = run_shell if typed or not is_plain(command) else run_here
                    run(command, folder, block)
    if unmet:
        pytest.skip("the other blocks passed; not run: " + " | ".join(unmet))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_of_page_run(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run_page(page, tmp_path, request, slow=False, typed=page.name == "README.md")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", [page for page in PAGES if has_commands(page)], ids=name_of)
def test_page_runs_as_typed_with_its_slow_blocks(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run_page(page, tmp_path, request, slow=True)


def page_of(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("```\nls\n```\n", "language ''"),
        ("```pyhton\nx\n```\n", "language 'pyhton'"),
        ('```bash {needs="speech"}\nls\n```\n', "language"),
        ("<!-- doctest: needs=speach -->\n```bash\nls\n```\n", "needs=speach"),
        ("<!-- doctest: skip -->\n```bash\nls\n```\n", "'skip'"),
        ("<!-- doctest: slow -->\nText between.\n\n```bash\nls\n```\n", "precedes no block"),
        ("<!-- doctest: slow -->\n", "precedes no block"),
        ("```bash\nls\n", "not closed"),
    ],
)
def test_block_that_would_escape_is_an_error(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        fences.blocks_of(page_of(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("```python\nassert 1 == 2\n```\n", True),
        ("```bash\nfalse\n```\n", True),
        ("```console\n$ nestvox no-such-command\n```\n", True),
        ("```console\n$ nestvox no-such-command\n```\n", False),
        ("```bash\nnestvox data check none.tsv\n```\n", False),
        ("```bash\nnestvox data check none.tsv || test $? -eq 3\n```\n", False),
        ("```bash\nnestvox --version > no/such/folder\n```\n", False),
        ("```console\n$ false | true\n```\n", True),
    ],
)
def test_block_that_fails_fails_its_page(
    text: str, typed: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"page\.md:2"):
        run_page(page_of(tmp_path, text), tmp_path, request, slow=False, typed=typed)


@pytest.mark.parametrize(
    "line",
    ["make no-such-target", "pip install 'nestvox[nothing]'", "curl https://example.org", "pip install --group no"],
)
def test_install_line_that_names_nothing_is_an_error(line: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    page = page_of(tmp_path, f"<!-- doctest: needs=install -->\n```bash\n{line}\n```\n")
    with pytest.raises(AssertionError):
        run_page(page, tmp_path, request, slow=False)


def test_blocks_share_names_and_folder_in_order(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    text = """
1. First

    ```python
    from pathlib import Path
    number = 41
    ```

Then

```console
$ echo forty \\
    two > said.txt
forty two
$ test -s said.txt
```

<!-- doctest: slow -->
```python
raise RuntimeError
```

```python
Path("seen.txt").write_text(Path("said.txt").read_text() + str(number + 1))
```
"""
    run_page(page_of(tmp_path, text), tmp_path, request, slow=False)
    assert (tmp_path / "seen.txt").read_text() == "forty two\n42"
    with pytest.raises(pytest.fail.Exception, match="RuntimeError"):
        run_page(page_of(tmp_path, text), tmp_path, request, slow=True)
