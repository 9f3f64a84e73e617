"""Where the sound of AIFF, AIFF-C and CAF files is: Apple's chunks, held against the file."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from typing import BinaryIO

from nestvox.audio.chunks import UNKNOWN_32, ChunkStyle, chunks_from, sound_span, walk_behind
from nestvox.audio.pieces import bytes_at
from nestvox.audio.sample_layout import Sound
from nestvox.audio.spans import Span, lacking

_AIFF = ChunkStyle(">4sI")
_CAF = ChunkStyle(">4sq", align=1)
# Of AIFF-C: coding, and whether the lowest byte comes first.
_COMPRESSIONS = {
    b"NONE": ("pcm", True), b"twos": ("pcm", True), b"in24": ("pcm", True), b"in32": ("pcm", True),
    b"sowt": ("pcm", False), b"raw ": ("pcm", True), b"fl32": ("float", True), b"FL32": ("float", True),
    b"fl64": ("float", True), b"FL64": ("float", True), b"alaw": ("alaw", True), b"ALAW": ("alaw", True),
    b"ulaw": ("ulaw", True), b"ULAW": ("ulaw", True),
}  # fmt: skip


def _extended(value: bytes) -> int:
    """Value of an 80-bit float, rounded; 0 where it is none that a rate can be."""
    exponent = int.from_bytes(value[:2], "big") & 0x7FFF
    mantissa = int.from_bytes(value[2:10], "big")
    return round(math.ldexp(mantissa, exponent - 16383 - 63)) if 16383 <= exponent < 16383 + 32 else 0


def aiff_span(file: BinaryIO, start: int, size: int) -> Span:
    """Look into an AIFF or AIFF-C stream."""
    common: bytes | None = None
    where: tuple[int, int] | None = None
    for label, body, length in chunks_from(file, start + 12, start, _AIFF):
        if label == b"COMM" and common is None:
            common = bytes_at(file, body, min(length, 22))
        if label == b"SSND" and where is None:
            where = (body, length)
        if common is not None and where is not None:
            break
    if common is None or len(common) < 18 or where is None:
        return Span("AIFF", start, size)
    channels, frames, bits = struct.unpack(">hIh", common[:8])
    coding, big_endian = _COMPRESSIONS.get(common[18:22], (None, True)) if len(common) == 22 else ("pcm", True)
    body, length = where  # of the sound
    offset = int.from_bytes(bytes_at(file, body, 4), "big")
    if offset > max(0, length - 8) or channels < 1 or bits < 1:
        return Span("AIFF", start, size)
    # The law codings state 16 bits: of what they are expanded to.
    width = 1 if coding in {"alaw", "ulaw"} else -(-bits // 8)
    block = width * channels
    first = body + 8 + offset
    held = max(0, length - 8 - offset)
    counted = frames * block if coding else held
    # Frames that the count leaves out are sound all the same; sound that is missing is told by the chunk.
    natural = coding is None or (counted <= held < counted + block + 1) or held >= UNKNOWN_32 - 8 - offset
    sound = Sound(
        "AIFF",
        first,
        held,
        _extended(common[8:18]),
        channels,
        block,
        8 if coding in {"alaw", "ulaw"} else bits,
        coding,
        big_endian,
        unsigned=common[18:22] == b"raw ",
        wraps=True,
        known=natural,
    )
    span = sound_span(file, start, size, sound, lambda at: walk_behind(file, at, start, size, _AIFF, b"SSND"))
    if span.lack is None and coding and 0 < held < counted and held < UNKNOWN_32 - 8 - offset and frames < UNKNOWN_32:
        return replace(span, lack=lacking(held, counted))
    return span


def caf_span(file: BinaryIO, start: int, size: int) -> Span:
    """Look into a stream of Apple's Core Audio Format."""
    described: bytes | None = None
    for label, body, length in chunks_from(file, start + 8, start, _CAF):
        if label == b"desc" and described is None:
            described = bytes_at(file, body, 32)
        if label == b"data" and described is not None and len(described) == 32:
            return _caf_sound(file, start, size, described, body, length)
        if length < 0 or body + length > size:
            lack = None if length < 0 else lacking(size - body, length, f"bytes of its chunk {label.decode('latin-1')}")
            return Span("CAF", start, size, lack)
    return Span("CAF", start, size)


def _packets_left_out(file: BinaryIO, start: int, size: int, per_packet: int, held: int) -> str | None:
    """Say where the table of packets counts less sound than there is."""
    for label, body, length in chunks_from(file, start + 8, start, _CAF):
        if length < 0 or body + length > size:
            return None
        if label == b"pakt":
            table = bytes_at(file, body, length)
            break
    else:
        return None
    if len(table) < 24:
        return None
    packets, valid, primed, left = struct.unpack(">qqii", table[:24])
    total, number = 0, 0
    for byte in table[24:]:  # seven bits a byte
        number = number << 7 | byte & 0x7F
        if not byte & 0x80:
            total, number = total + number, 0
    if packets * per_packet != valid + primed + left or abs(total - held) > 1:
        return (
            f"its table counts {packets:,} packets of {total:,} bytes and {valid + primed + left:,} samples; its sound "
            f"has {held:,} bytes, and so many packets have {packets * per_packet:,} samples"
        )
    return None


def _caf_sound(file: BinaryIO, start: int, size: int, described: bytes, body: int, length: int) -> Span:
    rate, kind, flags, packet, per_packet, channels, bits = struct.unpack(">d4sIIIII", described)
    coding = {b"lpcm": "float" if flags & 1 else "pcm", b"alaw": "alaw", b"ulaw": "ulaw"}.get(kind)
    if not (math.isfinite(rate) and 0 < rate < 1 << 31) or per_packet == 0 or channels == 0 or bits == 0:
        coding = coding if coding is None else None
    sound = Sound(
        "CAF",
        body + 4,  # behind a count of edits
        None if length < 0 else max(0, length - 4),
        round(rate) if math.isfinite(rate) else 0,
        channels,
        packet // per_packet if per_packet else 0,
        bits,
        coding if coding in {None, "pcm", "float"} or bits == 8 else None,
        not flags & 2,
        length_at=body - 8,
        length_layout=">q",
        length_more=4,
        known=length >= 0,
    )
    span = sound_span(file, start, size, sound, lambda at: walk_behind(file, at, start, size, _CAF, b"data"))
    if coding is None and span.refusal is None and kind == b"alac" and length >= 0:
        span = replace(span, refusal=_packets_left_out(file, start, size, per_packet, length - 4))
    if span.lack is not None:  # counted with the four bytes of edits, as the chunk does
        return replace(span, lack=lacking(size - body, length, "bytes of its chunk data"))
    return span
