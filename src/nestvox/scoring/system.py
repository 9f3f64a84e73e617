"""One system on one trial list: its scores at every dimension, whether they came from a file, a store or a model.

Notation: N trials, D vector size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestvox.corpora.trials import Trials
from nestvox.model.threshold import COSINE, ScoreSpace

Scores = NDArray[np.float64]


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
