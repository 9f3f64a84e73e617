"""Audio in tar archives, read where it lies: a million utterances are a hundred files, and nothing is unpacked.

A path like ``shard-000000.tar::anna/1.flac`` names a member, and ``shard-000000.tar::1536::anna/1.flac`` also says at
which byte its header begins, so that reading is one seek. Without that number the archive is searched once.

Only plain ``.tar`` can be read so; in a compressed archive there is nothing to seek to.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import BinaryIO

from nestvox.audio.errors import EmptyAudioError, UnreadableAudioError

__all__ = ["ArchiveMember", "file_of", "member_of", "members_in", "read_bytes"]

_PATH = re.compile(r"(?P<archive>.+?\.tar)::(?:(?P<offset>\d+)::)?(?P<name>.+)", re.IGNORECASE | re.DOTALL)
_KEPT_INDEXES = 256
_END = bytes(tarfile.BLOCKSIZE)
_INDEXING = Lock()  # threads that read one archive search it once
_AGAIN = "the archive is damaged, or was made again after its table: make the table again too"


@dataclass(frozen=True)
class ArchiveMember:
    """A file in a tar archive.

    Attributes:
        archive: the tar file.
        name: of the member, with ``/``.
        offset: byte at which its first header begins; None: to be searched by name.
    """

    archive: Path
    name: str
    offset: int | None = None

    @property
    def path(self) -> Path:
        """The path that stands for it wherever an audio file can be named."""
        place = "" if self.offset is None else f"{self.offset}::"
        return Path(f"{self.archive}::{place}{self.name}")


def member_of(path: str | Path) -> ArchiveMember | None:
    """Return the member that a path names, or None where it names a file of its own."""
    found = _PATH.fullmatch(str(path))
    if found is None:
        return None
    offset = found["offset"]
    name = PurePosixPath(found["name"].replace("\\", "/")).as_posix()
    return ArchiveMember(Path(found["archive"]), name, None if offset is None else int(offset))


def file_of(path: str | Path) -> Path:
    """Return the file on the disk that a path needs: the archive of a member, else itself."""
    member = member_of(path)
    return Path(path) if member is None else member.archive


def read_bytes(path: str | Path) -> bytes:
    """Return the content of a member of an archive, or of a file of its own.

    Raises:
        UnreadableAudioError: no such file or member, the archive is truncated or damaged there, or another member
            stands at the byte that the path names.
        EmptyAudioError: a member of 0 bytes.
    """
    member = member_of(path)
    try:
        if member is None:
            return Path(path).read_bytes()
        if not member.archive.is_file():
            raise UnreadableAudioError(path, "no such archive")
        return _read(path, member)
    except OSError as error:
        raise UnreadableAudioError(path, error.strerror or str(error)) from error


def _read(path: str | Path, member: ArchiveMember) -> bytes:
    offset = member.offset
    if offset is None:
        stat = member.archive.stat()
        with _INDEXING:
            places, damage = _index(member.archive, stat.st_size, stat.st_mtime_ns)
        offset = places.get(member.name)
        if offset is None:
            raise UnreadableAudioError(path, damage or "the archive has no such member")
    with member.archive.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(offset)
        try:
            # Begun at the member, so that its header (and a long name before that) is the first of this "archive".
            info = tarfile.TarFile(fileobj=file).next()
        except (tarfile.TarError, ValueError) as error:
            raise UnreadableAudioError(path, f"no member begins at byte {offset}: {error}; {_AGAIN}") from error
        if info is None or PurePosixPath(info.name).as_posix() != member.name:
            there = "no member begins" if info is None else f"{info.name} stands"
            raise UnreadableAudioError(path, f"{there} at byte {offset}; {_AGAIN}")
        if not info.isreg():
            raise UnreadableAudioError(path, "is no regular file in its archive")
        if not info.size:
            raise EmptyAudioError(path, "the member is empty (0 bytes)")
        there_bytes = max(0, size - info.offset_data)
        if there_bytes < info.size:
            raise UnreadableAudioError(path, f"the archive is truncated: {there_bytes} of {info.size} bytes are there")
        file.seek(info.offset_data)
        return file.read(info.size)


def members_in(archive: str | Path) -> Iterator[ArchiveMember]:
    """Yield the regular files of an archive in order; only headers are read.

    Raises:
        UnreadableAudioError: no tar archive, or one that is truncated or damaged; what stands before was yielded.
    """
    archive = Path(archive)
    try:
        with archive.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            for info in _headers(file):
                if info.offset_data + info.size > size:
                    raise UnreadableAudioError(archive, f"truncated in the middle of {info.name}")
                if info.isreg():
                    yield ArchiveMember(archive, PurePosixPath(info.name).as_posix(), info.offset)
    except (tarfile.TarError, ValueError) as error:
        raise UnreadableAudioError(archive, f"no tar archive, or a damaged one: {error}") from error
    except OSError as error:
        raise UnreadableAudioError(archive, error.strerror or str(error)) from error


def _headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield what stands up to the mark of the end.

    `TarFile.next` would take a damaged header for that mark, and the members behind it would be lost in silence.
    """
    archive = tarfile.TarFile(fileobj=file)
    archive.offset = 0
    while True:
        place = archive.offset
        file.seek(place)
        if file.read(tarfile.BLOCKSIZE) == _END:
            return
        file.seek(place)
        try:
            info = tarfile.TarInfo.fromtarfile(archive)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {place}") from error
        if archive.offset <= place:
            raise tarfile.ReadError(f"a member of {info.size} bytes at byte {place}")
        yield info


@lru_cache(maxsize=_KEPT_INDEXES)
def _index(archive: Path, size: int, changed_ns: int) -> tuple[dict[str, int], str | None]:  # noqa: ARG001  see below
    """Where the members of an archive begin, by name; of two alike the last counts, as in tar.

    Size and time of change are arguments because they make an index outdated. Where the archive is damaged, the index
    goes up to there, and the damage comes with it.
    """
    places: dict[str, int] = {}
    try:
        for member in members_in(archive):
            places[member.name] = member.offset or 0
    except UnreadableAudioError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None  # the next attempt may succeed: not kept
        return places, f"not among what can be read of the archive: {error.problem}"
    return places, None
