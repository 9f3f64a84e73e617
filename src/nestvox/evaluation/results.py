"""What an evaluation found: rows of error rates that never travel without counts, hash, operating point and interval.

Rates are fractions. Everything is frozen, and `Evaluation.to_json` gives it all as plain values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nestvox.errors import TrialsError

__all__ = ["ALL", "DetCurve", "ErrorRates", "Evaluation", "NotComputable", "ScoreHistogram", "ScoredTrial"]

ALL = "all"


@dataclass(frozen=True)
class ErrorRates:
    """Error rates of one dimension under one condition.

    Attributes:
        dim: prefix length of the embeddings; None where scores came from a file.
        condition: ``all``, or ``column=value`` (both sides have the value), or ``column=mixed`` (they differ).
        n_target: target trials.
        n_nontarget: non-target trials.
        n_clusters: speakers (or what else was resampled) in these trials.
        trials_sha256: of the canonical form of exactly these trials.
        eer: equal error rate by linear interpolation: the headline.
        eer_low: lower end of its interval.
        eer_high: upper end of its interval.
        eer_rocch: equal error rate on the convex hull of the ROC curve.
        eer_threshold: score at which `eer` is reached.
        min_dcf: normalised minimum detection cost.
        min_dcf_low: lower end of its interval.
        min_dcf_high: upper end of its interval.
        min_dcf_threshold: score at which `min_dcf` is reached; infinity if accepting nothing is cheapest.
        p_target: prior of the detection cost.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        interval: in words: confidence, what was resampled and how often.
        labels: what has to be said with the number wherever it appears, e.g. ``synthetic``, ``leaky``.
        fingerprint: of the model that made the embeddings, if known.
    """

    dim: int | None
    condition: str
    n_target: int
    n_nontarget: int
    n_clusters: int
    trials_sha256: str
    eer: float
    eer_low: float
    eer_high: float
    eer_rocch: float
    eer_threshold: float
    min_dcf: float
    min_dcf_low: float
    min_dcf_high: float
    min_dcf_threshold: float
    p_target: float
    c_miss: float
    c_fa: float
    interval: str
    labels: tuple[str, ...]
    fingerprint: str | None


@dataclass(frozen=True)
class NotComputable:
    """A condition whose trials do not carry an error rate, and why; shown, never dropped."""

    dim: int | None
    condition: str
    n_target: int
    n_nontarget: int
    n_clusters: int
    trials_sha256: str
    reason: str


@dataclass(frozen=True)
class DetCurve:
    """The trade-off between both errors of one dimension over all trials, with its pointwise interval.

    Attributes:
        dim: prefix length.
        p_fa: (G,) false-alarm rates, ascending, evenly spaced on the probit axis.
        p_miss: (G,) miss rates there.
        p_miss_low: (G,) lower edge of the interval.
        p_miss_high: (G,) upper edge.
    """

    dim: int | None
    p_fa: tuple[float, ...]
    p_miss: tuple[float, ...]
    p_miss_low: tuple[float, ...]
    p_miss_high: tuple[float, ...]


@dataclass(frozen=True)
class ScoreHistogram:
    """Counts of both classes in bins of equal width.

    Attributes:
        dim: prefix length.
        edges: (B + 1,) on the scale of the scores.
        n_target: (B,) counts.
        n_nontarget: (B,) counts.
    """

    dim: int | None
    edges: tuple[float, ...]
    n_target: tuple[int, ...]
    n_nontarget: tuple[int, ...]


@dataclass(frozen=True)
class ScoredTrial:
    """One trial and its score."""

    enrol: str
    test: str
    target: bool
    score: float


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured on one trial list.

    Attributes:
        results: one row a dimension and condition, dimensions ascending, ``all`` first within each.
        not_computable: conditions without an error rate, in the same order.
        det: one curve a dimension.
        histograms: one a dimension.
        highest_nontargets: the worst false alarms of the largest dimension, worst first.
        lowest_targets: the worst misses of the largest dimension, worst first.
        trials_source: where the trials are from.
        trials_sha256: of the whole list.
        model: name of the model, if known.
        fingerprint: of the model, if known.
        labels: of every row.
        notes: what a reader has to know, in sentences.
        n_ignored_scores: scores in the file that no trial names.
        confidence: of the intervals.
        n_bootstrap: replicates.
        seed: of the replicates.
    """

    results: tuple[ErrorRates, ...]
    not_computable: tuple[NotComputable, ...]
    det: tuple[DetCurve, ...]
    histograms: tuple[ScoreHistogram, ...]
    highest_nontargets: tuple[ScoredTrial, ...]
    lowest_targets: tuple[ScoredTrial, ...]
    trials_source: str
    trials_sha256: str
    model: str | None
    fingerprint: str | None
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    n_ignored_scores: int
    confidence: float
    n_bootstrap: int
    seed: int

    @property
    def headline(self) -> ErrorRates:
        """The row over all trials at the largest dimension."""
        return self.overall[-1]

    @property
    def overall(self) -> tuple[ErrorRates, ...]:
        """The rows over all trials, dimensions ascending."""
        return tuple(row for row in self.results if row.condition == ALL)

    @property
    def dims(self) -> tuple[int | None, ...]:
        """Dimensions that were measured, ascending."""
        return tuple(row.dim for row in self.overall)

    def rates(self, dim: int | None, condition: str = ALL) -> ErrorRates:
        """The row of one dimension and condition.

        Raises:
            TrialsError: there is none; those that exist are named.
        """
        for row in self.results:
            if (row.dim, row.condition) == (dim, condition):
                return row
        there = ", ".join(f"{row.condition} at {row.dim}" for row in self.results)
        raise TrialsError(f"no error rate for condition {condition} at dimension {dim}; there are: {there}")

    def with_labels(self, labels: Sequence[str]) -> Evaluation:
        """The same results with more labels on every row."""
        merged = tuple(sorted({*self.labels, *labels}))
        return replace(self, labels=merged, results=tuple(replace(row, labels=merged) for row in self.results))

    def to_json(self) -> dict[str, Any]:
        """Plain values: the headline row on top, all rows under ``results``; rates are fractions.

        An infinite threshold (accepting nothing is cheapest) becomes null, as does every rate of a condition that is
        not computable; its ``reason`` says why.
        """
        top = _plain(asdict(self.headline))
        rows = [{**_plain(asdict(row)), "reason": None} for row in self.results]
        empty = {key: None for key in top if key.startswith(("eer", "min_dcf"))}
        rows += [{**empty, **_plain(asdict(row))} for row in self.not_computable]
        return {
            **top,
            "model": self.model,
            "trials": self.trials_source,
            "notes": list(self.notes),
            "n_ignored_scores": self.n_ignored_scores,
            "confidence": self.confidence,
            "n_bootstrap": self.n_bootstrap,
            "seed": self.seed,
            "results": rows,
            "det": [_plain(asdict(curve)) for curve in self.det],
            "histograms": [_plain(asdict(histogram)) for histogram in self.histograms],
            "highest_nontargets": [asdict(trial) for trial in self.highest_nontargets],
            "lowest_targets": [asdict(trial) for trial in self.lowest_targets],
        }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and math.isinf(value) else value for key, value in row.items()}
