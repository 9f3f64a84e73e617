"""Tables and lists as text or Parquet, read so strictly that every error has its line."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.atomic import write_bytes
from nestvox.content import or_else
from nestvox.errors import ScoresError, TableError, TrialsError
from nestvox.extras import require
from nestvox.gate import MOST_TEXT_BYTES, ErrorMaker, read_bytes, refuse_stand_in
from nestvox.names import name_key, split_fields, split_lines

if TYPE_CHECKING:
    import pyarrow as pa

LocatedError = type[TableError] | type[TrialsError] | type[ScoresError]
"""Which error a reader raises: that of the thing that the file should be."""

_DELIMITERS = {"tabs": "\t", "commas": ",", "semicolons": ";", "bars": "|"}
_CALLED = {"tabs": ".tsv", "commas": ".csv"}
_ROWS_AT_ONCE = 1 << 16
# A Parquet file of few bytes may promise any number of rows; a column of one value takes hardly any room for them.
_LEAST_ROWS, _MOST_ROWS_A_BYTE = 1_000_000, 100
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, MemoryError, OverflowError)
_WORD = re.compile(r"[^ \t\r\n\ufeff]")
_UTF8_MARK = codecs.BOM_UTF8
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# What a program writes that took names for numbers, and has no whole numbers with gaps: 1001.0, 1e+16.
_FLOAT_NAME = r"^[+-]?(\d+\.0*|\d+(\.\d+)?[eE][+-]?\d+)$"


def located(kind: LocatedError) -> ErrorMaker:
    """Make errors of a class for the gate: the file is their source."""
    return lambda problem, source: kind(problem, source=source)


def read_text(path: Path, kind: LocatedError) -> str:
    """Read a file as UTF-8, or as UTF-16 where a byte order mark says so; line ends as they are, the mark dropped.

    Raises:
        kind: no regular file, what stands in for one, or the text is not UTF-8; with the line.
    """
    return _decoded(_read(path, kind), path, kind)


def _read(path: Path, kind: LocatedError) -> bytes:
    raw = read_bytes(path, located(kind), most_bytes=MOST_TEXT_BYTES, missing="no such file")
    refuse_stand_in(raw, str(path), located(kind))
    return raw


def _decoded(raw: bytes, path: Path, kind: LocatedError) -> str:
    wide = raw.startswith(_UTF16_MARKS) and not raw.startswith(codecs.BOM_UTF32_LE)
    raw = raw.removeprefix(_UTF8_MARK)
    try:
        return raw.decode("utf-16" if wide else "utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise kind(f"the text is not UTF-{16 if wide else 8}", source=path, line=line) from error


def read_parquet(path: Path, kind: LocatedError) -> pl.DataFrame:
    """Read a Parquet file as one file, whatever its name looks like: no pattern, folder or address.

    pyarrow does it, and not polars: on damaged files polars ends the process, where a page promises memory without
    end, or the noted schema is nested thousands deep.

    Raises:
        kind: no regular file, or no Parquet file.
        MissingExtraError: pyarrow is not installed.
    """
    pa = require("pyarrow", extra="parquet", purpose="reading Parquet files")
    pq = require("pyarrow.parquet", extra="parquet", purpose="reading Parquet files")
    raw = read_bytes(path, located(kind), most_bytes=MOST_TEXT_BYTES, missing="no such file")
    try:
        with pq.ParquetFile(pa.BufferReader(raw)) as file:
            rows = file.metadata.num_rows
            if rows > max(_LEAST_ROWS, _MOST_ROWS_A_BYTE * len(raw)):
                raise kind(f"promises {rows:,} rows in {len(raw):,} bytes", source=path)
            # In this thread: an error in one of Arrow's own ends the process.
            table = file.read(use_threads=False)
        table.validate(full=True)
        _named(table.schema)
        # Without what other programs noted in the schema, which need not be text.
        return pl.DataFrame(pl.from_arrow(pa.Table.from_arrays(table.columns, names=table.column_names)))
    except (pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException, *_UNREADABLE) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise kind(f"not a Parquet file, or a damaged one: {or_else(path, reason)}", source=path) from error


def _named(fields: pa.Schema | pa.DataType) -> None:
    """Read every column's name, which fails where one is no text: polars would end in a panic."""
    for number in range(getattr(fields, "num_fields", None) or len(getattr(fields, "names", ()))):
        field = fields.field(number)
        field.name  # noqa: B018
        _named(field.type)


def name_column(column: pl.Series, kind: LocatedError, source: str | Path) -> pl.Series:
    """Return a column of names as text: whole numbers are written without a point, nulls stay null.

    Raises:
        kind: a column of floats, or of what is no name at all.
    """
    if column.dtype == pl.String:
        return column
    if column.dtype.is_integer() or column.dtype in (pl.Categorical, pl.Enum, pl.Null):
        return column.cast(pl.String)
    if column.dtype.is_float() or column.dtype.is_decimal():
        first = str(column.drop_nulls().first())
        raise kind(
            f"names are stored as numbers with a fraction, e.g. {first}: 1001 became 1001.0, and 0012 became 12.0; "
            "read them as text before they are stored (pandas: dtype=str)",
            source=source,
            column=column.name,
        )
    raise kind(f"is a column of {column.dtype}, and names are text", source=source, column=column.name)


def refuse_float_names(column: pl.Series, kind: LocatedError, source: str | Path, line: int | None = None) -> None:
    """Refuse text names that were floats on their way, all of them: they would match no other list's.

    Raises:
        kind: every name of the column looks like ``1001.0`` or ``1e+16``.
    """
    there = column.drop_nulls()
    if len(there) and there.head(1).str.contains(_FLOAT_NAME)[0] and there.str.contains(_FLOAT_NAME).all():
        raise kind(
            f"every name is a number with a fraction, e.g. {there[0]!r}: a program took names for numbers; read them "
            "as text before they are written (pandas: dtype=str)",
            source=source,
            line=line,
            column=column.name,
        )


def read_delimited(path: Path, delimiter: str, kind: LocatedError) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Read a table with a header line; tabs mean no quoting, anything else RFC 4180 quoting.

    Blank lines are skipped; blanks around column names are dropped.

    Returns:
        The table, all text (empty: null), and (rows,) the line that each row ends on.

    Raises:
        kind: no regular file, not UTF-8, no header, a column without name or named twice, broken quoting, or a line
            with too few or too many fields.
    """
    records = _records(read_text(path, kind), delimiter, path, kind)
    _, first = next(records, (1, []))
    header = [name_key(name) for name in first]
    if not any(header):
        raise kind("no header line with column names", source=path, line=1)
    others = {name: mark for name, mark in _DELIMITERS.items() if mark != delimiter}
    if len(header) == 1 and (found := next((name for name, mark in others.items() if mark in header[0]), None)):
        hint = f"; with {found} a table is called {_CALLED[found]}" if found in _CALLED else ""
        wanted = next(name for name, mark in _DELIMITERS.items() if mark == delimiter)
        raise kind(f"the header has {found} and no {wanted}, which divide its columns here{hint}", source=path, line=1)
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


def read_fields(
    path: Path, kind: LocatedError, *, layout: Callable[[list[str]], tuple[str, int] | None], other: str
) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Split a text without a header into the fields of its lines, at blanks and tabs; blank lines are skipped.

    Lines with single blanks, as nearly all lists have them, are split by polars; anything else line by line. `layout`
    says by the fields of the first line that is not blank what such lines are called, and how many fields they have;
    None where nobody knows it, and `other` is then said of the line.

    Returns:
        Columns ``"0"``, ``"1"``, ..., empty where the file has no lines, and (rows,) their line numbers.

    Raises:
        kind: no regular file, not UTF-8, or another number of fields; with the line.
    """
    raw = _read(path, kind)
    plain = _plain_fields(raw, layout)
    if plain is not None:
        return plain, np.arange(1, len(plain) + 1)
    text = _decoded(raw, path, kind)
    begin = _WORD.search(text)
    if begin is None:
        return pl.DataFrame(), np.zeros(0, np.int64)
    first = split_fields(text[begin.start() : (text.find("\n", begin.start()) + 1 or len(text))])
    found = layout(first)
    if found is None:
        line = text.count("\n", 0, begin.start()) + 1
        raise kind(f"{' '.join(first)!r} {other}", source=path, line=line)
    what, width = found
    schema = {str(number): pl.String for number in range(width)}
    numbered = [(n, fields) for n, line in enumerate(split_lines(text), 1) if (fields := split_fields(line))]
    for number, fields in numbered:
        if len(fields) != width:
            raise kind(f"{len(fields)} fields, {what} has {width}: {' '.join(fields)!r}", source=path, line=number)
    rows = pl.DataFrame([fields for _, fields in numbered], schema=schema, orient="row")
    return rows, np.array([number for number, _ in numbered])


def _plain_fields(raw: bytes, layout: Callable[[list[str]], tuple[str, int] | None]) -> pl.DataFrame | None:
    """Split UTF-8 at single blanks; None where a line has more blanks, or fewer fields, or none, or anything is odd."""
    if any(mark in raw for mark in (b"\t", b"\r", _UTF8_MARK)) or raw.startswith(_UTF16_MARKS):
        return None
    try:
        found = layout(split_fields(raw[: raw.find(b"\n") + 1 or len(raw)].decode()))
        if found is None:
            return None
        schema = {str(number): pl.String for number in range(found[1])}
        table = pl.read_csv(raw, separator=" ", has_header=False, schema=schema, quote_char=None)
    except (UnicodeDecodeError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    # Blank lines and doubled blanks give nulls; rows that polars left out would take their lines along.
    lines = raw.count(b"\n") + (not raw.endswith(b"\n"))
    return None if len(table) != lines or sum(table.null_count().row(0)) else table


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
        hint = ": is a quote opened there and never closed?" if "limit" in str(error) else ""
        raise kind(f"{error}{hint}", source=path, line=reader.line_num) from error


def write_frame(frame: pl.DataFrame, path: Path, fmt: Literal["csv", "parquet"], **options: Any) -> None:
    """Write a table whole or not at all.

    It is made in memory and written as bytes: polars has errors of its own for a full disk, which differ by format and
    name no file, and given a name it would put the home folder in place of a ``~``. `options` are those of its
    `write_csv`.

    Raises:
        OSError: the file cannot be written; it names the file.
    """
    content = io.BytesIO()
    if fmt == "parquet":
        frame.write_parquet(content)
    else:
        frame.write_csv(content, **options)
    write_bytes(path, content.getvalue())
