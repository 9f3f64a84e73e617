"""From trials and a score file, a store or a model to scores: normalised, calibrated, and refused where they mislead.

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.scoring.normalise import ScoreNorm
    from nestvox.scoring.pipeline import ScoredTrials, Steps, read_steps, score_trials
    from nestvox.scoring.sources import known, known_model, known_scores, known_store, system_of_scores
    from nestvox.scoring.system import System

__all__ = [
    "ScoreNorm",
    "ScoredTrials",
    "Steps",
    "System",
    "known",
    "known_model",
    "known_scores",
    "known_store",
    "read_steps",
    "score_trials",
    "system_of_scores",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "ScoreNorm": "normalise",
        "ScoredTrials": "pipeline",
        "Steps": "pipeline",
        "System": "system",
        "known": "sources",
        "known_model": "sources",
        "known_scores": "sources",
        "known_store": "sources",
        "read_steps": "pipeline",
        "score_trials": "pipeline",
        "system_of_scores": "sources",
    },
)
