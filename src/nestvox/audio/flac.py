"""FLAC streams that hold more than their header counts, and several of them in one file (RFC 9639).

Frames carry their own number and length, so that they can be counted without decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from nestvox.audio.pieces import Piece, bytes_at, chunks_of, find
from nestvox.audio.spans import Span, behind, lacking

_MARK = b"fLaC"
_STREAMINFO_BYTES = 34
_AGAIN = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # with the block that must come first
_BLOCK_SIZES = {
    1: 192,
    **{code: 576 << (code - 2) for code in range(2, 6)},
    **{code: 1 << code for code in range(8, 16)},
}
_MOST_METADATA = 1000
_LONGEST_HEADER = 16
_SHORTEST_FRAME = 8
_ZEROS = 16  # fewer may be the end of a frame


@dataclass(frozen=True)
class _Frame:
    at: int
    first: int  # sample, or frame where blocks are of one size
    size: int  # samples
    variable: bool
    rate_code: int
    likeness: tuple[int, int]  # what every frame of a stream has in common: the mark, and the width of samples


def _table(width: int, polynomial: int) -> tuple[int, ...]:
    top, mask = 1 << (width - 1), (1 << width) - 1
    table = []
    for value in range(256):
        register = value << (width - 8)
        for _ in range(8):
            register = (register << 1 ^ (polynomial if register & top else 0)) & mask
        table.append(register)
    return tuple(table)


_CRC8, _CRC16 = _table(8, 0x07), _table(16, 0x8005)


def _frame(data: bytes, at: int) -> _Frame | None:  # noqa: PLR0911  one for each field that can be impossible
    """Read the header of the frame at `at`; None where there is none, or its checksum is wrong."""
    head = data[at : at + _LONGEST_HEADER]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    code, rate_code, width_code = head[2] >> 4, head[2] & 15, head[3] >> 1 & 7
    if code == 0 or rate_code == 15 or width_code == 3 or head[3] >> 4 > 10:
        return None
    # The number is coded as in UTF-8, up to seven bytes.
    lead = head[4]
    count = 0
    while count < 8 and lead & 0x80 >> count:
        count += 1
    if count in {1, 8}:
        return None
    number = lead & (0x7F >> count)
    place = 5
    for byte in head[5 : 4 + max(1, count)]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
        place += 1
    size = _BLOCK_SIZES.get(code, 0)
    if code in {6, 7}:
        extra = code - 5
        size = int.from_bytes(head[place : place + extra], "big") + 1
        place += extra
    place += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if place >= len(head):
        return None
    register = 0
    for byte in head[:place]:
        register = _CRC8[register ^ byte]
    if register != head[place]:
        return None
    return _Frame(at, number, size, bool(head[1] & 1), rate_code, (head[1], width_code))


def _frame_ends(data: bytes) -> list[int]:
    """Where a frame that begins these bytes may end: behind two bytes that are the checksum of all before them."""
    register, ends = 0, []
    for place, byte in enumerate(data, 1):
        register = (register << 8 & 0xFFFF) ^ _CRC16[register >> 8 ^ byte]
        if not register and place > _SHORTEST_FRAME:  # a message with its checksum behind it has none left
            ends.append(place)
    return ends


def flac_span(file: BinaryIO, start: int, size: int) -> Span:
    """Look into one FLAC stream; the next one of several is another span."""
    head = bytes_at(file, start, 8 + _STREAMINFO_BYTES)
    first = _after_metadata(file, start, size)
    begun = None if first is None else _frame(bytes_at(file, first, _LONGEST_HEADER), 0)
    if len(head) < 8 + _STREAMINFO_BYTES or head[4] & 0x7F or first is None or begun is None:
        return Span("FLAC", start, size)  # the decoder says what is wrong with it
    info = head[8:]
    largest = int.from_bytes(info[2:4], "big")
    packed = int.from_bytes(info[10:18], "big")
    channels, width, claimed = (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1, packed & (1 << 36) - 1
    # A frame of samples as they are; nothing is longer.
    bound = 32 + channels * (1 + (largest * (width + 1) + 7) // 8)
    stop = min((place for mark in _AGAIN if (place := find(file, mark, first, size)) >= 0), default=size)
    total, last, refusal = _count(file, first, stop, begun, bound)
    if refusal is not None:
        return Span("FLAC", start, stop, refusal=refusal)
    end = _end(file, last, stop, size, bound)
    lack = lacking(total, claimed, "samples")
    if total == claimed:
        return Span("FLAC", start, end)
    counted = (packed >> 36 << 36 | total).to_bytes(8, "big")
    made: tuple[Piece, ...] = ((start, start + 18), counted, (start + 26, end))
    return Span("FLAC", start, end, lack, pieces=made)


def _end(file: BinaryIO, last: int, stop: int, size: int, bound: int) -> int:
    """Where the last frame ends, of the places that its checksum allows; `stop` where it allows none."""
    ends = [last + place for place in _frame_ends(bytes_at(file, last, min(stop - last, bound)))]
    if not ends:
        return stop
    if ends[-1] == stop:
        # Zeros behind a frame leave its checksum as it is.
        zeros = next((number for number in range(1, len(ends)) if ends[-1 - number] != stop - number), len(ends)) - 1
        return stop - zeros if zeros >= _ZEROS else stop
    # One place in 65,536 fits by chance.
    return next((place for place in ends if behind(file, place, size) is not None), ends[-1])


def _after_metadata(file: BinaryIO, start: int, size: int) -> int | None:
    at = start + len(_MARK)
    for _ in range(_MOST_METADATA):
        head = bytes_at(file, at, 4)
        if len(head) < 4:
            return None
        at += 4 + int.from_bytes(head[1:], "big")
        if head[0] & 0x80:
            return at if at <= size else None
    return None


def _count(file: BinaryIO, first: int, stop: int, begun: _Frame, bound: int) -> tuple[int, int, str | None]:
    """Samples of all frames, where the last one begins, and why it is no row of frames one after the other."""
    mark = bytes([0xFF, begun.likeness[0]])
    unit = 1 if begun.variable else begun.size  # blocks of one size are numbered, and all but the last have it
    total, last, kept = 0, first, b""
    for place, chunk in chunks_of(file, first, stop):
        window = kept + chunk
        origin = place - len(kept)
        at = -1
        while (at := window.find(mark, at + 1, len(window) if place + len(chunk) >= stop else -_LONGEST_HEADER)) >= 0:
            frame = _frame(window, at)
            if frame is None or frame.likeness != begun.likeness or origin + at < last + (1 if total else 0):
                continue
            number = frame.first * unit
            if number != total:
                # Some bytes of sound look like a header: what contradicts the row must be a whole frame like the first.
                alike = frame.size == begun.size and frame.rate_code == begun.rate_code
                if not alike or not _frame_ends(bytes_at(file, origin + at, bound)):
                    continue
                return (
                    total,
                    last,
                    (
                        f"the frame at byte {origin + at:,} begins at sample {number:,} where sample {total:,} should "
                        "follow: something was cut out, or put together"
                    ),
                )
            total, last = total + frame.size, origin + at
        kept = window[-_LONGEST_HEADER:] if len(window) > _LONGEST_HEADER else window
    return total, last, None
