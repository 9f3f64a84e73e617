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

from nestvox.audio.defects import clipped_fraction, dropouts
from nestvox.audio.downmix import CLIP_LEVEL, ChannelStatistics

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

_FRAME_S = 0.02
_SILENT_DBFS = -60.0

_QUIET_DBFS = -50.0
_MUCH_SILENCE = 0.6
_MUCH_CLIPPING = 0.0005
_MISSING_S = 0.1
_OFFSET = 2e-4  # of full scale, a few steps of 16 bits, and ...
_OFFSET_SHARE = 0.02  # ... of the level of the sound
_DRIFT_SHARE = 0.15  # of that level: of 1,043 recordings one has 0.11 below 8 Hz, the others less
_DRIFT_S = 0.25
_NARROW_HZ = 4_000.0
_EDGE_HZ = 150.0  # what a filter at 4 kHz leaves just above it
_BELOW_HZ = (2_500.0, 3_400.0)  # what a telephone still carries
_NARROW_SHARE = 1e-3  # of the power in that band: natural speech has 1/500 or more
_NOTHING = 1e-6  # of all power: natural speech has seven times as much above 4 kHz, at the least
_TONE = 0.95  # of the power about one frequency: a hum or a whistle has no band
_ROOM_HZ = 10_000  # lowest sample rate that has room above 4 kHz
_SPECTRUM = 512
_SILENT_CHANNEL_DB = -40.0  # below the loudest
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
        drift: mean square of their means over quarters of a second, for an offset that does not stay.
        band_fractions: shares of the power that lie in 2.5 to 3.4 kHz and above 4.15 kHz, 0 to 1; None where the rate
            has no room for these, or where the sound is one tone.
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
    drift: float = 0.0

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
            drift=a * self.drift + b * other.drift,
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
        clipped = self._clipped()
        if "silent" not in found and clipped is not None:
            found["clipped"] = clipped
        elif self.peak > 1.0:
            found["beyond-full-scale"] = f"The audio reaches beyond full scale: its peak is {self.peak:.2f}."
        offset = self._offset()
        if offset is not None:
            found["dc-offset"] = offset
        below, above = self.band_fractions or (0.0, 1.0)
        if "silent" not in found and above < max(_NARROW_SHARE * below, _NOTHING):
            found["narrow-band"] = "The audio has nothing above 4 kHz, as behind a telephone."
        if self.dropouts:
            times = "once" if self.dropouts == 1 else f"{self.dropouts} times"
            found["dropouts"] = f"The audio breaks off within the sound {times}: parts of it are lost."
        return {**found, **self._found_in_channels()}

    def _offset(self) -> str | None:
        # The mean of a short stretch is never quite 0, that of noise least of all.
        share = max(_OFFSET_SHARE, 4 / math.sqrt(16_000 * self.duration_s))
        if abs(self.dc_offset) > max(_OFFSET, share * math.sqrt(self._sound)):
            return (
                f"The audio has a constant offset of {self.dc_offset:+.1%} of full scale, which shifts scores: take "
                "the mean off the samples."
            )
        if self.drift > max(_OFFSET**2, _DRIFT_SHARE**2 * self._sound):
            return (
                f"The audio has an offset that wanders, by {math.sqrt(self.drift):.1%} of full scale, which shifts "
                "scores: take out what lies below 20 Hz."
            )
        return None

    def _clipped(self) -> str | None:
        if self.clipped_fraction > _MUCH_CLIPPING:
            where = "full scale" if self.peak >= CLIP_LEVEL else f"a limit of {self.peak:.2f}"
            return f"The audio is clipped: {self.clipped_fraction:.2%} of its samples stand at {where}."
        if self.averaged is None or not self.averaged.n:
            return None
        share = self.averaged.tops / self.averaged.n  # which the mean hides
        worst = int(share.argmax())
        if share[worst] <= _MUCH_CLIPPING:
            return None
        return f"Channel {worst} of those that were averaged is clipped: {share[worst]:.2%} of it stands at full scale."

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
        lost = self.averaged.lost_hz
        if self.averaged.cancels:
            found["channels-cancel"] = (
                f"The channels cancel: their mean has {self.averaged.kept:.1%} of their power (correlation "
                f"{correlation:+.2f}): {choose}."
            )
        elif lost:
            places = ", ".join(f"{low / 1000:.1f} to {high / 1000:.1f} kHz" for low, high in lost)
            found["channels-cancel"] = (
                f"The channels cancel at {places}, where their mean has less than half of what it should: {choose}."
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
        drift=_drift(samples, sample_rate),
    )


def count_codes(conditions: Iterable[str | None]) -> dict[str, int]:
    """Count the codes in the conditions of recordings (codes with blanks between), the most frequent first."""
    counted = Counter(code for codes in conditions for code in (codes or "").split())
    return dict(counted.most_common())


def doubts(conditions: Iterable[str | None]) -> tuple[str, ...]:
    """Say how many recordings are doubtful, and of what, by the codes that stores keep (None: not measured), if any."""
    measured = [codes for codes in conditions if codes is not None]
    counts = count_codes(measured)
    if not counts:
        return ()
    found = ", ".join(f"{count} {code}" for code, count in counts.items())
    return (f"{sum(map(bool, measured))} of {len(measured)} recordings are doubtful: {found}.",)


def _drift(samples: NDArray[np.floating[Any]], sample_rate: int) -> float:
    size = max(2, round(_DRIFT_S * sample_rate))
    if len(samples) < size:
        return float(np.mean(samples, dtype=np.float64)) ** 2
    window = np.hanning(size)  # whose side lobes leave nothing of a voice
    means = samples[: len(samples) // size * size].reshape(-1, size) @ (window / window.sum())
    return float(np.mean(np.square(means)))


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
    loudest = int(power.argmax())
    if power[max(0, loudest - 2) : loudest + 3].sum() > _TONE * total:
        return None
    first, last, edge = (math.ceil(hz * size / sample_rate) for hz in (*_BELOW_HZ, _NARROW_HZ + _EDGE_HZ))
    return float(power[first:last].sum()) / total, float(power[edge:].sum()) / total
