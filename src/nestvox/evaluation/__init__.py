"""Evaluate scores, stores and models on trials, and report what was found."""

from __future__ import annotations

from nestvox.evaluation.evaluate import evaluate_model, evaluate_scores, evaluate_store
from nestvox.evaluation.results import ErrorRates, Evaluation
from nestvox.evaluation.settings import Settings

__all__ = ["ErrorRates", "Evaluation", "Settings", "evaluate_model", "evaluate_scores", "evaluate_store"]
