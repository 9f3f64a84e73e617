"""Recipes, tasks and the loop that runs them; `nestvox.train` runs a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.training.run_log import EpochReport, Watch
    from nestvox.training.tasks.rotation import NestedFit, nest_encoder
    from nestvox.training.train import DevRate, Trained

__all__ = ["DevRate", "EpochReport", "NestedFit", "Trained", "Watch", "nest_encoder"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "run_log": "EpochReport Watch",
    },
    torch={
        "tasks.rotation": "NestedFit nest_encoder",
        "train": "DevRate Trained",
    },
    purpose="training",
)
