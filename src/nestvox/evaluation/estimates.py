"""The figures of a row, each with its interval over speakers, and the exact statement of what an interval is made of.

Two kinds of interval. ``studentised`` (the usual one): the standard error of the figure from the influences of all
pairs of trials that share a speaker, Student's t, logit scale; nothing is drawn. ``percentile``: the middle of the
replicates of the bootstrap. See `metrics.influence` and `metrics.bootstrap`; the guide to comparison shows how often
each holds the truth.

Notation: N trials, S speakers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import NestvoxError
from nestvox.metrics import (
    BootstrapIntervals,
    ErrorCurve,
    act_dcf,
    auc,
    cllr,
    eer,
    eer_at_corner,
    min_dcf,
    speaker_bootstrap,
)
from nestvox.metrics.bootstrap import check_replicates, seeded
from nestvox.metrics.costs import P_TARGETS, check_operating_point
from nestvox.metrics.estimate import Estimate, TrialSet
from nestvox.metrics.influence import (
    Clusters,
    auc_influence,
    cllr_influence,
    dcf_influence,
    eer_influence,
    logit_interval,
    min_dcf_influence,
    student_quantile,
)
from nestvox.scoring.speakers import TrialSpeakers

STUDENTISED = "studentised"
PERCENTILE = "percentile"
INTERVALS = (STUDENTISED, PERCENTILE)

FARS = (0.001, 0.01, 0.1)
"""False-alarm rates at which the misses are reported, where the trials can say them."""

_RULE_OF_THREE = 3.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure; checked when it is made, so that nothing is embedded or scored for settings that cannot be.

    Attributes:
        p_target: prior of a target trial in the detection cost.
        c_miss: cost of rejecting a target.
        c_fa: cost of accepting a non-target.
        n_bootstrap: replicates of the bootstrap, clustered by speaker on both sides.
        seed: of the replicates, 0 or more.
        confidence: of the intervals.
        interval: ``studentised``, or ``percentile`` of the replicates; differences of systems are always shown with
            the second. Replicates are drawn where it is asked for, or where the first cannot be had.
        detail_dim: prefix length whose speakers and worst trials are analysed; None: the largest.
        eer_at_corner: report beside the exact figure what voxceleb_trainer calls the EER.

    Raises:
        NestvoxError: an impossible operating point, interval or seed, or too few replicates for the confidence.
    """

    p_target: float = 0.05
    c_miss: float = 1.0
    c_fa: float = 1.0
    n_bootstrap: int = 1000
    seed: int = 0
    confidence: float = 0.95
    interval: str = STUDENTISED
    detail_dim: int | None = None
    eer_at_corner: bool = False

    def __post_init__(self) -> None:
        if self.interval not in INTERVALS:
            raise NestvoxError(f"interval must be one of {', '.join(INTERVALS)}; got {self.interval!r}")
        check_replicates(self.n_bootstrap, self.confidence)
        seeded(self.seed)
        check_operating_point(*self.point)

    def detailed(self, dims: Iterable[int | None]) -> int | None:
        """The one of these dimensions that is looked at in detail.

        Raises:
            NestvoxError: what was asked for is not among them.
        """
        there = list(dims)
        if self.detail_dim is None:
            return there[-1]
        if self.detail_dim not in there:
            shown = ", ".join("scores without a dimension" if dim is None else str(dim) for dim in there)
            raise NestvoxError(f"speakers and worst trials at {self.detail_dim} dimensions: measured are {shown}")
        return self.detail_dim

    @property
    def point(self) -> tuple[float, float, float]:
        """Prior and both costs."""
        return self.p_target, self.c_miss, self.c_fa

    @property
    def drawn(self) -> dict[str, Any]:
        """What `speaker_bootstrap` and `compare_scores` are told."""
        names = ("p_target", "c_miss", "c_fa", "seed", "confidence")
        return {"n_replicates": self.n_bootstrap, **{name: getattr(self, name) for name in names}}


USUAL = Settings()
"""What is measured with where nothing else is said."""


def headline_figures(
    dim: int | None, curve: ErrorCurve, clusters: Clusters, trials: TrialSet, settings: Settings
) -> tuple[Estimate, Estimate, BootstrapIntervals | None]:
    """Equal error rate and minimum cost with the interval that was asked for, and the replicates if any were drawn.

    A studentised interval does not exist for a figure of exactly 0 or 1, which has no logit, and where the standard
    error is 0 or not a number: then the speakers say nothing of how the figure would vary, and replicates are drawn.

    `clusters` are the speakers, two or more, of the N trials of `curve`; `trials` are their record.
    """
    values = {"EER": eer(curve).rate, f"minDCF({settings.p_target:g})": min_dcf(curve, *settings.point).value}
    influences = eer_influence(curve), min_dcf_influence(curve, *settings.point)
    errors = [clusters.standard_error(influence) for influence in influences]
    can = [
        0 < value < 1 and math.isfinite(error) and error > 0
        for value, error in zip(values.values(), errors, strict=True)
    ]
    spread = None if settings.interval == STUDENTISED and all(can) else replicates(curve, clusters, settings)
    drawn = (None, None) if spread is None else (spread.eer, spread.min_dcf)
    found = []
    for (name, value), error, student, percentile in zip(values.items(), errors, can, drawn, strict=True):
        ends: tuple[float, float] | None = percentile
        kind = PERCENTILE
        if percentile is None or (settings.interval == STUDENTISED and student):
            ends, kind = logit_interval(value, error, clusters.size, settings.confidence), STUDENTISED
        found.append(_estimate(name, dim, value, ends, kind, trials, error))
    return found[0], found[1], spread


def replicates(
    curve: ErrorCurve, clusters: Clusters, settings: Settings, p_fa: Sequence[float] = ()
) -> BootstrapIntervals:
    """The bootstrap with these settings; `p_fa` as `speaker_bootstrap` takes it."""
    return speaker_bootstrap(*curve.trials, clusters.enrol, clusters.test, p_fa=p_fa, **settings.drawn)


def in_words(
    figures: tuple[Estimate, Estimate], spread: BootstrapIntervals | None, speakers: TrialSpeakers, settings: Settings
) -> str:
    """One sentence for the intervals of both headline figures: what was resampled and how often, or that nothing was.

    `spread` are the replicates; None where nothing was resampled.
    """
    unit = "speakers" if speakers.known else "utterances"
    origin = f"{unit} ({speakers.source})" if speakers.known else unit
    percent = f"{100 * settings.confidence:g} %"
    of_eer, of_cost = (figure.interval for figure in figures)
    n_clusters = figures[0].trials.n_clusters
    words = {
        STUDENTISED: (
            f"{percent} studentised interval: standard error over {n_clusters} {origin} from all pairs of "
            f"trials that share one on either side, Student's t with {n_clusters - 1} degrees of freedom on the "
            "logit scale; nothing is resampled"
        ),
    }
    if spread is not None:
        words[PERCENTILE] = (
            f"{percent} percentile interval of {spread.n_replicates} bootstrap replicates (seed {settings.seed}): "
            f"{n_clusters} {origin} drawn with replacement on both sides of a trial"
            + (f", {spread.n_redrawn} draws without one class redrawn" if spread.n_redrawn else "")
        )
    if of_eer == of_cost:
        text = words[of_eer]
        if of_eer != settings.interval:
            text += "; a figure of 0 or 1, or one that no speaker changes, has no studentised interval"
    else:
        without = "the EER" if of_eer == PERCENTILE else "this minDCF"
        text = f"EER: {words[of_eer]}. minDCF: {words[of_cost]}; {without} has no studentised interval"
    return f"{text}; {speakers.warning}" if speakers.warning else text


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
    """What else the field reports of one dimension.

    The area under the ROC curve, the minimum cost at the usual priors, misses at a given false-alarm rate, and, where
    scores are log likelihood ratios, Cllr and the cost of the decisions that they ask for.

    `misses`: false-alarm rate, miss rate there on the DET curve, and both ends of its interval; `llr`: the scores are
    log likelihood ratios in nats. All else as `headline_figures` takes it.
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
    if settings.eer_at_corner:
        found.append(_estimate("EER as max(FPR, FNR)", dim, eer_at_corner(curve), None, STUDENTISED, trials))
    for place, point in points.items():
        found.append(of_rate(f"minDCF{place}", min_dcf(curve, *point).value, min_dcf_influence(curve, *point)))
        if llr:
            value, threshold = act_dcf(curve, *point)
            found.append(of_cost(f"actDCF{place}", value, dcf_influence(curve, threshold, *point)))
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
