"""Trial lists: which two utterances to compare, and whether one speaker says both.

Formats, one trial a line in the text ones, fields separated by blanks:

- ``voxceleb``: ``1 enrol test`` (target) or ``0 enrol test`` (non-target);
- ``voxsrc``: the same, or ``enrol test`` without labels, all lines alike;
- ``kaldi``: ``enrol test target`` or ``enrol test nontarget``;
- ``csv`` and ``parquet``: columns `enrol`, `test` and, unless unknown throughout, `target`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.atomic import atomic_path
from nestvox.corpora.delimited import LocatedError, read_delimited, read_text
from nestvox.errors import ScoresError, TrialsError

__all__ = ["FORMATS", "Trials", "read_scores", "read_trials", "write_trials"]

FORMATS = ("csv", "kaldi", "parquet", "voxceleb", "voxsrc")
"""Names of the formats, for `fmt`."""

_SIDES = ("enrol", "test")
_LABELS = {"1": True, "0": False, "true": True, "false": False, "target": True, "nontarget": False}
_KALDI = {"target": True, "nontarget": False}
_VOXCELEB = {"1": True, "0": False}
_UTF8_MARK = b"\xef\xbb\xbf"
# Whatever `str.split` splits at, but the blank and the line feed.
_ASCII_BLANKS = (b"\t", b"\r", b"\v", b"\f", b"\x1c", b"\x1d", b"\x1e", b"\x1f")


@dataclass(frozen=True)
class Trials:
    """A list of trials.

    Attributes:
        frame: `enrol` and `test` (names: non-empty text), `target` (true, false, or null where unknown), in the
            order of the list.
        source: where it came from, for messages and reports.
    """

    frame: pl.DataFrame
    source: str

    def __post_init__(self) -> None:
        missing = [name for name in _SIDES if name not in self.frame.columns]
        if missing:
            raise TrialsError(
                f"column {missing[0]} is missing; there is {', '.join(self.frame.columns) or 'none'}",
                source=self.source,
                column=missing[0],
            )
        target = pl.col("target") if "target" in self.frame.columns else pl.lit(None, pl.Boolean).alias("target")
        frame = self.frame.select(pl.col("enrol").cast(pl.String), pl.col("test").cast(pl.String), target)
        if frame["target"].dtype != pl.Boolean:
            frame = frame.with_columns(_labels(frame["target"], self.source))
        for name in _SIDES:
            # A tab or line break in a name would make two lists with different trials hash alike.
            names = frame[name].fill_null("")
            bad = (names.str.contains_any(["\t", "\r", "\n"]) | (names.str.strip_chars() == "")).arg_true()
            if len(bad):
                row = int(bad[0])
                problem = f"trial {row + 1}: {frame[name][row]!r} is not a name"
                raise TrialsError(problem, source=self.source, column=name)
        object.__setattr__(self, "frame", frame)

    def __len__(self) -> int:
        return self.frame.height

    @property
    def n_target(self) -> int:
        """Trials of one speaker."""
        return int(self.frame["target"].sum())

    @property
    def n_nontarget(self) -> int:
        """Trials of two speakers."""
        return len(self) - self.n_target - self.n_unknown

    @property
    def n_unknown(self) -> int:
        """Trials without a label."""
        return self.frame["target"].null_count()

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the canonical form, 64 hex digits.

        The canonical form has one line a trial: enrol, tab, test, tab, label (``1`` target, ``0`` non-target, ``?``
        unknown), line feed; UTF-8; the lines sorted as bytes. So neither file format nor order matter; the sides of
        a trial and doubled trials do.
        """
        label = pl.col("target").cast(pl.Int8).cast(pl.String).fill_null("?")
        lines = self.frame.select(pl.concat_str("enrol", "test", label, separator="\t").alias("line"))["line"].sort()
        return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def read_trials(path: str | Path, fmt: str | None = None) -> Trials:
    """Read a trial list.

    Args:
        path: the file; ``.csv``, ``.tsv`` and ``.parquet`` have a header, anything else is text.
        fmt: one of `FORMATS`; None finds out by the suffix and the first line.

    Raises:
        TrialsError: another format, an empty list, or a line that does not fit the format (mixed formats among
            them), with its number; a first line that fits two formats.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    if fmt is not None and fmt not in FORMATS:
        raise TrialsError(f"unknown format {fmt!r}; known are {', '.join(FORMATS)}", source=path)
    suffix = path.suffix.lower()
    if fmt is None and suffix in {".csv", ".tsv", ".parquet"}:
        fmt = "parquet" if suffix == ".parquet" else "csv"
    if fmt in {"csv", "parquet"}:
        frame, lines = _with_header(path, TrialsError, parquet=fmt == "parquet")
        if not frame.height:
            raise TrialsError("the list has no trials", source=path)
        if lines is not None and "target" in frame.columns:
            frame = frame.with_columns(_labels(frame["target"], str(path), lines))
        return Trials(frame, str(path))
    fields = _first_fields(path)
    fmt = fmt or _guess(path, fields)
    width = len(fields) if fmt == "voxsrc" else 3
    table = _fields(path, width, fmt, TrialsError)
    if fmt == "kaldi":
        frame = table.select(enrol="0", test="1", target=_mapped("2", _KALDI))
    elif width == 3:
        frame = table.select(enrol="1", test="2", target=_mapped("0", _VOXCELEB))
    else:
        frame = table.select(enrol="0", test="1")
    if "target" in frame.columns and frame["target"].null_count():
        row = int(frame["target"].is_null().arg_true()[0])
        word = table["2" if fmt == "kaldi" else "0"][row]
        labels = "target or nontarget" if fmt == "kaldi" else "1 or 0"
        raise TrialsError(f"the label is {word!r}, {fmt} has {labels}", source=path, line=_line(path, row))
    return Trials(frame, str(path))


def _guess(path: Path, fields: list[str]) -> str:
    if len(fields) == 2:
        return "voxsrc"
    kaldi, voxceleb = fields[-1] in _KALDI, fields[0] in _VOXCELEB
    if len(fields) != 3 or not (kaldi or voxceleb):
        raise TrialsError(
            f"{' '.join(fields)!r} is none of '1 enrol test', 'enrol test target' and 'enrol test'",
            source=path,
            line=_line(path, 0),
        )
    if kaldi and voxceleb:
        raise TrialsError(f"{' '.join(fields)!r} fits both voxceleb and kaldi; name the format", source=path, line=1)
    return "kaldi" if kaldi else "voxceleb"


def _numbered(path: Path, kind: LocatedError) -> list[tuple[int, list[str]]]:
    """Numbers and fields of the lines that are not blank: the slow way, for whatever is not plain."""
    lines = read_text(path, kind).split("\n")
    return [(number, fields) for number, line in enumerate(lines, 1) if (fields := line.split())]


def _line(path: Path, row: int) -> int:
    """Line number of the `row`-th trial; blank lines count as lines only."""
    return _numbered(path, TrialsError)[row][0]


def _first_fields(path: Path) -> list[str]:
    with path.open("rb") as file:
        for raw in file:
            fields = raw.removeprefix(_UTF8_MARK).decode("utf-8", "replace").split()
            if fields:
                return fields
    raise TrialsError("the list has no trials", source=path)


def _fields(path: Path, width: int, what: str, kind: LocatedError) -> pl.DataFrame:
    """Split every line into `width` fields, columns ``"0"``, ``"1"``, ...

    Lines with single blanks, as nearly all lists have them, are split by polars; anything else line by line.
    """
    schema = {str(number): pl.String for number in range(width)}
    try:
        raw = path.read_bytes()
        table = pl.read_csv(raw, separator=" ", has_header=False, schema=schema, quote_char=None)
        # Blank lines and doubled blanks give nulls, tabs and the like stay within a field. Looking for them in the
        # bytes is far faster than in each field, but only ASCII text shows its blanks there.
        if raw.isascii():
            odd = any(blank in raw for blank in _ASCII_BLANKS)
        else:
            odd = any(table.select(pl.all().str.contains(r"\s").any()).row(0))
        if not odd and not sum(table.null_count().row(0)):
            return table
    except pl.exceptions.PolarsError:
        pass
    numbered = _numbered(path, kind)
    for number, fields in numbered:
        if len(fields) != width:
            raise kind(f"{len(fields)} fields, {what} has {width}: {' '.join(fields)!r}", source=path, line=number)
    return pl.DataFrame([fields for _, fields in numbered], schema=schema, orient="row")


def _mapped(column: str, words: dict[str, bool]) -> pl.Expr:
    return pl.col(column).replace_strict(words, default=None, return_dtype=pl.Boolean)


def _labels(column: pl.Series, source: str, lines: NDArray[np.int64] | None = None) -> pl.Series:
    """Turn 1/0, true/false or target/nontarget (empty: unknown) into booleans."""
    if column.dtype == pl.Boolean:
        return column
    words = column.cast(pl.String).str.strip_chars().str.to_lowercase().replace("", None)
    labels = words.replace_strict(_LABELS, default=None, return_dtype=pl.Boolean)
    bad = (labels.is_null() & words.is_not_null()).arg_true()
    if len(bad):
        row = int(bad[0])
        problem = f"{column[row]!r} is no label; labels are 1 or 0, target or nontarget, empty where unknown"
        if lines is None:
            raise TrialsError(f"trial {row + 1}: {problem}", source=source, column="target")
        raise TrialsError(problem, source=source, line=int(lines[row]), column="target")
    return labels.alias("target")


def _with_header(path: Path, kind: LocatedError, *, parquet: bool) -> tuple[pl.DataFrame, NDArray[np.int64] | None]:
    """Read a CSV, TSV or Parquet file, and the lines of its rows where it has lines."""
    lines = None
    if parquet:
        try:
            frame = pl.read_parquet(path)
        except pl.exceptions.PolarsError as error:
            raise kind(f"not a Parquet file: {str(error).splitlines()[0]}", source=path) from error
    else:
        frame, lines = read_delimited(path, "\t" if path.suffix.lower() == ".tsv" else ",", kind)
    renamed = {"enroll": "enrol"} if "enrol" not in frame.columns and "enroll" in frame.columns else {}
    return frame.rename(renamed), lines


def write_trials(trials: Trials, path: str | Path, fmt: str = "voxceleb") -> None:
    """Write a trial list whole or not at all.

    Args:
        trials: the list, written in its order.
        path: the file.
        fmt: one of `FORMATS`; ``voxsrc`` leaves the labels out where all are unknown.

    Raises:
        TrialsError: another format, names with blanks or missing labels in a format that cannot have them.
    """
    path = Path(path)
    if fmt not in FORMATS:
        raise TrialsError(f"unknown format {fmt!r}; known are {', '.join(FORMATS)}", source=path)
    frame = trials.frame
    if fmt == "parquet":
        with atomic_path(path) as temporary:
            frame.write_parquet(temporary)
        return
    if fmt == "csv":
        with atomic_path(path) as temporary:
            frame.with_columns(pl.col("target").cast(pl.Int8)).write_csv(temporary)
        return
    for name in _SIDES:
        blank = frame[name].str.contains(r"\s").arg_true()
        if len(blank):
            raise TrialsError(f"{frame[name][int(blank[0])]!r} has a blank in it; write csv or parquet", source=path)
    labelled = not (fmt == "voxsrc" and trials.n_unknown == len(trials))
    if labelled and trials.n_unknown:
        hint = "csv or parquet" if trials.n_unknown < len(trials) else "voxsrc, csv or parquet"
        raise TrialsError(f"{trials.n_unknown} of {len(trials)} trials have no label; write {hint}", source=path)
    if fmt == "kaldi":
        lines = frame.select("enrol", "test", pl.col("target").replace_strict({True: "target", False: "nontarget"}))
    elif labelled:
        lines = frame.select(pl.col("target").cast(pl.Int8), "enrol", "test")
    else:
        lines = frame.select("enrol", "test")
    with atomic_path(path) as temporary:
        lines.write_csv(temporary, separator=" ", include_header=False, quote_style="never")


def read_scores(path: str | Path) -> pl.DataFrame:
    """Read scores: `enrol`, `test` (text) and `score` (float), in the order of the file.

    Text has ``score enrol test`` or ``enrol test score`` on every line; where both ends of the lines are numbers, the
    one that is not whole throughout is the score. CSV and Parquet have columns of these names.

    Raises:
        ScoresError: malformed, undecidable, or a score that is no finite number; with file and line.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in {".csv", ".tsv", ".parquet"}:
        frame, lines = _with_header(path, ScoresError, parquet=suffix == ".parquet")
        missing = [name for name in (*_SIDES, "score") if name not in frame.columns]
        if missing:
            there = ", ".join(frame.columns)
            raise ScoresError(f"column {missing[0]} is missing; there is {there}", source=path, column=missing[0])
        frame = frame.select(pl.col(*_SIDES).cast(pl.String), "score")
        return _scored(path, frame, lambda row: None if lines is None else int(lines[row]))
    table = _fields(path, 3, "a line of scores", ScoresError)
    if not table.height:
        raise ScoresError("the file has no scores", source=path)
    column = _score_column(path, table)
    sides = ("1", "2") if column == "0" else ("0", "1")
    frame = table.select(enrol=sides[0], test=sides[1], score=column)
    return _scored(path, frame, lambda row: _line(path, row))


def _score_column(path: Path, table: pl.DataFrame) -> str:
    """Which end of the lines holds the scores."""
    first, last = (table[name].cast(pl.Float64, strict=False) for name in ("0", "2"))
    if first[0] is not None and last[0] is not None:
        # Names may be numbers, but they are whole; scores hardly ever are, all of them.
        whole = [bool((column == column.round()).fill_null(value=False).all()) for column in (first, last)]
        if whole[0] == whole[1]:
            raise ScoresError("both ends of the lines are numbers; write csv with a header", source=path, line=1)
        return "2" if whole[0] else "0"
    if first[0] is None and last[0] is None:
        raise ScoresError(
            f"{' '.join(table.row(0))!r} is neither 'score enrol test' nor 'enrol test score'",
            source=path,
            line=_line(path, 0),
        )
    return "2" if first[0] is None else "0"


def _scored(path: Path, frame: pl.DataFrame, line_of: Callable[[int], int | None]) -> pl.DataFrame:
    scores = frame["score"].cast(pl.Float64, strict=False)
    bad = (~scores.is_finite().fill_null(value=False)).arg_true()
    if len(bad):
        row = int(bad[0])
        raise ScoresError(f"the score is {frame['score'][row]!r}, no finite number", source=path, line=line_of(row))
    empty = frame.select(pl.any_horizontal(pl.col(*_SIDES).is_null()))["enrol"].arg_true()
    if len(empty):
        raise ScoresError("a name is empty", source=path, line=line_of(int(empty[0])))
    return frame.with_columns(scores)
