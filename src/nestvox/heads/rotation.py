"""Orthogonal heads: what a prefix holds is chosen, and the full dimension loses nothing.

A rotation keeps all angles, so the full-dimension cosine of two embeddings is the same before and after; what changes
is which directions come first. Two closed forms are here (no deep-learning library is needed):

- PCA: eigenvectors of the covariance, by falling variance; needs no labels.
- discriminant order: eigenvectors of ``S_b - weight * S_w`` by falling eigenvalue (the maximum margin criterion of
  Li, Jiang & Zhang, NIPS 2003). Unlike LDA's generalised eigenvectors these are orthogonal. S speakers differ in S - 1
  directions at most, and eigenvalues of a covariance of S samples in D dimensions are off by about sqrt(D / S) of
  themselves (V. A. Marchenko and L. A. Pastur, 1967). So with fewer than three speakers a dimension only a positive
  criterion is believed: what has none follows, by falling variance where the speakers span too little to judge it, and
  directions in which no vector differs from another come last.

Rows are normalised before anything is fitted, because a cosine only sees directions. Whoever keeps all angles subtracts
no mean. A head may hold one all the same: embeddings share a direction that tells nobody apart, and without it the full
size is better than the encoder's own (`centred`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import save_file

from nestvox.arrays import as_names, as_vectors
from nestvox.atomic import atomic_path
from nestvox.errors import ModelError, first_of
from nestvox.gate import naming, parse_json
from nestvox.heads.contract import FloatArray, in_working_precision, normalise
from nestvox.schema import Size, StrictModel, Word, validated
from nestvox.tensor_files import read_arrays

Centre = Literal["auto", "all", "none"]

_FORMAT = "nestvox-rotation-1"
_ORTHOGONAL_TOLERANCE = 1e-8
_DEAD = 1e-10  # of the largest variance: rounding of float32 vectors leaves less
_SPEAKERS_A_DIMENSION = 3


class _Saved(StrictModel):
    """What stands beside the matrix."""

    kind: Literal["rotation"] = "rotation"
    method: Word
    dims: list[Size]
    details: dict[str, Any] = Field(default_factory=dict)


def default_dims(size: int) -> tuple[int, ...]:
    """Powers of two from 16 (or the first below `size`) up, and `size` itself: 192 gives 16, 32, 64, 128, 192."""
    powers = [2**k for k in range(4, 31) if 2**k < size]
    return (*powers, size)


def check_dims(dims: Sequence[int], size: int) -> tuple[int, ...]:
    """Return `dims` ascending with `size` last.

    Raises:
        ModelError: empty, repeated, not positive, or larger than `size`.
    """
    ordered = tuple(sorted(int(d) for d in dims))
    if not ordered or len(set(ordered)) != len(ordered) or ordered[0] < 1 or ordered[-1] > size:
        raise ModelError(f"dims must be distinct and between 1 and {size}, got {tuple(dims)}")
    return ordered if ordered[-1] == size else (*ordered, size)


@dataclass(frozen=True, eq=False)
class Rotation:
    """An orthogonal matrix as a head: nested = vectors @ matrix, or, with a mean, unit vectors @ matrix - mean.

    With a mean the order is: unit length, rotation, subtraction, and after that the cut and unit length again, as for
    every nested embedding. So a prefix needs the same prefix of the mean only, and averages of enrolment clips are made
    of what comes out, each clip on its own.

    Attributes:
        matrix: (D, D) float64; column k is the direction that becomes coordinate k.
        dims: ascending prefix lengths, the last is D.
        method: how it was fitted: ``truncation``, ``pca``, ``discriminant`` or ``refined``.
        details: what the fit chose and saw (weights, counts), JSON-serialisable.
        mean: (D,) float64, of rotated unit vectors; None: all angles are kept.

    Raises:
        ModelError: not square, not finite, not orthogonal to 1e-8, or a mean that unit vectors cannot have.
    """

    matrix: NDArray[np.float64]
    dims: tuple[int, ...]
    method: str
    details: dict[str, Any] = field(default_factory=dict)
    mean: NDArray[np.float64] | None = None
    kind: ClassVar[Literal["rotation"]] = "rotation"
    tap: ClassVar[Literal["embedding"]] = "embedding"

    def __post_init__(self) -> None:
        matrix = self.matrix
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size or matrix.dtype != np.float64:
            raise ModelError(f"a rotation is a square float64 matrix, got {matrix.dtype} {matrix.shape}")
        # Entries of an orthogonal matrix are at most 1; looking first keeps infinities out of the product.
        if not (np.abs(matrix) <= 1 + _ORTHOGONAL_TOLERANCE).all():
            raise ModelError("the matrix is not orthogonal: an entry is above 1 or not finite")
        off = np.abs(matrix.T @ matrix - np.eye(len(matrix))).max()
        if off > _ORTHOGONAL_TOLERANCE:
            raise ModelError(f"the matrix is not orthogonal: largest entry of M'M - I is {off:.2e}")
        mean = self.mean
        if mean is not None and (
            mean.shape != (len(matrix),)
            or mean.dtype != np.float64
            or not np.linalg.norm(mean) <= 1 + _ORTHOGONAL_TOLERANCE
        ):
            raise ModelError(
                f"the mean of {len(matrix)}-dimensional unit vectors is so many float64 numbers of length 1 at most, "
                f"got {mean.dtype} {mean.shape}"
            )
        object.__setattr__(self, "dims", check_dims(self.dims, len(matrix)))

    @property
    def input_dim(self) -> int:
        """D, the size of the vectors it takes and gives."""
        return len(self.matrix)

    def transform(self, vectors: FloatArray, /) -> FloatArray:
        """Rotate (N, D) floating-point vectors; the dtype is kept, and norms where there is no mean.

        Half precision is rotated in single precision and rounded once. A row of zeros has no direction and stays zero.

        Raises:
            ModelError: another shape, or whole numbers.
        """
        working = in_working_precision(vectors, self.input_dim, "rotation")
        if self.mean is not None:
            working = normalise(working)
        rotated: FloatArray = working @ self.matrix.astype(working.dtype)
        if self.mean is not None:
            rotated -= working.any(axis=1, keepdims=True) * self.mean.astype(working.dtype)
        return rotated.astype(np.asarray(vectors).dtype, copy=False)

    def config(self) -> dict[str, Any]:
        """What stands beside the matrix in a saved model."""
        return {"kind": self.kind, "method": self.method, "dims": list(self.dims), "details": self.details}

    def tensors(self) -> dict[str, FloatArray]:
        """The matrix and the mean, if any, under the names they are saved with."""
        tensors: dict[str, FloatArray] = {"matrix": self.matrix}
        return tensors if self.mean is None else {**tensors, "mean": self.mean}

    @classmethod
    def from_saved(cls, config: dict[str, Any], tensors: dict[str, FloatArray]) -> Self:
        """Rebuild from `config()` and `tensors()`.

        Raises:
            ModelError: a key is missing, or the matrix is no rotation.
        """
        saved = validated(_Saved, config, "the saved rotation", naming(ModelError))
        if "matrix" not in tensors:
            raise ModelError("the saved rotation lacks 'matrix'")
        if tensors.keys() - {"matrix", "mean"}:
            raise ModelError(
                f"the saved rotation has one tensor, matrix, or also mean; found {first_of(sorted(tensors))}"
            )
        for name, tensor in tensors.items():
            if not np.issubdtype(tensor.dtype, np.floating):
                raise ModelError(f"the saved rotation is malformed: a {name} of {tensor.dtype}")
        return cls(
            matrix=np.asarray(tensors["matrix"], np.float64),
            dims=tuple(saved.dims),
            method=saved.method,
            details=dict(saved.details),
            mean=np.asarray(tensors["mean"], np.float64) if "mean" in tensors else None,
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file that carries its own description."""
        with atomic_path(path) as temporary:
            save_file(
                {name: np.ascontiguousarray(tensor) for name, tensor in self.tensors().items()},
                temporary,
                # One entry: safetensors writes several in no fixed order, and the same rotation is the same file.
                metadata={"rotation": json.dumps({"format": _FORMAT, **self.config()}, sort_keys=True)},
            )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ModelError: no such file, not safetensors, or not a rotation.
        """

        def damaged(problem: str, source: str) -> ModelError:
            return ModelError(f"{source}: not a rotation file, or damaged ({problem}); `nestvox rotate` writes one")

        tensors, metadata = read_arrays(path, damaged, missing="no such file")
        config = parse_json(metadata.get("rotation", "{}"), str(path), damaged)
        found = config.pop("format", None) if isinstance(config, dict) else None
        if found != _FORMAT:
            raise damaged(f"format {str(found)[:80]!r}, expected {_FORMAT!r}", str(path))
        try:
            return cls.from_saved(config, tensors)
        except ModelError as error:
            raise damaged(str(error), str(path)) from error


class Scatter:
    """Second moments of unit vectors, added up batch by batch, so that any number of rows fits in memory.

    Without speakers it serves PCA. With speakers it also keeps one sum per speaker (8 * D bytes each) for the
    discriminant order.

    Args:
        size: D.

    Attributes:
        size: D.
        n: rows that count; a row of zeros has no direction and is left out.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.n = 0
        self._rows = 0
        self._sum = np.zeros(size)
        self._moment = np.zeros((size, size))
        self._codes: dict[str, int] = {}
        self._sums = np.zeros((0, size))
        self._labelled_moment = np.zeros((size, size))
        self._counts = np.zeros(0, np.int64)

    def add(self, vectors: FloatArray, speakers: Sequence[str] | None = None) -> None:
        """Add (N, D) rows; `speakers` names each row's speaker, if known.

        Raises:
            ModelError: wrong width, a row that is not finite, or not as many speakers as rows.
        """
        array = as_vectors(vectors, "vectors", size=self.size, finite=False, error=ModelError)
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise ModelError(f"row {self._rows + row} is not finite")
        if speakers is not None:
            speakers = as_names(speakers, "speakers", length=len(array), error=ModelError)
        self._rows += len(array)
        unit = normalise(array.astype(np.float64))
        there = np.flatnonzero(unit.any(axis=1))
        if len(there) < len(unit):
            unit = unit[there]
            speakers = None if speakers is None else [speakers[int(row)] for row in there]
        moment = unit.T @ unit
        self.n += len(unit)
        self._sum += unit.sum(axis=0)
        self._moment += moment
        if speakers is None:
            return
        codes = np.fromiter((self._codes.setdefault(s, len(self._codes)) for s in speakers), np.int64, len(unit))
        grow = len(self._codes) - len(self._counts)
        if grow:
            self._sums = np.vstack([self._sums, np.zeros((grow, self.size))])
            self._counts = np.concatenate([self._counts, np.zeros(grow, np.int64)])
        np.add.at(self._sums, codes, unit)
        self._counts += np.bincount(codes, minlength=len(self._counts))
        self._labelled_moment += moment

    @property
    def n_speakers(self) -> int:
        """Speakers seen with two rows or more."""
        return int((self._counts >= 2).sum())

    @property
    def n_speakers_in_all(self) -> int:
        """Speakers seen, those of one row included."""
        return len(self._counts)

    def mean(self) -> NDArray[np.float64]:
        """(D,) mean of all rows, each at unit length.

        Raises:
            ModelError: no row that is not zero.
        """
        if not self.n:
            raise ModelError("a mean needs at least one vector that is not zero")
        return np.asarray(self._sum / self.n)

    def covariance(self) -> NDArray[np.float64]:
        """(D, D) covariance of all rows.

        Raises:
            ModelError: fewer than two rows that are not zero.
        """
        if self.n < 2:
            raise ModelError(f"a covariance needs at least two vectors that are not zero, got {self.n}")
        mean = self.mean()
        return self._moment / self.n - np.outer(mean, mean)

    def between_within(self, *, every_speaker: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return S_b and S_w, each (D, D).

        S_w is the pooled covariance of the rows around their speaker's mean, over the speakers with two rows or more;
        it is unbiased. S_b is the covariance of the speaker means, every speaker counting once, over the same speakers.
        With `every_speaker` it is over all of them, less the S_w / n_s that a mean of n_s rows carries by chance, which
        makes it unbiased too: the better estimate where most speakers have one row.

        Raises:
            ModelError: fewer than two speakers with two rows.
        """
        often = self._counts >= 2
        if often.sum() < 2:
            raise ModelError(
                f"the discriminant order needs two speakers with two vectors each, got {int(often.sum())}; "
                "without labels use PCA"
            )
        # A speaker with one row adds the same to both terms of the difference, so S_w needs no exception for it.
        scaled = self._sums / np.sqrt(self._counts)[:, None]
        degrees = self._counts[often].sum() - often.sum()
        within = (self._labelled_moment - scaled.T @ scaled) / degrees
        means = self._sums / self._counts[:, None]
        if not every_speaker:
            return np.cov(means[often], rowvar=False), within
        return np.cov(means, rowvar=False) - within * np.mean(1 / self._counts), within


def _descending(symmetric: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues, falling, and eigenvectors with a positive largest entry, whatever sign LAPACK gave them."""
    values, vectors = np.linalg.eigh(symmetric)
    return values[::-1], _signed(vectors[:, ::-1])


def _signed(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.abs(vectors).argmax(axis=0) if vectors.size else np.zeros(vectors.shape[1], np.int64)
    signs = np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0) if vectors.size else 1.0
    return np.ascontiguousarray(vectors * signs)


def _by_what_they_carry(
    criterion: NDArray[np.float64], total: NDArray[np.float64], n_speakers: int
) -> NDArray[np.float64]:
    """Order all directions: those that tell speakers apart, then those in which vectors differ at all, then the others.

    Args:
        criterion: (D, D) whose large eigenvalues tell speakers apart.
        total: (D, D) covariance of all vectors.
        n_speakers: that the criterion is of; they differ in one direction fewer at most.

    Returns:
        (D, D) orthogonal.
    """
    variances, axes = _descending(total)
    n_live = int((variances > _DEAD * max(float(variances[0]), 0.0)).sum())
    live = axes[:, :n_live]
    values, inside = _descending(live.T @ criterion @ live)
    largest = float(np.abs(values).max(initial=0.0))
    n_discriminant = int((values > _DEAD * largest).sum())
    first, rest = live @ inside[:, :n_discriminant], live @ inside[:, n_discriminant:]
    if n_speakers - 1 < n_live:
        rest = rest @ _descending(rest.T @ total @ rest)[1]
    # Products of orthogonal matrices: the nearest orthogonal one takes their rounding away.
    left, _, right = np.linalg.svd(np.concatenate([first, rest, axes[:, n_live:]], axis=1))
    return _signed(left @ right)


def _dims(dims: Sequence[int] | None, size: int) -> tuple[int, ...]:
    return default_dims(size) if dims is None else tuple(dims)


def truncation(size: int, dims: Sequence[int] | None = None) -> Rotation:
    """Return the identity: plain truncation, the baseline of every table."""
    return Rotation(np.eye(size), _dims(dims, size), "truncation")


def pca(scatter: Scatter, dims: Sequence[int] | None = None) -> Rotation:
    """Order the directions by variance; needs no labels."""
    values, vectors = _descending(scatter.covariance())
    details = {"n_vectors": scatter.n, "variance": [float(v) for v in values]}
    return Rotation(vectors, _dims(dims, scatter.size), "pca", details)


def discriminant(
    scatter: Scatter, weight: float = 1.0, dims: Sequence[int] | None = None, *, every_speaker: bool = False
) -> Rotation:
    """Order the directions by S_b - weight * S_w; with few speakers by what they carry, those without variance last.

    Args:
        scatter: moments with speakers.
        weight: how much spread within a speaker counts against spread between speakers; 0 is PCA of the means.
        dims: prefix lengths.
        every_speaker: whether speakers with one row count in S_b, see `Scatter.between_within`.
    """
    between, within = scatter.between_within(every_speaker=every_speaker)
    judged = scatter.n_speakers_in_all if every_speaker else scatter.n_speakers
    if judged >= _SPEAKERS_A_DIMENSION * scatter.size:
        vectors = _descending(between - weight * within)[1]
    else:
        vectors = _by_what_they_carry(between - weight * within, scatter.covariance(), judged)
    details = {
        "n_vectors": scatter.n,
        "n_speakers": scatter.n_speakers,
        "weight": float(weight),
        "every_speaker": every_speaker,
    }
    return Rotation(vectors, _dims(dims, scatter.size), "discriminant", details)


def centred(rotation: Rotation, mean: FloatArray, first: int = 0) -> Rotation:
    """Return the same rotation with a mean that is subtracted.

    From all coordinates, full-size scores are those of the centred encoder. From the later ones only, prefixes of up to
    `first` numbers stay as they are: a fitted rotation puts little of the mean there, and that little is of use.

    Args:
        rotation: with a mean or without.
        mean: (D,) of unit vectors before the rotation, e.g. `Scatter.mean`.
        first: coordinate from which on it is subtracted; D: nowhere, the rotation holds none.

    Raises:
        ModelError: a mean of another size, or longer than 1.
    """
    size = rotation.input_dim
    details = {key: value for key, value in rotation.details.items() if key != "centred_from"}
    if first >= size:
        return replace(rotation, mean=None, details=details)
    rotated = np.asarray(mean, np.float64) @ rotation.matrix if np.shape(mean) == (size,) else np.asarray(mean)
    return replace(
        rotation,
        mean=np.where(np.arange(len(rotated)) < first, 0.0, rotated),
        details={**details, "centred_from": first},
    )
