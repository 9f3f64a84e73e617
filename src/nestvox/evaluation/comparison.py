"""What a comparison of systems found: figures of each, differences with intervals, and verdicts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nestvox.evaluation.disputed import DisputedTrial
from nestvox.evaluation.results import html_table, plain_values
from nestvox.evaluation.selection import Selection
from nestvox.metrics.compare import PairedComparison
from nestvox.metrics.estimate import TrialSet
from nestvox.scoring.system import System


@dataclass(frozen=True)
class SystemRow:
    """Figures of one system at one dimension.

    Attributes:
        name: of the system.
        dim: prefix length; None for a score file.
        eer: equal error rate.
        eer_threshold: score at which it is reached.
        accuracy: share of right decisions at that threshold.
        min_dcf: normalised minimum cost.
        min_dcf_threshold: score at which it is reached; infinity if accepting nothing is cheapest.
        mean_norm: mean length of the embeddings' prefixes as stored, if there are embeddings.
        size_bytes: of the store or model folder, if known; None for a score file.
        fingerprint: of the model, if known.
    """

    name: str
    dim: int | None
    eer: float
    eer_threshold: float
    accuracy: float
    min_dcf: float
    min_dcf_threshold: float
    mean_norm: float | None
    size_bytes: int | None
    fingerprint: str | None


@dataclass(frozen=True)
class ComparisonRow:
    """A system against the first, at one dimension.

    Attributes:
        a: name of the first system.
        b: name of the other.
        dim_a: its prefix length; None for a score file.
        dim_b: of the other; the same unless they have none in common.
        paired: differences, intervals and tests; None where the systems rank identically.
        p_eer: of the EER, permutation by speaker, after Holm's correction over all rows.
        p_min_dcf: of the minDCF, likewise.
        verdict: on the EER, in words.
        verdict_min_dcf: on the minDCF.
        relative_change: of the EER, the difference divided by the first's; None where the first makes no errors.
        accuracy_change: of the share of right decisions at each system's EER threshold, the other's less the first's.
        threshold_change: of the EER threshold, in the units of the scores.
        norm_change: of the mean length of the embeddings as stored; None where one has none.
        size_change_bytes: of the files; None where one is not known.
    """

    a: str
    b: str
    dim_a: int | None
    dim_b: int | None
    paired: PairedComparison | None
    p_eer: float
    p_min_dcf: float
    verdict: str
    verdict_min_dcf: str
    relative_change: float | None
    accuracy_change: float
    threshold_change: float
    norm_change: float | None
    size_change_bytes: int | None


@dataclass(frozen=True)
class MeanOverDims:
    """A system against the first, over all dimensions that were compared; figures only, no test.

    Attributes:
        a: name of the first system.
        b: name of the other.
        dims: that enter, each once.
        eer_a: mean equal error rate of the first.
        eer_b: of the other.
        relative_change: of that mean; None where the first makes no errors.
        min_dcf_a: mean minimum cost of the first.
        min_dcf_b: of the other.
    """

    a: str
    b: str
    dims: tuple[int, ...]
    eer_a: float
    eer_b: float
    relative_change: float | None
    min_dcf_a: float
    min_dcf_b: float


@dataclass(frozen=True, repr=False, kw_only=True)
class Comparison(TrialSet):
    """Systems on one trial list.

    Attributes:
        systems: one row a system and dimension.
        rows: each other system against the first, dimensions ascending.
        means: each other system against the first over the dimensions, where there are several.
        disputed: trials that only one of two systems decides rightly, at the largest dimension at which they differ.
        selection: how the first system was chosen, if it was.
        trials_source: where the trials are from.
        p_target: prior of the detection cost.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        confidence: of the intervals.
        method: in words: what was resampled and exchanged, how often, and what p values were corrected for.
        notes: what a reader has to know, in sentences.
        scored: the systems that were compared, in the order in which they were given; in no JSON.
    """

    systems: tuple[SystemRow, ...]
    rows: tuple[ComparisonRow, ...]
    means: tuple[MeanOverDims, ...]
    disputed: tuple[DisputedTrial, ...]
    selection: Selection | None
    trials_source: str
    p_target: float
    c_miss: float
    c_fa: float
    confidence: float
    method: str
    notes: tuple[str, ...]
    scored: tuple[System, ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        found = "; ".join(f"{self._pair(row)}: {row.verdict}" for row in self.rows)
        labels = f", {', '.join(self.labels)}" if self.labels else ""
        counts = f"{self.n_target} target + {self.n_nontarget} nontarget"
        return f"Comparison({found}; {counts}, sha256 {self.trials_sha256[:16]}{labels})"

    def _repr_html_(self) -> str:
        rows = [(self._pair(row), row.verdict, f"{row.p_eer:.3f}", row.verdict_min_dcf) for row in self.rows]
        about = f"{self.trials_source}, sha256 {self.trials_sha256}; {self.method}"
        labels = [", ".join(self.labels).upper()] if self.labels else []
        return html_table(("systems", "EER", "p", "minDCF"), rows, [*labels, about, *self.notes])

    @staticmethod
    def _pair(row: ComparisonRow) -> str:
        sides = ((row.a, row.dim_a), (row.b, row.dim_b))
        return " and ".join(name if dim is None else f"{name} at {dim}" for name, dim in sides)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; rates are fractions, an infinite threshold is null."""
        plain: dict[str, Any] = plain_values(asdict(replace(self, scored=())))
        del plain["scored"]
        return plain
