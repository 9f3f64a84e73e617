"""How far the speech of a recording stands above its noise, estimated without a reference."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_FRAME_S = 0.02
_FLOOR_SHARE = 0.1  # the quietest tenth of the frames is taken for noise alone
_HIGHEST_DB = 60.0  # digital silence between words says nothing about noise
_LOWEST_DB = -10.0


def estimate_snr_db(samples: NDArray[np.floating], sample_rate: int) -> float:
    """Estimate the signal-to-noise ratio of speech in dB, from the powers of 20 ms frames.

    The mean power of the quietest tenth of the frames is the noise. Speech is in the frames whose level lies above
    the middle (in dB) between that floor and the 95th percentile; their mean power, less the noise, over the noise is
    the ratio. The method needs pauses: without them a part of the speech counts as noise and the estimate is low.

    Returns:
        dB, limited to -10 .. 60; NaN where there are fewer than ten frames, or all of them are silent.

    Raises:
        ValueError: not one-dimensional, or a rate that is not positive.
    """
    if samples.ndim != 1 or sample_rate <= 0:
        raise ValueError(f"needs samples (T,) and a positive rate, got {samples.shape} at {sample_rate} Hz")
    size = max(1, round(_FRAME_S * sample_rate))
    n_frames = len(samples) // size
    if n_frames < round(1 / _FLOOR_SHARE):
        return math.nan
    frames = samples[: n_frames * size].reshape(n_frames, size)
    power = np.sort(np.mean(np.square(frames, dtype=np.float64), axis=1))
    loud = float(power[math.ceil(0.95 * n_frames) - 1])
    if loud == 0:
        return math.nan
    noise = max(float(np.mean(power[: max(1, round(_FLOOR_SHARE * n_frames))])), loud * 1e-12)
    speech = float(np.mean(power[power >= math.sqrt(noise * loud)]))
    ratio = (speech - noise) / noise
    return _LOWEST_DB if ratio <= 0 else min(max(10 * math.log10(ratio), _LOWEST_DB), _HIGHEST_DB)
