"""What a command owes the system it runs in: streams that always take text, signals that clean up, words for limits.

Knows the standard library only, so that it stands before anything is imported that takes time.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["EXIT_ERROR", "flush_streams", "limit_words", "open_streams", "stopped_by", "stopping"]

EXIT_ERROR = 2
# What schedulers, shells and closing terminals send; the last: the limit of processor time.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU")
_CPU_MARGIN_S = 2
_OUT_OF_MEMORY = (
    "cannot allocate memory",
    "can't allocate memory",
    "failed to map segment",
    "not enough memory",
    "out of memory",
    "std::bad_alloc",
    "unable to allocate",
    "can't start new thread",
    "resource temporarily unavailable",
)


class _Stream(io.RawIOBase):
    """A descriptor whose reader may go away: what is written after that goes nowhere, and nothing else changes."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.gone = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, data: object, /) -> int:
        content = memoryview(data).cast("B")  # type: ignore[arg-type]
        if not self.gone:
            try:
                return os.write(self.descriptor, content)
            except BrokenPipeError:
                self.gone = True
        return len(content)


def open_streams() -> None:
    """Make standard output and error take any text: escapes where the terminal lacks a character, never an exception.

    A closed descriptor is opened on the null device, so that no file that the command opens is taken for a terminal.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        own = stream is None or (stream is getattr(sys, f"__{name}__") and _descriptor_of(stream) == descriptor)
        if not own or (stream is not None and isinstance(getattr(stream.buffer, "raw", None), _Stream)):
            continue  # a test or a caller that collects what is printed
        encoding = "utf-8" if stream is None else stream.encoding
        if stream is not None:
            stream.flush()
        raw = _Stream(descriptor)
        made = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=encoding,
            errors="backslashreplace",
            line_buffering=name == "stderr" or raw.isatty(),
        )
        setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)


def _descriptor_of(stream: io.TextIOWrapper) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def flush_streams() -> OSError | None:
    """Write out what is still held back; returns what went wrong (a full disk), once."""
    found = None
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError as error:
            # Python would try again at its end, and end with a number of its own.
            raw = getattr(getattr(stream, "buffer", None), "raw", None)
            if isinstance(raw, _Stream):
                raw.gone = True
            if name == "stdout":
                found = error
    return found


_stopped: list[int] = []


def stopped_by() -> int | None:
    """Number of the signal that ended the command, or None."""
    return _stopped[0] if _stopped else None


@contextmanager
def stopping() -> Iterator[None]:
    """Let signals that end a process end it as Ctrl-C does: what is half written is removed on the way out."""
    _stopped.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker that was forked: as if nothing had been set
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        _stopped.append(number)
        raise KeyboardInterrupt

    before = {}
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        # What is ignored stays ignored: nohup, and jobs in the background of a shell without job control.
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, stop)
    _warn_before_the_end()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _warn_before_the_end() -> None:
    """Where the limit of processor time kills at once, ask to be told a little earlier."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft >= hard > _CPU_MARGIN_S):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CPU, (hard - _CPU_MARGIN_S, hard))


def limit_words(error: BaseException) -> str | None:
    """What to say where a limit of the machine ended the command: memory, threads; None where it was something else."""
    text = str(error)
    low = text.lower()
    if isinstance(error, MemoryError) or any(words in low for words in _OUT_OF_MEMORY):
        said = f" ({text.splitlines()[0]})" if text.strip() else ""
        return (
            f"not enough memory{said}: give the process more (ulimit -v, the scheduler's limit), or less to do at once "
            "(smaller batches, fewer threads, workers and streams)"
        )
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return f"too many open files ({text}): raise the limit (ulimit -n), or use fewer workers"
    return None
