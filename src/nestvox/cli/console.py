"""Where commands write: the one console, on which text from outside is only ever text."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.box import SIMPLE_HEAD, Box
from rich.console import Console, JustifyMethod, OverflowMethod
from rich.segment import Segment
from rich.style import StyleType
from rich.table import Column, Table
from rich.text import Text

from nestvox.shown import shown

__all__ = ["NestvoxConsole", "complain", "console", "lines", "say", "table"]

# Of what is not a terminal: wide enough for a log, and for a person who reads it.
_LOG_WIDTH = 120


class NestvoxConsole(Console):
    """A console that interprets no markup and obeys no control character, wherever a text comes from.

    Styles are given as styles (``style="bold"``, `Text.assemble`), lines of a cell as `lines`. A reader that has gone
    away (``| head``) is no error and changes no exit code.
    """

    def render_str(  # noqa: D102  of rich
        self,
        text: str,
        *,
        style: StyleType = "",
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        **_: Any,
    ) -> Text:
        return Text(shown(text), style=style, justify=justify, overflow=overflow)

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        # The net below: texts that were put together without `shown`.
        return super()._render_buffer(
            segment if segment.control else Segment(shown(segment.text, keep="\n"), segment.style) for segment in buffer
        )

    def on_broken_pipe(self) -> None:  # noqa: D102  of rich
        self.quiet = True


def console(*, stderr: bool = False) -> NestvoxConsole:
    """Return the console of a command: as wide as the terminal (or COLUMNS), else wide enough for a log."""
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream is not None and stream.isatty()
    width = None if terminal or "COLUMNS" in os.environ else _LOG_WIDTH
    return NestvoxConsole(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def say(text: object = "", *, style: str | None = None) -> None:
    """Write one line to standard output, never wrapped."""
    console().print(str(text), style=style, soft_wrap=True)


def complain(text: object, *, kind: str = "error") -> None:
    """Write a message to standard error; further lines are set in, so that none can pass for another message."""
    message = "\n  ".join(shown(line) for line in str(text).split("\n"))
    console(stderr=True).print(Text(f"{kind}: {message}"), soft_wrap=True)


def lines(texts: Iterable[object]) -> Text:
    """Return several lines for one cell of a table."""
    return Text("\n".join(shown(text) for text in texts))


def table(*columns: Column | str, title: str | None = None, box: Box | None = SIMPLE_HEAD) -> Table:
    """Return an empty table whose cells are wrapped and never cut."""
    made = Table(box=box, title=title, title_justify="left")
    for column in columns:
        made.add_column(column) if isinstance(column, str) else made.columns.append(column)
    return made
