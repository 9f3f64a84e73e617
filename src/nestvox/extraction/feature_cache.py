"""The feature cache: what a frozen encoder makes of several variants of every utterance, so that it runs only once.

It is an embedding store with a row for each variant of each utterance, in table order, variants together. Each row
holds the pooled vector and, from the same forward pass, the encoder's own embedding. Variant 0 is the whole recording
as it is; the others are cropped and augmented, seeded by utterance.

Notation: N utterances, V variants, P pooled size, D embedding size, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import StoreError
from nestvox.extraction.cache_plan import CachePlan, plan_in, refuse_difference
from nestvox.extraction.mapped_rows import MappedRows
from nestvox.extraction.store import EmbeddingStore, StoreMetadata, default_shard_rows

__all__ = ["CachePlan", "CacheTap", "FeatureCache", "cache_metadata", "open_cache"]

CacheTap = Literal["pooled", "embedding"]

FloatVectors = NDArray[np.float32]
Numbers = NDArray[np.int64]


class FeatureCache:
    """A feature cache opened for reading; nothing is loaded but what is gathered.

    Utterances are numbered 0 to N - 1 in the order of the table (those that failed are not among them); row
    ``utterance * V + variant`` of the store is a variant of one.

    Args:
        path: folder of the cache.

    Attributes:
        path: the folder.
        store: the rows as a store.
        metadata: what the store says of itself.
        plan: the settings that the cache was made with.
        pooled: (N * V, P), memory-mapped.
        embedding: (N * V, D), memory-mapped.

    Raises:
        StoreError: no store, no feature cache, not complete, or a shard that is missing or corrupt.
    """

    def __init__(self, path: str | Path) -> None:
        self.store = EmbeddingStore(path)
        self.path = self.store.path
        self.metadata = self.store.metadata
        if "embedding" not in self.metadata.columns or self.metadata.tap != "pooled":
            raise StoreError(
                f"{self.path} is a store of the tap {self.metadata.tap} and no feature cache: "
                "make one with `nestvox cache`"
            )
        self.plan = plan_in(self.metadata)
        self.pooled: MappedRows = self.store.mapped()
        self.embedding: MappedRows = self.store.mapped("embedding")

    def __len__(self) -> int:
        """N, utterances."""
        return len(self.store) // self.n_variants

    def __repr__(self) -> str:
        return (
            f"FeatureCache({str(self.path)!r}, {len(self)} utterances x {self.n_variants} variants, "
            f"pooled {self.pooled_dim}, embedding {self.embedding_dim}, key {self.key})"
        )

    @property
    def key(self) -> str:
        """16 hex digits over the encoder, its front end, table, crop, augmentation and seed."""
        return self.plan.key

    @property
    def n_variants(self) -> int:
        """V, of each utterance."""
        return self.metadata.variants

    @property
    def pooled_dim(self) -> int:
        """P."""
        return self.pooled.shape[1]

    @property
    def embedding_dim(self) -> int:
        """D."""
        return self.embedding.shape[1]

    @property
    def variants(self) -> NDArray[np.int32]:
        """(N * V,) variant of each row."""
        return self.store.variants

    @cached_property
    def utt_ids(self) -> list[str]:
        """N names."""
        return self.store.utt_ids[:: self.n_variants]

    @cached_property
    def speakers(self) -> list[str]:
        """N speakers as the table names them, those of variant 0."""
        return self.row_speakers[:: self.n_variants]

    @cached_property
    def row_speakers(self) -> list[str]:
        """N * V speakers; a variant of another speed is a speaker of its own, with a suffix."""
        return [speaker or "" for speaker in self.store.speakers]

    @cached_property
    def classes(self) -> tuple[list[str], Numbers]:
        """The speakers of all variants, sorted, and the number of each variant's among them.

        Returns:
            C names, and (N, V) int64.
        """
        names, labels = np.unique(np.array(self.row_speakers, dtype=object).astype(str), return_inverse=True)
        return names.tolist(), labels.reshape(len(self), self.n_variants).astype(np.int64)

    def rows(self, utterances: Sequence[int] | Numbers, variant: int | Numbers = 0) -> Numbers:
        """Row numbers of variants of utterances.

        Args:
            utterances: (B,) numbers from 0 to N - 1.
            variant: one for all, or (B,).

        Returns:
            (B,) row numbers.

        Raises:
            StoreError: a number that the cache does not have.
        """
        chosen, which = np.asarray(utterances, np.int64), np.asarray(variant, np.int64)
        for what, given, count in (("utterances", chosen, len(self)), ("variants", which, self.n_variants)):
            if given.size and (given.min() < 0 or given.max() >= count):
                raise StoreError(f"{self.path} has {what} 0 to {count - 1}, asked for {given.min()} to {given.max()}")
        found: Numbers = chosen * self.n_variants + which
        return found

    def gather(
        self, utterances: Sequence[int] | Numbers, variant: int | Numbers = 0, *, tap: CacheTap = "pooled"
    ) -> FloatVectors:
        """Read variants of utterances from the files.

        Args:
            utterances: (B,) numbers from 0 to N - 1.
            variant: one for all, or (B,).
            tap: ``pooled`` or ``embedding``.

        Returns:
            (B, P) or (B, D) float32.

        Raises:
            StoreError: a number that the cache does not have.
        """
        vectors = self.pooled if tap == "pooled" else self.embedding
        return vectors.take(self.rows(utterances, variant))

    def verify(self) -> None:
        """Compare the hash of every file with the one taken when the cache was completed.

        Raises:
            StoreError: a file has changed since; it is named.
        """
        self.store.verify()


def open_cache(path: str | Path, expect: CachePlan | Mapping[str, Any] | None = None) -> FeatureCache:
    """Open a feature cache, or refuse it when it is not the one expected.

    Args:
        path: folder of the cache.
        expect: the plan, or some of its fields, e.g. ``{"fingerprint": model.encoder_fingerprint, "seed": 1}``.

    Raises:
        FingerprintError: the cache is of another encoder.
        StoreError: other settings differ (each is named), or the folder is no complete, whole feature cache.
    """
    cache = FeatureCache(path)
    if expect is not None:
        refuse_difference(str(cache.path), cache.plan, expect)
    return cache


def cache_metadata(
    plan: CachePlan,
    *,
    model: str,
    utterances: int,
    pooled_dim: int,
    embedding_dim: int,
    shard_utterances: int | None = None,
    run: Mapping[str, Any] | None = None,
    labels: tuple[str, ...] = (),
    training_speakers: tuple[str, ...] = (),
) -> StoreMetadata:
    """Return what a `StoreWriter` needs to begin, or resume, a feature cache.

    Args:
        plan: the settings.
        model: name of the model, for people.
        utterances: N of the table.
        pooled_dim: P.
        embedding_dim: D.
        shard_utterances: utterances of one file; None: by N, as in every store.
        run: choices that do not change the rows, kept for a resumed run.
        labels: what every number from the cache must carry.
        training_speakers: keys of the speakers that the model was trained on.
    """
    return StoreMetadata(
        fingerprint=plan.fingerprint,
        model=model,
        tap="pooled",
        dims=(),
        dim=pooled_dim,
        dtype=plan.dtype,
        planned_rows=utterances * plan.variants,
        shard_rows=(shard_utterances or default_shard_rows(utterances)) * plan.variants,
        table_sha256=plan.table_sha256,
        plan=plan.stored(),
        run=run or {},
        variants=plan.variants,
        columns={"embedding": embedding_dim},
        labels=labels,
        training_speakers=training_speakers,
    )
