"""Training criteria for nested embeddings: margins over speakers, pairs, and distillation with what watches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.losses.alpha import AlphaSchedule, GradientBalance, capacity_alpha
    from nestvox.losses.bottleneck import Bottleneck
    from nestvox.losses.distillation import NestedTerm, PrefixDistillation
    from nestvox.losses.hints import AttentionTransfer, Hints, SeveralTeachers, Stage
    from nestvox.losses.margins import AamSoftmax, AmSoftmax, SphereFace2, SubCenterAamSoftmax
    from nestvox.losses.monitor import DistillationMonitor, PartReading, Reading
    from nestvox.losses.nested import NestedLoss, NestedTerms, PrefixLoss
    from nestvox.losses.objective import Combined, DistillationObjective, make_term
    from nestvox.losses.pairwise import AngularPrototypical, Prototypical, Triplet
    from nestvox.losses.relations import Angles, Correlation, Distances, Gram, Neighbours, Similarity
    from nestvox.losses.terms import Bounds, DistillationTerm, EmbeddingCosine, EmbeddingMse, LogitKd

__all__ = [
    "AamSoftmax",
    "AlphaSchedule",
    "AmSoftmax",
    "Angles",
    "AngularPrototypical",
    "AttentionTransfer",
    "Bottleneck",
    "Bounds",
    "Combined",
    "Correlation",
    "Distances",
    "DistillationMonitor",
    "DistillationObjective",
    "DistillationTerm",
    "EmbeddingCosine",
    "EmbeddingMse",
    "GradientBalance",
    "Gram",
    "Hints",
    "LogitKd",
    "Neighbours",
    "NestedLoss",
    "NestedTerm",
    "NestedTerms",
    "PartReading",
    "PrefixDistillation",
    "PrefixLoss",
    "Prototypical",
    "Reading",
    "SeveralTeachers",
    "Similarity",
    "SphereFace2",
    "Stage",
    "SubCenterAamSoftmax",
    "Triplet",
    "capacity_alpha",
    "make_term",
]

__getattr__, __dir__ = lazily(
    __name__,
    {},
    torch={
        "alpha": "AlphaSchedule GradientBalance capacity_alpha",
        "bottleneck": "Bottleneck",
        "distillation": "NestedTerm PrefixDistillation",
        "hints": "AttentionTransfer Hints SeveralTeachers Stage",
        "margins": "AamSoftmax AmSoftmax SphereFace2 SubCenterAamSoftmax",
        "monitor": "DistillationMonitor PartReading Reading",
        "nested": "NestedLoss NestedTerms PrefixLoss",
        "objective": "Combined DistillationObjective make_term",
        "pairwise": "AngularPrototypical Prototypical Triplet",
        "relations": "Angles Correlation Distances Gram Neighbours Similarity",
        "terms": "Bounds DistillationTerm EmbeddingCosine EmbeddingMse LogitKd",
    },
    purpose="training",
)
