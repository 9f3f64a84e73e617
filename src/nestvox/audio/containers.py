"""AAC and Opus in m4a, mp4, webm and adts files, decoded by FFmpeg's libraries through PyAV (extra [av]).

The container is told by its first bytes, never by probing: FFmpeg knows playlists and other formats that make a file
name further files or addresses, and none of those must be opened because something was called ``.m4a``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import MissingExtraError
from nestvox.extras import require

CONTAINER_EXTENSIONS = (".aac", ".m4a", ".m4b", ".mka", ".mkv", ".mov", ".mp4", ".webm")
"""File name endings (lower case) that are taken for audio, as they are by `audio.read.EXTENSIONS`."""

_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")  # ISO/IEC 14496-12: what such a file begins with
EBML = b"\x1a\x45\xdf\xa3"  # RFC 8794
_DEMUXERS = {"MP4": "mp4", "MATROSKA": "matroska", "ADTS": "aac"}
_MOST_LEFT_OUT = 8  # packets of which an encoder and its decoder need some to begin and to end
_FULL_SCALE = {"u8": (128.0, 128.0), "s16": (0.0, 2.0**15), "s32": (0.0, 2.0**31), "s64": (0.0, 2.0**63)}


class BrokenStreamError(RuntimeError):
    """What FFmpeg says about a file that it cannot open or decode; the caller names the file."""


def container_of(head: bytes) -> str | None:
    """Name the container that a file with these first bytes (12 or more) is: MP4, MATROSKA, ADTS, or None."""
    if head[4:8] in _BOXES:
        return "MP4"
    if head.startswith(EBML):
        return "MATROSKA"
    # ISO/IEC 13818-7: twelve sync bits, and layer 0, which no MP3 has.
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "ADTS"
    return None


class ContainerStream:
    """The audio track of a file, read front to back; the members are those of soundfile's `SoundFile`.

    Attributes:
        format: ``MP4``, ``MATROSKA`` or ``ADTS``.
        subtype: name of the codec, upper case: ``AAC``, ``OPUS``, ``VORBIS``, ``ALAC``, ...
        samplerate: in Hz, of the first decoded frame (a header may state half of it: spectral band replication).
        channels: of the first decoded frame.
        frames: samples per channel by the header; -1 where it says nothing that is exact.
        n_bytes: of the file, for whoever opens it.
        lack: what the file lacks at its end, likewise.

    Raises:
        BrokenStreamError: nothing can be decoded, there are several audio tracks, or the extra [av] is not installed.
    """

    def __init__(self, source: Path | BinaryIO, container: str) -> None:
        try:
            self._av: ModuleType = require("av", extra="av", purpose="reading m4a, aac, mp4 and webm")
        except MissingExtraError as error:
            raise BrokenStreamError(str(error)) from error
        self.format = container
        self._container: Any = None
        try:
            # The protocol is named, so that no file name can be taken for an address.
            where = f"file:{source}" if isinstance(source, Path) else source
            self._container = self._av.open(where, format=_DEMUXERS[container])
            if not self._container.streams.audio:
                raise BrokenStreamError("holds no audio track")
            tracks = len(self._container.streams.audio)
            if tracks > 1:  # two people, or two languages: whose voice would it be?
                raise BrokenStreamError(
                    f"holds {tracks} audio tracks; take out the one that is meant (ffmpeg -i FILE -map 0:a:0 OUT)"
                )
            self._track = self._container.streams.audio[0]
            self._decoded = self._frames()
            first = next(self._decoded, None)
            if first is None:
                raise BrokenStreamError("its audio track holds no samples")
        except self._errors() as error:
            self.close()
            raise BrokenStreamError(_words(error)) from error
        except BaseException:
            self.close()
            raise
        self.samplerate = int(first.sample_rate)
        self.channels = int(first.layout.nb_channels)
        self.subtype = str(self._track.codec_context.codec.canonical_name).upper()
        self._waiting: Any = first
        self._rest = np.zeros((0, self.channels), np.float32)
        self._position = 0
        self.n_bytes = 0
        self.lack: str | None = None
        duration, time_base = self._track.duration, self._track.time_base
        exact = container == "MP4" and duration is not None and time_base is not None and duration > 0
        self.frames = round(duration * time_base * self.samplerate) if exact else -1
        # So many packets of so many samples each: a header that states anything else is not believed.
        packet = int(first.samples)
        held = int(self._track.frames) * packet
        if held and not held - _MOST_LEFT_OUT * packet <= self.frames <= held + packet:
            self.frames = -1

    def __enter__(self) -> ContainerStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()

    def read(self, size: int, *, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Read the next samples into `out` (size, channels) and return the part that was filled; empty at the end.

        Raises:
            BrokenStreamError: the rest cannot be decoded.
        """
        filled = 0
        while filled < size:
            if not len(self._rest):
                self._rest = self._next()
                if not len(self._rest):
                    break
            taken = min(size - filled, len(self._rest))
            out[filled : filled + taken] = self._rest[:taken]
            self._rest = self._rest[taken:]
            filled += taken
        return out[:filled]

    def _next(self) -> NDArray[np.float32]:
        """Samples of the next frame that has any, (n, channels); none at the end.

        The last frame is cut where the header says that the audio ends: AAC comes in frames of 1024, and the
        encoder fills up the last one. One frame is decoded ahead to know which is the last.
        """
        while self._waiting is not None:
            frame = self._waiting
            try:
                self._waiting = next(self._decoded, None)
            except self._errors() as error:
                raise BrokenStreamError(_words(error)) from error
            samples = self._samples(frame)
            if self._waiting is None and self._position < self.frames < self._position + len(samples):
                samples = samples[: self.frames - self._position]
            self._position += len(samples)
            if len(samples):
                return samples
        return np.zeros((0, self.channels), np.float32)

    def _frames(self) -> Iterator[Any]:
        for packet in self._container.demux(self._track):
            yield from packet.decode()

    def _samples(self, frame: Any) -> NDArray[np.float32]:
        if (frame.sample_rate, frame.layout.nb_channels) != (self.samplerate, self.channels):
            raise BrokenStreamError(
                f"the sound changes from {self.samplerate} Hz and {self.channels} channels to {frame.sample_rate} Hz "
                f"and {frame.layout.nb_channels}"
            )
        array = frame.to_ndarray()
        array = array.T if frame.format.is_planar else array.reshape(-1, self.channels)
        coding = frame.format.name.removesuffix("p")
        if coding in _FULL_SCALE:
            zero, full = _FULL_SCALE[coding]
            array = (array.astype(np.float64) - zero) / full
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, which is refused by its own name
            return np.ascontiguousarray(array, dtype=np.float32)

    def _errors(self) -> tuple[type[Exception], ...]:
        # PyAV raises its own errors, and Python's for what it notices itself (a broken header, an unknown layout).
        return (self._av.error.FFmpegError, ValueError, OSError, MemoryError, NotImplementedError)


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or "") or str(error) or type(error).__name__
