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


def test_every_file_is_one_thing_of_a_readable_size() -> None:
    wrong = []
    for path in SOURCES:
        name, text = path.relative_to(ROOT / "src"), path.read_text(encoding="utf-8")
        if {path.stem, path.parent.name} & DRAWERS:
            wrong.append(f"{name}: name it after what it is")
        if (lines := len(text.splitlines())) > 600:
            wrong.append(f"{name}: {lines} lines: look for the seam")
        if not ast.get_docstring(ast.parse(text)):
            wrong.append(f"{name}: a module says what it is")
    assert not wrong, "\n".join(wrong)


def invariants() -> list[tuple[str, str]]:
    """Rows of the table in CONTRIBUTING.md: the invariant and the tests that hold it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## Invariants", maxsplit=1)[1].split("\n## ", maxsplit=1)[0]
    rows = re.findall(r"^\| *(\d+\. .+?) *\| *(.+?) *\|$", section, flags=re.MULTILINE)
    return [(name, tests) for name, tests in rows if not name.startswith("---")]


def test_invariants_are_numbered_in_order() -> None:
    numbers = [int(name.split(".")[0]) for name, _ in invariants()]
    assert numbers == list(range(1, 11))


def test_every_invariant_names_tests_that_exist() -> None:
    wrong = []
    for name, tests in invariants():
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
        if not named and not re.match(r"not yet: .+", tests):
            wrong.append(f"{name} has neither a test nor a reason")
        for file, function in named:
            path = ROOT / file
            if not path.is_file() or f"\ndef {function}(" not in path.read_text(encoding="utf-8"):
                wrong.append(f"{file}::{function} is named for invariant {name} and does not exist")
    assert not wrong, "\n".join(wrong)
