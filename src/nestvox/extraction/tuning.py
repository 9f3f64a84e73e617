"""Batch size and threads, chosen by running the first utterances.

Neither is a matter of course: on a CPU batching can hurt, and on one that others use too, several threads of one
network wait for each other longer than they compute.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SIZES", "Choice", "choose"]

# A step up must pay by this factor: larger batches need more memory, and a tie is noise.
_WORTH_IT = 1.1
SIZES = (1, 4, 16, 64)
"""Batch sizes that are tried."""
_LONGEST_CLIP_S = 20.0

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        batch_size: utterances in one forward pass.
        threads: of the network on a CPU.
        workers: decoding threads.
        forward_rate: seconds of audio per second that the network alone reached.
    """

    batch_size: int
    threads: int
    workers: int
    forward_rate: float


def choose(
    forward: Callable[[Sequence[Waveform]], Any],
    clips: Sequence[Waveform],
    *,
    sample_rate: int,
    decode_rate: float,
    set_threads: Callable[[int], None],
    thread_counts: Sequence[int] = (1,),
    sizes: Sequence[int] = SIZES,
    budget_s: float = 1.5,
    clock: Callable[[], float] = time.perf_counter,
) -> Choice:
    """Try numbers of threads, then growing batches, on real clips until one is no longer faster or the time is up.

    Args:
        forward: the network.
        clips: decoded utterances (S_i,), of typical length.
        sample_rate: of the clips, in Hz.
        decode_rate: seconds of audio that one thread decodes in a second.
        set_threads: sets the network's number of threads; it is left at the choice.
        thread_counts: what to try, the preferred one first.
        sizes: of batches, ascending from the preferred one.
        budget_s: about how long the trial may take; what is tried last is then not tried.
        clock: gives the time in seconds.

    Returns:
        The choice.
    """
    # Like a batch of a bucketed plan: neighbours in length. What is long already is bound by the network.
    ordered = sorted((clip for clip in clips if len(clip) <= _LONGEST_CLIP_S * sample_rate), key=len)
    if not ordered:
        ordered = sorted(clips, key=len)[:1]
    tries = len(thread_counts) + len(sizes) - 1
    began = clock()
    best_rate, best_threads, best_size = 0.0, thread_counts[0], sizes[0]

    def rate(threads: int, size: int) -> float:
        set_threads(threads)
        forward(ordered[:1])  # the first call allocates and starts threads, which later ones need not do
        return _rate(forward, ordered, size, budget_s=budget_s / tries, sample_rate=sample_rate, clock=clock)

    for threads in thread_counts:
        found = rate(threads, best_size)
        if found > best_rate * _WORTH_IT:
            best_rate, best_threads = found, threads
        if clock() - began > budget_s:
            break
    for size in sizes[1:]:
        if size > len(ordered) or clock() - began > budget_s:
            break
        found = rate(best_threads, size)
        if found < best_rate * _WORTH_IT:
            break
        best_rate, best_size = found, size
    set_threads(best_threads)
    cores = os.cpu_count() or 1
    workers = max(1, min(cores, math.ceil(best_rate / decode_rate)))
    return Choice(best_size, best_threads, workers, best_rate)


def _rate(
    forward: Callable[[Sequence[Waveform]], Any],
    ordered: Sequence[Waveform],
    size: int,
    *,
    budget_s: float,
    sample_rate: int,
    clock: Callable[[], float],
) -> float:
    """Seconds of audio per second with batches of `size`, over batches spread over the lengths."""
    starts = range(0, len(ordered) - size + 1, size)
    # From both ends to the middle, so that a trial that is cut short has seen short and long clips.
    order = list(itertools.chain.from_iterable(zip(starts, reversed(starts), strict=True)))[: len(starts)]
    done_s, began = 0.0, clock()
    for start in order:
        batch = ordered[start : start + size]
        forward(batch)
        done_s += sum(len(clip) for clip in batch) / sample_rate
        if clock() - began > budget_s:
            break
    return done_s / max(clock() - began, 1e-9)
