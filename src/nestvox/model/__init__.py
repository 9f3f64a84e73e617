"""A speaker model: encoder, head and calibration, loaded, saved and chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.model.calibration import (
        LlrCalibration,
        ModelCalibration,
        read_calibration,
        store_in_model,
        write_calibration,
    )
    from nestvox.model.familiarity import Familiarity, fit_familiarity
    from nestvox.model.loading import best_encoder, load
    from nestvox.model.onnx_export import export_onnx
    from nestvox.model.router import Route, RoutedEmbedding, Router, load_router, noisier_than, shorter_than
    from nestvox.model.speaker_model import SpeakerModel
    from nestvox.model.threshold import COSINE, DurationClass, ScoreSpace, Threshold, Verification

__all__ = [
    "COSINE",
    "DurationClass",
    "Familiarity",
    "LlrCalibration",
    "ModelCalibration",
    "Route",
    "RoutedEmbedding",
    "Router",
    "ScoreSpace",
    "SpeakerModel",
    "Threshold",
    "Verification",
    "best_encoder",
    "export_onnx",
    "fit_familiarity",
    "load",
    "load_router",
    "noisier_than",
    "read_calibration",
    "shorter_than",
    "store_in_model",
    "write_calibration",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "calibration": "LlrCalibration ModelCalibration read_calibration store_in_model write_calibration",
        "familiarity": "Familiarity fit_familiarity",
        "loading": "best_encoder load",
        "onnx_export": "export_onnx",
        "router": "Route RoutedEmbedding Router load_router noisier_than shorter_than",
        "speaker_model": "SpeakerModel",
        "threshold": "COSINE DurationClass ScoreSpace Threshold Verification",
    },
)
