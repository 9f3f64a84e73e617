"""The one console: data is only ever text, whatever way it comes."""

from __future__ import annotations

import pytest
from rich.text import Text

from nestvox.cli.console import complain, console, lines, say, whole_table

HOSTILE = "net[v2] [/x] [bold]:smile: \x1b[31m\x07\u202e\ud800"
SHOWN = "net[v2] [/x] [bold]:smile: \\x1b[31m\\x07\\u202e\\ud800"


def test_data_is_only_text(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    console().print(HOSTILE, style="bold")
    grid = whole_table("name")
    grid.add_row(HOSTILE)
    console().print(grid)
    assert capsys.readouterr().out.count(SHOWN) == 3
    console().print(Text("put together: \x1b[31m\x9b\u202e"))
    assert capsys.readouterr().out == "put together: \\x1b[31m\\x9b\\u202e\n"


def test_messages_go_to_standard_error_and_cannot_be_forged(capsys: pytest.CaptureFixture[str]) -> None:
    complain("a[/x]\nerror: another\x1b")
    assert capsys.readouterr() == ("", "error: a[/x]\n  error: another\\x1b\n")


@pytest.mark.parametrize("content", ["[" * 100_000, "\0" * 100_000, "a b " * 100_000])
def test_contents_of_files_do_not_fill_the_terminal(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    complain(f"x.csv:1: expected three fields, got {content!r}; write three")
    said = capsys.readouterr().err
    assert len(said) < 20_000
    assert said.startswith("error: x.csv:1: expected three fields, got")
    assert said.endswith("write three\n")


def test_the_longest_path_is_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(["folder"] * 580)
    complain(f"{path}: no such file")
    assert capsys.readouterr().err == f"error: {path}: no such file\n"


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_no_cell_is_cut_at_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    grid = whole_table("system", numbers=["EER %\n[interval]", "size", "trials"], title="all", labels=["synthetic"])
    grid.add_row("x" * 90, "12.34 [11.22, 13.44]", "1.2 GB", lines(["one", "two\nthree"]))
    grid.add_row("[bold]b", "-", "-", "4")
    console().print(grid)
    printed = capsys.readouterr().out
    assert printed.count("x") == 90
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= width
    together = "".join(printed.split())
    for whole in ("EER%", "two\\nthree", "[bold]b", "1.2GB", "SYNTHETIC"):
        assert whole in together
    if width >= 40:
        assert "12.34 [11.22, 13.44]" in printed
