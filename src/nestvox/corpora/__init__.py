"""Utterance tables and trial lists: read, made, checked against each other and against their audio."""

from __future__ import annotations

from nestvox.corpora.check import CheckReport, Finding, check_corpus
from nestvox.corpora.generate import PRESETS, Preset, generate_trials
from nestvox.corpora.overlap import refuse_overlap, speaker_key
from nestvox.corpora.scores import read_scores
from nestvox.corpora.trials import Trials, read_trials, write_trials
from nestvox.corpora.utterances import UtteranceTable, read_utterances, write_utterances

__all__ = [
    "PRESETS",
    "CheckReport",
    "Finding",
    "Preset",
    "Trials",
    "UtteranceTable",
    "check_corpus",
    "generate_trials",
    "read_scores",
    "read_trials",
    "read_utterances",
    "refuse_overlap",
    "speaker_key",
    "write_trials",
    "write_utterances",
]
