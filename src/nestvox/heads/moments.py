"""Mean and covariance of vectors as they are, added up batch by batch."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from nestvox.arrays import as_vectors
from nestvox.errors import ModelError
from nestvox.heads.contract import FloatArray


class Moments:
    """First and second moments of (N, P) vectors, in float64 and 8 P^2 bytes, however many rows there are.

    Unlike `heads.rotation.Scatter` nothing is normalised: pooled vectors hold means and deviations side by side, and
    each coordinate has a scale of its own.

    Args:
        size: P.

    Attributes:
        size: P.
        n: rows seen.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.n = 0
        # Sums are of distances to the first batch's mean: far from zero, sums of squares would lose the difference.
        self._origin = np.zeros(size)
        self._sum = np.zeros(size)
        self._products = np.zeros((size, size))

    @classmethod
    def uncorrelated(cls, mean: NDArray[np.float64], variance: NDArray[np.float64]) -> Self:
        """Return the moments of vectors of which each coordinate's mean and variance alone are known, both (P,).

        A batch norm on pooled vectors has them, where there are no vectors yet.
        """
        moments = cls(len(mean))
        moments.n = 2
        moments._origin = np.asarray(mean, np.float64)
        moments._products = np.diag(np.asarray(variance, np.float64))
        return moments

    def add(self, vectors: FloatArray) -> None:
        """Add (N, P) rows.

        Raises:
            ModelError: wrong width, or a row that is not finite.
        """
        wide = as_vectors(vectors, "vectors", size=self.size, finite=False, error=ModelError).astype(np.float64)
        if not np.isfinite(wide).all():
            row = int(np.flatnonzero(~np.isfinite(wide).all(axis=1))[0])
            raise ModelError(f"row {self.n + row} is not finite")
        if not len(wide):
            return
        if not self.n:
            self._origin = wide.mean(axis=0)
        wide -= self._origin
        self.n += len(wide)
        self._sum += wide.sum(axis=0)
        self._products += wide.T @ wide

    @property
    def mean(self) -> NDArray[np.float64]:
        """(P,).

        Raises:
            ModelError: no vector has been added.
        """
        if not self.n:
            raise ModelError("a mean needs at least one vector")
        mean: NDArray[np.float64] = self._origin + self._sum / self.n
        return mean

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(P, P), divided by N - 1.

        Raises:
            ModelError: fewer than two vectors.
        """
        if self.n < 2:
            raise ModelError(f"a covariance needs at least two vectors, got {self.n}")
        covariance: NDArray[np.float64] = (self._products - np.outer(self._sum, self._sum) / self.n) / (self.n - 1)
        return covariance

    @property
    def variance(self) -> NDArray[np.float64]:
        """(P,), divided by N - 1, never negative.

        Raises:
            ModelError: fewer than two vectors.
        """
        if self.n < 2:
            raise ModelError(f"a variance needs at least two vectors, got {self.n}")
        variance = (np.diagonal(self._products) - self._sum**2 / self.n) / (self.n - 1)
        return np.maximum(variance, 0.0)
