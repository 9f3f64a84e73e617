"""Files that end before their own header says: half a download, a full disk, a recorder that was switched off.

Decoders read such a file up to its end and say nothing, because what is there is sound. Nearly every container says
somewhere how much there should be; this is held against the file, without decoding it.

Layouts: RIFF and RF64 (EBU Tech 3306), Sony Wave64, AIFF-C, Sun au, Apple's CAF, NIST SPHERE, FLAC (RFC 9639), Ogg
(RFC 3533), Matroska (RFC 9559), ISO/IEC 14496-12; MP3 as in `mp3`.
"""

from __future__ import annotations

import io
import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

from nestvox.audio.archives import member_of, read_bytes
from nestvox.audio.containers import container_of
from nestvox.audio.errors import UnreadableAudioError
from nestvox.audio.mp3 import missing_mp3

__all__ = ["truncation"]

# What is written where the length is not known yet, as into a pipe: -1, the largest number, or a little less (sox).
_UNKNOWN_32 = 0x7FFF_F000
_UNKNOWN_64 = 1 << 62
_LARGEST_PAGE = 27 + 255 + 255 * 255  # of Ogg
_END_OF_STREAM = 4
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


def truncation(path: str | Path, *, decoded: int | None = None) -> str | None:
    """Say what a file lacks at its end.

    wav (RIFF, RIFX, RF64), w64, aiff, au, caf, sph, mp3, ogg, mp4 and m4a, mka and webm; flac where `decoded` is given.
    Where a header leaves the length open (as of what was written into a pipe) nothing is said, nor of adts, which has
    no header: one that was cut gives an error when it is read.

    Args:
        path: an audio file, or ``archive.tar::member``.
        decoded: samples per channel that the whole file gave, at its own rate.

    Returns:
        For people, e.g. ``42,652 of 64,000 bytes of samples are there``; None: nothing is known to be missing.

    Raises:
        UnreadableAudioError: the file cannot be opened.
    """
    path = Path(path)
    try:
        if member_of(path) is not None:
            return _missing(io.BytesIO(read_bytes(path)), decoded)
        with path.open("rb") as file:
            return _missing(file, decoded)
    except OSError as error:
        raise UnreadableAudioError(path, error.strerror or str(error)) from error


def _missing(file: BinaryIO, decoded: int | None) -> str | None:
    head = file.read(12)
    size = file.seek(0, os.SEEK_END)
    if head.startswith(b"fLaC"):
        return _flac(file, decoded)
    by_container = {"MP4": _mp4, "MATROSKA": _matroska}
    container = container_of(head)
    look = by_container.get(container) if container else next((f for m, f in _BY_MARK if head.startswith(m)), None)
    return None if look is None else look(file, size)


def _bytes_there(there: int, promised: int, what: str = "bytes of samples") -> str | None:
    return f"{max(0, there):,} of {promised:,} {what} are there" if there < promised else None


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _riff(file: BinaryIO, size: int) -> str | None:
    at, wide = 12, None
    sign = ">" if _at(file, 0, 4) == b"RIFX" else "<"
    while len(head := _at(file, at, 8)) == 8:
        name, length = struct.unpack(f"{sign}4sI", head)
        if name == b"ds64" and len(sizes := file.read(16)) == 16:
            wide = struct.unpack("<8xQ", sizes)[0]
        if name == b"data":
            promised = length
            if length >= _UNKNOWN_32:
                if wide is None or wide >= _UNKNOWN_64:
                    return None
                promised = wide
            return _bytes_there(size - at - 8, promised)
        at += 8 + length + length % 2
    return None


def _wave64(file: BinaryIO, size: int) -> str | None:
    at = 40  # two names of 16 bytes and the length of the whole
    while len(head := _at(file, at, 24)) == 24:
        name, length = struct.unpack("<4s12xQ", head)  # with its own 24 bytes
        if name == b"data":
            return None if length >= _UNKNOWN_64 else _bytes_there(size - at - 24, length - 24)
        if length < 24:
            return None
        at += length + -length % 8
    return None


def _aiff(file: BinaryIO, size: int) -> str | None:
    at = 12
    while len(head := _at(file, at, 8)) == 8:
        name, length = struct.unpack(">4sI", head)
        if name == b"SSND":
            return None if length >= _UNKNOWN_32 else _bytes_there(size - at - 16, length - 8)
        at += 8 + length + length % 2
    return None


def _au(file: BinaryIO, size: int) -> str | None:
    head = _at(file, 0, 12)
    if len(head) < 12:
        return None
    start, length = struct.unpack(">4xII" if head.startswith(b".snd") else "<4xII", head)
    return None if length >= _UNKNOWN_32 else _bytes_there(size - start, length)


def _caf(file: BinaryIO, size: int) -> str | None:
    at = 8
    while len(head := _at(file, at, 12)) == 12:
        name, length = struct.unpack(">4sq", head)
        if length < 0:  # up to the end
            return None
        at += 12 + length
        if at > size:
            return _bytes_there(size - at + length, length, f"bytes of its chunk {name.decode('latin-1')}")
    return None


def _sphere(file: BinaryIO, size: int) -> str | None:
    text = _at(file, 0, 4096).decode("latin-1")
    fields = dict(re.findall(r"^(\w+) -i (\d+)", text, re.MULTILINE))
    start = re.match(r"NIST_1A\n\s*(\d+)", text)
    wanted = ("sample_count", "channel_count", "sample_n_bytes")
    if start is None or not all(name in fields for name in wanted):
        return None
    promised = 1
    for name in wanted:
        promised *= int(fields[name])
    return _bytes_there(size - int(start[1]), promised)


def _mp3(file: BinaryIO, size: int) -> str | None:
    return missing_mp3(_at(file, 0, size))


def _flac(file: BinaryIO, decoded: int | None) -> str | None:
    # STREAMINFO comes first: 36 bits of samples per channel, behind rate (20), channels (3) and width (5); 0: unknown.
    head = _at(file, 18, 8)
    promised = int.from_bytes(head, "big") & (1 << 36) - 1 if len(head) == 8 else 0
    return None if decoded is None else _bytes_there(decoded, promised, "samples")


def _ogg(file: BinaryIO, size: int) -> str | None:
    """A whole Ogg stream ends with a page that says so."""
    tail = _at(file, max(0, size - 2 * _LARGEST_PAGE), 2 * _LARGEST_PAGE)
    at = tail.rfind(b"OggS")
    while at >= 0 and tail[at + 4 : at + 5] not in {b"", b"\0"}:  # four bytes of sound that look like a page
        at = tail.rfind(b"OggS", 0, at)
    lacing = tail[at + 27 : at + 27 + tail[at + 26]] if 0 <= at < len(tail) - 26 else b""
    if at < 0 or not lacing or at + 27 + tail[at + 26] + sum(lacing) > len(tail):
        return "it ends in the middle of a page"
    return None if tail[at + 5] & _END_OF_STREAM else "its last page is not the end of the stream"


def _matroska(file: BinaryIO, size: int) -> str | None:
    at = 0
    for expected in (_EBML, _SEGMENT):
        head = _at(file, at, 12)
        if len(head) < 12 or int.from_bytes(head[:4], "big") != expected or not head[4]:
            return None
        width = 9 - head[4].bit_length()
        length = int.from_bytes(head[4 : 4 + width], "big") & (1 << 7 * width) - 1
        at += 4 + width
        if expected == _SEGMENT:
            unknown = length == (1 << 7 * width) - 1
            return None if unknown else _bytes_there(size - at, length, "bytes of its segment")
        at += length
    return None


def _mp4(file: BinaryIO, size: int) -> str | None:
    at = 0
    while len(head := _at(file, at, 16)) >= 8:
        length = int.from_bytes(head[:4], "big")
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:], "big")
        if length < 8:  # 0: up to the end
            return None
        if at + length > size:
            name = head[4:8].decode("latin-1")
            return _bytes_there(size - at, length, f"bytes of its box {name}")
        at += length
    return None


_BY_MARK = (
    (b"RIFF", _riff),
    (b"RIFX", _riff),
    (b"RF64", _riff),
    (b"riff", _wave64),
    (b"FORM", _aiff),
    (b".snd", _au),
    (b"dns.", _au),
    (b"caff", _caf),
    (b"NIST_1A", _sphere),
    (b"OggS", _ogg),
    (b"ID3", _mp3),
    (b"\xff", _mp3),
)
