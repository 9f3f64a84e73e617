"""A file made of pieces of another one and of bytes of its own, for decoders that want a file."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import BinaryIO

Piece = tuple[int, int] | bytes
"""Bytes [start, stop) of a file, or bytes that stand for themselves."""

_CHUNK = 1 << 20
_FARTHEST = 1 << 62


def bytes_at(file: BinaryIO, place: int, count: int) -> bytes:
    """Read up to `count` bytes from `place` on; none where no file reaches."""
    if not 0 <= place < _FARTHEST:
        return b""
    file.seek(place)
    return file.read(count)


def chunks_of(file: BinaryIO, start: int, stop: int, size: int = _CHUNK) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes [start, stop) in order, each chunk with its place."""
    while start < stop and (chunk := bytes_at(file, start, min(size, stop - start))):
        yield start, chunk
        start += len(chunk)


def find(file: BinaryIO, mark: bytes, start: int, stop: int) -> int:
    """Place of a mark within [start, stop), or -1; the file is not held in memory."""
    kept = b""
    for place, chunk in chunks_of(file, start, stop):
        window = kept + chunk
        found = window.find(mark)
        if found >= 0:
            return place - len(kept) + found
        kept = window[-(len(mark) - 1) :] if len(mark) > 1 else b""
    return -1


class PieceFile(io.RawIOBase):
    """Pieces in a row, to be read and sought in like one file; the file beneath stays open and is not closed."""

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece]) -> None:
        super().__init__()
        self._file = file
        self._pieces = [piece for piece in pieces if _length(piece)]
        self._starts = [0]
        for piece in self._pieces:
            self._starts.append(self._starts[-1] + _length(piece))
        self._at = 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be sought in."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position in bytes."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer as far as there are bytes, across pieces, and return how many there were."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self._at < self._starts[-1]:
            number = bisect_right(self._starts, self._at) - 1
            piece, skip = self._pieces[number], self._at - self._starts[number]
            wanted = min(len(view) - filled, self._starts[number + 1] - self._at)
            if isinstance(piece, bytes):
                part = piece[skip : skip + wanted]
            else:
                part = bytes_at(self._file, piece[0] + skip, wanted)
            if not part:  # the file has become shorter
                break
            view[filled : filled + len(part)] = part
            filled += len(part)
            self._at += len(part)
        return filled

    def write(self, _: object) -> int:
        """Refuse: soundfile asks for the method and never calls it."""
        raise io.UnsupportedOperation("write")


def _length(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else max(0, piece[1] - piece[0])
