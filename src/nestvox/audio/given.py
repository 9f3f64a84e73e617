"""What a caller hands over as audio, as a waveform: a path, an open file, or samples of any kind with their rate.

Samples carry no rate of their own. Where none is given they are taken to be at the rate that is asked for, and a signal
that contradicts it is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.defects import clipped_fraction, dropouts
from nestvox.audio.downmix import ChannelStatistics, mono
from nestvox.audio.errors import (
    AudioRangeError,
    EmptyAudioError,
    NonFiniteAudioError,
    SampleRateError,
    SilentAudioError,
    TooShortAudioError,
)
from nestvox.audio.opening import HIGHEST_HZ, LOWEST_HZ, Content
from nestvox.audio.read import LARGEST_SAMPLE, Recording, read_recording, resample
from nestvox.audio.segment import Segment
from nestvox.errors import AudioError


class _Samples(Protocol):
    """An array of numpy, torch or another library."""

    def __array__(self) -> NDArray[Any]: ...


Audio = str | Path | Segment | Recording | IO[bytes] | _Samples | tuple[Any, Any] | Mapping[str, Any]
"""A path; a `Segment` of a file (start, duration, channel), or one that was read; an open binary file; samples (S,),
(S, C) or (C, S) as an array or a torch tensor; a pair of samples and their rate in Hz, in either order; or a mapping
with ``array`` and ``sampling_rate``, as data sets hold it."""

_WHERE = "the audio array"
_MOST_CHANNELS = 32
_MOST_BYTES = 1 << 31  # of a file that is read whole
# Of 200 recordings at 16 kHz in 25 languages none had less than -50.3 dB above 4 kHz; what was recorded at 48 kHz and
# is taken to be at 16, or comes from a telephone, has below -100 dB, or the noise of 16 bits.
_BAND_EDGE_HZ, _NOTHING_DB = 4_000, -55.0
_FULL_SCALE = {"int8": (0, 2**7), "uint8": (2**7, 2**7), "int16": (0, 2**15), "int32": (0, 2**31)}


def recordings_of(audio: Audio | Sequence[Audio]) -> tuple[list[Audio], bool]:
    """Return the recordings in what was given, and whether it was a single one."""
    if isinstance(audio, tuple):
        single = _pair(audio) is not None
    else:
        single = (
            isinstance(audio, str | Path | Mapping | Segment | Recording)
            or hasattr(audio, "read")
            or hasattr(audio, "__array__")
        )
    given: Any = audio  # who has no type checker may pass anything
    if not single and (isinstance(given, bytes | bytearray) or not isinstance(given, Iterable)):
        words = "is bytes; open them with io.BytesIO" if isinstance(given, bytes | bytearray) else _no_audio(given)
        raise AudioError("the audio", words)
    return ([cast("Audio", audio)], True) if single else (list(cast("Sequence[Audio]", audio)), False)


def heard(
    audio: Audio, *, to_hz: int, sample_rate: float | None = None, min_duration_s: float = 0.0
) -> tuple[Recording, tuple[str, ...]]:
    """Return one recording as mono float32 at a rate, with what is known of its channels.

    Integer samples are divided by their full scale, channels are averaged: of two axes the shorter one holds them.
    Where samples come without a rate, `sample_rate` is theirs; None: `to_hz` is believed.

    Returns:
        The recording, and sentences on what speaks against the rate that was believed.

    Raises:
        AudioError: the file cannot be used; or the samples are of no such kind or shape, empty, too short, not finite
            or beyond 64 times full scale; or rates are given twice, or for a file, which says its own.
    """
    if isinstance(audio, Recording):
        return replace(audio, samples=resample(audio.samples, audio.sample_rate, to_hz), sample_rate=to_hz), ()
    if isinstance(audio, Segment):
        return audio.read(sample_rate=to_hz, min_duration_s=min_duration_s), ()
    if isinstance(audio, str | Path) or hasattr(audio, "read"):
        if sample_rate is not None:
            raise AudioError(_shown(audio), f"a file says its own rate; leave out sample_rate={sample_rate:g}")
        place = Path(audio) if isinstance(audio, str | Path) else _content(cast("IO[bytes]", audio))
        return read_recording(place, sample_rate=to_hz, min_duration_s=min_duration_s), ()
    samples, from_hz = _split(audio, sample_rate)
    channels = _channels(samples)
    believed = _rate(to_hz if from_hz is None else from_hz)
    averaged = ChannelStatistics.of(channels, believed) if channels.shape[1] > 1 else None
    samples = mono(channels)
    hint = "" if from_hz is not None else f", if it is at {to_hz} Hz: no sample_rate= was given"
    if len(samples) < min_duration_s * believed:
        seconds = len(samples) / believed
        raise TooShortAudioError(_WHERE, f"{seconds:.3f} s of audio, at least {min_duration_s:.3f} s needed{hint}")
    if not samples.any():
        raise SilentAudioError.of(_WHERE, len(samples), cancelled=averaged is not None and averaged.audible)
    doubts = () if from_hz is not None else _doubts(samples, to_hz)
    if believed == to_hz:  # as every batch of an embedding comes: its condition is measured where somebody asks for it
        return Recording(samples, to_hz, averaged), doubts
    resampled = np.ascontiguousarray(resample(samples, believed, to_hz))
    return Recording(resampled, to_hz, averaged, clipped_fraction(samples), dropouts(samples, believed)), doubts


def _content(file: IO[bytes]) -> Content:
    """All that an open file holds, from its beginning where it can go back there."""
    if file.seekable():
        file.seek(0)
    data = file.read(_MOST_BYTES + 1)
    if not isinstance(data, bytes):
        raise AudioError(_shown(file), "is open as text; open it with mode 'rb'")
    if len(data) > _MOST_BYTES:
        raise AudioError(
            _shown(file), f"holds more than {_MOST_BYTES >> 30} GiB; give its path, which is read in parts"
        )
    return Content(_shown(file), data)


def _shown(audio: Any) -> str:
    return str(audio) if isinstance(audio, str | Path) else str(getattr(audio, "name", "the open file"))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _pair(audio: tuple[Any, ...]) -> tuple[Any, Any] | None:
    """Samples and their rate, where a tuple is such a pair; some libraries put the rate first."""
    if len(audio) != 2 or _is_number(audio[0]) == _is_number(audio[1]):
        return None
    samples, rate = audio if _is_number(audio[1]) else audio[::-1]
    return None if isinstance(samples, str | Path) else (samples, rate)


def _split(audio: Any, sample_rate: float | None) -> tuple[Any, float | None]:
    """The samples, and the rate that came with them or was given."""
    own = None
    if isinstance(audio, Mapping):
        if not {"array", "sampling_rate"} <= set(audio):
            raise AudioError("the audio mapping", "needs the keys array and sampling_rate")
        audio, own = audio["array"], audio["sampling_rate"]
    elif isinstance(audio, tuple):
        pair = _pair(audio)
        if pair is None:
            raise AudioError("the audio tuple", "is no pair of samples and their rate in Hz")
        audio, own = pair
    if own is not None and sample_rate is not None and own != sample_rate:
        raise AudioError(_WHERE, f"comes with {own:g} Hz and sample_rate={sample_rate:g} says otherwise; give one")
    return audio, own if own is not None else sample_rate


def _rate(rate: float) -> int:
    if not _is_number(rate) or not LOWEST_HZ <= rate <= HIGHEST_HZ or rate != int(rate):
        raise SampleRateError(
            _WHERE, f"sample rate {rate!r}: expected a whole number of Hz from {LOWEST_HZ} to {HIGHEST_HZ}"
        )
    return int(rate)


def _channels(samples: Any) -> NDArray[np.float32]:
    """Samples (S, C) in [-1, 1], checked."""
    array = _frames_first(_array(samples))
    if array.dtype.name in _FULL_SCALE:
        zero, full = _FULL_SCALE[array.dtype.name]
        array = (array.astype(np.float64) - zero) / full
    elif not np.issubdtype(array.dtype, np.floating):
        raise AudioError(
            _WHERE,
            f"holds {array.dtype}, whose full scale nobody knows; give floats in [-1, 1], or int16, int32 or uint8 as "
            "files hold them",
        )
    if not array.size:
        raise EmptyAudioError(_WHERE, "holds no samples")
    if not np.isfinite(array).all():
        raise NonFiniteAudioError(_WHERE, "holds values that are not finite")
    largest = float(np.abs(array).max())
    if largest > LARGEST_SAMPLE:
        raise AudioRangeError(
            _WHERE, f"its largest sample is {largest:g}, 1 is full scale: divide 16-bit samples by 32768"
        )
    return np.ascontiguousarray(array, np.float32)


def _array(samples: Any) -> NDArray[Any]:
    if isinstance(samples, list):
        raise AudioError(_WHERE, "is a list of numbers; make it an array: np.asarray(samples, np.float32)")
    if hasattr(samples, "detach"):  # a torch tensor, wherever it lies; bfloat16 is no type of numpy's
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()
    if not (isinstance(samples, np.ndarray) or hasattr(samples, "__array__")):
        raise AudioError(_WHERE, _no_audio(samples))
    if np.ma.is_masked(samples):
        raise AudioError(_WHERE, "is masked; say what the masked samples are: samples.filled(0)")
    return np.asarray(samples)


def _no_audio(given: object) -> str:
    return f"is {type(given).__name__}; audio is a path, an open file, or samples with their rate"


def _frames_first(array: NDArray[Any]) -> NDArray[Any]:
    """(S, C): of two axes the longer one is time."""
    if array.ndim == 1:
        return array[:, None]
    if array.size == 0:
        raise EmptyAudioError(_WHERE, "holds no samples")
    if array.ndim != 2:
        raise AudioError(_WHERE, f"has the shape {array.shape}; expected (samples,) or samples by channels")
    if min(array.shape) > _MOST_CHANNELS or array.shape[0] == array.shape[1]:
        raise AudioError(_WHERE, f"has the shape {array.shape}: which axis holds the channels is not to be seen")
    return array if array.shape[0] > array.shape[1] else array.T


def _doubts(samples: NDArray[np.float32], rate: int) -> tuple[str, ...]:
    """What in the signal contradicts the rate that is believed."""
    if rate <= 2 * _BAND_EDGE_HZ or len(samples) < rate // 10:
        return ()
    size = 1024
    frames = (
        np.lib.stride_tricks.sliding_window_view(samples, size)[:: size // 2] if len(samples) >= size else samples[None]
    )
    power = np.zeros(frames.shape[1] // 2 + 1)
    for start in range(0, len(frames), 512):  # not all spectra of an hour at once
        block = frames[start : start + 512] * np.hanning(frames.shape[1])
        power += (np.abs(np.fft.rfft(block, axis=1)) ** 2).sum(axis=0)
    above = power[np.fft.rfftfreq(frames.shape[1], 1 / rate) > _BAND_EDGE_HZ].sum()
    if not power.any() or above > 10 ** (_NOTHING_DB / 10) * power.sum():
        return ()
    return (
        f"There is nothing above {_BAND_EDGE_HZ / 1000:g} kHz. No sample rate was given and {rate} Hz is believed: if "
        "the samples are at another rate, say so (sample_rate=), or every score is wrong.",
    )
