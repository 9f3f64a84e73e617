"""Error rates of the same trials under many sets of weights, without counting every trial at every threshold.

The K points of the curve are cut into blocks. For each replicate the weight of each block is summed, which says in
which block the curve crosses the diagonal, passes a false-alarm rate, or can have its lowest cost; only there are
trials counted one by one. The figures are those of the whole curve, exactly: weights are whole numbers, and a block is
left out only where a bound says so.

Notation: N trials, S clusters, R replicates, K points, B blocks, G grid points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_clusters, as_numbers
from nestvox.errors import NestvoxError, TrialsError
from nestvox.metrics.curves import check_scores

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_BLOCKS = 512


@dataclass(frozen=True, eq=False)
class Replicates:
    """Figures of each replicate.

    Attributes:
        valid: (R,) bool; false where a class has no weight, and then the figures of that row mean nothing.
        eer: (R,) by linear interpolation.
        min_dcf: (R,) normalised.
        p_miss: (R, G) at the false-alarm rates asked for.
    """

    valid: NDArray[np.bool_]
    eer: Floats
    min_dcf: Floats
    p_miss: Floats


class SpeakerBootstrap:
    """Trials sorted once, ready to be counted under many sets of cluster multiplicities.

    Args:
        scores: (N,) finite.
        targets: (N,) bool.
        enrol: (N,) cluster of the first side: whole numbers 0 to S - 1.
        test: (N,) cluster of the second side.

    Raises:
        ScoresError: scores and labels do not fit or are not finite.
        TrialsError: one class only, or clusters that do not fit.
    """

    def __init__(self, scores: ArrayLike, targets: ArrayLike, enrol: ArrayLike, test: ArrayLike) -> None:
        values, labels = check_scores(scores, targets)
        sides = np.stack([as_clusters(side, len(values)) for side in (enrol, test)])
        self.n_clusters = int(sides.max()) + 1
        order = np.argsort(values, kind="stable")
        ordered, labels, sides = values[order], labels[order], sides[:, order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] > ordered[:-1], [True])))  # (K,)
        before_target = np.concatenate(([0], np.cumsum(labels)))[starts]
        n_points = len(starts)
        self._edges: Integers = np.unique(np.linspace(0, n_points - 1, min(_BLOCKS, n_points - 1) + 1).astype(np.int64))
        self._target = _Class(sides[:, labels], before_target, self._edges)
        self._nontarget = _Class(sides[:, ~labels], starts - before_target, self._edges)

    def replicates(
        self,
        multiplicities: ArrayLike,
        *,
        p_target: float = 0.05,
        c_miss: float = 1.0,
        c_fa: float = 1.0,
        p_fa: ArrayLike = (),
    ) -> Replicates:
        """Count every replicate.

        Args:
            multiplicities: (R, S) how often each cluster was drawn, whole numbers.
            p_target: of the detection cost.
            c_miss: of the detection cost.
            c_fa: of the detection cost.
            p_fa: (G,) false-alarm rates at which the miss rate is wanted.

        Raises:
            TrialsError: multiplicities that are not (R, S) whole numbers of at least 0.
            NestvoxError: rates outside 0 to 1.
        """
        drawn = np.ascontiguousarray(as_numbers(multiplicities, "multiplicities", ndim=2, error=TrialsError))
        grid = as_numbers(p_fa, "false-alarm rates", error=NestvoxError)
        if drawn.shape[1] != self.n_clusters or (drawn < 0).any() or (drawn != np.floor(drawn)).any():
            raise TrialsError(
                f"multiplicities must be (R, {self.n_clusters}) whole numbers of at least 0, got shape {drawn.shape}"
            )
        if ((grid < 0) | (grid > 1)).any():
            raise NestvoxError("false-alarm rates lie between 0 and 1")
        counts = _Counts(drawn, self._target, self._nontarget, self._edges)
        worst = min(c_miss * p_target, c_fa * (1 - p_target))
        return Replicates(
            valid=counts.valid,
            eer=counts.equal_error_rates(),
            min_dcf=counts.lowest_costs(c_miss * p_target, c_fa * (1 - p_target)) / worst,
            p_miss=counts.misses_at(grid),
        )


class _Class:
    """Clusters of the trials of one class in ascending order of score, and where the points of the curve lie."""

    def __init__(self, sides: Integers, at: Integers, edges: Integers) -> None:
        self.enrol, self.test = sides
        self.at = at  # (K,) trials of the class below each point
        self.at_edges = at[edges]  # (B + 1,)
        self.empty = np.diff(self.at_edges) == 0
        self.within = self.enrol == self.test
        self.all_within = bool(self.within.all())
        self.any_within = bool(self.within.any())

    def at_each_edge(self, drawn: Floats) -> Floats:
        """(R, S) multiplicities to (R, B + 1) weight below the first point of each block, and in all."""
        summed = np.zeros((len(drawn), len(self.at_edges)))
        weight = np.zeros(len(self.enrol) + 1)  # a last trial of no weight: a block may begin where the trials end
        for row, multiplicity in zip(summed, drawn, strict=True):  # row by row: each stays in the cache
            multiplicity.take(self.enrol, out=weight[:-1], mode="clip")
            if not self.all_within:
                other = multiplicity.take(self.test)
                if self.any_within:
                    other[self.within] = 1.0
                weight[:-1] *= other
            row[1:] = np.add.reduceat(weight, self.at_edges[:-1])
        summed[:, 1:][:, self.empty] = 0.0  # reduceat gives the next trial for a block without any
        return np.cumsum(summed, axis=1)

    def weights(self, drawn: Floats, replicates: Integers, trials: Integers) -> Floats:
        """(M,) weight of single trials, each under its replicate."""
        rows = replicates * drawn.shape[1]
        flat = drawn.reshape(-1)
        weight = flat.take(rows + self.enrol.take(trials))
        if not self.all_within:
            other = flat.take(rows + self.test.take(trials))
            weight *= np.where(self.within.take(trials), 1.0, other) if self.any_within else other
        return np.asarray(weight)


class _Counts:
    """R replicates counted at the edges of the blocks, and inside those blocks that are asked for."""

    def __init__(self, drawn: Floats, target: _Class, nontarget: _Class, edges: Integers) -> None:
        self.drawn, self.sides, self.edges = drawn, (target, nontarget), edges
        self.below = target.at_each_edge(drawn), nontarget.at_each_edge(drawn)  # (R, B + 1) each
        totals = [below[:, -1] for below in self.below]
        self.valid = (totals[0] > 0) & (totals[1] > 0)
        # Rows without a class are counted as if it had weight 1, so that no division fails; they are marked.
        self.totals = [np.where(self.valid, total, 1.0) for total in totals]
        self.miss = self.below[0] / self.totals[0][:, None]
        self.correct = self.below[1] / self.totals[1][:, None]

    def inside(self, replicates: Integers, blocks: Integers) -> tuple[Floats, Floats, Integers]:
        """Both rates at every point of some blocks, one after the other.

        Returns:
            (P,) miss rates and (P,) rates of rightly rejected non-targets at all points of the M blocks, both ends of
            each included; (M + 1,) where each block begins.
        """
        first, last = self.edges[blocks], self.edges[blocks + 1]
        points, begins = _ranges(first, last + 1)
        rates = []
        for side, below, total in zip(self.sides, self.below, self.totals, strict=True):
            start = side.at_edges[blocks]
            trials, offsets = _ranges(start, side.at_edges[blocks + 1])
            lengths = np.diff(offsets)
            summed = np.zeros(len(trials) + 1)
            np.cumsum(side.weights(self.drawn, np.repeat(replicates, lengths), trials), out=summed[1:])
            # Position of each point in the running sum, and what was summed before its block.
            n_points = np.diff(begins)
            at = side.at[points] + np.repeat(offsets[:-1] - start, n_points)
            base = below[replicates, blocks] - summed[offsets[:-1]]
            rates.append((summed[at] + np.repeat(base, n_points)) / np.repeat(total[replicates], n_points))
        return rates[0], rates[1], begins

    def equal_error_rates(self) -> Floats:
        """(R,) by linear interpolation, as `metrics.rates.eer` defines them."""
        # p_miss >= p_fa  <=>  p_miss + (1 - p_fa) >= 1
        reached = self.miss + self.correct >= 1
        blocks = np.maximum(np.argmax(reached, axis=1) - 1, 0)
        miss, correct, begins = self.inside(np.arange(len(self.drawn)), blocks)
        after = np.maximum(_first(miss + correct, begins[:-1], begins[1:] - 1, np.ones(len(blocks))), begins[:-1] + 1)
        before = after - 1
        gap_before = 1 - correct[before] - miss[before]
        gap_after = miss[after] - (1 - correct[after])
        total = gap_before + gap_after
        share = np.divide(gap_before, total, out=np.ones_like(total), where=total > 0)
        return np.asarray(miss[before] + share * (miss[after] - miss[before]))

    def lowest_costs(self, miss_cost: float, fa_cost: float) -> Floats:
        """(R,) minima of ``miss_cost p_miss + fa_cost p_fa``."""
        lowest = (miss_cost * self.miss + fa_cost * (1 - self.correct)).min(axis=1)
        # Within a block misses only rise and false alarms only fall: its start and its end bound the cost.
        bound = miss_cost * self.miss[:, :-1] + fa_cost * (1 - self.correct[:, 1:])
        replicates, blocks = np.nonzero((bound < lowest[:, None]) & self.valid[:, None])
        if len(replicates):
            miss, correct, begins = self.inside(replicates, blocks)
            inside = np.minimum.reduceat(miss_cost * miss + fa_cost * (1 - correct), begins[:-1])
            np.minimum.at(lowest, replicates, inside)
        return np.asarray(lowest)

    def misses_at(self, p_fa: Floats) -> Floats:
        """(R, G) miss rates at false-alarm rates `p_fa`, as `ErrorCurve.p_miss_at` defines them."""
        if not len(p_fa):
            return np.empty((len(self.drawn), 0))
        wanted = np.broadcast_to(1 - p_fa, (len(self.drawn), len(p_fa)))
        blocks = np.stack([np.searchsorted(row, 1 - p_fa, side="left") for row in self.correct])
        blocks = np.clip(blocks - 1, 0, len(self.edges) - 2)
        n_blocks = len(self.edges) - 1
        codes, which = np.unique(np.arange(len(blocks))[:, None] * n_blocks + blocks, return_inverse=True)
        miss, correct, begins = self.inside(codes // n_blocks, codes % n_blocks)
        which = which.reshape(-1)
        after = _first(correct, begins[:-1][which], begins[1:][which] - 1, wanted.reshape(-1))
        after = np.maximum(after, begins[:-1][which] + 1).reshape(wanted.shape)
        fa_before, fa_after = 1 - correct[after - 1], 1 - correct[after]
        step = fa_before - fa_after
        share = np.divide(fa_before - p_fa, step, out=np.zeros_like(step), where=step > 0)
        return np.asarray(miss[after - 1] + np.clip(share, 0.0, 1.0) * (miss[after] - miss[after - 1]))


def _ranges(start: Integers, stop: Integers) -> tuple[Integers, Integers]:
    """All of ``start[i]`` to ``stop[i] - 1`` one after the other, and (M + 1,) where each begins."""
    offsets = np.concatenate(([0], np.cumsum(stop - start)))
    return np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], stop - start), offsets


def _first(values: Floats, low: Integers, high: Integers, wanted: Floats) -> Integers:
    """First position from `low` to `high` whose value is at least `wanted` (else `high`), by bisection: all at once."""
    low, high = low.copy(), high.copy()
    while (low < high).any():
        middle = (low + high) // 2
        reached = values[middle] >= wanted
        high = np.where(reached, middle, high)
        low = np.where(reached, low, np.minimum(middle + 1, high))
    return low
