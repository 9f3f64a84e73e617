"""Error rates of a system whose scores were normalised or calibrated; see `rescore`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import TableError
from nestvox.evaluation.measure import Origin, measure
from nestvox.evaluation.results import Evaluation
from nestvox.evaluation.settings import USUAL, Settings
from nestvox.progress import Progress, silent
from nestvox.scoring.conditions import Sides, marks_of, values_of_sides
from nestvox.scoring.paths import path_in_table
from nestvox.scoring.refusals import check_trials, chosen_on_these
from nestvox.scoring.speakers import TrialSpeakers, training_overlap
from nestvox.scoring.system import System, check_system

__all__ = ["evaluate_system"]


def evaluate_system(
    system: System,
    trials: Trials,
    speakers: TrialSpeakers,
    *,
    table: UtteranceTable | None = None,
    conditions: Mapping[str, Sides] | Sequence[str] = (),
    llr: bool = False,
    allow_overlap: bool = False,
    settings: Settings = USUAL,
    progress: Progress = silent,
) -> Evaluation:
    """Measure the scores of a system at every dimension and under every condition.

    Args:
        system: scores of these trials, of any kind.
        trials: labelled, of both classes, none twice.
        speakers: of the trials, see `compare.trial_speakers`.
        table: where conditions, paths and the labels of marked utterances come from.
        conditions: columns of the table, or column name to the values of both sides.
        llr: the scores are log likelihood ratios in nats, also where the system calls them given.
        allow_overlap: evaluate in spite of training speakers, with the label ``leaky``.
        settings: operating point, replicates and kind of the intervals.
        progress: told the rows measured.

    Raises:
        TrialsError: unknown labels, one class only, duplicates.
        ScoresError: scores of other trials.
        OverlapError: training speakers stand in the trials.
        TableError: the table lacks utterances of the trials or a column, or there is none to split by.
    """
    targets = check_trials(trials)
    check_system(system, trials)
    labels, notes = training_overlap(speakers, system.training_speakers, allow=allow_overlap)
    chosen_labels, chosen_notes = chosen_on_these(trials, system.chosen_on)
    if isinstance(conditions, Mapping):
        sides = dict(conditions)
    elif table is not None:
        sides = values_of_sides(table, trials, conditions)
    elif conditions:
        raise TableError(f"splitting by {', '.join(conditions)} needs the utterance table that has this column")
    else:
        sides = {}
    origin = Origin(
        system.model or system.name,
        system.fingerprint,
        (*system.labels, *labels, *chosen_labels, *marks_of(trials, table)),
        (f"The scores are the {system.space}.", *system.notes, *notes, *chosen_notes),
        llr=llr or system.space.kind == "llr",
        path_of=path_in_table(table),
    )
    return measure(
        trials,
        targets,
        system.scores,
        speakers=speakers,
        sides=sides,
        origin=origin,
        settings=settings,
        progress=progress,
    )
