"""Several channels to one: the one that is asked for, or their mean, and what the mean does to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChannelStatistics", "mono"]


@dataclass(frozen=True)
class ChannelStatistics:
    """First and second moments of C channels; statistics of neighbouring parts add up to those of the whole.

    Attributes:
        n: samples per channel.
        sums: (C,) float64.
        products: (C, C) float64, sums of the products of two channels.
    """

    n: int
    sums: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, block: NDArray[np.float32]) -> Self:
        """Measure (n, C) samples."""
        with np.errstate(over="ignore", invalid="ignore"):  # such audio is refused by its own name
            wide = block.astype(np.float64)
            return cls(len(block), wide.sum(axis=0), wide.T @ wide)

    def __add__(self, other: ChannelStatistics) -> ChannelStatistics:
        with np.errstate(over="ignore", invalid="ignore"):
            return ChannelStatistics(self.n + other.n, self.sums + other.sums, self.products + other.products)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(C, C), so that a constant offset of the channels counts for nothing."""
        means = self.sums / self.n
        return self.products / self.n - np.outer(means, means)

    @property
    def powers(self) -> NDArray[np.float64]:
        """(C,) mean squares about the mean."""
        return np.maximum(np.diagonal(self.covariance), 0.0)

    @property
    def audible(self) -> bool:
        """Whether any of the channels has sound."""
        return bool(np.diagonal(self.products).max() > 0)

    @property
    def kept(self) -> float:
        """Power of the mean of the channels over the mean of their powers.

        1 where all are alike, 1 / C where they have nothing to do with each other, 0 where they cancel.
        """
        mean_power = float(self.powers.mean())
        return max(0.0, float(self.covariance.mean())) / mean_power if mean_power > 0 else 1.0

    def lowest_correlation(self, floor: float) -> float:
        """Correlation of the two channels that are least alike, of those of at least this power; else 1."""
        powers = self.powers
        loud = np.flatnonzero(powers >= floor)
        if len(loud) < 2:
            return 1.0
        deviations = np.sqrt(powers[loud])
        return float((self.covariance[np.ix_(loud, loud)] / np.outer(deviations, deviations)).min())


def mono(block: NDArray[np.float32], channel: int | None = None) -> NDArray[np.float32]:
    """One channel of (n, C), by its number from 0 on, or their mean.

    The mean is taken in float64, so that large values do not overflow on the way.
    """
    if channel is not None:
        return np.ascontiguousarray(block[:, channel])
    if block.shape[1] == 1:
        return block[:, 0]
    with np.errstate(invalid="ignore"):  # infinities of either sign give NaN, which is refused by its own name
        mean: NDArray[np.float32] = block.mean(axis=1, dtype=np.float64).astype(np.float32)
    return mean
