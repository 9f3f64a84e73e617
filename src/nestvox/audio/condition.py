"""The condition of a recording: what makes a score about it doubtful."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Condition", "condition"]

_CLIP_LEVEL = 0.999  # of full scale
_CLIP_RUN = 2  # samples in a row at that level: one alone is a peak, not a flat top
_FRAME_S = 0.02
_SILENT_DBFS = -60.0

_SHORT_S = 2.0
_QUIET_DBFS = -50.0
_MUCH_SILENCE = 0.6
_MUCH_CLIPPING = 0.0005


@dataclass(frozen=True)
class Condition:
    """Measurements of one waveform.

    Attributes:
        duration_s: seconds.
        rms_dbfs: root mean square level in dB; 0 dB is the level of a constant 1.0 (a full-scale sine has
            -3.01 dB); -inf for silence.
        peak: largest absolute sample.
        clipped_fraction: share of samples within flat tops, 0 to 1: two or more neighbours of one sign within
            0.1 % of full scale or above it.
        silent_fraction: share of 20 ms frames whose level is below -60 dBFS, 0 to 1.
    """

    duration_s: float
    rms_dbfs: float
    peak: float
    clipped_fraction: float
    silent_fraction: float

    def warnings(self) -> tuple[str, ...]:
        """Plain sentences on what makes a verdict on this audio doubtful; empty when nothing does."""
        found = []
        if self.duration_s < _SHORT_S:
            found.append(f"The audio is short: {self.duration_s:.2f} s; below {_SHORT_S:g} s scores scatter widely.")
        if self.peak == 0:
            found.append("The audio is silent: every sample is zero.")
        elif self.rms_dbfs < _QUIET_DBFS:
            found.append(f"The audio is almost silent: its level is {self.rms_dbfs:.1f} dBFS.")
        elif self.silent_fraction > _MUCH_SILENCE:
            found.append(f"The audio is mostly silence: {self.silent_fraction:.0%} of it is below -60 dBFS.")
        if self.clipped_fraction > _MUCH_CLIPPING:
            found.append(f"The audio is clipped: {self.clipped_fraction:.2%} of its samples stand at full scale.")
        elif self.peak > 1.0:
            found.append(f"The audio reaches beyond full scale: its peak is {self.peak:.2f}.")
        return tuple(found)


def condition(samples: NDArray[np.float32], sample_rate: int) -> Condition:
    """Measure a waveform.

    Args:
        samples: (T,) float, 1.0 is full scale.
        sample_rate: in Hz.

    Raises:
        ValueError: not one-dimensional, empty, or a rate that is not positive.
    """
    if samples.ndim != 1 or not len(samples) or sample_rate <= 0:
        raise ValueError(f"needs samples (T,) with T > 0 and a positive rate, got {samples.shape} at {sample_rate} Hz")
    mean_square = float(np.mean(np.square(samples, dtype=np.float64)))
    return Condition(
        duration_s=len(samples) / sample_rate,
        rms_dbfs=10 * math.log10(mean_square) if mean_square > 0 else -math.inf,
        peak=float(np.abs(samples).max()),
        clipped_fraction=_clipped(samples) / len(samples),
        silent_fraction=_silent_fraction(samples, sample_rate),
    )


def _clipped(samples: NDArray[np.float32]) -> int:
    """Count the samples that stand in runs of `_CLIP_RUN` or more at full scale, both signs."""
    count = 0
    for sign in (1, -1):
        high = np.concatenate(([False], sign * samples >= _CLIP_LEVEL, [False]))
        edges = np.flatnonzero(high[1:] != high[:-1])
        lengths = edges[1::2] - edges[::2]
        count += int(lengths[lengths >= _CLIP_RUN].sum())
    return count


def _silent_fraction(samples: NDArray[np.float32], sample_rate: int) -> float:
    size = max(1, round(_FRAME_S * sample_rate))
    frames = samples[: len(samples) // size * size].reshape(-1, size) if len(samples) >= size else samples[None, :]
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    return float(np.mean(power < 10 ** (_SILENT_DBFS / 10)))
