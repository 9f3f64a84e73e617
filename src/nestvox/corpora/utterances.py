"""The utterance table: one row an utterance, as TSV, CSV or Parquet on disk and polars in memory.

Required columns: `utt_id`, `path`, `speaker`. Known optional ones: `start_s` and `duration_s` (seconds), `channel` (0
is the first; empty: the mean of all), `session`, `recording`, `split`, `sex`, `language`, `corpus`, `licence` (text),
`augmented` and `synthetic` (true or false). Any other column is kept. Relative paths are relative to the folder of the
table. What part of a file a row is as audio says `segments`, and nothing else.

Names are compared by `nestvox.names.name_key`. Speakers, sessions and the other texts stand in memory in that form, so
that one speaker is one wherever names meet; `utt_id` and `path` stay as they are written, as file systems want them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.audio.segment import Segment
from nestvox.corpora.columns import as_boolean, as_channel, as_seconds, codec_apart
from nestvox.corpora.delimited import name_column, read_delimited, read_parquet, refuse_float_names, write_frame
from nestvox.corpora.profiles import recordings_of_name, with_bars
from nestvox.errors import TableError
from nestvox.names import key_column, name_key

UNLABELLED = "unlabelled "
"""What the name of a speaker begins with whom nobody has named."""

REQUIRED = ("utt_id", "path", "speaker")
"""Columns that every table has, filled in every row."""

MARKS = ("augmented", "synthetic")
"""Columns of true and false that label every number measured on a row that is marked."""

# Absolute paths of any system, and parts that a system leaves out or resolves.
_NOT_PLAIN = r"^/|\\|^[A-Za-z]:|//|(^|/)\.{1,2}(/|$)|/$"
_NUMBERS = ("start_s", "duration_s")
_TEXTS = (*REQUIRED, "session", "recording", "split", "sex", "language", "corpus", "licence")
_WRITTEN = (".tsv", ".csv", ".parquet")
_SHOWN = 5
_SHARED = -1


@dataclass(frozen=True, repr=False)
class UtteranceTable:
    """Utterances, validated.

    Attributes:
        frame: one row an utterance; the module says which columns. Missing values are null.
        source: where it came from, for messages.
        root: folder that relative paths start from.
    """

    frame: pl.DataFrame
    source: str
    root: Path
    _lines: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", _validated(self.frame, self.source, self._lines))

    def __len__(self) -> int:
        return self.frame.height

    def __repr__(self) -> str:
        counts = f"{len(self)} utterances of {self.frame['speaker'].n_unique()} speakers"
        return f"UtteranceTable({Path(self.source).name!r}, {', '.join((counts, *self.labels))})"

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels that every number measured on this table carries: those of `MARKS` that stand at any row."""
        return tuple(mark for mark in MARKS if mark in self.frame.columns and self.frame[mark].any())

    @cached_property
    def barred(self) -> frozenset[str]:
        """Names and paths that have the bar in them which parts the recordings of a profile."""
        return with_bars(self.frame["utt_id"], self.frame["path"])

    @property
    def audio_paths(self) -> list[Path]:
        """Path of every row's audio file, in order."""
        return [self.root / path for path in self.frame["path"]]

    def audio_path(self, row: int) -> Path:
        """Path of one row's audio file."""
        return self.root / str(self.frame["path"][row])

    def path_of(self, name: str) -> str | None:
        """Audio file of an utterance by its name, of a profile the first; None where it is the name itself."""
        name = recordings_of_name(name, self.barred)[0]
        path = str(self.audio_path(int(self.resolve([name])[0])))
        return None if path == name else path

    def with_channel(self, channel: int) -> UtteranceTable:
        """Return the table with this channel in every row that does not say one; 0 is the first."""
        own = pl.col("channel") if "channel" in self.frame.columns else pl.lit(None, pl.Int64)
        return replace(self, frame=self.frame.with_columns(own.fill_null(channel).alias("channel")))

    def segment(self, row: int) -> Segment:
        """What one row is as audio."""
        starts, durations, channels = (
            self.frame[name][row] if name in self.frame.columns else None
            for name in ("start_s", "duration_s", "channel")
        )
        return Segment(self.audio_path(row), starts, durations, channels)

    def segments(self) -> list[Segment]:
        """What every row is as audio, in order."""
        nothing = [None] * len(self)
        columns = (
            self.frame[name].to_list() if name in self.frame.columns else nothing
            for name in ("start_s", "duration_s", "channel")
        )
        return list(map(Segment, self.audio_paths, *columns))

    def where(self, **equals: str) -> UtteranceTable:
        """Rows in which every named column has the given value, e.g. ``table.where(split="dev")``.

        Raises:
            TableError: the table has no such column.
        """
        keep = pl.lit(value=True)
        for column, value in equals.items():
            if column not in self.frame.columns:
                raise TableError(
                    f"no such column; the table has {', '.join(self.frame.columns)}", source=self.source, column=column
                )
            wanted = name_key(value) if column in _TEXTS else value
            keep = keep & (pl.col(column).cast(pl.String) == wanted)
        marked = self.frame.with_columns(keep.fill_null(value=False).alias("__keep"))["__keep"].to_numpy()
        lines = None if self._lines is None else self._lines[marked]
        # Whoever has no use for an empty table names its source.
        source = self.source if marked.any() else f"{self.source} ({self._why_none(equals)})"
        return replace(self, frame=self.frame.filter(pl.Series(marked)), source=source, _lines=lines)

    def _why_none(self, equals: Mapping[str, str]) -> str:
        for column, value in equals.items():
            there = self.frame[column].cast(pl.String).drop_nulls().unique().sort()
            if name_key(value) not in there and value not in there:
                return f"no row has the {column} {value!r}; there {'is' if len(there) == 1 else 'are'} {_some(there)}"
        return f"no row has {', '.join(f'{column} {value!r}' for column, value in equals.items())} together"

    def resolve(self, names: Sequence[str] | pl.Series) -> NDArray[np.int64]:
        """Find the rows that trial names mean.

        A name is an `utt_id`, or else a `path` as it stands in the table.

        Args:
            names: (N,) names, repeated as often as they like.

        Returns:
            (N,) row numbers.

        Raises:
            TableError: names that no row has, or paths that several rows share; the message lists the first few.
        """
        wanted = pl.Series("name", names, dtype=pl.String)
        found = _looked_up(wanted, self.frame["utt_id"])
        if found.null_count():
            by_path = _looked_up(wanted, self.frame["path"])
            missing = wanted.filter(found.is_null() & by_path.is_null())
            if len(missing):
                raise TableError(
                    f"{_listed(missing)} not among the {len(self)} utterances{self._as_numbers(missing)}",
                    source=self.source,
                )
            shared = wanted.filter(found.is_null() & (by_path == _SHARED))
            if len(shared):
                raise TableError(
                    f"{_listed(shared)} shared by several utterances; name them by utt_id", source=self.source
                )
            found = found.fill_null(by_path)
        return found.cast(pl.Int64).to_numpy()

    def _as_numbers(self, missing: pl.Series) -> str:
        """Say where a name would be there, had no program taken it for a number on its way."""
        plain = key_column(self.frame["utt_id"]).str.strip_suffix(".0")
        found = missing.filter(key_column(missing).str.strip_suffix(".0").is_in(plain.implode()))
        if not len(found):
            return ""
        return f"; {found[0]!r} was taken for a number on one side only, which put .0 behind it: read names as text"


def _looked_up(wanted: pl.Series, names: pl.Series) -> pl.Series:
    """Row of each wanted name (N,), null where there is none, `_SHARED` where there are several.

    A name as it is written comes before the same name in another spelling.
    """
    found = _rows_of(wanted, names)
    if found.null_count():
        return found.fill_null(_rows_of(key_column(wanted), key_column(names)))
    return found


def _rows_of(wanted: pl.Series, names: pl.Series) -> pl.Series:
    rows = names.alias("name").to_frame().with_row_index("row").group_by("name").agg(pl.col("row").first(), pl.len())
    rows = rows.select(
        "name", pl.when(pl.col("len") > 1).then(_SHARED).otherwise(pl.col("row").cast(pl.Int64)).alias("row")
    )
    return wanted.alias("name").to_frame().join(rows, on="name", how="left", maintain_order="left")["row"]


def _listed(names: pl.Series) -> str:
    distinct = names.unique(maintain_order=True)
    return f"{len(distinct)} {'name' if len(distinct) == 1 else 'names'} ({_some(distinct)})"


def _some(names: pl.Series) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(repr(name) for name in names.head(_SHOWN)) or "none") + more


def as_table(given: UtteranceTable | str | Path | None) -> UtteranceTable | None:
    """Return a table, where there is one, that is given as such or by its path, as `read_utterances` reads it."""
    return given if given is None or isinstance(given, UtteranceTable) else read_utterances(given)


def read_utterances(path: str | Path, *, unlabelled: bool = False) -> UtteranceTable:
    """Read and validate a table.

    Args:
        path: ``.tsv`` (or ``.txt``; tabs, no quoting), ``.csv`` (commas, RFC 4180 quoting) or ``.parquet``.
        unlabelled: let `speaker` be empty: such a row gets a speaker of its own, called `UNLABELLED` and its utt_id.

    Raises:
        TableError: no such file, missing or doubled columns, a line with too few or too many fields, an empty or
            doubled `utt_id`, an empty `path` or `speaker`, names that were taken for numbers with a fraction, or a
            number that is none; with file, line and column.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return UtteranceTable(_named(read_parquet(path, TableError), unlabelled), str(path), path.parent)
    if suffix not in {".tsv", ".csv", ".txt"}:
        raise TableError(f"tables are .tsv, .csv or .parquet, not {suffix or 'without suffix'}", source=path)
    frame, lines = read_delimited(path, "," if suffix == ".csv" else "\t", TableError)
    return UtteranceTable(_named(frame, unlabelled), str(path), path.parent, lines)


def _named(frame: pl.DataFrame, unlabelled: bool) -> pl.DataFrame:
    """Give rows without a speaker one of their own, where that is wanted and the columns are there."""
    if not unlabelled or not {"speaker", "utt_id"} <= set(frame.columns):
        return frame
    speaker = pl.col("speaker").cast(pl.String)
    nobody = speaker.is_null() | (speaker.str.strip_chars() == "")
    own = pl.lit(UNLABELLED) + pl.col("utt_id").cast(pl.String)
    return frame.with_columns(pl.when(nobody).then(own).otherwise(speaker).alias("speaker"))


def _validated(frame: pl.DataFrame, source: str, lines: NDArray[np.int64] | None) -> pl.DataFrame:
    frame = codec_apart(frame)
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        raise TableError(
            f"column {missing[0]} is missing; the table has {', '.join(frame.columns) or 'none'} "
            "('nestvox data prepare csv' makes a table of a list)",
            source=source,
            line=None if lines is None else 1,
            column=missing[0],
        )

    def fail(row: int, column: str, problem: str) -> TableError:
        if lines is None:
            return TableError(f"row {row + 1}: {problem}", source=source, column=column)
        return TableError(problem, source=source, line=int(lines[row]), column=column)

    texts = [name_column(frame[name], TableError, source) for name in _TEXTS if name in frame.columns]
    keys = {column.name: key_column(column).replace("", None) for column in texts}
    for name in REQUIRED:
        for row in keys[name].is_null().arg_true().head(1):
            raise fail(row, name, f"{name} is empty")
    # An empty text is a missing value, whichever file it came from.
    as_written = ("utt_id", "path")
    frame = frame.with_columns(
        column.replace("", None) if column.name in as_written else keys[column.name] for column in texts
    )
    line = None if lines is None or not len(lines) else int(lines[0])
    refuse_float_names(frame["speaker"], TableError, source, line)
    if not frame.select(pl.col("path").str.contains(pl.col("utt_id"), literal=True).all()).item():
        refuse_float_names(frame["utt_id"], TableError, source, line)  # but files may well be called 1.0.wav
    doubled = keys["utt_id"].is_duplicated()
    if doubled.any():
        key = keys["utt_id"].filter(doubled)[0]
        first, second = (keys["utt_id"] == key).arg_true()[:2]
        where = f"row {first + 1}" if lines is None else f"line {lines[first]}"
        name, before = frame["utt_id"][second], frame["utt_id"][first]
        spelt = "" if name == before else f", spelt {before!a} there and {name!a} here"
        raise fail(second, "utt_id", f"utt_id {name!r} stands already on {where}{spelt}")
    for name in _NUMBERS:
        if name in frame.columns:
            frame = frame.with_columns(as_seconds(frame[name], fail))
    if "channel" in frame.columns:
        frame = frame.with_columns(as_channel(frame["channel"], fail))
    for mark in MARKS:
        if mark in frame.columns:
            frame = frame.with_columns(as_boolean(frame[mark], fail))
    return frame


def check_writable(path: str | Path) -> None:
    """Make sure that a table can be written to a path, before an hour goes into making it; nothing is made.

    Raises:
        TableError: a suffix that tables do not have, a folder, or a place that must not be written to.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _WRITTEN:
        raise TableError(f"tables are written as .tsv, .csv or .parquet, not {suffix or 'without suffix'}", source=path)
    if path.is_dir():
        raise TableError("is a folder; give the table a name of its own", source=path)
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise TableError(
            f"cannot be made, as {above} {'must not be written to' if above.is_dir() else 'is no folder'}", source=path
        )


def write_utterances(table: UtteranceTable, path: str | Path) -> None:
    """Write a table whole or not at all; TSV, CSV or Parquet by suffix.

    Relative audio paths are rewritten where the new file stands in another folder, so that they still find the audio.

    Raises:
        TableError: what `check_writable` refuses, a value with a tab or line break in a TSV, or a full disk.
    """
    path = Path(path)
    check_writable(path)
    frame = _relative_to(table, path.parent)
    suffix = path.suffix.lower()
    if suffix == ".tsv":
        for column in frame.select(pl.col(pl.String)).iter_columns():
            for row in column.str.contains(r"[\t\r\n]").arg_true().head(1):
                problem = f"{column[row]!r} does not fit into a TSV; write .csv or .parquet"
                raise TableError(problem, source=path, column=column.name)
    try:
        if suffix == ".tsv":
            write_frame(frame, path, "csv", separator="\t", quote_style="never")
        else:
            write_frame(frame, path, "csv" if suffix == ".csv" else "parquet")
    except (OSError, pl.exceptions.PolarsError) as error:  # polars' own do not name the file
        raise TableError(f"cannot be written: {error}", source=path) from error


def _relative_to(table: UtteranceTable, folder: Path) -> pl.DataFrame:
    old, new = table.root.resolve(), folder.resolve()
    if old == new:
        return table.frame
    paths = table.frame["path"]
    # A plain path keeps its text behind the way from one folder to the other, unless both go into the same folder. A
    # path taken apart for each of a million rows would take minutes.
    plain = ~paths.str.contains(_NOT_PLAIN)
    if new.is_relative_to(old):
        plain &= ~(paths + "/").str.starts_with(f"{new.relative_to(old).parts[0]}/")
    try:
        way = Path(os.path.relpath(old, new)).as_posix()
    except ValueError:  # another drive: there is no relative path
        way = old.as_posix()
    moved = pl.when(plain).then(pl.lit(f"{way}/") + paths).otherwise(pl.lit(None, pl.String))
    frame = table.frame.with_columns(moved.alias("path"))
    odd = plain.not_().arg_true()
    if len(odd):
        frame = frame.with_columns(frame["path"].scatter(odd, [_moved(paths[row], old, new) for row in odd]))
    return frame


def _moved(text: str, old: Path, new: Path) -> str:
    if Path(text).is_absolute():
        return text
    try:
        return Path(os.path.relpath(old / text, new)).as_posix()
    except ValueError:
        return str(old / text)


def table_sha256(frame: pl.DataFrame) -> str:
    """Return the hash of what is made from a table: ids, paths, speakers, segments, channels; 64 hex digits."""
    digest = hashlib.sha256()
    known = ("utt_id", "path", "speaker", "start_s", "duration_s", "channel")
    columns = [name for name in known if name in frame.columns]
    digest.update(json.dumps(columns).encode())
    for row in frame.select(columns).iter_rows():
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()
