"""Evaluate scores, stores and models on trials, compare systems, and hold what was found.

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.evaluation.comparison import Comparison, compare, compare_systems
    from nestvox.evaluation.estimates import Settings
    from nestvox.evaluation.measure import evaluate
    from nestvox.evaluation.results import ErrorRates, Evaluation

__all__ = [
    "Comparison",
    "ErrorRates",
    "Evaluation",
    "Settings",
    "compare",
    "compare_systems",
    "evaluate",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Comparison": "comparison",
        "ErrorRates": "results",
        "Evaluation": "results",
        "Settings": "estimates",
        "compare": "comparison",
        "compare_systems": "comparison",
        "evaluate": "measure",
    },
)
