"""What may stand before and behind the sound without being any: tags of players, and zeros.

ID3v2 (id3.org), ID3v1, APEv2 and Lyrics3 are appended to files of every format by programs that know nothing of the
format; zeros fill up blocks of disks and of broadcast systems.
"""

from __future__ import annotations

from typing import BinaryIO

from nestvox.audio.pieces import bytes_at, chunks_of

_ID3V1_BYTES = 128
_LYRICS_BYTES = 9_000
_MOST_TAGS = 64


def after_id3(file: BinaryIO, at: int) -> int:
    """Place behind the ID3v2 tags that begin at `at`; `at` where there is none."""
    for _ in range(_MOST_TAGS):
        head = bytes_at(file, at, 10)
        if len(head) < 10 or head[:3] != b"ID3" or head[3] == 0xFF or any(byte & 0x80 for byte in head[6:]):
            break
        size = 0
        for byte in head[6:]:  # seven bits a byte
            size = size << 7 | byte
        at += 10 + size + (10 if head[5] & 0x10 else 0)
    return at


def after_tag(file: BinaryIO, at: int, size: int) -> int:
    """Place behind one tag of any kind that begins at `at`; `at` where none does. `size` is the end of the file."""
    head = bytes_at(file, at, 32)
    behind = at
    if head[:3] == b"ID3":
        behind = after_id3(file, at)
    elif head[:3] == b"TAG" and size - at >= _ID3V1_BYTES:
        behind = at + (227 if head[3:4] == b"+" and size - at >= 227 + _ID3V1_BYTES else _ID3V1_BYTES)
    elif head[:8] == b"APETAGEX" and len(head) == 32:
        is_header = head[23] & 0x20  # its size counts what follows the header, the footer too
        behind = at + 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
    elif head[:11] == b"LYRICSBEGIN":
        body = bytes_at(file, at, _LYRICS_BYTES)
        ends = [body.find(mark) + 9 for mark in (b"LYRICS200", b"LYRICSEND") if mark in body]
        behind = at + min(ends, default=0)
    return min(behind, size)


def after_zeros(file: BinaryIO, at: int, size: int) -> int:
    """Place of the first byte from `at` on that is not zero; `size` where all are."""
    for place, chunk in chunks_of(file, at, size):
        rest = chunk.lstrip(b"\0")
        if rest:
            return place + len(chunk) - len(rest)
    return size
