"""What an evaluation found: rows of error rates that never travel without counts, hash, operating point and interval.

Rates are fractions. Everything is frozen, and `Evaluation.to_dict` gives it all as plain values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nestvox.errors import TrialsError
from nestvox.evaluation.calibration import CalibrationCurve
from nestvox.evaluation.zoo import SpeakerRow, ZooTest
from nestvox.metrics.estimate import Estimate, TrialSet

if TYPE_CHECKING:
    from nestvox.evaluation.llr_fit import LlrCost
    from nestvox.evaluation.set_threshold import ThresholdUse

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class ErrorRates(TrialSet):
    """Error rates of one dimension under one condition.

    Attributes:
        dim: prefix length of the embeddings; None where scores came from a file.
        condition: ``all``, or ``column=value`` (both sides have the value), or ``column=mixed`` (they differ).
        eer: equal error rate by linear interpolation: the headline.
        eer_rocch: equal error rate on the convex hull of the ROC curve.
        eer_threshold: score at which `eer` is reached.
        min_dcf: normalised minimum detection cost.
        min_dcf_threshold: score at which `min_dcf` is reached; infinity if accepting nothing is cheapest.
        p_target: prior of the detection cost.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        interval: in words: confidence, what was resampled and how often, or that nothing was.
        fingerprint: of the model that made the embeddings, if known.
    """

    dim: int | None
    condition: str
    eer: Estimate
    eer_rocch: float
    eer_threshold: float
    min_dcf: Estimate
    min_dcf_threshold: float
    p_target: float
    c_miss: float
    c_fa: float
    interval: str
    fingerprint: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, one a column: ``eer``, ``eer_low``, ``eer_high``, ``eer_interval``, ``eer_error``, ..."""
        return {"dim": self.dim, "condition": self.condition, **super().to_dict()}


@dataclass(frozen=True, kw_only=True)
class NotComputable(TrialSet):
    """A condition whose trials do not carry an error rate, and why; shown, never dropped."""

    dim: int | None
    condition: str
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
    """One trial and its score.

    Attributes:
        enrol: name of the first side in the list.
        test: of the second.
        target: label.
        score: of this trial.
        enrol_path: audio file of the first side, where it is known and not the name itself.
        test_path: of the second.
    """

    enrol: str
    test: str
    target: bool
    score: float
    enrol_path: str | None = None
    test_path: str | None = None


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Everything that was measured on one trial list.

    Attributes:
        results: one row a dimension and condition, dimensions ascending, ``all`` first within each.
        not_computable: conditions without an error rate, in the same order.
        det: one curve a dimension.
        further: other figures over all trials, each with its interval, dimensions ascending.
        histograms: one a dimension.
        highest_nontargets: the worst false alarms at `detail_dim`, worst first.
        lowest_targets: the worst misses at `detail_dim`, worst first.
        calibration: one a dimension.
        speakers: one row a speaker at `detail_dim`, most errors first; empty where they are not known.
        zoo: tests of the differences between them.
        detail_dim: dimension of the worst trials and of these two; the largest unless another was asked for.
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
        interval: kind that was asked for.
        score: what the scores mean, in words.
        calibrated_by: key of the calibration that made them log likelihood ratios; None: there is none.
        llr_cost_before: costs of the scores before it, taken for log likelihood ratios, one a dimension.
        llr_cost_after: costs after it.
        thresholds: what stored thresholds do on these trials.
    """

    results: tuple[ErrorRates, ...]
    not_computable: tuple[NotComputable, ...]
    det: tuple[DetCurve, ...]
    further: tuple[Estimate, ...]
    histograms: tuple[ScoreHistogram, ...]
    highest_nontargets: tuple[ScoredTrial, ...]
    lowest_targets: tuple[ScoredTrial, ...]
    calibration: tuple[CalibrationCurve, ...]
    speakers: tuple[SpeakerRow, ...]
    zoo: tuple[ZooTest, ...]
    detail_dim: int | None
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
    interval: str
    score: str = ""
    calibrated_by: str | None = None
    llr_cost_before: tuple[LlrCost, ...] = ()
    llr_cost_after: tuple[LlrCost, ...] = ()
    thresholds: tuple[ThresholdUse, ...] = ()

    def __repr__(self) -> str:
        found = ", ".join(f"{'' if row.dim is None else f'{row.dim}: '}{percent_interval(row)}" for row in self.overall)
        labels = f", {', '.join(self.labels)}" if self.labels else ""
        return (
            f"Evaluation(EER % {found}; {self.headline.n_target} target + {self.headline.n_nontarget} nontarget, "
            f"sha256 {self.trials_sha256[:16]}{labels})"
        )

    def _repr_html_(self) -> str:
        rows = [
            (
                "-" if row.dim is None else str(row.dim),
                row.condition,
                percent_interval(row),
                f"{row.min_dcf.value:.4f} {interval_in_words(*row.min_dcf.ends, 4)}",
                f"{row.n_target} + {row.n_nontarget}",
            )
            for row in self.results
        ]
        head = self.headline
        costs = f"minDCF({head.p_target:g}), c_miss {head.c_miss:g}, c_fa {head.c_fa:g}"
        about = f"{self.trials_source}, sha256 {self.trials_sha256}; in brackets: {head.interval}"
        labels = [", ".join(self.labels).upper()] if self.labels else []
        header = ("dim", "condition", "EER %", costs, "target + nontarget trials")
        return html_table(header, rows, [*labels, about, *self.notes])

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

    def card_rows(self) -> list[dict[str, Any]]:
        """The rows over all trials as ``results`` of a model card has them."""
        fields = ("dim", "eer", "eer_low", "eer_high", "min_dcf", "p_target", "n_target", "n_nontarget")
        about = {"trials_sha256": self.trials_sha256, "trials_source": Path(self.trials_source).name}
        return [
            {**{k: v for k, v in row.to_dict().items() if k in fields}, "labels": list(row.labels), **about}
            for row in self.overall
        ]

    def rates(self, dim: int | None, condition: str = ALL) -> ErrorRates:
        """The row of one dimension and condition.

        Raises:
            TrialsError: there is none; those that exist are named.
        """
        if found := [row for row in self.results if (row.dim, row.condition) == (dim, condition)]:
            return found[0]
        there = ", ".join(f"{row.condition} at {row.dim}" for row in self.results)
        raise TrialsError(f"no error rate for condition {condition} at dimension {dim}; there are: {there}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the headline row on top, all rows under ``results``; rates are fractions.

        An infinite threshold (accepting nothing is cheapest) becomes null, as does every rate of a condition that is
        not computable; its ``reason`` says why.
        """
        top = self.headline.to_dict()
        rows = [{**row.to_dict(), "reason": None} for row in self.results]
        empty = {key: None for key in top if key.startswith(("eer", "min_dcf"))}
        rows += [{**empty, **row.to_dict()} for row in self.not_computable]
        found: dict[str, Any] = {
            **top,
            "model": self.model,
            "trials": self.trials_source,
            "notes": self.notes,
            "n_ignored_scores": self.n_ignored_scores,
            "confidence": self.confidence,
            "n_bootstrap": self.n_bootstrap,
            "detail_dim": self.detail_dim,
            "seed": self.seed,
            "score": self.score,
            "calibrated_by": self.calibrated_by,
            "interval_asked": self.interval,
            "results": rows,
        }
        for name, values in vars(self).items():
            if isinstance(values, tuple) and name not in {"results", "not_computable", "labels", "notes"}:
                found[name] = [one.to_dict() if hasattr(one, "to_dict") else asdict(one) for one in values]
        plain: dict[str, Any] = plain_values(found)
        return plain


def plain_values(value: Any) -> Any:
    """Lists for tuples, names for named ones, null for what is not finite, at any depth: strict JSON."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: plain_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def percent(rate: float, digits: int = 2) -> str:
    """A fraction in per cent: 0.05177 is ``5.18``."""
    return f"{100 * rate:.{digits}f}"


def percent_interval(row: ErrorRates) -> str:
    """Equal error rate and its interval in per cent: ``5.18 [4.28, 6.06]``, or ``0.00 [none]``."""
    low, high = row.eer.ends
    return f"{percent(row.eer.value)} {interval_in_words(100 * low, 100 * high, 2)}"


def further_in_words(figure: Estimate) -> str:
    """A further figure and its interval: ``AUC 0.9876 [0.9811, 0.9920]``, misses in per cent."""
    scale, digits, unit = (100, 2, " %") if figure.name.startswith(("FRR", "EER")) else (1, 4, "")
    numbers = [
        f"{scale * number:.{digits}f}" for number in (figure.value, figure.low, figure.high) if number is not None
    ]
    ends = f" [{', '.join(numbers[1:])}]" if numbers[1:] else ""
    return f"{figure.name}{':' if unit else ''} {numbers[0]}{unit}{ends}"


def interval_in_words(low: float, high: float, digits: int) -> str:
    """Both ends in brackets; ``[none]`` where they are one: then no draw of the speakers changes the figure at all."""
    return f"[{low:.{digits}f}, {high:.{digits}f}]" if low < high else "[none]"


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], below: Sequence[str]) -> str:
    """A table in HTML, with sentences below it; every text is escaped."""
    head = "".join(f"<th>{escape(text)}</th>" for text in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    said = "".join(f"<p>{escape(text)}</p>" for text in below)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{said}"
