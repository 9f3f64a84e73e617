"""How samples lie in their bytes: bits that do not fill them, at the high end or at the low one.

A sample of 24 bits may stand in 3 bytes or in 4, and in 4 at the high end (as WAVE asks) or at the low one (as
``arecord -f S24_LE`` writes). Nothing in a header tells the two apart, but the samples do: of the bits that are left
over, those at the low end are zero, or those at the high end repeat the sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from nestvox.audio.pieces import Piece, chunks_of
from nestvox.audio.spans import PcmLayout

_PCM = {1: "PCM_S8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}
_FLOAT = {4: "FLOAT", 8: "DOUBLE"}
_AT_ONCE = 12 << 16  # bytes, of whole samples of every width


@dataclass(frozen=True)
class Sound:
    """What a header says about the samples."""

    format: str  # as soundfile names it
    at: int  # byte at which they begin
    claimed: int | None  # bytes that the header counts; None where it leaves the number open
    sample_rate: int
    channels: int
    block: int  # bytes of one sample of every channel
    bits: int
    coding: str | None  # pcm, float, alaw or ulaw; None: compressed, or not known
    big_endian: bool  # the first byte of a sample is its highest
    unsigned: bool = False  # of samples of one byte
    wraps: bool = False  # the count has 32 bits, so that a larger one is stated modulo 2^32
    length_at: int = 0  # where the count stands, for compressed sound whose header is put right
    length_layout: str = ""  # of the count, for `struct`
    known: bool = True  # libsndfile reads such a file by itself
    length_more: int = 0  # bytes that are counted besides those of the sound
    again: bytes = b""  # how another stream like this one begins: searched for where the length is open
    again_at: int = 0  # where in such a beginning that stands
    inner: str | None = None  # format of the stream that stands in place of samples
    container_bits: int = 0  # of a sample with those that do not count; 0: the header does not say


def _subtype_of(coding: str, width: int, *, unsigned: bool) -> str | None:
    """Name the subtype of samples of `width` bytes (of one byte and unsigned: 128 is zero); None: there is none."""
    if coding == "pcm":
        return "PCM_U8" if unsigned and width == 1 else _PCM.get(width)
    if coding == "float":
        return _FLOAT.get(width)
    return {"alaw": "ALAW", "ulaw": "ULAW"}.get(coding) if width == 1 else None


def pcm_layout(file: BinaryIO, pieces: Sequence[Piece], sound: Sound) -> PcmLayout | str:
    """Find out how samples of a known coding lie in pieces of a file; a sentence where they cannot be read right.

    Samples that use all the bits of a container whose width the header states stand at the high end.
    """
    block, channels, bits = sound.block, sound.channels, sound.bits
    if channels < 1 or block < channels or block % channels:
        return f"its blocks have {block} bytes, which {channels} channels cannot share"
    width = block // channels
    coding = str(sound.coding)
    subtype = _subtype_of(coding, width, unsigned=sound.unsigned)
    if subtype is None or not 0 < bits <= 8 * width or (coding != "pcm" and bits != 8 * width):
        return f"{coding} samples of {bits} bits in {width} bytes (blocks of {block} bytes, {channels} channels)"
    shift = 0
    if coding == "pcm" and width > 1 and bits < 8 * width:
        low = _stand_low(file, pieces, width, bits, big_endian=sound.big_endian)
        if low is None and 8 * width - max(bits, sound.container_bits) >= 8:
            return (
                f"samples of {bits} bits in {width} bytes (blocks of {block} bytes, {channels} channels) stand neither "
                "at the high end of their bytes nor at the low one"
            )
        shift = 8 * width - bits if low else 0
    return PcmLayout(sound.sample_rate, channels, subtype, sound.big_endian, shift)


def _stand_low(file: BinaryIO, pieces: Sequence[Piece], width: int, bits: int, *, big_endian: bool) -> bool | None:
    """Whether samples stand at the low end of their bytes; None: at neither.

    Where both would do (quiet sound whose low bits are zero, or silence), the low end is taken for whole bytes that are
    left over: a writer that fills up from below with zeros writes wider samples, and says so.
    """
    high = low = True
    spare = 8 * width - bits
    for piece in pieces:
        chunks = [piece] if isinstance(piece, bytes) else (chunk for _, chunk in chunks_of(file, *piece, _AT_ONCE))
        for chunk in chunks:
            raw = np.frombuffer(chunk, np.uint8, len(chunk) // width * width).reshape(-1, width)
            if big_endian:
                raw = raw[:, ::-1]
            values = np.zeros(len(raw), np.uint32)
            for number in range(width):
                values |= raw[:, number].astype(np.uint32) << np.uint32(8 * number)
            top = values >> np.uint32(bits)
            sign = values >> np.uint32(bits - 1) & np.uint32(1)
            high = high and not (values & np.uint32((1 << spare) - 1)).any()
            # Zeros above a negative number too: some writers clear what they do not use.
            low = low and bool(((top == 0) | ((top == (1 << spare) - 1) & (sign == 1))).all())
            if not high and not low:
                return None
    if high and low:
        return spare >= 8
    return low
