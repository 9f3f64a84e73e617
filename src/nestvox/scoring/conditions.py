"""Parts of a trial list: the trials whose two sides share a value of a column, and those whose sides differ.

One condition is made rather than looked up: ``duration``, the class of the shorter of a trial's two recordings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.corpora.profiles import NamedRecordings, named_recordings, profile_sizes
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import MARKS, UtteranceTable
from nestvox.errors import TableError, TrialsError
from nestvox.model.threshold import DURATION_EDGES_S, duration_classes

DURATION = "duration"
MIXED = "mixed"
NO_VALUE = "(none)"

_MOST_VALUES = 64

Sides = tuple[Sequence[Any], Sequence[Any]]


def values_of_sides(table: UtteranceTable, trials: Trials, columns: Sequence[str]) -> dict[str, Sides]:
    """Look up table columns for both sides of every trial.

    ``duration``, where the table has no column of that name, is the class of the shorter side by `duration_s`. A
    profile is as long as its recordings together; where they differ in a column its value is ``mixed``.

    Raises:
        TableError: a column that the table does not have, or an utterance that it does not hold.
    """
    there = table.frame.columns
    made = {DURATION: "duration_s"} if "duration_s" in there and DURATION not in there else {}
    unknown = [column for column in columns if column not in there and column not in made]
    if unknown:
        raise TableError(
            f"no column {unknown[0]!r} to split the trials by; there are {', '.join([*there, *made])}",
            source=table.source,
        )
    if not columns:
        return {}
    named = recordings_in(table, trials)
    found: dict[str, Sides] = {}
    for column in columns:
        values = table.frame[made.get(column, column)].gather(named.rows).to_list()
        if column in made:
            found[column] = durations_of_sides(*named.of_sides(values, _sum))
        else:
            found[column] = named.of_sides(values, any if column in MARKS else _the_same)
    return found


def recordings_in(table: UtteranceTable, trials: Trials) -> NamedRecordings:
    """The rows of a table that both sides of trials name; those of a profile are several.

    Raises:
        TableError: names that no row has, or paths that several rows share.
        TrialsError: a name that is no profile.
    """
    return named_recordings(trials, lambda: table.barred, table.resolve)


def enrol_clips_of(trials: Trials, table: UtteranceTable | None) -> int:
    """Recordings of each profile on the first side; 1: the trials are pairs.

    Raises:
        TrialsError: they are profiles of several sizes.
    """
    sizes = np.unique(profile_sizes(trials, () if table is None else table.barred)).tolist()
    if len(sizes) > 1:
        raise TrialsError(
            f"these trials are of profiles of {', '.join(map(str, sizes))} recordings, and what is set on "
            "them belongs to one size: give a list of one",
            source=trials.source,
        )
    return int(sizes[0]) if sizes else 1


def _sum(values: list[Any]) -> Any:
    return None if None in values else sum(values)


def _the_same(values: list[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else MIXED


def durations_of_sides(
    enrol_s: Sequence[float | None], test_s: Sequence[float | None], edges_s: Sequence[float] = DURATION_EDGES_S
) -> Sides:
    """Class of the shorter side of every trial, which decides how hard it is; the same value for both sides.

    Sides are (N,) seconds, None where unknown; a duration on a border of `edges_s` belongs to the longer class.
    """
    names = [str(found) for found in duration_classes(edges_s)]
    sides = np.array([[np.nan if value is None else float(value) for value in side] for side in (enrol_s, test_s)])
    shorter = sides.min(axis=0)  # unknown if either is
    classes = np.searchsorted(np.asarray(edges_s), shorter, side="right")
    values = [None if np.isnan(value) else names[number] for value, number in zip(shorter, classes, strict=True)]
    return values, values


def marks_of(trials: Trials, table: UtteranceTable | None) -> tuple[str, ...]:
    """Return those of `corpora.utterances.MARKS` that the table sets at an utterance of the trials."""
    marks = [] if table is None else [mark for mark in MARKS if mark in table.frame.columns]
    if table is None or not marks:
        return ()
    flags = values_of_sides(table, trials, marks)
    return tuple(mark for mark in marks if any(any(side) for side in flags[mark]))


def condition_masks(conditions: Mapping[str, Sides], n_trials: int) -> dict[str, NDArray[np.bool_]]:
    """Split N trials by each column.

    Args:
        conditions: column name to the values of the first and of the second side; missing values are None or empty.
        n_trials: N.

    Returns:
        ``column=value`` to the trials (N,) bool with that value on both sides, values sorted; then ``column=(none)``
        where neither side has a value and ``column=mixed`` where the sides differ. Each trial is in one part of each
        column.

    Raises:
        TrialsError: not N values a side, or more values than a table of conditions can show.
    """
    masks: dict[str, NDArray[np.bool_]] = {}
    for column, sides in conditions.items():
        if any(len(side) != n_trials for side in sides):
            raise TrialsError(
                f"condition {column!r} needs {n_trials} values a side, got {[len(side) for side in sides]}"
            )
        enrol, test = (_text(side) for side in sides)
        same = enrol == test
        values = sorted(set(enrol[same].tolist()), key=_natural)
        if len(values) > _MOST_VALUES:
            raise TrialsError(
                f"column {column!r} has {len(values)} values in these trials; a condition has at most {_MOST_VALUES}"
            )
        masks |= {f"{column}={value}": same & (enrol == value) for value in values}
        if not same.all():
            masks[f"{column}={MIXED}"] = ~same
    return masks


def _natural(value: str) -> tuple[bool, float, str]:
    """Leading numbers by their size (``2`` before ``10``), then words, then no value."""
    number = re.match(r"\d+(\.\d+)?", value)
    return value == NO_VALUE, float(number[0]) if number else float("inf"), value


def _text(values: Sequence[Any]) -> NDArray[np.str_]:
    column = pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)
    return column.fill_null("").replace("", NO_VALUE).to_numpy().astype(np.str_)
