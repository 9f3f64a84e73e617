"""Evaluate scores, stores and models on trials, compare systems, and hold what was found.

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.evaluation.comparing import compare, compare_systems
    from nestvox.evaluation.comparison import Comparison
    from nestvox.evaluation.estimates import Settings
    from nestvox.evaluation.llr_fit import calibrate
    from nestvox.evaluation.measure import evaluate
    from nestvox.evaluation.results import ErrorRates, Evaluation
    from nestvox.evaluation.set_threshold import threshold

__all__ = [
    "Comparison",
    "ErrorRates",
    "Evaluation",
    "Settings",
    "calibrate",
    "compare",
    "compare_systems",
    "evaluate",
    "threshold",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Comparison": "comparison",
        "ErrorRates": "results",
        "Evaluation": "results",
        "Settings": "estimates",
        "calibrate": "llr_fit",
        "compare": "comparing",
        "compare_systems": "comparing",
        "evaluate": "measure",
        "threshold": "set_threshold",
    },
)
