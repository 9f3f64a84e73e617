"""The mean difference of two arms over their seeds, with an interval in which speakers and seeds are both drawn.

A difference with one seed is sure of the speakers only: another seed moves it too. Each replicate draws the speakers
with replacement, one draw for all systems, and the seeds with replacement, each with both of its systems. With few
seeds such an interval is too short, by the root of (S - 1) / S of its part that is the seeds'.

Notation: N trials, S seeds, R replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import TrialsError
from nestvox.evaluation.estimates import Settings
from nestvox.metrics.bootstrap import draw_speakers, seeded
from nestvox.metrics.replicates import SpeakerBootstrap

Floats = NDArray[np.float64]

_AT_ONCE = 256


class MeanDifference(NamedTuple):
    """Of the equal error rate, the arm's less the base's, fractions.

    Attributes:
        value: mean over seeds.
        low: lower end of the percentile interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


def mean_difference(
    base: Sequence[Floats],
    arm: Sequence[Floats],
    targets: NDArray[np.bool_],
    sides: tuple[NDArray[np.int64], NDArray[np.int64]],
    settings: Settings,
) -> MeanDifference:
    """Draw speakers and seeds.

    Args:
        base: S times (N,) scores.
        arm: likewise, with the same seeds.
        targets: (N,) labels, both classes.
        sides: (N,) speakers of both sides, 0 to their number - 1.
        settings: replicates, seed of these and confidence; draws of speakers without one class do not count.

    Raises:
        TrialsError: no draw has both classes.
    """
    pairs = [[SpeakerBootstrap(scores, targets, *sides) for scores in pair] for pair in zip(base, arm, strict=True)]
    generator = seeded(settings.seed)
    n_speakers, n_seeds = pairs[0][0].n_clusters, len(pairs)

    def differences(drawn: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
        found = [[system.replicates(drawn) for system in pair] for pair in pairs]
        return np.stack([b.eer - a.eer for a, b in found]), found[0][0].valid

    seen = differences(np.ones((1, n_speakers), np.int64))[0][:, 0]
    parts: list[Floats] = []
    for start in range(0, settings.n_bootstrap, _AT_ONCE):
        count = min(_AT_ONCE, settings.n_bootstrap - start)
        by_seed, valid = differences(draw_speakers(generator, n_speakers, count))  # (S, R)
        chosen = generator.integers(0, n_seeds, (n_seeds, count))
        parts.append(np.take_along_axis(by_seed, chosen, axis=0).mean(axis=0)[valid])
    drawn = np.concatenate(parts)
    if not len(drawn):
        raise TrialsError("every draw of these speakers lacks a class; there are too few speakers")
    ends = np.quantile(drawn, [(1 - settings.confidence) / 2, (1 + settings.confidence) / 2])
    return MeanDifference(float(seen.mean()), float(ends[0]), float(ends[1]))
