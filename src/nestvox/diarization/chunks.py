"""Chunks of ten seconds over a recording, and the frames that they share.

Every chunk says for 589 frames of its own who is active among speakers that only it knows. Here is where these frames
lie in the recording, and how what several chunks say about one frame becomes one number.

Notation: C chunks, T = 589 frames of a chunk, F frames of the recording.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Those of `pyannet`, which imports torch.
SAMPLE_RATE, CHUNK_SAMPLES, FRAME_STEP, FRAME_WIDTH = 16_000, 160_000, 270, 991
FRAMES = 589

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]
Floats64 = NDArray[np.float64]


@dataclass(frozen=True)
class Chunks:
    """Where the chunks of a recording lie.

    Attributes:
        samples: of the recording, at 16 kHz.
        step: samples from one chunk to the next, at most a chunk.
    """

    samples: int
    step: int = SAMPLE_RATE

    @property
    def count(self) -> int:
        """C: those that lie within the recording, and one that is filled up with zeros if something is left."""
        whole = (self.samples - CHUNK_SAMPLES) // self.step + 1 if self.samples >= CHUNK_SAMPLES else 0
        left = self.samples < CHUNK_SAMPLES or (self.samples - CHUNK_SAMPLES) % self.step > 0
        return whole + left

    def first_frame(self, chunk: int) -> int:
        """Frame of the recording that is nearest to the first one of a chunk."""
        return round(chunk * self.step / FRAME_STEP)

    @property
    def frames(self) -> int:
        """F."""
        return round((CHUNK_SAMPLES + (self.count - 1) * self.step) / FRAME_STEP) + 1

    def heard(self) -> Floats:
        """How many chunks hear each frame, (F,); at least 1 where it is divided by."""
        found = np.zeros(self.frames, np.float32)
        for chunk in range(self.count):
            found[self.first_frame(chunk) :][:FRAMES] += 1.0
        return np.maximum(found, 1.0)

    def overlap_add(self, said: NDArray[np.floating]) -> Floats:
        """Mean of what chunks say about the frames that they share: (C, T) to (F,); 0 where no chunk is."""
        total = np.zeros(self.frames, np.float32)
        for chunk in range(self.count):
            total[self.first_frame(chunk) :][:FRAMES] += said[chunk]
        return total / self.heard()


def seconds_of(frame: int) -> float:
    """Centre of a frame of a recording, in seconds."""
    return (frame * FRAME_STEP + FRAME_WIDTH / 2) / SAMPLE_RATE


def frame_at(seconds: Floats64) -> Integers:
    """Frame of a recording whose centre is nearest to a time; below 0 before the first."""
    return np.rint((seconds * SAMPLE_RATE - FRAME_WIDTH / 2) / FRAME_STEP).astype(np.int64)
