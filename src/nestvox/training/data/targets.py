"""What teachers say of the training utterances: computed once, so that a step costs no pass through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.encoders.contract import Encoder
from nestvox.errors import StoreError
from nestvox.extraction.cache.feature_cache import FeatureCache
from nestvox.heads.contract import Head

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Targets:
    """What a teacher says of whole, clean utterances.

    Attributes:
        cache: features of its encoder.
        name: of the teacher.
        fingerprint: likewise, its head included.
        parameters: of its encoder; 0 where nobody counted them.
        head: of the teacher, where it is nested itself; None: the encoder's own embedding.
        at_speeds: the same of the utterances at other speeds, which are other voices.
        others: more teachers, by name.
        encoder: of the teacher, for what no cache has: its layers.
    """

    cache: FeatureCache
    name: str
    fingerprint: str
    parameters: int = 0
    head: Head | None = None
    at_speeds: Mapping[float, FeatureCache] = field(default_factory=dict)
    others: Mapping[str, Targets] = field(default_factory=dict)
    encoder: Encoder | None = None

    @property
    def caches(self) -> dict[float, FeatureCache]:
        """Of this teacher, by speed."""
        return {1.0: self.cache, **self.at_speeds}

    @property
    def sizes(self) -> dict[str | None, int]:
        """Numbers of what each teacher says; this one has no name."""
        every = [(None, self), *self.others.items()]
        return {name: one.gather(np.zeros(1, np.int64)).shape[1] for name, one in every}

    @property
    def failed(self) -> dict[str, str]:
        """Utterances that one of the teachers could not use, with the reason."""
        caches = [cache for one in (self, *self.others.values()) for cache in one.caches.values()]
        return {one.utt_id: one.reason for cache in caches for one in cache.metadata.failed}

    def gather(self, rows: Rows, speed: float = 1.0) -> NDArray[np.floating[Any]]:
        """Embeddings (b, E) of rows of the cache, or of that of another speed."""
        cache = self.caches[speed]
        if self.head is None:
            return cache.gather(rows, 0, tap="embedding")
        return self.head.transform(cache.gather(rows, 0, tap=self.head.tap))


def cached_rows(cache: FeatureCache, utt_ids: Sequence[str]) -> Rows:
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
