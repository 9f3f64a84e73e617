"""Parts of a trial list: the trials whose two sides share a value of a column, and those whose sides differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import TableError, TrialsError

__all__ = ["MIXED", "NO_VALUE", "condition_masks", "values_of_sides"]

MIXED = "mixed"
NO_VALUE = "(none)"

_MOST_VALUES = 64

Sides = tuple[Sequence[Any], Sequence[Any]]


def values_of_sides(table: UtteranceTable, trials: Trials, columns: Sequence[str]) -> dict[str, Sides]:
    """Look up table columns for both sides of every trial.

    Raises:
        TableError: a column that the table does not have, or an utterance that it does not hold.
    """
    unknown = [column for column in columns if column not in table.frame.columns]
    if unknown:
        raise TableError(
            f"no column {unknown[0]!r} to split the trials by; there are {', '.join(table.frame.columns)}",
            source=table.source,
        )
    if not columns:
        return {}
    enrol, test = table.resolve(trials.frame["enrol"]), table.resolve(trials.frame["test"])
    return {
        column: (table.frame[column].gather(enrol).to_list(), table.frame[column].gather(test).to_list())
        for column in columns
    }


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
        values = sorted(set(enrol[same].tolist()), key=lambda value: (value == NO_VALUE, value))
        if len(values) > _MOST_VALUES:
            raise TrialsError(
                f"column {column!r} has {len(values)} values in these trials; a condition has at most {_MOST_VALUES}"
            )
        masks |= {f"{column}={value}": same & (enrol == value) for value in values}
        if not same.all():
            masks[f"{column}={MIXED}"] = ~same
    return masks


def _text(values: Sequence[Any]) -> NDArray[np.str_]:
    column = pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)
    return column.fill_null("").replace("", NO_VALUE).to_numpy().astype(np.str_)
