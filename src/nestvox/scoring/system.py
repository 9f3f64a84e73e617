"""One system on one trial list: its scores at every dimension, whether they came from a file, a store or a model.

Notation: N trials, D vector size.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_numbers
from nestvox.audio.condition import doubts
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import ScoresError
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.heads.contract import cut_in_words
from nestvox.model.threshold import COSINE, ScoreSpace
from nestvox.scoring.cosine import prefix_cosines
from nestvox.scoring.missing import without_missing
from nestvox.scoring.paths import path_in_store
from nestvox.scoring.refusals import align_scores, check_scale, refuse_another_model

Scores = NDArray[np.float64]


class NamedModel(Protocol):
    """What `known_model` needs of a model; `nestvox.SpeakerModel` is one."""

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

    @property
    def chosen_on(self) -> tuple[str, ...]:
        """Hashes of the trials that its head was chosen or its thresholds were set on."""

    def check_dim(self, dim: int | None, /) -> int:
        """Refuse a dimension that it does not have."""


@dataclass(frozen=True, eq=False)
class TrialVectors:
    """The embeddings that N trials name, each once.

    Attributes:
        vectors: (U, D) float32 as they are stored, not normalised.
        enrol: (N,) row of the first side.
        test: (N,) row of the second side.
        tap: which output of the model they are, ``nested`` or ``embedding``.
    """

    vectors: NDArray[np.float32]
    enrol: NDArray[np.int64]
    test: NDArray[np.int64]
    tap: str = "nested"

    def norms(self, dim: int) -> tuple[Scores, Scores]:
        """Lengths of the first `dim` dimensions of both sides, (N,) each."""
        lengths = np.sqrt(np.einsum("ij,ij->i", *[self.vectors[:, :dim]] * 2, dtype=np.float64))
        return lengths[self.enrol], lengths[self.test]

    def mean_norm(self, dim: int) -> float:
        """Mean length of the first `dim` dimensions, every embedding once."""
        squares = np.cumsum(np.square(self.vectors[:, :dim], dtype=np.float64), axis=1)
        return float(np.sqrt(squares[:, -1]).mean())


@dataclass(frozen=True, eq=False)
class System:
    """Scores of one system on N trials.

    Attributes:
        name: for tables and sentences.
        scores: dimension (None: a score file) to (N,) finite scores in the order of the trials; dimensions ascending.
        trials_sha256: of the trials; systems on different trials are not compared.
        source: file or folder.
        fingerprint: of the model, if known.
        labels: what every number has to carry.
        training_speakers: keys, see `corpora.overlap.speaker_key`.
        chosen_on: hashes of the trials that the model's head was chosen or its thresholds were set on.
        size_bytes: of the file, store or model folder, if there is one.
        speakers: names of both sides, (N,) each, if the store knows them.
        notes: what a reader has to know, in sentences.
        model: name of the model that made the embeddings, if known.
        space: what the scores mean.
        embedded: what the scores were made of; None: they came from a file.
        n_ignored_scores: scores of the file that no trial names.
        path_of: audio file of a name of the trials, None where it is not known.
    """

    name: str
    scores: Mapping[int | None, Scores]
    trials_sha256: str
    source: str
    fingerprint: str | None = None
    labels: tuple[str, ...] = ()
    training_speakers: tuple[str, ...] = ()
    chosen_on: tuple[str, ...] = ()
    size_bytes: int | None = None
    speakers: tuple[Sequence[str], Sequence[str]] | None = None
    notes: tuple[str, ...] = ()
    model: str | None = None
    space: ScoreSpace = COSINE
    embedded: TrialVectors | None = None
    n_ignored_scores: int = 0
    path_of: Callable[[str], str | None] = lambda _: None

    @property
    def dims(self) -> tuple[int, ...]:
        """Prefix lengths, ascending; none for a score file."""
        return tuple(dim for dim in self.scores if dim is not None)


@dataclass(frozen=True, eq=False)
class Unscored:
    """A system that is known and has not scored yet, so that whatever can be refused is refused before it does.

    Attributes:
        system: without scores.
        trials: that it will score.
        dims: at which it will; none for a score file.
        tap: which output of the model is scored; empty for a score file.
        score: makes the same system with scores.
    """

    system: System
    trials: Trials
    dims: tuple[int, ...]
    tap: str
    score: Callable[[], System]


def system_of_scores(
    name: str,
    trials: Trials,
    scores: pl.DataFrame | ArrayLike,
    *,
    dim: int | None = None,
    model: str | None = None,
    fingerprint: str | None = None,
    training_speakers: Sequence[str] = (),
    source: str | None = None,
    size_bytes: int | None = None,
    labels: Sequence[str] = (),
) -> System:
    """A system whose scores exist already.

    Args:
        name: for tables and sentences.
        trials: without duplicates.
        scores: a frame with ``enrol``, ``test``, ``score`` in any order (more than the trials name is ignored and
            counted) and ``fingerprint`` where the scorer wrote it, or (N,) numbers in the order of the trials.
        dim: prefix length that they were made with, if any.
        model: name of the model that made them.
        fingerprint: of that model; None: what the scorer wrote.
        training_speakers: keys of its training speakers, see `corpora.overlap.speaker_key`.
        source: name of the score file, for messages.
        size_bytes: of the file.
        labels: what every number has to carry.

    Raises:
        ScoresError: non-finite or missing scores, listed.
        FingerprintError: scores of several models, or of another than `fingerprint`.
    """
    n_ignored = 0
    if isinstance(scores, pl.DataFrame):
        values, n_ignored = align_scores(trials, scores, source=source)
        if "fingerprint" in scores.columns and len(scores):
            written = str(scores["fingerprint"][0])
            fingerprint = fingerprint or written
            refuse_another_model(written, fingerprint, source or "the scores")
    else:
        values = as_numbers(scores, "scores", error=lambda problem: ScoresError(problem, source=source))
        if values.shape != (len(trials),):
            raise ScoresError(
                f"{len(trials)} trials need {len(trials)} scores, got shape {values.shape}", source=source
            )
        check_scale(values, source=source)
    notes = (f"{n_ignored} scores that no trial names were ignored ({source or name}).",) if n_ignored else ()
    return System(
        name,
        {dim: values},
        trials.sha256,
        source or name,
        fingerprint=fingerprint,
        labels=tuple(labels),
        training_speakers=tuple(training_speakers),
        size_bytes=size_bytes,
        notes=notes,
        model=model,
        space=ScoreSpace("given"),
        n_ignored_scores=n_ignored,
    )


def known_scores(system: System, trials: Trials) -> Unscored:
    """A system that has its scores already, of these trials, where one is wanted that has not."""
    tap = "" if system.embedded is None else system.embedded.tap
    return Unscored(system, trials, system.dims, tap, lambda: system)


def known_store(
    name: str,
    trials: Trials,
    store: EmbeddingStore,
    *,
    dims: Sequence[int] | None = None,
    labels: Sequence[str] = (),
    skip_missing: bool = False,
) -> Unscored:
    """A system that will score by the cosine of stored embeddings.

    Args:
        name: for tables and sentences.
        trials: names are ``utt_id`` or ``path`` of the store.
        store: embeddings of the utterances of the trials.
        dims: prefix lengths; None: those of the store, or its full size if it has none.
        labels: added to those of the store.
        skip_missing: leave out trials that name what the store has not, and say so, instead of refusing.

    Raises:
        StoreError: utterances that the store does not hold.
    """
    left_out: tuple[str, ...] = ()
    if skip_missing:
        there = {*store.utt_ids, *(path for path in store.paths if path is not None)}
        trials, left_out = without_missing(trials, there)
    return _known_store(name, trials, store, _sides(trials), dims, labels, left_out)


def system_of_store(
    name: str, trials: Trials, store: EmbeddingStore, *, dims: Sequence[int] | None = None, labels: Sequence[str] = ()
) -> System:
    """A system that scores by the cosine of stored embeddings: `known_store`, scored.

    Raises:
        StoreError: utterances that the store does not hold.
        ScoresError: a dimension that the store does not have, or a vector without a direction.
    """
    return known_store(name, trials, store, dims=dims, labels=labels).score()


def known_model(
    name: str,
    trials: Trials,
    model: NamedModel,
    table: UtteranceTable,
    embed: Callable[[UtteranceTable, Path], EmbeddingStore],
    *,
    dims: Sequence[int] | None = None,
    size_bytes: int | None = None,
    labels: Sequence[str] = (),
    skip_missing: bool = False,
) -> Unscored:
    """A model that will embed the utterances that the trials name, each once, and score them by cosine.

    Args:
        name: for tables and sentences.
        trials: names are ``utt_id`` or ``path`` of the table.
        model: whose embeddings they are.
        table: utterances with their audio.
        embed: makes a store in an empty folder from a table, e.g. `extraction.embed.embed_table` bound to the model.
        dims: prefix lengths; None: those of the model.
        size_bytes: of the model folder.
        labels: added to those of the material.
        skip_missing: leave out trials that name what the table has not, and say so, instead of refusing.

    Raises:
        TableError: the table lacks utterances of the trials.
        ModelError: a dimension that the model does not have.
        FingerprintError, StoreError, ScoresError, AudioError: when it scores: `embed` used another model, or as the
            steps raise them.
    """
    left_out: tuple[str, ...] = ()
    if skip_missing:
        trials, left_out = without_missing(trials, {*table.frame["utt_id"], *table.frame["path"]})
    enrol, test = (table.resolve(trials.frame[side]) for side in ("enrol", "test"))
    wanted = tuple(dims) if dims else model.dims
    for dim in wanted:
        model.check_dim(dim)
    known = System(
        name,
        {},
        trials.sha256,
        name,
        fingerprint=model.fingerprint,
        training_speakers=model.training_speakers,
        chosen_on=model.chosen_on,
        size_bytes=size_bytes,
        model=model.name,
    )

    def score() -> System:
        part = UtteranceTable(frame=table.frame[np.union1d(enrol, test)], source=table.source, root=table.root)
        # The trials may call an utterance by its path, the store knows it by its name in the table.
        names = table.frame["utt_id"].gather(enrol), table.frame["utt_id"].gather(test)
        with tempfile.TemporaryDirectory(prefix="nestvox-") as folder:
            store = embed(part, Path(folder) / "store")
            refuse_another_model(store.metadata.fingerprint, model.fingerprint, f"the store of {name}")
            sides = names[0].to_list(), names[1].to_list()
            found = _known_store(name, trials, store, sides, wanted, labels, left_out).score()
        return replace(
            known,
            scores=found.scores,
            labels=found.labels,
            notes=found.notes,
            embedded=found.embedded,
            speakers=found.speakers,
        )

    return Unscored(known, trials, wanted, "nested", score)


def cut_notes(name: str, dims: Sequence[int], made_for: Sequence[int]) -> tuple[str, ...]:
    """A sentence where embeddings are cut of a model that is not nested.

    Args:
        name: of the model.
        dims: prefix lengths that are scored.
        made_for: those that the model was made for, the last its full size.
    """
    cut = [dim for dim in sorted(dims) if cut_in_words(dim, made_for)]
    if not cut:
        return ()
    shown = ", ".join(map(str, cut))
    return (
        f"{name} is not nested: {shown} of {made_for[-1]} dimensions are plain truncation, what a head has to beat.",
    )


def check_system(system: System, trials: Trials) -> None:
    """Refuse scores of other trials.

    Raises:
        ScoresError: the hash of the trials differs, or a dimension has not one finite score a trial.
    """
    if system.trials_sha256 != trials.sha256:
        raise ScoresError(
            f"{system.name} was scored on trials {system.trials_sha256[:12]}, the others on {trials.sha256[:12]} "
            f"({trials.source}); systems are compared on the same trials only"
        )
    for dim, values in system.scores.items():
        if values.shape != (len(trials),) or not np.isfinite(values).all():
            at = "" if dim is None else f" at dimension {dim}"
            raise ScoresError(f"{system.name}{at} has no finite score for each of the {len(trials)} trials")


def _sides(trials: Trials) -> tuple[list[str], list[str]]:
    return trials.frame["enrol"].to_list(), trials.frame["test"].to_list()


def _known_store(
    name: str,
    trials: Trials,
    store: EmbeddingStore,
    names: tuple[list[str], list[str]],
    dims: Sequence[int] | None,
    labels: Sequence[str],
    notes: tuple[str, ...],
) -> Unscored:
    """`names`: what the store calls the two sides of the trials."""
    metadata = store.metadata
    rows = [store.index_of(side) for side in names]
    used, positions = np.unique(np.concatenate(rows), return_inverse=True)
    enrol, test = np.split(positions.astype(np.int64), 2)
    made_for = metadata.dims or (metadata.dim,)
    wanted = tuple(sorted(set(dims))) if dims else made_for
    stored, conditions = store.speakers, store.conditions
    named = [stored[row] for row in used]
    speakers = None if None in named else ([str(named[row]) for row in enrol], [str(named[row]) for row in test])
    known = System(
        name,
        {},
        trials.sha256,
        str(store.path),
        fingerprint=metadata.fingerprint,
        labels=tuple(sorted({*labels, *metadata.labels})),
        training_speakers=metadata.training_speakers,
        size_bytes=sum(shard.size_bytes for shard in metadata.shards),
        speakers=speakers,
        notes=(*notes, *cut_notes(name, wanted, made_for), *doubts(conditions[row] for row in used)),
        model=metadata.model,
        path_of=path_in_store(store),
    )

    def score() -> System:
        vectors, utt_ids = store.take(used), store.utt_ids
        scores = prefix_cosines(vectors, enrol, test, wanted, names=[utt_ids[row] for row in used])
        return replace(known, scores=dict(scores.items()), embedded=TrialVectors(vectors, enrol, test, metadata.tap))

    return Unscored(known, trials, wanted, metadata.tap, score)
