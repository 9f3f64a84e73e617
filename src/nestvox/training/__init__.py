"""Recipes, tasks and the loop that runs them.

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.training.train import Trained, train

__all__ = ["Trained", "train"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Trained": "train",
        "train": "train",
    },
)
