"""What damage leaves in samples: flat tops, and gaps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.downmix import CLIP_LEVEL

_CLIP_RUN = 2  # samples in a row at that level: one alone is a peak, not a flat top
_LIMIT_RUN = 3  # equal samples at the recording's own peak, where that is below full scale
_LIMIT_LEAST = 0.05  # a peak below it has so few steps of 16 bits that neighbours are often equal
_GAP_S, _LONGEST_GAP_S, _EDGE_S = 0.004, 1.0, 0.004
_GAP_LEVEL = 1e-4
_GAP_EDGE = 0.1  # of the level of the whole: what stands at the edges of a gap that is no pause
# Likewise, where a value other than 0 is held, or samples have 8 bits.
_HELD_EDGE, _HELD_S, _COARSE, _STEPS = 0.5, 0.016, 1e-3, 12


def clipped_fraction(samples: NDArray[np.floating[Any]]) -> float:
    """Share of (T,) samples that stand in flat tops, of both signs: at full scale, or at a lower limit."""
    if not len(samples):
        return 0.0
    count = 0
    for peak in (max(0.0, float(samples.max())), min(0.0, float(samples.min()))):
        if abs(peak) < _LIMIT_LEAST:
            continue
        full = abs(peak) >= CLIP_LEVEL
        limit = math.copysign(CLIP_LEVEL, peak) if full else peak
        lengths = _runs(samples >= limit if peak > 0 else samples <= limit)[1]
        count += int(lengths[lengths >= (_CLIP_RUN if full else _LIMIT_RUN)].sum())
    return count / len(samples)


def dropouts(samples: NDArray[np.floating[Any]], sample_rate: int) -> int:
    """Count gaps without any sound, of 4 ms to 1 s, on both sides of which there is sound at once.

    A pause fades in and out, and so do the gaps that a noise gate makes; a buffer that ran empty, or a lost packet,
    does not. What stands in a gap is nothing, or one value: the last one, an offset, or the zero of A-law, which is
    none.
    """
    starts, lengths = _still(samples)
    edge = max(1, round(_EDGE_S * sample_rate))
    shortest, longest = max(2, round(_GAP_S * sample_rate)), round(_LONGEST_GAP_S * sample_rate)
    there = (lengths >= shortest) & (lengths <= longest) & (starts >= edge)
    there &= starts + lengths + edge <= len(samples)
    if not there.any():
        return 0
    level = math.sqrt(float(np.mean(np.square(samples, dtype=np.float64))))
    levels: NDArray[np.floating[Any]] | None = None
    count = 0
    for start, length in zip(starts[there].tolist(), lengths[there].tolist(), strict=True):
        before, after = samples[start - edge : start], samples[start + length : start + length + edge]
        held = float(samples[start])
        edges = min(_level(before - held), _level(after - held))
        if edges <= max(_GAP_EDGE * level, 10 * _GAP_LEVEL):
            continue
        levels = np.unique(samples) if levels is None else levels
        step = _step(levels, held)
        # Samples of 8 bits stand still in quiet sound, and between the pulses of a voice.
        count += (abs(held) <= _GAP_LEVEL and step <= _COARSE) or (
            length >= _HELD_S * sample_rate and edges > max(_HELD_EDGE * level, _STEPS * step)
        )
    return count


def _still(samples: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where stretches of nothing, or of one value, begin, and how long they are."""
    size = np.abs(samples)
    starts, lengths = _runs(size <= _GAP_LEVEL)
    first, further = _runs(samples[1:] == samples[:-1])
    # Flat tops are another matter.
    held = (size[first] > _GAP_LEVEL) & (size[first] < min(CLIP_LEVEL, float(size.max(initial=0.0))))
    return np.concatenate([starts, first[held]]), np.concatenate([lengths, further[held] + 1])


def _step(levels: NDArray[np.floating[Any]], value: float) -> float:
    """How far the next one of these sorted levels is from a value."""
    below = np.searchsorted(levels, value - _GAP_LEVEL)
    above = np.searchsorted(levels, value + _GAP_LEVEL, side="right")
    found = [*levels[max(0, below - 1) : below], *levels[above : above + 1]]
    return min((abs(float(level) - value) for level in found), default=math.inf)


def _level(samples: NDArray[np.floating[Any]]) -> float:
    return math.sqrt(float(np.mean(np.square(samples, dtype=np.float64))))


def _runs(flags: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the stretches of true begin, and how long they are."""
    edges = np.flatnonzero(flags[1:] != flags[:-1]) + 1
    if len(flags) and flags[0]:
        edges = np.concatenate(([0], edges))
    if len(flags) and flags[-1]:
        edges = np.concatenate((edges, [len(flags)]))
    return edges[::2], edges[1::2] - edges[::2]
