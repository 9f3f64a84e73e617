"""Where batches come from: in an order of seed and epoch alone, made ready in threads while one is learned from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nestvox.errors import StoreError
from nestvox.extraction.cache.feature_cache import FeatureCache
from nestvox.training.data.sampling import BalancedOrder, Order, Seen, ShuffledOrder, seen_in, split
from nestvox.training.parallel import Processes
from nestvox.training.recipe.kinds import LoopRecipe
from nestvox.training.task import Batch, MicroBatch

Numbers = NDArray[np.int64]


class OrderedSource(ABC):
    """Batches of utterances, each of which comes once an epoch.

    Args:
        recipe: batch size, balance and seed.
        processes: whose share is read.
        speakers: (N,) speaker of each utterance, as numbers.
        utt_ids: (N,) their names.
        teacher: features of the clean utterances, where there is distillation.
        of: utterances and speakers that there are, those included that are left out; None: those here.

    Raises:
        StoreError: the teacher's features lack utterances.
    """

    ahead: ClassVar[int] = 1  # micro-batches that are made ready while one is learned from

    def __init__(
        self,
        recipe: LoopRecipe,
        processes: Processes,
        speakers: Numbers,
        utt_ids: Sequence[str],
        *,
        teacher: FeatureCache | None = None,
        of: tuple[int, int] | None = None,
        workers: int = 1,
    ) -> None:
        self.processes = processes
        self.teacher = teacher
        self.of = (len(speakers), len(set(speakers.tolist()))) if of is None else of
        self._speakers = speakers
        self._micro_batch = recipe.training.micro_batch
        self._workers = workers
        self._taught = None if teacher is None else cached_rows(teacher, utt_ids)
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
    def begun(self, pool: Executor, drawn: Any, rows: Numbers, times: Numbers) -> Callable[[], MicroBatch]:
        """Begin to make a micro-batch, and return what waits for it.

        Args:
            pool: of threads.
            drawn: for the epoch.
            rows: numbers of the utterances.
            times: how often the batch has each of them before.
        """

    def taught(self, rows: Numbers) -> Tensor | None:
        """(b, E) embeddings of the clean utterances that the teacher has, where there is one."""
        if self.teacher is None or self._taught is None:
            return None
        return self.tensor(self.teacher.gather(self._taught[rows], 0, tap="embedding"))

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """On the device of the run."""
        return torch.from_numpy(array).to(self.processes.device, non_blocking=True)


def cached_rows(cache: FeatureCache, utt_ids: Sequence[str]) -> Numbers:
    """Return the numbers of utterances in a cache.

    Raises:
        StoreError: the cache lacks some; the first few are named, with the reason where one failed.
    """
    place = {name: number for number, name in enumerate(cache.utt_ids)}
    missing = [name for name in utt_ids if name not in place]
    if missing:
        reasons = {failure.utt_id: failure.reason for failure in cache.metadata.failed}
        shown = ", ".join(f"{name} ({reasons[name]})" if name in reasons else name for name in missing[:5])
        raise StoreError(f"{cache.path} lacks {len(missing)} of {len(utt_ids)} utterances, e.g. {shown}")
    return np.fromiter((place[name] for name in utt_ids), np.int64, count=len(utt_ids))
