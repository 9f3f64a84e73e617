"""From an encoder"s vector to a nested embedding.

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.heads.contract import Head, truncate
    from nestvox.heads.estimator import NestedRotation
    from nestvox.heads.rotation import Rotation

__all__ = ["Head", "NestedRotation", "Rotation", "truncate"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Head": "contract",
        "NestedRotation": "estimator",
        "Rotation": "rotation",
        "truncate": "contract",
    },
)
