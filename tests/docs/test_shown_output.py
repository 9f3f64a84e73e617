"""What the guide to comparison shows as output is what the commands print: its figures are argued with."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shlex
import sys
from pathlib import Path

import pytest

from nestvox.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guide" / "compare.md"


def blocks():
    spec = importlib.util.spec_from_file_location("fences_of_shown", Path(__file__).with_name("fences.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["fences_of_shown"] = module
    spec.loader.exec_module(module)
    return module.blocks_of(PAGE)


def folded(text: str) -> str:
    """One line with single blanks: pages and terminals break lines elsewhere."""
    return " ".join(text.split())


def printed(command: str) -> str:
    program, *arguments = shlex.split(command)
    assert program == "nestvox"
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    return output.getvalue()


def test_the_guide_to_comparison_shows_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    namespace: dict = {}
    compared, last = [], ""
    for block in blocks():
        if block.language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(block.text, block.place, "exec"), namespace)
            last = output.getvalue()
        elif block.language == "text" and block.text.lstrip()[:1].isdigit():
            assert block.text == last, block.place
            compared.append(block.place)
        elif block.language == "console":
            if "lists" in block.needs and not Path("lists").exists():
                if not (lists := Path(os.environ.get("NESTVOX_LISTS", ROOT.parent / "shared" / "lists"))).is_dir():
                    continue
                Path("lists").symlink_to(lists.resolve())
            command, *shown = block.text.splitlines()
            # Lines stand in the page as they follow each other, but not all of them.
            output = folded(printed(command.removeprefix("$ ")))
            assert folded(" ".join(shown)).removesuffix(".") in output, block.place
            compared.append(block.place)
    assert len(compared) >= 3
