"""Text tables with a header line, read so strictly that every error has its line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.errors import ScoresError, TableError, TrialsError

__all__ = ["LocatedError", "read_delimited", "read_text"]

LocatedError = type[TableError] | type[TrialsError] | type[ScoresError]
"""Which error a reader raises: that of the thing that the file should be."""

_ROWS_AT_ONCE = 1 << 16
_UTF8_MARK = b"\xef\xbb\xbf"


def read_text(path: Path, kind: LocatedError) -> str:
    """Decode a file as UTF-8, with or without a byte order mark; line ends as they are.

    Raises:
        kind: the text is not UTF-8; with the line.
    """
    raw = path.read_bytes().removeprefix(_UTF8_MARK)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise kind("the text is not UTF-8", source=path, line=line) from error


def read_delimited(path: Path, delimiter: str, kind: LocatedError) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Read a table with a header line; tabs mean no quoting, anything else RFC 4180 quoting.

    Blank lines are skipped; blanks around column names are dropped.

    Returns:
        The table, all text (empty: null), and (rows,) the line that each row ends on.

    Raises:
        kind: not UTF-8, no header, a column without name or named twice, broken quoting, or a line with too few or
            too many fields.
    """
    records = _records(read_text(path, kind), delimiter, path, kind)
    _, first = next(records, (1, []))
    header = [name.strip() for name in first]
    if not any(header):
        raise kind("no header line with column names", source=path, line=1)
    if "" in header:
        raise kind(f"column {header.index('') + 1} of the header has no name", source=path, line=1)
    doubled = [name for name in header if header.count(name) > 1]
    if doubled:
        raise kind("the column stands twice in the header", source=path, line=1, column=doubled[0])
    frames, lines = [pl.DataFrame(schema=dict.fromkeys(header, pl.String))], [np.zeros(0, np.int64)]
    while batch := list(islice(records, _ROWS_AT_ONCE)):
        numbers, values = zip(*batch, strict=True)
        lines.append(np.array(numbers, np.int64))
        named = zip(header, zip(*values, strict=True), strict=True)
        frames.append(pl.DataFrame([pl.Series(name, column, pl.String) for name, column in named]))
    return pl.concat(frames).with_columns(pl.all().replace("", None)), np.concatenate(lines)


def _records(text: str, delimiter: str, path: Path, kind: LocatedError) -> Iterator[tuple[int, list[str]]]:
    """Yield number and fields of every line that is not blank, the header first."""
    if delimiter == "\t":
        reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    width = None
    try:
        for record in reader:
            if not record:
                continue
            width = width or len(record)
            if len(record) != width:
                raise kind(f"{len(record)} fields, the header has {width}", source=path, line=reader.line_num)
            yield reader.line_num, record
    except csv.Error as error:
        raise kind(str(error), source=path, line=reader.line_num) from error
