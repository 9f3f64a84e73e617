"""An encoder that is one ONNX graph, from waveforms to pooled vectors and embeddings: what compression makes of one.

Notation: B utterances, S samples, P pooled size, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nestvox.encoders.contract import Encoder, Tap, Taps
from nestvox.encoders.foreign.onnx_check import MOST_ONNX_BYTES, check_onnx
from nestvox.encoders.pooling import Pooling
from nestvox.encoders.runtime.onnx_graph import OnnxSession
from nestvox.encoders.runtime.whole_graph import EMBEDDING, POOLED
from nestvox.errors import ModelError
from nestvox.schema import Size, StrictModel, Word

_WHERE = "the graph of the model"


class _Graph(StrictModel):
    written_from: Word
    size_bytes: Annotated[int, Field(ge=1, le=MOST_ONNX_BYTES)]
    sample_rate: Annotated[int, Field(ge=1_000, le=768_000)]
    min_samples: Annotated[int, Field(ge=1, le=1 << 24)]
    pooled_dim: Size
    embedding_dim: Size


class _NoFrames(Pooling):
    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Refuse."""
        raise ModelError("a graph shows no frames, and nothing of its own pools others")


class GraphEncoder(Encoder):
    """A graph that ONNX Runtime runs on the CPU, one utterance at a time; its bytes are the tensor `network`.

    So they are saved with a model, enter its fingerprint and load strictly like any weight. Gradients do not pass.

    Args:
        written_from: architecture and form, for people.
        size_bytes: of the graph.
        sample_rate: in Hz.
        min_samples: shortest input.
        pooled_dim: P.
        embedding_dim: D.
    """

    architecture = "graph"
    arguments = _Graph
    taps: tuple[Tap, ...] = ("pooled", "embedding")
    frame_rate_hz = 100.0
    frames_dim = 0
    network: Tensor

    def __init__(
        self,
        *,
        written_from: str,
        size_bytes: int,
        sample_rate: int,
        min_samples: int,
        pooled_dim: int,
        embedding_dim: int,
    ) -> None:
        super().__init__()
        self.written_from = written_from
        self.sample_rate = sample_rate
        self.min_samples = min_samples
        self.pooled_dim = pooled_dim
        self.embedding_dim = embedding_dim
        self.pool = _NoFrames(0)
        self.register_buffer("network", torch.zeros(size_bytes, dtype=torch.uint8))
        self._running: tuple[tuple[int, int], OnnxSession] | None = None

    @classmethod
    def of(cls, content: bytes, encoder: Encoder, form: str) -> Self:
        """Make the encoder of a graph that was written from another encoder."""
        graph = cls(
            written_from=f"{encoder.architecture}, {form}",
            size_bytes=len(content),
            sample_rate=encoder.sample_rate,
            min_samples=encoder.min_samples,
            pooled_dim=encoder.pooled_dim,
            embedding_dim=encoder.embedding_dim,
        )
        graph.network.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        return graph.eval()

    def config(self) -> dict[str, Any]:
        """What `__init__` takes."""
        return {
            "written_from": self.written_from,
            "size_bytes": len(self.network),
            "sample_rate": self.sample_rate,
            "min_samples": self.min_samples,
            "pooled_dim": self.pooled_dim,
            "embedding_dim": self.embedding_dim,
        }

    def forward(self, audio: Tensor, lengths: Tensor | None = None, *, layers: Collection[str] = ()) -> Taps:
        """Run the graph once for each utterance; frames are empty, (B, 0, 0).

        Raises:
            ModelError: as `Encoder.forward`, or the graph fails, or gives what it does not promise.
        """
        lengths = self.check_input(audio, lengths, layers)
        session = self._started()
        waves = audio.detach().to("cpu", torch.float32).numpy()
        pooled, embedding = [], []
        for wave, length in zip(waves, lengths.tolist(), strict=True):
            try:
                found = session.outputs(np.ascontiguousarray(wave[None, :length]))
            except Exception as error:  # the runtime's exceptions have no common class
                raise ModelError(f"{_WHERE} fails on {length} samples: {str(error).splitlines()[0][:300]}") from error
            shapes = [array.shape for array in found]
            if shapes != [(1, self.pooled_dim), (1, self.embedding_dim)]:
                raise ModelError(
                    f"{_WHERE} gives {shapes}, expected {POOLED} of {self.pooled_dim} and {EMBEDDING} of "
                    f"{self.embedding_dim} numbers"
                )
            pooled.append(torch.from_numpy(found[0]))
            embedding.append(torch.from_numpy(found[1]))
        n = len(pooled)
        whole = torch.cat(embedding)
        if not whole.isfinite().all():
            raise ModelError(f"{_WHERE} gave values that are not finite")
        return Taps(torch.zeros(n, 0, 0), torch.zeros(n, 0, dtype=torch.bool), torch.cat(pooled), whole)

    def _started(self) -> OnnxSession:
        version = self.network.data_ptr(), self.network._version
        running = self._running  # another thread may replace it meanwhile
        if running is None or running[0] != version:
            content = self.network.numpy().tobytes()
            check_onnx(content, _WHERE, n_mels=80)
            try:
                running = version, OnnxSession(content)
            except Exception as error:  # likewise
                raise ModelError(f"{_WHERE} does not run here: {str(error).splitlines()[0][:300]}") from error
            self._running = running
        return running[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_running": None}  # a session can be neither pickled nor copied

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: ARG002
        return self  # the bytes of a file have no device and no precision
