"""ZIP archives of weights, opened only where what they say of their members can be: wheels and checkpoints."""

from __future__ import annotations

import struct
import zipfile
from typing import BinaryIO

from nestvox.gate import ErrorMaker
from nestvox.shown import shown

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_LONGEST_COMMENT = (1 << 16) - 1
_MOST_DIRECTORY_BYTES = 16 << 20
# Weights hardly shrink. What unpacks to more than so many times the file was made to fill memory.
_MOST_GROWTH = 8
_MOST_SMALL_BYTES = 1 << 20


def open_archive(file: BinaryIO, size: int, error: ErrorMaker, source: str) -> zipfile.ZipFile:
    """Open an archive whose directory is of bounded size and whose members fit into its bytes.

    Args:
        file: anywhere.
        size: of the file, in bytes.
        error: makes the error.
        source: name of the file, for messages.

    Raises:
        NestvoxError: of `error`: no archive, one that names a member twice, or one whose members are more than the
            file can hold.
    """
    if _directory_bytes(file, size) > _MOST_DIRECTORY_BYTES:
        raise error("its directory is larger than any archive of weights needs", source)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as why:
        raise error(f"damaged: {why}", source) from why
    try:
        _check_members(archive, size, error, source)
    except BaseException:
        archive.close()
        raise
    return archive


def _check_members(archive: zipfile.ZipFile, size: int, error: ErrorMaker, source: str) -> None:
    seen: set[str] = set()
    total = 0
    for info in archive.infolist():
        name = info.filename
        if name in seen:
            raise error(f"it names {shown(name)!r} twice", source)
        seen.add(name)
        if info.flag_bits & 1:
            raise error(f"{shown(name)!r} is encrypted", source)
        if info.header_offset + info.compress_size > size or (
            info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size
        ):
            raise error(f"{shown(name)!r} is to have {info.file_size:,} bytes, which the file does not hold", source)
        total += info.file_size
    if total > _MOST_GROWTH * size + _MOST_SMALL_BYTES:
        raise error(f"its {size:,} bytes are to unpack to {total:,}", source)


def _directory_bytes(file: BinaryIO, size: int) -> int:
    """Size of the directory as the end of the archive states it; 0 where there is no such end."""
    begin = max(0, size - _END.size - _LONGEST_COMMENT)
    file.seek(begin)
    tail = file.read(_END.size + _LONGEST_COMMENT)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        return 0
    stated = int(_END.unpack_from(tail, at)[5])
    locator_at = begin + at - _LOCATOR_64.size
    if locator_at >= 0:
        file.seek(locator_at)
        locator = _LOCATOR_64.unpack(file.read(_LOCATOR_64.size))
        if locator[0] == b"PK\x06\x07" and locator[2] < size:
            file.seek(locator_at - _END_64.size)
            end = file.read(_END_64.size)
            if len(end) == _END_64.size and end[:4] == b"PK\x06\x06":
                stated = int(_END_64.unpack(end)[8])
    return min(stated, size)
