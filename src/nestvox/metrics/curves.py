"""The two error counts at every threshold that a set of scores can tell apart.

The scores of each class are sorted once, by themselves: sorting plain numbers is several times faster than finding the
order of labelled ones, and takes no memory beside them. Whatever is asked afterwards is a search in two sorted lists;
the curve as arrays is made only where somebody wants all of it.

Pool adjacent violators gives the best non-decreasing map of scores to log likelihood ratios for these very trials. Its
bins are the edges of the convex hull of the ROC curve (M. Ayer et al., "An empirical distribution function for sampling
with incomplete information", Annals of Mathematical Statistics 26(4), 1955; N. Brummer and E. de Villiers, "The BOSARIS
toolkit user guide", 2011). Nothing can be calibrated better on the trials it is fitted on: the yardstick of `min_cllr`
and of the minimum of the Bayes error curve, and useless as a calibration of other trials. By hand because scipy
compares rounded means where whole numbers are multiplied here, and its module takes half a second to import.

Notation: N trials, K thresholds (one more than there are distinct scores), B bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_booleans, as_numbers
from nestvox.errors import NestvoxError, ScoresError, TrialsError

Floats = NDArray[np.float64]

_FEW = 4096  # points that the plain loop takes in milliseconds
_SHRINKS = 0.9


@dataclass(frozen=True, eq=False)
class IsotonicBins:
    """Trials pooled into bins of equal log likelihood ratio, in ascending order.

    Attributes:
        n_target: (B,) target trials (their weight).
        n_nontarget: (B,) non-target trials.
        llr: (B,) log likelihood ratio in nats, ascending; minus and plus infinity where a class is absent.
        lowest: (B,) lowest score of each bin.
        n_miss: (B + 1,) corners of the hull: targets below each bin, and all of them.
        n_false_alarm: (B + 1,) non-targets not below each bin, and none.
    """

    n_target: Floats
    n_nontarget: Floats
    llr: Floats
    lowest: Floats
    n_miss: Floats
    n_false_alarm: Floats


@dataclass(frozen=True, eq=False)
class SortedScores:
    """The scores of one class.

    Attributes:
        values: (n,) ascending, finite, ties included.
        cumulative: (n + 1,) weight of the i lowest trials; None where every trial counts once.
    """

    values: Floats
    cumulative: Floats | None = None

    @property
    def total(self) -> float:
        """Weight of all trials."""
        return float(len(self.values)) if self.cumulative is None else float(self.cumulative[-1])

    @property
    def weights(self) -> Floats:
        """(n,) weight of each trial."""
        return np.ones(len(self.values)) if self.cumulative is None else np.diff(self.cumulative)

    def weight_of(self, positions: ArrayLike) -> Floats:
        """Weight of the i lowest trials, i any of the positions 0 to n."""
        at = np.asarray(positions)
        return at.astype(np.float64) if self.cumulative is None else np.asarray(self.cumulative[at])

    def below(self, thresholds: ArrayLike) -> Floats:
        """Weight of the trials with a score below each threshold, in the shape of `thresholds`."""
        return self.weight_of(np.searchsorted(self.values, np.asarray(thresholds, dtype=np.float64), side="left"))


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """Misses and false alarms under the rule "accept if score >= threshold".

    Equal scores share one threshold: a rule that sees only the score cannot separate them, so a curve that did would
    depend on the order of the trials.

    Attributes:
        target: scores of the target trials.
        nontarget: scores of the non-target trials.
        scores: (N,) as they were given, which is what influences are asked of; None where trials are weighted.
        labels: (N,) bool of these scores.
    """

    target: SortedScores
    nontarget: SortedScores
    scores: Floats | None = None
    labels: NDArray[np.bool_] | None = None

    @property
    def trials(self) -> tuple[Floats, NDArray[np.bool_]]:
        """(N,) scores and (N,) labels in the order of the trials.

        Raises:
            NestvoxError: the trials are weighted, or were sorted elsewhere.
        """
        if self.scores is None or self.labels is None:
            raise NestvoxError("this curve knows sorted scores only, not which trial has which")
        return self.scores, self.labels

    @property
    def n_target(self) -> float:
        """Number (weight) of target trials."""
        return self.target.total

    @property
    def n_nontarget(self) -> float:
        """Number (weight) of non-target trials."""
        return self.nontarget.total

    @cached_property
    def thresholds(self) -> Floats:
        """(K,) ascending; every distinct score, then infinity (nothing is accepted)."""
        merged = np.concatenate([self.target.values, self.nontarget.values])
        merged.sort(kind="stable")  # two ascending runs: merged in linear time
        distinct = np.concatenate(([True], merged[1:] > merged[:-1]))
        return np.append(merged[distinct], np.inf)

    @cached_property
    def n_miss(self) -> Floats:
        """(K,) rejected targets (their weight), from 0 to `n_target`."""
        return self.target.below(self.thresholds)

    @cached_property
    def n_false_alarm(self) -> Floats:
        """(K,) accepted non-targets (their weight), from `n_nontarget` to 0."""
        return self.n_nontarget - self.nontarget.below(self.thresholds)

    @cached_property
    def isotonic(self) -> IsotonicBins:
        """The trials pooled by adjacent violators; O(K), done once."""
        return _pool(self.thresholds, self.n_miss, self.n_false_alarm)

    @property
    def p_miss(self) -> Floats:
        """(K,) miss rate, a fraction, ascending from 0 to 1."""
        return self.n_miss / self.n_target

    @property
    def p_fa(self) -> Floats:
        """(K,) false-alarm rate, a fraction, descending from 1 to 0."""
        return self.n_false_alarm / self.n_nontarget

    def rates(self, thresholds: ArrayLike) -> tuple[Floats, Floats]:
        """Miss and false-alarm rates at any thresholds, in their shape; no curve is made."""
        fa = self.n_nontarget - self.nontarget.below(thresholds)
        return self.target.below(thresholds) / self.n_target, fa / self.n_nontarget

    def first(self, reached: Callable[[float, float], bool]) -> tuple[float, float]:
        """Lowest of the K thresholds at which a condition holds, and the threshold before it.

        Args:
            reached: of the miss and the false-alarm rate; once true it must stay true as the threshold rises, and it
                must hold where nothing is accepted.

        Returns:
            The threshold (infinity: only where nothing is accepted) and the highest score below it (minus infinity:
            there is none).
        """
        found = np.inf
        for values in (self.target.values, self.nontarget.values):
            low, high = 0, len(values)
            while low < high:
                middle = (low + high) // 2
                miss, fa = self.rates(values[middle])
                if reached(float(miss), float(fa)):
                    high = middle
                else:
                    low = middle + 1
            if low < len(values):
                found = min(found, float(values[low]))
        return found, self.highest_below(found)

    def highest_below(self, threshold: float) -> float:
        """The highest score below a threshold; minus infinity: there is none."""
        sides = (self.target.values, self.nontarget.values)
        return max(float(values[i - 1]) if (i := np.searchsorted(values, threshold)) else -np.inf for values in sides)

    def cheapest(self, miss_cost: float, fa_cost: float) -> tuple[float, float]:
        """Lowest ``miss_cost p_miss + fa_cost p_fa`` over all thresholds, and the lowest threshold that has it.

        Both costs are at least 0. Passing a non-target on the way up only lowers the cost, so the minimum lies at the
        score of a target, or at infinity. Blocks of targets whose bound is above the best block are not looked into.
        """
        values, n_values = self.target.values, len(self.target.values)

        def cost_of(misses: Floats, thresholds: Floats) -> Floats:
            fa = (self.n_nontarget - self.nontarget.below(thresholds)) / self.n_nontarget
            return miss_cost * (misses / self.n_target) + fa_cost * fa

        step = max(1, int(np.sqrt(n_values)))
        first = np.arange(0, n_values, step)
        last = np.minimum(first + step, n_values) - 1
        misses = self.target.weight_of(first)
        # Within a block misses only rise and false alarms only fall: the first misses and the last false alarms bound
        # it. Of equal targets the first has the true miss count and the others a higher one, so no tie is favoured.
        bound = cost_of(misses, values[last])
        worthwhile = np.flatnonzero(bound <= cost_of(misses, values[first]).min())
        positions = (first[worthwhile, None] + np.arange(step)).ravel()
        positions = positions[positions < n_values]
        cost = cost_of(self.target.weight_of(positions), values[positions])
        best = int(np.argmin(cost))
        if miss_cost < cost[best]:
            return miss_cost, np.inf
        return float(cost[best]), float(values[positions[best]])

    def p_miss_at(self, p_fa: ArrayLike) -> Floats:
        """Miss rate where the curve, its points joined by straight lines, has these false-alarm rates.

        Where several points share one false-alarm rate the lowest miss rate is taken.

        Args:
            p_fa: (G,) false-alarm rates in [0, 1], in any order.

        Raises:
            NestvoxError: rates outside 0 to 1.
        """
        wanted = as_numbers(p_fa, "false-alarm rates", error=NestvoxError)
        if ((wanted < 0) | (wanted > 1)).any():
            raise NestvoxError("false-alarm rates lie between 0 and 1")
        # Scanned from the left (p_fa falls), the first point at or below the wanted rate has the lowest miss rate.
        after = np.searchsorted(-self.n_false_alarm, -wanted * self.n_nontarget, side="left")
        after = np.clip(after, 1, len(self.thresholds) - 1)
        (fa, miss), (fa_before, miss_before) = (
            (self.n_false_alarm[at] / self.n_nontarget, self.n_miss[at] / self.n_target) for at in (after, after - 1)
        )
        step = fa_before - fa
        share = np.divide(fa_before - wanted, step, out=np.zeros_like(wanted), where=step > 0)
        return np.asarray(miss_before + np.clip(share, 0.0, 1.0) * (miss - miss_before))


def check_scores(scores: ArrayLike, targets: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Return scores (N,) float64 and targets (N,) bool, or say why they cannot be evaluated.

    Raises:
        ScoresError: lengths differ, or scores that are no finite real numbers.
        TrialsError: a class has no trials, or the labels are not booleans.
    """
    values, labels = as_numbers(scores, "scores"), as_booleans(targets, "labels")
    if values.shape != labels.shape:
        raise ScoresError(
            f"scores and labels must be two lists of one length, got shapes {values.shape} and {labels.shape}"
        )
    n_target = int(labels.sum())
    if n_target in (0, len(labels)):
        raise TrialsError(
            f"error rates need trials of both classes, got {n_target} target and {len(labels) - n_target} non-target"
        )
    return values, labels


def error_curve(scores: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> ErrorCurve:
    """Sort once; both errors at every threshold can be read off the result.

    Args:
        scores: (N,) finite; higher means "more likely the same speaker".
        targets: (N,) bool, true for trials of one speaker.
        weights: (N,) how often each trial counts; at least 0, and a trial of weight 0 is not there. None: once each.

    Raises:
        ScoresError: lengths differ, a score is not finite, or a weight is negative or not finite.
        TrialsError: a class has no trials, or no weight.
    """
    values, labels = check_scores(scores, targets)
    if weights is None:
        return ErrorCurve(_sorted(values[labels]), _sorted(values[~labels]), values, labels)
    counts = as_numbers(weights, "weights")
    if counts.shape != values.shape or (counts < 0).any():
        raise ScoresError(f"weights must be {len(values)} finite numbers of at least 0")
    sides = []
    for side in (labels, ~labels):
        there = side & (counts > 0)
        order = np.argsort(values[there], kind="stable")
        sides.append(SortedScores(values[there][order], np.concatenate(([0.0], np.cumsum(counts[there][order])))))
    target, nontarget = sides
    if target.total == 0 or nontarget.total == 0:
        raise TrialsError(f"a class has no weight: target {target.total:g}, non-target {nontarget.total:g}")
    return ErrorCurve(target, nontarget)


def _sorted(values: Floats) -> SortedScores:
    values.sort()  # a copy of one class: the caller's scores stay as they are
    return SortedScores(values)


def _pool(thresholds: Floats, n_miss: Floats, n_false_alarm: Floats) -> IsotonicBins:
    """Pool the trials of the K points of a curve: (K,) each, as `ErrorCurve` has them."""
    right, up = np.diff(n_false_alarm) < 0, np.diff(n_miss) > 0
    # Points where a step to the right (a group with non-targets) ends and one upwards (with targets) begins.
    corners = np.flatnonzero(np.append(up, True) & np.insert(right, 0, True) | _ends(len(thresholds)))
    x, y = n_false_alarm[0] - n_false_alarm[corners], n_miss[corners]
    kept = _lower_hull(x, y)
    hull = corners[kept]
    n_target, n_nontarget = np.diff(y[kept]), np.diff(x[kept])
    with np.errstate(divide="ignore"):
        llr = np.log(n_target) - np.log(n_nontarget) - (np.log(n_miss[-1]) - np.log(n_false_alarm[0]))
    return IsotonicBins(n_target, n_nontarget, llr, thresholds[hull[:-1]], n_miss[hull], n_false_alarm[hull])


def _ends(length: int) -> NDArray[np.bool_]:
    ends = np.zeros(length, dtype=np.bool_)
    ends[[0, -1]] = True
    return ends


def _lower_hull(x: Floats, y: Floats) -> NDArray[np.int64]:
    """Positions of the points of a staircase that are corners of its lower convex hull.

    A point on or above the chord of any two points around it is no corner, so all that lie so between their present
    neighbours go at once; what few passes leave is gone through by the plain loop. On whole numbers all is exact.
    """
    kept = np.arange(len(x))
    while len(kept) > _FEW:
        a, b = x[kept], y[kept]
        below = (b[1:-1] - b[:-2]) * (a[2:] - a[1:-1]) < (b[2:] - b[1:-1]) * (a[1:-1] - a[:-2])
        smaller = kept[np.concatenate(([True], below, [True]))]
        if len(smaller) > _SHRINKS * len(kept):
            kept = smaller
            break
        kept = smaller
    hull: list[int] = []
    xs, ys = x[kept].tolist(), y[kept].tolist()
    for point, (px, py) in enumerate(zip(xs, ys, strict=True)):
        while len(hull) > 1:
            before, last = hull[-2], hull[-1]
            slope_in = (ys[last] - ys[before]) * (px - xs[last])
            slope_out = (py - ys[last]) * (xs[last] - xs[before])
            if slope_in < slope_out:
                break
            hull.pop()
        hull.append(point)
    return np.asarray(kept[hull])
