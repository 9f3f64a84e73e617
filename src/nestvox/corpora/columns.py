"""Columns of an utterance table that are not text: seconds, channels, and what is true or false."""

from __future__ import annotations

from typing import Protocol

import polars as pl

from nestvox.errors import TableError

LONGEST_S = 1e7
"""Seconds (116 days) beyond which a start or a duration is no time in a recording, but damage."""

MOST_CHANNELS = 1024
"""Channels that a file may have, as libsndfile has it."""

_TRUE, _FALSE = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no", "")
_WHOLE = r"^\d{1,9}(\.0*)?$"  # 1.0: a table that was once written with empty cells as numbers


class Fail(Protocol):
    """Type of the function that turns row, column and problem into the error to raise."""

    def __call__(self, row: int, column: str, problem: str, /) -> TableError: ...  # noqa: D102


def as_seconds(column: pl.Series, fail: Fail) -> pl.Series:
    """Return `start_s` or `duration_s` as Float64, with null where there is nothing.

    Raises:
        TableError: no number, not finite, negative, a duration of 0, or above `LONGEST_S`; with the first such row.
    """
    stripped = column.str.strip_chars().replace("", None) if column.dtype == pl.String else column
    if not (stripped.dtype == pl.String or stripped.dtype.is_numeric() or stripped.dtype == pl.Null):
        raise fail(0, column.name, f"the column holds {stripped.dtype}, not numbers of seconds")
    numbers = stripped.cast(pl.Float64, strict=False)
    bad = (numbers.is_null() & stripped.is_not_null()) | ~numbers.is_finite().fill_null(value=True)
    for row in bad.arg_true().head(1):
        raise fail(row, column.name, f"{column[row]!r} is not a number of seconds")
    too_low = (numbers < 0) if column.name == "start_s" else (numbers <= 0)
    for row in too_low.arg_true().head(1):
        lowest = "0 or more" if column.name == "start_s" else "above 0"
        raise fail(row, column.name, f"must be {lowest} seconds, got {numbers[row]:g}")
    for row in (numbers > LONGEST_S).arg_true().head(1):
        problem = f"must be at most {LONGEST_S:,.0f} seconds ({LONGEST_S / 86400:.0f} days), got {numbers[row]:g}"
        raise fail(row, column.name, problem)
    return numbers


def as_channel(column: pl.Series, fail: Fail) -> pl.Series:
    """Return the column `channel` as Int64, numbers from 0 on, with null where all channels are averaged.

    Raises:
        TableError: anything else; with the first such row.
    """
    if not (column.dtype == pl.String or column.dtype.is_numeric() or column.dtype == pl.Null):
        raise fail(0, column.name, f"the column holds {column.dtype}, not numbers of channels")
    words = column.cast(pl.String).str.strip_chars().replace("", None)
    bad = ~words.str.contains(_WHOLE).fill_null(value=True)
    numbers = words.str.replace(r"\.0*$", "").cast(pl.Int64, strict=False)
    bad |= (numbers >= MOST_CHANNELS).fill_null(value=False)
    for row in bad.arg_true().head(1):
        raise fail(
            row,
            column.name,
            f"{column[row]!r} is not the number of a channel: 0 is the first, empty is the mean of all; if the column "
            "means something else, give it another name",
        )
    return numbers.alias(column.name)


def codec_apart(frame: pl.DataFrame) -> pl.DataFrame:
    """Give the column `channel` of an augmented table the name that it has now, `codec`.

    Before tables had channels, `nestvox data augment` wrote codecs under this name.
    """
    old = {"augmented", "noise", "snr_db", "reverb", "channel"} <= set(frame.columns) and "codec" not in frame.columns
    if old and frame["channel"].dtype == pl.String and not frame["channel"].str.contains(_WHOLE).any():
        return frame.rename({"channel": "codec"})
    return frame


def as_boolean(column: pl.Series, fail: Fail) -> pl.Series:
    """Return a column of true and false, with false where there is nothing.

    Raises:
        TableError: anything else; with the first such row.
    """
    if column.dtype == pl.Boolean:
        return column.fill_null(value=False)
    words = column.cast(pl.String).str.strip_chars().str.to_lowercase().fill_null("")
    bad = ~words.is_in([*_TRUE, *_FALSE])
    for row in bad.arg_true().head(1):
        raise fail(row, column.name, f"{column[row]!r} is neither true nor false")
    return words.is_in(list(_TRUE)).alias(column.name)
