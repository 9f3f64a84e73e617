"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_path", "write_bytes", "write_text"]


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` if the block succeeds.

    The temporary file carries the same suffix (writers that look at it keep working) and a leading dot.
    On any exception, an interrupt included, it is removed and `path` is as it was before.

    Raises:
        OSError: the folder does not exist or cannot be written, or the disk is full; it names `path`, whichever
            library found it out.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=f".partial{path.suffix}", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        # mkstemp makes files private; the finished file gets what open() would have given it.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # Libraries in Rust (safetensors, polars) have exceptions of their own, which end in this.
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is not None and not isinstance(error, OSError):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, name):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write `content` to `path` atomically, UTF-8, line ends as given."""
    write_bytes(path, content.encode())
