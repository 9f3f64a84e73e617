"""A stream of sound within a file: where it begins and ends, and what is to be told about it.

Decoders believe headers: they stop where the first header says that the sound ends, whatever stands behind. Here a
file is taken for what it is, a row of streams with tags and zeros between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from nestvox.audio.containers import EBML
from nestvox.audio.mp3 import frame_at
from nestvox.audio.pieces import Piece, bytes_at
from nestvox.audio.tags import after_tag, after_zeros

MARK_BYTES = 16
_MARKS = (
    (b"OggS\0", "OGG"),
    (b"fLaC", "FLAC"),
    (b"caff\0", "CAF"),
    (b".snd", "AU"),
    (b"dns.", "AU"),
    (b"NIST_1A", "NIST"),
    (b"riff\x2e\x91\xcf\x11", "W64"),
    (EBML, "MATROSKA"),
)
_RIFF = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_ADTS_HEADER = 7


@dataclass(frozen=True)
class PcmLayout:
    """How uncompressed samples lie in their bytes, where libsndfile is told so instead of reading a header."""

    sample_rate: int
    channels: int
    subtype: str  # as soundfile names it, e.g. PCM_24
    big_endian: bool
    shift: int = 0  # bits by which a sample that stands at the low end of its bytes is moved up to fill them


@dataclass(frozen=True)
class Span:
    """One stream, the bytes [start, stop) of a file."""

    format: str  # as soundfile names it, or as `containers` does
    start: int
    stop: int
    lack: str | None = None  # what its header promises and the file does not hold; None: nothing
    refusal: str | None = None  # why its sound cannot be read right; None: it can
    pieces: tuple[Piece, ...] | None = None  # what a decoder is to be given instead of [start, stop)
    layout: PcmLayout | None = None  # of `pieces`, where they are samples without a header
    inner: str | None = None  # what `pieces` are where they are a stream of another format, e.g. MP3 in a wav
    fragmented: bool = False  # an mp4 whose header does not say how long it is


def mark_of(head: bytes) -> str | None:
    """Name the format of a stream that begins with these bytes (`MARK_BYTES`), where they are a mark that sound is not.

    MPEG audio and ADTS have no such mark: their frames are counted (`behind`).
    """
    if head[:4] in _RIFF and head[8:12] == b"WAVE":
        return "WAV"
    if head[:4] == b"FORM" and head[8:12] in {b"AIFF", b"AIFC"}:
        return "AIFF"
    if head[4:8] == b"ftyp" and head[:2] == b"\0\0":
        return "MP4"
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def behind(file: BinaryIO, at: int, size: int, slack: int = 1) -> int | None:
    """Go over tags and zeros from `at` on, where a stream ended, to where the next one begins.

    `size`, that of the file, where there is none, or fewer than `slack` bytes are left, too few to hold any sound. None
    where something stands that explains itself neither as a stream nor as a tag.
    """
    while at < size:
        if mark_of(bytes_at(file, at, MARK_BYTES)) or frames_begin(file, at, size):
            return at
        further = after_tag(file, at, size)
        if further == at:
            further = after_zeros(file, at, size)
            # The first box of an mp4 begins with zeros of its own.
            further = next((place for place in range(max(at, further - 3), further) if _box(file, place)), further)
        if further == at:
            return size if size - at < slack else None
        at = further
    return size


def _box(file: BinaryIO, at: int) -> bool:
    return mark_of(bytes_at(file, at, MARK_BYTES)) == "MP4"


def frames_begin(file: BinaryIO, at: int, size: int) -> bool:
    """Whether three frames of MPEG audio or ADTS stand in a row, or as many as there is room for."""
    head = bytes_at(file, at, 8)
    if len(head) < 8 or head[0] != 0xFF:
        return False
    found = 0
    while found < 3 and at + 8 <= size:
        head = bytes_at(file, at, 8)
        length = frame_at(head) or adts_frame_at(head)
        if not length:
            return False
        at += length
        found += 1
    return found > 1 or (found == 1 and at == size)


def adts_frame_at(head: bytes) -> int:
    """Bytes of the ADTS frame (ISO/IEC 13818-7) that begins with these; 0 where none does."""
    if len(head) < _ADTS_HEADER or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length > _ADTS_HEADER else 0


def lacking(there: int, promised: int, what: str = "bytes of samples") -> str | None:
    """Say how much of what was promised is there; None where all of it is."""
    return f"{max(0, there):,} of {promised:,} {what} are there" if there < promised else None


def unexplained(at: int, size: int) -> str:
    """Say that something stands behind the claimed end of the sound."""
    return (
        f"{size - at:,} bytes stand behind the end of the sound at byte {at:,} and are neither sound that its header "
        "tells of, nor another stream, nor a tag: the header is wrong, or something was appended; write the file "
        "again with the program that made it, or cut it there"
    )
