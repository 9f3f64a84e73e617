"""What a benchmark's child process needs: its pipe to the parent, and how much memory a piece of its work takes."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import IO

__all__ = ["answers_to_parent", "memory_mib"]


def answers_to_parent() -> IO[str]:
    """The pipe to the parent; whatever a library prints to standard output goes to standard error instead."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return pipe


def memory_mib(*, reset: bool) -> float:
    """Resident memory now, or its peak since the last reset (Linux), else the peak of the process."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
