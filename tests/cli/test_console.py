"""The one console: data is only ever text, whatever way it comes."""

from __future__ import annotations

import pytest
from rich.text import Text

from nestvox.cli.console import complain, console, lines, say, table

HOSTILE = "net[v2] [/x] [bold]:smile: \x1b[31m\x07\u202e\ud800"
SHOWN = "net[v2] [/x] [bold]:smile: \\x1b[31m\\x07\\u202e\\ud800"


def test_data_is_only_text(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    console().print(HOSTILE, style="bold")
    console().print(Text(f"put together: {HOSTILE}"), soft_wrap=True)
    grid = table("name")
    grid.add_row(HOSTILE)
    console().print(grid)
    assert capsys.readouterr().out.count(SHOWN) == 4


def test_messages_go_to_standard_error_and_cannot_be_forged(capsys: pytest.CaptureFixture[str]) -> None:
    complain("a[/x]\nerror: another\x1b")
    assert capsys.readouterr() == ("", "error: a[/x]\n  error: another\\x1b\n")


def test_cells_are_wrapped_and_not_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    grid = table("a", "b")
    grid.add_row("x" * 50, lines(["one", "two\nthree"]))
    console().print(grid)
    printed = capsys.readouterr().out
    assert printed.count("x") == 50
    assert "two\\nthree" in "".join(printed.split())
    assert "…" not in printed
