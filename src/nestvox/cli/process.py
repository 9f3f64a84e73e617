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

EXIT_ERROR = 2
EXIT_FAULT = 70  # as in sysexits.h
# What schedulers, shells and closing terminals send; the last: the limit of processor time.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU")
_CPU_MARGIN_S = 2
# Of address space: what numpy and polars take when they are imported; below, they end the process themselves.
_LEAST_BYTES = 512 * 2**20
_LEAST_TORCH_BYTES = 1280 * 2**20
_TIGHT_BYTES = 4 * 2**30
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
    """A descriptor whose reader may go away: what is written after that goes nowhere, and nothing else changes.

    Nor does a full disk stop the work; it is told at the end.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.gone = False
        self.failure: OSError | None = None

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
            except OSError as error:
                self.gone = True
                self.failure = None if isinstance(error, BrokenPipeError) else error
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
    """Write out what is still held back; returns why standard output could not be written (a full disk), or None."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Stream) else None


def _no_memory(why: str) -> str:
    said = f" ({why.splitlines()[0]})" if why.strip() else ""
    return (
        f"not enough memory{said}: give the process more (ulimit -v, the scheduler's limit), or less to do at once "
        "(smaller batches, fewer threads, workers and streams)"
    )


def _memory_limit() -> int | None:
    """Bytes of address space that the process may have, None: any number."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _while_importing(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        trace = trace.tb_next
    return False


def memory_words(*, torch: bool = False) -> str | None:
    """What to say where the limit of memory is too small for any work, before libraries end the process; else None.

    `torch`: a network is to run.
    """
    limit = _memory_limit()
    if limit is None:
        return None
    if limit < _TIGHT_BYTES:  # a buffer for each thread is the larger part
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    least = _LEAST_TORCH_BYTES if torch else _LEAST_BYTES
    return (
        None if limit >= least else _no_memory(f"{limit >> 20} MiB of address space, at least {least >> 20} are needed")
    )


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
        return _no_memory(text)
    if _memory_limit() is not None and _while_importing(error):  # half a library was mapped
        return _no_memory(f"an import failed: {text}")
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return f"too many open files ({text}): raise the limit (ulimit -n), or use fewer workers"
    return None
