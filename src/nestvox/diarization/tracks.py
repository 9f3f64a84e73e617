"""From chunks whose speakers are known to turns of a recording.

Notation: C chunks, T frames of a chunk, F frames of the recording, K speakers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nestvox.diarization.chunks import Chunks, Floats, seconds_of
from nestvox.diarization.turns import Stretch

Labels = NDArray[np.int64]


def votes(chunks: Chunks, activity: NDArray[np.floating], labels: Labels, speakers: int) -> Floats:
    """How many chunks say that a speaker of the recording is active.

    Args:
        chunks: where they lie.
        activity: (C, T, 3) of each speaker of a chunk, from 0 to 1.
        labels: (C, 3) which of the recording's speakers it is; below 0: none.
        speakers: K.

    Returns:
        (F, K). Of two speakers of one chunk that are the same one, the more active one counts.
    """
    total = np.zeros((chunks.frames, speakers), np.float32)
    for chunk in range(chunks.count):
        said = np.zeros((activity.shape[1], speakers), np.float32)
        for local in np.flatnonzero(labels[chunk] >= 0):
            column = said[:, labels[chunk, local]]
            np.maximum(column, activity[chunk, :, local], out=column)
        total[chunks.first_frame(chunk) :][: len(said)] += said
    return total


def highest(score: NDArray[np.floating], count: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Who is on in each frame: as many as counted, those with the highest scores.

    Args:
        score: (F, K); nobody is on with 0.
        count: (F,) speakers at once.

    Returns:
        (F, K); of equal scores the lower number counts.
    """
    ranks = np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1, kind="stable")
    return (ranks < count[:, None]) & (score > 0)


def stretches(on: NDArray[np.bool_], *, longest_gap_s: float = 0.0, shortest_s: float = 0.0) -> list[Stretch]:
    """Where one speaker is on, from the centre of the first frame to that of the first one behind.

    Args:
        on: (F,).
        longest_gap_s: gaps up to here are closed.
        shortest_s: what then is shorter is left out.
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([False], on, [False]))))
    found: list[Stretch] = []
    for first, behind in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        begin, end = seconds_of(first), seconds_of(min(behind, len(on) - 1))
        if found and begin - found[-1][1] <= longest_gap_s:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return [(begin, end) for begin, end in found if end - begin > shortest_s]
