"""Who spoke when: turns of speakers, and what a diarization is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.diarization.diarize_files import Diarization, DiarizedFile, diarize
    from nestvox.diarization.score import DiarizationRates, DiarizationScore, score_diarization
    from nestvox.diarization.turn_files import read_turns, write_turns
    from nestvox.diarization.turns import Turn
    from nestvox.diarization.uem import read_uem, write_uem

__all__ = [
    "Diarization",
    "DiarizationRates",
    "DiarizationScore",
    "DiarizedFile",
    "Turn",
    "diarize",
    "read_turns",
    "read_uem",
    "score_diarization",
    "write_turns",
    "write_uem",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "diarize_files": "Diarization DiarizedFile diarize",
        "score": "DiarizationRates DiarizationScore score_diarization",
        "turn_files": "read_turns write_turns",
        "turns": "Turn",
        "uem": "read_uem write_uem",
    },
)
