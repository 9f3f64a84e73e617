"""Several variants of every utterance as the rows that a network runs over: the recording itself, and augmented ones.

Row ``utterance * V + variant`` is one of the V variants of an utterance. Variant 0 is what the file holds, whole. What
is done to the others follows from seed, name and variant alone.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.augment import Augmentation, Banks, Treatment, augment, utterance_rng
from nestvox.audio.condition import Condition
from nestvox.errors import AudioError
from nestvox.extraction.batches import Piece
from nestvox.extraction.decoding import Decoder, Source
from nestvox.extraction.settings import EmbeddingSettings

if TYPE_CHECKING:
    from nestvox.extraction.shard_job import EmbeddingModel

_KEPT = 16

Waveform = NDArray[np.float32]
_Stretch = tuple[int, int, float, float | None]
_Heard = tuple[Waveform | AudioError, Condition | None]


@dataclass(frozen=True)
class Variants:
    """How the variants of a recording differ from it.

    Attributes:
        count: V, with variant 0, which is the recording.
        seed: of all that is drawn.
        augmentation: settings.
        banks: noise, rooms and voices at the model's sample rate.
        crop_s: longest stretch, in seconds; None: whole.
        speed: at which the recording itself is heard, and all that is made of it.
    """

    count: int
    seed: int
    augmentation: Augmentation
    banks: Banks
    crop_s: float | None = None
    speed: float = 1.0

    def treatment(self, utt_id: str, variant: int) -> tuple[Treatment, float]:
        """Return what is done to a variant, and where its crop lies: from 0, at the beginning, to 1, at the end."""
        if variant == 0:
            return Treatment(speed=self.speed), 0.0
        rng = utterance_rng(self.seed, utt_id, variant)
        place = float(rng.random())
        return self.augmentation.draw(rng), place


class _VariantSources(Sequence[Source]):
    """The sources of the rows, without holding one for each."""

    def __init__(self, sources: Sequence[Source], count: int) -> None:
        self._sources = sources
        self._count = count

    def __len__(self) -> int:
        return len(self._sources) * self._count

    @overload
    def __getitem__(self, row: int) -> Source: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Source]: ...
    def __getitem__(self, row: int | slice) -> Source | Sequence[Source]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        return replace(self._sources[row // self._count], row=row)

    def __iter__(self) -> Iterator[Source]:
        return (self[row] for row in range(len(self)))


class VariantDecoder(Decoder):
    """Decodes an utterance once and hands out all its variants.

    Args:
        sources: utterances.
        variants: how they are varied.
        speakers: of the utterances.
        model, settings: as `Decoder` takes them.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        variants: Variants,
        speakers: Sequence[str],
        model: EmbeddingModel,
        settings: EmbeddingSettings,
    ) -> None:
        super().__init__(_VariantSources(sources, variants.count), model, settings)
        self.variants = variants
        self.speakers = speakers
        self._split_before: _Shared[int, list[Piece] | AudioError] = _Shared(_KEPT)
        self._decoded: _Shared[_Stretch, _Heard] = _Shared(max(_KEPT, 2 * (settings.workers or 2)))

    def _split(self, row: int) -> list[Piece] | AudioError:
        number, variant = divmod(row, self.variants.count)
        first = row - variant
        found = self._split_before.get(number, lambda: Decoder._split(self, first))
        if isinstance(found, AudioError):
            return found
        pieces = [replace(piece, row=row) for piece in found]
        crop_s = self.variants.crop_s
        whole_s = sum(piece.expected_s for piece in pieces)
        if variant == 0 or crop_s is None or whole_s <= crop_s:
            return pieces
        if len(pieces) == 1:
            return [replace(pieces[0], expected_s=crop_s)]  # decoded with the other variants, cut afterwards
        treatment, place = self.variants.treatment(self.sources[row].utt_id, variant)
        heard_s = min(crop_s * treatment.speed, whole_s)
        return [Piece(row, 0, 1, pieces[0].start_s + place * (whole_s - heard_s), heard_s, crop_s)]

    def hear(self, piece: Piece) -> _Heard:
        """Read one piece of one variant, (S,) float32; what is wrong with the recording is returned, not raised.

        Of the variants only 0, the recording itself, has a condition.

        Raises:
            AudioError: a file of the banks cannot be used.
            AugmentationError: the banks lack what is asked for.
        """
        number, variant = divmod(piece.row, self.variants.count)
        stretch = (number, piece.part, piece.start_s, piece.duration_s)
        samples, found = self._decoded.get(stretch, lambda: Decoder.hear(self, piece))
        treatment, place = self.variants.treatment(self.sources[piece.row].utt_id, variant)
        if isinstance(samples, AudioError) or (variant == 0 and treatment.speed == 1):
            return samples, found
        if variant and self.variants.crop_s is not None:
            length = round(self.variants.crop_s * treatment.speed * self.sample_rate)
            first = round(place * max(0, len(samples) - length))
            samples = samples[first : first + length]
        varied = augment(
            samples, treatment, self.variants.banks, sample_rate=self.sample_rate, speaker=self.speakers[number]
        )
        # A faster variant of a recording that was just long enough is heard again from its beginning.
        shortest = math.ceil(self.min_duration_s * self.sample_rate)
        return varied if len(varied) >= shortest else np.resize(varied, shortest), None if variant else found


Key = TypeVar("Key")
Value = TypeVar("Value")


class _Shared(Generic[Key, Value]):
    """The last few results of something that several threads want at the same time; each is made once.

    Args:
        size: results that are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._there: OrderedDict[Key, Future[Value]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the result for a key, making it, or waiting for whoever makes it."""
        with self._lock:
            future = self._there.get(key)
            mine = future is None
            if future is None:
                future = self._there[key] = Future()
                if len(self._there) > self._size:
                    self._there.popitem(last=False)
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()
