"""Training a head on what a frozen encoder left in a feature cache: the encoder is not run at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nestvox.errors import StoreError
from nestvox.extraction.cache.feature_cache import CacheTap, FeatureCache
from nestvox.heads.contract import normalise
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.trained import TrainedHead
from nestvox.training.criterion import Criterion
from nestvox.training.data.sampling import (
    BalancedOrder,
    Order,
    Seen,
    ShuffledOrder,
    generator,
    seen_in,
    split,
)
from nestvox.training.loop import Batch, MicroBatch, ParameterGroup
from nestvox.training.parallel import Processes
from nestvox.training.recipe.recipe import Recipe

__all__ = ["CachedSource", "CachedUtterances", "HeadTask", "cached_rows", "moving_statistics", "split_decay"]

_BLOCK = 16_384

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CachedUtterances:
    """Some utterances of a feature cache, with the speakers of their variants as classes.

    Attributes:
        cache: the cache.
        utterances: (n,) numbers of theirs in the cache.
        names: of the C classes, sorted; a variant of another speed is a speaker of its own.
        labels: (n, V) class of each variant.
    """

    cache: FeatureCache
    utterances: Numbers
    names: tuple[str, ...]
    labels: Numbers

    @classmethod
    def of(cls, cache: FeatureCache, utt_ids: Sequence[str] | None = None) -> CachedUtterances:
        """Take utterances by name.

        Args:
            cache: the cache.
            utt_ids: names; None: all that the cache has.

        Raises:
            StoreError: the cache lacks some; the first few are named.
        """
        chosen = np.arange(len(cache)) if utt_ids is None else cached_rows(cache, utt_ids)
        every, labels = cache.classes
        there, local = np.unique(labels[chosen], return_inverse=True)
        names = tuple(every[int(number)] for number in there)
        return cls(cache, chosen, names, local.reshape(len(chosen), -1).astype(np.int64))

    @property
    def speakers(self) -> list[str]:
        """(n,) speakers of the utterances as the table names them."""
        return [self.names[int(label)] for label in self.labels[:, 0]]

    def mean_embeddings(self, head: nn.Module, tap: CacheTap) -> Tensor:
        """Mean unit embedding of each class under a head, (C, D), over all variants; prefixes are normalised later."""
        sums: Tensor | None = None
        for variant in range(self.labels.shape[1]):
            for start in range(0, len(self.utterances), _BLOCK):
                part = slice(start, start + _BLOCK)
                vectors = torch.from_numpy(self.cache.gather(self.utterances[part], variant, tap=tap))
                with torch.inference_mode():
                    embedding = nn.functional.normalize(head(vectors))
                if sums is None:
                    sums = torch.zeros(len(self.names), embedding.shape[1])
                sums.index_add_(0, torch.from_numpy(self.labels[part, variant]), embedding)
        assert sums is not None
        return torch.from_numpy(normalise(sums.numpy()))


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


class CachedSource:
    """Batches of cached vectors: every utterance once an epoch, in a variant that is drawn anew each time.

    Args:
        data: the utterances.
        recipe: batch size, balance and seed.
        tap: that the head takes.
        processes: whose share is gathered.
        teacher: hand over the embedding of the clean utterance too.
        of: utterances and speakers that there are, those included that the cache leaves out; None: those of `data`.
    """

    def __init__(
        self,
        data: CachedUtterances,
        recipe: Recipe,
        tap: CacheTap,
        processes: Processes,
        *,
        teacher: bool = False,
        of: tuple[int, int] | None = None,
    ) -> None:
        self.data = data
        self.tap = tap
        self.processes = processes
        self.teacher = teacher
        self.of = (len(data.utterances), len(set(data.speakers))) if of is None else of
        self.seed = recipe.seed
        self.micro_batch = recipe.training.micro_batch
        balanced = recipe.training.balanced
        self.order: Order
        if balanced is None:
            self.order = ShuffledOrder(len(data.utterances), recipe.training.batch_size, recipe.seed, recipe.fewest)
            self._may = np.ones_like(data.labels, bool)
        else:
            self.order = BalancedOrder(data.labels[:, 0], balanced.speakers, balanced.utterances, recipe.seed)
            # A speaker's clips in a batch must be of one class: no variants of another speed.
            self._may = data.labels == data.labels[:, :1]

    @property
    def n(self) -> int:
        """Utterances."""
        return len(self.data.utterances)

    def steps(self, epoch: int) -> int:
        """Batches of an epoch."""
        return self.order.steps(epoch)

    def seen(self, epoch: int) -> Seen:
        """How much of the data an epoch holds; a variant counts as its utterance."""
        return seen_in(self.order.batches(epoch), self.data.labels[:, 0], *self.of)

    @property
    def notes(self) -> list[str]:
        """What nobody should miss about the batches, a sentence each."""
        found = [] if not isinstance(self.order, BalancedOrder) else self.order.notes(variants=self._may.shape[1])
        if unused := int(np.count_nonzero(~self._may)):
            found.append(
                f"training.balanced: {unused:,} of {self._may.size:,} variants are of another speed, which is another "
                "speaker, and are not heard"
            )
        return found

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `first` on; one is gathered while another is learned from."""
        lots = generator(self.seed, "variant", epoch).random(self._may.shape, np.float32)
        lots[~self._may] = -1
        batches = self.order.batches(epoch)[first:]
        shares = [split(rows, self.processes.rank, self.processes.world, self.micro_batch) for rows in batches]
        planned = iter([part for share in shares for part in share])
        waiting: deque[Future[MicroBatch]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="nestvox-gather") as pool:

            def submit() -> None:
                part = next(planned, None)
                if part is not None:
                    waiting.append(pool.submit(self._gathered, part[0], self._variants(lots, *part)))

            def taken(count: int) -> Iterator[MicroBatch]:
                for _ in range(count):
                    submit()
                    yield waiting.popleft().result()

            submit()
            try:
                for rows, share in zip(batches, shares, strict=True):
                    yield Batch(len(rows), taken(len(share)))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _variants(self, lots: NDArray[np.float32], rows: Numbers, times: Numbers) -> Numbers:
        """Draw a variant of each row; one that is there again gets another, as long as there are any."""
        chosen: Numbers = lots[rows].argmax(axis=1)
        for place in np.flatnonzero(times):
            row = rows[place]
            chosen[place] = np.argsort(-lots[row], kind="stable")[times[place] % np.count_nonzero(self._may[row])]
        return chosen

    def _gathered(self, part: Numbers, chosen: Numbers) -> MicroBatch:
        utterances = self.data.utterances[part]
        teacher = self.data.cache.gather(utterances, 0, tap="embedding") if self.teacher else None
        return MicroBatch(
            self._tensor(self.data.cache.gather(utterances, chosen, tap=self.tap)),
            torch.from_numpy(self.data.labels[part, chosen]).to(self.processes.device),
            None if teacher is None else self._tensor(teacher),
        )

    def _tensor(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self.processes.device, non_blocking=True)


class HeadTask:
    """A head on a frozen encoder, of which only vectors are there.

    Args:
        head: on the device of the run.
        criterion: likewise.
        pairs: development trials on vectors of the head's tap.
        recipe: rates and decay.
    """

    def __init__(self, head: TrainedHead, criterion: Criterion, pairs: LabelledPairs, recipe: Recipe) -> None:
        self.network: nn.Module = head
        self.criterion = criterion
        self._head = head
        self._pairs = pairs
        training = recipe.training
        self.groups: Sequence[ParameterGroup] = [
            *split_decay(head.parameters(), 1.0, training.weight_decay),
            *split_decay(criterion.parameters(), training.prototype_rate, training.weight_decay),
        ]
        self.kept = tuple(head.state_dict())
        self.statistics: Sequence[Tensor] = moving_statistics(head)

    def begin_epoch(self, epoch: int) -> None:  # noqa: ARG002  everything learns in every epoch
        """Set the modes."""
        self.network.train()

    def validate(self) -> Mapping[int, float]:
        """Return the EER on the development trials at each dimension."""
        training = self.network.training
        self.network.eval()
        eers = self._pairs.eers(self._head)
        self.network.train(training)
        return eers


def moving_statistics(head: TrainedHead) -> list[Tensor]:
    """Return the running statistics of a head that its training renews."""
    return list(head.buffers()) if head.norm_kind == "batch" else []


def split_decay(parameters: Iterator[nn.Parameter], scale: float, weight_decay: float) -> list[ParameterGroup]:
    """Divide parameters into those that decay (matrices) and those that do not (biases, normalisations, scalars)."""
    every = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in every if parameter.ndim > 1]
    others = [parameter for parameter in every if parameter.ndim <= 1]
    groups = [ParameterGroup(matrices, scale, weight_decay), ParameterGroup(others, scale, 0.0)]
    return [group for group in groups if group.parameters]
