"""Log mel filter banks as Kaldi computes them, which most toolkits for speakers train on. Knows no torch.

Notation: S samples, T frames, F bins, M mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nestvox.errors import ModelError

PREEMPHASIS = 0.97
_F_MIN_HZ = 20.0
# The resolution of float32, below which Kaldi does not take the logarithm.
LOG_FLOOR = float(np.finfo(np.float32).eps)
_FRAMES_PER_CHUNK = 4096
_MOST_BANDS = 1024
_LOWEST_HZ, _HIGHEST_HZ = 1_000, 768_000
_MOST_SCALE = 1e9

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class KaldiFbank:
    """Frames of 25 ms every 10 ms, whole frames only, without dither: the same audio gives the same features.

    Each frame loses its mean, is filtered (each sample less 0.97 of the one before), windowed, and transformed; the
    power is weighted by triangles whose flanks are straight over mels, and its logarithm taken.

    Attributes:
        sample_rate: of the input, in Hz.
        n_mels: M.
        window: ``povey`` (Hann's to the power of 0.85) or ``hamming``.
        scale: samples are multiplied by it: 32768 where a network was trained on 16-bit numbers.
        subtract_mean: take the mean over time from each band.

    Source: D. Povey et al., "The Kaldi speech recognition toolkit", ASRU 2011; mel = 1127 ln(1 + f / 700).
    """

    sample_rate: Annotated[int, Field(ge=1000, le=384_000)] = 16_000
    n_mels: Annotated[int, Field(ge=1, le=4096)] = 80
    window: Literal["povey", "hamming"] = "povey"
    scale: float = 1.0
    subtract_mean: bool = True

    def __post_init__(self) -> None:
        window: Any = self.window  # of a file, like the other numbers
        if not isinstance(window, str) or window not in {"povey", "hamming"}:
            raise ModelError(f"unknown window {window!r:.60}; known: hamming, povey")
        counts: tuple[Any, ...] = (self.n_mels, self.sample_rate)
        scale: Any = self.scale
        subtract: Any = self.subtract_mean
        if (
            not all(type(count) is int for count in counts)
            or type(scale) not in (int, float)
            or type(subtract) is not bool
            or not 1 <= self.n_mels <= _MOST_BANDS
            or not _LOWEST_HZ <= self.sample_rate <= _HIGHEST_HZ
            or not 0 < scale <= _MOST_SCALE
        ):
            raise ModelError(
                f"no filter bank of {self.n_mels!r:.20} bands at {self.sample_rate!r:.20} Hz times {scale!r:.20}: "
                f"bands lie in 1 to {_MOST_BANDS}, the rate in {_LOWEST_HZ} to {_HIGHEST_HZ} Hz"
            )

    @property
    def frame_samples(self) -> int:
        """Samples of one frame, the shortest input."""
        return self.sample_rate * 25 // 1000

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return self.sample_rate // 100

    @property
    def window_shape(self) -> NDArray[np.float64]:
        """(frame,) what a frame is multiplied by."""
        return _window(self.window, self.frame_samples)

    @property
    def filters(self) -> NDArray[np.float64]:
        """(M, F) weights of the bins below half the sample rate; the transform has 2 F points."""
        return _filters(self.n_mels, self.sample_rate, 1 << (self.frame_samples - 1).bit_length())

    def __call__(self, audio: NDArray[np.floating[Any]]) -> FloatArray:
        """Map (S,) in [-1, 1] to (T, M) with T = (S - frame) // hop + 1.

        Raises:
            ModelError: not one channel, or shorter than a frame.
        """
        size, hop = self.frame_samples, self.hop_samples
        if audio.ndim != 1 or len(audio) < size:
            raise ModelError(f"a filter bank needs (samples,) of at least {size}, got {audio.shape}")
        frames = np.lib.stride_tricks.sliding_window_view(audio, size)[::hop]
        parts = [
            self._bands(frames[first : first + _FRAMES_PER_CHUNK]) for first in range(0, len(frames), _FRAMES_PER_CHUNK)
        ]
        features = np.concatenate(parts)
        if self.subtract_mean:
            features -= features.mean(axis=0)
        return features.astype(np.float32)

    def _bands(self, frames: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        raw = frames.astype(np.float64) * self.scale  # (t, size)
        raw -= raw.mean(axis=1, keepdims=True)
        before = np.concatenate([raw[:, :1], raw[:, :-1]], axis=1)  # before the first sample stands itself
        filters = self.filters
        spectrum = np.fft.rfft((raw - PREEMPHASIS * before) * self.window_shape, 2 * filters.shape[1])
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        energies = power[:, :-1] @ filters.T
        bands: NDArray[np.float64] = np.log(np.maximum(energies, LOG_FLOOR))
        return bands


@cache
def _window(name: str, size: int) -> NDArray[np.float64]:
    phase = 2.0 * np.pi * np.arange(size) / (size - 1)
    shape = (0.5 - 0.5 * np.cos(phase)) ** 0.85 if name == "povey" else 0.54 - 0.46 * np.cos(phase)
    return np.asarray(shape, np.float64)


@cache
def _filters(n_mels: int, sample_rate: int, n_fft: int) -> NDArray[np.float64]:
    """Triangles (M, n_fft / 2) from 20 Hz to half the sample rate."""

    def mels(hz: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        return np.asarray(1127.0 * np.log1p(hz / 700.0), np.float64)

    first, last = mels(np.array([_F_MIN_HZ, sample_rate / 2]))
    edges = np.linspace(first, last, n_mels + 2)
    bins = mels(np.arange(n_fft // 2) * (sample_rate / n_fft))
    return triangles(edges, bins)


def triangles(edges: NDArray[np.float64], bins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Height of each of M triangles with corners at `edges` (M + 2,) over each of `bins` (F,): (M, F)."""
    lower, centre, upper = (edges[k : len(edges) - 2 + k, None] for k in range(3))
    rising = (bins - lower) / (centre - lower)
    falling = (upper - bins) / (upper - centre)
    heights: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling))
    return heights
