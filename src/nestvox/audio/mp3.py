"""MPEG audio: files that claim fewer frames than they hold, made honest before they are decoded.

MP3 has no header: an encoder may put the number of frames into a first frame that holds no sound ("Xing" or
"Info"). libsndfile never decodes beyond that number, and where the frame is missing it guesses from the bit rate of
the first frame: streams with a variable bit rate, cut files and files put end to end lose most of their audio.
Counting the frames takes a millisecond or so per minute of audio.

Frame layout: ISO/IEC 11172-3 and 13818-3, layers I to III.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from nestvox.audio.tags import after_id3, after_tag, after_zeros

_KBPS = {  # by MPEG 1 or not, and layer
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HZ_1 = (44_100, 48_000, 32_000)
_MPEG_25, _MPEG_1 = 0, 3
_MONO = 3
_HEADER = 4
_TAGS = frozenset({b"Xing", b"Info"})
_MOST_DAMAGE = 1 << 14  # bytes that are no frame in the middle of a stream: a few frames that were damaged
LONGEST_FREE_START = 1 << 16
"""Bytes that are searched for the first frame."""


@dataclass(frozen=True)
class _Header:
    kind: tuple[int, int, int, bool]  # version, layer, sample rate, mono: the same in every frame of a stream
    size: int  # bytes of the frame, header included
    tag_at: int  # where in the frame "Xing" or "Info" stands, if it does


@dataclass(frozen=True)
class MpegRun:
    """Frames of one kind, with tags and a little damage between them."""

    kept: tuple[tuple[int, int], ...]  # where frames stand in a row: first byte, and first byte behind them
    frames: int
    layer: int  # 1 to 3
    sample_rate: int
    claimed: int | None  # number of frames that the first one states; None: none
    cut: bool  # the last frame ends behind the end of the data
    last_bytes: int  # of the last frame: fewer bytes than this hold no frame
    stop: int  # first byte behind the last frame, or where the next run begins


def _header(data: bytes, at: int) -> _Header | None:
    """Read the four header bytes at `at`; None where no frame of known size begins."""
    if at + _HEADER > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = (data[at + 1] >> 3) & 3, 4 - ((data[at + 1] >> 1) & 3)
    rate_index, bit_rate_index = (data[at + 2] >> 2) & 3, data[at + 2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or bit_rate_index in {0, 15}:
        return None
    first = version == _MPEG_1
    rate = _HZ_1[rate_index] // (1 if first else 4 if version == _MPEG_25 else 2)
    bits_per_s = 1000 * _KBPS[first, layer][bit_rate_index]
    padding = (data[at + 2] >> 1) & 1
    mono = data[at + 3] >> 6 == _MONO
    side = (17 if mono else 32) if first else (9 if mono else 17)
    if layer == 1:
        size = (12 * bits_per_s // rate + padding) * 4
    else:
        size = (144 if first or layer == 2 else 72) * bits_per_s // rate + padding
    return _Header((version, layer, rate, mono), size, _HEADER + side)


def frame_at(head: bytes) -> int:
    """Bytes of the frame that begins with these; 0 where none does."""
    header = _header(head, 0)
    return 0 if header is None else header.size


def _claimed(data: bytes, tag_at: int) -> int | None:
    """Number of frames that a first frame without sound states, if there is one and it does."""
    tag, flags, claimed = struct.unpack(">4sII", data[tag_at : tag_at + 12].ljust(12, b"\0"))
    return int(claimed) if tag in _TAGS and flags & 1 else None


def _first(data: bytes, at: int) -> int | None:
    """Where the first frame begins: at `at`, or where two frames stand in a row a little behind it."""
    if _header(data, at) is not None:
        return at
    limit = min(len(data), at + LONGEST_FREE_START)
    while (at := data.find(b"\xff", at + 1, limit)) >= 0:
        header = _header(data, at)
        if header is not None:
            following = _header(data, at + header.size)
            if following is not None and following.kind == header.kind:
                return at
    return None


def mpeg_run(data: bytes, at: int = 0) -> MpegRun | None:
    """Count the frames of one kind from the first one on, tags before it left out; None where there is none."""
    file = io.BytesIO(data)
    start = _first(data, after_id3(file, at))
    header = None if start is None else _header(data, start)
    if start is None or header is None:
        return None
    kind, count, last = header.kind, 0, header.size
    at = stop = begun = start
    follows: int | None = None
    kept: list[tuple[int, int]] = []
    while at < len(data):
        found = _header(data, at)
        if found is not None and found.kind == kind:
            if count and data[at + found.tag_at : at + found.tag_at + 4] in _TAGS and kind[1] == 3:
                follows = at  # the first frame of another file
                break
            count += 1
            last = found.size
            at = stop = at + found.size
            continue
        further = _resume(file, data, at, kind)
        if further is None:
            break
        kept.append((begun, at))
        at = begun = further
    if begun < stop:
        kept.append((begun, min(stop, len(data))))
    claimed = _claimed(data, start + header.tag_at) if kind[1] == 3 else None
    return MpegRun(
        tuple(kept),
        count,
        kind[1],
        kind[2],
        claimed,
        stop > len(data),
        last,
        min(stop, len(data)) if follows is None else follows,
    )


def _resume(file: BinaryIO, data: bytes, at: int, kind: tuple[int, int, int, bool]) -> int | None:
    """Where frames of the same kind go on behind tags, zeros or a little damage; None where they do not."""
    while at < len(data):
        behind = after_zeros(file, after_tag(file, at, len(data)), len(data))
        if behind == at:
            break
        at = behind
    limit = min(len(data), at + _MOST_DAMAGE)
    while (at := data.find(b"\xff", at, limit)) >= 0:
        found = _header(data, at)
        if found is not None:
            end = at + found.size
            following = _header(data, end)
            if end >= len(data) - _HEADER or (following is not None and following.kind == found.kind):
                return at if found.kind == kind else None  # or another kind of sound begins
        at += 1
    return None


def _info_frame(data: bytes, at: int, header: _Header, frames: int) -> bytes:
    """Build a frame like the one at `at`, without sound, that states the number of frames."""
    # The highest bit rate has room for the tag at any sample rate; no CRC, no padding.
    head = bytes([0xFF, data[at + 1] | 1, 0xE0 | data[at + 2] & 0x0C, data[at + 3]])
    made = _header(head, 0)
    size = made.size if made is not None else header.size
    body = head + bytes(header.tag_at - 4) + b"Xing" + struct.pack(">II", 1, frames)
    return body + bytes(size - len(body))


def honest_mp3(data: bytes, run: MpegRun) -> bytes:
    """Return a run of frames as a file that states how many there are, without what stands between them."""
    start = run.kept[0][0]
    header = _header(data, start)
    sound = data[slice(*run.kept[0])] if len(run.kept) == 1 else b"".join(data[slice(*part)] for part in run.kept)
    if header is None or run.layer != 3:
        return sound
    if run.claimed is None:
        return _info_frame(data, start, header, run.frames) + sound
    if run.claimed == run.frames - 1:  # the frame with the tag does not count itself
        return sound
    counts = struct.pack(">I", run.frames - 1)
    if sound[header.tag_at + 7] & 2:  # and the number of bytes
        counts += struct.pack(">I", len(sound))
    place = header.tag_at + 8
    return sound[:place] + counts + sound[place + len(counts) :]
