"""The catalogue of pretrained models, their weights and the cache.

Importing this package costs nothing; the names that run a network import torch when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.extras import require
from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.zoo.catalogue import CatalogueEntry, entries, find
    from nestvox.zoo.weights import fetch, load_encoder

__all__ = ["CatalogueEntry", "entries", "fetch", "find", "load_encoder"]


def _need(name: str) -> None:
    if name not in ("CatalogueEntry", "entries", "find"):
        require("torch", extra="torch", purpose="running an encoder")


__getattr__, __dir__ = lazily(
    __name__,
    {
        "CatalogueEntry": "catalogue",
        "entries": "catalogue",
        "fetch": "weights",
        "find": "catalogue",
        "load_encoder": "weights",
    },
    _need,
)
