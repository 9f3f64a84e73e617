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

from nestvox.errors import NestvoxError, TrialsError
from nestvox.metrics.curves import check_scores
from nestvox.metrics.dcf import check_operating_point

__all__ = [
    "BootstrapIntervals",
    "Interval",
    "Replicates",
    "SpeakerBootstrap",
    "draw_speakers",
    "speaker_bootstrap",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_BLOCK = 500_000  # weights held at once: small enough for a processor's cache


class Interval(NamedTuple):
    """Both ends of an interval, as fractions."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Replicates:
    """Figures of each replicate.

    Attributes:
        valid: (R,) bool; false where a class has no weight, and then the figures of that row mean nothing.
        eer: (R,) by linear interpolation.
        min_dcf: (R,) normalised.
        p_miss: (R, G) at the false-alarm rates asked for.
    """

    valid: NDArray[np.bool_]
    eer: Floats
    min_dcf: Floats
    p_miss: Floats


@dataclass(frozen=True, eq=False)
class BootstrapIntervals:
    """Percentile intervals of a clustered bootstrap.

    Attributes:
        eer: interval of the equal error rate.
        min_dcf: interval of the normalised minimum cost.
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


class SpeakerBootstrap:
    """Trials sorted once, ready to be counted under many sets of cluster multiplicities.

    Args:
        scores: (N,) finite.
        targets: (N,) bool.
        enrol: (N,) cluster of the first side: whole numbers 0 to S - 1.
        test: (N,) cluster of the second side.

    Raises:
        ScoresError: scores and labels do not fit or are not finite.
        TrialsError: one class only, or clusters that do not fit.
    """

    def __init__(self, scores: ArrayLike, targets: ArrayLike, enrol: ArrayLike, test: ArrayLike) -> None:
        values, labels = check_scores(scores, targets)
        sides = np.stack([_codes(enrol, len(values)), _codes(test, len(values))])
        self.n_clusters = int(sides.max()) + 1
        order = np.argsort(values, kind="stable")
        ordered, labels, sides = values[order], labels[order], sides[:, order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] > ordered[:-1], [True])))  # (K,)
        before_target = np.concatenate(([0], np.cumsum(labels)))[starts]
        # Points of the curve as positions in the cumulative weight of each class.
        self._target_at: Integers = before_target
        self._nontarget_at: Integers = starts - before_target
        self._target_sides = _Sides(sides[:, labels])
        self._nontarget_sides = _Sides(sides[:, ~labels])
        # Passing a threshold over non-targets only lowers the cost and over targets only raises it, whatever the
        # weights are; the minimum lies where a group with a non-target ends and a group with a target begins.
        has_target = np.diff(self._target_at) > 0
        has_nontarget = np.diff(self._nontarget_at) > 0
        self._corners = np.flatnonzero(np.append(has_target, True) & np.insert(has_nontarget, 0, True))

    def replicates(
        self,
        multiplicities: ArrayLike,
        *,
        p_target: float = 0.05,
        c_miss: float = 1.0,
        c_fa: float = 1.0,
        p_fa: ArrayLike = (),
    ) -> Replicates:
        """Count every replicate.

        Args:
            multiplicities: (R, S) how often each cluster was drawn.
            p_target: of the detection cost.
            c_miss: of the detection cost.
            c_fa: of the detection cost.
            p_fa: (G,) false-alarm rates at which the miss rate is wanted.
        """
        drawn = np.asarray(multiplicities, dtype=np.float64)
        grid = np.asarray(p_fa, dtype=np.float64)
        target = self._target_sides.cumulative_weight(drawn)  # (R, N_target + 1)
        nontarget = self._nontarget_sides.cumulative_weight(drawn)  # (R, N_nontarget + 1)
        n_target, n_nontarget = target[:, -1], nontarget[:, -1]
        valid = (n_target > 0) & (n_nontarget > 0)
        # Rows without a class are counted as if it had weight 1, so that no division fails; they are marked.
        miss = _Rate(target, np.where(valid, n_target, 1.0), self._target_at)
        correct = _Rate(nontarget, np.where(valid, n_nontarget, 1.0), self._nontarget_at)
        cost = c_miss * p_target * miss.at(self._corners) + c_fa * (1 - p_target) * (1 - correct.at(self._corners))
        return Replicates(
            valid=valid,
            eer=_crossing(miss, correct),
            min_dcf=cost.min(axis=1) / min(c_miss * p_target, c_fa * (1 - p_target)),
            p_miss=_miss_at(miss, correct, grid),
        )


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
    if not 0 < confidence < 1:
        raise NestvoxError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    if n_replicates * (1 - confidence) / 2 < 1 - 1e-9:
        needed = int(np.ceil(2 / (1 - confidence) - 1e-9))
        raise NestvoxError(
            f"{n_replicates} bootstrap replicates cannot bound a {confidence:.4g} interval; it takes {needed} or more"
        )
    trials = SpeakerBootstrap(scores, targets, enrol, test)
    n_clusters = trials.n_clusters
    if len(np.union1d(np.asarray(enrol), np.asarray(test))) != n_clusters:
        raise TrialsError(f"cluster numbers must be 0 to {n_clusters - 1} without gaps")
    if n_clusters < 2:
        raise TrialsError("an interval over speakers needs at least two speakers, the trials have one")
    grid = np.asarray(p_fa, dtype=np.float64)
    generator = np.random.default_rng(seed)
    block = max(1, min(n_replicates, _BLOCK // max(len(np.asarray(targets)), n_clusters)))
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


class _Sides:
    """Clusters of the trials of one class in ascending order of score."""

    def __init__(self, sides: Integers) -> None:
        self.enrol, self.test = sides
        self.within = self.enrol == self.test
        self.all_within = bool(self.within.all())
        self.any_within = bool(self.within.any())

    def cumulative_weight(self, drawn: Floats) -> Floats:
        """(R, S) multiplicities to (R, n + 1) weight of the i lowest trials."""
        summed = np.zeros((len(drawn), len(self.enrol) + 1))
        for row, multiplicity in zip(summed, drawn, strict=True):  # row by row: each stays in the cache
            weight = multiplicity.take(self.enrol)
            if not self.all_within:
                other = multiplicity.take(self.test)
                weight *= np.where(self.within, 1.0, other) if self.any_within else other
            np.cumsum(weight, out=row[1:])
        return summed


class _Rate:
    """One class's share of weight below each point of the curve, for R replicates."""

    def __init__(self, cumulative: Floats, total: Floats, positions: Integers) -> None:
        self.cumulative, self.total, self.positions = cumulative, total[:, None], positions
        self.rows = np.arange(len(cumulative))[:, None]

    def at(self, points: Integers) -> Floats:
        """(P,) or (R, P) points to (R, P) shares."""
        if points.ndim == 1:
            return self.cumulative.take(self.positions[points], axis=1) / self.total
        return np.asarray(self.cumulative[self.rows, self.positions[points]] / self.total)


def _codes(clusters: ArrayLike, length: int) -> Integers:
    codes = np.asarray(clusters)
    if codes.shape != (length,) or not np.issubdtype(codes.dtype, np.integer) or (codes < 0).any():
        raise TrialsError(f"clusters must be {length} whole numbers from 0, got {codes.dtype} {codes.shape}")
    return codes.astype(np.int64)


def draw_speakers(generator: np.random.Generator, n_clusters: int, n_replicates: int) -> Integers:
    """(R, S) multinomial multiplicities; each row sums to S."""
    rows = [
        np.bincount(generator.integers(0, n_clusters, n_clusters), minlength=n_clusters) for _ in range(n_replicates)
    ]
    return np.stack(rows)


def _first(miss: _Rate, correct: _Rate, wanted: Floats, weight_of_miss: float) -> Integers:
    """First point at which ``correct + weight_of_miss * miss >= wanted`` (R, G), by bisection: all at once."""
    low = np.zeros((len(miss.cumulative), wanted.shape[-1]), dtype=np.int64)
    high = np.full_like(low, len(miss.positions) - 1)
    while (low < high).any():
        middle = (low + high) // 2
        value = correct.at(middle) + (weight_of_miss * miss.at(middle) if weight_of_miss else 0.0)
        reached = value >= wanted
        high = np.where(reached, middle, high)
        low = np.where(reached, low, np.minimum(middle + 1, high))
    return low


def _crossing(miss: _Rate, correct: _Rate) -> Floats:
    """(R,) equal error rates by linear interpolation, as `metrics.eer.eer` defines them."""
    # p_miss >= p_fa  <=>  p_miss + (1 - p_fa) >= 1
    after = _first(miss, correct, np.ones((1, 1)), 1.0)
    before = np.maximum(after - 1, 0)
    miss_before, miss_after = miss.at(before), miss.at(after)
    gap_before = 1 - correct.at(before) - miss_before
    gap_after = miss_after - (1 - correct.at(after))
    total = gap_before + gap_after
    share = np.divide(gap_before, total, out=np.ones_like(total), where=total > 0)
    return np.asarray(miss_before + share * (miss_after - miss_before))[:, 0]


def _miss_at(miss: _Rate, correct: _Rate, p_fa: Floats) -> Floats:
    """(R, G) miss rates at false-alarm rates `p_fa`, as `ErrorCurve.p_miss_at` defines them."""
    if not len(p_fa):
        return np.empty((len(miss.cumulative), 0))
    after = np.maximum(_first(miss, correct, 1 - p_fa[None, :], 0.0), 1)
    fa_before, fa_after = 1 - correct.at(after - 1), 1 - correct.at(after)
    step = fa_before - fa_after
    share = np.divide(fa_before - p_fa, step, out=np.zeros_like(step), where=step > 0)
    miss_before = miss.at(after - 1)
    return np.asarray(miss_before + np.clip(share, 0.0, 1.0) * (miss.at(after) - miss_before))
