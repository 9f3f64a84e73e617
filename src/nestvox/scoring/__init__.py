"""From trials and a score file, a store or a model to scores: normalised, calibrated, refused where they mislead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.scoring.normalise import ScoreNorm
    from nestvox.scoring.pipeline import ScoredTrials, Steps, read_steps, score_trials
    from nestvox.scoring.quality import trial_quality
    from nestvox.scoring.sources import known, known_model, known_scores, known_store, system_of_scores
    from nestvox.scoring.speakers import TrialSpeakers, trial_speakers
    from nestvox.scoring.system import System

__all__ = [
    "ScoreNorm",
    "ScoredTrials",
    "Steps",
    "System",
    "TrialSpeakers",
    "known",
    "known_model",
    "known_scores",
    "known_store",
    "read_steps",
    "score_trials",
    "system_of_scores",
    "trial_quality",
    "trial_speakers",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "normalise": "ScoreNorm",
        "pipeline": "ScoredTrials Steps read_steps score_trials",
        "quality": "trial_quality",
        "sources": "known known_model known_scores known_store system_of_scores",
        "speakers": "TrialSpeakers trial_speakers",
        "system": "System",
    },
)
