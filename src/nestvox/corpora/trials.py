"""Trial lists: which two utterances to compare, and whether one speaker says both.

Formats, one trial a line in the text ones, fields separated by blanks:

- ``voxceleb``: ``1 enrol test`` (target) or ``0 enrol test`` (non-target);
- ``voxsrc``: the same, or ``enrol test`` without labels, all lines alike;
- ``kaldi``: ``enrol test target`` or ``enrol test nontarget``, or 1 and 0 in their place, as CN-Celeb has them;
- ``csv`` and ``parquet``: columns `enrol` (or `enroll`), `test` and, unless unknown throughout, `target` (or `label`).

A label may be written 1.0 or 0.0, as programs do that took the column for numbers.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from nestvox.corpora.delimited import name_column, read_fields, write_frame
from nestvox.corpora.name_pairs import NamePairs, number_names
from nestvox.corpora.trial_columns import LABELS, labels_of, read_headed
from nestvox.errors import TrialsError
from nestvox.names import key_column

FORMATS = ("csv", "kaldi", "parquet", "voxceleb", "voxsrc")
"""Names of the formats, for `fmt`."""

_SIDES = ("enrol", "test")
_BY_SUFFIX = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_NUMBERS = {word: label for word, label in LABELS.items() if word[0] in "01"}
_LAST = {**_NUMBERS, "target": True, "nontarget": False}
_HEADERS = {("enrol", "test"), ("enroll", "test"), ("label", "enrol"), ("target", "enrol")}
_NO_NAME = ["\t", "\r", "\n"]
_LABELS = ("0", "1", "?")  # of the canonical form, as they sort
_LINES_AT_ONCE = 1 << 20


@dataclass(frozen=True, repr=False)
class Trials:
    """A list of trials.

    Attributes:
        frame: `enrol` and `test` (names: non-empty text), `target` (true, false, or null where unknown), in the
            order of the list.
        source: where it came from, for messages and reports.
        pairs: the names of both sides as numbers.
    """

    frame: pl.DataFrame
    source: str
    pairs: NamePairs = field(init=False, compare=False)

    def __post_init__(self) -> None:
        missing = [name for name in _SIDES if name not in self.frame.columns]
        if missing:
            raise TrialsError(
                f"column {missing[0]} is missing; there is {', '.join(self.frame.columns) or 'none'}",
                source=self.source,
                column=missing[0],
            )
        target = pl.col("target") if "target" in self.frame.columns else pl.lit(None, pl.Boolean).alias("target")
        sides = [name_column(self.frame[name], TrialsError, self.source) for name in _SIDES]
        frame = self.frame.select(*sides, target)
        if frame["target"].dtype != pl.Boolean:
            frame = frame.with_columns(labels_of(frame["target"], self.source))
        pairs = number_names(*(frame[name].fill_null("") for name in _SIDES))
        # A tab or line break in a name would make two lists with different trials hash alike.
        bad = (pairs.names.str.contains_any(_NO_NAME) | (key_column(pairs.names) == "")).to_numpy()
        for name, side in zip(_SIDES, (pairs.enrol, pairs.test), strict=True):
            if bad.any() and bad[side].any():
                row = int(bad[side].argmax())
                found = "the name is missing" if frame[name][row] is None else f"{frame[name][row]!r} is not a name"
                problem = f"trial {row + 1}: {found}"
                raise TrialsError(problem, source=self.source, column=name)
        # The text of each name is kept once, however many trials name it.
        sides = [
            pairs.names.gather(side).alias(name) for name, side in zip(_SIDES, (pairs.enrol, pairs.test), strict=True)
        ]
        object.__setattr__(self, "frame", frame.with_columns(sides))
        object.__setattr__(self, "pairs", pairs)

    def __len__(self) -> int:
        return self.frame.height

    def __repr__(self) -> str:
        unknown = f" + {self.n_unknown} unknown" if self.n_unknown else ""
        counts = f"{self.n_target} target + {self.n_nontarget} nontarget{unknown}"
        return f"Trials({Path(self.source).name!r}, {counts}, sha256 {self.sha256[:16]})"

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
        # Lines differ first where names followed by a tab do.
        names = self.pairs.names
        order = (names + "\t").arg_sort().to_numpy()
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        lines = (rank[self.pairs.enrol] * len(rank) + rank[self.pairs.test]) * len(_LABELS)
        lines += self.frame["target"].cast(pl.Int8).fill_null(_LABELS.index("?")).to_numpy()
        lines.sort()
        ranked, words = names.gather(order), pl.Series(_LABELS)
        digest = hashlib.sha256()
        for start in range(0, len(lines), _LINES_AT_ONCE):
            pair, label = np.divmod(lines[start : start + _LINES_AT_ONCE], len(_LABELS))
            enrol, test = np.divmod(pair, len(rank))
            columns = [ranked.gather(enrol).alias("a"), ranked.gather(test).alias("b"), words.gather(label).alias("c")]
            part = io.BytesIO()
            pl.DataFrame(columns).write_csv(part, separator="\t", include_header=False, quote_style="never")
            digest.update(part.getbuffer())
        return digest.hexdigest()

    @cached_property
    def doubled(self) -> pl.DataFrame:
        """Pairs of names that stand in the list more than once, each once, in the order of the list."""
        codes = self.pairs.keyed.codes
        ordered = np.sort(codes)
        twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        if not len(twice):
            return self.frame.select(_SIDES).clear()
        return self.frame.filter(np.isin(codes, twice)).select(_SIDES).unique(maintain_order=True)


def as_trials(given: Trials | str | Path) -> Trials:
    """Return a list that is given as such or by its path, as `read_trials` reads it."""
    return given if isinstance(given, Trials) else read_trials(given)


def read_trials(path: str | Path, fmt: str | None = None) -> Trials:
    """Read a trial list.

    Args:
        path: the file; ``.csv``, ``.tsv`` and ``.parquet`` have a header, anything else is text.
        fmt: one of `FORMATS`; None finds out by the suffix and the first line, or by all where that fits two formats.

    Raises:
        TrialsError: another format, an empty list, or a line that does not fit the format (mixed formats among
            them), with its number; lines that all fit two formats; no such file.
    """
    path = Path(path)
    if fmt is not None and fmt not in FORMATS:
        raise TrialsError(f"unknown format {fmt!r}; known are {', '.join(FORMATS)}", source=path)
    fmt = fmt or _BY_SUFFIX.get(path.suffix.lower())
    if fmt in {"csv", "parquet"}:
        frame, lines = read_headed(path, TrialsError, parquet=fmt == "parquet")
        if not frame.height:
            raise TrialsError("the list has no trials", source=path)
        if lines is not None and "target" in frame.columns:
            frame = frame.with_columns(labels_of(frame["target"], str(path), lines))
        return Trials(frame, str(path))

    def layout(first: list[str]) -> tuple[str, int] | None:
        if fmt in {"kaldi", "voxceleb"} or len(first) == 3:
            name = fmt or ("voxceleb" if first[0] in _NUMBERS else "kaldi" if first[2] in _LAST else None)
            return None if name is None else (name, 3)
        return ("voxsrc", 2) if len(first) == 2 or fmt else None

    other = "is none of '1 enrol test', 'enrol test target' and 'enrol test' (a list with commas is called .csv)"
    table, numbers = read_fields(path, TrialsError, layout=layout, other=other)
    if not len(table):
        raise TrialsError("the list has no trials", source=path)
    if tuple(word.lower() for word in table.row(0)[:2]) in _HEADERS:
        raise TrialsError(
            "the first line is a header, which .csv (with commas) and .tsv (with tabs) have: name the file so, or "
            "leave the line out",
            source=path,
            line=int(numbers[0]),
        )
    if table.width == 2:
        return Trials(table.rename({"0": "enrol", "1": "test"}), str(path))
    labels = _labelled(path, table, fmt, int(numbers[0]))
    column, sides, known = ("2", ("0", "1"), _LAST) if labels == "kaldi" else ("0", ("1", "2"), _NUMBERS)
    target = pl.col(column).replace_strict(known, default=None, return_dtype=pl.Boolean)
    frame = table.select(enrol=sides[0], test=sides[1], target=target)
    for row in frame["target"].is_null().arg_true().head(1):
        words = "target or nontarget" if labels == "kaldi" else "1 or 0"
        raise TrialsError(
            f"the label is {table[column][row]!r}, {labels} has {words}", source=path, line=int(numbers[row])
        )
    return Trials(frame, str(path))


def _labelled(path: Path, table: pl.DataFrame, fmt: str | None, line: int) -> str:
    """Which end of the lines has the labels: as the first line says, or all of them where it could be either."""
    if fmt is not None:
        return "kaldi" if fmt == "kaldi" else "voxceleb"
    first = table.row(0)
    if not (first[0] in _NUMBERS and first[2] in _LAST):
        return "voxceleb" if first[0] in _NUMBERS else "kaldi"
    # Names may be numbers, but hardly all of them 0 and 1.
    voxceleb, kaldi = (bool(table[name].is_in(list(words)).all()) for name, words in (("0", _NUMBERS), ("2", _LAST)))
    if kaldi and voxceleb:
        raise TrialsError(
            f"{' '.join(first)!r} fits both voxceleb and kaldi; name the format, or write csv with the columns enrol, "
            "test and target",
            source=path,
            line=line,
        )
    return "kaldi" if kaldi else "voxceleb"


def format_to_write(path: str | Path, fmt: str | None = None) -> str:
    """Return the format in which a list is written to a path, so that `read_trials` finds it out again.

    Where `fmt` is None, that is the format of the suffix, ``voxceleb`` where that says nothing.

    Raises:
        TrialsError: another format, or a suffix by which the list would be read as another.
    """
    if fmt is not None and fmt not in FORMATS:
        raise TrialsError(f"unknown format {fmt!r}; known are {', '.join(FORMATS)}", source=path)
    suffix = Path(path).suffix.lower()
    read_as = _BY_SUFFIX.get(suffix)
    if fmt is not None and read_as is not None and read_as != fmt:
        raise TrialsError(f"a list called {suffix} is read as {read_as}, not as {fmt}: name it .txt", source=path)
    return fmt or read_as or "voxceleb"


def write_trials(trials: Trials, path: str | Path, fmt: str | None = None) -> None:
    """Write a trial list whole or not at all.

    Args:
        trials: the list, written in its order.
        path: the file.
        fmt: see `format_to_write`; ``voxsrc`` leaves the labels out where all are unknown.

    Raises:
        TrialsError: what `format_to_write` refuses, names with blanks or missing labels in a format that cannot have
            them.
    """
    path = Path(path)
    fmt = format_to_write(path, fmt)
    frame = trials.frame
    if fmt == "parquet":
        write_frame(frame, path, "parquet")
        return
    if fmt == "csv":  # `Trials` have no names with tabs or line ends
        tabs = {"separator": "\t", "quote_style": "never"} if path.suffix.lower() == ".tsv" else {}
        write_frame(frame.with_columns(pl.col("target").cast(pl.Int8)), path, "csv", **tabs)
        return
    for name in _SIDES:
        for row in frame[name].str.contains(r"(?-u:\s)").arg_true().head(1):  # blanks of other scripts divide nothing
            raise TrialsError(f"{frame[name][row]!r} has a blank in it; write csv or parquet", source=path)
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
    write_frame(lines, path, "csv", separator=" ", include_header=False, quote_style="never")
