"""Several channels to one: the one that is asked for, or their mean, and what the mean does to them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

CLIP_LEVEL = 0.999
"""Part of full scale from which on samples in a row are a flat top."""

_OCTAVES_HZ = 250.0 * 2.0 ** (np.arange(6) - 0.5)  # edges of the octaves about 250 Hz to 4 kHz
_FRAME_S = 0.032
_FAINT = 1e-5  # of the loudest octave: what an octave must have for its loss to matter
_LOST = 0.5  # of what the mean keeps of channels that have nothing to do with each other


@dataclass(frozen=True)
class ChannelStatistics:
    """First and second moments of C channels; statistics of neighbouring parts add up to those of the whole."""

    n: int  # samples per channel
    sums: NDArray[np.float64]  # (C,)
    products: NDArray[np.float64]  # (C, C), sums of the products of two channels
    octaves: NDArray[np.float64]  # (5, C, C), sums of co-spectra in the octaves about 250 Hz to 4 kHz
    tops: NDArray[np.int64]  # (C,) samples in flat tops at full scale

    @classmethod
    def of(cls, block: NDArray[np.float32], sample_rate: int) -> Self:
        """Measure (n, C) samples at a rate in Hz."""
        with np.errstate(over="ignore", invalid="ignore"):  # such audio is refused by its own name
            wide = block.astype(np.float64)
            return cls(len(block), wide.sum(axis=0), wide.T @ wide, _octaves(block, sample_rate), _tops(block))

    def __add__(self, other: ChannelStatistics) -> ChannelStatistics:
        with np.errstate(over="ignore", invalid="ignore"):
            return ChannelStatistics(
                self.n + other.n,
                self.sums + other.sums,
                self.products + other.products,
                self.octaves + other.octaves,
                self.tops + other.tops,
            )

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

    @property
    def cancels(self) -> bool:
        """Whether the mean keeps less than half of what it would keep of channels without anything in common."""
        return self.kept < _LOST / len(self.sums)

    @property
    def lost_hz(self) -> tuple[tuple[float, float], ...]:
        """Octaves in which the channels cancel, as where one is delayed a little or has another phase there."""
        powers = np.diagonal(self.octaves, axis1=1, axis2=2).mean(axis=1)
        kept = np.divide(self.octaves.mean(axis=(1, 2)), powers, out=np.ones(len(powers)), where=powers > 0)
        lost = (kept < _LOST / len(self.sums)) & (powers > _FAINT * powers.max())
        return tuple((float(_OCTAVES_HZ[place]), float(_OCTAVES_HZ[place + 1])) for place in np.flatnonzero(lost))

    def lowest_correlation(self, floor: float) -> float:
        """Correlation of the two channels that are least alike, of those of at least this power; else 1."""
        powers = self.powers
        loud = np.flatnonzero(powers >= floor)
        if len(loud) < 2:
            return 1.0
        deviations = np.sqrt(powers[loud])
        return float((self.covariance[np.ix_(loud, loud)] / np.outer(deviations, deviations)).min())


def _octaves(block: NDArray[np.float32], sample_rate: int) -> NDArray[np.float64]:
    size = max(2, round(_FRAME_S * sample_rate))
    channels = block.shape[1]
    sums = np.zeros((len(_OCTAVES_HZ) - 1, channels, channels))
    frames = block[: len(block) // size * size].reshape(-1, size, channels)
    if not len(frames):
        return sums
    spectrum = np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * np.hanning(size)[:, None], axis=1)
    edges = np.ceil(_OCTAVES_HZ * size / sample_rate).astype(int)
    for number, (first, last) in enumerate(pairwise(edges)):
        part = spectrum[:, first:last].reshape(-1, channels)
        sums[number] = (part.conj().T @ part).real
    return sums


def _tops(block: NDArray[np.float32]) -> NDArray[np.int64]:
    count = np.zeros(block.shape[1], np.int64)
    for side in (block >= CLIP_LEVEL, block <= -CLIP_LEVEL):
        neighbours = np.zeros_like(side)
        neighbours[1:] |= side[:-1]
        neighbours[:-1] |= side[1:]
        count += np.count_nonzero(side & neighbours, axis=0)
    return count


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
