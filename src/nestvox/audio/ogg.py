"""Ogg streams: one behind the other (chained), several at once (multiplexed), and what their pages say of the end.

libsndfile reads the first stream of a chain. Layouts: Ogg (RFC 3533), Opus in Ogg (RFC 7845), FLAC in Ogg (RFC 9639).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import BinaryIO, cast

from nestvox.audio.flac import flac_span
from nestvox.audio.pieces import Piece, PieceFile, bytes_at, find
from nestvox.audio.spans import Span

_PAGE = b"OggS\0"
_HEAD_BYTES = 27
_CONTINUED, _BEGINS, _ENDS = 1, 2, 4
_NO_PLACE = (1 << 64) - 1  # no packet ends on the page
_SOUND = ((b"OpusHead", "Opus"), (b"\x01vorbis", "Vorbis"), (b"\x7fFLAC", "FLAC"), (b"Speex   ", "Speex"))
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_FLAC_MAPPING = 9  # bytes before the FLAC stream begins
_OPUS_HZ = 48_000
_MOST_PADDING = _OPUS_HZ // 4  # two of the longest packets
_READ_AHEAD = 1 << 16


@dataclass(frozen=True)
class _Page:
    at: int
    end: int
    flags: int
    granule: int
    serial: int
    number: int
    intact: bool
    n_lacing: int
    codec: str | None  # of a page with which a stream of sound begins


def _checksum(page: bytes) -> int:
    """CRC of RFC 3533 (not reflected), by zlib's (reflected) on reflected bytes."""
    register = zlib.crc32(page.translate(_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{register:032b}"[::-1], 2)


def _pages(file: BinaryIO, at: int, size: int) -> Iterator[_Page]:
    """Pages from `at` on, up to where none begins any more; places without a page between them are gone over."""
    window, begin = b"", at
    while at < size:
        if at + _HEAD_BYTES + 255 > begin + len(window) and begin + len(window) < size:
            begin, window = at, bytes_at(file, at, _READ_AHEAD)
        skip = at - begin
        head = window[skip : skip + _HEAD_BYTES]
        if len(head) < _HEAD_BYTES or not head.startswith(_PAGE):
            return
        lacing = window[skip + _HEAD_BYTES : skip + _HEAD_BYTES + head[26]]
        end = at + _HEAD_BYTES + head[26] + sum(lacing)
        if len(lacing) < head[26] or end > size:
            return
        if end > begin + len(window):
            begin, window = at, bytes_at(file, at, max(_READ_AHEAD, end - at))
            skip = 0
        page = window[skip : skip + end - at]
        body = page[_HEAD_BYTES + head[26] :]
        codec = None
        if head[5] & _BEGINS:
            codec = next((name for mark, name in _SOUND if body.startswith(mark)), None)
        stated = int.from_bytes(head[22:26], "little")
        yield _Page(
            at,
            end,
            head[5],
            int.from_bytes(head[6:14], "little"),
            int.from_bytes(head[14:18], "little"),
            int.from_bytes(head[18:22], "little"),
            stated == _checksum(page[:22] + bytes(4) + page[26:]),
            head[26],
            codec,
        )
        at = end


def ogg_span(file: BinaryIO, start: int, size: int) -> Span:
    """Look into the streams that begin together at `start`; the next ones of a chain are another span."""
    streams: dict[int, str | None] = {}
    pages: list[_Page] = []
    at, damaged = start, 0
    while True:
        for page in _pages(file, at, size):
            if page.flags & _BEGINS and pages and not pages[-1].flags & _BEGINS:
                return _judged(file, start, page.at, streams, pages, damaged)
            if page.flags & _BEGINS:
                streams[page.serial] = page.codec
            damaged += not page.intact
            pages.append(page)
            at = page.end
        # Damage in the middle, or the end.
        further = find(file, _PAGE, at, size) if at < size and pages else -1
        if further <= at:
            break
        page_there = next(_pages(file, further, size), None)
        if page_there is not None and page_there.flags & _BEGINS:  # what stands before it is judged by whoever asks
            return _judged(file, start, at, streams, pages, damaged)
        damaged += 1
        if page_there is None:
            at = further + 1
            break
        at = further
    cut = at < size and bytes_at(file, at, 4) == _PAGE[:4]
    if not pages:
        return Span("OGG", start, size, "it ends in the middle of a page")
    span = _judged(file, start, size if cut else at, streams, pages, damaged)
    if cut:
        return replace(span, stop=size, lack="it ends in the middle of a page")
    return span


def _judged(
    file: BinaryIO, start: int, stop: int, streams: dict[int, str | None], pages: list[_Page], damaged: int
) -> Span:
    sounds = [serial for serial, codec in streams.items() if codec is not None]
    if len(sounds) > 1:
        names = " and ".join(str(streams[serial]) for serial in sounds)
        problem = (
            f"{len(sounds)} streams of sound at once ({names}) from byte {start:,} on: take the one apart that is meant"
        )
        return Span("OGG", start, stop, refusal=problem)
    if not sounds:
        return Span("OGG", start, stop)  # the decoder says what is wrong with it
    foreign = {page.serial for page in pages} - streams.keys()
    if foreign:
        problem = f"pages of {len(foreign)} streams that never begin stand among its own, from byte {start:,} on"
        return Span("OGG", start, stop, refusal=problem)
    own = [page for page in pages if page.serial == sounds[0]]
    lost = damaged + _gaps(own)
    refusal = _order(own)
    if streams[sounds[0]] == "Opus" and refusal is None:
        refusal = _cut_away(file, own)
    if lost:
        refusal = f"{lost} of its pages are damaged or missing, and a decoder would leave out their sound"
    lack = None if own[-1].flags & _ENDS else "its last page is not the end of the stream"
    if streams[sounds[0]] == "FLAC" and refusal is None:
        return _flac(file, start, stop, lack, own)
    made: tuple[Piece, ...] | None = None
    if len(streams) > 1:
        made = tuple((page.at, page.end) for page in own)
    return Span("OGG", start, stop, lack, refusal, pieces=made)


def _flac(file: BinaryIO, start: int, stop: int, lack: str | None, pages: list[_Page]) -> Span:
    """Take a FLAC stream out of its pages; libsndfile reads those of few programs."""
    body = pages[0].at + _HEAD_BYTES + pages[0].n_lacing + _FLAC_MAPPING
    head = bytes_at(file, body, max(0, pages[0].end - body))
    bodies: list[Piece] = [(page.at + _HEAD_BYTES + page.n_lacing, page.end) for page in pages[1:]]
    whole = PieceFile(file, [head, *bodies])
    inner = flac_span(cast("BinaryIO", whole), 0, whole.seek(0, 2))
    if inner.pieces is not None and isinstance(inner.pieces[1], bytes):  # another count of samples
        head = head[:18] + inner.pieces[1] + head[26:]
    bodies.insert(0, head)
    return Span("OGG", start, stop, lack or inner.lack, inner.refusal, pieces=tuple(bodies), inner="FLAC")


def _gaps(pages: list[_Page]) -> int:
    # A recording of a broadcast has the headers of its beginning, and pages from where it was tuned in.
    return sum(after.number != before.number + 1 for before, after in pairwise(pages) if before.granule)


def _cut_away(file: BinaryIO, pages: list[_Page]) -> str | None:
    """Say how much of the last page of an Opus stream its own place cuts off; an encoder fills up one packet."""
    last = pages[-1]
    before = next((page for page in reversed(pages[:-1]) if page.granule != _NO_PLACE), None)
    if before is None or not last.flags & _ENDS or last.granule == _NO_PLACE or last.flags & _CONTINUED:
        return None
    page = bytes_at(file, last.at, last.end - last.at)
    at, held, begins = _HEAD_BYTES + last.n_lacing, 0, True
    for length in page[_HEAD_BYTES:at]:
        if begins and length:
            held += _opus_samples(page[at : at + 2])
        at += length
        begins = length < 255
    cut = before.granule + held - last.granule
    if cut <= _MOST_PADDING:
        return None
    return (
        f"its last page holds {held / _OPUS_HZ:.2f} s of sound and states an end {cut / _OPUS_HZ:.2f} s before that: "
        "the end that it states is not the end of what it holds"
    )


def _opus_samples(packet: bytes) -> int:
    """Samples at 48 kHz of a packet, by its first two bytes (RFC 6716, section 3.1)."""
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        frame = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        frame = (480, 960)[config & 1]
    else:
        frame = (120, 240, 480, 960)[config & 3]
    count = (1, 2, 2)[code] if code < 3 else packet[1] & 63 if len(packet) > 1 else 0
    return frame * count


def _order(pages: list[_Page]) -> str | None:
    """Say where the places of pages go back: decoders stop at the last one, and drop what lies beyond."""
    highest = 0
    for page in pages:
        if page.granule >> 63 or not page.intact:  # no packet ends there, or a place before the beginning
            continue
        if page.granule < highest:
            return (
                f"its page at byte {page.at:,} ends at sample {page.granule:,}, one before it at sample {highest:,}: "
                "the end that it states is not the end of what it holds"
            )
        highest = page.granule
    return None
