"""One writer at a time: locks that the operating system takes back when a process ends, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from nestvox.errors import NestvoxError

LOCK_NAME = ".lock"  # of a folder, inside of it


@contextmanager
def locked(path: str | Path, *, wait_s: float = 60.0, folder: bool | None = None) -> Iterator[None]:
    """Keep every other writer of `path` out, processes and threads; readers are not kept out.

    What is read, changed and written back is read inside. The lock is a hidden file, in a folder for a folder and
    beside a file for a file, which goes when the lock does; one that a killed process left keeps nobody out.

    Args:
        path: a folder, which is made where it is missing, or a file, whose folder is.
        wait_s: how long to wait for another writer; 0: not at all.
        folder: whether it is a folder; None: what is there is seen, and what is not is a file where it has a suffix.

    Raises:
        NestvoxError: another process holds it.
        OSError: its folder cannot be made or written.
    """
    path = Path(path)
    if folder is None:
        folder = path.is_dir() or not (path.suffix or path.is_file())
    if not folder:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name[:200]}.lock")
    else:
        path.mkdir(parents=True, exist_ok=True)
        file = path / LOCK_NAME
    lock = FileLock(file, timeout=wait_s, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise NestvoxError(
            f"{path} is being written by another process: wait until it has ended, or give another place"
        ) from error
    try:
        yield
    finally:
        # Whoever waits on the file that goes here sees that it has no name any more, and begins anew.
        file.unlink(missing_ok=True)
        lock.release()


@contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Keep every other process out of a folder that is written for long; a second one is refused at once.

    Raises:
        NestvoxError: another process holds it.
        OSError: it cannot be made or written.
    """
    folder = Path(folder)
    made = not folder.exists()
    try:
        with locked(folder, wait_s=0, folder=True):
            yield
    except BaseException:
        if made:  # what was refused leaves nothing; what was begun is not empty and stays
            with suppress(OSError):
                folder.rmdir()
        raise
