"""Who is active where, before anybody has a name: by the segmentation network, or by voice activity alone.

Notation: C chunks, T frames of a chunk, F frames of the recording.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.segment import Segment
from nestvox.audio.vad import speech_segments
from nestvox.diarization.chunks import CHUNK_SAMPLES, FRAMES, SAMPLE_RATE, Chunks, frame_at
from nestvox.progress import Progress, silent

if TYPE_CHECKING:
    from nestvox.diarization.pyannet import PyanNet

_BLOCK_S = 300.0  # of audio that is held at once
_BATCH = 4  # chunks that go through the network at once; more are no faster on a CPU


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What is known of a recording before the speakers are.

    Attributes:
        chunks: where they lie.
        activity: (C, T, 3) float16, probability that each of the chunk's speakers is active; None: voice activity
            alone, which knows no speakers.
        active: (C, T, 3) uint8, whether they are, as the network decides; None likewise.
        expected: (F,) how many speak at once, on average over chunks.
    """

    chunks: Chunks
    activity: NDArray[np.float16] | None
    active: NDArray[np.uint8] | None
    expected: NDArray[np.float32]


def blocks(segment: Segment, samples: int, step: int, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Read a recording in parts, with the place of each, in samples at 16 kHz.

    Args:
        segment: the recording.
        samples: that it has.
        step: from one part to the next.
        size: of each; what is beyond the end is zero.
    """
    for first in range(0, samples, step):
        count = min(size, samples - first)
        part = segment.within(first / SAMPLE_RATE, count / SAMPLE_RATE)
        heard = part.read(sample_rate=SAMPLE_RATE, allow_silent=True).samples[:size]
        yield first, np.pad(heard, (0, size - len(heard)))


def by_network(
    network: PyanNet, segment: Segment, samples: int, step_s: float, progress: Progress = silent
) -> Segmentation:
    """Segment a recording in chunks of ten seconds.

    Args:
        network: in evaluation mode.
        segment: the recording.
        samples: that it has at 16 kHz.
        step_s: from one chunk to the next, at most ten.
        progress: in samples.
    """
    import torch  # noqa: PLC0415  an extra

    from nestvox.diarization.pyannet import POWERSET, activity  # noqa: PLC0415

    chunks = Chunks(samples, round(step_s * SAMPLE_RATE))
    soft = np.zeros((chunks.count, FRAMES, POWERSET.shape[1]), np.float16)
    hard = np.zeros(soft.shape, np.uint8)
    at_once = max(1, int(_BLOCK_S * SAMPLE_RATE) // chunks.step)  # chunks of a block
    stride = at_once * chunks.step
    for first, block in blocks(segment, samples, stride, stride - chunks.step + CHUNK_SAMPLES):
        begun = first // chunks.step
        for one in range(begun, min(begun + at_once, chunks.count), _BATCH):
            several = range(one, min(one + _BATCH, begun + at_once, chunks.count))
            places = [(number - begun) * chunks.step for number in several]
            batch = torch.from_numpy(np.stack([block[place : place + CHUNK_SAMPLES] for place in places]))
            with torch.inference_mode():
                logs = network(batch).numpy()
            soft[several.start : several.stop] = activity(logs)
            hard[several.start : several.stop] = POWERSET[logs.argmax(axis=2)]
            progress(min(several.stop * chunks.step, samples), samples)
    return Segmentation(chunks, soft, hard, chunks.overlap_add(soft.sum(axis=2, dtype=np.float32)))


def by_voice_activity(segment: Segment, samples: int, progress: Progress = silent) -> Segmentation:
    """Find speech by Silero, or by energy where that is not installed; nobody speaks at the same time then."""
    chunks = Chunks(samples)
    expected = np.zeros(chunks.frames, np.float32)
    size = int(_BLOCK_S * SAMPLE_RATE)
    for first, block in blocks(segment, samples, size, size):
        heard = block[: samples - first]
        for stretch in speech_segments(heard, SAMPLE_RATE).segments:
            begin, end = frame_at(np.array(stretch) + first / SAMPLE_RATE)
            expected[max(begin, 0) : end] = 1.0
        progress(min(first + size, samples), samples)
    return Segmentation(chunks, None, None, expected)
