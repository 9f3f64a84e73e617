"""A network of another toolkit in an ONNX file, as an encoder with one tap. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Self

from pydantic import Field

from nestvox.encoders.file_encoder import Array, FileEncoder
from nestvox.encoders.foreign.onnx_model import OnnxFile, OnnxNetwork, encoder_config
from nestvox.encoders.front_ends.kaldi_fbank import KaldiFbank
from nestvox.encoders.runtime.onnx_graph import EMBEDDING
from nestvox.errors import ModelError
from nestvox.schema import Size, StrictModel

_SOURCE = "the ONNX file of the model"


class _Onnx(StrictModel):
    size_bytes: Annotated[int, Field(ge=1, le=1 << 40)]
    embedding_dim: Size
    min_samples: Annotated[int, Field(ge=1, le=1 << 24)]
    front_end: dict[str, Any]
    output: Annotated[str, Field(min_length=1, max_length=1000)] | None = None


class OnnxEncoder(FileEncoder):
    """Filter banks and an ONNX network behind them.

    Args:
        size_bytes: of the file.
        embedding_dim: D.
        min_samples: shortest input.
        front_end: fields of `KaldiFbank`.
        output: name of the output that is the embedding; None: the file has one only.
    """

    architecture = "onnx"
    arguments = _Onnx

    def __init__(
        self,
        *,
        size_bytes: int,
        embedding_dim: int,
        min_samples: int,
        front_end: Mapping[str, Any],
        output: str | None = None,
    ) -> None:
        super().__init__(size_bytes)
        self.front_end = KaldiFbank(**front_end)
        self.sample_rate = self.front_end.sample_rate
        self.embedding_dim = embedding_dim
        self.output = output
        self.min_samples = min_samples

    @classmethod
    def from_file(cls, file: OnnxFile) -> Self:
        """Make the encoder of a file.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            ModelError: not a network from such filter banks to embeddings.
        """
        running = OnnxNetwork(file.content, file.front_end, file.source, output=file.output)
        encoder = cls(**encoder_config(file, running.embedding_dim, running.output)).hold(file.content)
        encoder.running = running
        return encoder

    def config(self) -> dict[str, Any]:
        """Size of file and embedding, shortest input, and the filter banks."""
        return {
            "size_bytes": self.size_bytes,
            "embedding_dim": self.embedding_dim,
            "min_samples": self.min_samples,
            "front_end": asdict(self.front_end),
            **({} if self.output is None else {"output": self.output}),
        }

    def start(self, content: bytes) -> OnnxNetwork:
        """Open the network; see `FileEncoder.start`."""
        network = OnnxNetwork(content, self.front_end, _SOURCE, output=self.output)
        if network.embedding_dim != self.embedding_dim:
            raise ModelError(
                f"{_SOURCE} gives {network.embedding_dim} numbers, its configuration says {self.embedding_dim}"
            )
        return network

    def one(self, running: OnnxNetwork, waveform: Array) -> dict[str, Array]:
        """Filter banks and network once; see `FileEncoder.one`."""
        row = running(waveform)
        if row.shape != (self.embedding_dim,):
            raise ModelError(f"{running.source}: gave {row.shape[0]} numbers, and {self.embedding_dim} for others")
        return {EMBEDDING: row}
