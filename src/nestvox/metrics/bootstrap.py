"""Intervals that know that trials share speakers: a bootstrap clustered by speaker on both sides.

What is resampled: the S speakers (clusters) that occur in the trials, S times with replacement, so that speaker s is
drawn m_s times. A trial between two clusters a and b then counts m_a * m_b times, a trial within one cluster s (every
target trial, if clusters are speakers) counts m_s times. Two copies of one speaker are not made into non-target trials
of each other. Scores are never recomputed and no trial is copied: a replicate is a set of weights.

This is the vertex bootstrap (T. A. B. Snijders and S. P. Borgatti, "Non-parametric standard errors and tests for
network statistics", Connections 22(2), 1999) on the graph whose edges are trials. Resampling single trials as if they
were independent gives intervals that are too narrow, as R. M. Bolle, N. K. Ratha and S. Pankanti show for biometrics
("Error analysis of pattern recognition systems - the subsets bootstrap", Computer Vision and Image Understanding 93(1),
2004).

Notation: N trials, S clusters, R replicates, G grid points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_numbers
from nestvox.errors import NestvoxError, TrialsError
from nestvox.metrics.costs import check_operating_point
from nestvox.metrics.replicates import SpeakerBootstrap

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_BLOCK = 2**17  # numbers a replicate has, times replicates counted at once
_BLOCKS = 512


class Interval(NamedTuple):
    """Both ends of an interval, as fractions."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class BootstrapIntervals:
    """Intervals over samples of speakers.

    Attributes:
        eer: percentile interval of the equal error rate.
        min_dcf: percentile interval of the normalised minimum cost.
        p_fa: (G,) the grid of the DET band.
        p_miss_low: (G,) lower edge of the band at each grid point (pointwise, not simultaneous).
        p_miss_high: (G,) upper edge.
        n_clusters: S.
        n_replicates: R, all of them valid.
        n_redrawn: draws thrown away because a class had no weight in them.
        confidence: e.g. 0.95.
    """

    eer: Interval
    min_dcf: Interval
    p_fa: Floats
    p_miss_low: Floats
    p_miss_high: Floats
    n_clusters: int
    n_replicates: int
    n_redrawn: int
    confidence: float


_MOST_REPLICATES = 1_000_000


def check_replicates(n_replicates: int, confidence: float) -> None:
    """Refuse an interval that is none, or that so few replicates cannot bound.

    Raises:
        NestvoxError: with the number that it takes.
    """
    if not 0 < confidence < 1:
        raise NestvoxError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    if n_replicates > _MOST_REPLICATES:
        raise NestvoxError(
            f"{n_replicates:,} replicates would take the machine and say nothing more: {_MOST_REPLICATES:,} at the most"
        )
    if n_replicates * (1 - confidence) / 2 < 1 - 1e-9:
        needed = int(np.ceil(2 / (1 - confidence) - 1e-9))
        raise NestvoxError(
            f"{n_replicates} bootstrap replicates cannot bound a {confidence:.4g} interval; it takes {needed} or more"
        )


def seeded(seed: int) -> np.random.Generator:
    """The generator of a seed, so that one run can be repeated.

    Raises:
        NestvoxError: the seed is below 0.
    """
    if seed < 0:
        raise NestvoxError(f"a seed is a whole number of at least 0, got {seed}")
    return np.random.default_rng(seed)


def draw_speakers(generator: np.random.Generator, n_clusters: int, n_replicates: int) -> Integers:
    """Draw S clusters S times with replacement, R times over: (R, S) how often each was drawn."""
    rows = [
        np.bincount(generator.integers(0, n_clusters, n_clusters), minlength=n_clusters) for _ in range(n_replicates)
    ]
    return np.stack(rows)


def speaker_bootstrap(
    scores: ArrayLike,
    targets: ArrayLike,
    enrol: ArrayLike,
    test: ArrayLike,
    *,
    p_target: float = 0.05,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    p_fa: ArrayLike = (),
    n_replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> BootstrapIntervals:
    """Percentile intervals of EER, minDCF and the DET curve under the clustered bootstrap.

    The same seed and the same clusters give the same draws whatever the scores are, so two systems on one trial list
    are resampled together.

    Args:
        scores: (N,) finite.
        targets: (N,) bool.
        enrol: (N,) cluster of the first side: whole numbers 0 to S - 1, every one of which occurs.
        test: (N,) cluster of the second side.
        p_target: of the detection cost.
        c_miss: of the detection cost.
        c_fa: of the detection cost.
        p_fa: (G,) grid of the DET band.
        n_replicates: how many valid draws are counted.
        seed: of the draws.
        confidence: share of the replicates inside the interval, in (0, 1).

    Raises:
        ScoresError: scores and labels do not fit or are not finite.
        TrialsError: one class only, fewer than two clusters, or cluster numbers with gaps.
        NestvoxError: too few replicates for this confidence, or an impossible operating point.
    """
    check_operating_point(p_target, c_miss, c_fa)
    check_replicates(n_replicates, confidence)
    trials = SpeakerBootstrap(scores, targets, enrol, test)
    n_clusters = trials.n_clusters
    if len(np.union1d(np.asarray(enrol), np.asarray(test))) != n_clusters:
        raise TrialsError(f"cluster numbers must be 0 to {n_clusters - 1} without gaps")
    if n_clusters < 2:
        raise TrialsError("an interval over speakers needs at least two speakers, the trials have one")
    grid = as_numbers(p_fa, "false-alarm rates", error=NestvoxError)
    generator = seeded(seed)
    block = max(1, min(n_replicates, _BLOCK // max(_BLOCKS, n_clusters)))
    eers, costs, bands = [], [], []
    kept = n_redrawn = 0
    while kept < n_replicates:
        drawn = draw_speakers(generator, n_clusters, min(block, n_replicates - kept))
        counted = trials.replicates(drawn, p_target=p_target, c_miss=c_miss, c_fa=c_fa, p_fa=grid)
        eers.append(counted.eer[counted.valid])
        costs.append(counted.min_dcf[counted.valid])
        bands.append(counted.p_miss[counted.valid])
        kept += int(counted.valid.sum())
        n_redrawn += int((~counted.valid).sum())
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    band_low, band_high = np.quantile(np.concatenate(bands), ends, axis=0)
    return BootstrapIntervals(
        eer=Interval(*map(float, np.quantile(np.concatenate(eers), ends))),
        min_dcf=Interval(*map(float, np.quantile(np.concatenate(costs), ends))),
        p_fa=grid,
        p_miss_low=band_low,
        p_miss_high=band_high,
        n_clusters=n_clusters,
        n_replicates=kept,
        n_redrawn=n_redrawn,
        confidence=confidence,
    )
