"""Rooms: convolution with a measured impulse response, neither delayed nor louder than the dry recording."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.errors import AugmentationError
from nestvox.audio.mixing import Waveform
from nestvox.extras import require

_DIRECT_SHARE = 0.5  # of the largest sample: a reflection may be louder than the direct sound, by less than 6 dB
_DIRECT_WIDTH_S = 0.001


def direct_path(response: NDArray[np.floating[Any]], sample_rate: int) -> int:
    """Find the sample at which the direct sound stands.

    It is the largest one within 1 ms of the first sample of (R,) that has half the height of the response's largest.

    Raises:
        AugmentationError: empty, silent or not finite.
    """
    height = np.abs(response)
    if not len(height) or not 0 < height.max() < np.inf:
        raise AugmentationError("a room response needs samples that are finite and not all zero")
    first = int(np.argmax(height >= _DIRECT_SHARE * height.max()))
    width = max(1, round(_DIRECT_WIDTH_S * sample_rate))
    return first + int(np.argmax(height[first : first + width]))


def reverberate(samples: Waveform, response: NDArray[np.floating[Any]], sample_rate: int) -> Waveform:
    """Put a recording (T,) into a room with an impulse response (R,) at the same rate, of any level.

    The direct sound stays where the dry sound was, what rings on after the end is cut, and the root mean square level
    is that of the dry recording.

    Raises:
        AugmentationError: a response that is empty, silent or not finite.
    """
    delay = direct_path(response, sample_rate)
    if not len(samples):
        return samples
    signal = require("scipy.signal", extra="augment", purpose="sound in a room")  # loads for a second
    wet = signal.oaconvolve(samples.astype(np.float64), response.astype(np.float64))[delay : delay + len(samples)]
    before = float(np.mean(np.square(samples, dtype=np.float64)))
    after = float(np.mean(np.square(wet)))
    if not (before > 0 and after > 0):
        return samples
    return np.asarray(wet * np.sqrt(before / after), np.float32)
