"""Encoders of other toolkits as models that `extraction.embed.embed_table` takes. Knows no torch.

Notation: B utterances, S samples, D embedding size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import ModelError

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class CallableModel:
    """A function from audio to a vector, with what embedding needs to know about it; `from_callable` makes one.

    Attributes:
        function: maps (S,) float32 to D numbers.
        name: for people.
        fingerprint: 16 hex digits; stores with another one are not compared.
        sample_rate: of the audio that `function` gets, in Hz.
        embedding_dim: D.
        min_duration_s: shortest clip that it takes.
        training_speakers: keys (`corpora.overlap.speaker_key`) of speakers that it was trained on.
        one_at_a_time: `function` is never called while another call of it runs.
    """

    function: Callable[[FloatArray], Any]
    name: str
    fingerprint: str
    sample_rate: int
    embedding_dim: int
    min_duration_s: float
    training_speakers: tuple[str, ...] = ()
    one_at_a_time: bool = True
    _lock: AbstractContextManager[Any] = field(default_factory=Lock, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # A lock cannot be sent to another process, and need not: it guards the calls of one.
        return type(self), tuple(
            getattr(self, item.name) for item in fields(self) if item.init and item.name != "_lock"
        )

    @property
    def dims(self) -> tuple[int, ...]:
        """Only the whole vector: nobody promised that prefixes of it are of use."""
        return (self.embedding_dim,)

    def forward(self, waveforms: Sequence[NDArray[np.floating[Any]]], *, tap: str = "nested") -> FloatArray:
        """Embed B waveforms (S_i,) one after the other: (B, D) float32.

        Raises:
            ModelError: a tap that a plain function has not, no waveform, or a result that is no vector of D finite
                numbers.
        """
        check_tap(self.name, tap)
        if not len(waveforms):
            raise ModelError("forward needs at least one waveform")
        rows = []
        for waveform in waveforms:
            audio = np.ascontiguousarray(waveform, np.float32)
            with self._lock if self.one_at_a_time else nullcontext():
                result = self.function(audio)
            rows.append(checked_vector(result, self.embedding_dim, self.name, len(audio) / self.sample_rate))
        return np.stack(rows)


def from_callable(
    function: Callable[[FloatArray], Any],
    *,
    sample_rate: int,
    name: str,
    embedding_dim: int,
    version: str = "",
    min_duration_s: float = 0.1,
    training_speakers: Sequence[str] = (),
    one_at_a_time: bool = True,
) -> CallableModel:
    """Make a model of any function from audio to a vector.

    Args:
        function: gets (S,) float32, mono, in [-1, 1]; gives D numbers as an array or a tensor, (D,) or (1, D).
        sample_rate: of what it gets, in Hz; files are resampled to it.
        name: of the model; stores remember it.
        embedding_dim: D.
        version: of weights and code behind the function. A function cannot be hashed, so name, version, sample rate
            and size are what the fingerprint stands for: change the version when the function changes.
        min_duration_s: shortest clip that it takes; shorter ones are reported before it is called.
        training_speakers: keys of the speakers that it was trained on.
        one_at_a_time: leave it on unless the function may be called from several threads at once.

    Raises:
        ModelError: a size or a rate that is none.
    """
    if sample_rate < 1 or embedding_dim < 1 or min_duration_s < 0 or not name:
        raise ModelError(
            f"a model needs a name, a sample rate and a size of its vectors, got {name!r}, {sample_rate} Hz, "
            f"{embedding_dim}, and no negative duration, got {min_duration_s}"
        )
    described = json.dumps(["callable", name, version, sample_rate, embedding_dim])
    fingerprint = hashlib.sha256(described.encode()).hexdigest()[:16]
    return CallableModel(
        function,
        name,
        fingerprint,
        sample_rate,
        embedding_dim,
        min_duration_s,
        tuple(training_speakers),
        one_at_a_time,
    )


def check_tap(name: str, tap: str) -> None:
    """Refuse a tap that only an encoder of this package has.

    Raises:
        ModelError: `tap` is neither ``nested`` nor ``embedding``.
    """
    if tap not in {"nested", "embedding"}:
        raise ModelError(f"{name} gives embeddings only and has no tap {tap!r}; use nested or embedding")


def checked_vector(result: Any, embedding_dim: int, name: str, duration_s: float) -> FloatArray:
    """Return what a foreign network gave as (D,) float32.

    Args:
        result: an array or a tensor.
        embedding_dim: D.
        name: of the model, for messages.
        duration_s: of the clip, for messages.

    Raises:
        ModelError: it is not D finite numbers.
    """
    if hasattr(result, "detach"):  # a tensor, maybe on a GPU or with a graph
        result = result.detach().cpu()
    try:
        vector = np.asarray(result, np.float32)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} gave {type(result).__name__}, which is no array of numbers: {error}") from error
    if vector.shape not in {(embedding_dim,), (1, embedding_dim)}:
        raise ModelError(f"{name} gave a result of shape {vector.shape}, expected ({embedding_dim},)")
    if not np.isfinite(vector).all():
        raise ModelError(f"{name} gave values that are not finite for a clip of {duration_s:.2f} s")
    return vector.reshape(embedding_dim)
