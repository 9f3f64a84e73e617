"""What happens to speech between mouth and file: speed, level, clipping, the telephone, and codecs.

Codecs are real: what libsndfile has (G.711, GSM 06.10, G.721, Opus, Vorbis, MP3) always, AMR-NB and G.722 with the
extra [av]. A round trip leaves length and alignment as they were: what a codec is known to delay is taken off.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from nestvox.audio.errors import AugmentationError
from nestvox.audio.mixing import Waveform
from nestvox.extras import require

_TELEPHONE_HZ = (300.0, 3400.0)
_TELEPHONE_RATE = 8_000
_TAPS = 257  # 32 ms at 8 kHz: 40 dB down 100 Hz beyond the edges
_CODER_PEAK = 0.99  # integer coders wrap or clip above full scale


@dataclass(frozen=True)
class Channel:
    """A way through a codec and back."""

    sample_rate: int  # at which it codes, in Hz
    telephone: bool = False  # the band is cut to 300 to 3400 Hz first
    delay: int = 0  # samples at that rate that coder and decoder put before the signal
    container: str = ""  # libsndfile's name, as that of the subtype
    subtype: str = ""
    level: float | None = None  # libsndfile's compression level, 0 to 1, where there is one: about 16 kbit/s for each
    av: str | None = None  # PyAV's name of the coder, for those that libsndfile lacks
    bit_rate: int | None = None  # for PyAV, in bit/s; None: the coder has only one


CHANNELS = {
    "g722": Channel(16_000, delay=22, av="g722"),
    "mp3": Channel(16_000, delay=1105, container="MP3", subtype="MPEG_LAYER_III", level=0.95),  # LAME's 576 + 529
    "opus": Channel(16_000, container="OGG", subtype="OPUS", level=0.97),
    "telephone-alaw": Channel(_TELEPHONE_RATE, telephone=True, container="WAV", subtype="ALAW"),
    "telephone-amr": Channel(_TELEPHONE_RATE, telephone=True, delay=40, av="libopencore_amrnb", bit_rate=7_950),
    "telephone-g721": Channel(_TELEPHONE_RATE, telephone=True, container="AU", subtype="G721_32"),
    "telephone-gsm": Channel(_TELEPHONE_RATE, telephone=True, container="WAV", subtype="GSM610"),
    "telephone-mulaw": Channel(_TELEPHONE_RATE, telephone=True, container="WAV", subtype="ULAW"),
    "vorbis": Channel(16_000, container="OGG", subtype="VORBIS", level=1.0),
}
"""Channels by name."""


def change_speed(samples: Waveform, speed: float) -> Waveform:
    """Play (T,) faster (above 1) or slower: tempo and pitch change together, so that it sounds like another speaker.

    Returns:
        About (T / speed,) float32.

    Raises:
        AugmentationError: a speed outside 0.5 to 2.
    """
    if not 0.5 <= speed <= 2:
        raise AugmentationError(f"speed must lie between 0.5 and 2, got {speed}")
    if speed == 1 or not len(samples):
        return samples
    # Sample rates only matter as a ratio; soxr takes fractions of a hertz.
    return np.asarray(soxr.resample(np.ascontiguousarray(samples, np.float32), speed, 1.0, quality="HQ"), np.float32)


def change_gain(samples: Waveform, gain_db: float) -> Waveform:
    """Multiply (T,) by a gain in dB."""
    return np.asarray(samples * 10 ** (gain_db / 20), np.float32)


def clip(samples: Waveform, fraction: float) -> Waveform:
    """Cut the tops off (T,), as an overdriven microphone does; this share of the samples then stands at the limit."""
    if not len(samples) or fraction <= 0:
        return samples
    limit = float(np.quantile(np.abs(samples), 1 - min(fraction, 1.0)))
    return np.clip(samples, -limit, limit) if limit > 0 else samples


def telephone_band(samples: Waveform, sample_rate: int) -> Waveform:
    """Keep 300 to 3400 Hz of (T,), the band of the classic telephone, without delay.

    Raises:
        AugmentationError: a rate that does not hold the band, of 6800 Hz or less.
    """
    if sample_rate <= 2 * _TELEPHONE_HZ[1]:
        raise AugmentationError(f"the telephone band needs more than 6800 Hz of sample rate, got {sample_rate}")
    if not len(samples):
        return samples
    signal = require("scipy.signal", extra="augment", purpose="the band of a telephone")  # loads for a second
    # A symmetric filter cut at its middle has no delay.
    filtered = signal.oaconvolve(samples.astype(np.float64), _band_filter(sample_rate))
    middle = len(_band_filter(sample_rate)) // 2
    return np.asarray(filtered[middle : middle + len(samples)], np.float32)


@cache
def _band_filter(sample_rate: int) -> NDArray[np.float64]:
    signal = require("scipy.signal", extra="augment", purpose="the band of a telephone")
    taps = round(_TAPS * sample_rate / _TELEPHONE_RATE) | 1
    return np.asarray(signal.firwin(taps, _TELEPHONE_HZ, fs=sample_rate, pass_zero=False), np.float64)


def through_channel(samples: Waveform, name: str, sample_rate: int) -> Waveform:
    """Send a recording (T,) through one of `CHANNELS` and back; the result is aligned with it.

    Raises:
        AugmentationError: no such channel, or this build of PyAV lacks the coder.
        MissingExtraError: the channel needs the extra [av].
    """
    if name not in CHANNELS:
        raise AugmentationError(f"no channel {name!r}; there are {', '.join(CHANNELS)}")
    channel = CHANNELS[name]
    peak = float(np.abs(samples).max()) if len(samples) else 0.0
    if not peak:
        return samples
    scale = min(1.0, _CODER_PEAK / peak)
    sent = _resampled(samples * np.float32(scale), sample_rate, channel.sample_rate)
    if channel.telephone:
        sent = telephone_band(sent, channel.sample_rate)
        scale_again = min(1.0, _CODER_PEAK / max(float(np.abs(sent).max()), 1e-9))
        sent, scale = sent * np.float32(scale_again), scale * scale_again
    received = _through_av(sent, channel) if channel.av else _through_sndfile(sent, channel)
    received = _padded(received[channel.delay :], len(sent))
    back = _resampled(received, channel.sample_rate, sample_rate)
    return np.asarray(_padded(back, len(samples)) / scale, np.float32)


def _resampled(samples: Waveform, from_hz: int, to_hz: int) -> Waveform:
    if from_hz == to_hz:
        return samples
    return np.asarray(soxr.resample(np.ascontiguousarray(samples, np.float32), from_hz, to_hz, quality="HQ"))


def _padded(samples: Waveform, length: int) -> Waveform:
    return samples[:length] if len(samples) >= length else np.pad(samples, (0, length - len(samples)))


def _through_sndfile(samples: Waveform, channel: Channel) -> Waveform:
    file = io.BytesIO()
    coding: dict[str, Any] = {} if channel.level is None else {"compression_level": channel.level}
    if channel.container == "MP3":
        coding["bitrate_mode"] = "CONSTANT"  # other modes write a header that makes decoders take the delay off
    # What a codec delays pushes the end of the signal out of the file: room for it.
    sent = np.pad(samples, (0, 2 * channel.delay))
    try:
        soundfile.write(file, sent, channel.sample_rate, format=channel.container, subtype=channel.subtype, **coding)
        file.seek(0)
        received, _ = soundfile.read(file, dtype="float32")
    except soundfile.SoundFileError as error:
        raise AugmentationError(f"libsndfile cannot code {channel.subtype} in {channel.container}: {error}") from error
    return np.asarray(received, np.float32)


def _through_av(samples: Waveform, channel: Channel) -> Waveform:
    av = require("av", extra="av", purpose=f"the codec {channel.av}")
    try:
        coder = av.CodecContext.create(channel.av, "w")
        decoder = av.CodecContext.create(channel.av, "r")
    except (ValueError, LookupError) as error:
        raise AugmentationError(
            f"this build of PyAV has no coder {channel.av}: install the wheel of pip, or leave the channel out"
        ) from error
    for context in (coder, decoder):
        context.sample_rate = channel.sample_rate
        context.layout = "mono"
    coder.format = "s16"
    coder.time_base = Fraction(1, channel.sample_rate)
    if channel.bit_rate is not None:
        coder.bit_rate = channel.bit_rate
    coder.open()
    size = coder.frame_size or channel.sample_rate // 50
    sent = np.pad(samples, (0, -len(samples) % size + 4 * size))
    pcm = np.clip(np.round(sent * 32768), -32768, 32767).astype(np.int16)
    received: list[Waveform] = []

    def decode(packets: Any, take: Callable[[Any], Any]) -> None:
        for packet in packets:
            received.extend(_of_frame(frame) for frame in take(packet))

    for first in range(0, len(pcm), size):
        frame = av.AudioFrame.from_ndarray(pcm[None, first : first + size], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = channel.sample_rate, first, coder.time_base
        decode(coder.encode(frame), decoder.decode)
    decode(coder.encode(None), decoder.decode)
    received.extend(_of_frame(frame) for frame in decoder.decode(None))
    return np.concatenate(received) if received else np.zeros(0, np.float32)


def _of_frame(frame: Any) -> Waveform:
    scale = 1.0 if frame.format.name.startswith("flt") else 32768.0
    return np.asarray(frame.to_ndarray().ravel() / scale, np.float32)
