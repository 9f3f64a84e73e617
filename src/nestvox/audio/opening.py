"""A file to one stream of samples: all that it holds, one behind the other, each by the decoder that knows it."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from nestvox.audio.archives import member_of, read_bytes
from nestvox.audio.containers import BrokenStreamError, ContainerStream
from nestvox.audio.errors import EmptyAudioError, SampleRateError, UnreadableAudioError
from nestvox.audio.extent import survey
from nestvox.audio.mp3 import honest_mp3, mpeg_run
from nestvox.audio.pieces import PieceFile
from nestvox.audio.spans import PcmLayout, Span
from nestvox.content import HEAD_BYTES, content_instead
from nestvox.gate import open_regular
from nestvox.names import is_text

LOWEST_HZ, HIGHEST_HZ = 1_000, 768_000
"""Sample rates between which there is sound."""

_FORMATS = frozenset({"AIFF", "AU", "CAF", "FLAC", "MP3", "NIST", "OGG", "RF64", "W64", "WAV", "WAVEX"})
_CONTAINERS = frozenset({"MP4", "MATROSKA", "ADTS"})
_COMPRESSED_ARCHIVE = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|zip)::", re.IGNORECASE)
_KEPT_SURVEYS = 4096


class _RefusedError(BrokenStreamError):
    """What a survey says against reading a file."""


class FileStream(soundfile.SoundFile):  # type: ignore[misc]
    """A file that libsndfile decodes, read front to back.

    soundfile seeks after every block of a file that calls itself seekable, which makes Opus and Vorbis restart
    their decoders; `seek` works all the same.
    """

    n_bytes: int = 0
    lack: str | None = None
    shift: int = 0
    container: str | None = None

    @property
    def format(self) -> str:
        """The container, also where libsndfile was given bare samples out of it."""
        return self.container or str(super().format)

    def seekable(self) -> bool:
        """Say no; see above."""
        return False

    def read(self, frames: int = -1, *, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Read the next samples into `out` (frames, channels) and return the part that was filled."""
        if not self.shift:
            return cast("NDArray[np.float32]", super().read(frames, out=out))
        wide = super().read(frames, dtype="int32", always_2d=True)
        filled = out[: len(wide)]
        filled[:] = np.left_shift(wide, self.shift) / 2.0**31
        return filled


class ChainedStream:
    """Streams that stand one behind the other in a file, as one; the members are those of `FileStream`.

    Raises:
        BrokenStreamError: they differ in sample rate or channels.
    """

    def __init__(self, openers: Sequence[Callable[[], FileStream | ContainerStream]]) -> None:
        self._openers = openers
        self._number = 0
        self._stream = openers[0]()
        self.format, self.subtype = self._stream.format, self._stream.subtype
        self.samplerate, self.channels = int(self._stream.samplerate), int(self._stream.channels)
        self.n_bytes = 0
        self.lack: str | None = None

    def __enter__(self) -> ChainedStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    @property
    def frames(self) -> int:
        """Samples per channel by all headers; -1 where one of them says nothing that can be trusted."""
        total = 0
        for number, opener in enumerate(self._openers):
            with opener() as stream:
                self._same(stream, number)
                if stream.format == "MP3" or stream.frames < 0:
                    return -1
                total += int(stream.frames)
        return total

    def read(self, size: int, *, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Read the next samples into `out` (size, channels) and return the part that was filled; empty at the end."""
        while True:
            block = self._stream.read(size, out=out)
            if len(block) or self._number + 1 == len(self._openers):
                return block
            self._stream.close()
            self._number += 1
            self._stream = self._openers[self._number]()
            self._same(self._stream, self._number)

    def _same(self, stream: FileStream | ContainerStream, number: int) -> None:
        found = (int(stream.samplerate), int(stream.channels))
        if found != (self.samplerate, self.channels):
            raise BrokenStreamError(
                f"stream {number + 1} of {len(self._openers)} in the file has {found[0]} Hz and {_channels(found[1])}, "
                f"the first {self.samplerate} Hz and {_channels(self.channels)}: take them apart"
            )


SoundStream = FileStream | ContainerStream | ChainedStream


@dataclass(frozen=True)
class Content:
    """The bytes of a file that somebody opened already, and its name for messages."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


Place = Path | Content


def _channels(number: int) -> str:
    return "1 channel" if number == 1 else f"{number} channels"


@contextmanager
def opened(path: Place) -> Iterator[SoundStream]:
    """Open all the sound of a file, or of a member of an archive.

    Raises:
        UnreadableAudioError: missing, no regular file, not audio, of a format that is not read, or of streams and bytes
            that cannot be read right.
        EmptyAudioError: 0 bytes.
        SampleRateError: a rate outside 1 to 768 kHz.
    """
    with _source(path) as (file, name):
        try:
            spans = _spans_of(file, name)
            _refuse(spans)
            size = file.seek(0, os.SEEK_END)  # before a decoder reads from it
            openers = _openers(file, name, spans or (Span("", 0, size),), size)
            stream: SoundStream = ChainedStream(openers) if len(openers) > 1 else openers[0]()
            stream.n_bytes = size
            stream.lack = _lack(spans)
        except _RefusedError as error:
            raise UnreadableAudioError(path, str(error)) from error
        except (soundfile.SoundFileError, BrokenStreamError, OSError, ValueError) as error:
            file.seek(0)
            instead = content_instead(file.read(HEAD_BYTES))
            words = f"it is {instead}" if instead else reason(error)
            raise UnreadableAudioError(path, f"cannot be opened as audio: {words}") from error
        with stream:
            _check_stream(path, stream)
            yield stream


def _check_stream(path: Place, stream: SoundStream) -> None:
    if stream.format not in _FORMATS | _CONTAINERS:
        known = "wav, flac, ogg (Vorbis, Opus), mp3, aiff, au, caf, w64, sph, m4a, mp4, webm, aac"
        raise UnreadableAudioError(path, f"format {stream.format} is not read; convert it to one of {known}")
    if not LOWEST_HZ <= stream.samplerate <= HIGHEST_HZ:
        raise SampleRateError(
            path,
            f"sample rate {stream.samplerate} Hz; {LOWEST_HZ} to {HIGHEST_HZ} Hz is read, "
            "so the header is damaged or this is not sound",
        )


@contextmanager
def _source(path: Place) -> Iterator[tuple[BinaryIO, str | None]]:
    """The bytes of a file, and its name where it has one of its own."""
    if isinstance(path, Content):
        if not path.data:
            raise EmptyAudioError(path.name, "the file is empty (0 bytes)")
        yield io.BytesIO(path.data), None
        return
    if member_of(path) is not None:
        # Whole, so that an error of the disk is one of this call and not the end of the audio.
        yield io.BytesIO(read_bytes(path)), None
        return
    if _COMPRESSED_ARCHIVE.search(str(path)) and not path.exists():
        raise UnreadableAudioError(path, "members are read of plain .tar archives only: decompress it")
    with _open(path) as file:
        if not os.fstat(file.fileno()).st_size:
            raise EmptyAudioError(path, "the file is empty (0 bytes)")
        yield file, str(path)


def truncation(path: str | Path) -> str | None:
    """Say what a file lacks at its end: half a download, a full disk, a recorder that was switched off.

    Decoders read such a file up to its end and say nothing. Nearly every container says somewhere how much there should
    be; this is held against the file, without decoding it. Where a header leaves the length open (as of what was
    written into a pipe) nothing is said, nor of adts, which has no header: one that was cut gives an error when read.

    Args:
        path: an audio file, or ``archive.tar::member``.

    Returns:
        For people, e.g. ``42,652 of 64,000 bytes of samples are there``; None: nothing is known to be missing.

    Raises:
        UnreadableAudioError: the file cannot be opened.
        EmptyAudioError: 0 bytes.
    """
    path = Path(path)
    try:
        with _source(path) as (file, name):
            return _lack(_spans_of(file, name))
    except OSError as error:
        raise UnreadableAudioError(path, reason(error)) from error


def _lack(spans: Sequence[Span]) -> str | None:
    return next((span.lack for span in spans if span.lack), None)


def _spans_of(file: BinaryIO, name: str | None) -> tuple[Span, ...]:
    """Find every stream of an open file; kept by its name, size and time, as many parts of it may be read."""
    if name is None:
        return survey(file)
    status = os.fstat(file.fileno())
    return _kept_survey(name, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=_KEPT_SURVEYS)
def _kept_survey(name: str, *_: int) -> tuple[Span, ...]:  # name, and what makes a survey outdated
    with _open(Path(name)) as file:
        return survey(file)


def _open(path: Path) -> BinaryIO:
    return open_regular(path, lambda problem, _: UnreadableAudioError(path, problem), missing="no such file")


def _refuse(spans: Sequence[Span]) -> None:
    refusal = next((span.refusal for span in spans if span.refusal), None)
    if refusal is not None:
        raise _RefusedError(refusal)


def _openers(
    file: BinaryIO, name: str | None, spans: Sequence[Span], size: int
) -> list[Callable[[], FileStream | ContainerStream]]:
    """One opener a stream, those that stand within a stream in its place."""
    openers: list[Callable[[], FileStream | ContainerStream]] = []
    for span in spans:
        if span.inner is not None and span.format != "OGG":
            view = cast("BinaryIO", PieceFile(file, span.pieces or ()))
            within = survey(view)
            _refuse(within)
            openers += _openers(view, None, within, view.seek(0, os.SEEK_END))
        else:
            alone = name if len(spans) == 1 and name is not None and is_text(name) else None
            openers.append(partial(_open_span, file, alone, span, size))
    return openers


def _open_span(file: BinaryIO, name: str | None, span: Span, size: int) -> FileStream | ContainerStream:
    """Open one stream; by its name where it is the whole file, as libsndfile then reads faster."""
    kind = span.inner or span.format
    whole = span.pieces is None and (not kind or (span.start, span.stop) == (0, size))
    source: Any = file
    # libsndfile would be told a format by the ending of a name, where it finds none in the file.
    if whole and kind and name is not None and kind != "MP3":
        source = Path(name) if kind in _CONTAINERS else name
    elif not whole:
        source = PieceFile(file, span.pieces or ((span.start, span.stop),))
    if span.layout is not None:
        return _bare(source, span.format, span.layout)
    if kind in _CONTAINERS:
        if not isinstance(source, Path):
            source.seek(0)
        stream = ContainerStream(source, kind)
        if span.fragmented:
            stream.frames = -1
        return stream
    if kind == "MP3":
        source.seek(0)
        data = source.read()
        run = mpeg_run(data)
        source = io.BytesIO(data if run is None else honest_mp3(data, run))
    elif not isinstance(source, str):
        source.seek(0)
    made = FileStream(source)
    if not kind and made.format in _FORMATS:
        made.close()
        raise _RefusedError(
            f"libsndfile takes it for {made.format}, but nothing in it begins as that does; MPEG audio of free "
            "bit rate is to be converted"
        )
    made.container = "OGG" if span.format == "OGG" and span.inner else None
    return made


def _bare(source: BinaryIO, container: str, layout: PcmLayout) -> FileStream:
    source.seek(0)
    stream = FileStream(
        source,
        samplerate=layout.sample_rate,
        channels=layout.channels,
        subtype=layout.subtype,
        format="RAW",
        endian="BIG" if layout.big_endian else "LITTLE",
    )
    stream.container, stream.shift = container, layout.shift
    return stream


def reason(error: Exception) -> str:
    """What libsndfile or the system says, without the path, which the caller puts first."""
    if isinstance(error, soundfile.LibsndfileError):
        return str(error.error_string)
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
