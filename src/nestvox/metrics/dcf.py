"""The detection cost function of the NIST speaker recognition evaluations, at its minimum."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from nestvox.errors import NestvoxError
from nestvox.metrics.curves import ErrorCurve

__all__ = ["MinDcf", "check_operating_point", "min_dcf"]


class MinDcf(NamedTuple):
    """A minimum detection cost and the score at which it is reached.

    Attributes:
        value: normalised cost in [0, 1]; 1 is what deciding without looking at the score costs.
        threshold: accept if score >= threshold; infinity if accepting nothing is cheapest.
    """

    value: float
    threshold: float


def check_operating_point(p_target: float, c_miss: float, c_fa: float) -> None:
    """Refuse priors outside (0, 1) and costs that are not positive and finite.

    Raises:
        NestvoxError: with the value that is wrong.
    """
    if not 0 < p_target < 1:
        raise NestvoxError(f"p_target must lie strictly between 0 and 1, got {p_target}")
    for name, cost in (("c_miss", c_miss), ("c_fa", c_fa)):
        if not (cost > 0 and math.isfinite(cost)):
            raise NestvoxError(f"{name} must be positive and finite, got {cost}")


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
    cost = c_miss * p_target * curve.p_miss + c_fa * (1 - p_target) * curve.p_fa
    best = int(np.argmin(cost))
    return MinDcf(float(cost[best] / min(c_miss * p_target, c_fa * (1 - p_target))), float(curve.thresholds[best]))
