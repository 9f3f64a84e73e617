"""Evaluate scores, stores and models on trials, compare systems, and hold what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.evaluation.comparing import compare, compare_systems
    from nestvox.evaluation.comparison import Comparison, ComparisonRow, Selection, select_system
    from nestvox.evaluation.enrolment import EnrolmentPlan, plan_enrolment
    from nestvox.evaluation.estimates import Settings
    from nestvox.evaluation.llr_fit import LlrFit, calibrate, fit_llr
    from nestvox.evaluation.measure import evaluate
    from nestvox.evaluation.results import ErrorRates, Evaluation, NotComputable
    from nestvox.evaluation.set_threshold import ThresholdsSet, ThresholdUse, set_thresholds, threshold

__all__ = [
    "Comparison",
    "ComparisonRow",
    "EnrolmentPlan",
    "ErrorRates",
    "Evaluation",
    "LlrFit",
    "NotComputable",
    "Selection",
    "Settings",
    "ThresholdUse",
    "ThresholdsSet",
    "calibrate",
    "compare",
    "compare_systems",
    "evaluate",
    "fit_llr",
    "plan_enrolment",
    "select_system",
    "set_thresholds",
    "threshold",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "comparing": "compare compare_systems",
        "comparison": "Comparison ComparisonRow Selection select_system",
        "enrolment": "EnrolmentPlan plan_enrolment",
        "estimates": "Settings",
        "llr_fit": "LlrFit calibrate fit_llr",
        "measure": "evaluate",
        "results": "ErrorRates Evaluation NotComputable",
        "set_threshold": "ThresholdUse ThresholdsSet set_thresholds threshold",
    },
)
