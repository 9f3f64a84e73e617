"""Batches of a run: in an order of seed and epoch alone, and made ready in threads while one is learned from."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nestvox.errors import TrainingError
from nestvox.training.data.live import Layers
from nestvox.training.data.targets import Rows, Targets, cached_rows
from nestvox.training.parallel import Processes
from nestvox.training.recipe.kinds import LoopRecipe

Purpose = Literal["order", "variant", "clip"]
_PURPOSES: tuple[Purpose, ...] = ("order", "variant", "clip")

_MOST_REPEATED = 2  # times the places that all rows need: the longest epoch of batches by speaker


@dataclass(frozen=True)
class Seen:
    """How much of the training data an epoch sees.

    Attributes:
        utterances: that are in at least one batch.
        of_utterances: that the table has for training, those included that are left out as unusable.
        speakers: of the utterances that are seen.
        of_speakers: of all of them.
        samples: in the batches of the epoch; what is seen twice counts twice.
    """

    utterances: int
    of_utterances: int
    speakers: int
    of_speakers: int
    samples: int

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return self.utterances == self.of_utterances

    @property
    def words(self) -> str:
        """In one phrase."""
        parts = ((self.utterances, self.of_utterances, "utterances"), (self.speakers, self.of_speakers, "speakers"))
        return ", ".join(
            f"all {of:,} {what}" if count == of else f"{count:,} of {of:,} {what} ({count / of:.1%})"
            for count, of, what in parts
        )


def seen_in(batches: Sequence[Rows], speakers_of: Sequence[int] | Rows, of_utterances: int, of_speakers: int) -> Seen:
    """Count what the batches of an epoch hold.

    Args:
        batches: row numbers of each.
        speakers_of: (N,) speaker of each row, as numbers.
        of_utterances: how many there would be.
        of_speakers: likewise.
    """
    every = np.concatenate(batches) if batches else np.zeros(0, np.int64)
    rows = np.unique(every)
    speakers = np.unique(np.asarray(speakers_of, np.int64)[rows])
    return Seen(len(rows), of_utterances, len(speakers), of_speakers, len(every))


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

    An epoch covers the data. A speaker with K rows and `utterances` u fills ceil(K / u) places, and who has run out
    of rows while others have not is heard again, in other company. Rows are heard again too where K is no multiple of
    u; one with fewer than u rows has some twice in one place, which a source gives in another variant or clip each
    time (`times_before`). Where a few speakers have nearly everything, that would repeat the others without end: an
    epoch has twice the places that the rows need at the most, and what is beyond is left out of it, drawn anew each
    epoch.

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
        places = np.array([-(-len(rows) // utterances) for rows in self.rows_of])
        needed = max(int(places.max()), -(-int(places.sum()) // speakers))
        self._steps = min(needed, _MOST_REPEATED * int(places.sum()) // speakers)
        self._made: tuple[int, list[Rows]] | None = None

    def steps(self, epoch: int) -> int:  # noqa: ARG002  other orders need it
        """Batches of an epoch."""
        return self._steps

    def notes(self, *, variants: int | None = None) -> list[str]:
        """What nobody should miss about an epoch, a sentence each.

        Args:
            variants: that each utterance has; None: each time it is another clip.
        """
        found = []
        counts = np.array([len(rows) for rows in self.rows_of])
        if few := int(np.count_nonzero(counts < self.utterances)):
            how = "in other clips or variants" if variants != 1 else "and compared with themselves: there is 1 variant"
            found.append(
                f"training.balanced: {few:,} of {len(counts):,} speakers have fewer than {self.utterances} utterances; "
                f"theirs are heard several times in a batch, {how}"
            )
        if left := int(np.maximum(counts - self._steps * self.utterances, 0).sum()):
            crowded = int(np.count_nonzero(counts > self._steps * self.utterances))
            found.append(
                f"training.balanced: an epoch leaves out {left:,} of {counts.sum():,} utterances, others each time: "
                f"{crowded:,} of {len(counts):,} speakers have so many that all of theirs would repeat the others' "
                f"more than {_MOST_REPEATED} times on average; take fewer speakers in a batch"
            )
        return found

    def batches(self, epoch: int) -> list[Rows]:
        """Row numbers of each batch; a speaker's rows stand together."""
        if self._made is None or self._made[0] != epoch:
            self._made = epoch, self._draw(generator(self.seed, "order", epoch))
        return self._made[1]

    def _draw(self, draw: np.random.Generator) -> list[Rows]:
        groups = [self._groups(rows, draw)[: self._steps] for rows in self.rows_of]
        left = np.array([len(mine) for mine in groups])
        heard = np.zeros(len(groups))
        batches = []
        for to_come in range(self._steps, 0, -1):
            # Who has as many groups left as there are batches must be in every one of them.
            chosen = np.flatnonzero(left >= to_come)
            others = np.flatnonzero((left > 0) & (left < to_come))
            wanted = min(self.speakers - len(chosen), len(others))
            if wanted:
                # In proportion to what is left of them, so that talkative speakers do not remain alone at the end.
                drawn = draw.choice(others, wanted, replace=False, p=left[others] / left[others].sum())
                chosen = np.concatenate([chosen, drawn])
            rows = [groups[speaker][left[speaker] - 1] for speaker in chosen]
            left[chosen] -= 1
            if len(chosen) < self.speakers:
                over = np.setdiff1d(np.flatnonzero(left == 0), chosen)
                # Those first who were heard again least often.
                again = over[np.lexsort((draw.random(len(over)), heard[over]))][: self.speakers - len(chosen)]
                heard[again] += 1
                rows += [self._groups(self.rows_of[speaker], draw)[0] for speaker in again]
            batches.append(np.concatenate(rows).astype(np.int64))
        return batches

    def _groups(self, rows: Rows, draw: np.random.Generator) -> list[Rows]:
        """Shuffle the rows of one speaker and cut them into groups; the last is filled up from the first ones."""
        shuffled = draw.permutation(rows)
        return np.split(
            np.resize(shuffled, -(-len(rows) // self.utterances) * self.utterances),
            range(self.utterances, len(rows), self.utterances),
        )


Order = ShuffledOrder | BalancedOrder


@dataclass(frozen=True)
class MicroBatch:
    """Samples that are in memory at once.

    Attributes:
        inputs: (b, ...) what the network takes.
        labels: (b,) int64 speakers.
        teacher: (b, E) pretrained embeddings, where there is distillation.
        n_repeated: of them clips that were too short for the crop, and were repeated to fill it.
        layers: (b, C, T) what layers of teachers say of the clips before they were augmented.
    """

    inputs: Tensor
    labels: Tensor
    teacher: Tensor | None = None
    n_repeated: int = 0
    layers: Layers | None = None


@dataclass(frozen=True)
class Batch:
    """One step of the optimizer; its parts are used up before the next batch is asked for.

    Attributes:
        n: samples of all processes together.
        parts: this process's samples, one micro-batch at a time; there may be none.
    """

    n: int
    parts: Iterable[MicroBatch]


class OrderedSource(ABC):
    """Batches of utterances, each of which comes once an epoch.

    Args:
        recipe: batch size, balance and seed.
        processes: whose share is read.
        speakers: (N,) speaker of each utterance, as numbers.
        utt_ids: (N,) their names.
        teacher: embeddings of the clean utterances, where there is distillation.
        of: utterances and speakers that there are, those included that are left out; None: those here.

    Raises:
        StoreError: the teacher's features lack utterances.
    """

    ahead: ClassVar[int] = 1  # micro-batches that are made ready while one is learned from

    def __init__(
        self,
        recipe: LoopRecipe,
        processes: Processes,
        speakers: Rows,
        utt_ids: Sequence[str],
        *,
        teacher: Targets | None = None,
        of: tuple[int, int] | None = None,
        workers: int = 1,
    ) -> None:
        self.processes = processes
        self.of = (len(speakers), len(set(speakers.tolist()))) if of is None else of
        self._speakers = speakers
        self._micro_batch = recipe.training.micro_batch
        self._workers = workers
        if recipe.teacher_order == "shuffled":
            utt_ids = np.asarray(utt_ids)[another_each(len(speakers), recipe.seed)].tolist()
        self.teachers: tuple[str | None, ...] = () if teacher is None else (None, *teacher.others)
        self._taught: list[tuple[Targets, dict[float, Rows]]] = []
        for one in () if teacher is None else (teacher, *teacher.others.values()):
            self._taught.append((one, {speed: cached_rows(cache, utt_ids) for speed, cache in one.caches.items()}))
        drawn = recipe.training.balanced
        self.order: Order = (
            ShuffledOrder(len(speakers), recipe.training.batch_size, recipe.seed, recipe.fewest)
            if drawn is None
            else BalancedOrder(speakers, drawn.speakers, drawn.utterances, recipe.seed)
        )

    @property
    def n(self) -> int:
        """Utterances."""
        return len(self._speakers)

    def steps(self, epoch: int) -> int:
        """Batches of an epoch."""
        return self.order.steps(epoch)

    def seen(self, epoch: int) -> Seen:
        """How much of the data an epoch holds; a variant counts as its utterance."""
        return seen_in(self.order.batches(epoch), self._speakers, *self.of)

    @property
    def notes(self) -> list[str]:
        """What nobody should miss about the batches, a sentence each."""
        return self.order.notes() if isinstance(self.order, BalancedOrder) else []

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `first` on."""
        drawn = self.drawn(epoch)
        batches = self.order.batches(epoch)[first:]
        shares = [split(rows, self.processes.rank, self.processes.world, self._micro_batch) for rows in batches]
        planned = iter([part for share in shares for part in share])
        waiting: deque[Callable[[], MicroBatch]] = deque()
        with ThreadPoolExecutor(self._workers, thread_name_prefix="nestvox-batches") as pool:

            def submit() -> None:
                part = next(planned, None)
                if part is not None:
                    waiting.append(self.begun(pool, drawn, *part))

            def taken(count: int) -> Iterator[MicroBatch]:
                for _ in range(count):
                    ready = waiting.popleft()
                    submit()
                    yield ready()

            for _ in range(self.ahead):
                submit()
            try:
                for rows, share in zip(batches, shares, strict=True):
                    yield Batch(len(rows), taken(len(share)))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    @abstractmethod
    def drawn(self, epoch: int) -> Any:
        """What is drawn for a whole epoch."""

    @abstractmethod
    def begun(self, pool: Executor, drawn: Any, rows: Rows, times: Rows) -> Callable[[], MicroBatch]:
        """Begin to make a micro-batch, and return what waits for it.

        Args:
            pool: of threads.
            drawn: for the epoch.
            rows: numbers of the utterances.
            times: how often the batch has each of them before.
        """

    def taught(self, rows: Rows, speeds: Sequence[float] = ()) -> Tensor | None:
        """(b, E) what the teachers say of the clean utterances at their speeds, side by side, where there are any."""
        if not self._taught:
            return None
        heard = np.asarray(speeds or [1.0] * len(rows))
        parts = {speed: np.flatnonzero(heard == speed) for speed in np.unique(heard).tolist()}
        order = np.argsort(np.concatenate(list(parts.values())))
        found = [
            np.concatenate([one.gather(row_of[speed][rows[part]], speed) for speed, part in parts.items()])[order]
            for one, row_of in self._taught
        ]
        return self.tensor(np.concatenate(found, axis=1))

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """On the device of the run."""
        return torch.from_numpy(array).to(self.processes.device, non_blocking=True)


def another_each(count: int, seed: int) -> Rows:
    """(count,) for every number another one, each once: the next in a circle that is drawn."""
    circle = np.random.default_rng(seed).permutation(count)
    other = np.empty(count, np.int64)
    other[circle] = np.roll(circle, -1)
    return other
