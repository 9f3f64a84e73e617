"""Audio files to waveforms, their condition, and where the speech is."""

from __future__ import annotations

from nestvox.audio.condition import Condition, condition
from nestvox.audio.read import SAMPLE_RATE, AudioInfo, probe, read, resample
from nestvox.audio.vad import SpeechSegments, speech_segments

__all__ = [
    "SAMPLE_RATE",
    "AudioInfo",
    "Condition",
    "SpeechSegments",
    "condition",
    "probe",
    "read",
    "resample",
    "speech_segments",
]
