"""What a comparison of systems found: figures of each, differences with intervals, verdicts, and how one was chosen.

The lowest error rate of several systems is too low on the trials that it was chosen on: some of it is luck. On other
trials it is not, provided that nothing else was chosen there.

Notation: N trials.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from nestvox.corpora.trials import Trials
from nestvox.errors import NestvoxError
from nestvox.evaluation.results import html_table, plain_values
from nestvox.evaluation.zoo import mid_ranks
from nestvox.metrics import eer, error_curve
from nestvox.metrics.compare import PairedComparison
from nestvox.metrics.estimate import TrialSet
from nestvox.scoring.refusals import check_system, check_trials, refuse_shared_trials
from nestvox.scoring.system import Scores, System

_MOST_DISPUTED = 10


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


@dataclass(frozen=True)
class DisputedTrial:
    """A trial that only one of two systems decides rightly.

    Attributes:
        a: name of the first system.
        b: name of the second.
        right: the one that decides rightly.
        enrol: name of the first side in the list.
        test: of the second.
        target: label.
        score_a: of the first system.
        score_b: of the second.
        distance: between the shares of all its scores that each system puts below this trial, in [0, 1].
        enrol_path: audio file of the first side, where it is known and not the name itself.
        test_path: of the second.
    """

    a: str
    b: str
    right: str
    enrol: str
    test: str
    target: bool
    score_a: float
    score_b: float
    distance: float
    enrol_path: str | None = None
    test_path: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A system at one dimension and its equal error rate on the trials that the choice is made on."""

    name: str
    dim: int | None
    eer: float


@dataclass(frozen=True, kw_only=True)
class Selection(TrialSet):
    """What was chosen, from what, and on which trials.

    Attributes:
        name: of the chosen system.
        dim: at which it has the lowest equal error rate; None for a score file.
        candidates: every system and dimension, lowest equal error rate first.
        trials_source: where the trials of the choice are from.
    """

    name: str
    dim: int | None
    candidates: tuple[Candidate, ...]
    trials_source: str

    @property
    def sentence(self) -> str:
        """What was done, for a reader of the result."""
        at = "" if self.dim is None else f" at {self.dim} dimensions"
        return (
            f"{self.name}{at} was chosen of {len(self.candidates)} by its EER of "
            f"{100 * self.candidates[0].eer:.2f} % on {self.trials_source} ({self.n_target} target and "
            f"{self.n_nontarget} non-target trials, sha256 {self.trials_sha256[:12]}), none of which is reported here."
        )


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


def select_system(selection: Trials, systems: Sequence[System], *, reported: Trials) -> Selection:
    """Choose the system and dimension with the lowest equal error rate; of equal ones the smaller, then the first.

    `selection` are labelled trials, which the systems were scored on; `reported` those whose figures will be told.

    Raises:
        TrialsError: `selection` and `reported` share a trial, or `selection` cannot be measured.
        ScoresError: scores of other trials than `selection`.
        NestvoxError: no systems.
    """
    refuse_shared_trials(selection, reported)
    targets = check_trials(selection)
    if not systems:
        raise NestvoxError("there is no system to choose")
    for system in systems:
        check_system(system, selection)
    candidates = [
        Candidate(system.name, dim, eer(error_curve(values, targets)).rate)
        for system in systems
        for dim, values in system.scores.items()
    ]
    ranked = sorted(candidates, key=lambda found: (found.eer, found.dim or 0))
    return Selection(
        name=ranked[0].name,
        dim=ranked[0].dim,
        candidates=tuple(ranked),
        trials_source=selection.source,
        trials_sha256=selection.sha256,
        n_target=int(targets.sum()),
        n_nontarget=int((~targets).sum()),
    )


def disputed_trials(
    trials: Trials,
    names: tuple[str, str],
    scores: tuple[Scores, Scores],
    thresholds: tuple[float, float],
    *,
    path_of: Callable[[str], str | None] = lambda _: None,
    most: int = _MOST_DISPUTED,
) -> tuple[DisputedTrial, ...]:
    """The trials that two systems see most differently, half of them for each system that is right.

    `scores` are (N,) each, `thresholds` those of equal errors; `most` for each of the systems. `path_of` gives the
    audio file of a name, if known.
    """
    targets = trials.frame["target"].to_numpy().astype(np.bool_)
    right = [(values >= threshold) == targets for values, threshold in zip(scores, thresholds, strict=True)]
    distance = np.abs(mid_ranks(scores[0]) - mid_ranks(scores[1]))
    found = []
    for number, other in ((0, 1), (1, 0)):
        rows = np.flatnonzero(right[number] & ~right[other])
        for row in rows[np.argsort(-distance[rows], kind="stable")[:most]]:
            trial = trials.frame.row(int(row), named=True)
            found.append(
                DisputedTrial(
                    *names,
                    names[number],
                    **trial,
                    score_a=float(scores[0][row]),
                    score_b=float(scores[1][row]),
                    distance=float(distance[row]),
                    enrol_path=path_of(trial["enrol"]),
                    test_path=path_of(trial["test"]),
                )
            )
    return tuple(found)
