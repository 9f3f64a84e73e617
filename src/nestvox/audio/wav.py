"""Where the sound of RIFF, RF64 and Wave64 files is: their chunks, held against the file.

The 32 bits in which RIFF counts its bytes are too few for more than 4 GiB: such files state their size modulo 2^32.
Files that were written into a pipe state 0, or the largest number. Layouts: RIFF and WAVE (Microsoft), RF64 (EBU Tech
3306, ITU-R BS.2088), Sony Wave64.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from nestvox.audio.chunks import UNKNOWN_32, ChunkStyle, chunk_at, chunks_from, inner_of, sound_span, walk_behind
from nestvox.audio.pieces import bytes_at
from nestvox.audio.sample_layout import Sound
from nestvox.audio.spans import Span

_EXTENSIBLE = 0xFFFE
_CODINGS = {1: "pcm", 3: "float", 6: "alaw", 7: "ulaw"}
# Of a subtype that is a plain tag: as it is, and of ambisonic channels.
_GUID_TAILS = frozenset(map(bytes.fromhex, ("000000001000800000aa00389b71", "00002107d3118644c8c1ca000000")))
_MPEG = frozenset({0x50, 0x55})
_OF_LIBSNDFILE = frozenset({2, 0x11, 0x14, 0x31, 0x40, 0x64})  # MS, IMA and G.72x ADPCM, GSM 06.10
_WAVE64 = ChunkStyle("<4s12xQ", align=8, inclusive=True)
_WAVE64_START = 40  # two names of 16 bytes and the length of the whole


def wav_span(file: BinaryIO, start: int, size: int) -> Span:
    """Look into a RIFF, RIFX, RF64 or BW64 stream."""
    mark = bytes_at(file, start, 4)
    style = ChunkStyle(">4sI" if mark == b"RIFX" else "<4sI")
    name = "RF64" if mark in {b"RF64", b"BW64"} else "WAV"
    return _span(file, start, start + 12, size, name, style, known=mark != b"BW64")


def wave64_span(file: BinaryIO, start: int, size: int) -> Span:
    """Look into a Sony Wave64 stream."""
    return _span(file, start, start + _WAVE64_START, size, "W64", _WAVE64, known=True)


def _span(file: BinaryIO, start: int, at: int, size: int, name: str, style: ChunkStyle, *, known: bool) -> Span:
    described: bytes | None = None
    wide: int | None = None
    where: tuple[int, int] | None = None
    for label, body, length in chunks_from(file, at, start, style):
        if label == b"ds64":
            sizes = bytes_at(file, body, 16)
            wide = struct.unpack("<8xQ", sizes)[0] if len(sizes) == 16 else None
        if label == b"fmt " and described is None:
            described = bytes_at(file, body, min(length, 40))
        if label == b"data":
            where = (body, length)
            break
    if where is None or described is None or len(described) < 16:
        return Span(name, start, size)  # the decoder says what is wrong with it
    at, length = where
    sign, narrow = style.layout[0], style.layout.endswith("I")
    tag, channels, rate, _, block, bits = struct.unpack(f"{sign}HHIIHH", described[:16])
    container_bits = bits
    if tag == _EXTENSIBLE and len(described) >= 40:
        valid, sub = struct.unpack(f"{sign}18xH4xH", described[:26])
        tag = sub if described[26:40] in _GUID_TAILS else 0
        bits = valid if 0 < valid < bits else bits
        name = "WAVEX" if name == "WAV" else name  # as libsndfile calls it
    claimed: int | None = length
    wraps = narrow
    if wide is not None and length == 0xFFFF_FFFF:
        claimed, wraps = (wide or None), False
    coding = _CODINGS.get(tag)
    inner = None
    if coding is None and tag not in _OF_LIBSNDFILE:
        inner = "MP3" if tag in _MPEG else inner_of(file, at)
    sound = Sound(
        name,
        at,
        claimed,
        rate,
        channels,
        block,
        bits,
        coding if bits and channels and block else None,
        sign == ">",
        unsigned=True,
        wraps=wraps,
        length_at=at - 4 if wraps else at - 8,
        length_layout=f"{sign}I" if wraps else "<Q" if style.inclusive else "",
        known=known and wide != 0,
        again=b"WAVEfmt " if wraps else b"",
        again_at=8,
        inner=inner,
        container_bits=container_bits,
    )

    def more(place: int) -> tuple[int, int] | None:
        chunk = chunk_at(file, place, style)
        if chunk is None or chunk[0] != b"data" or (narrow and chunk[2] >= UNKNOWN_32):
            return None
        return chunk[1:] if chunk[1] + chunk[2] <= size else None

    return sound_span(file, start, size, sound, lambda at: walk_behind(file, at, start, size, style, b"data"), more)
