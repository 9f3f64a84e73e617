"""Every table of every command is whole at 80 columns and at 120, and nothing is written past the one console."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text

import nestvox.cli
from nestvox.cli import console as module
from nestvox.cli.main import main

CLI = Path(nestvox.cli.__file__).parent
TABLE = "utt_id\tpath\tspeaker\tgender\n" + "".join(
    f"{'long-name-of-a-speaker-' * 3}{s}-{n}\t{s}{n}.wav\tspeaker-{s}\t{'f' if n else 'm'}\n" for s in "abcd" for n in range(3)
)


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_written_past_the_console(path: Path) -> None:
    """`print`, `typer.echo` and consoles of rich would interpret markup, obey escapes, or cut cells."""
    if path.stem in ("console", "main"):
        return
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("print", "Console", "Table", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"):
                found.append(f"line {node.lineno}: {called}")
    assert not found, "write with nestvox.cli.console"
