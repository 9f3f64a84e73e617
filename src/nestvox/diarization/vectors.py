"""Vectors of speakers: an encoder runs once over a recording, and its frames are pooled under many masks.

No sample is ever set to zero, and no stretch is cut out: the network hears the recording as it is, ten seconds at a
time, and a mask says which of its frames count. One forward pass serves the windows of two seconds that the speakers
are found by, and the speakers of all the chunks that lie over it.

Notation: C chunks, F frames of the recording, T frames of the encoder, M masks, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.segment import Segment
from nestvox.diarization.chunks import CHUNK_SAMPLES, FRAMES, SAMPLE_RATE, frame_at
from nestvox.diarization.segmentation import Segmentation, blocks
from nestvox.errors import ModelError
from nestvox.heads.contract import normalise
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Progress, silent

_STRETCH_S = 10.0
_FEWEST_CLEAN_S = 0.06  # of a chunk's speaker alone, else where others speak too counts as well
_FEWEST_S = 0.06
_SHARE = 0.5  # of a window in which one speaker alone must be heard

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Vectors:
    """What a recording's speakers are told by.

    Attributes:
        windows: (N, D) of windows in which one speaks alone.
        begins_s: (N,) where each window begins.
        window_s: how long they are.
        local: (C, 3, D) of the speakers of each chunk, NaN where nobody is active; None: there are none.
    """

    windows: Floats
    begins_s: NDArray[np.float64]
    window_s: float
    local: Floats | None


@dataclass(frozen=True, eq=False)
class _Frames:
    """Frames of the encoder: (T, channels), and the time of the centre of each."""

    values: Floats
    centres_s: NDArray[np.float64]

    def since(self, begin_s: float) -> _Frames:
        kept = self.centres_s >= begin_s
        return _Frames(self.values[kept], self.centres_s[kept])


def speaker_vectors(
    model: SpeakerModel,
    segment: Segment,
    found: Segmentation,
    count: NDArray[np.int64],
    *,
    window_s: float,
    hop_s: float,
    dim: int | None = None,
    progress: Progress = silent,
) -> Vectors:
    """Embed windows and chunk speakers of a recording.

    Args:
        model: whose encoder has frames.
        segment: the recording.
        found: its segmentation.
        count: (F,) how many speak at once.
        window_s: length of a window.
        hop_s: from one to the next.
        dim: prefix of the vectors; None: the model's.
        progress: in samples.

    Raises:
        ModelError: the encoder is a closed box without frames, or hears another rate than 16 kHz.
    """
    if "frames" not in model.encoder.taps or model.sample_rate != SAMPLE_RATE:
        raise ModelError(
            f"{model.name} cannot be pooled under masks: diarization needs an encoder with frames at {SAMPLE_RATE} Hz"
        )
    chunks = found.chunks
    size = model.check_dim(dim)
    begins = np.arange(0.0, max(chunks.samples / SAMPLE_RATE - window_s / 2, hop_s), hop_s)
    kept, vectors = [], []
    local = None if found.active is None else np.full((chunks.count, found.active.shape[2], size), np.nan, np.float32)
    next_window = next_chunk = 0
    held = _Frames(np.zeros((0, model.encoder.frames_dim), np.float32), np.zeros(0))
    for end_s, last, more in _frames(model, segment, chunks.samples, count):
        held = _Frames(np.concatenate([held.values, more.values]), np.concatenate([held.centres_s, more.centres_s]))
        places = np.clip(frame_at(held.centres_s), 0, len(count) - 1)
        ready = [begin for begin in begins[next_window:] if last or begin + window_s <= end_s]
        next_window += len(ready)
        masks = [_window(held, begin, window_s, count[places] == 1) for begin in ready]
        full = window_s * model.encoder.frame_rate_hz * _SHARE
        chosen = [number for number, mask in enumerate(masks) if mask.sum() >= max(full, 2)]
        for number, vector in zip(chosen, _pooled(model, held.values, [masks[k] for k in chosen], size), strict=True):
            if np.isfinite(vector).all():
                kept.append(ready[number])
                vectors.append(vector)
        while local is not None and found.active is not None and next_chunk < chunks.count:
            begin_s = next_chunk * chunks.step / SAMPLE_RATE
            if not last and begin_s + CHUNK_SAMPLES / SAMPLE_RATE > end_s:
                break
            local[next_chunk] = _of_chunk(model, held, begin_s, found.active[next_chunk], size)
            next_chunk += 1
        open_s = min(next_chunk * chunks.step / SAMPLE_RATE if local is not None else end_s, end_s - window_s)
        held = held.since(open_s - hop_s)
        progress(min(round(end_s * SAMPLE_RATE), chunks.samples), chunks.samples)
    found_vectors = np.stack(vectors) if vectors else np.zeros((0, size), np.float32)
    return Vectors(found_vectors, np.array(kept), window_s, local)


def _frames(
    model: SpeakerModel, segment: Segment, samples: int, count: NDArray[np.int64]
) -> Iterator[tuple[float, bool, _Frames]]:
    """Run the encoder over stretches; yield where each ends, whether it is the last, and its frames.

    Where nobody speaks the network does not run.
    """
    size = int(_STRETCH_S * SAMPLE_RATE)
    rate = model.encoder.frame_rate_hz
    for first, block in blocks(segment, samples, size, size):
        audio = block[: samples - first]
        begin_s, end_s = first / SAMPLE_RATE, (first + len(audio)) / SAMPLE_RATE
        spoken = count[max(0, int(frame_at(np.array(begin_s)))) : int(frame_at(np.array(end_s))) + 1].any()
        values = np.zeros((0, model.encoder.frames_dim), np.float32)
        if spoken and audio.any() and len(audio) >= model.encoder.min_samples:
            values = model.forward([audio], tap="frames", sample_rate=SAMPLE_RATE)[0]
        centres_s = begin_s + (np.arange(len(values), dtype=np.float64) + 0.5) / rate
        yield end_s, first + size >= samples, _Frames(values, centres_s)


def _window(held: _Frames, begin_s: float, window_s: float, alone: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (held.centres_s >= begin_s) & (held.centres_s < begin_s + window_s)
    return inside & alone


def _of_chunk(
    model: SpeakerModel, held: _Frames, begin_s: float, active: NDArray[np.uint8], size: int
) -> NDArray[np.float32]:
    """Vectors (3, D) of the speakers of a chunk: from where each is alone, or from all of it where that is little."""
    found = np.full((active.shape[1], size), np.nan, np.float32)
    places = frame_at(held.centres_s - begin_s)
    inside = (places >= 0) & (places < FRAMES)
    rows = active[np.clip(places, 0, FRAMES - 1)].astype(bool) & inside[:, None]  # (T, 3)
    alone = rows & (rows.sum(axis=1) == 1)[:, None]
    rate = model.encoder.frame_rate_hz
    masks = [alone[:, k] if alone[:, k].sum() > _FEWEST_CLEAN_S * rate else rows[:, k] for k in range(active.shape[1])]
    chosen = [k for k, mask in enumerate(masks) if mask.sum() >= max(_FEWEST_S * rate, 2)]
    for k, vector in zip(chosen, _pooled(model, held.values, [masks[k] for k in chosen], size), strict=True):
        found[k] = vector
    return found


def _pooled(model: SpeakerModel, frames: Floats, masks: Sequence[NDArray[np.bool_]], size: int) -> Floats:
    """Unit vectors (M, D) of frames (T, channels) under masks (T,); NaN where the network gives zeros or no numbers."""
    import torch  # noqa: PLC0415  an extra

    if not masks:
        return np.zeros((0, size), np.float32)
    encoder = model.encoder
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        values = torch.from_numpy(np.ascontiguousarray(frames.T))[None].to(device)
        pooled = encoder.pool(values, torch.from_numpy(np.stack(masks))[None].to(device))[0]
        tapped = pooled if model.head is not None and model.head.tap == "pooled" else encoder.embed(pooled)
    vectors: Floats = tapped.float().cpu().numpy()
    if model.head is not None:
        vectors = model.head.transform(vectors)
    vectors = vectors[:, :size]
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)  # (M, 1)
    usable = np.isfinite(norms) & (norms > 0)
    return np.where(usable, normalise(np.where(usable, vectors, 1.0)), np.nan).astype(np.float32)
