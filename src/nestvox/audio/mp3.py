"""MP3 files that claim fewer frames than they hold, made honest before they are decoded.

MP3 has no header: an encoder may put the number of frames into a first frame that holds no sound ("Xing" or
"Info"). libsndfile never decodes beyond that number, and where the frame is missing it guesses from the bit rate of
the first frame: streams with a variable bit rate, cut files and files put end to end lose most of their audio.
Counting the frames takes a millisecond or so per minute of audio.

Frame layout: ISO/IEC 11172-3 and 13818-3, layer III.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["honest_mp3", "missing_mp3"]

_KBPS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_HZ_1 = (44_100, 48_000, 32_000)
_LAYER_3 = 1
_MPEG_25, _MPEG_1 = 0, 3


@dataclass(frozen=True)
class _Header:
    kind: tuple[int, int]  # version and sample rate: the same in every frame of a stream
    size: int  # bytes of the frame, header included
    tag_at: int  # where in the frame "Xing" or "Info" stands, if it does


def _header(data: bytes, at: int) -> _Header | None:
    """Read the four header bytes at `at`; None where no layer III frame of known size begins."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = (data[at + 1] >> 3) & 3, (data[at + 1] >> 1) & 3
    rate_index, bit_rate_index = (data[at + 2] >> 2) & 3, data[at + 2] >> 4
    if version == 1 or layer != _LAYER_3 or rate_index == 3 or bit_rate_index in {0, 15}:
        return None
    first = version == _MPEG_1
    rate = _HZ_1[rate_index] // (1 if first else 4 if version == _MPEG_25 else 2)
    kbps = (_KBPS_1 if first else _KBPS_2)[bit_rate_index]
    padding = (data[at + 2] >> 1) & 1
    mono = data[at + 3] >> 6 == 3
    side = (17 if mono else 32) if first else (9 if mono else 17)
    return _Header((version, rate), (144 if first else 72) * kbps * 1000 // rate + padding, 4 + side)


def _start(data: bytes) -> int:
    """Where the first frame begins: after the ID3v2 tag, whose size has seven bits a byte."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if data[5] & 0x10 else 0)


def _frames(data: bytes, at: int, kind: tuple[int, int]) -> tuple[int, int]:
    """Count the frames from `at` on; also where the last one ends, which may be behind the end of the data."""
    count, end, sync = 0, at, data[at : at + 2]
    while at < len(data):
        header = _header(data, at)
        if header is not None and header.kind == kind:
            count += 1
            at = end = at + header.size
        else:
            at = data.find(sync, at + 1)  # between files put end to end stand tags; damage is skipped
            if at < 0:
                break
    return count, end


def _claimed(data: bytes, tag_at: int) -> int | None:
    """Number of frames that a first frame without sound states, if there is one and it does."""
    tag, flags, claimed = struct.unpack(">4sII", data[tag_at : tag_at + 12].ljust(12, b"\0"))
    return int(claimed) if tag in {b"Xing", b"Info"} and flags & 1 else None


def _info_frame(data: bytes, at: int, header: _Header, frames: int) -> bytes:
    """Build a frame like the one at `at`, without sound, that states the number of frames."""
    # The highest bit rate has room for the tag at any sample rate; no CRC, no padding.
    head = bytes([0xFF, data[at + 1] | 1, 0xE0 | data[at + 2] & 0x0C, data[at + 3]])
    made = _header(head, 0)
    size = made.size if made is not None else header.size
    body = head + bytes(header.tag_at - 4) + b"Xing" + struct.pack(">II", 1, frames)
    return body + bytes(size - len(body))


def honest_mp3(file: BinaryIO) -> io.BytesIO | None:
    """Return a file, read from its beginning, with a true number of frames; None where it can be decoded as it is.

    None also for files that are not layer III, or not MP3 at all: their decoder finds out.
    """
    if not file.read(4).startswith((b"\xff", b"ID3")):
        return None
    file.seek(0)
    data = file.read()
    start = _start(data)
    header = _header(data, start)
    if header is None:
        return None
    frames, _ = _frames(data, start, header.kind)
    tag_at = start + header.tag_at
    claimed = _claimed(data, tag_at)
    if claimed is None:
        return io.BytesIO(_info_frame(data, start, header, frames) + data[start:])
    if claimed < frames - 1:  # the frame with the tag does not count itself
        return io.BytesIO(data[: tag_at + 8] + struct.pack(">I", frames - 1) + data[tag_at + 12 :])
    return None


def missing_mp3(data: bytes) -> str | None:
    """Say what an MP3 lacks at its end: a part of its last frame, or frames that its first one promises."""
    start = _start(data)
    header = _header(data, start)
    if header is None:
        return None
    frames, end = _frames(data, start, header.kind)
    claimed = _claimed(data, start + header.tag_at)
    if claimed is not None and claimed > frames:
        return f"{frames:,} of {claimed:,} frames are there"
    return "it ends in the middle of a frame" if end > len(data) else None
