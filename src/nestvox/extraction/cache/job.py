"""The work behind a feature cache: both vectors of a forward pass side by side, variants of an utterance together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.extraction.cache.variants import VariantDecoder
from nestvox.extraction.settings import EmbeddingSettings
from nestvox.extraction.shard_job import EmbeddingModel, Network, ShardJob, StoreTap
from nestvox.extraction.store.metadata import FailedUtterance
from nestvox.extraction.store.shard_files import ShardRows


class CacheableModel(EmbeddingModel, Protocol):
    """What a feature cache needs of a model; `SpeakerModel` has it."""

    @property
    def encoder_fingerprint(self) -> str: ...  # noqa: D102

    def features(self, waveforms: Sequence[NDArray[np.floating[Any]]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Map B waveforms (S_i,) to pooled vectors (B, P) and the encoder's embeddings (B, D)."""


class Features:
    """A model whose one output is the pooled vector with the embedding behind it.

    Args:
        model: whose head takes no part.
        pooled_dim, embedding_dim: P and D where they are known; 0: the first forward pass tells.
    """

    def __init__(self, model: CacheableModel, pooled_dim: int = 0, embedding_dim: int = 0) -> None:
        self._model = model
        self.encoder = getattr(model, "encoder", None)
        self.pooled_dim = pooled_dim
        self.embedding_dim = embedding_dim
        self.name = model.name
        self.fingerprint = model.encoder_fingerprint
        self.sample_rate = model.sample_rate
        self.min_duration_s = model.min_duration_s
        self.dims: tuple[int, ...] = ()
        self.training_speakers = model.training_speakers

    def forward(self, waveforms: Sequence[NDArray[np.floating[Any]]], *, tap: StoreTap) -> NDArray[Any]:  # noqa: ARG002
        """Map B waveforms (S_i,) to (B, P + D), whatever the tap."""
        pooled, embedding = self._model.features(waveforms)
        self.pooled_dim, self.embedding_dim = pooled.shape[1], embedding.shape[1]
        return np.concatenate([pooled, embedding], axis=1)

    def config(self) -> Mapping[str, Any]:
        """Return the configuration of the encoder with its front end, as far as the model has one."""
        describe: Callable[[], Mapping[str, Any]] | None = getattr(self.encoder, "config", None)
        given = {} if describe is None else describe()
        return {"architecture": getattr(self.encoder, "architecture", ""), "sample_rate": self.sample_rate, **given}


class CacheJob(ShardJob):
    """One pass over the shards of a feature cache.

    Args:
        features: the model.
        decoder: of all variants.
        frame: the table's rows, one an utterance.
        settings: how, with a settled pace.
    """

    def __init__(
        self, features: Features, decoder: VariantDecoder, frame: pl.DataFrame, settings: EmbeddingSettings
    ) -> None:
        super().__init__(Network(features, "pooled"), decoder, frame, settings)
        self.features = features
        self.variants = decoder.variants

    def _write(self, shard: int, write: Callable[[int, ShardRows], None]) -> None:
        state = self._open.pop(shard)
        count = self.variants.count
        # An utterance stands in the cache with all its variants or not at all.
        reasons = {row // count: state.failed[row] for row in sorted(state.failed, reverse=True)}
        first = state.rows.start // count
        part = self.frame[first : state.rows.stop // count]
        names, paths, speakers = (part[column].to_list() for column in ("utt_id", "path", "speaker"))
        good = [place for place in range(len(names)) if first + place not in reasons]
        places = [(place, variant) for place in good for variant in range(count)]
        rows = [(first + place) * count + variant for place, variant in places]
        both = np.stack([state.vector(row, joined=False) for row in rows]) if rows else np.zeros((0, 0))
        write(
            shard,
            ShardRows(
                [names[place] for place, _ in places],
                both[:, : self.features.pooled_dim],
                [paths[place] for place, _ in places],
                [speakers[place] + self.variants.treatment(names[place], number)[0].suffix for place, number in places],
                [
                    FailedUtterance(names[number - first], paths[number - first], reasons[number])
                    for number in sorted(reasons)
                ],
                [variant for _, variant in places] if count > 1 else None,
                {"embedding": both[:, self.features.pooled_dim :]},
                # Of the variants only 0, the recording itself, is measured.
                [state.condition(row, self.decoder.sources[row].segment.duration_s) for row in rows],
            ),
        )
        self.stored_rows += len(rows)
        self._settled_rows += len(state.rows)
