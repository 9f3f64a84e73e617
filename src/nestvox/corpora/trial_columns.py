"""What trial lists and score files share: tables with a header, and the words for labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.corpora.delimited import LocatedError, read_delimited, read_parquet
from nestvox.errors import TrialsError

LABELS = {
    **dict.fromkeys(("1", "1.0", "true", "target"), True),
    **dict.fromkeys(("0", "0.0", "false", "nontarget"), False),
}
"""Words for "same speaker" and "different speakers", in lower case."""

_OTHER_HEADERS = {
    "enrol": ("enroll", "enrolment", "enrollment"),
    "test": (),
    "target": ("label", "labels", "is_target", "targettype", "same_speaker"),
}


def labels_of(
    column: pl.Series, source: str, lines: NDArray[np.int64] | None = None, kind: LocatedError = TrialsError
) -> pl.Series:
    """Turn 1/0, true/false or target/nontarget (empty: unknown) into booleans, called `target`.

    Raises:
        kind: another word, or a column of what is no word; with the line, or the row where there are no `lines`.
    """
    if column.dtype == pl.Boolean:
        return column.alias("target")
    if column.dtype.is_float():
        column = column.fill_nan(None)
    elif column.dtype.is_nested() or column.dtype == pl.Binary:
        raise kind(f"is a column of {column.dtype}, and labels are 1 or 0", source=source, column=column.name)
    words = column.cast(pl.String).str.strip_chars().str.to_lowercase().replace("", None)
    labels = words.replace_strict(LABELS, default=None, return_dtype=pl.Boolean)
    for row in (labels.is_null() & words.is_not_null()).arg_true().head(1):
        problem = f"{column[row]!r} is no label; labels are 1 or 0, target or nontarget, empty where unknown"
        if lines is None:
            raise kind(f"trial {row + 1}: {problem}", source=source, column="target")
        raise kind(problem, source=source, line=int(lines[row]), column="target")
    return labels.alias("target")


def read_headed(path: Path, kind: LocatedError, *, parquet: bool) -> tuple[pl.DataFrame, NDArray[np.int64] | None]:
    """Read a CSV, TSV or Parquet file of trials or scores, with the columns named as nestvox names them.

    Returns:
        The table, and (rows,) the lines that its rows end on; None where it has no lines.

    Raises:
        kind: no such file, or malformed; with the line.
    """
    lines = None
    if parquet:
        frame = read_parquet(path, kind)
    else:
        frame, lines = read_delimited(path, "\t" if path.suffix.lower() == ".tsv" else ",", kind)
    there = {name.lower(): name for name in reversed(frame.columns)}
    renamed = {}
    for name, others in _OTHER_HEADERS.items():
        other = next((there[other] for other in (name, *others) if other in there), None)
        if name not in frame.columns and other is not None:
            renamed[other] = name
    return frame.rename(renamed), lines
