"""Batch size and decoding threads, chosen by running the first utterances: on a CPU batching can hurt."""

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

__all__ = ["Choice", "choose"]

# A step up must pay by this factor: larger batches need more memory, and a tie is noise.
_WORTH_IT = 1.1
_SIZES = (1, 4, 16, 64)
_LONGEST_CLIP_S = 20.0

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """Chosen batch size and threads, and the seconds of audio per second that the network alone reached."""

    batch_size: int
    workers: int
    forward_rate: float


def choose(
    forward: Callable[[Sequence[Waveform]], Any],
    clips: Sequence[Waveform],
    *,
    sample_rate: int,
    decode_rate: float,
    budget_s: float = 1.5,
    clock: Callable[[], float] = time.perf_counter,
) -> Choice:
    """Try growing batches on real clips until one is no longer faster, or the time is used up.

    Args:
        forward: the network.
        clips: decoded utterances (S_i,), of typical length; at most as many as the largest batch are used.
        sample_rate: of the clips, in Hz.
        decode_rate: seconds of audio that one thread decodes in a second.
        budget_s: about how long the trial may take.
        clock: gives the time in seconds.

    Returns:
        The choice. Fewer than two clips leave nothing to compare: one at a time.
    """
    # Like a batch of a bucketed plan: neighbours in length. What is long already is bound by the network.
    ordered = sorted((clip for clip in clips if len(clip) <= _LONGEST_CLIP_S * sample_rate), key=len)
    if not ordered:
        ordered = sorted(clips, key=len)[:1]
    began = clock()
    forward(ordered[:1])  # the first call allocates and compiles, and would count against batch size 1
    best_size, best_rate = 1, 0.0
    for size in _SIZES:
        if size > len(ordered):
            break
        rate = _rate(forward, ordered, size, budget_s=budget_s / len(_SIZES), sample_rate=sample_rate, clock=clock)
        if rate < best_rate * _WORTH_IT:
            break
        best_size, best_rate = size, rate
        if clock() - began > budget_s:
            break
    cores = os.cpu_count() or 1
    return Choice(best_size, max(1, min(cores, math.ceil(best_rate / decode_rate))), best_rate)


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
