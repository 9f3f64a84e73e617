"""A speaker model: encoder, head and calibration, loaded, saved and chosen.

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.model.calibration import LlrCalibration, ModelCalibration, read_calibration
    from nestvox.model.loading import best_encoder, load
    from nestvox.model.router import Router, load_router
    from nestvox.model.speaker_model import SpeakerModel
    from nestvox.model.threshold import Threshold, Verification

__all__ = [
    "LlrCalibration",
    "ModelCalibration",
    "Router",
    "SpeakerModel",
    "Threshold",
    "Verification",
    "best_encoder",
    "load",
    "load_router",
    "read_calibration",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "LlrCalibration": "calibration",
        "ModelCalibration": "calibration",
        "Router": "router",
        "SpeakerModel": "speaker_model",
        "Threshold": "threshold",
        "Verification": "threshold",
        "best_encoder": "loading",
        "load": "loading",
        "load_router": "router",
        "read_calibration": "calibration",
    },
)
