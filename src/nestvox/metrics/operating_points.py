"""Thresholds that hold one error rate, and the rates that a threshold has.

Every rate here is one that the step curve reaches, not an interpolated one: whoever stores the threshold and counts
again gets the same rates.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from nestvox.errors import NestvoxError
from nestvox.metrics.curves import ErrorCurve


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
