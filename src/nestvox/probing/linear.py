"""Rungs without a network: affine maps of pooled vectors, fitted in closed form, and PLDA.

Notation: N utterances, D size of a pooled vector, K of a projected one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestvox.extras import require
from nestvox.heads.contract import normalise
from nestvox.heads.rotation import Scatter
from nestvox.metrics import eer, error_curve

Vectors = NDArray[np.float64]

_SHRINKAGES = (0.01, 0.1, 0.3)
_SIZES = (32, 64, 100, 128, 200, 400)
_NO_SPREAD = 1e-6


@dataclass(frozen=True, eq=False)
class Projection:
    """A map x -> (x - shift) matrix, after which vectors are compared by cosine.

    Attributes:
        shift: (D,).
        matrix: (D, K).
        unit_first: x is scaled to unit length first.
    """

    shift: Vectors
    matrix: Vectors
    unit_first: bool = False

    def __call__(self, vectors: Vectors) -> Vectors:
        """Map (N, D) to (N, K)."""
        given = normalise(vectors) if self.unit_first else vectors
        return np.asarray((given - self.shift) @ self.matrix)


def centring(fit: Vectors) -> Projection:
    """Subtract the mean."""
    return Projection(fit.mean(axis=0), np.eye(fit.shape[1]))


def standardising(fit: Vectors) -> Projection:
    """Subtract the mean and divide by the deviation; what never varies becomes 0."""
    spread = fit.std(axis=0)
    return Projection(fit.mean(axis=0), np.diag(np.where(spread > _NO_SPREAD, 1 / np.maximum(spread, _NO_SPREAD), 0)))


def whitening(fit: Vectors, shrinkage: float) -> Projection:
    """Make the covariance the identity, after `shrinkage` of it was replaced by its mean variance in all directions."""
    covariance = np.cov(fit, rowvar=False)
    values, axes = np.linalg.eigh(_shrunk(covariance, shrinkage))
    return Projection(fit.mean(axis=0), axes / np.sqrt(values))


def lda(fit: Vectors, speakers: Sequence[str], size: int, shrinkage: float) -> Projection:
    """Linear discriminant analysis of unit vectors: directions of S_b v = l S_w v by falling l.

    Args:
        fit: (N, D), standardised.
        speakers: of the rows.
        size: K, at most D and one less than the speakers.
        shrinkage: of S_w, as `whitening` shrinks.
    """
    scatter = Scatter(fit.shape[1])
    scatter.add(fit, speakers)
    between, within = scatter.between_within(every_speaker=True)
    axes = _eigh(between, _shrunk(within, shrinkage))[1]
    return Projection(scatter.mean(), axes[:, ::-1][:, :size], unit_first=True)


def whitened_on_choice(fit: Vectors, choice: Vectors, speakers: Sequence[str]) -> tuple[Projection, str]:
    """`whitening` with the shrinkage that is best on other speakers, and which that is."""
    tried = {shrinkage: whitening(fit, shrinkage) for shrinkage in _SHRINKAGES}
    best = min(tried, key=lambda shrinkage: all_pairs_eer(tried[shrinkage](choice), speakers))
    return tried[best], f"shrinkage {best:g}"


def lda_on_choice(
    fit: Vectors, fit_speakers: Sequence[str], choice: Vectors, speakers: Sequence[str]
) -> tuple[Projection, str]:
    """`lda` with the size and shrinkage that are best on other speakers, and which they are."""
    most = min(fit.shape[1], len(set(fit_speakers)) - 1)
    found: list[tuple[float, Projection, str]] = []
    for shrinkage in _SHRINKAGES:
        whole = lda(fit, fit_speakers, most, shrinkage)
        for size in sorted({min(size, most) for size in _SIZES}):
            cut = Projection(whole.shift, whole.matrix[:, :size], unit_first=True)
            rate = all_pairs_eer(cut(choice), speakers)
            found.append((rate, cut, f"{size} dimensions, shrinkage {shrinkage:g}"))
    _, best, how = min(found, key=lambda one: one[0])
    return best, how


@dataclass(frozen=True, eq=False)
class Plda:
    """Two-covariance model of vectors: a speaker's mean is drawn from N(mean, B), its vectors around it with W.

    In the coordinates in which W is the identity and B diagonal, the log likelihood ratio of a pair is a sum over them.

    Attributes:
        projection: to those coordinates.
        between: (K,) variances of speakers there.

    Source: N. Bruemmer and E. de Villiers, "The speaker partitioning problem", Odyssey 2010.
    """

    projection: Projection
    between: Vectors

    @classmethod
    def fitted(cls, fit: Vectors, speakers: Sequence[str]) -> Plda:
        """Fit by moments of unit vectors.

        Args:
            fit: (N, K), e.g. after LDA.
            speakers: of the rows.
        """
        scatter = Scatter(fit.shape[1])
        scatter.add(fit, speakers)
        between, within = scatter.between_within(every_speaker=True)
        values, axes = _eigh(between, _shrunk(within, 1e-3))
        return cls(Projection(scatter.mean(), axes, unit_first=True), np.maximum(values, 0.0))

    def __call__(self, vectors: Vectors) -> Vectors:
        """Log likelihood ratios (N, N) in nats of all pairs of vectors (N, K)."""
        u = self.projection(vectors)
        b, t = self.between, self.between + 1
        same = t * t - b * b  # determinant of [[t, b], [b, t]]
        alone = (u * u) @ (0.5 / t - 0.5 * t / same)
        constant = (np.log(t) - 0.5 * np.log(same)).sum()
        return np.asarray((u * (b / same)) @ u.T + alone[:, None] + alone + constant)


def all_pairs_eer(vectors: Vectors, speakers: Sequence[str]) -> float:
    """`score_matrix_eer` of the cosines of vectors (N, K)."""
    unit = normalise(np.asarray(vectors, np.float64))
    return score_matrix_eer(unit @ unit.T, speakers)


def score_matrix_eer(scores: Vectors, speakers: Sequence[str]) -> float:
    """EER of all pairs, from scores (N, N): what choices are made by, on speakers that are nowhere else."""
    names = np.unique(np.asarray(speakers), return_inverse=True)[1]
    first, second = np.triu_indices(len(scores), k=1)
    return float(eer(error_curve(scores[first, second], names[first] == names[second])).rate)


def _shrunk(covariance: Vectors, shrinkage: float) -> Vectors:
    size = len(covariance)
    mean = max(float(np.trace(covariance)) / size, np.finfo(np.float64).tiny)
    return np.asarray((1 - shrinkage) * covariance + shrinkage * mean * np.eye(size))


def _eigh(a: Vectors, b: Vectors) -> tuple[Vectors, Vectors]:
    """Eigenvalues and eigenvectors of a against b, both symmetric."""
    linalg = require("scipy.linalg", extra="torch", purpose="fitting the rungs of a ladder")
    values, axes = linalg.eigh(a, b)
    return values, axes
