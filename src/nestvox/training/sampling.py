"""In which order utterances are seen: a function of seed and epoch alone, whatever the workers and processes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import TrainingError

__all__ = [
    "BalancedOrder",
    "Order",
    "ShuffledOrder",
    "WindowedOrder",
    "generator",
    "parts_of",
    "share_of",
    "split",
    "times_before",
]

Purpose = Literal["order", "variant", "clip"]
_PURPOSES: tuple[Purpose, ...] = ("order", "variant", "clip")

Rows = NDArray[np.int64]


def generator(seed: int, purpose: Purpose, *numbers: int) -> np.random.Generator:
    """Return the generator of one decision, e.g. of one clip in one epoch; no two purposes share a stream."""
    return np.random.default_rng([seed, _PURPOSES.index(purpose), *numbers])


def share_of(rows: Rows, rank: int, world: int) -> Rows:
    """Return one process's part of a batch: contiguous, sizes that differ by one at most, empty where rows run out."""
    return np.asarray(np.array_split(rows, world)[rank], np.int64)


def times_before(rows: Rows) -> Rows:
    """Return how often each row stands before itself in a batch, (B,): 0 but for a speaker with too few rows."""
    times = np.zeros(len(rows), np.int64)
    order = np.argsort(rows, kind="stable")
    for before, after in itertools.pairwise(order):
        times[after] = times[before] + 1 if rows[before] == rows[after] else 0
    return times


def parts_of(rows: Rows, size: int | None) -> list[Rows]:
    """Cut a share into parts of at most `size` rows (None: one part) that differ by one row at most; none of nothing.

    A last part of one row, which batch normalisation could do nothing with, comes up only where `size` is 1 or 2.
    """
    if not len(rows):
        return []
    return [np.asarray(part, np.int64) for part in np.array_split(rows, -(-len(rows) // (size or len(rows))))]


def split(rows: Rows, rank: int, world: int, size: int | None) -> list[tuple[Rows, Rows]]:
    """Cut one process's share of a batch into micro-batches.

    Args:
        rows: of the whole batch.
        rank: number of the process.
        world: processes.
        size: most rows of a micro-batch; None: the share is one.

    Returns:
        Of each: its rows, and how often the batch had each of them before.
    """
    both = (parts_of(share_of(some, rank, world), size) for some in (rows, times_before(rows)))
    return list(zip(*both, strict=True))


@dataclass(frozen=True)
class ShuffledOrder:
    """Every row once an epoch, in batches; what remains is a batch by itself, or joins the last where it is little.

    Attributes:
        n: rows.
        batch_size: of a batch over all processes.
        seed: of the order.
        fewest: rows that a batch needs at the least.
    """

    n: int
    batch_size: int
    seed: int
    fewest: int = 1

    def steps(self, epoch: int) -> int:  # noqa: ARG002  other orders need it
        """Batches of an epoch."""
        whole, rest = divmod(self.n, self.batch_size)
        # A step on a handful of samples would be as long as any other and know next to nothing.
        return whole + ((rest * 4 >= self.batch_size and rest >= self.fewest) or not whole)

    def batches(self, epoch: int) -> list[Rows]:
        """Row numbers of each batch."""
        order = self._ordered(generator(self.seed, "order", epoch))
        return np.split(order, range(self.batch_size, self.batch_size * self.steps(epoch), self.batch_size))

    def _ordered(self, draw: np.random.Generator) -> Rows:
        return draw.permutation(self.n).astype(np.int64)


@dataclass(frozen=True, eq=False)
class WindowedOrder(ShuffledOrder):
    """Every row once an epoch, a few shards at a time: what is read stays together, as in a shuffle buffer.

    In each epoch the shards are drawn in another order, and so many of them at once are shuffled with each other. Rows
    of one shard meet others than those of the epoch before, and a disk reads one window after the other.

    Attributes:
        shard_of: (n,) number of the shard of each row.
        open_shards: that are shuffled with each other.
    """

    shard_of: Rows = field(default_factory=lambda: np.zeros(0, np.int64))
    open_shards: int = 1

    def _ordered(self, draw: np.random.Generator) -> Rows:
        window_of = draw.permutation(int(self.shard_of.max()) + 1) // self.open_shards
        return np.lexsort((draw.random(self.n), window_of[self.shard_of])).astype(np.int64)


class BalancedOrder:
    """Batches of several utterances of several speakers, each speaker once in a batch.

    A speaker with K rows and `utterances` u fills max(1, K // u) places an epoch; one with fewer than u rows has some
    twice, which a source gives in another variant or clip each time (`times_before`). What cannot be placed without a
    speaker meeting itself is left out of the epoch.

    Args:
        speakers_of: (N,) speaker of each row, as numbers.
        speakers: in a batch.
        utterances: of each.
        seed: of the order.

    Raises:
        TrainingError: there are fewer speakers than a batch needs.
    """

    def __init__(self, speakers_of: Sequence[int] | Rows, speakers: int, utterances: int, seed: int) -> None:
        codes = np.asarray(speakers_of, np.int64)
        self.rows_of = [np.flatnonzero(codes == code) for code in np.unique(codes)]
        if len(self.rows_of) < speakers:
            raise TrainingError(
                f"training.balanced.speakers is {speakers}, but there are {len(self.rows_of)} training speakers; "
                "take fewer"
            )
        self.speakers, self.utterances, self.seed = speakers, utterances, seed
        self._made: tuple[int, list[Rows]] | None = None

    def steps(self, epoch: int) -> int:
        """Batches of an epoch."""
        return len(self.batches(epoch))

    def batches(self, epoch: int) -> list[Rows]:
        """Row numbers of each batch; a speaker's rows stand together."""
        if self._made is None or self._made[0] != epoch:
            self._made = epoch, self._draw(generator(self.seed, "order", epoch))
        return self._made[1]

    def _draw(self, draw: np.random.Generator) -> list[Rows]:
        groups: list[list[Rows]] = []  # of each speaker
        for rows in self.rows_of:
            shuffled = draw.permutation(rows)
            if len(shuffled) < self.utterances:
                shuffled = np.resize(shuffled, self.utterances)
            whole = len(shuffled) // self.utterances
            groups.append(np.split(shuffled[: whole * self.utterances], whole))
        left = np.array([len(mine) for mine in groups])
        batches = []
        while np.count_nonzero(left) >= self.speakers:
            # In proportion to what is left of them, so that talkative speakers do not remain alone at the end.
            chosen = draw.choice(len(left), self.speakers, replace=False, p=left / left.sum())
            left[chosen] -= 1
            batches.append(np.concatenate([groups[speaker][left[speaker]] for speaker in chosen]).astype(np.int64))
        return batches


Order = ShuffledOrder | BalancedOrder
