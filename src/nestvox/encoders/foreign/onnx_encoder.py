"""A network of another toolkit in an ONNX file, as an encoder with one tap; its weights are the file itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor

from nestvox.encoders.contract import Encoder, Tap, Taps
from nestvox.encoders.foreign.onnx_model import OnnxFile, OnnxNetwork, encoder_config
from nestvox.encoders.front_ends.kaldi_fbank import KaldiFbank
from nestvox.encoders.pooling import Pooling
from nestvox.errors import ModelError
from nestvox.schema import Size, StrictModel


class _Onnx(StrictModel):
    size_bytes: Annotated[int, Field(ge=1, le=1 << 40)]
    embedding_dim: Size
    min_samples: Annotated[int, Field(ge=1, le=1 << 24)]
    front_end: dict[str, Any]
    output: Annotated[str, Field(min_length=1, max_length=1000)] | None = None


class _ClosedBox(Pooling):
    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Refuse."""
        raise ModelError("the onnx network is a closed box: it shows no frames, and nothing of its own pools others")


class OnnxEncoder(Encoder):
    """Filter banks and an ONNX network behind them, run by ONNX Runtime on the CPU, one utterance at a time.

    The file's bytes are a tensor of the module, `network`: they are saved with a model, enter its fingerprint, and load
    strictly like any weight. Gradients do not pass.

    Args:
        size_bytes: of the file.
        embedding_dim: D.
        min_samples: shortest input.
        front_end: fields of `KaldiFbank`.
        output: name of the output that is the embedding; None: the file has one only.
    """

    architecture = "onnx"
    arguments = _Onnx
    taps: tuple[Tap, ...] = ("embedding",)
    frame_rate_hz = 100.0
    frames_dim = 0
    pooled_dim = 0
    network: Tensor

    def __init__(
        self,
        *,
        size_bytes: int,
        embedding_dim: int,
        min_samples: int,
        front_end: Mapping[str, Any],
        output: str | None = None,
    ) -> None:
        super().__init__()
        self.front_end = KaldiFbank(**front_end)
        self.sample_rate = self.front_end.sample_rate
        self.embedding_dim = embedding_dim
        self.output = output
        self.min_samples = min_samples
        self.pool = _ClosedBox(0)
        self.register_buffer("network", torch.zeros(size_bytes, dtype=torch.uint8))
        self._running: tuple[tuple[int, int], OnnxNetwork] | None = None

    @classmethod
    def from_file(cls, file: OnnxFile) -> Self:
        """Make the encoder of a file.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            ModelError: not a network from such filter banks to embeddings.
        """
        running = OnnxNetwork(file.content, file.front_end, file.source, output=file.output)
        encoder = cls(**encoder_config(file, running.embedding_dim, running.output))
        encoder.network.copy_(torch.frombuffer(bytearray(file.content), dtype=torch.uint8))
        encoder._running = encoder._bytes_state(), running
        return encoder

    def config(self) -> dict[str, Any]:
        """Size of file and embedding, shortest input, and the filter banks."""
        return {
            "size_bytes": len(self.network),
            "embedding_dim": self.embedding_dim,
            "min_samples": self.min_samples,
            "front_end": asdict(self.front_end),
            **({} if self.output is None else {"output": self.output}),
        }

    def forward(self, audio: Tensor, lengths: Tensor | None = None, *, layers: Collection[str] = ()) -> Taps:
        """Run the network once for each utterance; frames and pooled vectors are empty, (B, 0, 0) and (B, 0).

        Raises:
            ModelError: as `Encoder.forward`, or the file fails, or gives values that are not finite.
        """
        lengths = self.check_input(audio, lengths, layers)
        network = self._started()
        waves = audio.detach().to("cpu", torch.float32).numpy()
        rows = [torch.from_numpy(network(wave[:length])) for wave, length in zip(waves, lengths.tolist(), strict=True)]
        for row in rows:
            if row.shape != (self.embedding_dim,):
                raise ModelError(f"{network.source}: gave {row.shape[0]} numbers, and {self.embedding_dim} for others")
        embedding = torch.stack(rows)
        if not embedding.isfinite().all():
            raise ModelError(f"{network.source}: gave values that are not finite")
        n = len(rows)
        return Taps(torch.zeros(n, 0, 0), torch.zeros(n, 0, dtype=torch.bool), torch.zeros(n, 0), embedding)

    def _started(self) -> OnnxNetwork:
        version = self._bytes_state()
        running = self._running  # another thread may replace it meanwhile
        if running is None or running[0] != version:
            network = OnnxNetwork(
                self.network.numpy().tobytes(), self.front_end, "the ONNX file of the model", output=self.output
            )
            if network.embedding_dim != self.embedding_dim:
                raise ModelError(
                    f"the ONNX file of the model gives {network.embedding_dim} numbers, its configuration says "
                    f"{self.embedding_dim}"
                )
            running = version, network
            self._running = running
        return running[1]

    def _bytes_state(self) -> tuple[int, int]:
        return self.network.data_ptr(), self.network._version

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_running": None}  # a session can be neither pickled nor copied

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: ARG002
        return self  # the bytes of a file have no device and no precision
