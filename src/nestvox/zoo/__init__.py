"""The catalogue of pretrained models, their weights and the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.zoo.box import box_folder, golden_signal
    from nestvox.zoo.catalogue import CatalogueEntry, entries, find
    from nestvox.zoo.variants import Variant, variant
    from nestvox.zoo.weights import TransferReport, fetch, load_encoder

__all__ = [
    "CatalogueEntry",
    "TransferReport",
    "Variant",
    "box_folder",
    "entries",
    "fetch",
    "find",
    "golden_signal",
    "load_encoder",
    "variant",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "box": "box_folder golden_signal",
        "catalogue": "CatalogueEntry entries find",
        "variants": "Variant variant",
    },
    torch={
        "weights": "TransferReport fetch load_encoder",
    },
    purpose="running an encoder",
)
