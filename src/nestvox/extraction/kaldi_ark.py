"""Vectors in Kaldi archives (`.ark`) and their tables of contents (`.scp`), read and written directly.

Of an archive only float vectors (and matrices of one row) are understood, binary or text. Nothing in a file is ever
run: an `.scp` whose entry is a command (``cat x.ark |``) is refused, where Kaldi's own readers execute it.

Layout: https://kaldi-asr.org/doc/io.html, "The table concept" and "Binary mode".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import StoreError

__all__ = ["ArkSink", "iter_ark", "iter_scp"]

_BINARY = b"\0B"
_DTYPES = {b"FV": "<f4", b"DV": "<f8", b"FM": "<f4", b"DM": "<f8"}
_LONGEST_KEY = 4096

Entry = tuple[str, NDArray[np.float32]]


def iter_ark(path: Path) -> Iterator[Entry]:
    """Yield (name, vector (D,) float32) of every entry of an archive, in file order.

    Raises:
        StoreError: truncated, not an archive, or an entry that is no float vector; file and entry are named.
    """
    with path.open("rb") as handle:
        row = 0
        while (key := _read_key(handle, path, row)) is not None:
            yield key, _read_value(handle, f"{path}: entry {key!r} (row {row})")
            row += 1


def iter_scp(path: Path) -> Iterator[Entry]:
    """Yield (name, vector (D,) float32) in the order of an `.scp`; relative archives are looked for beside it.

    Raises:
        StoreError: a malformed line, a command in place of a file, an archive that is not there.
    """
    handles: dict[str, BinaryIO] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                key, archive, offset = _parse_scp_line(line, f"{path}:{number}")
                if archive not in handles:
                    if len(handles) >= 64:
                        handles.pop(next(iter(handles))).close()
                    handles[archive] = _find_archive(path, archive, number).open("rb")
                handles[archive].seek(offset)
                yield key, _read_value(handles[archive], f"{path}:{number}: entry {key!r} in {archive}")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: not a text file ({error}); an .scp has lines `name archive:offset`") from error
    finally:
        for handle in handles.values():
            handle.close()


class ArkSink:
    """Writes binary float vectors, and the `.scp` beside them.

    Args:
        ark, scp: files to write.
        final_ark: where the archive will stand in the end; the `.scp` names it absolutely, because Kaldi's own tools
            resolve names against the folder that they are started in.
    """

    def __init__(self, ark: Path, scp: Path, final_ark: Path) -> None:
        self._ark = ark.open("wb")
        self._scp = scp.open("w", encoding="utf-8", newline="\n")
        self._final = final_ark.absolute()

    def write(self, ids: list[str] | None, vectors: NDArray[np.float32]) -> None:
        """Append n named rows (n, D).

        Raises:
            StoreError: a row has no name, or one that Kaldi cannot read.
        """
        if ids is None:
            raise StoreError(f"{self._final}: an archive needs a name for every row, and these vectors have none")
        for key, vector in zip(ids, vectors, strict=True):
            if not key or any(letter.isspace() for letter in key):
                raise StoreError(f"{self._final}: {key!r} cannot name a Kaldi entry: it is empty or has white space")
            self._ark.write(key.encode() + b" ")
            self._scp.write(f"{key} {self._final}:{self._ark.tell()}\n")
            content = vector.astype("<f4").tobytes()
            self._ark.write(_BINARY + b"FV " + struct.pack("<bi", 4, len(vector)) + content)

    def close(self) -> None:
        """Flush and close both files."""
        try:
            self._ark.close()
        finally:
            self._scp.close()

    def abandon(self) -> None:
        """Close the files of a write that failed; the owner removes them."""
        for handle in (self._ark, self._scp):
            with suppress(OSError):  # what is still buffered may not fit on a full disk either
                handle.close()


def _read_key(handle: BinaryIO, path: Path, row: int) -> str | None:
    key = bytearray()
    while (letter := handle.read(1)) not in (b" ", b"\t"):
        if not letter:
            if key.strip():
                raise StoreError(f"{path}: truncated at row {row}: it ends within a name")
            return None
        key += letter
        if len(key) > _LONGEST_KEY:
            raise StoreError(f"{path}: no Kaldi archive: no name ends within {_LONGEST_KEY} bytes at row {row}")
    try:
        return key.decode().strip()
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: no Kaldi archive: the name at row {row} is not text") from error


def _read_value(handle: BinaryIO, where: str) -> NDArray[np.float32]:
    if handle.read(2) != _BINARY:
        handle.seek(-min(2, handle.tell()), 1)
        return _read_text(handle, where)
    kind, space = handle.read(2), handle.read(1)
    if kind not in _DTYPES or space != b" ":
        raise StoreError(f"{where}: no float vector (Kaldi type {kind + space!r}); export vectors, not {kind!r}")
    if kind.endswith(b"M") and (rows := _read_size(handle, where)) != 1:
        raise StoreError(f"{where}: a matrix of {rows} rows where a vector is expected")
    size = _read_size(handle, where)
    dtype = np.dtype(_DTYPES[kind])
    content = handle.read(size * dtype.itemsize)
    if len(content) != size * dtype.itemsize:
        raise StoreError(f"{where}: truncated: {len(content)} of {size * dtype.itemsize} bytes")
    return np.frombuffer(content, dtype).astype(np.float32)


def _read_size(handle: BinaryIO, where: str) -> int:
    content = handle.read(5)
    if len(content) < 5 or content[0] != 4:
        raise StoreError(f"{where}: truncated or malformed size")
    size: int = struct.unpack("<i", content[1:])[0]
    if size < 1:
        raise StoreError(f"{where}: a size of {size}")
    return size


def _read_text(handle: BinaryIO, where: str) -> NDArray[np.float32]:
    words = handle.readline().split()
    if len(words) < 3 or words[0] != b"[" or words[-1] != b"]":
        raise StoreError(f"{where}: neither a binary nor a text vector (`[ 0.1 0.2 ]` on one line)")
    try:
        return np.array([float(word) for word in words[1:-1]], np.float32)
    except ValueError as error:
        raise StoreError(f"{where}: {error}") from error


def _parse_scp_line(line: str, where: str) -> tuple[str, str, int]:
    parts = line.strip().split(None, 1)
    if len(parts) == 2 and (parts[1].endswith("|") or parts[1].startswith("|")):
        raise StoreError(f"{where}: a command in place of a file is never run: {parts[1]!r}; name an archive")
    if len(parts) == 2:
        archive, colon, offset = parts[1].rpartition(":")
        if colon and offset.isdecimal():
            return parts[0], archive, int(offset)
    raise StoreError(f"{where}: expected `name archive:offset`, got {line.strip()!r}")


def _find_archive(scp: Path, archive: str, number: int) -> Path:
    # An archive that was moved together with its .scp is found beside it, whatever folder its name says.
    for candidate in (scp.parent / archive, Path(archive), scp.parent / Path(archive).name):
        if candidate.is_file():
            return candidate
    raise StoreError(f"{scp}:{number}: no archive {archive}, also not beside the .scp")
