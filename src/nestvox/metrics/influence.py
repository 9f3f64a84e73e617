"""What each trial does to an error rate: standard errors without resampling, and the intervals made of them.

The weight of a trial is changed a little, and the change of the figure per change of weight is the trial's influence.
The variance of the figure over samples of speakers is the sum of the products of the influences of all two trials that
share a speaker, each trial with itself among them (the infinitesimal jackknife: B. Efron, "The jackknife, the bootstrap
and other resampling plans", SIAM, 1982; for data about pairs: M. Fafchamps and F. Gubert, "The formation of risk
sharing networks", Journal of Development Economics 83(2), 2007). Sum the influences of each speaker's trials, square,
add: that counts two trials between the same two speakers twice, so they are taken off once. The bootstrap of speakers
does count them twice, and gives intervals that are a little too wide where such trials make most of the noise.

The band around a DET curve: at a fixed false-alarm rate the threshold moves with the non-targets, so a trial's
influence on the miss rate there is ``d p_miss + r d p_fa`` with r the slope of the curve, misses gained per false alarm
lost, from half to one and a half times the rate asked for. Under one threshold all trials of one outcome have one
influence, so the sums of a speaker are counts, and trials are counted once for all rates.

Notation: N trials, S clusters, G rates.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_clusters, as_numbers
from nestvox.errors import NestvoxError, TrialsError
from nestvox.metrics.costs import min_dcf
from nestvox.metrics.curves import ErrorCurve
from nestvox.metrics.distributions import stdtrit
from nestvox.metrics.rates import eer, frr_at_far

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CELLS = 1 << 22  # counts held at once
_FEW = 8  # entries of a small group


def eer_influence(curve: ErrorCurve) -> Floats:
    """Influence of each trial on the equal error rate.

    Where the curve crosses the diagonal, ``d eer = w d p_miss + (1 - w) d p_fa`` with w the share of the false alarms
    in the step from ``p_miss = p_fa - eer / 2`` to ``p_miss = p_fa + eer / 2``: the steeper rate moves the threshold,
    the flatter one the figure.

    Args:
        curve: of N trials, each counted once.

    Returns:
        (N,) summing to 0.
    """
    rate = eer(curve).rate
    crossing, _ = curve.first(lambda miss, fa: miss >= fa)
    low, _ = curve.first(lambda miss, fa: miss - fa >= -rate / 2)
    high, _ = curve.first(lambda miss, fa: miss - fa >= rate / 2)
    (miss_low, fa_low), (miss_high, fa_high) = curve.rates(low), curve.rates(high)
    moved = float(miss_high - miss_low + fa_low - fa_high)
    share = float(fa_low - fa_high) / moved if moved > 0 else 0.5
    outcome, of_miss, of_fa = _rate_influences(curve, crossing)
    return np.asarray((share * of_miss + (1 - share) * of_fa)[outcome])


def min_dcf_influence(curve: ErrorCurve, p_target: float = 0.05, c_miss: float = 1.0, c_fa: float = 1.0) -> Floats:
    """Influence of each trial, (N,), on the normalised minimum cost; arguments and errors as `min_dcf`.

    At a minimum the threshold does not matter in the first order, so it is the influence on the cost at the threshold
    found.
    """
    return dcf_influence(curve, min_dcf(curve, p_target, c_miss, c_fa).threshold, p_target, c_miss, c_fa)


def dcf_influence(
    curve: ErrorCurve, threshold: float, p_target: float = 0.05, c_miss: float = 1.0, c_fa: float = 1.0
) -> Floats:
    """Influence of each trial, (N,), on the normalised cost at a threshold that was set elsewhere; see `dcf_at`."""
    outcome, of_miss, of_fa = _rate_influences(curve, threshold)
    worst = min(c_miss * p_target, c_fa * (1 - p_target))
    return np.asarray(((c_miss * p_target * of_miss + c_fa * (1 - p_target) * of_fa) / worst)[outcome])


def auc_influence(curve: ErrorCurve) -> Floats:
    """Influence of each trial, (N,), on the area under the ROC curve: its own share of wins against the other class.

    (E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, "Comparing the areas under two or more correlated receiver
    operating characteristic curves", Biometrics 44(3), 1988.)
    """
    values, labels = curve.trials
    influence = np.empty(len(values))
    for mine, (own, other) in ((labels, (curve.target, curve.nontarget)), (~labels, (curve.nontarget, curve.target))):
        # Searched in ascending order, which stays in the cache, and put back.
        twice = np.searchsorted(other.values, own.values, side="left")
        twice += np.searchsorted(other.values, own.values, side="right")
        if own is curve.nontarget:
            twice = 2 * len(other.values) - twice
        wins = np.empty(len(own.values))
        wins[np.argsort(values[mine])] = twice / (2 * len(other.values))
        influence[mine] = (wins - wins.mean()) / len(wins)
    return influence


def cllr_influence(curve: ErrorCurve) -> Floats:
    """Influence of each trial, (N,), on the cost (`metrics.costs.cllr`) of log likelihood ratios in nats."""
    values, labels = curve.trials
    costs = np.logaddexp(0.0, np.where(labels, -values, values)) / (2 * math.log(2))
    for mine in (labels, ~labels):
        costs[mine] = (costs[mine] - costs[mine].mean()) / mine.sum()
    return np.asarray(costs, dtype=np.float64)


class Clusters:
    """The speakers of both sides of N trials, prepared once for many figures.

    Args:
        enrol: (N,) cluster of the first side: whole numbers 0 to S - 1.
        test: (N,) cluster of the second side.

    Attributes:
        size: S.
        between: (N,) bool, the sides differ.

    Raises:
        TrialsError: clusters that do not fit, or no trials.
    """

    def __init__(self, enrol: ArrayLike, test: ArrayLike) -> None:
        length = np.size(enrol)
        if not length:
            raise TrialsError("influences must be of one trial or more, got none")
        self.enrol, self.test = (as_clusters(side, length) for side in (enrol, test))
        self.size = 1 + int(max(self.enrol.max(), self.test.max()))
        self.between = self.enrol != self.test
        self._across: Any = slice(None) if self.between.all() else self.between  # without a copy where it can be
        self._other = self.test[self._across]

    @cached_property
    def pairs(self) -> Integers:
        """(M,) number of the pair of clusters of each trial between two."""
        one = self.enrol[self._across]
        codes = np.minimum(one, self._other) * self.size + np.maximum(one, self._other)
        ordered = np.sort(codes)
        if (ordered[1:] > ordered[:-1]).all():  # no two trials between the same two
            return np.arange(len(codes))
        return np.unique(codes, return_inverse=True)[1]

    def by_cluster(self, influence: ArrayLike) -> Floats:
        """Sum the influences (N,) of the trials of each cluster; a trial between two belongs to both.

        Returns:
            (S,): by how much the figure would change if this speaker's trials counted double.

        Raises:
            TrialsError: not N finite numbers.
        """
        values = self._checked(influence)
        sums = np.bincount(self.enrol, values, self.size)
        sums += np.bincount(self._other, values[self._across], self.size)
        return np.asarray(sums, dtype=np.float64)

    def standard_error(self, influence: ArrayLike) -> float:
        """Standard error of a figure over samples of the clusters, from the influences (N,) of its trials.

        Multiplied by S / (S - 1), which makes up for measuring the spread of the speakers around their own mean. For a
        difference of two figures take the difference of the influences.

        Raises:
            TrialsError: fewer than two clusters, or not N finite numbers.
        """
        values = self._checked(influence)
        if self.size < 2:
            raise TrialsError("a standard error over speakers needs at least two speakers")
        of_speaker = self.by_cluster(values)
        of_pair = np.bincount(self.pairs, values[self._across])
        alone = np.bincount(self.enrol[~self.between], values[~self.between])
        return float(error_of_squares(self.size, of_speaker @ of_speaker, of_pair @ of_pair, alone @ alone))

    def _checked(self, influence: ArrayLike) -> Floats:
        values = as_numbers(influence, "influences", error=TrialsError)
        if len(values) != len(self.enrol):
            raise TrialsError(f"{len(values)} influences for {len(self.enrol)} trials")
        return values


def standard_error(influence: ArrayLike, enrol: ArrayLike, test: ArrayLike) -> float:
    """`Clusters.standard_error` of one figure: (N,) influences, (N,) clusters of both sides; errors as there."""
    return Clusters(enrol, test).standard_error(influence)


def logit_interval(rate: float, error: float, n_clusters: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a rate from its standard error: Student's t with S - 1 degrees of freedom, on the logit scale.

    The logit keeps both ends within 0 and 1 and makes the interval longer upwards where errors are rare. A rate of
    exactly 0 or 1 has no logit and comes back as both ends: no standard error says how rare errors are.

    Args:
        rate: in [0, 1].
        error: its standard error, at least 0.
        n_clusters: S, at least 2.
        confidence: in (0, 1).
    """
    if not 0 < rate < 1:
        return rate, rate
    reach = student_quantile((1 + confidence) / 2, n_clusters - 1) * error / (rate * (1 - rate))
    odds = math.log(rate) - math.log1p(-rate)
    # An absurd reach (one speaker makes all errors) must not overflow.
    low, high = (1 / (1 + math.exp(-min(max(odds + sign * reach, -700.0), 700.0))) for sign in (-1, 1))
    return low, high


def student_quantile(p: float, df: int) -> float:
    """Quantile of Student's t distribution.

    Args:
        p: in (0, 1).
        df: degrees of freedom, at least 1.

    Raises:
        NestvoxError: out of range.
    """
    if not 0 < p < 1 or df < 1:
        raise NestvoxError(f"a quantile needs 0 < p < 1 and at least one degree of freedom, got {p} and {df}")
    return float(stdtrit(df, p))


def error_of_squares(size: int, of_speakers: Any, of_pairs: Any, alone: Any) -> Any:
    """Standard error of a figure from sums of squared sums of influences.

    Args:
        size: S.
        of_speakers: over the speakers, each with all his trials.
        of_pairs: over the pairs of speakers, each with the trials between them.
        alone: over the speakers, each with the trials that he has with himself.
    """
    # With few trials the difference can be too small by chance; pairs of speakers as if independent are the least.
    variance = np.maximum(of_speakers - of_pairs, of_pairs + alone)
    return size / (size - 1) * np.sqrt(variance)


def _rate_influences(curve: ErrorCurve, threshold: float) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """(N,) what becomes of each trial at a threshold, and what either rate owes to a trial of each outcome, (4,).

    Outcomes: a non-target rejected and accepted, a target rejected and accepted.
    """
    values, labels = curve.trials
    miss, fa = map(float, curve.rates(threshold))
    outcome = 2 * labels.view(np.uint8) + (values >= threshold)
    of_miss = np.array([0.0, 0.0, 1 - miss, 0 - miss]) / curve.n_target
    return outcome, of_miss, np.array([0 - fa, 1 - fa, 0.0, 0.0]) / curve.n_nontarget


def det_band(
    curve: ErrorCurve, clusters: Clusters, p_fa: ArrayLike, confidence: float = 0.95
) -> tuple[Floats, Floats, Floats]:
    """Miss rates at some false-alarm rates, and both edges of their pointwise intervals.

    Args:
        curve: of N trials.
        clusters: of these trials, two or more.
        p_fa: (G,) false-alarm rates in [0, 1].
        confidence: of the intervals, in (0, 1).

    Returns:
        (G,) miss rates, (G,) lower and (G,) upper ends; both are the rate itself where it is 0 or 1.

    Raises:
        NestvoxError: rates outside 0 to 1.
    """
    wanted = as_numbers(p_fa, "false-alarm rates", error=NestvoxError)
    missed = curve.p_miss_at(wanted)
    above, below = np.minimum(1.5 * wanted, 1.0), wanted / 2
    slope = (curve.p_miss_at(below) - curve.p_miss_at(above)) / np.where(above > below, above - below, 1.0)
    thresholds = np.array([frr_at_far(curve, rate).threshold for rate in wanted.tolist()])
    order = np.argsort(thresholds, kind="stable")
    errors = np.empty(len(wanted))
    errors[order] = _errors(curve, clusters, thresholds[order], slope[order])
    ends = [logit_interval(*pair, clusters.size, confidence) for pair in zip(missed.tolist(), errors, strict=True)]
    low, high = np.array(ends, dtype=np.float64).reshape(-1, 2).T
    return missed, low, high


def _errors(curve: ErrorCurve, clusters: Clusters, thresholds: Floats, slope: Floats) -> Floats:
    """(G,) standard errors of ``p_miss + slope p_fa`` at ascending thresholds."""
    values, labels = curve.trials
    miss, fa = curve.rates(thresholds)
    width = len(thresholds) + 1
    # A trial's cell: how many of the thresholds accept it, targets behind the non-targets; (2 width, G) its influence.
    cell = np.searchsorted(thresholds, values, side="right").astype(np.int32) + np.int32(width) * labels
    accepted = np.arange(width)[:, None] > np.arange(len(thresholds))
    influence = np.concatenate(
        [(accepted - fa) * slope / curve.n_nontarget, (~accepted - miss) / curve.n_target], dtype=np.float64
    )
    between, within = clusters.between, ~clusters.between
    across = cell[between]
    of_speakers = _squares(
        np.concatenate([clusters.enrol, clusters.test[between]]), np.concatenate([cell, across]), influence
    )
    of_pairs = _squares(clusters.pairs, across, influence)
    alone = _squares(clusters.enrol[within], cell[within], influence)
    return np.asarray(error_of_squares(clusters.size, of_speakers, of_pairs, alone))


def _squares(groups: Integers, cells: NDArray[np.int32], influence: Floats) -> Floats:
    """(G,) sums over groups of the squared sum of their entries' influences.

    Args:
        groups: (M,) whole numbers from 0.
        cells: (M,) row of `influence` of each entry.
        influence: (C, G).
    """
    n_cells, total = len(influence), np.zeros(influence.shape[1])
    sizes = np.bincount(groups)
    few = sizes <= _FEW
    chosen = few[groups]
    # Half the memory, sorted in half the time.
    whole = np.dtype(np.int32 if len(sizes) * n_cells < 2**31 else np.int64)

    def ordered(numbers: Integers, mask: NDArray[np.bool_]) -> NDArray[Any]:
        codes: NDArray[Any] = numbers.astype(whole)[groups[mask]]
        codes = codes * whole.type(n_cells) + cells[mask]
        codes.sort()
        return codes

    # Small groups, of which there may be millions: the products of all two entries, counted by their cells.
    codes = ordered(np.arange(len(sizes)), chosen)
    group, cell = np.divmod(codes, n_cells)
    total += np.bincount(cell, minlength=n_cells) @ influence**2
    for apart in range(1, _FEW):
        same = np.flatnonzero(group[apart:] == group[:-apart])
        counts = np.bincount(cell[same].astype(np.int64) * n_cells + cell[same + apart], minlength=n_cells**2).reshape(
            n_cells, -1
        )
        total += 2 * np.einsum("ct,ct->t", counts @ influence, influence)
    # The others, some at a time: how many entries of each cell they have.
    codes = ordered(np.cumsum(~few) - 1, ~chosen)
    n_large = int((~few).sum())
    step = max(1, min(_CELLS // n_cells, n_large))
    for first in range(0, n_large, step):
        low, high = np.searchsorted(codes, np.array([first, first + step]) * n_cells)
        counts = np.bincount(codes[low:high] - first * n_cells, minlength=step * n_cells).reshape(step, n_cells)
        sums = counts @ influence
        total += np.einsum("gt,gt->t", sums, sums)
    return total


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust p values (M,) so that rejecting those below a level errs in any of them at most that often.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6(2), 1979.

    Raises:
        NestvoxError: a p value outside 0 to 1.
    """
    p = as_numbers(p_values, "p values", error=NestvoxError)
    if not ((p >= 0) & (p <= 1)).all():
        raise NestvoxError("p values lie between 0 and 1")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
