"""Audio in tar archives, read where it lies: a million utterances are a hundred files, and nothing is unpacked.

A path like ``shard-000000.tar::anna/1.flac`` names a member, and ``shard-000000.tar::1536::anna/1.flac`` also says at
which byte its header begins, so that reading is one seek. Without that number the archive is searched once.

Only plain ``.tar`` can be read so; in a compressed archive there is nothing to seek to. Links within an archive are
followed, and the holes of sparse members filled with zeros, so that a member reads as the file that was put in.
"""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import BinaryIO, cast

from nestvox.audio.errors import EmptyAudioError, UnreadableAudioError
from nestvox.audio.tags import after_zeros
from nestvox.content import or_else
from nestvox.gate import open_regular

_PATH = re.compile(r"(?P<archive>.+?\.tar)::(?:(?P<offset>\d+)::)?(?P<name>.+)", re.IGNORECASE | re.DOTALL)
_KEPT_INDEXES = 256
_END = bytes(tarfile.BLOCKSIZE)
_INDEXING = Lock()  # threads that read one archive search it once
_MOST_LINKS = 16
_MOST_HOLES = 1 << 30  # bytes of zeros that a sparse member may be filled up with
_COMPRESSED = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "zstd": b"\x28\xb5\x2f\xfd",
    "lz4": b"\x04\x22\x4d\x18",
}
# Of a global header (POSIX pax): a member that is read by its place would not know of them.
_MEANT_FOR_ALL = frozenset({"path", "linkpath", "size", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.realsize"})
_AGAIN = "the archive is damaged, or was made again after its table: make the table again too"


@dataclass(frozen=True)
class ArchiveMember:
    """A file in a tar archive."""

    archive: Path
    name: str  # with /
    offset: int | None = None  # byte at which its first header begins; None: to be searched by name
    size: int | None = field(default=None, compare=False)  # bytes of its content; None: not looked up, or a link

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
        _open(member.archive, path).close()
        return _read(path, member)
    except OSError as error:
        raise UnreadableAudioError(path, error.strerror or str(error)) from error


def _read(path: str | Path, member: ArchiveMember) -> bytes:
    wanted, offset = member.name, member.offset
    for _ in range(_MOST_LINKS):
        if offset is None:
            offset = _place(path, member.archive, wanted, before=None)
        with _open(member.archive, path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(offset)
            try:
                # Begun at the member, so that its header (and a long name before that) is the first of this "archive".
                archive = tarfile.TarFile(fileobj=file)
                info = archive.next()
            except (tarfile.TarError, ValueError) as error:
                raise UnreadableAudioError(path, f"no member begins at byte {offset}: {error}; {_AGAIN}") from error
            if info is None or PurePosixPath(info.name).as_posix() != wanted:
                there = "no member begins" if info is None else f"{info.name} stands"
                raise UnreadableAudioError(path, f"{there} at byte {offset}; {_AGAIN}")
            if info.isreg():
                return _content(path, archive, info, size)
            if not info.islnk() and not info.issym():
                raise UnreadableAudioError(path, "is no regular file in its archive")
            linked = _linked(info)
            offset = _place(path, member.archive, linked, before=offset if info.islnk() else None)
            wanted = linked
    raise UnreadableAudioError(path, f"leads through more than {_MOST_LINKS} links in its archive")


def _linked(info: tarfile.TarInfo) -> str:
    """Name of the member that a link means: from the top of the archive, or for a symbolic one from its own folder."""
    name = info.linkname if info.islnk() else posixpath.join(posixpath.dirname(info.name), info.linkname)
    return PurePosixPath(posixpath.normpath(name)).as_posix()


def _content(path: str | Path, archive: tarfile.TarFile, info: tarfile.TarInfo, size: int) -> bytes:
    if not info.size:
        raise EmptyAudioError(path, "the member is empty (0 bytes)")
    stored = _stored(info)
    there_bytes = max(0, size - info.offset_data)
    if there_bytes < stored:
        raise UnreadableAudioError(path, f"the archive is truncated: {there_bytes} of {stored} bytes are there")
    if info.size - stored > _MOST_HOLES:
        problem = f"{info.size - stored:,} of its {info.size:,} bytes are holes, which the archive does not store"
        raise UnreadableAudioError(path, f"{problem}; unpack it")
    try:
        file = archive.extractfile(info)
        content = b"" if file is None else file.read()
    except (tarfile.TarError, ValueError) as error:
        raise UnreadableAudioError(path, f"its map of holes is damaged: {error}") from error
    if len(content) != info.size:
        raise UnreadableAudioError(path, f"{len(content):,} of {info.size:,} bytes can be read from its archive")
    return content


def _stored(info: tarfile.TarInfo) -> int:
    """Bytes of a member that are in the archive: less than its size where it is sparse."""
    parts = cast("list[tuple[int, int]] | None", info.sparse)
    return info.size if parts is None else sum(length for _, length in parts)


def _place(path: str | Path, archive: Path, name: str, *, before: int | None) -> int:
    """Where the last member of a name begins, of those before a place if there is one."""
    stat = archive.stat()
    with _INDEXING:
        places, damage = _index(archive, stat.st_size, stat.st_mtime_ns)
    found = [place for place in places.get(name, ()) if before is None or place < before]
    if not found:
        hint = "" if str(path).endswith(name) else f" as {name}, to which it is a link"
        raise UnreadableAudioError(path, damage or f"the archive has no such member{hint}")
    return found[-1]


def _open(archive: Path, path: str | Path) -> BinaryIO:
    return open_regular(archive, lambda problem, _: UnreadableAudioError(path, problem), missing="no such archive")


def members_in(archive: str | Path) -> Iterator[ArchiveMember]:
    """Yield the regular files of an archive in order, further (hard) links to them too; only headers are read.

    Raises:
        UnreadableAudioError: no tar archive, or one that is truncated or damaged; what stands before was yielded.
    """
    archive = Path(archive)
    try:
        for info in _members(archive):
            if info.isreg() or info.islnk():
                size = info.size if info.isreg() else None
                yield ArchiveMember(archive, PurePosixPath(info.name).as_posix(), info.offset, size)
    except (tarfile.TarError, ValueError) as error:
        raise UnreadableAudioError(
            archive, f"no tar archive, or a damaged one: {or_else(archive, str(error))}"
        ) from error
    except OSError as error:
        raise UnreadableAudioError(archive, error.strerror or str(error)) from error


def _members(archive: Path) -> Iterator[tarfile.TarInfo]:
    with _open(archive, archive) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        for kind, mark in _COMPRESSED.items():
            if file.read(len(mark)) == mark:
                raise tarfile.ReadError(f"it is compressed ({kind}), and there is nothing to seek to: decompress it")
            file.seek(0)
        for info in _headers(file, size):
            stored = _stored(info)
            if info.offset_data + stored > size:
                raise UnreadableAudioError(archive, f"truncated in the middle of {info.name}")
            yield info


def _headers(file: BinaryIO, size: int) -> Iterator[tarfile.TarInfo]:
    """Yield what stands up to the end, of several archives one behind the other too.

    `TarFile.next` would take a damaged header for that mark, and the members behind it would be lost in silence.
    """
    archive = tarfile.TarFile(fileobj=file)
    archive.offset = 0
    while True:
        place = archive.offset
        file.seek(place)
        if file.read(tarfile.BLOCKSIZE) == _END:
            # Archives one behind the other: tar stops at the end of the first, unless it is told (--ignore-zeros).
            place = after_zeros(file, place, size) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
            archive.offset = place
            file.seek(place)
            if not _is_header(file.read(tarfile.BLOCKSIZE)):
                return
        file.seek(place)
        try:
            info = tarfile.TarInfo.fromtarfile(archive)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {place}") from error
        if _MEANT_FOR_ALL.intersection(archive.pax_headers):
            raise tarfile.ReadError(f"a header at byte {place} gives every member that follows one name or size")
        if archive.offset <= place:
            raise tarfile.ReadError(f"a member of {info.size} bytes at byte {place}")
        yield info


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


@lru_cache(maxsize=_KEPT_INDEXES)
def _index(archive: Path, size: int, changed_ns: int) -> tuple[dict[str, list[int]], str | None]:  # noqa: ARG001  see below
    """Where the members of an archive begin, by name; of several alike the last counts, as in tar.

    Size and time of change are arguments because they make an index outdated. Where the archive is damaged, the index
    goes up to there, and the damage comes with it.
    """
    places: dict[str, list[int]] = {}
    try:
        for info in _members(archive):
            places.setdefault(PurePosixPath(info.name).as_posix(), []).append(info.offset)
    except (tarfile.TarError, ValueError) as error:
        return places, f"not among what can be read of the archive: no tar archive, or a damaged one: {error}"
    except UnreadableAudioError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None  # the next attempt may succeed: not kept
        return places, f"not among what can be read of the archive: {error.problem}"
    return places, None
