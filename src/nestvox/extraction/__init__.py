"""From tables to vectors: embedding, stores, caches, and the formats of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.extraction.cache.feature_cache import FeatureCache, build_cache, open_cache
    from nestvox.extraction.domain_mean import centre
    from nestvox.extraction.embed import EmbeddingRun, embed_table, run_embedding
    from nestvox.extraction.formats.interchange import VectorWriter, export_store, iter_vectors, vector_shape
    from nestvox.extraction.formats.labels import read_labels
    from nestvox.extraction.rotate import RotationReport, apply_rotation, rotate_store, rotate_vectors
    from nestvox.extraction.settings import EmbeddingSettings
    from nestvox.extraction.shard_job import EmbeddingModel
    from nestvox.extraction.store.metadata import StoreMetadata, is_store
    from nestvox.extraction.store.store import EmbeddingStore, VectorBatch

__all__ = [
    "EmbeddingModel",
    "EmbeddingRun",
    "EmbeddingSettings",
    "EmbeddingStore",
    "FeatureCache",
    "RotationReport",
    "StoreMetadata",
    "VectorBatch",
    "VectorWriter",
    "apply_rotation",
    "build_cache",
    "centre",
    "embed_table",
    "export_store",
    "is_store",
    "iter_vectors",
    "open_cache",
    "read_labels",
    "rotate_store",
    "rotate_vectors",
    "run_embedding",
    "vector_shape",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "cache.feature_cache": "FeatureCache build_cache open_cache",
        "domain_mean": "centre",
        "embed": "EmbeddingRun embed_table run_embedding",
        "formats.interchange": "VectorWriter export_store iter_vectors vector_shape",
        "formats.labels": "read_labels",
        "rotate": "RotationReport apply_rotation rotate_store rotate_vectors",
        "settings": "EmbeddingSettings",
        "shard_job": "EmbeddingModel",
        "store.metadata": "StoreMetadata is_store",
        "store.store": "EmbeddingStore VectorBatch",
    },
)
