"""Logarithmic mel bands alone, as an encoder: what any network that learns from them is held against."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from nestvox.encoders.contract import Affine
from nestvox.encoders.front_ends.log_mel import MelSpectrogram
from nestvox.encoders.pooling import TSTP
from nestvox.encoders.whole_utterances import WholeUtteranceEncoder
from nestvox.schema import StrictModel

_FLOOR = 1e-6


class _Arguments(StrictModel):
    n_mels: Annotated[int, Field(ge=2, le=256)] = 64
    hop: Annotated[int, Field(ge=16, le=16_000)] = 320
    n_fft: Annotated[int, Field(ge=64, le=16_384)] = 512


class LogMelBands(WholeUtteranceEncoder):
    """`frames` are the logarithm of mel power, `pooled` their means and deviations, and `embedding` is the same.

    Args:
        n_mels: C.
        hop: samples from one frame to the next, at 16 kHz.
        n_fft: window, in samples.
    """

    architecture = "log_mel"
    arguments = _Arguments
    sample_rate = 16_000

    def __init__(self, *, n_mels: int = 64, hop: int = 320, n_fft: int = 512) -> None:
        super().__init__()
        self._config = {"n_mels": n_mels, "hop": hop, "n_fft": n_fft}
        self.hop = hop
        self.frame_rate_hz = self.sample_rate / hop
        self.frames_dim = n_mels
        self.pool = TSTP(n_mels)
        self.pooled_dim = self.embedding_dim = self.pool.out_dim
        self.min_samples = hop  # a deviation needs two frames
        self.layer_rates_hz = {"bands": self.frame_rate_hz}
        self.mel = MelSpectrogram(sample_rate=self.sample_rate, n_fft=n_fft, hop=hop, n_mels=n_mels)

    def config(self) -> dict[str, Any]:
        """Return the JSON-serialisable constructor arguments."""
        return dict(self._config)

    def run(self, audio: Tensor, layers: Collection[str]) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Bands of utterances (B, S) without padding."""
        bands = (self.mel(audio, audio.shape[1] // self.hop + 1) + _FLOOR).log().transpose(1, 2)
        return {"frames": bands, "bands": bands}

    def embed(self, pooled: Tensor) -> Tensor:
        """Return them as they are."""
        return pooled

    def projection(self) -> Affine:
        """Return the identity."""
        return Affine.identity(self.embedding_dim)
