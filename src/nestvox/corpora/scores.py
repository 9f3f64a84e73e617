"""Score files: what a system says of each trial, in the layouts that toolkits write.

Text, one trial a line, fields separated by blanks:

- ``score enrol test`` or ``enrol test score``;
- ``enrol test score target``, as wespeaker writes it, and with four more numbers after score normalisation;
- ``enrol test target score``, as 3D-Speaker and SpeechBrain write it;
- ``target enrol test score``.

A target is ``target`` or ``nontarget``, or 1 or 0. CSV and Parquet have columns `enrol`, `test`, `score` and, where the
labels are known, `target`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from nestvox.atomic import write_text
from nestvox.corpora.delimited import name_column, read_fields
from nestvox.corpora.trial_columns import LABELS, labels_of, read_headed
from nestvox.errors import ScoresError

_SIDES = ("enrol", "test")
# Places of the label and of the score among four fields; the other two are the names.
_LABELLED = (("3", "2"), ("2", "3"), ("0", "3"))
_NORMALISED = 8  # fields of wespeaker after score normalisation: two magnitudes and two means of the cohort behind
_KNOWN = "'score enrol test' nor 'enrol test score', nor either with a label (scores with a header are called .csv)"


def read_scores(path: str | Path) -> pl.DataFrame:
    """Read scores: `enrol`, `test` (text), `score` (float), and `target` where it is there, in the order of the file.

    The layout is found out by all lines: the scores are the column that holds numbers, labels the one that holds
    labels. Where both ends of three fields are numbers, the one that is not whole throughout is the score.

    Raises:
        ScoresError: no such file, malformed, undecidable, or a score that is no finite number; with file and line.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in {".csv", ".tsv", ".parquet"}:
        return _headed(path, parquet=suffix == ".parquet")

    def layout(first: list[str]) -> tuple[str, int] | None:
        return ("a line of scores", len(first)) if len(first) in {3, 4, _NORMALISED} else None

    table, numbers = read_fields(path, ScoresError, layout=layout, other=f"is neither {_KNOWN}")
    if not table.height:
        raise ScoresError("the file has no scores", source=path)
    line = int(numbers[0])
    label, column = (None, _score_column(path, table, line)) if table.width == 3 else _labelled(path, table, line)
    enrol, test = (name for name in ("0", "1", "2", "3")[: table.width] if name not in (label, column))
    frame = table.select(enrol=enrol, test=test, score=column)
    if label is not None:
        known = pl.Series("target", table[label].str.to_lowercase())
        target = known.replace_strict(LABELS, default=None, return_dtype=pl.Boolean)
        frame = frame.with_columns(target.alias("target"))
        for row in target.is_null().arg_true().head(1):
            problem = f"the label is {table[label][row]!r}, and labels are target or nontarget, 1 or 0"
            raise ScoresError(problem, source=path, line=int(numbers[row]))
    return _scored(path, frame, lambda row: int(numbers[row]))


def write_scores(scores: pl.DataFrame, path: str | Path) -> None:
    """Write lines of ``score enrol test``, as voxceleb_trainer does, but with all digits; whole or not at all.

    Args:
        scores: `enrol`, `test` and `score`.
        path: the file.

    Raises:
        ScoresError: a name with a blank in it.
    """
    for side in _SIDES:
        for row in scores[side].str.contains(r"(?-u:\s)").arg_true().head(1):
            raise ScoresError(f"{scores[side][row]!r} has a blank in it; write csv or parquet", source=Path(path))
    lines = (f"{score!r} {enrol} {test}\n" for enrol, test, score in scores.select(*_SIDES, "score").iter_rows())
    write_text(Path(path), "".join(lines))


def _headed(path: Path, *, parquet: bool) -> pl.DataFrame:
    frame, lines = read_headed(path, ScoresError, parquet=parquet)
    missing = [name for name in (*_SIDES, "score") if name not in frame.columns]
    if missing:
        there = ", ".join(frame.columns)
        raise ScoresError(f"column {missing[0]} is missing; there is {there}", source=path, column=missing[0])
    sides = [name_column(frame[name], ScoresError, path) for name in _SIDES]
    target = [labels_of(frame["target"], str(path), lines, ScoresError)] if "target" in frame.columns else []
    kept = frame.select(*sides, "score", *target)
    return _scored(path, kept, lambda row: None if lines is None else int(lines[row]))


def _score_column(path: Path, table: pl.DataFrame, line: int) -> str:
    """Which end of lines with three fields holds the scores."""
    ends = {name: table[name].cast(pl.Float64, strict=False) for name in ("0", "2")}
    numeric = [name for name, column in ends.items() if not column.null_count()]
    if len(numeric) == 1:
        return numeric[0]
    if len(numeric) == 2:
        # Names may be numbers, but they are whole; scores hardly ever are, all of them.
        broken = [name for name, column in ends.items() if not (column == column.round()).all()]
        if len(broken) != 1:
            raise ScoresError("both ends of the lines are numbers; write csv with a header", source=path, line=line)
        return broken[0]
    # No end is numbers throughout: the one that has the most has a mistake.
    if ends["0"][0] is None and ends["2"][0] is None:
        raise ScoresError(f"{' '.join(table.row(0))!r} is neither {_KNOWN}", source=path, line=line)
    return min(ends, key=lambda name: ends[name].null_count())


def _labelled(path: Path, table: pl.DataFrame, line: int) -> tuple[str, str]:
    """Where the label and the score stand in lines of four fields and more."""
    layouts = _LABELLED if table.width == 4 else _LABELLED[:1]
    # By all lines; where that fits no layout, some line has a mistake, and the first one decides.
    fitting = _fitting(table, layouts) or _fitting(table.head(1), layouts)
    if len(fitting) == 1:
        return fitting[0]
    raise ScoresError(
        f"{' '.join(table.row(0))!r}: {'each of two fields' if fitting else 'no field'} can be the label or the score; "
        "write csv with the columns enrol, test and score",
        source=path,
        line=line,
    )


def _fitting(table: pl.DataFrame, layouts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    numeric = {name: not table[name].cast(pl.Float64, strict=False).null_count() for name in table.columns}
    labels = {name: bool(table[name].str.to_lowercase().is_in(list(LABELS)).all()) for name in table.columns}
    if not all(numeric[name] for name in table.columns[4:]):
        return []
    fitting = [(label, score) for label, score in layouts if labels[label] and numeric[score]]
    # A column of nothing but 1 and 0 is the label where another one has numbers of all kinds.
    return [(label, score) for label, score in fitting if not labels[score]] or fitting


def _scored(path: Path, frame: pl.DataFrame, line_of: Callable[[int], int | None]) -> pl.DataFrame:
    given = frame["score"]
    if not (given.dtype == pl.String or given.dtype.is_numeric() or given.dtype == pl.Null):
        raise ScoresError(
            f"is a column of {str(given.dtype)[:80]}, and scores are numbers", source=path, column="score"
        )
    scores = given.cast(pl.Float64, strict=False)
    for row in (~scores.is_finite().fill_null(value=False)).arg_true().head(1):
        raise ScoresError(f"the score is {frame['score'][row]!r}, no finite number", source=path, line=line_of(row))
    for row in frame.select(pl.any_horizontal(pl.col(*_SIDES).is_null()))["enrol"].arg_true().head(1):
        raise ScoresError("a name is empty", source=path, line=line_of(row))
    return frame.with_columns(scores)
