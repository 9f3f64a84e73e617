"""An encoder that is one ONNX graph, from waveforms to embeddings: what compression and export make. Knows no torch.

Notation: S samples, P pooled size, D embedding size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field

from nestvox.encoders.file_encoder import Array, FileEncoder
from nestvox.encoders.foreign.onnx_check import MOST_ONNX_BYTES, check_onnx
from nestvox.encoders.runtime.onnx_graph import EMBEDDING, POOLED, OnnxSession
from nestvox.errors import ModelError
from nestvox.schema import Size, StrictModel, Word

if TYPE_CHECKING:
    from nestvox.encoders.contract import Encoder

_WHERE = "the graph of the model"


class _Graph(StrictModel):
    written_from: Word
    size_bytes: Annotated[int, Field(ge=1, le=MOST_ONNX_BYTES)]
    sample_rate: Annotated[int, Field(ge=1_000, le=768_000)]
    min_samples: Annotated[int, Field(ge=1, le=1 << 24)]
    pooled_dim: Size = 0  # absent: the graph gives the embedding alone
    embedding_dim: Size


class GraphEncoder(FileEncoder):
    """A graph from ``waveform`` (1, S) to ``embedding`` (1, D), and perhaps ``pooled`` (1, P).

    Args:
        written_from: architecture and form, for people.
        size_bytes: of the graph.
        sample_rate: in Hz.
        min_samples: shortest input.
        pooled_dim: P; 0: it gives none.
        embedding_dim: D.
    """

    architecture = "graph"
    arguments = _Graph

    def __init__(
        self,
        *,
        written_from: str,
        size_bytes: int,
        sample_rate: int,
        min_samples: int,
        embedding_dim: int,
        pooled_dim: int = 0,
    ) -> None:
        super().__init__(size_bytes)
        self.written_from = written_from
        self.sample_rate = sample_rate
        self.min_samples = min_samples
        self.pooled_dim = pooled_dim
        self.embedding_dim = embedding_dim
        self.taps = (POOLED, EMBEDDING) if pooled_dim else (EMBEDDING,)

    @classmethod
    def of(cls, content: bytes, encoder: Encoder, form: str) -> Self:
        """Make the encoder of a graph that was written from another encoder."""
        return cls(
            written_from=f"{encoder.architecture}, {form}",
            size_bytes=len(content),
            sample_rate=encoder.sample_rate,
            min_samples=encoder.min_samples,
            pooled_dim=encoder.pooled_dim,
            embedding_dim=encoder.embedding_dim,
        ).hold(content)

    def config(self) -> dict[str, Any]:
        """What `__init__` takes."""
        return {
            "written_from": self.written_from,
            "size_bytes": self.size_bytes,
            "sample_rate": self.sample_rate,
            "min_samples": self.min_samples,
            **({"pooled_dim": self.pooled_dim} if self.pooled_dim else {}),
            "embedding_dim": self.embedding_dim,
        }

    def start(self, content: bytes) -> OnnxSession:
        """Check the graph and open it.

        Raises:
            ModelError: it does not run here.
        """
        if not self.trusted:
            check_onnx(content, _WHERE, n_mels=80)
        try:
            return OnnxSession(content)
        except Exception as error:  # the runtime's exceptions have no common class
            raise ModelError(f"{_WHERE} does not run here: {str(error).splitlines()[0][:300]}") from error

    def one(self, running: OnnxSession, waveform: Array) -> dict[str, Array]:
        """Run the graph once; see `FileEncoder.one`."""
        try:
            found = running.outputs(waveform[None])
        except Exception as error:  # likewise
            raise ModelError(
                f"{_WHERE} fails on {len(waveform)} samples: {str(error).splitlines()[0][:300]}"
            ) from error
        expected = {tap: (1, self.pooled_dim if tap == POOLED else self.embedding_dim) for tap in self.taps}
        shapes = [array.shape for array in found]
        if shapes != [*expected.values()]:
            words = " and ".join(f"{tap} of {size} numbers" for tap, (_, size) in expected.items())
            raise ModelError(f"{_WHERE} gives {shapes}, expected {words}")
        return {tap: array[0] for tap, array in zip(self.taps, found, strict=True)}
