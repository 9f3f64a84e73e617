"""The equal error rate: where misses and false alarms are equally frequent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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
