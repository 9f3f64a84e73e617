"""Error rates read off a curve: where both are equal, where one is held, at a threshold, and over all of them (AUC).

But for the equal error rate and the area every rate is one that the step curve reaches, not an interpolated one:
whoever stores the threshold and counts again gets the same rates.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from nestvox.errors import NestvoxError
from nestvox.metrics.curves import ErrorCurve


class EqualErrorRate(NamedTuple):
    """An equal error rate and the score at which it is reached.

    Attributes:
        rate: fraction in [0, 1].
        threshold: on the scale of the scores, interpolated like the rate.
    """

    rate: float
    threshold: float


def eer(curve: ErrorCurve) -> EqualErrorRate:
    """Equal error rate by linear interpolation: the headline of every nestvox table.

    A step curve rarely holds a point with both rates equal. The two neighbouring points between which
    ``p_miss - p_fa`` changes its sign are joined by a straight line, and the line is cut with ``p_miss = p_fa``.
    With ties merged in the curve the result does not depend on the order of the trials.
    """
    after, before = curve.first(lambda miss, fa: miss >= fa)
    miss_after, fa_after = map(float, curve.rates(after))
    if miss_after == fa_after:
        return EqualErrorRate(miss_after, after)
    miss_before, fa_before = map(float, curve.rates(before))
    share = (fa_before - miss_before) / ((fa_before - miss_before) + (miss_after - fa_after))
    rate = miss_before + share * (miss_after - miss_before)
    if np.isinf(after):  # the step that rejects everything has no score to interpolate towards
        return EqualErrorRate(rate, before)
    # Not before + share * (after - before): the difference of two huge scores overflows.
    return EqualErrorRate(rate, (1 - share) * before + share * after)


def eer_rocch(curve: ErrorCurve) -> float:
    """Equal error rate on the convex hull of the ROC curve, a fraction in [0, 0.5].

    The hull holds what any non-decreasing recalibration of the scores can reach by randomising between two
    thresholds; its equal error rate is the largest minimum Bayes error over all priors and never above `eer`
    (N. Brummer and E. de Villiers, "The BOSARIS toolkit user guide", 2011).

    """
    miss, fa = curve.isotonic.n_miss / curve.n_target, curve.isotonic.n_false_alarm / curve.n_nontarget
    after = int(np.argmax(miss > fa))
    before = after - 1
    gap_before, gap_after = fa[before] - miss[before], miss[after] - fa[after]
    return float(miss[before] + gap_before / (gap_before + gap_after) * (miss[after] - miss[before]))


def eer_at_corner(curve: ErrorCurve) -> float:
    """The larger of both rates at that corner of the step curve where they are nearest.

    This is what voxceleb_trainer calls the EER. It keeps corners only, points where the direction changes
    (``drop_intermediate`` of scikit-learn's ``roc_curve``): a point within a straight run is passed by, though both
    rates may be equal there. Of corners that are equally near, the one with the highest threshold counts. It is a
    multiple of one over the number of trials of a class, and may be a run above `eer`.
    """
    fa, correct = curve.n_false_alarm[::-1], curve.n_target - curve.n_miss[::-1]  # from nothing accepted on
    turns = (np.diff(fa[1:], 2) != 0) | (np.diff(correct[1:], 2) != 0)
    corner = np.ones(len(fa), dtype=np.bool_)
    corner[2:-1] = turns
    miss, fa = (1 - correct / curve.n_target)[corner], (fa / curve.n_nontarget)[corner]
    nearest = int(np.argmin(np.abs(miss - fa)))
    return float(max(miss[nearest], fa[nearest]))


def auc(curve: ErrorCurve) -> float:
    """Probability that a target scores above a non-target, ties counted half; 0.5 is chance, 1 is separable.

    This is the area under the ROC curve by the trapezoid rule (J. A. Hanley and B. J. McNeil, "The meaning and use of
    the area under a receiver operating characteristic (ROC) curve", Radiology 143(1), 1982).
    """
    values, other = curve.target.values, curve.nontarget
    below = other.below(values)
    upto = other.weight_of(np.searchsorted(other.values, values, side="right"))
    wins = (below + upto) / 2
    # Whole numbers: the sum is exact up to 2^53 pairs of trials.
    total = wins.sum() if curve.target.cumulative is None else wins @ curve.target.weights
    return float(total / curve.n_target / curve.n_nontarget)


class OperatingPoint(NamedTuple):
    """A threshold and what deciding by it costs: accept if score >= threshold.

    Attributes:
        threshold: on the scale of the scores; infinity accepts nothing.
        p_miss: share of rejected targets (FRR).
        p_fa: share of accepted non-targets (FAR).
        n_miss: rejected targets (their weight).
        n_false_alarm: accepted non-targets (their weight).
    """

    threshold: float
    p_miss: float
    p_fa: float
    n_miss: float
    n_false_alarm: float


def rates_at(curve: ErrorCurve, threshold: float) -> OperatingPoint:
    """Errors on these trials at any threshold, e.g. one that was set on others.

    Raises:
        NestvoxError: the threshold is not a number.
    """
    if math.isnan(threshold):
        raise NestvoxError("the threshold is not a number")
    n_miss = float(curve.target.below(threshold))
    n_false_alarm = curve.n_nontarget - float(curve.nontarget.below(threshold))
    return OperatingPoint(
        float(threshold), n_miss / curve.n_target, n_false_alarm / curve.n_nontarget, n_miss, n_false_alarm
    )


def frr_at_far(curve: ErrorCurve, p_fa: float) -> OperatingPoint:
    """The lowest threshold that accepts at most this share of the non-targets: the fewest misses that allows.

    Args:
        curve: errors at every threshold.
        p_fa: highest false-alarm rate, a fraction in [0, 1].

    Raises:
        NestvoxError: `p_fa` is no fraction.
    """
    _check_rate("p_fa", p_fa)
    threshold, _ = curve.first(lambda _miss, fa: fa <= p_fa)
    return rates_at(curve, threshold)


def far_at_frr(curve: ErrorCurve, p_miss: float) -> OperatingPoint:
    """The highest threshold that rejects at most this share of the targets: the fewest false alarms that allows.

    Args:
        curve: errors at every threshold.
        p_miss: highest miss rate, a fraction in [0, 1].

    Raises:
        NestvoxError: `p_miss` is no fraction.
    """
    _check_rate("p_miss", p_miss)
    if p_miss == 1:
        return rates_at(curve, math.inf)
    _, threshold = curve.first(lambda miss, _fa: miss > p_miss)
    return rates_at(curve, threshold)


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate <= 1:
        raise NestvoxError(f"{name} is a fraction between 0 and 1, got {rate}")
