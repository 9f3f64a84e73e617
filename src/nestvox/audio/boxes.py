"""mp4, Matroska and ADTS files: where one stream ends and the next begins.

FFmpeg reads the first one. Layouts: ISO/IEC 14496-12, Matroska (RFC 9559) on EBML (RFC 8794), ISO/IEC 13818-7.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from nestvox.audio.pieces import bytes_at
from nestvox.audio.spans import MARK_BYTES, Span, adts_frame_at, lacking, mark_of
from nestvox.audio.tags import after_id3

_KNOWN_BOXES = frozenset(
    b"ftyp moov mdat free skip wide moof mfra sidx styp uuid meta pnot udta emsg prft ssix pdin bloc".split()
)
_LARGEST_INDEX = 1 << 28
_FEW_BYTES = 4096  # that a muxer may leave over
_NOT_KNOWN = 1 << 62
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
# What a segment holds (seek head, info, tracks, clusters, cues, tags, chapters, attachments, void, checksum), and what
# a cluster does (time, position, size of the one before, blocks).
_ELEMENTS = frozenset(
    number.to_bytes((number.bit_length() + 7) // 8, "big")
    for number in (
        *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1F43B675, 0x1C53BB6B, 0x1254C367, 0x1043A770, 0x1941A469, 0xEC, 0xBF),
        *(0xE7, 0xA7, 0xAB, 0xA3, 0xA0, 0x5854),
    )
)
_READ_AHEAD = 1 << 16


def mp4_span(file: BinaryIO, start: int, size: int) -> Span:
    """Look into an mp4, m4a or mov stream: its boxes up to the next one that begins a file."""
    at, indices, fragmented = start, 0, False
    media_bytes, index = 0, b""
    while len(head := bytes_at(file, at, 16)) >= 8:
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:], "big")
        if at > start and (name == b"ftyp" or mark_of(head) or (name == b"moov" and indices)):
            break
        indices += name == b"moov"
        fragmented |= name == b"moof"
        if name == b"mdat":
            media_bytes += max(0, length - 8)
        if name == b"moov" and length <= _LARGEST_INDEX:
            index = bytes_at(file, at + 8, length - 8)
        if length == 0 and name in _KNOWN_BOXES:  # up to the end
            return Span("MP4", start, size, fragmented=fragmented)
        if length < 8 or (at + length > size and name not in _KNOWN_BOXES and at > start):
            break
        if at + length > size:
            lack = lacking(size - at, length, f"bytes of its box {name.decode('latin-1')}")
            return Span("MP4", start, size, lack, fragmented=fragmented)
        at += length
    refusal = None
    listed = _bytes_listed(index)
    if index and not fragmented and media_bytes - listed > max(_FEW_BYTES, media_bytes // 10):
        refusal = (
            f"its index lists {listed:,} of the {media_bytes:,} bytes of sound and pictures that it holds: write the "
            "file again with the program that made it"
        )
    return Span("MP4", start, at if at > start else size, refusal=refusal, fragmented=fragmented)


def _bytes_listed(index: bytes) -> int:
    """Bytes of all samples of all tracks, by the tables of sizes within a moov box."""
    total = 0
    for name, body in _boxes(index):
        if name in {b"trak", b"mdia", b"minf", b"stbl"}:
            total += _bytes_listed(body)
        elif name == b"stsz" and len(body) >= 12:
            each, count = struct.unpack(">4xII", body[:12])
            sizes = body[12 : 12 + 4 * count]
            if not each:
                total += int(np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4").sum(dtype=np.uint64))
            total += each * count
        elif name == b"stz2":  # half bytes and shorts: of subtitles
            return _NOT_KNOWN
    return total


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(content):
        length, name = struct.unpack(">I4s", content[at : at + 8])
        if length < 8:
            return
        yield name, content[at + 8 : at + length]
        at += length


def matroska_span(file: BinaryIO, start: int, size: int) -> Span:
    """Look into a webm, mka or mkv stream: its head and one segment."""
    at = start
    for expected in (_EBML, _SEGMENT):
        head = bytes_at(file, at, 12)
        if len(head) < 12 or int.from_bytes(head[:4], "big") != expected or not head[4]:
            break
        width = 9 - head[4].bit_length()
        length = int.from_bytes(head[4 : 4 + width], "big") & (1 << 7 * width) - 1
        at += 4 + width
        if expected == _SEGMENT:
            if length == (1 << 7 * width) - 1:  # not known when it was written
                return Span("MATROSKA", start, _elements_end(file, at, size))
            lack = lacking(size - at, length, "bytes of its segment")
            return Span("MATROSKA", start, min(size, at + length), lack)
        at += length
    return Span("MATROSKA", start, size)


def _elements_end(file: BinaryIO, at: int, size: int) -> int:
    """Where the elements of a segment end whose length is open, those of clusters of open length too."""
    while at < size:
        head = bytes_at(file, at, 12)
        width = next((count for count in (1, 2, 4) if head[:count] in _ELEMENTS), 0)
        if not width or len(head) <= width or not head[width]:
            return at
        bytes_of_length = 9 - head[width].bit_length()
        length = int.from_bytes(head[width : width + bytes_of_length], "big") & (1 << 7 * bytes_of_length) - 1
        at += width + bytes_of_length
        if length != (1 << 7 * bytes_of_length) - 1:
            at += length
    return size


def adts_span(file: BinaryIO, start: int, size: int) -> Span:
    """Look into a row of ADTS frames; a tag ends it, and what is behind the tag is another span."""
    at = first = after_id3(file, start)
    window, begin = b"", at
    while at < size:
        if at + MARK_BYTES > begin + len(window) and begin + len(window) < size:
            begin, window = at, bytes_at(file, at, _READ_AHEAD)
        length = adts_frame_at(window[at - begin : at - begin + 8])
        if not length:
            break
        at += length
    return Span("ADTS", first, min(at, size) if at > first else size)
