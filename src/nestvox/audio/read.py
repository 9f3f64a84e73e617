"""Audio files to waveforms: mono float32 at one sample rate, or an error that names the file.

Decoding is libsndfile's (through soundfile), resampling is soxr's; nothing needs FFmpeg, except for AAC and what else
comes in m4a, mp4, webm and adts files (`containers`, extra [av]).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from nestvox.audio.condition import Condition, condition
from nestvox.audio.containers import CONTAINER_EXTENSIONS
from nestvox.audio.defects import clipped_fraction, dropouts
from nestvox.audio.downmix import ChannelStatistics, mono
from nestvox.audio.errors import (
    AudioRangeError,
    ChannelError,
    EmptyAudioError,
    NonFiniteAudioError,
    SampleRateError,
    SilentAudioError,
    TooShortAudioError,
    UnreadableAudioError,
)
from nestvox.audio.opening import HIGHEST_HZ, LOWEST_HZ, Content, FileStream, Place, SoundStream, opened, reason
from nestvox.errors import AudioError

SAMPLE_RATE = 16_000
"""Rate in Hz of most speaker encoders, and the default of `read`."""

_SNDFILE_EXTENSIONS = (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".sph", ".w64", ".wav")
EXTENSIONS = tuple(sorted((*_SNDFILE_EXTENSIONS, *CONTAINER_EXTENSIONS)))
"""File name endings (lower case) that are taken for audio when a folder is searched."""

# Sample-exact seeking. Opus restarts with decoder state of its own and is close, not equal (see `read`).
_SEEKABLE = frozenset({"ALAW", "DOUBLE", "FLOAT", "OPUS", "PCM_16", "PCM_24", "PCM_32", "PCM_S8", "PCM_U8", "ULAW"})
_OPUS_MARGIN_S = 0.5  # decoded before the start and thrown away, so that the decoder has settled
_BLOCK_SAMPLES = 1 << 16  # over all channels: what one read may allocate, whatever the header claims
# No format packs more samples into a byte for long (FLAC, one constant block: 65,535 in about 14 bytes), so a
# decoder that gives more than this is running in circles on a damaged file.
_SAMPLES_PER_BYTE = 8_192
LARGEST_SAMPLE = 64.0
"""36 dB above full scale: what lies beyond is no sound."""
_RESAMPLE_MARGIN = 512  # samples at the lower of both rates; the HQ filter is shorter


@dataclass(frozen=True)
class AudioInfo:
    """What a file says about itself.

    Attributes:
        path: the file.
        format: container, e.g. ``WAV``, ``FLAC``, ``OGG``, ``MP3``.
        subtype: coding of the samples, e.g. ``PCM_16``, ``ALAW``, ``OPUS``.
        sample_rate: in Hz.
        channels: as stored, before the down-mix.
        duration_s: seconds; of MP3, and where the header does not say, counted by decoding.
    """

    path: Path
    format: str
    subtype: str
    sample_rate: int
    channels: int
    duration_s: float


@dataclass(frozen=True)
class Recording:
    """A recording that was read, or a part of one."""

    samples: NDArray[np.float32]  # (T,)
    sample_rate: int
    averaged: ChannelStatistics | None = None  # of the channels whose mean this is; None: of one channel
    clipped: float | None = None  # share of samples in flat tops, at the file's own rate
    gaps: int | None = None  # dropouts, at the file's own rate
    expected_s: float | None = None  # seconds that there should be, as a table says; None: nobody said
    cut_off: str | None = None  # what the file lacks at its end by its own header, where this is read up to there

    def condition(self, *, expected_s: float | None = None, sample_rate: int | None = None) -> Condition:
        """Measure, at this rate in Hz or its own, what makes a score about it doubtful."""
        rate = sample_rate or self.sample_rate
        return condition(
            resample(self.samples, self.sample_rate, rate),
            rate,
            expected_s=self.expected_s if expected_s is None else expected_s,
            averaged=self.averaged,
            clipped=self.clipped,
            gaps=self.gaps,
            cut_off=self.cut_off,
        )


_Decoded = tuple[NDArray[np.float32], ChannelStatistics | None]


def _blocks(stream: SoundStream, path: Place) -> Iterator[NDArray[np.float32]]:
    """Yield (n, channels) blocks from the current position to where decoding ends."""
    size = max(1, _BLOCK_SAMPLES // stream.channels)
    allowed = stream.n_bytes * _SAMPLES_PER_BYTE + _BLOCK_SAMPLES
    decoded = 0
    while True:
        buffer = np.empty((size, stream.channels), dtype=np.float32)
        try:
            block = stream.read(size, out=buffer)
        except (soundfile.SoundFileError, RuntimeError) as error:
            # Of the block that it breaks in nothing comes back, so that the place is known to the block only.
            place = f"breaks in the {size / stream.samplerate:.1f} s from {decoded / stream.samplerate:.3f} s on"
            raise UnreadableAudioError(path, f"{place}: {reason(error)}") from error
        if not len(block):
            return
        decoded += len(block)
        if decoded > allowed:
            raise UnreadableAudioError(path, f"{stream.n_bytes} bytes decode without end: the file is damaged")
        yield block


def _decode(path: Place, stream: SoundStream, start: int, stop: int | None, channel: int | None) -> _Decoded:
    """Samples [start, stop) of a channel or the down-mix, at the file's own rate; fewer where the file ends before."""
    position = 0
    if start and isinstance(stream, FileStream) and stream.subtype in _SEEKABLE:
        margin = round(_OPUS_MARGIN_S * stream.samplerate) if stream.subtype == "OPUS" else 0
        target = max(0, start - margin)
        try:
            position = stream.seek(min(target, max(stream.frames, 0)))
        except (soundfile.SoundFileError, RuntimeError):
            # A damaged file may refuse to seek and still decode from its beginning.
            with opened(path) as fresh:
                return _collect(path, fresh, 0, start, stop, channel)
        if position < target:
            return np.zeros(0, np.float32), None  # the file ends before the part that was asked for
    return _collect(path, stream, position, start, stop, channel)


def _collect(
    path: Place,
    stream: SoundStream,
    position: int,
    start: int,
    stop: int | None,
    channel: int | None,
) -> _Decoded:
    parts: list[NDArray[np.float32]] = []
    averaged: ChannelStatistics | None = None
    if stop is not None and stop <= start:
        return np.zeros(0, np.float32), None
    for block in _blocks(stream, path):
        end = position + len(block)
        if end > start:
            first = max(0, start - position)
            last = len(block) if stop is None else min(len(block), stop - position)
            part = block[first:last]
            if channel is None and stream.channels > 1:
                measured = ChannelStatistics.of(part, stream.samplerate)
                averaged = measured if averaged is None else averaged + measured
            parts.append(mono(part, channel))
        position = end
        if stop is not None and position >= stop:
            break
    return np.concatenate(parts) if parts else np.zeros(0, np.float32), averaged


def probe(path: str | Path) -> AudioInfo:
    """Say what a file is without keeping its samples.

    The duration is the header's for formats that store it. MP3 stores none that can be trusted, and a stream
    may have been written without: these are decoded and counted (an hour takes seconds).

    Raises:
        UnreadableAudioError: missing, not audio, or of a format that is not read.
        EmptyAudioError: 0 bytes, or no samples.
        SampleRateError: a rate outside 1 to 768 kHz.
    """
    path = Path(path)
    with opened(path) as stream:
        try:
            frames = stream.frames
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise UnreadableAudioError(path, f"cannot be opened as audio: {reason(error)}") from error
        most = stream.n_bytes * _SAMPLES_PER_BYTE
        if stream.format == "MP3" or not 0 <= frames <= most:
            frames = sum(len(block) for block in _blocks(stream, path))
        if not frames:
            raise EmptyAudioError(path, "holds no samples")
        return AudioInfo(
            path, stream.format, stream.subtype, stream.samplerate, stream.channels, frames / stream.samplerate
        )


def resample(samples: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """Resample (T,) float32 with soxr's HQ filter; T' is T * to_hz / from_hz, rounded half up.

    Raises:
        ValueError: a rate that is not positive.
    """
    if from_hz <= 0 or to_hz <= 0:
        raise ValueError(f"sample rates must be positive, got {from_hz} and {to_hz} Hz")
    if from_hz == to_hz or not len(samples):
        return samples
    out = soxr.resample(np.ascontiguousarray(samples, dtype=np.float32), from_hz, to_hz, quality="HQ")
    return np.asarray(out, dtype=np.float32)


def read(
    path: str | Path,
    *,
    sample_rate: int | None = SAMPLE_RATE,
    start_s: float = 0.0,
    duration_s: float | None = None,
    channel: int | None = None,
    min_duration_s: float = 0.0,
    allow_silent: bool = False,
) -> tuple[NDArray[np.float32], int]:
    """Decode a file, or a part of it, to mono.

    Channels are averaged unless one is chosen; `read_recording` also says what averaging did to them. 1.0 is full
    scale; levels are never touched: float files and lossy decoders may reach beyond [-1, 1], and such samples are kept
    as they are, because clipping distorts and scaling would make the level depend on how much of the file is read.
    Only what lies beyond 64 times full scale is refused.

    The part is samples [round(start_s * rate), round((start_s + duration_s) * rate)) of the whole file at the
    rate returned, and equals that slice of the whole decode: exactly at the file's own rate, within 1e-5 of full
    scale after resampling (the part is resampled with a margin on both sides). Opus is the exception: seeking
    restarts its decoder, and the part is within 0.02 of the slice. PCM, G.711, FLAC and Opus are read by seeking;
    the others from the beginning up to the end of the part, as seeking in MP3 and Vorbis is not sample-exact in
    libsndfile. A part that reaches beyond the end gives what there is.

    Args:
        path: wav (8 to 32 bit, float, A-law, u-law, ADPCM), flac, ogg (Vorbis, Opus), mp3, aiff, au, caf, w64
            or sph; with the extra [av] also m4a, mp4, webm, mka and aac with one audio track. A
            member of a tar archive is ``archive.tar::member`` (see `audio.archives`); it is held in memory whole.
        sample_rate: of the result, in Hz; None keeps the file's own.
        start_s: seconds to leave out at the beginning.
        duration_s: seconds to read; None reads to the end.
        channel: number of the channel, from 0 on; None averages them.
        min_duration_s: shorter audio is an error.
        allow_silent: give all-zero audio instead of raising.

    Returns:
        Samples (T,) float32, and their rate in Hz.

    Raises:
        UnreadableAudioError: missing, not audio, or it breaks while it is decoded.
        EmptyAudioError: no samples, or the part begins at or after the end.
        TooShortAudioError: shorter than `min_duration_s`.
        NonFiniteAudioError: NaN or infinity among the samples.
        AudioRangeError: samples beyond 64 times full scale.
        SilentAudioError: every sample is zero.
        SampleRateError: a rate outside 1 to 768 kHz.
        ChannelError: no such channel.
        AudioError: `start_s`, `duration_s` or `sample_rate` make no sense.
    """
    samples, rate, *_ = _read(
        path, sample_rate, start_s, duration_s, channel, min_duration_s, allow_silent=allow_silent
    )
    return samples, rate


def read_recording(
    path: str | Path | Content,
    *,
    sample_rate: int | None = SAMPLE_RATE,
    start_s: float = 0.0,
    duration_s: float | None = None,
    channel: int | None = None,
    min_duration_s: float = 0.0,
    allow_silent: bool = False,
) -> Recording:
    """Decode as `read` does, and keep what its `condition` needs to know of the file; arguments and errors as there."""
    samples, rate, raw, own_rate, averaged, lack = _read(
        path, sample_rate, start_s, duration_s, channel, min_duration_s, allow_silent=allow_silent
    )
    whole = duration_s is None or len(samples) < round(duration_s * rate)  # what lies before a cut is none the worse
    cut_off = lack if whole else None
    return Recording(samples, rate, averaged, clipped_fraction(raw), dropouts(raw, own_rate), cut_off=cut_off)


def _read(
    path: str | Path | Content,
    sample_rate: int | None,
    start_s: float,
    duration_s: float | None,
    channel: int | None,
    min_duration_s: float,
    *,
    allow_silent: bool,
) -> tuple[NDArray[np.float32], int, NDArray[np.float32], int, ChannelStatistics | None, str | None]:
    """Samples and their rate, those at the file's own rate with that, channel statistics, and what the file lacks."""
    path = Path(path) if isinstance(path, str) else path
    _check_part(path, sample_rate, start_s, duration_s)
    with opened(path) as stream:
        check_channel(path, channel, stream.channels)
        from_hz: int = stream.samplerate
        to_hz = sample_rate or from_hz
        first = round(start_s * to_hz)
        last = None if duration_s is None else round((start_s + duration_s) * to_hz)
        # Both grids of samples meet every `up` samples of the result and every `down` samples of the file: a part
        # that is resampled from such a point on has the same phase as the whole.
        common = math.gcd(from_hz, to_hz)
        up, down = to_hz // common, from_hz // common
        margin = 0 if from_hz == to_hz else math.ceil(_RESAMPLE_MARGIN * to_hz / min(from_hz, to_hz))
        origin = max(0, first - margin) // up
        stop = None if last is None else math.ceil((last + margin) * from_hz / to_hz)
        raw, averaged = _decode(path, stream, origin * down, stop, channel)
        lack = stream.lack
    _check_samples(path, raw)
    samples = resample(raw, from_hz, to_hz)
    skipped = origin * up
    samples = samples[first - skipped : None if last is None else last - skipped]
    _check_result(path, samples, to_hz, start_s, min_duration_s)
    if not allow_silent and not samples.any():
        raise SilentAudioError.of(path, len(samples), cancelled=averaged is not None and averaged.audible)
    return np.ascontiguousarray(samples), to_hz, raw, from_hz, averaged, lack


def check_channel(path: str | Place, channel: int | None, channels: int) -> None:
    """Refuse the number of a channel that a file does not have.

    Raises:
        ChannelError: naming the file.
    """
    if channel is not None and not 0 <= channel < channels:
        there = "one channel, 0" if channels == 1 else f"the channels 0 to {channels - 1}"
        raise ChannelError(path, f"has {there}; asked for channel {channel}")


def _check_part(path: Place, sample_rate: int | None, start_s: float, duration_s: float | None) -> None:
    if sample_rate is not None and not LOWEST_HZ <= sample_rate <= HIGHEST_HZ:
        raise SampleRateError(path, f"asked for {sample_rate} Hz; {LOWEST_HZ} to {HIGHEST_HZ} Hz is possible")
    if not (math.isfinite(start_s) and start_s >= 0):
        raise AudioError(path, f"start_s must be a number of seconds from 0 on, got {start_s}")
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0):
        raise AudioError(path, f"duration_s must be a number of seconds above 0, got {duration_s}")


def _check_samples(path: Place, samples: NDArray[np.float32]) -> None:
    if not len(samples):
        return
    peak = float(np.abs(samples).max())
    if not math.isfinite(peak):
        bad = int(np.count_nonzero(~np.isfinite(samples)))
        raise NonFiniteAudioError(path, f"{bad} of {len(samples)} samples are NaN or infinite")
    if peak > LARGEST_SAMPLE:
        raise AudioRangeError(
            path,
            f"the largest sample is {peak:.4g} times full scale; if the file holds integers stored as floats, "
            "divide them by their full scale",
        )


def _check_result(path: Place, samples: NDArray[np.float32], rate: int, start_s: float, min_duration_s: float) -> None:
    if not len(samples):
        where = f"no samples from {start_s:.3f} s on" if start_s else "holds no samples"
        raise EmptyAudioError(path, where)
    if len(samples) < min_duration_s * rate:
        raise TooShortAudioError(path, f"{len(samples) / rate:.3f} s of audio, at least {min_duration_s:.3f} s needed")
