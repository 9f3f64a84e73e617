"""One recording as a gallery takes it: its vector, its condition, and what it is called."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.errors import AudioWarning
from nestvox.audio.given import Audio, heard
from nestvox.audio.segment import Segment
from nestvox.errors import ModelError

if TYPE_CHECKING:
    from nestvox.extraction.shard_job import EmbeddingModel


@dataclass(frozen=True, eq=False)
class Heard:
    """A recording that was embedded.

    Attributes:
        name: a path as it was given; of what has none a hash of the sound.
        vector: (D,) as the model gave it.
        duration_s: seconds.
        codes: of its condition, of `audio.condition.CODES`.
        warnings: the same in sentences.
    """

    name: str
    vector: NDArray[np.float32]
    duration_s: float
    codes: tuple[str, ...]
    warnings: tuple[str, ...]


def hear(model: EmbeddingModel, item: Audio, sample_rate: float | None = None) -> Heard:
    """Embed one recording and measure its condition.

    Raises:
        AudioError: it cannot be used.
        ModelError: the network gives nothing but zeros.
    """
    sound, doubts = heard(item, to_hz=model.sample_rate, sample_rate=sample_rate, min_duration_s=model.min_duration_s)
    for doubt in doubts:
        warnings.warn(doubt, AudioWarning, stacklevel=3)
    condition = sound.condition()
    vector = np.asarray(model.forward([sound.samples], tap="nested"), np.float32)[0]
    if not vector.any():
        raise ModelError(f"the network of {model.name} gave nothing but zeros, which have no direction")
    seconds = len(sound.samples) / sound.sample_rate
    return Heard(_name_of(item, sound.samples), vector, seconds, condition.codes(), condition.warnings())


def as_text(name: str) -> str:
    """A name as it can be written: bytes of a file name that are no text become escapes."""
    return name.encode(errors="backslashreplace").decode()


def _name_of(item: Audio, samples: NDArray[np.float32]) -> str:
    if isinstance(item, Segment):
        return as_text(f"{item.path}" if item.start_s is None else f"{item.path}@{item.start_s:g}")
    if isinstance(item, str | Path):
        return as_text(str(item))
    return f"sound-{hashlib.sha256(samples.tobytes()).hexdigest()[:16]}"
