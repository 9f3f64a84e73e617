"""How fast a run goes: batch size, streams and threads that nobody asked for are tried out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.errors import SilentAudioError
from nestvox.errors import AudioError, NestvoxError
from nestvox.extraction.batches import Piece
from nestvox.extraction.decoding import Decoder
from nestvox.extraction.settings import EmbeddingSettings
from nestvox.extraction.tuning import SIZES, choose
from nestvox.threads import usual_threads

_TRIAL_CLIPS = 64
_TRIAL_DECODING_S = 1.0
_TRIAL_AUDIO_S = 320.0
_TOO_FEW_TO_TRY = 128

# An array for each recording, or what says that there is none.
Forward = Callable[[Sequence[NDArray[np.float32]]], Sequence[Any]]


def try_out(
    forward: Forward, decoder: Decoder, asked: EmbeddingSettings, set_threads: Callable[[int], None], *, model: object
) -> tuple[int, EmbeddingSettings]:
    """Learn the vector size, and choose what was not asked for, from the first utterances that can be read.

    Args:
        forward: the network.
        decoder: of the utterances.
        asked: what is not None stays.
        set_threads: sets the network's number of threads.
        model: on a CPU its `encoder`, if it has one, is tried in several streams.

    Returns:
        The size of a result's last axis, and the settings with a pace.

    Raises:
        AudioError: no utterance at all can be read.
    """
    wanted = 1 if asked.settled or len(decoder.sources) <= _TOO_FEW_TO_TRY else _TRIAL_CLIPS
    clips: list[NDArray[np.float32]] = []
    problem: AudioError | None = None
    dim: int | None = None
    refused: tuple[str, Any] | None = None
    began = time.perf_counter()
    for row in range(len(decoder.sources)):
        pieces, failed = decoder.pieces([row])
        clip = _first_sound(decoder, pieces) if pieces else failed[row]
        if isinstance(clip, AudioError):
            problem = problem or clip
            continue
        if dim is None:
            result = forward([clip])[0]
            if not isinstance(result, np.ndarray):
                refused = refused or (str(decoder.sources[row].segment.path), result)
                continue
            dim = int(result.shape[-1])
        clips.append(clip)
        # Neither slow decoding (a network drive) nor long recordings may make the trial long or large.
        heard_s = sum(len(clip) for clip in clips) / decoder.sample_rate
        if len(clips) == wanted or heard_s > _TRIAL_AUDIO_S or time.perf_counter() - began > _TRIAL_DECODING_S:
            break
    if dim is None and refused is not None:
        path, failure = refused
        if isinstance(failure.error, NestvoxError):
            raise failure.error
        raise AudioError(path, f"{failure.problem}; nor does it take any other of the table's recordings")
    if dim is None:
        assert problem is not None
        raise AudioError(problem.path, f"{problem.problem}; nor can any other of the table's files be used")
    decode_rate = sum(len(clip) for clip in clips) / decoder.sample_rate / (time.perf_counter() - began)
    if wanted == 1:
        return dim, asked
    found = choose(
        forward,
        clips,
        sample_rate=decoder.sample_rate,
        decode_rate=decode_rate,
        set_threads=set_threads,
        thread_counts=_thread_counts() if asked.threads is None else (asked.threads,),
        streams=_stream_count(model) if asked.streams is None else 1,
        sizes=SIZES if asked.batch_size is None else (asked.batch_size,),
    )
    return dim, replace(
        asked,
        batch_size=found.batch_size,
        streams=asked.streams or found.streams,
        threads=found.threads,
        workers=asked.workers or found.workers,
    )


def _first_sound(decoder: Decoder, pieces: Sequence[Piece]) -> NDArray[np.float32] | AudioError:
    """Decode the first piece of an utterance that is no digital silence."""
    for piece in pieces:
        clip = decoder.decode(piece)
        if not isinstance(clip, SilentAudioError):
            break
    return clip


def _stream_count(model: object) -> int:
    """Streams that are worth a try: one for each core, on a CPU."""
    parameters = getattr(getattr(model, "encoder", None), "parameters", None)
    if parameters is None or any(parameter.device.type != "cpu" for parameter in parameters()):
        return 1
    return usual_threads()


def _thread_counts() -> tuple[int, ...]:
    torch = sys.modules.get("torch")
    if torch is None:
        return (0,)
    usual: int = torch.get_num_threads()
    return tuple(dict.fromkeys((usual, max(1, usual // 2), 1)))
