"""Error rates of every form on the same trials, each with its interval and its paired difference to the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nestvox.compression.table import ORIGINAL, FormRates
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.evaluation.comparing import compare_systems, copies
from nestvox.evaluation.comparison import ComparisonRow
from nestvox.evaluation.estimates import Settings
from nestvox.evaluation.measure import measure
from nestvox.evaluation.results import ErrorRates, Evaluation
from nestvox.progress import Bars
from nestvox.scoring.pipeline import score_trials
from nestvox.scoring.refusals import check_trials
from nestvox.scoring.sources import Load, known, known_scores
from nestvox.scoring.speakers import training_overlap, trial_speakers
from nestvox.scoring.system import System

if TYPE_CHECKING:
    from nestvox.model.speaker_model import SpeakerModel


class Rates(NamedTuple):
    """What was measured: rates by form, one a dimension; labels of all of them; what a reader has to know."""

    of: Mapping[str, tuple[FormRates, ...]] = {}
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Measuring:
    """Trials, and how rates on them are measured.

    Args:
        trials: labelled.
        table: utterances that they name.
        dims: prefix lengths; None: those of the model.
        settings: of the intervals.
        n_permutations: behind a p value.
        allow_overlap: go on in spite of training speakers.
        load: makes a model of a path or a name.
        bars: shows the phases that take long.

    Attributes:
        teacher: its name, once it is known.
    """

    def __init__(
        self,
        trials: Trials,
        table: UtteranceTable,
        dims: Sequence[int] | None,
        settings: Settings,
        n_permutations: int,
        *,
        allow_overlap: bool,
        load: Load | None,
        bars: Bars,
    ) -> None:
        self.trials = trials
        self.table = table
        self.dims = dims
        self.settings = settings
        self.n_permutations = n_permutations
        self.allow_overlap = allow_overlap
        self.load = load
        self.bars = bars
        self.teacher: str | None = None

    def check(self, model: SpeakerModel, teacher: Any, calibrated_on: Sequence[str]) -> None:
        """Refuse what cannot be measured before anything is written.

        Args:
            model: the original.
            teacher: what the forms are held against, or None.
            calibrated_on: keys of speakers whose recordings give ranges.

        Raises:
            NestvoxError: as `nestvox.evaluate`.
            OverlapError: training speakers, or those, stand in the trials.
        """
        check_trials(self.trials)
        systems = [self._known(model, ORIGINAL, self.dims).system]
        if teacher is not None:
            systems.append(self._known(teacher, None, None).system)
            self.teacher = systems[1].name
        who = trial_speakers(self.trials, systems, table=self.table)
        keys = [*calibrated_on, *(key for system in systems for key in system.training_speakers)]
        training_overlap(who, keys, allow=self.allow_overlap)

    def rates(self, models: Mapping[str, SpeakerModel], teacher: Any) -> Rates:
        """Score every form and the teacher, and compare.

        Args:
            models: by name of the form, the original first.
            teacher: as `check` takes it.

        """
        systems = {name: self._known(model, name, self.dims).score() for name, model in models.items()}
        alone = {name: self._alone(system) for name, system in systems.items()}
        upper = None if teacher is None else self._alone(self._known(teacher, None, None).score())
        differences, labels, notes = self._differences(list(systems.values()))
        found = {
            name: tuple(
                _rates(row, differences.get((name, row.dim)), None if upper is None else _eer_of(upper, row.dim))
                for row in evaluation.overall
            )
            for name, evaluation in alone.items()
        }
        every = {label for evaluation in alone.values() for label in evaluation.labels}
        return Rates(found, tuple(sorted({*labels, *every})), notes)

    def _known(self, given: Any, name: str | None, dims: Sequence[int] | None) -> Any:
        return known(given, self.trials, name=name, table=self.table, dims=dims, bars=self.bars, load=self.load)

    def _alone(self, system: System) -> Evaluation:
        with self.bars("measuring", "rows") as progress:
            scored = score_trials(known_scores(system, self.trials), table=self.table, allow_overlap=self.allow_overlap)
            return measure(scored, settings=self.settings, progress=progress)

    def _differences(
        self, systems: list[System]
    ) -> tuple[dict[tuple[str, int | None], ComparisonRow], tuple[str, ...], tuple[str, ...]]:
        """Each form against the original. One that orders the trials as another does has that one's differences."""
        apart: list[System] = []
        like: dict[str, str] = {}
        for system in systems:
            twin = next((other for other in apart if copies(other, system)), None)
            if twin is None:
                apart.append(system)
            like[system.name] = system.name if twin is None else twin.name
        if len(apart) < 2:
            return {}, (), ("Every form orders the trials as the original does.",)
        with self.bars("comparing", "comparisons") as progress:
            comparison = compare_systems(
                self.trials,
                apart,
                table=self.table,
                allow_overlap=self.allow_overlap,
                settings=self.settings,
                n_permutations=self.n_permutations,
                progress=progress,
            )
        rows = {(row.b, row.dim_b): row for row in comparison.rows}
        found = {(name, dim): row for name, twin in like.items() for (b, dim), row in rows.items() if b == twin}
        same = [f"{name} orders the trials as {twin} does." for name, twin in like.items() if name != twin]
        return found, comparison.labels, (comparison.method, *comparison.notes, *same)


def _eer_of(teacher: Evaluation, dim: int | None) -> float:
    """The teacher's at this dimension, else at its full size."""
    same = [row for row in teacher.overall if row.dim == dim]
    return (same or teacher.overall)[-1].eer.value


def _rates(row: ErrorRates, against: ComparisonRow | None, teacher_eer: float | None) -> FormRates:
    low, high = row.eer.ends
    paired = None if against is None else against.paired
    difference = (0.0, 0.0, 0.0) if paired is None else (paired.eer.difference, paired.eer.low, paired.eer.high)
    assert row.dim is not None
    return FormRates(
        dim=row.dim,
        eer=row.eer.value,
        eer_low=low,
        eer_high=high,
        difference=difference[0],
        difference_low=difference[1],
        difference_high=difference[2],
        p_value=1.0 if against is None else against.p_eer,
        teacher_eer=teacher_eer,
        gap=None if teacher_eer is None else row.eer.value - teacher_eer,
        **row.trials_to_dict(),
    )
