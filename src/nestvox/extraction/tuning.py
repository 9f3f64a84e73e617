"""Batch size, threads and streams, chosen by running the first utterances.

None is a matter of course: on a CPU batching can hurt, and several threads of one network may wait for each other
longer than they compute, where as many streams (forward passes side by side, of one thread each) keep every core busy.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

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
        streams: forward passes side by side.
        threads: of each forward pass on a CPU.
        workers: decoding threads.
        forward_rate: seconds of audio per second that the network alone reached.
    """

    batch_size: int
    streams: int
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
    streams: int = 1,
    sizes: Sequence[int] = SIZES,
    budget_s: float = 1.5,
    clock: Callable[[], float] = time.perf_counter,
) -> Choice:
    """Try streams (or numbers of threads), then growing batches, on real clips; the fastest within the time is taken.

    Args:
        forward: the network.
        clips: decoded utterances (S_i,), of typical length.
        sample_rate: of the clips, in Hz.
        decode_rate: seconds of audio that one thread decodes in a second.
        set_threads: sets the network's number of threads; it is left at the choice.
        thread_counts: what to try in a single stream, the preferred one first.
        streams: above 1, this many streams of one thread each are tried against one instead of `thread_counts`.
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
    modes = [(1, threads) for threads in thread_counts] if streams == 1 else [(1, 1), (streams, 1)]
    share = budget_s / (len(modes) + len(sizes) - 1)
    began = clock()
    best_rate, best_size, (best_streams, best_threads) = 0.0, sizes[0], modes[0]

    def rate(size: int, streams: int, threads: int) -> float:
        set_threads(threads)
        with Streams(forward, streams, lambda: set_threads(threads)) as running:
            running.run([ordered[:1]] * streams)  # first calls allocate and start threads, later ones need not
            return _rate(running, ordered, size, streams, share, sample_rate, clock)

    for mode in modes:
        found = rate(best_size, *mode)
        if found > best_rate * _WORTH_IT:
            best_rate, (best_streams, best_threads) = found, mode
        if clock() - began > budget_s:
            break
    for size in sizes[1:]:
        if size * best_streams > len(ordered) or clock() - began > budget_s:
            break
        found = rate(size, best_streams, best_threads)
        if found > best_rate * _WORTH_IT:
            best_rate, best_size = found, size
    set_threads(best_threads)
    cores = os.cpu_count() or 1
    workers = max(1, min(cores, math.ceil(best_rate / decode_rate)))
    return Choice(best_size, best_streams, best_threads, workers, best_rate)


class Streams:
    """Forward passes side by side, each in a thread of its own; use it as a context manager.

    Args:
        forward: the network; called from several threads at once.
        count: how many side by side.
        prepare: called once in each thread: a library may keep its number of threads by thread.
    """

    def __init__(self, forward: Callable[[Sequence[Waveform]], Any], count: int, prepare: Callable[[], None]) -> None:
        self._forward = forward
        self._pool = ThreadPoolExecutor(count, "forward", initializer=prepare)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, batch: Sequence[Waveform]) -> Future[Any]:
        """Begin a forward pass as soon as a stream is free."""
        return self._pool.submit(self._forward, batch)

    def run(self, batches: Sequence[Sequence[Waveform]]) -> list[Any]:
        """Run all and wait for them."""
        return [future.result() for future in [self.submit(batch) for batch in batches]]


def _rate(
    running: Streams,
    ordered: Sequence[Waveform],
    size: int,
    streams: int,
    budget_s: float,
    sample_rate: int,
    clock: Callable[[], float],
) -> float:
    """Seconds of audio per second with batches of `size`, spread over the lengths, `streams` of them under way."""
    starts = range(0, len(ordered) - size + 1, size)
    # From both ends to the middle, so that a trial that is cut short has seen short and long clips.
    order = list(itertools.chain.from_iterable(zip(starts, reversed(starts), strict=True)))[: len(starts)]
    begun: deque[tuple[float, Future[Any]]] = deque()
    done_s, began = 0.0, clock()
    for start in order:
        batch = ordered[start : start + size]
        begun.append((sum(len(clip) for clip in batch) / sample_rate, running.submit(batch)))
        if len(begun) < streams:
            continue
        audio_s, future = begun.popleft()
        future.result()
        done_s += audio_s
        if clock() - began > budget_s:
            break
    for audio_s, future in begun:
        future.result()
        done_s += audio_s
    return done_s / max(clock() - began, 1e-9)
