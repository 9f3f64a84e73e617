"""Gradient refinement of a rotation: better prefixes on the same sphere, full dimension still exact.

Every step draws two vectors of each speaker and asks each prefix to find the second among all seconds: softmax
cross-entropy of the cosines over a temperature (the in-batch contrastive loss of Oord, Li & Vinyals, arXiv 1807.03748),
summed over prefix lengths. The matrix moves along the orthogonal group: the gradient is taken in its tangent space
(skew matrices), smoothed and scaled as Adam does (Kingma & Ba, arXiv 1412.6980) but with one scale for all entries,
and applied by a Cayley transform (Wen & Yin, Mathematical Programming 142, 2013), so that it never leaves the group. A
scale per entry would turn rounding into moves where a gradient is next to nothing: another result on every machine.

A few thousand speakers cannot pin down D * (D - 1) / 2 angles, and a short prefix overfits first. Two measures that
need no more data hold that back: differences between vectors of one speaker are added to vectors of others, and
speakers with one vector get a second one in the same way, so that they serve as well. The rest is stopping early, and
averaging the later steps (Polyak & Juditsky, SIAM J. Control and Optimization 30, 1992): which single step is the best
on a few development speakers is decided by chance.

Notation: N rows, D dimensions, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nestvox.arrays import as_names, as_vectors
from nestvox.errors import ModelError
from nestvox.heads.contract import FloatArray, normalise
from nestvox.heads.rotation import Rotation

Rows = NDArray[np.float32]

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Refinement:
    """Settings of the gradient steps.

    Attributes:
        checkpoints: steps after which a rotation is taken; `refine` averages them, and the last one ends the run.
        weight: of the spread within a speaker in the order that the steps begin with, see `heads.choose`.
        learning_rate: root mean square, in radians, of the plane rotations of a step.
        temperature: of the softmax over cosines.
        spread: upper end of the random factor on the differences that are added; 0 adds none.
        speakers_per_step: batch size B; more of both kinds of speakers are sampled anew in each step.
        shortest: the shortest prefix in the loss; prefix lengths are its doublings below D.
        seed: of every draw.
    """

    checkpoints: tuple[int, ...] = (15, 20, 25, 30, 35, 40)
    weight: float = 0.5
    learning_rate: float = 1e-3
    temperature: float = 0.05
    spread: float = 1.0
    speakers_per_step: int = 2048
    shortest: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.checkpoints or sorted(set(self.checkpoints)) != list(self.checkpoints) or self.checkpoints[0] < 1:
            raise ModelError(f"checkpoints must be ascending and positive, got {self.checkpoints}")
        positive = min(self.learning_rate, self.temperature) > 0 and self.spread >= 0
        if not positive or self.speakers_per_step < 2 or self.shortest < 1:
            raise ModelError(f"settings of the refinement are out of range: {self}")


def refine(
    start: Rotation, vectors: FloatArray, speakers: Sequence[str], settings: Refinement | None = None
) -> Rotation:
    """Return the average of the rotations at all checkpoints of one run.

    Args:
        start: where to begin, e.g. the discriminant order.
        vectors: (N, D).
        speakers: N names.
        settings: of the run; None: the defaults.

    Raises:
        ModelError: as `refinements`.
    """
    settings = settings or Refinement()
    steps = list(refinements(start, vectors, speakers, settings))
    last = steps[-1]
    if len(steps) == 1:
        return last
    matrix = _average([step.matrix for step in steps], _lengths(last.input_dim, settings.shortest))
    return replace(last, matrix=matrix, details={**last.details, "averaged": list(settings.checkpoints)})


def _average(matrices: Sequence[NDArray[np.float64]], dims: Sequence[int]) -> NDArray[np.float64]:
    """The orthogonal matrix whose prefixes lie closest to the prefixes of all of `matrices`.

    A prefix is a subspace, so projections are averaged, not matrices: each direction counts as often as prefixes hold
    it, and a little more the earlier it stands, which keeps the order between two prefix lengths as well.
    """
    size = len(matrices[0])
    place = np.arange(size)
    counts = (place < np.asarray(dims)[:, None]).sum(axis=0) + (size - place) / size
    _, vectors = np.linalg.eigh(sum((matrix * counts) @ matrix.T for matrix in matrices))
    vectors = np.ascontiguousarray(vectors[:, ::-1])
    # The sign of a direction means nothing; that of the last rotation is kept, so that no machine chooses it.
    signs = np.sign(np.einsum("dk,dk->k", vectors, matrices[-1]))
    return np.asarray(vectors * np.where(signs == 0, 1.0, signs))


def _lengths(size: int, shortest: int) -> tuple[int, ...]:
    """Prefix lengths in the loss: doublings of the shortest below D."""
    return tuple(d for d in (shortest * 2**k for k in range(31)) if d < size) or (size,)


def refinements(
    start: Rotation, vectors: FloatArray, speakers: Sequence[str], settings: Refinement
) -> Iterator[Rotation]:
    """Yield a rotation at each of the checkpoints of one run.

    Args:
        start: where to begin, e.g. the discriminant order.
        vectors: (N, D).
        speakers: N names.
        settings: of the run.

    Raises:
        ModelError: fewer than two speakers with two vectors, or vectors of another size than the rotation's.
    """
    draw = _Draw(as_vectors(vectors, "vectors", size=start.input_dim, error=ModelError), speakers, settings)
    size = start.input_dim
    dims = _lengths(size, settings.shortest)
    matrix = start.matrix.copy()
    first = np.zeros_like(matrix)
    second = 0.0
    identity = np.eye(size)
    for step in range(1, settings.checkpoints[-1] + 1):
        a, b = draw.batch()
        _, gradient = contrastive_loss(a, b, matrix.astype(np.float32), dims, settings.temperature)
        tangent = matrix.T @ gradient
        tangent = tangent - tangent.T
        first = _BETA_1 * first + (1 - _BETA_1) * tangent
        second = _BETA_2 * second + (1 - _BETA_2) * float(np.mean(tangent**2))
        corrected = np.sqrt(second / (1 - _BETA_2**step)) + _EPSILON
        move = settings.learning_rate * first / (1 - _BETA_1**step) / corrected
        matrix = matrix @ np.linalg.solve(identity + move / 2, identity - move / 2)
        if step in settings.checkpoints:
            # Products of thousands of orthogonal matrices drift by rounding; the nearest one is taken back.
            left, _, right = np.linalg.svd(matrix)
            details = {**start.details, "start": start.method, "steps": step, "seed": settings.seed}
            yield replace(start, matrix=left @ right, method="refined", details=details)


def contrastive_loss(
    a: FloatArray, b: FloatArray, matrix: FloatArray, dims: Sequence[int], temperature: float
) -> tuple[float, NDArray[np.float64]]:
    """Mean cross-entropy of finding row i of `b` with row i of `a`, summed over prefixes, and its gradient.

    Args:
        a: (B, D); everything is calculated in the precision of these three.
        b: (B, D).
        matrix: (D, D).
        dims: prefix lengths.
        temperature: of the softmax.

    Returns:
        The loss and its (D, D) gradient with respect to `matrix`.
    """
    n = len(a)
    rotated_a, rotated_b = a @ matrix, b @ matrix
    d_a, d_b = np.zeros_like(rotated_a), np.zeros_like(rotated_b)
    loss = 0.0
    diagonal = np.arange(n)
    for dim in dims:
        unit_a, norm_a = _unit(rotated_a[:, :dim])
        unit_b, norm_b = _unit(rotated_b[:, :dim])
        logits = unit_a @ unit_b.T  # (B, B)
        logits /= temperature
        logits -= logits.max(axis=1, keepdims=True)
        right = logits[diagonal, diagonal].copy()
        np.exp(logits, out=logits)
        total = logits.sum(axis=1, keepdims=True)
        loss += float(np.mean(np.log(total[:, 0]) - right))
        logits /= total
        logits[diagonal, diagonal] -= 1
        logits /= n * temperature  # now the gradient with respect to the cosines
        d_a[:, :dim] += _through_norm(logits @ unit_b, unit_a, norm_a)
        d_b[:, :dim] += _through_norm(logits.T @ unit_a, unit_b, norm_b)
    return loss, (a.T @ d_a + b.T @ d_b).astype(np.float64)


def _unit(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    # A prefix of a unit vector can be zero only where the whole prefix is empty of it; the floor keeps 0/0 away.
    norms: FloatArray = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), rows.dtype.type(1e-12))
    return rows / norms, norms


def _through_norm(gradient: FloatArray, unit: FloatArray, norms: FloatArray) -> FloatArray:
    through: FloatArray = (gradient - np.sum(gradient * unit, axis=1, keepdims=True) * unit) / norms
    return through


class _Draw:
    """Seeded batches: two vectors of each of many speakers, spread by differences within other speakers."""

    def __init__(self, vectors: FloatArray, speakers: Sequence[str], settings: Refinement) -> None:
        self._settings = settings
        self._random = np.random.default_rng(settings.seed)
        self._rows: Rows = np.asarray(normalise(np.asarray(vectors, np.float32)), np.float32)
        names = np.asarray(as_names(speakers, "speakers", length=len(self._rows), error=ModelError), dtype=np.str_)
        _, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
        if (counts >= 2).sum() < 2:
            raise ModelError("refinement needs two speakers with two vectors each, or more")
        order = np.argsort(codes, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._order, self._starts, self._counts = order, starts, counts
        self._several = np.flatnonzero(counts >= 2)
        self._single = order[starts[counts == 1]]

    def batch(self) -> tuple[Rows, Rows]:
        """Return two (B, D) arrays of unit rows; row i of both is of one speaker."""
        several = self._pick(self._several, self._settings.speakers_per_step)
        i, j = self._two_rows(several)
        first, second = self._rows[i], self._rows[j]
        if self._settings.spread == 0:
            return first, second
        scale = np.float32(self._settings.spread)
        first = first + scale * self._random.random((len(i), 1), np.float32) * self._differences(len(i))
        second = second + scale * self._random.random((len(i), 1), np.float32) * self._differences(len(i))
        single = self._rows[self._pick(self._single, len(several))]
        virtual = single + self._differences(len(single))
        return normalise(np.vstack([first, single])), normalise(np.vstack([second, virtual]))

    def _pick(self, candidates: NDArray[np.int64], most: int) -> NDArray[np.int64]:
        return self._random.permutation(candidates)[:most]

    def _two_rows(self, speakers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        counts = self._counts[speakers]
        i = self._random.integers(0, counts)
        j = (i + self._random.integers(1, counts)) % counts  # any other row of the speaker
        start = self._starts[speakers]
        return self._order[start + i], self._order[start + j]

    def _differences(self, n: int) -> Rows:
        i, j = self._two_rows(self._random.choice(self._several, n))
        return np.asarray(self._rows[i] - self._rows[j], np.float32)
