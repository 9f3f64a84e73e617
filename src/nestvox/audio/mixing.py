"""Adding noise to speech at a signal-to-noise ratio that is true, and babble from several voices.

The ratio is the mean power of the active speech over the mean power of the noise that is added. Active are the 20 ms
frames within 30 dB of the loudest one, so that pauses do not make the noise quieter than asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.errors import AugmentationError

_FRAME_S = 0.02
_ACTIVE_RANGE_DB = 30.0

Waveform = NDArray[np.float32]


def active_power(samples: NDArray[np.floating[Any]], sample_rate: int) -> float:
    """Mean square of the frames of (T,), T > 0, that are within 30 dB of the loudest frame; 0 for silence."""
    size = max(1, round(_FRAME_S * sample_rate))
    whole = len(samples) // size * size
    squares = np.square(samples, dtype=np.float64)
    if not whole:
        return float(squares.mean())
    power = squares[:whole].reshape(-1, size).mean(axis=1)
    active = power[power >= power.max() * 10 ** (-_ACTIVE_RANGE_DB / 10)]
    return float(active.mean())


def mix_at_snr(speech: Waveform, noise: NDArray[np.floating[Any]], snr_db: float, sample_rate: int) -> Waveform:
    """Add noise (T,) of any level so loud that the active speech (T,) is `snr_db` above it; the speech stays as it is.

    Silent speech comes back as it is: no ratio can be set to it.

    Raises:
        AugmentationError: other lengths, or silent noise.
    """
    if speech.shape != noise.shape:
        raise AugmentationError(f"speech and noise need one length, got {speech.shape} and {noise.shape}")
    noise_power = float(np.mean(np.square(noise, dtype=np.float64)))
    if not noise_power > 0:
        raise AugmentationError("the noise is silent, no level of it gives a signal-to-noise ratio")
    speech_power = active_power(speech, sample_rate)
    gain = np.sqrt(speech_power / noise_power / 10 ** (snr_db / 10))
    return np.asarray(speech + gain * noise, np.float32)


def fit_length(samples: Waveform, length: int, rng: np.random.Generator) -> Waveform:
    """Cut `length` of (S,) samples, S > 0, at a random place, or repeat what is too short from a random place on."""
    if len(samples) >= length:
        first = int(rng.integers(len(samples) - length + 1))
        return samples[first : first + length]
    first = int(rng.integers(len(samples)))
    return np.resize(np.roll(samples, -first), length)


def sum_of_voices(voices: Sequence[Waveform], length: int, rng: np.random.Generator, sample_rate: int) -> Waveform:
    """Sum `length` samples of utterances of any length at one level of active speech, each from a random place on.

    Silent ones add nothing.
    """
    total = np.zeros(length, np.float64)
    for voice in voices:
        power = active_power(voice, sample_rate)
        if power > 0:
            total += fit_length(voice, length, rng) / np.sqrt(power)
    return total.astype(np.float32)
