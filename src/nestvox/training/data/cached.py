"""What a frozen encoder left in a feature cache, and batches of it: the encoder is not run at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nestvox.errors import RecipeError
from nestvox.extraction.cache.feature_cache import CacheTap, FeatureCache
from nestvox.heads.contract import normalise
from nestvox.training.data.batches import BalancedOrder, MicroBatch, OrderedSource, generator
from nestvox.training.data.targets import Targets, cached_rows
from nestvox.training.parallel import Processes
from nestvox.training.recipe.kinds import LoopRecipe

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


class CachedSource(OrderedSource):
    """Batches of cached vectors: every utterance once an epoch, in a variant that is drawn anew each time.

    Args:
        data: the utterances.
        recipe: batch size, balance and seed.
        tap: that the head takes.
        processes: whose share is gathered.
        teacher: embeddings of the clean utterances, where there is distillation.
        of: utterances and speakers that there are, those included that the cache leaves out; None: those of `data`.

    Raises:
        RecipeError: variants of other speeds, of which a teacher has said nothing.
    """

    def __init__(
        self,
        data: CachedUtterances,
        recipe: LoopRecipe,
        tap: CacheTap,
        processes: Processes,
        *,
        teacher: Targets | None = None,
        of: tuple[int, int] | None = None,
    ) -> None:
        names = [data.cache.utt_ids[int(number)] for number in data.utterances]
        if teacher is not None and (data.labels != data.labels[:, :1]).any():
            raise RecipeError(
                f"data.cache: {data.cache.path} has variants of other speeds, which are other voices, and the teacher "
                "heard none of them; make it with p_speed: 0"
            )
        super().__init__(recipe, processes, data.labels[:, 0], names, teacher=teacher, of=of)
        self.data = data
        self.tap = tap
        self._seed = recipe.seed
        self._may = np.ones_like(data.labels, bool)
        if recipe.training.balanced is not None:
            # A speaker's clips in a batch must be of one class: no variants of another speed.
            self._may = data.labels == data.labels[:, :1]

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

    def drawn(self, epoch: int) -> NDArray[np.float32]:
        """Lots of the variants, (n, V): the highest is taken."""
        lots = generator(self._seed, "variant", epoch).random(self._may.shape, np.float32)
        lots[~self._may] = -1
        return lots

    def begun(
        self, pool: Executor, drawn: NDArray[np.float32], rows: Numbers, times: Numbers
    ) -> Callable[[], MicroBatch]:
        """Begin to gather vectors."""
        return pool.submit(self._gathered, rows, self._variants(drawn, rows, times)).result

    def _variants(self, lots: NDArray[np.float32], rows: Numbers, times: Numbers) -> Numbers:
        """Draw a variant of each row; one that is there again gets another, as long as there are any."""
        chosen: Numbers = lots[rows].argmax(axis=1)
        for place in np.flatnonzero(times):
            row = rows[place]
            chosen[place] = np.argsort(-lots[row], kind="stable")[times[place] % np.count_nonzero(self._may[row])]
        return chosen

    def _gathered(self, part: Numbers, chosen: Numbers) -> MicroBatch:
        vectors = self.data.cache.gather(self.data.utterances[part], chosen, tap=self.tap)
        labels = torch.from_numpy(self.data.labels[part, chosen]).to(self.processes.device)
        return MicroBatch(self.tensor(vectors), labels, self.taught(part))
