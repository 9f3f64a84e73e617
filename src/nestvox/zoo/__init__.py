"""The catalogue of pretrained models, their weights and the cache.

Importing this package costs nothing; the names that run a network import torch when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nestvox.extras import require

if TYPE_CHECKING:
    from nestvox.zoo.catalogue import CatalogueEntry, entries, find
    from nestvox.zoo.weights import fetch, load_encoder

__all__ = ["CatalogueEntry", "entries", "fetch", "find", "load_encoder"]

_HOME = {
    "CatalogueEntry": "catalogue",
    "entries": "catalogue",
    "fetch": "weights",
    "find": "catalogue",
    "load_encoder": "weights",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOME[name] != "catalogue":
        require("torch", extra="torch", purpose="running an encoder")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
