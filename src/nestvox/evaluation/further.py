"""The other figures that the field reports of a list, each with its interval over speakers.

Next to the equal error rate and the cost at the operating point asked for: the area under the ROC curve, the minimum
cost at the usual priors, misses at a given false-alarm rate, and, where scores are log likelihood ratios, Cllr and the
cost of the decisions that they ask for.

Notation: N trials, S speakers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestvox.evaluation.settings import Settings
from nestvox.metrics import ErrorCurve, act_dcf, auc, cllr, min_dcf
from nestvox.metrics.dcf import P_TARGETS
from nestvox.metrics.influence import (
    Clusters,
    auc_influence,
    cllr_influence,
    dcf_influence,
    logit_interval,
    min_dcf_influence,
    student_quantile,
)

__all__ = ["FARS", "FurtherFigure", "further_figures", "reachable_fars"]

FARS = (0.001, 0.01, 0.1)
"""False-alarm rates at which the misses are reported, where the trials can say them."""

_RULE_OF_THREE = 3.0


@dataclass(frozen=True)
class FurtherFigure:
    """One figure of one dimension over all trials.

    Attributes:
        dim: prefix length; None: scores of a file.
        name: ``AUC``, ``minDCF(0.01)``, ``FRR at FAR 1 %``, ``Cllr``, ``actDCF(0.05)``...
        value: a fraction, a normalised cost, or bits (Cllr).
        low: lower end of its interval; None where there is none: no speaker changes it, or it is a rate of 0 or 1.
        high: upper end.
        interval: ``studentised`` or ``percentile``; empty where there is none.
    """

    dim: int | None
    name: str
    value: float
    low: float | None
    high: float | None
    interval: str


def reachable_fars(n_nontarget: int) -> tuple[float, ...]:
    """Those of `FARS` that so many trials can tell from none: more than 3 / rate (the rule of three)."""
    return tuple(far for far in FARS if n_nontarget * far > _RULE_OF_THREE)


def further_figures(
    dim: int | None,
    curve: ErrorCurve,
    clusters: Clusters,
    settings: Settings,
    misses: Sequence[tuple[float, float, float, float]],
    *,
    llr: bool,
) -> tuple[FurtherFigure, ...]:
    """Every other figure of one dimension.

    Args:
        dim: prefix length.
        curve: of N trials.
        clusters: their speakers, two or more.
        settings: operating point, shown beside the usual ones where it is another, and confidence.
        misses: false-alarm rate, miss rate there on the DET curve, and both ends of its interval.
        llr: the scores are log likelihood ratios in nats.
    """
    reach = student_quantile((1 + settings.confidence) / 2, clusters.size - 1)

    def of_rate(name: str, value: float, influence: NDArray[np.float64]) -> FurtherFigure:
        error = clusters.standard_error(influence)
        if not (0 < value < 1 and error > 0):
            return FurtherFigure(dim, name, value, None, None, "")
        return FurtherFigure(
            dim, name, value, *logit_interval(value, error, clusters.size, settings.confidence), "studentised"
        )

    def of_cost(name: str, value: float, influence: NDArray[np.float64]) -> FurtherFigure:
        error = clusters.standard_error(influence)
        if not error > 0:
            return FurtherFigure(dim, name, value, None, None, "")
        return FurtherFigure(dim, name, value, max(0.0, value - reach * error), value + reach * error, "studentised")

    points = {f"({p:g})": (p, 1.0, 1.0) for p in P_TARGETS}
    if settings.point not in points.values():
        points["({:g}, {:g}, {:g})".format(*settings.point)] = settings.point
    found = [of_rate("AUC", auc(curve), auc_influence(curve))]
    for place, (p_target, c_miss, c_fa) in points.items():
        cost = {"p_target": p_target, "c_miss": c_miss, "c_fa": c_fa}
        influence = min_dcf_influence(curve, **cost)
        found.append(of_rate(f"minDCF{place}", min_dcf(curve, **cost).value, influence))
        if llr:
            value, threshold = act_dcf(curve, **cost)
            found.append(of_cost(f"actDCF{place}", value, dcf_influence(curve, threshold, **cost)))
    if llr:
        found.append(of_cost("Cllr", cllr(curve), cllr_influence(curve)))
    found += [
        FurtherFigure(dim, f"FRR at FAR {100 * far:g} %", value, low, high, settings.interval)
        if low < high
        else FurtherFigure(dim, f"FRR at FAR {100 * far:g} %", value, None, None, "")
        for far, value, low, high in misses
    ]
    return tuple(found)
