"""The detection cost function of the NIST speaker recognition evaluations: at its minimum, and as decided.

The cost is ``c_miss p_target p_miss + c_fa (1 - p_target) p_fa``, divided by that of the cheaper of always accepting
and always rejecting. Its minimum over all thresholds says how well the scores rank; its value at the threshold that
follows from the prior and the costs (scores being log likelihood ratios) says what a user gets who cannot look at the
labels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from nestvox.errors import NestvoxError
from nestvox.metrics.curves import ErrorCurve

P_TARGETS = (0.01, 0.05)
"""Priors at which the field reports the cost, both costs being 1."""

_LEAST = 1e-300  # of a prior times its cost


class ActDcf(NamedTuple):
    """The detection cost at the Bayes threshold.

    Attributes:
        value: normalised cost, at least that of `min_dcf`; above 1 it is worse than not looking at the score.
        threshold: the log likelihood ratio that decides, in nats.
    """

    value: float
    threshold: float


class MinDcf(NamedTuple):
    """A minimum detection cost and the score at which it is reached.

    Attributes:
        value: normalised cost in [0, 1]; 1 is what deciding without looking at the score costs.
        threshold: accept if score >= threshold; infinity if accepting nothing is cheapest.
    """

    value: float
    threshold: float


def check_operating_point(p_target: float, c_miss: float, c_fa: float) -> None:
    """Refuse priors outside (0, 1), costs that are not positive and finite, and products that are not.

    Raises:
        NestvoxError: with the value that is wrong.
    """
    if not 0 < p_target < 1:
        raise NestvoxError(f"p_target must lie strictly between 0 and 1, got {p_target}")
    for name, cost in (("c_miss", c_miss), ("c_fa", c_fa)):
        if not (cost > 0 and math.isfinite(cost)):
            raise NestvoxError(f"{name} must be positive and finite, got {cost}")
    weights = c_miss * p_target, c_fa * (1 - p_target)
    if not (min(weights) >= _LEAST and sum(weights) <= 1 / _LEAST):
        raise NestvoxError(
            f"p_target {p_target} with c_miss {c_miss} and c_fa {c_fa} leaves the range of numbers: multiply both "
            "costs by one number, which changes nothing"
        )


def min_dcf(curve: ErrorCurve, p_target: float = 0.05, c_miss: float = 1.0, c_fa: float = 1.0) -> MinDcf:
    """Lowest ``c_miss p_target p_miss + c_fa (1 - p_target) p_fa`` over all thresholds, normalised.

    Divided by ``min(c_miss p_target, c_fa (1 - p_target))``, the cost of always saying the same (as in the NIST
    speaker recognition evaluation plans). Of several thresholds of equal cost the lowest is returned.

    Args:
        curve: errors at every threshold.
        p_target: assumed frequency of target trials, in (0, 1).
        c_miss: cost of rejecting a target, positive.
        c_fa: cost of accepting a non-target, positive.

    Raises:
        NestvoxError: the operating point is not one.
    """
    check_operating_point(p_target, c_miss, c_fa)
    cost, threshold = curve.cheapest(c_miss * p_target, c_fa * (1 - p_target))
    return MinDcf(cost / min(c_miss * p_target, c_fa * (1 - p_target)), threshold)


def bayes_threshold(p_target: float = 0.05, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """The log likelihood ratio (nats) at which accepting and rejecting cost the same on average.

    Raises:
        NestvoxError: the operating point is not one.
    """
    check_operating_point(p_target, c_miss, c_fa)
    return math.log(c_fa) + math.log1p(-p_target) - math.log(c_miss) - math.log(p_target)


def dcf_at(
    curve: ErrorCurve, threshold: float, p_target: float = 0.05, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Normalised cost of deciding at a given threshold, e.g. one that was stored.

    Raises:
        NestvoxError: the operating point is not one, or the threshold is not a number.
    """
    check_operating_point(p_target, c_miss, c_fa)
    if math.isnan(threshold):
        raise NestvoxError("the threshold is not a number")
    miss, fa = map(float, curve.rates(threshold))
    cost = c_miss * p_target * miss + c_fa * (1 - p_target) * fa
    return cost / min(c_miss * p_target, c_fa * (1 - p_target))


def act_dcf(curve: ErrorCurve, p_target: float = 0.05, c_miss: float = 1.0, c_fa: float = 1.0) -> ActDcf:
    """Normalised cost at the Bayes threshold of scores that are log likelihood ratios in nats.

    For scores that are not calibrated, e.g. cosines, the figure means nothing: fit `metrics.calibration` first.

    Raises:
        NestvoxError: the operating point is not one.
    """
    threshold = bayes_threshold(p_target, c_miss, c_fa)
    return ActDcf(dcf_at(curve, threshold, p_target, c_miss, c_fa), threshold)
