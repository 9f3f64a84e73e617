"""Evaluate scores, stores and models on trials, compare systems, and hold what was found.

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.evaluation.compare import Comparison, compare_systems
    from nestvox.evaluation.evaluate import evaluate_model, evaluate_scored, evaluate_scores, evaluate_store
    from nestvox.evaluation.results import ErrorRates, Evaluation
    from nestvox.evaluation.settings import Settings

__all__ = [
    "Comparison",
    "ErrorRates",
    "Evaluation",
    "Settings",
    "compare_systems",
    "evaluate_model",
    "evaluate_scored",
    "evaluate_scores",
    "evaluate_store",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Comparison": "compare",
        "ErrorRates": "results",
        "Evaluation": "results",
        "Settings": "settings",
        "compare_systems": "compare",
        "evaluate_model": "evaluate",
        "evaluate_scored": "evaluate",
        "evaluate_scores": "evaluate",
        "evaluate_store": "evaluate",
    },
)
