"""Recordings to try a model on: the user's own, or generated tones that say that they are synthetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.segment import Segment
from nestvox.metrics.bootstrap import seeded

_PITCHES_HZ = (105.0, 140.0, 190.0, 235.0)
_DURATIONS_S = (1.1, 2.0, 3.3, 4.7)
_SYLLABLE_HZ = 3.7
_HARMONICS = 20
_LEVEL = 0.1

Waveform = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Clip:
    """One recording.

    Attributes:
        name: path, or what was generated.
        samples: (S,) in [-1, 1] at the rate that was asked for.
        synthetic: whether nobody ever said it.
        warnings: what is wrong with the recording (`audio.condition`).
    """

    name: str
    samples: Waveform
    synthetic: bool = False
    warnings: tuple[str, ...] = ()


def read_clips(
    paths: Sequence[str | Path],
    *,
    sample_rate: int,
    min_duration_s: float = 0.0,
    max_duration_s: float = 20.0,
    channel: int | None = None,
) -> list[Clip]:
    """Read recordings, of long ones only the beginning, so that memory stays bounded.

    Args:
        paths: audio files.
        sample_rate: to which they are resampled, in Hz.
        min_duration_s: shortest that is of use.
        max_duration_s: longest part that is read.
        channel: of each, 0 is the first; None: the mean of all.

    Raises:
        AudioError: a file cannot be used.
    """
    found = []
    for path in paths:
        segment = Segment(Path(path), 0.0, max_duration_s, channel)
        heard = segment.read(sample_rate=sample_rate, min_duration_s=min_duration_s)
        found.append(Clip(str(path), heard.samples, warnings=replace(heard, expected_s=None).condition().warnings()))
    return found


def tones(sample_rate: int, *, min_duration_s: float = 0.0) -> list[Clip]:
    """Generate four harmonic tones with the pace of syllables; the same ones always.

    They are no speech: they show whether a model computes, not how well it tells speakers apart.
    """
    generator = np.random.default_rng(0)
    found = []
    for pitch_hz, usual_s in zip(_PITCHES_HZ, _DURATIONS_S, strict=True):
        duration_s = max(usual_s, min_duration_s + usual_s / 4)
        time_s = np.arange(round(duration_s * sample_rate)) / sample_rate
        harmonics = range(1, min(_HARMONICS, int(0.45 * sample_rate / pitch_hz)) + 1)
        phase = 2 * np.pi * pitch_hz * (time_s + 0.004 * np.sin(2 * np.pi * 0.8 * time_s))
        sound = np.zeros(len(time_s))
        for harmonic in harmonics:
            sound += np.sin(harmonic * phase + generator.uniform(0, 2 * np.pi)) / harmonic
        sound *= 0.55 + 0.45 * np.sin(2 * np.pi * _SYLLABLE_HZ * time_s)
        sound += 0.01 * generator.standard_normal(len(time_s))
        samples = (_LEVEL * sound / np.sqrt(np.mean(sound**2))).clip(-1, 1).astype(np.float32)
        found.append(Clip(f"generated tone, {pitch_hz:g} Hz, {duration_s:.1f} s", samples, synthetic=True))
    return found


def noise(duration_s: float, sample_rate: int, *, count: int = 1, seed: int = 0) -> list[Waveform]:
    """White noise, for measuring time: what a network takes does not depend on what it hears."""
    generator = seeded(seed)
    length = round(duration_s * sample_rate)
    return [(_LEVEL * generator.standard_normal(length)).clip(-1, 1).astype(np.float32) for _ in range(count)]
