"""The band around a DET curve: an interval of the miss rate at each false-alarm rate, without resampling.

At a fixed false-alarm rate the threshold moves with the non-targets, so a trial's influence on the miss rate there is
``d p_miss + r d p_fa`` with r the slope of the curve, misses gained per false alarm lost, from half to one and a half
times the rate asked for. The standard errors are those of `metrics.influence`. Under one threshold all trials of one
outcome have one influence, so the sums of a speaker are counts, and trials are counted once for all rates.

Notation: N trials, S clusters, G rates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_numbers
from nestvox.errors import NestvoxError
from nestvox.metrics.curves import ErrorCurve
from nestvox.metrics.influence import Clusters, error_of_squares, logit_interval
from nestvox.metrics.operating_points import frr_at_far

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CELLS = 1 << 22  # counts held at once
_FEW = 8  # entries of a small group


def det_band(
    curve: ErrorCurve, clusters: Clusters, p_fa: ArrayLike, confidence: float = 0.95
) -> tuple[Floats, Floats, Floats]:
    """Miss rates at some false-alarm rates, and both edges of their pointwise intervals.

    Args:
        curve: of N trials.
        clusters: of these trials, two or more.
        p_fa: (G,) false-alarm rates in [0, 1].
        confidence: of the intervals, in (0, 1).

    Returns:
        (G,) miss rates, (G,) lower and (G,) upper ends; both are the rate itself where it is 0 or 1.

    Raises:
        NestvoxError: rates outside 0 to 1.
    """
    wanted = as_numbers(p_fa, "false-alarm rates", error=NestvoxError)
    missed = curve.p_miss_at(wanted)
    above, below = np.minimum(1.5 * wanted, 1.0), wanted / 2
    slope = (curve.p_miss_at(below) - curve.p_miss_at(above)) / np.where(above > below, above - below, 1.0)
    thresholds = np.array([frr_at_far(curve, rate).threshold for rate in wanted.tolist()])
    order = np.argsort(thresholds, kind="stable")
    errors = np.empty(len(wanted))
    errors[order] = _errors(curve, clusters, thresholds[order], slope[order])
    ends = [logit_interval(*pair, clusters.size, confidence) for pair in zip(missed.tolist(), errors, strict=True)]
    low, high = np.array(ends, dtype=np.float64).reshape(-1, 2).T
    return missed, low, high


def _errors(curve: ErrorCurve, clusters: Clusters, thresholds: Floats, slope: Floats) -> Floats:
    """(G,) standard errors of ``p_miss + slope p_fa`` at ascending thresholds."""
    values, labels = curve.trials
    miss, fa = curve.rates(thresholds)
    width = len(thresholds) + 1
    # A trial's cell: how many of the thresholds accept it, targets behind the non-targets; (2 width, G) its influence.
    cell = np.searchsorted(thresholds, values, side="right").astype(np.int32) + np.int32(width) * labels
    accepted = np.arange(width)[:, None] > np.arange(len(thresholds))
    influence = np.concatenate(
        [(accepted - fa) * slope / curve.n_nontarget, (~accepted - miss) / curve.n_target], dtype=np.float64
    )
    between, within = clusters.between, ~clusters.between
    across = cell[between]
    of_speakers = _squares(
        np.concatenate([clusters.enrol, clusters.test[between]]), np.concatenate([cell, across]), influence
    )
    of_pairs = _squares(clusters.pairs, across, influence)
    alone = _squares(clusters.enrol[within], cell[within], influence)
    return np.asarray(error_of_squares(clusters.size, of_speakers, of_pairs, alone))


def _squares(groups: Integers, cells: NDArray[np.int32], influence: Floats) -> Floats:
    """(G,) sums over groups of the squared sum of their entries' influences.

    Args:
        groups: (M,) whole numbers from 0.
        cells: (M,) row of `influence` of each entry.
        influence: (C, G).
    """
    n_cells, total = len(influence), np.zeros(influence.shape[1])
    sizes = np.bincount(groups)
    few = sizes <= _FEW
    chosen = few[groups]
    # Half the memory, sorted in half the time.
    whole = np.dtype(np.int32 if len(sizes) * n_cells < 2**31 else np.int64)

    def ordered(numbers: Integers, mask: NDArray[np.bool_]) -> NDArray[Any]:
        codes: NDArray[Any] = numbers.astype(whole)[groups[mask]]
        codes = codes * whole.type(n_cells) + cells[mask]
        codes.sort()
        return codes

    # Small groups, of which there may be millions: the products of all two entries, counted by their cells.
    codes = ordered(np.arange(len(sizes)), chosen)
    group, cell = np.divmod(codes, n_cells)
    total += np.bincount(cell, minlength=n_cells) @ influence**2
    for apart in range(1, _FEW):
        same = np.flatnonzero(group[apart:] == group[:-apart])
        counts = np.bincount(cell[same].astype(np.int64) * n_cells + cell[same + apart], minlength=n_cells**2).reshape(
            n_cells, -1
        )
        total += 2 * np.einsum("ct,ct->t", counts @ influence, influence)
    # The others, some at a time: how many entries of each cell they have.
    codes = ordered(np.cumsum(~few) - 1, ~chosen)
    step = max(1, _CELLS // n_cells)
    for first in range(0, int((~few).sum()), step):
        low, high = np.searchsorted(codes, np.array([first, first + step]) * n_cells)
        counts = np.bincount(codes[low:high] - first * n_cells, minlength=step * n_cells).reshape(step, n_cells)
        sums = counts @ influence
        total += np.einsum("gt,gt->t", sums, sums)
    return total
