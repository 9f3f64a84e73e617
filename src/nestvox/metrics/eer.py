"""The equal error rate: where misses and false alarms are equally frequent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nestvox.metrics.curves import ErrorCurve

__all__ = ["EqualErrorRate", "eer", "eer_rocch"]


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
    difference = curve.p_miss - curve.p_fa  # ascends from -1 to 1
    after = int(np.searchsorted(difference, 0.0, side="left"))
    miss, threshold = curve.p_miss, curve.thresholds
    if difference[after] == 0:
        return EqualErrorRate(float(miss[after]), float(threshold[after]))
    before = after - 1
    share = -difference[before] / (difference[after] - difference[before])
    rate = miss[before] + share * (miss[after] - miss[before])
    if np.isinf(threshold[after]):  # the step that rejects everything has no score to interpolate towards
        return EqualErrorRate(float(rate), float(threshold[before]))
    between = threshold[before] + share * (threshold[after] - threshold[before])
    return EqualErrorRate(float(rate), float(between))


def eer_rocch(curve: ErrorCurve) -> float:
    """Equal error rate on the convex hull of the ROC curve, a fraction in [0, 0.5].

    The hull holds what any non-decreasing recalibration of the scores can reach by randomising between two
    thresholds; its equal error rate is the largest minimum Bayes error over all priors and never above `eer`
    (N. Brummer and E. de Villiers, "The BOSARIS toolkit user guide", 2011).

    Only the hull edge that crosses ``p_miss = p_fa`` is looked for: starting from the chord between both ends, the
    point furthest below it replaces the end on its own side of the diagonal until none lies below.
    """
    fa, miss = curve.p_fa, curve.p_miss
    left, right = 0, len(fa) - 1  # left: p_fa >= p_miss; right: p_fa <= p_miss
    while True:
        below = (miss[right] - miss[left]) * fa + (fa[left] - fa[right]) * miss
        lowest = int(np.argmin(below))
        # Points on the edge itself differ from its ends by rounding only.
        if below[lowest] >= min(below[left], below[right]) * (1 - 1e-14):
            break
        if miss[lowest] <= fa[lowest]:
            left = lowest
        else:
            right = lowest
    gap_left, gap_right = fa[left] - miss[left], miss[right] - fa[right]
    share = gap_left / (gap_left + gap_right)
    return float(miss[left] + share * (miss[right] - miss[left]))
