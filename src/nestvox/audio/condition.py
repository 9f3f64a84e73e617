"""The condition of a recording: what makes a score about it doubtful.

One function measures it, wherever a recording is judged: `SpeakerModel.verify` and `nestvox verify` say it in
sentences, `nestvox embed` keeps the codes with each row of the store, `nestvox data check` counts them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.downmix import ChannelStatistics

__all__ = ["CODES", "SHORT_S", "Condition", "clipped_fraction", "condition", "count_codes", "doubts", "dropouts"]

CODES = {
    "short": "the audio is shorter than 2 s: scores scatter widely",
    "partial": "less audio is there than the segment or the stated duration says",
    "cut-off": "the file ends before its own header says",
    "silent": "there is no sound",
    "quiet": "the level is below -50 dBFS",
    "mostly-silent": "more than 60 % of the audio is below -60 dBFS",
    "clipped": "samples stand at full scale, or at a lower limit, in flat tops",
    "beyond-full-scale": "samples lie beyond full scale",
    "dc-offset": "the samples do not centre on zero",
    "narrow-band": "nothing lies above 4 kHz, as behind a telephone, though the sample rate has room for it",
    "dropouts": "the sound breaks off and begins again within it",
    "silent-channel": "one of the channels that were averaged is silent",
    "channels-cancel": "the channels that were averaged are in opposite phase, and cancel",
    "channels-differ": "the channels that were averaged have little in common, as the two sides of a call",
}
"""What can be wrong with a recording, by the code that stores and checks have for it."""

SHORT_S = 2.0
"""Seconds below which a recording is short."""

_CLIP_LEVEL = 0.999  # of full scale
_CLIP_RUN = 2  # samples in a row at that level: one alone is a peak, not a flat top
_LIMIT_RUN = 3  # equal samples at the recording's own peak, where that is below full scale
_LIMIT_LEAST = 0.05  # a peak below it has so few steps of 16 bits that neighbours are often equal
_FRAME_S = 0.02
_SILENT_DBFS = -60.0

_QUIET_DBFS = -50.0
_MUCH_SILENCE = 0.6
_MUCH_CLIPPING = 0.0005
_MISSING_S = 0.1
_OFFSET = 2e-4  # of full scale, a few steps of 16 bits, and ...
_OFFSET_SHARE = 0.02  # ... of the level of the sound
_NARROW_HZ = 4_000.0
_EDGE_HZ = 150.0  # what a filter at 4 kHz leaves just above it
_BELOW_HZ = (2_500.0, 3_400.0)  # what a telephone still carries
_NARROW_SHARE = 1e-3  # of the power in that band: natural speech has 1/500 or more
_NARROW_LEAST = 1e-6  # of all power in that band: a low tone or a hum has no edge
_ROOM_HZ = 10_000  # lowest sample rate that has room above 4 kHz
_SPECTRUM = 512
_GAP_S, _LONGEST_GAP_S, _EDGE_S = 0.004, 1.0, 0.004
_GAP_LEVEL = 1e-4
_GAP_EDGE = 0.1  # of the level of the whole: what stands at the edges of a gap that is no pause
_SILENT_CHANNEL_DB = -40.0  # below the loudest
_CANCELLED = 0.25  # of the power: 6 dB
_ALIKE = 0.5


@dataclass(frozen=True)
class Condition:
    """Measurements of one waveform; those of neighbouring parts add up to those of the whole.

    Attributes:
        duration_s: seconds.
        rms_dbfs: root mean square level in dB; 0 dB is the level of a constant 1.0 (a full-scale sine has
            -3.01 dB); -inf for silence.
        peak: largest absolute sample.
        clipped_fraction: share of samples within flat tops, 0 to 1: two or more neighbours of one sign within
            0.1 % of full scale or above it, or three or more equal ones at a lower peak.
        silent_fraction: share of 20 ms frames whose level about their own mean is below -60 dBFS, 0 to 1.
        dc_offset: mean of the samples.
        band_fractions: shares of the power that lie in 2.5 to 3.4 kHz and above 4.15 kHz, 0 to 1; None where the rate
            has no room for these.
        dropouts: gaps of 4 ms to 1 s without any sound, with sound up to both their edges.
        expected_s: seconds that there should be; None: nobody said.
        averaged: of the channels whose mean this is; None: there is one, or one was chosen.
        cut_off: what the file lacks at its end; None: nothing is known to be missing.
    """

    duration_s: float
    rms_dbfs: float
    peak: float
    clipped_fraction: float
    silent_fraction: float
    dc_offset: float = 0.0
    band_fractions: tuple[float, float] | None = None
    dropouts: int = 0
    expected_s: float | None = None
    averaged: ChannelStatistics | None = None
    cut_off: str | None = None

    def __add__(self, other: Condition) -> Condition:
        whole_s = self.duration_s + other.duration_s
        a, b = self.duration_s / whole_s, other.duration_s / whole_s
        powers = (a * self._power, b * other._power)
        power = sum(powers)
        bands = None
        if self.band_fractions is not None and other.band_fractions is not None:
            shares = [part / power for part in powers] if power > 0 else [0.5, 0.5]
            low, high = np.average([self.band_fractions, other.band_fractions], axis=0, weights=shares).tolist()
            bands = (low, high)
        measured = [one for one in (self.averaged, other.averaged) if one is not None]
        stated = None if self.expected_s is None or other.expected_s is None else self.expected_s + other.expected_s
        return Condition(
            duration_s=whole_s,
            rms_dbfs=_decibels(power),
            peak=max(self.peak, other.peak),
            clipped_fraction=a * self.clipped_fraction + b * other.clipped_fraction,
            silent_fraction=a * self.silent_fraction + b * other.silent_fraction,
            dc_offset=a * self.dc_offset + b * other.dc_offset,
            band_fractions=bands,
            dropouts=self.dropouts + other.dropouts,
            expected_s=stated,
            averaged=sum(measured[1:], start=measured[0]) if measured else None,
            cut_off=self.cut_off or other.cut_off,
        )

    @property
    def _power(self) -> float:
        return 10 ** (self.rms_dbfs / 10)

    @property
    def _sound(self) -> float:
        """Power about the mean."""
        return max(0.0, self._power - self.dc_offset**2)

    def codes(self) -> tuple[str, ...]:
        """Codes, of `CODES` and in its order, of what makes a verdict on this audio doubtful."""
        return tuple(self._found())

    def warnings(self) -> tuple[str, ...]:
        """Plain sentences on what makes a verdict on this audio doubtful; empty when nothing does."""
        return tuple(self._found().values())

    def _found(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.duration_s < SHORT_S:
            found["short"] = f"The audio is short: {self.duration_s:.2f} s; below {SHORT_S:g} s scores scatter widely."
        if self.expected_s is not None and self.duration_s < self.expected_s - _MISSING_S:
            found["partial"] = f"Only a part of the audio is there: {self.duration_s:.2f} s of {self.expected_s:.2f} s."
        if self.cut_off is not None:
            found["cut-off"] = f"The file ends before its own header says: {self.cut_off}."
        sound_dbfs = _decibels(self._sound)
        if self.peak == 0:
            found["silent"] = "The audio is silent: every sample is zero."
        elif sound_dbfs < -120:
            found["silent"] = "The audio is silent: every sample is the same."
        elif sound_dbfs < _QUIET_DBFS:
            found["quiet"] = f"The audio is almost silent: its level is {sound_dbfs:.1f} dBFS."
        elif self.silent_fraction > _MUCH_SILENCE:
            found["mostly-silent"] = f"The audio is mostly silence: {self.silent_fraction:.0%} of it is below -60 dBFS."
        if "silent" not in found and self.clipped_fraction > _MUCH_CLIPPING:
            where = "full scale" if self.peak >= _CLIP_LEVEL else f"a limit of {self.peak:.2f}"
            found["clipped"] = f"The audio is clipped: {self.clipped_fraction:.2%} of its samples stand at {where}."
        elif self.peak > 1.0:
            found["beyond-full-scale"] = f"The audio reaches beyond full scale: its peak is {self.peak:.2f}."
        # The mean of a short stretch is never quite 0, that of noise least of all.
        share = max(_OFFSET_SHARE, 4 / math.sqrt(16_000 * self.duration_s))
        if abs(self.dc_offset) > max(_OFFSET, share * math.sqrt(self._sound)):
            found["dc-offset"] = (
                f"The audio has a constant offset of {self.dc_offset:+.1%} of full scale, which shifts scores: take "
                "the mean off the samples."
            )
        below, above = self.band_fractions or (0.0, 0.0)
        if below > _NARROW_LEAST and above < _NARROW_SHARE * below:
            found["narrow-band"] = "The audio has nothing above 4 kHz, as behind a telephone."
        if self.dropouts:
            times = "once" if self.dropouts == 1 else f"{self.dropouts} times"
            found["dropouts"] = f"The audio breaks off within the sound {times}: parts of it are lost."
        return {**found, **self._found_in_channels()}

    def _found_in_channels(self) -> dict[str, str]:
        if self.averaged is None or not self.averaged.n:
            return {}
        powers = self.averaged.powers
        floor = float(powers.max()) * 10 ** (_SILENT_CHANNEL_DB / 10)
        choose = "choose one (--channel; column channel of a table)"
        found: dict[str, str] = {}
        silent = np.flatnonzero(powers < floor)
        if len(silent):
            names = ", ".join(map(str, silent))
            found["silent-channel"] = (
                f"Of {len(powers)} channels that were averaged, {names} {'is' if len(silent) == 1 else 'are'} silent: "
                f"{choose}."
            )
        if np.count_nonzero(powers >= floor) < 2 or powers.max() <= 0:
            return found
        correlation = self.averaged.lowest_correlation(floor)
        if correlation < 0 and self.averaged.kept < _CANCELLED:
            found["channels-cancel"] = (
                f"The channels cancel: their mean has {self.averaged.kept:.1%} of their power (correlation "
                f"{correlation:+.2f}): {choose}."
            )
        elif correlation < _ALIKE:
            found["channels-differ"] = (
                f"The channels that were averaged differ (correlation {correlation:+.2f}), as the two sides of a call: "
                f"{choose}."
            )
        return found


def _decibels(power: float) -> float:
    return 10 * math.log10(power) if power > 0 else -math.inf


def condition(
    samples: NDArray[np.floating[Any]],
    sample_rate: int,
    *,
    expected_s: float | None = None,
    averaged: ChannelStatistics | None = None,
    clipped: float | None = None,
    gaps: int | None = None,
    cut_off: str | None = None,
) -> Condition:
    """Measure a waveform.

    Args:
        samples: (T,) float, 1.0 is full scale.
        sample_rate: in Hz.
        expected_s: seconds that there should be, as a table or a header says; None: nobody said.
        averaged: of the channels whose mean the samples are.
        clipped: `clipped_fraction` before the recording was resampled, which bends flat tops; None: of `samples`.
        gaps: `dropouts` likewise.
        cut_off: what the file lacks at its end.

    Raises:
        ValueError: not one-dimensional, empty, or a rate that is not positive.
    """
    if samples.ndim != 1 or not len(samples) or sample_rate <= 0:
        raise ValueError(f"needs samples (T,) with T > 0 and a positive rate, got {samples.shape} at {sample_rate} Hz")
    mean_square = float(np.mean(np.square(samples, dtype=np.float64)))
    return Condition(
        duration_s=len(samples) / sample_rate,
        rms_dbfs=_decibels(mean_square),
        peak=float(np.abs(samples).max()),
        clipped_fraction=clipped_fraction(samples) if clipped is None else clipped,
        silent_fraction=_silent_fraction(samples, sample_rate),
        dc_offset=float(np.mean(samples, dtype=np.float64)),
        band_fractions=_band_fractions(samples, sample_rate),
        dropouts=dropouts(samples, sample_rate) if gaps is None else gaps,
        expected_s=expected_s,
        averaged=averaged,
        cut_off=cut_off,
    )


def count_codes(conditions: Iterable[str | None]) -> dict[str, int]:
    """Count the codes in the conditions of recordings (codes with blanks between), the most frequent first."""
    counted = Counter(code for codes in conditions for code in (codes or "").split())
    return dict(counted.most_common())


def doubts(conditions: Iterable[str | None]) -> tuple[str, ...]:
    """Say how many recordings are doubtful, and of what, for whoever makes numbers of them; nothing where none is.

    Args:
        conditions: of the recordings, as stores keep them; None: not measured.
    """
    measured = [codes for codes in conditions if codes is not None]
    counts = count_codes(measured)
    if not counts:
        return ()
    found = ", ".join(f"{count} {code}" for code, count in counts.items())
    return (f"{sum(map(bool, measured))} of {len(measured)} recordings are doubtful: {found}.",)


def clipped_fraction(samples: NDArray[np.floating[Any]]) -> float:
    """Share of (T,) samples that stand in flat tops, of both signs: at full scale, or at a lower limit."""
    if not len(samples):
        return 0.0
    count = 0
    for peak in (max(0.0, float(samples.max())), min(0.0, float(samples.min()))):
        if abs(peak) < _LIMIT_LEAST:
            continue
        full = abs(peak) >= _CLIP_LEVEL
        limit = math.copysign(_CLIP_LEVEL, peak) if full else peak
        lengths = _runs(samples >= limit if peak > 0 else samples <= limit)[1]
        count += int(lengths[lengths >= (_CLIP_RUN if full else _LIMIT_RUN)].sum())
    return count / len(samples)


def dropouts(samples: NDArray[np.floating[Any]], sample_rate: int) -> int:
    """Count gaps without any sound, of 4 ms to 1 s, on both sides of which there is sound at once.

    A pause fades in and out, and so do the gaps that a noise gate makes; a buffer that ran empty, or a lost packet,
    does not.
    """
    starts, lengths = _runs(np.abs(samples) <= _GAP_LEVEL)
    edge = max(1, round(_EDGE_S * sample_rate))
    shortest, longest = max(2, round(_GAP_S * sample_rate)), round(_LONGEST_GAP_S * sample_rate)
    there = (lengths >= shortest) & (lengths <= longest) & (starts >= edge)
    there &= starts + lengths + edge <= len(samples)
    if not there.any():
        return 0
    level = math.sqrt(float(np.mean(np.square(samples, dtype=np.float64))))
    count = 0
    for start, length in zip(starts[there].tolist(), lengths[there].tolist(), strict=True):
        before, after = samples[start - edge : start], samples[start + length : start + length + edge]
        count += min(_level(before), _level(after)) > max(_GAP_EDGE * level, 10 * _GAP_LEVEL)
    return count


def _level(samples: NDArray[np.floating[Any]]) -> float:
    return math.sqrt(float(np.mean(np.square(samples, dtype=np.float64))))


def _runs(flags: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the stretches of true begin, and how long they are."""
    edges = np.flatnonzero(flags[1:] != flags[:-1]) + 1
    if len(flags) and flags[0]:
        edges = np.concatenate(([0], edges))
    if len(flags) and flags[-1]:
        edges = np.concatenate((edges, [len(flags)]))
    return edges[::2], edges[1::2] - edges[::2]


def _silent_fraction(samples: NDArray[np.floating[Any]], sample_rate: int) -> float:
    size = max(1, round(_FRAME_S * sample_rate))
    frames = samples[: len(samples) // size * size].reshape(-1, size) if len(samples) >= size else samples[None, :]
    power = np.var(frames, axis=1, dtype=np.float64)
    return float(np.mean(power < 10 ** (_SILENT_DBFS / 10)))


def _band_fractions(samples: NDArray[np.floating[Any]], sample_rate: int) -> tuple[float, float] | None:
    """Shares of the power at the upper end of the telephone's band and above 4 kHz, over frames under a Hann window."""
    size = _SPECTRUM * max(1, round(sample_rate / 16_000))
    if sample_rate < _ROOM_HZ or len(samples) < size:
        return None
    frames = np.asarray(samples[: len(samples) // size * size], np.float32).reshape(-1, size)
    spectrum = np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * np.hanning(size).astype(np.float32))
    power = np.square(np.abs(spectrum)).sum(axis=0, dtype=np.float64)
    total = float(power.sum())
    if not total > 0:
        return 0.0, 0.0
    first, last, edge = (math.ceil(hz * size / sample_rate) for hz in (*_BELOW_HZ, _NARROW_HZ + _EDGE_HZ))
    return float(power[first:last].sum()) / total, float(power[edge:].sum()) / total
