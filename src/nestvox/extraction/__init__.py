"""From tables to vectors: embedding, stores, caches, and the formats of others.

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.extraction.cache.feature_cache import FeatureCache, build_cache, open_cache
    from nestvox.extraction.domain_mean import centre
    from nestvox.extraction.embed import EmbeddingRun, embed_table, run_embedding
    from nestvox.extraction.formats.interchange import export_store, iter_vectors
    from nestvox.extraction.rotate import rotate_store, rotate_vectors
    from nestvox.extraction.shard_job import EmbeddingModel
    from nestvox.extraction.store.metadata import StoreMetadata
    from nestvox.extraction.store.store import EmbeddingStore

__all__ = [
    "EmbeddingModel",
    "EmbeddingRun",
    "EmbeddingStore",
    "FeatureCache",
    "StoreMetadata",
    "build_cache",
    "centre",
    "embed_table",
    "export_store",
    "iter_vectors",
    "open_cache",
    "rotate_store",
    "rotate_vectors",
    "run_embedding",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "EmbeddingModel": "embed",
        "EmbeddingRun": "embed",
        "EmbeddingStore": "store.store",
        "FeatureCache": "cache.feature_cache",
        "StoreMetadata": "store.store",
        "build_cache": "cache.feature_cache",
        "centre": "domain_mean",
        "embed_table": "embed",
        "export_store": "formats.interchange",
        "iter_vectors": "formats.interchange",
        "open_cache": "cache.feature_cache",
        "rotate_store": "rotate",
        "rotate_vectors": "rotate",
        "run_embedding": "embed",
    },
)
