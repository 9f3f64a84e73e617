"""The normalised Bayes error curve: the detection cost at every prior, decided and at its best.

N. Brummer and E. de Villiers, "The BOSARIS toolkit user guide", 2011.

Notation: P priors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_numbers
from nestvox.errors import NestvoxError
from nestvox.metrics.curves import ErrorCurve
from nestvox.metrics.pav import pav

Floats = NDArray[np.float64]


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
    hull = pav(curve)
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
