"""Training criteria for nested embeddings: margins over speaker classes, pairs, and distillation, for every prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.losses.distillation import PrefixDistillation
    from nestvox.losses.margins import AamSoftmax, AmSoftmax, SphereFace2, SubCenterAamSoftmax
    from nestvox.losses.nested import NestedLoss, NestedTerms, PrefixLoss
    from nestvox.losses.pairwise import AngularPrototypical, Prototypical, Triplet

__all__ = [
    "AamSoftmax",
    "AmSoftmax",
    "AngularPrototypical",
    "NestedLoss",
    "NestedTerms",
    "PrefixDistillation",
    "PrefixLoss",
    "Prototypical",
    "SphereFace2",
    "SubCenterAamSoftmax",
    "Triplet",
]

__getattr__, __dir__ = lazily(
    __name__,
    {},
    torch={
        "distillation": "PrefixDistillation",
        "margins": "AamSoftmax AmSoftmax SphereFace2 SubCenterAamSoftmax",
        "nested": "NestedLoss NestedTerms PrefixLoss",
        "pairwise": "AngularPrototypical Prototypical Triplet",
    },
    purpose="training",
)
