"""Where commands write: the one console, on which text from outside is only ever text."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, JustifyMethod, OverflowMethod, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import StyleType
from rich.table import Column, Table
from rich.text import Text

from nestvox.shown import shown

# Of what is not a terminal: wide enough for a log, and for a person who reads it.
_LOG_WIDTH = 120
# Of a message: lists of names and keys fit in, contents of files do not. The longest path has 4,096 bytes.
_LONGEST_LINE = 1 << 14
_ENDLESS = re.compile(r"(\S{200})\S{4000,}(\S{100})")
# Standard output holds the JSON of a command: what people read goes to standard error.
_aside = ContextVar("aside", default=False)
# A column of texts that is narrower than this is no longer read with pleasure.
_TEXT_WIDTH = 20


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
    stderr = stderr or _aside.get()
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream is not None and stream.isatty()
    width = None if terminal or "COLUMNS" in os.environ else _LOG_WIDTH
    return NestvoxConsole(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


@contextmanager
def aside() -> Iterator[None]:
    """Lead everything that is said in the block to standard error."""
    token = _aside.set(True)
    try:
        yield
    finally:
        _aside.reset(token)


def say(*parts: str | tuple[str, str], style: str = "") -> None:
    """Write one line to standard output, never wrapped.

    Args:
        parts: texts, or a text and its style, one after the other: ``say(("note:", "yellow"), " few trials")``.
        style: of the whole line.
    """
    whole = Text(style=style)
    for part in parts:
        text, own = part if isinstance(part, tuple) else (part, "")
        whole.append(shown(text), own)
    console().print(whole, soft_wrap=True)


def say_notes(notes: Iterable[str]) -> None:
    """Write what a reader has to know, a line each."""
    for note in notes:
        say(("note:", "yellow"), f" {note}")


def say_json(text: str) -> None:
    """Write JSON in ASCII, in which every control character is escaped, to standard output, for a program to read."""
    sys.stdout.write(text)


def tell(text: str) -> None:
    """Write one line to standard error: what goes on, beside the results."""
    console(stderr=True).print(text, soft_wrap=True)


def complain(text: object, *, kind: str = "error") -> None:
    """Write a message to standard error; further lines are set in, so that none can pass for another message."""
    message = "\n  ".join(_shortened(shown(line)) for line in str(text).split("\n"))
    console(stderr=True).print(Text(f"{kind}: {message}"), soft_wrap=True)


def _shortened(line: str) -> str:
    """Leave out the middle of words and lines that only a damaged file has: they would fill a terminal many times."""
    words = _ENDLESS.sub(lambda word: f"{word[1]}...{word[2]}", line)
    return words if len(words) <= _LONGEST_LINE else f"{words[: _LONGEST_LINE // 2]} ... {words[-_LONGEST_LINE // 4 :]}"


def lines(texts: Iterable[object]) -> Text:
    """Return several lines for one cell of a table."""
    return Text("\n".join(shown(text) for text in texts))


class _WholeTable(Table):
    """A table whose cells are all there at any width: texts are wrapped, and where that is too narrow rows are stacked.

    Columns on the right are numbers, which are never broken.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._needed(console, options) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        if self.title:
            yield Text.styled(self.title, "italic") if isinstance(self.title, str) else self.title
        names = [str(column.header).replace("\n", " ") for column in self.columns]
        for row in zip(*(column.cells for column in self.columns), strict=True):
            block = Table.grid(padding=(0, 2))
            block.add_column(style="table.header", overflow="fold")
            block.add_column(overflow="fold")
            for name, cell in zip(names, row, strict=True):
                block.add_row(f"  {name}", cell)
            yield block
            yield Text()

    def _needed(self, console: Console, options: ConsoleOptions) -> int:
        """Columns of the screen below which a cell would be broken that should not be."""
        wide = options.update(width=10_000)
        needed = self._extra_width + sum(self._get_padding_width(i) for i in range(len(self.columns)))
        for column in self.columns:
            widest = max(Measurement.get(console, wide, cell).maximum for cell in (column.header, *column.cells))
            needed += widest if column.no_wrap else min(widest, _TEXT_WIDTH)
        return needed


def text(header: str) -> Column:
    """Return a column of texts for `whole_table` that are never broken, e.g. names that are to be typed."""
    return Column(Text(header), no_wrap=True, overflow="fold")


def number(header: str) -> Column:
    """Return a column of numbers for `whole_table`: on the right, and never broken."""
    return Column(Text(header), justify="right", no_wrap=True, overflow="fold")


def whole_table(
    *columns: str | Column, numbers: Iterable[str] = (), title: str = "", labels: Iterable[str] = ()
) -> Table:
    """Return an empty table that is whole at every width.

    Args:
        columns: headers of texts, which are wrapped, and numbers, made by `number`.
        numbers: headers of numbers that follow.
        title: above it.
        labels: what is to be known of every number, loud behind the title.
    """
    loud = ", ".join(labels).upper()
    heading = Text.assemble(shown(title), (f" {shown(loud)}" if title else shown(loud), "bold red"))
    made = _WholeTable(box=SIMPLE_HEAD, title=heading if heading else None, title_justify="left")
    for column in (*columns, *map(number, numbers)):
        made.columns.append(Column(Text(column), overflow="fold") if isinstance(column, str) else column)
        made.columns[-1]._index = len(made.columns) - 1
    return made


def show_dim(dim: int | None, *, unit: str = "") -> str:
    """A prefix length, in a table or with its unit in a sentence; scores of a file have none."""
    if dim is None:
        return "scores" if unit else "-"
    return f"{dim} {unit}".rstrip()


def show_score(score: float) -> str:
    """A score or threshold with four decimals, or four digits where those would say too little or too much."""
    return f"{score:.4f}" if score == 0 or 0.1 <= abs(score) < 1e6 else f"{score:.4g}"
