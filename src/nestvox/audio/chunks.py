"""Chunks of RIFF, Wave64, AIFF and CAF, and how much of a file is sound where their counts and the file disagree."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from nestvox.audio.pieces import Piece, bytes_at, find
from nestvox.audio.sample_layout import Sound, pcm_layout
from nestvox.audio.spans import MARK_BYTES, Span, adts_frame_at, behind, frames_begin, lacking, mark_of, unexplained

# What is written where the length is not known yet, as into a pipe: -1, the largest number, or a little less (sox).
UNKNOWN_32 = 0x7FFF_F000
UNKNOWN_64 = 1 << 62
_WRAP = 1 << 32
_MOST_CHUNKS = 10_000
_PRINTABLE = frozenset(range(0x20, 0x7F)) | {0xA9}
# A file that was cut within one of these has lost no sound.
_METADATA_NAMES = (
    b"LISTid3 ID3 bextiXMLaxmlcue smplinstfactPEAK_PMXJUNKFLLRPAD junkDISPafsplevlacidchnacart"
    b"mextMARKCOMTNAMEAUTHANNOAPPLINSTMIDIAESDfreeinfouuidstrg"
)
_METADATA = frozenset(_METADATA_NAMES[at : at + 4] for at in range(0, len(_METADATA_NAMES), 4))
# Bursts of IEC 61937 (AC-3, DTS and others over S/PDIF), and DTS in 16 and in 14 bits, in either order of bytes.
_COMPRESSED = (
    b"\x72\xf8\x1f\x4e", b"\xf8\x72\x4e\x1f", b"\xfe\x7f\x01\x80", b"\x7f\xfe\x80\x01", b"\xff\x1f\x00\xe8",
    b"\x1f\xff\xe8\x00",
)  # fmt: skip


@dataclass(frozen=True)
class ChunkStyle:
    """How a chunk begins."""

    layout: str  # of its head, for `struct`: four bytes of name, and the length
    align: int = 2  # chunks begin at multiples of so many bytes from the beginning of the stream
    inclusive: bool = False  # the length counts the head too


def chunk_at(file: BinaryIO, at: int, style: ChunkStyle) -> tuple[bytes, int, int] | None:
    """Name, first byte and number of bytes of the content of the chunk at `at`; None where none begins."""
    head_bytes = struct.calcsize(style.layout)
    head = bytes_at(file, at, head_bytes)
    if len(head) < head_bytes:
        return None
    name, length = struct.unpack(style.layout, head)
    if style.inclusive:
        length -= head_bytes
    return None if length < -1 or not _PRINTABLE.issuperset(name) else (name, at + head_bytes, length)


def chunks_from(file: BinaryIO, at: int, start: int, style: ChunkStyle) -> Iterator[tuple[bytes, int, int]]:
    """Yield what `chunk_at` gives of every chunk from `at` on, in a stream that begins at `start`."""
    for _ in range(_MOST_CHUNKS):
        chunk = chunk_at(file, at, style)
        if chunk is None:
            return
        yield chunk
        at = chunk[1] + chunk[2]
        at += -(at - start) % style.align


def walk_behind(file: BinaryIO, at: int, start: int, size: int, style: ChunkStyle, sound: bytes) -> int:
    """Go over the chunks that stand behind the sound; the place where no further one begins, or one named `sound`."""
    for _ in range(_MOST_CHUNKS):
        aligned = at + -(at - start) % style.align
        # Some writers leave out the byte that fills up an odd chunk.
        bare = chunk_at(file, at, style) if aligned > at else None
        if bare is None or bare[0] not in _METADATA or bare[1] + bare[2] > size:
            at = aligned
        if at >= size or mark_of(bytes_at(file, at, MARK_BYTES)):
            return min(at, size)
        chunk = chunk_at(file, at, style)
        if chunk is None or chunk[0] == sound or not chunk[0].strip():
            return at
        name, body, length = chunk
        if body + length > size:
            return size if name in _METADATA else at
        if length < 0:
            return at
        at = body + length
    return at


def sound_span(  # noqa: PLR0911  one for each way in which header and file go together
    file: BinaryIO,
    start: int,
    size: int,
    sound: Sound,
    tail: Callable[[int], int] | None = None,
    more: Callable[[int], tuple[int, int] | None] | None = None,
) -> Span:
    """Hold what the header of a stream, which begins at `start`, says against a file of `size` bytes.

    `tail` goes over what may follow the sound in this format; `more` gives place and length of a further piece of sound
    at a place.
    """
    go_over = tail or (lambda at: at)
    further = more or (lambda _: None)

    def fits(end: int) -> bool:
        """Whether all behind this end explains itself."""
        if end > size:
            return False
        rest = go_over(end)
        return further(rest) is not None or behind(file, rest, size, max(1, sound.block)) is not None

    end, lack, native = _end(file, size, sound, fits, go_over)
    if end is None:
        claimed_end = sound.at + (sound.claimed or 0)
        rest = go_over(claimed_end)
        return Span(sound.format, start, size, refusal=unexplained(rest, size))
    stop = go_over(end)
    pieces: list[Piece] = [(sound.at, end)]
    while (found := further(stop)) is not None:
        place, length = found
        pieces.append((place, min(place + length, size)))
        lack = lacking(size - place, length)
        stop = go_over(min(place + length, size))
        native = False
    refusal = _not_samples(file, sound)
    if refusal is not None:
        return Span(sound.format, start, stop, lack, refusal)
    if sound.inner is not None:
        return Span(sound.format, start, stop, lack, pieces=tuple(pieces), inner=sound.inner)
    if sound.coding is None:
        return _compressed(sound, start, stop, lack, pieces, native=native)
    whole = sound.bits == 8 * (sound.block // max(1, sound.channels)) and sound.block % max(1, sound.channels) == 0
    if native and whole and sound.known:
        return Span(sound.format, start, stop, lack)
    layout = pcm_layout(file, pieces, sound)
    if isinstance(layout, str):
        return Span(sound.format, start, stop, lack, f"{layout}; convert it with the program that made it")
    return Span(sound.format, start, stop, lack, pieces=tuple(pieces), layout=layout)


def _end(
    file: BinaryIO, size: int, sound: Sound, fits: Callable[[int], bool], tail: Callable[[int], int]
) -> tuple[int | None, str | None, bool]:
    """Where the sound ends, what it lacks, and whether libsndfile finds the same end by itself; None: who knows."""
    claimed = sound.claimed
    if claimed is not None and sound.at + claimed <= size:
        beyond = size - sound.at - claimed
        wraps = beyond // _WRAP if sound.wraps else 0
        for times in range(wraps, 0, -1):
            if fits(sound.at + claimed + times * _WRAP):
                return sound.at + claimed + times * _WRAP, None, False
        if fits(sound.at + claimed) and (claimed or beyond < max(1, sound.block) or tail(sound.at) > sound.at):
            return sound.at + claimed, None, True
        if claimed and not (sound.wraps and claimed >= UNKNOWN_32):
            return None, None, False
        return _open_end(file, size, sound), None, False
    if claimed is not None and not (sound.wraps and claimed >= UNKNOWN_32) and claimed < UNKNOWN_64:
        return size, lacking(size - sound.at, claimed), size - sound.at < _WRAP
    end = _open_end(file, size, sound)
    return end, None, end == size and size - sound.at < _WRAP


def _open_end(file: BinaryIO, size: int, sound: Sound) -> int:
    if sound.again:
        found = find(file, sound.again, sound.at, size)
        if found >= 0:
            return found - sound.again_at
    return size


def _compressed(sound: Sound, start: int, stop: int, lack: str | None, pieces: list[Piece], *, native: bool) -> Span:
    if native:
        return Span(sound.format, start, stop, lack)
    (first, end) = pieces[0] if not isinstance(pieces[0], bytes) else (0, 0)
    if len(pieces) > 1 or end - first >= UNKNOWN_32 or not sound.length_layout:
        problem = (
            "its compressed sound has another length than its header says; convert it with the program that made it"
        )
        return Span(sound.format, start, stop, lack, problem)
    length = struct.pack(sound.length_layout, end - first + sound.length_more)
    made: tuple[Piece, ...] = ((start, sound.length_at), length, (sound.length_at + len(length), end))
    return Span(sound.format, start, stop, lack, pieces=made)


def _not_samples(file: BinaryIO, sound: Sound) -> str | None:
    """Say what stands in place of uncompressed samples."""
    if sound.coding is None:
        return None
    head = bytes_at(file, sound.at, 4096).lstrip(b"\0")[:MARK_BYTES]
    inner = mark_of(head)
    if inner is not None:
        what = f"a whole {inner} stream begins"
    elif head[:3] == b"ID3" and head[3:4] in {b"\2", b"\3", b"\4"}:
        what = "an ID3 tag stands"
    elif head[:4] in _COMPRESSED:
        what = "compressed sound (IEC 61937 or DTS) begins"
    elif frames_begin(file, sound.at, sound.at + (sound.claimed or 0)):
        what = "frames of MPEG audio or ADTS stand"
    else:
        return None
    return (
        f"in place of samples {what} at byte {sound.at:,}: what its header calls samples is another file; take that "
        "one out, and read it"
    )


def inner_of(file: BinaryIO, at: int) -> str | None:
    """Name the format of a stream that stands at `at`, where samples of an unknown coding should be."""
    head = bytes_at(file, at, MARK_BYTES)
    return mark_of(head) or ("ADTS" if adts_frame_at(head) else None)
