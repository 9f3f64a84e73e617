"""The area under the ROC curve."""

from __future__ import annotations

import numpy as np

from nestvox.metrics.curves import ErrorCurve


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
