"""The cost of log likelihood ratios, in bits, over all operating points at once.

N. Brummer and J. du Preez, "Application-independent evaluation of speaker detection", Computer Speech & Language
20(2-3), 2006.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from nestvox.metrics.curves import ErrorCurve
from nestvox.metrics.pav import pav

Floats = NDArray[np.float64]


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
    bins = pav(curve)
    of_target = _mean_softplus(-bins.llr, bins.n_target / curve.n_target)
    of_nontarget = _mean_softplus(bins.llr, bins.n_nontarget / curve.n_nontarget)
    return (of_target + of_nontarget) / (2 * math.log(2))


def _mean_softplus(x: Floats, shares: Floats) -> float:
    """Sum of ``shares * log(1 + exp(x))``; nothing times infinity is nothing."""
    there = shares > 0
    return float(np.logaddexp(0.0, x[there]) @ shares[there])
