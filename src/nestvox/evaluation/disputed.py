"""Trials on which two systems disagree: one decides rightly at its EER threshold, the other does not.

Notation: N trials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestvox.corpora.trials import Trials
from nestvox.evaluation.zoo import mid_ranks

_MOST = 10

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DisputedTrial:
    """A trial that only one of two systems decides rightly.

    Attributes:
        a: name of the first system.
        b: name of the second.
        right: the one that decides rightly.
        enrol: name of the first side in the list.
        test: of the second.
        target: label.
        score_a: of the first system.
        score_b: of the second.
        distance: between the shares of all its scores that each system puts below this trial, in [0, 1].
        enrol_path: audio file of the first side, where it is known and not the name itself.
        test_path: of the second.
    """

    a: str
    b: str
    right: str
    enrol: str
    test: str
    target: bool
    score_a: float
    score_b: float
    distance: float
    enrol_path: str | None = None
    test_path: str | None = None


def disputed_trials(
    trials: Trials,
    names: tuple[str, str],
    scores: tuple[Floats, Floats],
    thresholds: tuple[float, float],
    *,
    path_of: Callable[[str], str | None] = lambda _: None,
    most: int = _MOST,
) -> tuple[DisputedTrial, ...]:
    """The trials that two systems see most differently, half of them for each system that is right.

    Args:
        trials: N, labelled.
        names: of both systems.
        scores: (N,) each.
        thresholds: EER threshold of each.
        path_of: audio file of a name, if known.
        most: how many for each of the systems.
    """
    targets = trials.frame["target"].to_numpy().astype(np.bool_)
    right = [(values >= threshold) == targets for values, threshold in zip(scores, thresholds, strict=True)]
    distance = np.abs(mid_ranks(scores[0]) - mid_ranks(scores[1]))
    found = []
    for number, other in ((0, 1), (1, 0)):
        rows = np.flatnonzero(right[number] & ~right[other])
        for row in rows[np.argsort(-distance[rows], kind="stable")[:most]]:
            trial = trials.frame.row(int(row), named=True)
            found.append(
                DisputedTrial(
                    *names,
                    names[number],
                    **trial,
                    score_a=float(scores[0][row]),
                    score_b=float(scores[1][row]),
                    distance=float(distance[row]),
                    enrol_path=path_of(trial["enrol"]),
                    test_path=path_of(trial["test"]),
                )
            )
    return tuple(found)
