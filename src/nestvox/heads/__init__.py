"""From an encoder's vector to a nested embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.heads.choose import fit_rotation
    from nestvox.heads.contract import Head, NotNestedWarning, truncate
    from nestvox.heads.estimator import NestedRotation
    from nestvox.heads.linear import LinearHead
    from nestvox.heads.mlp import MlpHead
    from nestvox.heads.pairs import LabelledPairs
    from nestvox.heads.refine import Refinement
    from nestvox.heads.rotation import Rotation, Scatter, discriminant, pca, truncation

__all__ = [
    "Head",
    "LabelledPairs",
    "LinearHead",
    "MlpHead",
    "NestedRotation",
    "NotNestedWarning",
    "Refinement",
    "Rotation",
    "Scatter",
    "discriminant",
    "fit_rotation",
    "pca",
    "truncate",
    "truncation",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "choose": "fit_rotation",
        "contract": "Head NotNestedWarning truncate",
        "estimator": "NestedRotation",
        "pairs": "LabelledPairs",
        "refine": "Refinement",
        "rotation": "Rotation Scatter discriminant pca truncation",
    },
    torch={
        "linear": "LinearHead",
        "mlp": "MlpHead",
    },
    purpose="a trained head",
)
