"""Files that appear whole or not at all, under the name, the rights and the links that were there before."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nestvox.errors import NestvoxError
from nestvox.locking import LOCK_NAME

if sys.platform != "win32":
    import fcntl

# Of the names that `atomic_path` makes, and nobody else.
_PARTIAL = re.compile(r"\..*-[^-]+\.partial(\..*)?", re.DOTALL)
_NAME_BYTES = 200  # of the stem and the suffix; file systems end at 255
_swept: set[str] = set()
_protected: dict[tuple[int, int], str] = {}


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` if the block succeeds.

    The temporary file carries the same suffix (writers that look at it keep working) and a leading dot. On any
    exception, an interrupt included, it is removed and `path` is as it was before; what a killed process left is
    removed by the next that writes into that folder.

    A link stays a link and its target is replaced; the rights of a file that is replaced are kept. A device, a pipe or
    a descriptor such as ``/dev/stdout`` is written to and not replaced.

    Raises:
        NestvoxError: `path` is a file that the running command reads; see `protecting`.
        OSError: the folder does not exist or cannot be written, or the disk is full; it names `path`, whichever
            library found it out.
    """
    path = Path(path)
    if special_file(path):
        with _telling(path), _written_through(path) as temporary:
            yield temporary
        return
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    _refuse_protected(path, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    with _telling(path), _temporary_beside(target) as temporary:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        _give_rights(temporary, target)
        temporary.replace(target)


def names_in(folder: str | Path) -> list[str]:
    """Names of what a folder holds, without locks and without what writers have begun or, killed, left behind.

    What was left behind is removed.
    """
    folder = Path(folder)
    _swept.discard(str(folder))
    _sweep(folder)
    names = (entry.name for entry in os.scandir(folder))
    return [name for name in names if name != LOCK_NAME and not _PARTIAL.fullmatch(name)]


def special_file(path: str | Path) -> bool:
    """Whether `path` is something that is written to and never replaced: a device, a pipe, a socket, a descriptor."""
    if _descriptor(Path(path)) is not None:
        return True
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextmanager
def protecting(inputs: Iterable[str | Path]) -> Iterator[None]:
    """Refuse, as long as the block runs, to replace any of these files, by whatever name it is written.

    Args:
        inputs: files that a command reads; what is not a regular file is passed over.
    """
    added = []
    for path in inputs:
        with suppress(OSError, ValueError):
            found = Path(path).stat()
            key = (found.st_dev, found.st_ino)
            if stat.S_ISREG(found.st_mode) and key not in _protected:
                _protected[key] = str(path)
                added.append(key)
    try:
        yield
    finally:
        for key in added:
            del _protected[key]


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write `content` to `path` atomically, UTF-8, line ends as given.

    A byte of a file name that is no UTF-8 becomes an escape, which JSON reads as that byte again.
    """
    write_bytes(path, content.encode(errors="backslashreplace"))


def _refuse_protected(path: Path, target: Path) -> None:
    if not _protected:
        return
    with suppress(OSError):
        found = target.stat()
        read_as = _protected.get((found.st_dev, found.st_ino))
        if read_as is not None:
            raise NestvoxError(f"{path} would replace {read_as}, which is read; give another place for the output")


@contextmanager
def _temporary_beside(target: Path) -> Iterator[Path]:
    """A new file of this process, locked as long as it is written, and gone at the end unless it was renamed."""
    temporary, descriptor = _new_partial(target)
    try:
        yield temporary
    finally:
        # A second interrupt in here leaves the file to the next run.
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


def _new_partial(target: Path) -> tuple[Path, int]:
    suffix = target.suffix if len(os.fsencode(target.suffix)) < _NAME_BYTES // 4 else ""
    stem = target.stem
    while len(os.fsencode(stem + suffix)) > _NAME_BYTES:
        stem = stem[:-1]
    while True:
        temporary = target.with_name(f".{stem}-{secrets.token_hex(6)}.partial{suffix}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        _lock(descriptor)
        if os.fstat(descriptor).st_nlink:  # else another process swept it in between
            return temporary, descriptor
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the lock was to be had; where there are no locks it was not."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sweep(folder: Path) -> None:
    """Remove what killed processes left in `folder`, once; what is locked is being written and stays."""
    if str(folder) in _swept:
        return
    _swept.add(str(folder))
    with suppress(OSError):
        left = [entry.path for entry in os.scandir(folder) if _PARTIAL.fullmatch(entry.name)]
        for name in left:
            with suppress(OSError):
                descriptor = os.open(name, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
                try:
                    if _lock(descriptor):
                        Path(name).unlink(missing_ok=True)
                finally:
                    os.close(descriptor)


def _give_rights(temporary: Path, target: Path) -> None:
    """The rights and the owner of what is replaced, else what `open` would have given."""
    try:
        before = target.stat()
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        return
    if sys.platform != "win32":
        with suppress(OSError):  # only root may give files away
            os.chown(temporary, before.st_uid, before.st_gid)
    temporary.chmod(stat.S_IMODE(before.st_mode))


def _descriptor(path: Path) -> int | None:
    """Number of the open file of this process that `path` stands for (``/dev/stdout``, ``/dev/fd/3``), if it does."""
    step = Path(os.path.abspath(path))  # noqa: PTH100  resolve() would follow the last link
    for _ in range(8):
        folder = os.path.realpath(step.parent)
        if step.name.isdecimal() and re.fullmatch(rf"/dev/fd|/proc/{os.getpid()}(/task/\d+)?/fd", folder):
            return int(step.name)
        try:
            step = Path(folder) / step.readlink()
        except OSError:
            return None
    return None


@contextmanager
def _written_through(path: Path) -> Iterator[Path]:
    """A temporary file elsewhere, whose content is written to `path` at the end."""
    suffix = path.suffix if len(path.suffix) < 20 else ""
    descriptor, name = tempfile.mkstemp(prefix="nestvox-", suffix=suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        number = _descriptor(path)
        for stream in (sys.stdout, sys.stderr):
            if number is not None and stream is not None:
                stream.flush()
        goal = os.dup(number) if number is not None else os.open(path, os.O_WRONLY)
        with temporary.open("rb") as source, os.fdopen(goal, "wb") as sink:
            shutil.copyfileobj(source, sink)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Errors of the operating system name `path`, and not the temporary file or nothing."""
    try:
        yield
    except Exception as error:
        # Libraries in Rust (safetensors, polars) have exceptions of their own, which end in this.
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is not None and (not isinstance(error, OSError) or error.errno is None):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        named = error.filename if isinstance(error, OSError) else path
        ours = named is None or (isinstance(named, str | Path) and _PARTIAL.fullmatch(Path(named).name))
        if isinstance(error, OSError) and error.errno is not None and ours:
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
