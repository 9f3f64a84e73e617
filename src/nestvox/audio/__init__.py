"""Audio files to waveforms, their condition, where the speech is, and what disturbs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.audio.condition import Condition, condition
from nestvox.audio.read import SAMPLE_RATE, AudioInfo, probe, read, resample
from nestvox.audio.vad import SpeechSegments, speech_segments
from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.audio.augment import Augmentation, Banks
    from nestvox.audio.banks import NoiseBank, RoomBank, SpeechBank

__all__ = [
    "SAMPLE_RATE",
    "AudioInfo",
    "Augmentation",
    "Banks",
    "Condition",
    "NoiseBank",
    "RoomBank",
    "SpeechBank",
    "SpeechSegments",
    "condition",
    "probe",
    "read",
    "resample",
    "speech_segments",
]

__getattr__, __dir__ = lazily(__name__, {"augment": "Augmentation Banks", "banks": "NoiseBank RoomBank SpeechBank"})
