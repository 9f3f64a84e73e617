"""The other figures that the field reports of a list, each with its interval over speakers.

Next to the equal error rate and the cost at the operating point asked for: the area under the ROC curve, the minimum
cost at the usual priors, misses at a given false-alarm rate, and, where scores are log likelihood ratios, Cllr and the
cost of the decisions that they ask for.

Notation: N trials, S speakers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nestvox.evaluation.intervals import STUDENTISED
from nestvox.evaluation.settings import Settings
from nestvox.metrics import ErrorCurve, act_dcf, auc, cllr, min_dcf
from nestvox.metrics.dcf import P_TARGETS
from nestvox.metrics.estimate import Estimate, TrialSet
from nestvox.metrics.influence import (
    Clusters,
    auc_influence,
    cllr_influence,
    dcf_influence,
    logit_interval,
    min_dcf_influence,
    student_quantile,
)

FARS = (0.001, 0.01, 0.1)
"""False-alarm rates at which the misses are reported, where the trials can say them."""

_RULE_OF_THREE = 3.0


def reachable_fars(n_nontarget: int) -> tuple[float, ...]:
    """Those of `FARS` that so many trials can tell from none: more than 3 / rate (the rule of three)."""
    return tuple(far for far in FARS if n_nontarget * far > _RULE_OF_THREE)


def further_figures(
    dim: int | None,
    curve: ErrorCurve,
    clusters: Clusters,
    trials: TrialSet,
    settings: Settings,
    misses: Sequence[tuple[float, float, float, float]],
    *,
    llr: bool,
) -> tuple[Estimate, ...]:
    """Every other figure of one dimension.

    Args:
        dim: prefix length.
        curve: of N trials.
        clusters: their speakers, two or more.
        trials: their record.
        settings: operating point, shown beside the usual ones where it is another, and confidence.
        misses: false-alarm rate, miss rate there on the DET curve, and both ends of its interval.
        llr: the scores are log likelihood ratios in nats.
    """
    reach = student_quantile((1 + settings.confidence) / 2, clusters.size - 1)

    def of_rate(name: str, value: float, influence: NDArray[np.float64]) -> Estimate:
        error = clusters.standard_error(influence)
        there = 0 < value < 1 and error > 0
        ends = logit_interval(value, error, clusters.size, settings.confidence) if there else None
        return _estimate(name, dim, value, ends, STUDENTISED, trials, error)

    def of_cost(name: str, value: float, influence: NDArray[np.float64]) -> Estimate:
        error = clusters.standard_error(influence)
        ends = (max(0.0, value - reach * error), value + reach * error) if error > 0 else None
        return _estimate(name, dim, value, ends, STUDENTISED, trials, error)

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
    for far, value, low, high in misses:
        ends = (low, high) if low < high else None
        found.append(_estimate(f"FRR at FAR {100 * far:g} %", dim, value, ends, settings.interval, trials))
    return tuple(found)


def _estimate(
    name: str,
    dim: int | None,
    value: float,
    ends: tuple[float, float] | None,
    kind: str,
    trials: TrialSet,
    error: float | None = None,
) -> Estimate:
    low, high = ends or (None, None)
    return Estimate(
        name=name, dim=dim, value=value, low=low, high=high, interval=kind if ends else "", error=error, trials=trials
    )
