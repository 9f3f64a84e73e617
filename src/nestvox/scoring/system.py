"""One system on one trial list: its scores at every dimension, whether they came from a file, a store or a model.

Notation: N trials, D vector size.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import FingerprintError, ScoresError
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.heads.contract import cut_in_words
from nestvox.model.threshold import COSINE, ScoreSpace
from nestvox.scoring.cosine import prefix_cosines
from nestvox.scoring.refusals import align_scores

__all__ = [
    "NamedModel",
    "System",
    "TrialVectors",
    "check_system",
    "cut_notes",
    "system_of_model",
    "system_of_scores",
    "system_of_store",
]

Scores = NDArray[np.float64]


class NamedModel(Protocol):
    """What `system_of_model` needs to know of a model; `nestvox.SpeakerModel` is one."""

    @property
    def fingerprint(self) -> str:
        """What its embeddings carry."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Prefix lengths that are embeddings."""

    @property
    def training_speakers(self) -> tuple[str, ...]:
        """Keys of the speakers it was trained on."""


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
        norms: dimension to the mean length of the embeddings' prefixes as they are stored.
        size_bytes: of the file, store or model folder, if there is one.
        speakers: names of both sides, (N,) each, if the store knows them.
        notes: what a reader has to know, in sentences.
        model: name of the model that made the embeddings, if known.
        space: what the scores mean.
        embedded: what the scores were made of; None: they came from a file.
    """

    name: str
    scores: Mapping[int | None, Scores]
    trials_sha256: str
    source: str
    fingerprint: str | None = None
    labels: tuple[str, ...] = ()
    training_speakers: tuple[str, ...] = ()
    chosen_on: tuple[str, ...] = ()
    norms: Mapping[int, float] = field(default_factory=dict)
    size_bytes: int | None = None
    speakers: tuple[Sequence[str], Sequence[str]] | None = None
    notes: tuple[str, ...] = ()
    model: str | None = None
    space: ScoreSpace = COSINE
    embedded: TrialVectors | None = None

    @property
    def dims(self) -> tuple[int, ...]:
        """Prefix lengths, ascending; none for a score file."""
        return tuple(dim for dim in self.scores if dim is not None)


def system_of_scores(
    name: str,
    trials: Trials,
    scores: pl.DataFrame,
    *,
    source: str | None = None,
    size_bytes: int | None = None,
    labels: Sequence[str] = (),
) -> System:
    """A system whose scores exist already.

    Args:
        name: for tables and sentences.
        trials: without duplicates.
        scores: a frame with ``enrol``, ``test``, ``score`` in any order, and ``fingerprint`` where the scorer wrote it.
        source: name of the score file, for messages.
        size_bytes: of the file.
        labels: what every number has to carry.

    Raises:
        ScoresError: non-finite or missing scores, listed.
        FingerprintError: scores of several models.
    """
    values, n_ignored = align_scores(trials, scores, source=source)
    fingerprint = str(scores["fingerprint"][0]) if "fingerprint" in scores.columns and len(scores) else None
    notes = (f"{n_ignored} scores of {name} that no trial names were ignored.",) if n_ignored else ()
    return System(
        name,
        {None: values},
        trials.sha256,
        source or name,
        fingerprint=fingerprint,
        labels=tuple(labels),
        size_bytes=size_bytes,
        notes=notes,
        space=ScoreSpace("given"),
    )


def system_of_store(
    name: str, trials: Trials, store: EmbeddingStore, *, dims: Sequence[int] | None = None, labels: Sequence[str] = ()
) -> System:
    """A system that scores by the cosine of stored embeddings.

    Args:
        name: for tables and sentences.
        trials: names are ``utt_id`` or ``path`` of the store.
        store: embeddings of the utterances of the trials.
        dims: prefix lengths; None: those of the store, or its full size if it has none.
        labels: added to those of the store.

    Raises:
        StoreError: utterances that the store does not hold.
        ScoresError: a dimension that the store does not have, or a vector without a direction.
    """
    sides = (trials.frame["enrol"].to_list(), trials.frame["test"].to_list())
    return _of_store(name, trials, store, sides, dims, labels)


def system_of_model(
    name: str,
    trials: Trials,
    model: NamedModel,
    table: UtteranceTable,
    embed: Callable[[UtteranceTable, Path], EmbeddingStore],
    *,
    dims: Sequence[int] | None = None,
    size_bytes: int | None = None,
    chosen_on: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> System:
    """A model: the utterances that the trials name are embedded, each once, and scored by cosine.

    Args:
        name: for tables and sentences.
        trials: names are ``utt_id`` or ``path`` of the table.
        model: whose embeddings they are.
        table: utterances with their audio.
        embed: makes a store in an empty folder from a table, e.g. `extraction.embed.embed_table` bound to the model.
        dims: prefix lengths; None: those of the model.
        size_bytes: of the model folder.
        chosen_on: hashes of the trials that its head was chosen or its thresholds were set on.
        labels: added to those of the material.

    Raises:
        FingerprintError: `embed` used another model.
        TableError, StoreError, ScoresError, AudioError: as the steps raise them.
    """
    enrol, test = (table.resolve(trials.frame[side]) for side in ("enrol", "test"))
    part = UtteranceTable(frame=table.frame[np.union1d(enrol, test)], source=table.source, root=table.root)
    # The trials may call an utterance by its path, the store knows it by its name in the table.
    names = (table.frame["utt_id"].gather(enrol).to_list(), table.frame["utt_id"].gather(test).to_list())
    with tempfile.TemporaryDirectory(prefix="nestvox-") as folder:
        store = embed(part, Path(folder) / "store")
        if store.metadata.fingerprint != model.fingerprint:
            raise FingerprintError(
                f"the store of {name} is of the model {store.metadata.fingerprint}, not {model.fingerprint}"
            )
        found = _of_store(name, trials, store, names, dims or model.dims, labels)
    return replace(
        found,
        source=name,
        size_bytes=size_bytes,
        training_speakers=model.training_speakers,
        chosen_on=tuple(chosen_on),
    )


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


def _of_store(
    name: str,
    trials: Trials,
    store: EmbeddingStore,
    names: tuple[list[str], list[str]],
    dims: Sequence[int] | None,
    labels: Sequence[str],
) -> System:
    """`names`: what the store calls the two sides of the trials."""
    sides = [store.index_of(side) for side in names]
    used, positions = np.unique(np.concatenate(sides), return_inverse=True)
    enrol, test = np.split(positions.astype(np.int64), 2)
    vectors = store.take(used)
    wanted = tuple(dims) if dims else store.metadata.dims or (vectors.shape[1],)
    made_for = store.metadata.dims or (vectors.shape[1],)
    scores = prefix_cosines(vectors, enrol, test, wanted, names=[store.utt_ids[row] for row in used])
    squares = np.cumsum(np.square(vectors, dtype=np.float64), axis=1)
    named = [store.speakers[row] for row in used]
    speakers = None
    if None not in named:
        speakers = tuple([str(named[row]) for row in side] for side in (enrol, test))
    return System(
        name,
        dict(scores.items()),
        trials.sha256,
        str(store.path),
        fingerprint=store.metadata.fingerprint,
        labels=tuple(sorted({*labels, *store.metadata.labels})),
        training_speakers=store.metadata.training_speakers,
        norms={dim: float(np.sqrt(squares[:, dim - 1]).mean()) for dim in scores},
        size_bytes=sum(shard.size_bytes for shard in store.metadata.shards),
        speakers=None if speakers is None else (speakers[0], speakers[1]),
        model=store.metadata.model,
        embedded=TrialVectors(vectors, enrol, test, store.metadata.tap),
        notes=cut_notes(name, wanted, made_for),
    )
