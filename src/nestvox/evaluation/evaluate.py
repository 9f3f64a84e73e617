"""Error rates of scores, of a store of embeddings, or of a model, on a list of trials.

Three roads to the scores; all end in `measure.measure`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_numbers
from nestvox.audio.segment import Segment
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import FingerprintError, ScoresError, TableError
from nestvox.evaluation.measure import Origin, measure
from nestvox.evaluation.results import Evaluation
from nestvox.evaluation.settings import USUAL, Settings
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.progress import Progress, silent
from nestvox.scoring.conditions import Sides, marks_of, values_of_sides
from nestvox.scoring.cosine import prefix_cosines
from nestvox.scoring.missing import without_missing
from nestvox.scoring.paths import path_in_stores, path_in_table
from nestvox.scoring.refusals import align_scores, check_scale, check_trials, chosen_on_these
from nestvox.scoring.speakers import (
    TrialSpeakers,
    given_speakers,
    guess_speakers,
    speakers_of_sides,
    training_overlap,
)
from nestvox.scoring.system import cut_notes

__all__ = ["Embedder", "evaluate_model", "evaluate_scores", "evaluate_store"]

_EMBED_BATCH = 16


class Embedder(Protocol):
    """What `evaluate_model` needs of a model; `nestvox.SpeakerModel` is one."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def fingerprint(self) -> str:
        """What its embeddings carry."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Prefix lengths that are embeddings."""

    @property
    def training_speakers(self) -> tuple[str, ...]:
        """Keys of the speakers it was trained on."""

    def embed(self, audio: Any, /, *, dim: int | None = None) -> NDArray[np.float32]:
        """(n, dim) embeddings of n audio files."""


def evaluate_scores(
    trials: Trials,
    scores: pl.DataFrame | ArrayLike,
    *,
    speakers: tuple[ArrayLike, ArrayLike] | None = None,
    table: UtteranceTable | None = None,
    conditions: Mapping[str, Sides] | Sequence[str] = (),
    dim: int | None = None,
    model: str | None = None,
    fingerprint: str | None = None,
    llr: bool = False,
    training_speakers: Sequence[str] = (),
    allow_overlap: bool = False,
    labels: Sequence[str] = (),
    settings: Settings = USUAL,
    source: str | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Measure scores that exist already; higher means "more likely the same speaker".

    Args:
        trials: labelled, of both classes, none twice.
        scores: a frame with ``enrol``, ``test``, ``score`` in any order (more than the trials name is ignored and
            counted), or (N,) numbers in the order of the trials.
        speakers: names or numbers of the speakers of both sides, (N,) each. Without them the table is asked, then
            names like VoxCeleb's, else utterances are resampled and the interval says so.
        table: utterances that the trials name: speakers, conditions and labels of marks come from it.
        conditions: columns of the table, or column name to the values of both sides, (N,) each.
        dim: prefix length that the scores were made with, if any.
        model: name of the model that made them.
        fingerprint: of that model.
        llr: the scores are log likelihood ratios in nats, so that their calibration can be judged.
        training_speakers: keys of its training speakers, see `corpora.overlap.speaker_key`.
        allow_overlap: evaluate in spite of shared speakers, with the label ``leaky``.
        labels: what every number has to carry.
        settings: operating point, replicates and kind of the intervals.
        source: name of the score file, for messages.
        progress: told the rows measured.

    Raises:
        TrialsError: unknown labels, one class only, duplicates, or speakers that contradict the labels.
        ScoresError: non-finite or missing scores.
        FingerprintError: scores of several models.
        OverlapError: training speakers stand in the trials.
        TableError: the table lacks utterances of the trials or a column.
    """
    targets = check_trials(trials)
    n_ignored = 0
    if isinstance(scores, pl.DataFrame):
        if "fingerprint" in scores.columns and fingerprint is not None:
            _refuse_another_model(scores["fingerprint"].unique().to_list(), fingerprint, source or "the scores")
        values, n_ignored = align_scores(trials, scores, source=source)
    else:
        values = as_numbers(scores, "scores", error=lambda problem: ScoresError(problem, source=source))
        if values.shape != (len(targets),):
            raise ScoresError(
                f"{len(targets)} trials need {len(targets)} scores, got shape {values.shape}", source=source
            )
        check_scale(values, source=source)
    known = _speakers(trials, table) if speakers is None else given_speakers(trials, *speakers)
    sides = _sides(trials, table, conditions)
    more_labels, notes = training_overlap(known, training_speakers, allow=allow_overlap)
    if n_ignored:
        notes += (f"{n_ignored} scores that no trial names were ignored.",)
    origin = Origin(
        model,
        fingerprint,
        (*labels, *more_labels, *marks_of(trials, table)),
        notes,
        n_ignored,
        llr=llr,
        path_of=path_in_table(table),
    )
    return measure(
        trials,
        targets,
        {dim: values},
        speakers=known,
        sides=sides,
        origin=origin,
        settings=settings,
        progress=progress,
    )


def evaluate_store(
    store: EmbeddingStore,
    trials: Trials,
    *,
    test_store: EmbeddingStore | None = None,
    table: UtteranceTable | None = None,
    dims: Sequence[int] | None = None,
    conditions: Mapping[str, Sides] | Sequence[str] = (),
    allow_overlap: bool = False,
    skip_missing: bool = False,
    labels: Sequence[str] = (),
    settings: Settings = USUAL,
    progress: Progress = silent,
) -> Evaluation:
    """Score every trial by the cosine of stored embeddings at each dimension, and measure.

    The score at d is the cosine of the first d dimensions, renormalised. On a store of the tap ``embedding`` this is
    plain truncation, the baseline of a nested model.

    Args:
        store: embeddings of the utterances of the trials (of the first side, if `test_store` is given).
        trials: labelled, of both classes, none twice; names are ``utt_id`` or ``path`` of the store.
        test_store: embeddings of the second side, by the same model.
        table: where speakers, conditions and ``synthetic`` come from; without it, speakers come from the store.
        dims: prefix lengths; None: those of the store, or its full size if it has none.
        conditions: columns of the table, or column name to the values of both sides.
        allow_overlap: evaluate in spite of shared speakers, with the label ``leaky``.
        skip_missing: leave out trials that name what the store has not, and say so, instead of refusing.
        labels: added to those of the store.
        settings: operating point, replicates and kind of the intervals.
        progress: told the rows measured.

    Raises:
        FingerprintError: the two stores are of different models.
        StoreError: utterances that the store does not hold.
        ScoresError: a dimension that the store does not have, or a vector without a direction.
        TrialsError, OverlapError, TableError: as `evaluate_scores`.
    """
    metadata = store.metadata
    other = store if test_store is None else test_store
    _refuse_another_model([other.metadata.fingerprint], metadata.fingerprint, str(other.path))
    trials, left_out = without_missing(trials, _names(store), _names(other)) if skip_missing else (trials, ())
    targets = check_trials(trials)
    enrol_rows = store.index_of(trials.frame["enrol"].to_list())
    test_rows = other.index_of(trials.frame["test"].to_list())
    known = _speakers(trials, table, stored=(store.speakers, other.speakers, enrol_rows, test_rows))
    sides = _sides(trials, table, conditions)
    # Before the scores are looked at: a number that may not be shown is not computed either.
    more_labels, notes = training_overlap(known, metadata.training_speakers, allow=allow_overlap)
    if test_store is None:
        used, positions = np.unique(np.concatenate([enrol_rows, test_rows]), return_inverse=True)
        enrol, test = np.split(positions.astype(np.int64), 2)
        vectors, names = store.take(used), [store.utt_ids[row] for row in used]
    else:
        (first, enrol), (second, test) = (np.unique(rows, return_inverse=True) for rows in (enrol_rows, test_rows))
        enrol, test = enrol.astype(np.int64), test.astype(np.int64) + len(first)
        vectors = np.concatenate([store.take(first), other.take(second)])
        names = [*(store.utt_ids[row] for row in first), *(other.utt_ids[row] for row in second)]
    wanted = tuple(dims) if dims else metadata.dims or (vectors.shape[1],)
    scores = prefix_cosines(vectors, enrol, test, wanted, names=names)
    origin = Origin(
        metadata.model,
        metadata.fingerprint,
        (*labels, *metadata.labels, *other.metadata.labels, *more_labels, *marks_of(trials, table)),
        notes + left_out + cut_notes(metadata.model, wanted, metadata.dims or (vectors.shape[1],)),
        path_of=path_in_table(table) if table is not None else path_in_stores(store, other),
    )
    return measure(
        trials,
        targets,
        scores,
        speakers=known,
        sides=sides,
        origin=origin,
        settings=settings,
        progress=progress,
    )


def evaluate_model(
    model: Embedder,
    trials: Trials,
    table: UtteranceTable,
    *,
    embed: Callable[[UtteranceTable, Path], EmbeddingStore] | None = None,
    dims: Sequence[int] | None = None,
    conditions: Mapping[str, Sides] | Sequence[str] = (),
    allow_overlap: bool = False,
    skip_missing: bool = False,
    chosen_on: Sequence[str] = (),
    labels: Sequence[str] = (),
    settings: Settings = USUAL,
    progress: Progress = silent,
) -> Evaluation:
    """Embed the utterances that the trials name, each once, then score and measure as `evaluate_store` does.

    Args:
        model: what embeds.
        trials: labelled; names are ``utt_id`` or ``path`` of the table.
        table: utterances with their audio; also gives speakers and conditions.
        embed: makes a store in an empty folder from a table, e.g. `extraction.embed.embed_table` bound to the model;
            batches and decodes in parallel. None: `model.embed` on one group of files after the other.
        dims: prefix lengths; None: those of the model.
        conditions: columns of the table, or column name to the values of both sides.
        allow_overlap: evaluate in spite of shared speakers, with the label ``leaky``.
        skip_missing: leave out trials that name what the table has not, and say so, instead of refusing.
        chosen_on: hashes of the trials that the model's head was chosen or its thresholds were set on; on one of these
            every number carries the label ``selected``.
        labels: added to those of the material.
        settings: operating point, replicates and kind of the intervals.
        progress: told the utterances embedded (only without `embed`, which has its own).

    Raises:
        FingerprintError: `embed` made the store with another model.
        TrialsError, ScoresError, OverlapError, TableError, AudioError: as the steps raise them.
    """
    left_out: tuple[str, ...] = ()
    if skip_missing:
        there = {*table.frame["utt_id"], *table.frame["path"]}
        trials, left_out = without_missing(trials, there, there)
    targets = check_trials(trials)
    enrol_rows, test_rows = table.resolve(trials.frame["enrol"]), table.resolve(trials.frame["test"])
    known = _speakers(trials, table)
    sides = _sides(trials, table, conditions)
    more_labels, notes = training_overlap(known, model.training_speakers, allow=allow_overlap)
    chosen_labels, chosen_notes = chosen_on_these(trials, chosen_on)
    used, positions = np.unique(np.concatenate([enrol_rows, test_rows]), return_inverse=True)
    enrol, test = np.split(positions.astype(np.int64), 2)
    part = UtteranceTable(frame=table.frame[used], source=table.source, root=table.root)
    names = part.frame["utt_id"].to_list()
    stored_labels: tuple[str, ...] = ()
    if embed is None:
        vectors = _embed_files(model, part, progress)
    else:
        with tempfile.TemporaryDirectory(prefix="nestvox-") as folder:
            store = embed(part, Path(folder) / "store")
            _refuse_another_model([store.metadata.fingerprint], model.fingerprint, "the store that was just made")
            vectors, stored_labels = store.take(store.index_of(names)), store.metadata.labels
    wanted = tuple(dims) if dims else model.dims or (vectors.shape[1],)
    scores = prefix_cosines(vectors, enrol, test, wanted, names=names)
    origin = Origin(
        model.name,
        model.fingerprint,
        (*labels, *stored_labels, *more_labels, *chosen_labels, *marks_of(trials, table)),
        notes + left_out + chosen_notes + cut_notes(model.name, wanted, model.dims or (vectors.shape[1],)),
        path_of=path_in_table(table),
    )
    return measure(trials, targets, scores, speakers=known, sides=sides, origin=origin, settings=settings)


def _embed_files(model: Embedder, table: UtteranceTable, progress: Progress) -> NDArray[np.float32]:
    segments = table.segments()
    if any(segment != Segment(segment.path, duration_s=segment.duration_s) for segment in segments):
        raise TableError(
            "the table cuts utterances out of longer files, or chooses channels, which needs `embed`; or embed it into "
            "a store first",
            source=table.source,
        )
    files = [segment.path for segment in segments]
    parts = []
    for start in range(0, len(files), _EMBED_BATCH):
        parts.append(np.asarray(model.embed(files[start : start + _EMBED_BATCH], dim=model.dims[-1]), dtype=np.float32))
        progress(min(start + _EMBED_BATCH, len(files)), len(files))
    return np.concatenate(parts)


def _names(store: EmbeddingStore) -> set[str]:
    return {*store.utt_ids, *(path for path in store.paths if path is not None)}


def _refuse_another_model(found: Sequence[str], wanted: str, where: str) -> None:
    others = sorted({fingerprint for fingerprint in found if fingerprint != wanted})
    if others:
        raise FingerprintError(
            f"{where} is of the model {', '.join(others)}, the other side of {wanted}; "
            "embeddings and scores of different models cannot be compared: embed both with one model"
        )


def _speakers(
    trials: Trials,
    table: UtteranceTable | None,
    *,
    stored: tuple[Sequence[str | None], Sequence[str | None], NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> TrialSpeakers:
    if table is not None:
        column = values_of_sides(table, trials, ["speaker"])["speaker"]
        return speakers_of_sides(trials, *column, source=f"the speaker column of {Path(table.source).name}")
    if stored is not None:
        enrol_names, test_names, enrol_rows, test_rows = stored
        enrol = [enrol_names[row] for row in enrol_rows]
        test = [test_names[row] for row in test_rows]
        if None not in enrol and None not in test:
            return speakers_of_sides(
                trials, [str(name) for name in enrol], [str(name) for name in test], source="the store's speakers"
            )
    return guess_speakers(trials)


def _sides(
    trials: Trials, table: UtteranceTable | None, conditions: Mapping[str, Sides] | Sequence[str]
) -> dict[str, Sides]:
    if isinstance(conditions, Mapping):
        return dict(conditions)
    if conditions and table is None:
        raise TableError(f"splitting by {', '.join(conditions)} needs the utterance table that has this column")
    return {} if table is None else values_of_sides(table, trials, conditions)
