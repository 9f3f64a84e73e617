"""How samples lie in their bytes: bits that do not fill them, at the high end or at the low one.

A sample of 24 bits may stand in 3 bytes or in 4, and in 4 at the high end (as WAVE asks) or at the low one (as
``arecord -f S24_LE`` writes). Nothing in a header tells the two apart, but the samples do: of the bits that are left
over, those at the low end are zero, or those at the high end repeat the sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from nestvox.audio.pieces import Piece, chunks_of
from nestvox.audio.spans import PcmLayout

_PCM = {1: "PCM_S8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}
_FLOAT = {4: "FLOAT", 8: "DOUBLE"}
_AT_ONCE = 12 << 16  # bytes, of whole samples of every width


def _subtype_of(coding: str, width: int, *, unsigned: bool) -> str | None:
    """Name the subtype of samples of `width` bytes (of one byte and unsigned: 128 is zero); None: there is none."""
    if coding == "pcm":
        return "PCM_U8" if unsigned and width == 1 else _PCM.get(width)
    if coding == "float":
        return _FLOAT.get(width)
    return {"alaw": "ALAW", "ulaw": "ULAW"}.get(coding) if width == 1 else None


def pcm_layout(
    file: BinaryIO,
    pieces: Sequence[Piece],
    *,
    sample_rate: int,
    channels: int,
    coding: str,
    block: int,
    bits: int,
    big_endian: bool,
    unsigned: bool = False,
    container_bits: int = 0,
) -> PcmLayout | str:
    """Find out how samples lie; a sentence where they cannot be read right.

    Args:
        file: the samples are in it.
        pieces: where.
        sample_rate: in Hz.
        channels: how many.
        coding: ``pcm``, ``float``, ``alaw`` or ``ulaw``.
        block: bytes of one sample of every channel.
        bits: that count, of every sample.
        big_endian: whether the first byte of a sample is its highest.
        unsigned: of one byte: 128 is zero.
        container_bits: of every sample with those that do not count, where the header states them; then samples that
            use all of them stand at the high end.
    """
    if channels < 1 or block < channels or block % channels:
        return f"its blocks have {block} bytes, which {channels} channels cannot share"
    width = block // channels
    subtype = _subtype_of(coding, width, unsigned=unsigned)
    if subtype is None or not 0 < bits <= 8 * width or (coding != "pcm" and bits != 8 * width):
        return f"{coding} samples of {bits} bits in {width} bytes (blocks of {block} bytes, {channels} channels)"
    shift = 0
    if coding == "pcm" and width > 1 and bits < 8 * width:
        low = _stand_low(file, pieces, width, bits, big_endian=big_endian)
        if low is None and 8 * width - max(bits, container_bits) >= 8:
            return (
                f"samples of {bits} bits in {width} bytes (blocks of {block} bytes, {channels} channels) stand neither "
                "at the high end of their bytes nor at the low one"
            )
        shift = 8 * width - bits if low else 0
    return PcmLayout(sample_rate, channels, subtype, big_endian, shift)


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
