"""Vectors in Kaldi archives (`.ark`) and their tables of contents (`.scp`), read and written directly.

Of an archive only float vectors (and matrices of one row) are understood, binary or text. A line of an `.scp` names a
place in an archive, or a file of its own: of Kaldi, binary or text, or `.npy`. Nothing in a file is ever run: an `.scp`
whose entry is a command (``cat x.ark |``) is refused, where Kaldi's own readers execute it.

By hand, because kaldiio runs such commands and makes room for whatever a damaged header says: the checks before it
would be most of what stands here.

Layout: https://kaldi-asr.org/doc/io.html, "The table concept" and "Binary mode".
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import StoreError
from nestvox.extraction.formats.numpy_files import read_npy_vector
from nestvox.gate import is_file, naming, open_regular
from nestvox.names import BYTE_ORDER_MARK, split_first

_BINARY = b"\0B"
_NUMPY = b"\x93NUMPY"
_DTYPES = {b"FV": "<f4", b"DV": "<f8", b"FM": "<f4", b"DM": "<f8"}
_LONGEST_KEY = 4096
_BLANKS = " \t\r\n"
_RANGE = re.compile(r"\[[0-9:,]*\]$")

Entry = tuple[str, NDArray[np.float32]]


def iter_ark(path: Path) -> Iterator[Entry]:
    """Yield (name, vector (D,) float32) of every entry of an archive, in file order.

    Raises:
        StoreError: truncated, not an archive, or an entry that is no float vector; file and entry are named.
    """
    with open_regular(path, naming(StoreError), missing="no such file", text=True) as handle:
        row = 0
        while (key := _read_key(handle, path, row)) is not None:
            yield key, _read_value(handle, f"{path}: entry {key!r} (row {row})")
            row += 1


def iter_scp(path: Path) -> Iterator[Entry]:
    """Yield (name, vector (D,) float32) in the order of an `.scp`; relative archives are looked for beside it.

    Raises:
        StoreError: a malformed line, a command in place of a file, a file that is not there or holds more than one
            vector where the line names no place in it.
    """
    handles: dict[str, BinaryIO] = {}
    try:
        raw = open_regular(path, naming(StoreError), missing="no such file", text=True)
        with TextIOWrapper(raw, encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip(_BLANKS):
                    continue
                where = f"{path}:{number}"
                key, archive, offset = _parse_scp_line(line, where)
                if archive not in handles:
                    if len(handles) >= 64:
                        handles.pop(next(iter(handles))).close()
                    handles[archive] = open_regular(_find_archive(path, archive, number), naming(StoreError))
                handles[archive].seek(offset or 0)
                where = f"{where}: entry {key!r} in {archive}"
                yield (
                    key,
                    _read_value(handles[archive], where)
                    if offset is not None
                    else _read_alone(handles[archive], where),
                )
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
        if any(letter in str(final_ark.absolute()) for letter in "\r\n"):
            raise StoreError(
                f"{final_ark}: an .scp has a line for every vector, and cannot name a path with a line end"
            )
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
            # Blanks of other scripts divide nothing in Kaldi.
            if not key or any(letter.isascii() and (letter == " " or not letter.isprintable()) for letter in key):
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
    # Line ends and blanks before a name are what a text entry leaves behind.
    while (letter := handle.read(1)) not in (b" ", b"\t") or not key.strip():
        if not letter:
            if key.strip():
                raise StoreError(f"{path}: truncated at row {row}: it ends within a name")
            return None
        key += letter
        if len(key) > _LONGEST_KEY:
            raise StoreError(f"{path}: no Kaldi archive: no name ends within {_LONGEST_KEY} bytes at row {row}")
    try:
        return key.decode().lstrip(BYTE_ORDER_MARK + _BLANKS)
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: no Kaldi archive: the name at row {row} is not text") from error


def _read_alone(handle: BinaryIO, where: str) -> NDArray[np.float32]:
    """The one vector of a file that an `.scp` names without a place in it."""
    begin = handle.read(len(_NUMPY))
    handle.seek(0)
    if begin == _NUMPY:
        return read_npy_vector(handle, where)
    if not begin.startswith(_BINARY) and not begin.lstrip().startswith(b"["):
        raise StoreError(
            f"{where}: the file begins with neither a vector of Kaldi nor a .npy array; in an archive, where a name "
            "stands before each vector, name the place: `name archive:offset`"
        )
    vector = _read_value(handle, where)
    if handle.read(_LONGEST_KEY).strip():
        raise StoreError(f"{where}: the file goes on behind its first vector; name the place: `name archive:offset`")
    return vector


def _read_value(handle: BinaryIO, where: str) -> NDArray[np.float32]:
    if (begin := handle.read(2)) != _BINARY:
        handle.seek(-len(begin), os.SEEK_CUR)
        return _read_text(handle, where)
    kind, space = handle.read(2), handle.read(1)
    if kind not in _DTYPES or space != b" ":
        raise StoreError(f"{where}: no float vector (Kaldi type {kind + space!r}); export vectors, not {kind!r}")
    if kind.endswith(b"M") and (rows := _read_size(handle, where)) != 1:
        raise StoreError(f"{where}: a matrix of {rows} rows where a vector is expected")
    size = _read_size(handle, where)
    dtype = np.dtype(_DTYPES[kind])
    left = os.fstat(handle.fileno()).st_size - handle.tell()
    if left < size * dtype.itemsize:  # before room for what a damaged header says is made
        raise StoreError(f"{where}: truncated: {left} of {size * dtype.itemsize} bytes")
    with np.errstate(over="ignore"):  # what is infinite in float32 is refused as any row that is not finite
        return np.frombuffer(handle.read(size * dtype.itemsize), dtype).astype(np.float32)


def _read_size(handle: BinaryIO, where: str) -> int:
    content = handle.read(5)
    if len(content) < 5 or content[0] != 4:
        raise StoreError(f"{where}: truncated or malformed size")
    size: int = struct.unpack("<i", content[1:])[0]
    if size < 1:
        raise StoreError(f"{where}: a size of {size}")
    return size


def _read_text(handle: BinaryIO, where: str) -> NDArray[np.float32]:
    """A vector ``[ 0.1 0.2 ]``, or a matrix of one row, which begins a line of its own behind the bracket."""
    line = handle.readline()
    if not line.lstrip().startswith(b"["):
        raise StoreError(f"{where}: neither a binary nor a text vector (`[ 0.1 0.2 ]`)")
    rows = [line.lstrip()[1:]]
    while b"]" not in rows[-1]:
        line = handle.readline()
        if not line:
            raise StoreError(f"{where}: truncated: no `]` ends the vector")
        rows.append(line)
    last, _, behind = rows[-1].partition(b"]")
    if behind.strip():
        raise StoreError(f"{where}: more than a vector on the line of its `]`")
    filled = [words for row in (*rows[:-1], last) if (words := row.split())]
    if len(filled) != 1:
        raise StoreError(
            f"{where}: {f'a matrix of {len(filled)} rows' if filled else 'nothing'} where a vector is expected"
        )
    try:
        with np.errstate(over="ignore"):
            return np.array([float(word) for word in filled[0]], np.float64).astype(np.float32)
    except ValueError as error:
        raise StoreError(f"{where}: {str(error)[:200]}") from error


def _parse_scp_line(line: str, where: str) -> tuple[str, str, int | None]:
    """Name, file, and the place in it, which is None where the line names the whole file."""
    name, place = split_first(line)
    if not place:
        raise StoreError(f"{where}: expected `name archive:offset` or `name file`, got {line.strip(_BLANKS)!r}")
    if place.endswith("|") or place.startswith("|"):
        raise StoreError(f"{where}: a command in place of a file is never run: {place!r}; name an archive")
    if _RANGE.search(place) and not Path(place).exists():
        raise StoreError(f"{where}: a range of rows, {place!r}, is not read; write the vectors that are meant")
    archive, colon, offset = place.rpartition(":")
    if colon and re.fullmatch(r"[0-9]{1,18}", offset):
        return name, archive, int(offset)
    return name, place, None


def _find_archive(scp: Path, archive: str, number: int) -> Path:
    # An archive that was moved together with its .scp is found beside it, whatever folder its name says.
    for candidate in (scp.parent / archive, Path(archive), scp.parent / Path(archive).name):
        if is_file(candidate):
            return candidate
    raise StoreError(f"{scp}:{number}: no file {archive[:200]}, also not beside the .scp")
