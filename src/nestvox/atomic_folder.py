"""Several files of one folder that change together: all of them are the new ones, or all of them the old.

They are written into a hidden folder inside, which is then renamed to ``.next``: from that moment on the new files are
the ones that count, wherever a kill strikes. Afterwards they are moved to their names. Who reads asks `settled` where a
file is, and `read_together` reads again where somebody changed the files meanwhile.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from nestvox.atomic import atomic_path
from nestvox.errors import NestvoxError
from nestvox.locking import locked

_NEXT = ".next"
_BEGUN = f"{_NEXT}-"
_TRIES = 5

Read = TypeVar("Read")


@contextmanager
def changing(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder; what is written into it replaces the files of the same names in `folder`, together.

    Other files stay. One process at a time changes a folder: what the block reads from it with `settled` is what its
    own files replace. On any exception everything is as it was.

    Args:
        folder: made where it is missing.

    Raises:
        NestvoxError: another process went on changing it for a minute.
        OSError: it cannot be written, or the disk is full; it names `folder`.
    """
    folder = Path(folder)
    with locked(folder):
        _clean(folder)
        begun = folder / f"{_BEGUN}{secrets.token_hex(6)}"
        begun.mkdir()
        try:
            yield begun
            for file in begun.iterdir():
                _to_disk(file)
            _to_disk(begun)
            begun.rename(folder / _NEXT)
        except BaseException:
            shutil.rmtree(begun, ignore_errors=True)
            raise
        _move(folder)


def settled(folder: str | Path, name: str) -> Path:
    """Return where the file `name` of `folder` is, also where a kill struck while it was being replaced."""
    waiting = Path(folder) / _NEXT / name
    return waiting if waiting.is_file() else Path(folder) / name


def read_together(folder: str | Path, read: Callable[[], Read]) -> Read:
    """Return what `read` makes of the files of `folder`, none of which changed while it read.

    Args:
        folder: where it reads; a change that a kill left half done is completed first, where that is allowed.
        read: reads, by `settled`; called again where the files changed meanwhile.
    """
    folder = Path(folder)
    if (folder / _NEXT).is_dir():
        with suppress(OSError, NestvoxError), locked(folder, wait_s=1):
            _clean(folder)
    for number in range(_TRIES):
        before = _signature(folder)
        try:
            found = read()
        except Exception:
            if number + 1 < _TRIES and _signature(folder) != before:
                continue
            raise
        if _signature(folder) == before:
            return found
    return found


def _signature(folder: Path) -> list[tuple[str, int, int, int]]:
    """What changes when a file is replaced."""
    found = []
    for place in (folder, folder / _NEXT):
        with suppress(OSError):
            for entry in os.scandir(place):
                with suppress(OSError):
                    if entry.is_file() and not entry.name.startswith("."):
                        state = entry.stat()
                        found.append((entry.name, state.st_ino, state.st_mtime_ns, state.st_size))
    return sorted(found)


def _clean(folder: Path) -> None:
    """Complete what was decided and drop what was not; only by who holds the lock."""
    _move(folder)
    for left in folder.glob(f"{_BEGUN}*"):
        shutil.rmtree(left, ignore_errors=True)


def _move(folder: Path) -> None:
    waiting = folder / _NEXT
    if not waiting.is_dir():
        return
    for file in sorted(waiting.iterdir()):
        target = folder / file.name
        if target.is_symlink():  # the link stays, and its target is replaced
            with atomic_path(target) as temporary:
                shutil.copyfile(file, temporary)
            file.unlink()
            continue
        with suppress(FileNotFoundError):
            file.chmod(target.stat().st_mode & 0o7777)
        file.replace(target)
    waiting.rmdir()
    _to_disk(folder)


def _to_disk(path: Path) -> None:
    with suppress(OSError):  # of folders not everywhere
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
