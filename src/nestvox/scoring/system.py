"""One system on one trial list: its scores at every dimension, whether they came from a file, a store or a model.

Scores of embeddings are cosines, those of every prefix from one pass over the vectors.

Notation: U utterances, D vector size, N trials.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_count, as_rows, as_vectors, fit_to_square
from nestvox.corpora.trials import Trials
from nestvox.errors import ScoresError
from nestvox.model.threshold import COSINE, ScoreSpace
from nestvox.progress import Progress, silent

_BLOCK = 2**22  # numbers of one side held at once

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


def prefix_cosines(
    vectors: ArrayLike,
    enrol: ArrayLike,
    test: ArrayLike,
    dims: Sequence[int],
    *,
    names: Sequence[str] | None = None,
    progress: Progress = silent,
) -> dict[int, NDArray[np.float64]]:
    """Cosine of the first d dimensions, renormalised for each d, accumulated in float64.

    The inner product of a prefix is that of the next shorter one plus the columns between, so all dimensions cost as
    much as the largest.

    Args:
        vectors: (U, D) of any real type, need not be normalised.
        enrol: (N,) rows of the first side.
        test: (N,) rows of the second side.
        dims: prefix lengths in 1 to D, in any order.
        names: U names for messages.
        progress: told the trials scored.

    Returns:
        d to (N,) scores in [-1, 1], d ascending.

    Raises:
        ScoresError: a dimension or row out of range, or a vector that is zero or not finite in some prefix.
    """
    table = fit_to_square(as_vectors(vectors, "embeddings", finite=False))
    enrol, test = (as_rows(rows, "rows of the trials", length=len(table)) for rows in (enrol, test))
    if len(enrol) != len(test):
        raise ScoresError(f"trials have two sides of one length, got {len(enrol)} and {len(test)} rows")
    size = table.shape[1]
    ascending = sorted({as_count(dim, "a dimension", least=0, error=ScoresError) for dim in dims})
    if not ascending or ascending[0] < 1 or ascending[-1] > size:
        raise ScoresError(f"dimensions must lie in 1 to {size}, got {', '.join(map(str, ascending)) or 'none'}")
    pieces = list(itertools.pairwise([0, *ascending]))
    squares = np.cumsum(
        [np.einsum("ij,ij->i", part, part) for part in (table[:, a:b].astype(np.float64) for a, b in pieces)], axis=0
    )  # (dims, U)
    for dim, square in zip(ascending, squares, strict=True):
        wrong = np.flatnonzero(~(np.isfinite(square) & (square > 0)))
        if len(wrong):
            first = int(wrong[0])
            raise ScoresError(
                f"the first {dim} dimensions of {len(wrong)} embeddings are zero or not finite and have no cosine; "
                f"the first is {names[first] if names is not None else f'row {first}'}"
            )
    norms = np.sqrt(squares)
    scores = {dim: np.empty(len(enrol)) for dim in ascending}
    rows = max(1, _BLOCK // size)
    for start in range(0, len(enrol), rows):
        left, right = enrol[start : start + rows], test[start : start + rows]
        a, b = table[left].astype(np.float64), table[right].astype(np.float64)
        product = np.zeros(len(left))
        for (first, last), dim, norm in zip(pieces, ascending, norms, strict=True):
            product += np.einsum("ij,ij->i", a[:, first:last], b[:, first:last])
            scores[dim][start : start + rows] = np.clip(product / (norm[left] * norm[right]), -1.0, 1.0)
        progress(min(start + rows, len(enrol)), len(enrol))
    return scores
