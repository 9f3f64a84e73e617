"""What decisions cost: the detection cost at its minimum and as decided, over all priors, and Cllr.

The detection cost of the NIST speaker recognition evaluations is ``c_miss p_target p_miss + c_fa (1 - p_target) p_fa``,
divided by that of the cheaper of always accepting and always rejecting. Its minimum over all thresholds says how well
the scores rank; its value at the threshold that follows from the prior and the costs (scores being log likelihood
ratios) says what a user gets who cannot look at the labels. Cllr is the cost over all operating points at once (N.
Brummer and J. du Preez, "Application-independent evaluation of speaker detection", Computer Speech & Language 20(2-3),
2006), the normalised Bayes error curve the cost at each prior (N. Brummer and E. de Villiers, "The BOSARIS toolkit user
guide", 2011).

Notation: P priors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_numbers
from nestvox.errors import NestvoxError
from nestvox.metrics.curves import ErrorCurve

Floats = NDArray[np.float64]

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


def cllr(curve: ErrorCurve) -> float:
    """Cost of the scores taken as log likelihood ratios in nats, in bits.

    0 is certain and right, 1 is what "I do not know" (0 for every trial) costs; there is no upper bound.
    """
    target, nontarget = curve.target, curve.nontarget
    of_target = _mean_softplus(-target.values, target.weights / target.total)
    of_nontarget = _mean_softplus(nontarget.values, nontarget.weights / nontarget.total)
    return (of_target + of_nontarget) / (2 * math.log(2))


def min_cllr(curve: ErrorCurve) -> float:
    """The lowest `cllr` that any non-decreasing map of these scores reaches on these trials, in [0, 1] bits.

    `cllr` minus this is the loss by calibration; this is the loss by discrimination.
    """
    bins = curve.isotonic
    of_target = _mean_softplus(-bins.llr, bins.n_target / curve.n_target)
    of_nontarget = _mean_softplus(bins.llr, bins.n_nontarget / curve.n_nontarget)
    return (of_target + of_nontarget) / (2 * math.log(2))


def _mean_softplus(x: Floats, shares: Floats) -> float:
    """Sum of ``shares * log(1 + exp(x))``; nothing times infinity is nothing."""
    there = shares > 0
    return float(np.logaddexp(0.0, x[there]) @ shares[there])


@dataclass(frozen=True, eq=False)
class BayesErrorCurve:
    """Error rates over priors, each divided by the smaller of the prior and its complement.

    Attributes:
        prior_log_odds: (P,) ``log(p_target / (1 - p_target))``, costs included.
        actual: (P,) at the Bayes threshold ``-prior_log_odds``, the scores being log likelihood ratios in nats.
        minimum: (P,) at the best threshold for each prior.
    """

    prior_log_odds: Floats
    actual: Floats
    minimum: Floats


def bayes_error_curve(curve: ErrorCurve, prior_log_odds: ArrayLike | None = None) -> BayesErrorCurve:
    """Both error rates at many priors.

    Args:
        curve: errors at every threshold.
        prior_log_odds: (P,) finite, in any order; None: -7 to 7 in steps of 0.1 (priors of 0.1 % to 99.9 %).

    Raises:
        NestvoxError: a prior is not finite.
    """
    odds = np.linspace(-7, 7, 141)
    if prior_log_odds is not None:
        odds = as_numbers(prior_log_odds, "prior log odds", error=NestvoxError)
    of_miss, of_fa = _weights(odds)
    hull = curve.isotonic
    at_corners = of_miss[:, None] * (hull.n_miss / curve.n_target) + of_fa[:, None] * (
        hull.n_false_alarm / curve.n_nontarget
    )  # (P, B + 1)
    return BayesErrorCurve(odds, bayes_errors(curve, odds), at_corners.min(axis=1))


def bayes_errors(curve: ErrorCurve, prior_log_odds: Floats) -> Floats:
    """(P,) error rates at the Bayes threshold of each prior (P,), the scores being log likelihood ratios in nats."""
    of_miss, of_fa = _weights(prior_log_odds)
    miss, fa = curve.rates(-prior_log_odds)
    return of_miss * miss + of_fa * fa


def _weights(odds: Floats) -> tuple[Floats, Floats]:
    # p / min(p, 1 - p) and (1 - p) / min(p, 1 - p), without p: one of the two is 1.
    return np.exp(np.clip(odds, 0, 700)), np.exp(np.clip(-odds, 0, 700))
