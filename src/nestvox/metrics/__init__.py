"""Error curves, what is read off them, their intervals, comparison, calibration and planning; numpy and scipy.

One function, `error_curve`, sorts the scores; every figure and every influence is read off its result.
"""

from __future__ import annotations

from nestvox.metrics.bootstrap import BootstrapIntervals, Interval, speaker_bootstrap
from nestvox.metrics.calibration import Calibration, fit_calibration
from nestvox.metrics.compare import McNemar, PairedComparison, PairedFigure, compare_scores, mcnemar
from nestvox.metrics.costs import (
    ActDcf,
    BayesErrorCurve,
    MinDcf,
    act_dcf,
    bayes_error_curve,
    bayes_threshold,
    cllr,
    dcf_at,
    min_cllr,
    min_dcf,
)
from nestvox.metrics.curves import ErrorCurve, IsotonicBins, error_curve
from nestvox.metrics.estimate import Estimate, TrialSet
from nestvox.metrics.influence import holm
from nestvox.metrics.plan import SpeakerCorrelation, StudyPlan, plan_study, speaker_correlation, system_correlation
from nestvox.metrics.rates import (
    EqualErrorRate,
    OperatingPoint,
    auc,
    eer,
    eer_at_corner,
    eer_rocch,
    far_at_frr,
    frr_at_far,
    rates_at,
)
from nestvox.metrics.replicates import Replicates, SpeakerBootstrap
from nestvox.metrics.score_norm import CohortStatistics, as_norm, cohort_statistics, s_norm, t_norm, z_norm

__all__ = [
    "ActDcf",
    "BayesErrorCurve",
    "BootstrapIntervals",
    "Calibration",
    "CohortStatistics",
    "EqualErrorRate",
    "ErrorCurve",
    "Estimate",
    "Interval",
    "IsotonicBins",
    "McNemar",
    "MinDcf",
    "OperatingPoint",
    "PairedComparison",
    "PairedFigure",
    "Replicates",
    "SpeakerBootstrap",
    "SpeakerCorrelation",
    "StudyPlan",
    "TrialSet",
    "act_dcf",
    "as_norm",
    "auc",
    "bayes_error_curve",
    "bayes_threshold",
    "cllr",
    "cohort_statistics",
    "compare_scores",
    "dcf_at",
    "eer",
    "eer_at_corner",
    "eer_rocch",
    "error_curve",
    "far_at_frr",
    "fit_calibration",
    "frr_at_far",
    "holm",
    "mcnemar",
    "min_cllr",
    "min_dcf",
    "plan_study",
    "rates_at",
    "s_norm",
    "speaker_bootstrap",
    "speaker_correlation",
    "system_correlation",
    "t_norm",
    "z_norm",
]
