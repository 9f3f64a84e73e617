"""Error curves, equal error rate, detection cost and their intervals; numpy only.

One function, `error_curve`, sorts the scores; every figure is read off its result.
"""

from __future__ import annotations

from nestvox.metrics.bootstrap import BootstrapIntervals, Interval, Replicates, SpeakerBootstrap, speaker_bootstrap
from nestvox.metrics.curves import ErrorCurve, error_curve
from nestvox.metrics.dcf import MinDcf, min_dcf
from nestvox.metrics.eer import EqualErrorRate, eer, eer_rocch

__all__ = [
    "BootstrapIntervals",
    "EqualErrorRate",
    "ErrorCurve",
    "Interval",
    "MinDcf",
    "Replicates",
    "SpeakerBootstrap",
    "eer",
    "eer_rocch",
    "error_curve",
    "min_dcf",
    "speaker_bootstrap",
]
