"""With how many threads a network runs on a CPU. Imports no torch: who has not imported it runs no network."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def usual_threads() -> int:
    """Threads that this process may keep busy: torch's number where it is imported, else one for each core.

    Without torch, ``OMP_NUM_THREADS`` sets it, as it sets torch's.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        count: int = torch.get_num_threads()
        return count
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isascii() and asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class SideBySide(Protocol):
    """`map`, with the calls side by side."""

    def __call__(self, call: Callable[[_Item], _Result], items: Iterable[_Item], /) -> Iterator[_Result]: ...  # noqa: D102


@contextmanager
def torch_threads() -> Iterator[Callable[[int], None]]:
    """Yield what sets torch's threads, and set them back afterwards; torch is not imported for it."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield lambda count: None  # noqa: ARG005 - a model that is none of torch's has nothing to set
        return
    before: int = torch.get_num_threads()
    try:
        yield lambda count: torch.set_num_threads(count) if count else None
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch, as for one forward pass at a time, and the number from before afterwards."""
    with torch_threads() as set_threads:
        set_threads(1)
        yield


@contextmanager
def side_by_side(device: torch.device | None) -> Iterator[SideBySide]:
    """Yield a `map` whose calls run side by side on a CPU, each in one thread of torch.

    Threads of one small network wait for each other longer than they compute, most of all where other processes want
    the same cores: one forward pass in two threads can then take twenty times the processor of one.

    Args:
        device: of the network, None of one that is none of torch's; anything but a CPU is given one call at a time.
    """
    if device is not None and device.type != "cpu":
        yield map
        return
    with torch_threads() as set_threads:
        count = usual_threads()
        set_threads(1)

        def run(call: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
            listed = list(items)
            if count == 1 or len(listed) < 2:
                yield from map(call, listed)
                return
            with ThreadPoolExecutor(min(count, len(listed)), "forward", initializer=set_threads, initargs=(1,)) as pool:
                yield from pool.map(call, listed)

        yield run
