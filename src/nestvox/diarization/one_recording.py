"""Who spoke when in recordings: segmentation, vectors, clustering, turns; a file at a time.

What is decided per frame: how many speak, by the segmentation's expectation over chunks; and who, by two witnesses. The
chunks that hear the frame vote for their speakers, each of whom is told by its vector; and windows of two seconds in
which one speaks alone say whom they are like. The second witness hears what the first cannot: a chunk's network may
take two similar voices for one.

Notation: F frames of the recording, K speakers, N windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.segment import Segment
from nestvox.diarization.chunks import SAMPLE_RATE, Chunks, frame_at
from nestvox.diarization.clustering import SpeakerCount, assign, centroids, cluster
from nestvox.diarization.segmentation import Segmentation, by_network, by_voice_activity
from nestvox.diarization.tracks import highest, stretches, votes
from nestvox.diarization.turns import Turn
from nestvox.diarization.vectors import Vectors, speaker_vectors
from nestvox.errors import NestvoxError
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Progress, silent

if TYPE_CHECKING:
    from nestvox.diarization.pyannet import PyanNet

By = Literal["network", "vad"]

THRESHOLDS: Mapping[str, float] = {"campplus": 0.65}
"""Largest mean cosine distance of two clusters of windows that are one speaker, by model: the lowest DER on AMI."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class DiarizationSettings:
    """How speakers are found.

    Attributes:
        segmentation: ``network``: segmentation-3.0, also where several speak at once; ``vad``: voice activity alone.
        step_s: from one chunk of ten seconds to the next, 0.5 to 10; longer is faster and less sure.
        threshold: largest mean cosine distance of two clusters of windows that are one speaker.
        fewest: speakers of a file, at least.
        most: at most; None: any.
        window_s: length of a window.
        hop_s: from one window to the next.
        smallest: windows that a speaker needs.
        count_bias: added before the expected number of speakers at once is rounded down; 0.5 rounds to the nearest.
            Missed overlap is the largest error of this network, so more than half a speaker is not needed.
        window_weight: of what windows say, against the votes of chunks.
        temperature: of the softmax over cosines of windows.

    Raises:
        NestvoxError: a step or a threshold that is none.
    """

    threshold: float
    segmentation: By = "network"
    step_s: float = 1.0
    fewest: int = 1
    most: int | None = None
    window_s: float = 2.0
    hop_s: float = 0.5
    smallest: int = 12
    count_bias: float = 0.65
    window_weight: float = 1.0
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if not 0.5 <= self.step_s <= 10:
            raise NestvoxError(f"chunks begin every 0.5 to 10 s, got a step of {self.step_s} s")
        if not 0 < self.threshold < 2:
            raise NestvoxError(f"a threshold is a cosine distance between 0 and 2, got {self.threshold}")
        SpeakerCount(self.fewest, self.most)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def diarize_segment(
    model: SpeakerModel,
    network: PyanNet | None,
    segment: Segment,
    file: str,
    settings: DiarizationSettings,
    *,
    dim: int | None = None,
    progress: Progress = silent,
) -> tuple[Turn, ...]:
    """Find who speaks when in one recording.

    Args:
        model: tells speakers; its encoder has frames.
        network: the segmentation network; None where voice activity alone is asked for.
        segment: the recording.
        file: its name in the turns.
        settings: how.
        dim: prefix of the model's vectors; None: the model's.
        progress: in samples that were heard; every one is heard twice.

    Returns:
        In order; speakers are SPEAKER_00, SPEAKER_01, ... as they come first.

    Raises:
        AudioError: it cannot be read.
        ModelError: the model has no frames.
    """
    length_s = segment.length_s()
    samples = max(1, round(length_s * SAMPLE_RATE))

    def first(done: int, _: int | None) -> None:
        progress(done, 2 * samples)

    def second(done: int, _: int | None) -> None:
        progress(samples + done, 2 * samples)

    found = (
        by_voice_activity(segment, samples, first)
        if network is None
        else by_network(network, segment, samples, settings.step_s, first)
    )
    count = np.floor(found.expected + settings.count_bias).astype(np.int64)
    if not count.any():
        return ()
    heard = speaker_vectors(
        model, segment, found, count, window_s=settings.window_s, hop_s=settings.hop_s, dim=dim, progress=second
    )
    score = _scores(found, heard, count == 1, settings)
    on = highest(score, np.minimum(count, score.shape[1]))
    return _turns(on, file, length_s)


def _scores(found: Segmentation, heard: Vectors, alone: NDArray[np.bool_], settings: DiarizationSettings) -> Floats:
    """How much speaks for each speaker in each frame, (F, K); windows have a say where one speaks alone, (F,)."""
    allowed = SpeakerCount(settings.fewest, settings.most)
    basis = heard.windows
    if not len(basis) and heard.local is not None:  # nobody speaks alone for long
        basis = heard.local[np.isfinite(heard.local[:, :, 0])]
    if not len(basis):  # too little to tell speakers
        return np.ones((found.chunks.frames, 1), np.float32)
    labels = cluster(basis, settings.threshold, smallest=settings.smallest, count=allowed)
    centres = centroids(basis, labels)
    score = np.zeros((found.chunks.frames, len(centres)), np.float32)
    if len(heard.windows):
        likely = _posteriors(found.chunks, heard, centres, settings.temperature)
        score += np.where(alone[:, None], settings.window_weight * likely, 0.0)
    if heard.local is not None and found.activity is not None:
        voted = votes(found.chunks, found.activity, assign(heard.local, centres), len(centres))
        score += voted / found.chunks.heard()[:, None]
    return score


def _posteriors(chunks: Chunks, heard: Vectors, centres: NDArray[np.float64], temperature: float) -> Floats:
    """What windows say about each frame, (F, K): a softmax over cosines, averaged over the windows that hear it.

    Frames that none hears are as the nearest window says where chunks have no say, else nothing is said of them.
    """
    cosines = (heard.windows @ centres.T) / temperature  # (N, K)
    likely = np.exp(cosines - cosines.max(axis=1, keepdims=True))
    likely /= likely.sum(axis=1, keepdims=True)
    total = np.zeros((chunks.frames, len(centres)), np.float32)
    voices = np.zeros(chunks.frames, np.float32)
    edges = np.clip(frame_at(np.stack([heard.begins_s, heard.begins_s + heard.window_s])), 0, chunks.frames)
    for (begin, end), row in zip(edges.T, likely, strict=True):
        total[begin:end] += row
        voices[begin:end] += 1.0
    total /= np.maximum(voices, 1.0)[:, None]
    if heard.local is None:
        silence = np.flatnonzero(voices == 0)
        centre = heard.begins_s + heard.window_s / 2
        place = np.searchsorted(centre[:-1] + np.diff(centre) / 2, (silence * 270 + 495.5) / SAMPLE_RATE)
        total[silence] = likely[place]
    return total


def _turns(on: NDArray[np.bool_], file: str, length_s: float) -> tuple[Turn, ...]:
    found = [stretches(on[:, speaker]) for speaker in range(on.shape[1])]
    speaking = sorted((ones for ones in found if ones), key=lambda ones: ones[0])
    turns: list[Turn] = []
    for number, ones in enumerate(speaking):
        for begin, end in ones:
            if min(end, length_s) > begin:
                turns.append(Turn(file, begin, min(end, length_s) - begin, f"SPEAKER_{number:02d}"))
    return tuple(sorted(turns))
