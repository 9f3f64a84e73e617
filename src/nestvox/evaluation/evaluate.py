"""Error rates of a system on a list of trials; its scores come from a file, a store or a model.

Every road is `scoring.pipeline.score_trials`, then `measure.measure`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import polars as pl
from numpy.typing import ArrayLike

from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.evaluation.llr_fit import llr_costs
from nestvox.evaluation.measure import Origin, measure
from nestvox.evaluation.results import Evaluation
from nestvox.evaluation.set_threshold import use_thresholds
from nestvox.evaluation.settings import USUAL, Settings
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.progress import Progress, silent
from nestvox.scoring.pipeline import Given, ScoredTrials, score_trials
from nestvox.scoring.refusals import check_trials
from nestvox.scoring.system import NamedModel, known_model, known_scores, known_store, system_of_scores


def evaluate_scored(
    scored: ScoredTrials, *, llr: bool = False, settings: Settings = USUAL, progress: Progress = silent
) -> Evaluation:
    """Measure scored trials at every dimension and under every condition.

    Where they were calibrated, the costs before and after stand in the result; where there are thresholds, what they
    do here.

    Args:
        scored: of `scoring.pipeline.score_trials`.
        llr: the scores are log likelihood ratios in nats, also where the system calls them given, so that their
            calibration can be judged.
        settings: operating point, replicates and kind of the intervals.
        progress: told the rows measured.

    Raises:
        TrialsError: no threshold is for any of the dimensions, or the list has one speaker only.
        ModelError: thresholds on another kind of score.
    """
    system, steps = scored.system, scored.steps
    uses = (
        use_thresholds(
            [threshold for threshold in steps.thresholds if threshold.space == system.space] or steps.thresholds,
            system,
            scored.trials,
            scored.speakers,
            table=scored.table,
            allow_overlap=scored.allow_overlap,
            n_bootstrap=settings.n_bootstrap,
            seed=settings.seed,
            confidence=settings.confidence,
        )
        if steps.thresholds
        else ()
    )
    changed = (f"The scores are the {system.space}.",) if system is not scored.raw else ()
    found = measure(
        scored.trials,
        scored.targets,
        system.scores,
        speakers=scored.speakers,
        sides=scored.sides,
        origin=Origin(
            system.model,
            system.fingerprint,
            (*system.labels, *scored.labels),
            (*changed, *scored.notes, *system.notes),
            system.n_ignored_scores,
            llr=llr or system.space.kind == "llr",
            path_of=scored.path_of,
        ),
        settings=settings,
        progress=progress,
    )
    found = replace(found, score=str(system.space), thresholds=uses)
    if steps.calibration is None:
        return found
    before = {dim: scored.normalised.scores[dim] for dim in system.scores}
    return replace(
        found,
        calibrated_by=steps.calibration.key,
        llr_cost_before=llr_costs(before, scored.targets, *settings.point),
        llr_cost_after=llr_costs(system.scores, scored.targets, *settings.point),
    )


def evaluate_scores(
    trials: Trials,
    scores: pl.DataFrame | ArrayLike,
    *,
    table: UtteranceTable | None = None,
    dim: int | None = None,
    model: str | None = None,
    fingerprint: str | None = None,
    llr: bool = False,
    training_speakers: Sequence[str] = (),
    labels: Sequence[str] = (),
    source: str | None = None,
    settings: Settings = USUAL,
    progress: Progress = silent,
    **given: Unpack[Given],
) -> Evaluation:
    """Measure scores that exist already; higher means "more likely the same speaker".

    Args:
        trials: labelled, of both classes, none twice.
        scores: see `scoring.system.system_of_scores`, also for `dim`, `model`, `fingerprint`, `training_speakers`,
            `labels` and `source`.
        table: utterances that the trials name: speakers, conditions and labels of marks come from it.
        dim: prefix length that the scores were made with, if any.
        model: name of the model that made them.
        fingerprint: of that model.
        llr: the scores are log likelihood ratios in nats, so that their calibration can be judged.
        training_speakers: keys of its training speakers.
        labels: what every number has to carry.
        source: name of the score file, for messages.
        settings: operating point, replicates and kind of the intervals.
        progress: told the rows measured.
        **given: speakers, conditions, steps, allow_overlap: see `scoring.pipeline.score_trials`.

    Raises:
        NestvoxError: as `system_of_scores`, `score_trials` and `evaluate_scored`.
    """
    check_trials(trials)
    system = system_of_scores(
        source or "the scores",
        trials,
        scores,
        dim=dim,
        model=model,
        fingerprint=fingerprint,
        training_speakers=training_speakers,
        source=source,
        labels=labels,
    )
    return evaluate_scored(
        score_trials(known_scores(system, trials), table=table, **given), llr=llr, settings=settings, progress=progress
    )


def evaluate_store(
    store: EmbeddingStore,
    trials: Trials,
    *,
    table: UtteranceTable | None = None,
    dims: Sequence[int] | None = None,
    skip_missing: bool = False,
    labels: Sequence[str] = (),
    settings: Settings = USUAL,
    progress: Progress = silent,
    **given: Unpack[Given],
) -> Evaluation:
    """Score every trial by the cosine of stored embeddings at each dimension, and measure.

    The score at d is the cosine of the first d dimensions, renormalised. On a store of the tap ``embedding`` this is
    plain truncation, the baseline of a nested model.

    Args:
        store: embeddings of the utterances of the trials.
        trials: labelled, of both classes, none twice; names are ``utt_id`` or ``path`` of the store.
        table: where speakers, conditions and ``synthetic`` come from; without it, speakers come from the store.
        dims: prefix lengths; None: those of the store, or its full size if it has none.
        skip_missing: leave out trials that name what the store has not, and say so, instead of refusing.
        labels: added to those of the store.
        settings: operating point, replicates and kind of the intervals.
        progress: told the rows measured.
        **given: speakers, conditions, steps, allow_overlap: see `scoring.pipeline.score_trials`.

    Raises:
        StoreError: utterances that the store does not hold.
        ScoresError: a dimension that the store does not have, or a vector without a direction.
        NestvoxError: as `score_trials` and `evaluate_scored`.
    """
    name = store.metadata.model
    known = known_store(name, trials, store, dims=dims, labels=labels, skip_missing=skip_missing)
    settings.detailed(known.dims)
    return evaluate_scored(score_trials(known, table=table, **given), settings=settings, progress=progress)


def evaluate_model(
    model: NamedModel,
    trials: Trials,
    table: UtteranceTable,
    embed: Callable[[UtteranceTable, Path], EmbeddingStore],
    *,
    dims: Sequence[int] | None = None,
    skip_missing: bool = False,
    labels: Sequence[str] = (),
    settings: Settings = USUAL,
    progress: Progress = silent,
    **given: Unpack[Given],
) -> Evaluation:
    """Embed the utterances that the trials name, each once, then score and measure as `evaluate_store` does.

    On trials that the model's head was chosen or its thresholds were set on, every number carries the label
    ``selected``.

    Args:
        model: what embeds, e.g. `nestvox.SpeakerModel`.
        trials: labelled; names are ``utt_id`` or ``path`` of the table.
        table: utterances with their audio; also gives speakers and conditions.
        embed: makes a store in an empty folder from a table, e.g. `extraction.embed.embed_table` bound to the model.
        dims: prefix lengths; None: those of the model.
        skip_missing: leave out trials that name what the table has not, and say so, instead of refusing.
        labels: added to those of the material.
        settings: operating point, replicates and kind of the intervals.
        progress: told the rows measured.
        **given: conditions, steps, allow_overlap: see `scoring.pipeline.score_trials`.

    Raises:
        FingerprintError: `embed` made the store with another model.
        NestvoxError: as `scoring.system.known_model`, `score_trials` and `evaluate_scored`.
    """
    known = known_model(model.name, trials, model, table, embed, dims=dims, labels=labels, skip_missing=skip_missing)
    settings.detailed(known.dims)
    return evaluate_scored(score_trials(known, table=table, **given), settings=settings, progress=progress)
