"""ECAPA-TDNN, written from its paper: Res2 blocks with squeeze and excitation, aggregated into attentive statistics.

Source: B. Desplanques, J. Thienpondt and K. Demuynck, "ECAPA-TDNN: Emphasized channel attention, propagation and
aggregation in TDNN based speaker verification", Interspeech 2020. Different from it: the features, which are
`NormalisedLogMel` and not MFCC.

Notation: B utterances, T frames, C channels, P pooled size.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.contract import Affine
from nestvox.encoders.front_ends.log_mel import NormalisedLogMel
from nestvox.encoders.pooling import ASTP
from nestvox.encoders.whole_utterances import LogMelEncoder
from nestvox.errors import ModelError
from nestvox.schema import StrictModel

_RATE_HZ = 100.0
_DILATIONS = (2, 3, 4)

Width = Annotated[int, Field(ge=1, le=4096)]
Dilation = Annotated[int, Field(ge=1, le=100)]


class _Arguments(StrictModel):
    channels: Width = 512
    aggregated: Width = 1536
    scale: Annotated[int, Field(ge=2, le=64)] = 8
    bottleneck: Width = 128
    dilations: list[Dilation] = Field(default=list(_DILATIONS), min_length=1, max_length=16)
    embedding_dim: Width = 192


class ECAPA(LogMelEncoder):
    """`frames` at 100 Hz are made of the outputs of all blocks, `pooled` their weighted means and deviations.

    6,191,104 parameters with 512 channels. Layers are ``features``, ``front``, and ``block1`` and so on.

    Args:
        channels: C of every block; the paper has 512 and 1024.
        aggregated: of the frames.
        scale: parts of a block's channels of which each hears the one before it.
        bottleneck: hidden units of the gates and of the attention.
        dilations: of the blocks.
        embedding_dim: D.

    Raises:
        ModelError: the scale cannot share the channels.
    """

    architecture = "ecapa"
    frame_rate_hz = _RATE_HZ
    arguments = _Arguments

    def __init__(
        self,
        *,
        channels: int = 512,
        aggregated: int = 1536,
        scale: int = 8,
        bottleneck: int = 128,
        dilations: Sequence[int] = _DILATIONS,
        embedding_dim: int = 192,
    ) -> None:
        if channels % scale:
            raise ModelError(f"ecapa: a scale of {scale} cannot share {channels} channels")
        config = {
            "channels": channels,
            "aggregated": aggregated,
            "scale": scale,
            "bottleneck": bottleneck,
            "dilations": list(dilations),
            "embedding_dim": embedding_dim,
        }
        super().__init__(ASTP(aggregated, global_context=True, bottleneck=bottleneck), embedding_dim, config)
        self.frames_dim = aggregated
        self.front = tdnn_layer(NormalisedLogMel.n_mels, channels, kernel=5)
        self.blocks = nn.ModuleList(Res2Block(channels, scale, dilation, bottleneck) for dilation in dilations)
        self.aggregate = nn.Sequential(nn.Conv1d(len(dilations) * channels, aggregated, 1), nn.ReLU())
        self.pooled_norm = nn.BatchNorm1d(self.pooled_dim)
        names = ("features", "front", *(f"block{number}" for number in range(1, len(dilations) + 1)))
        self.layer_rates_hz = dict.fromkeys(names, _RATE_HZ)

    def trunk(self, features: Tensor, layers: Collection[str]) -> dict[str, Tensor]:  # noqa: ARG002
        """Map features (B, 80, T) to the layers and frames, (B, C, T) each."""
        total = self.front(features)
        kept = {"front": total}
        outputs = []
        for number, block in enumerate(self.blocks, start=1):
            outputs.append(block(total))
            kept[f"block{number}"] = outputs[-1]
            total = total + outputs[-1]  # a block hears the sum of all before it
        return {**kept, "frames": self.aggregate(torch.cat(outputs, dim=1))}

    def embed(self, pooled: Tensor) -> Tensor:
        """Map pooled vectors (..., P) to embeddings (..., D)."""
        rows = self.pooled_norm(pooled.reshape(-1, self.pooled_dim))
        return super().embed(rows).reshape(*pooled.shape[:-1], -1)

    def projection(self) -> Affine:
        """Both batch norms and the linear layer between them as one map; exact."""
        return Affine.of(self.pooled_norm, self.linear, self.norm)


def tdnn_layer(entering: int, leaving: int, *, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution over time, ReLU and batch norm; (B, entering, T) to (B, leaving, T)."""
    padding = kernel // 2 * dilation
    conv = nn.Conv1d(entering, leaving, kernel, dilation=dilation, padding=padding)
    return nn.Sequential(conv, nn.ReLU(), nn.BatchNorm1d(leaving))


class Res2Block(nn.Module):
    """Convolutions that hear one another, between two of size 1, gated by the mean over time."""

    def __init__(self, channels: int, scale: int, dilation: int, bottleneck: int) -> None:
        super().__init__()
        self.enter = tdnn_layer(channels, channels)
        share = channels // scale
        self.parts = nn.ModuleList(tdnn_layer(share, share, kernel=3, dilation=dilation) for _ in range(scale - 1))
        self.leave = tdnn_layer(channels, channels)
        self.squeeze = nn.Linear(channels, bottleneck)
        self.excite = nn.Linear(bottleneck, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to the same shape."""
        first, *others = self.enter(x).chunk(len(self.parts) + 1, dim=1)
        heard = [first]
        for number, (part, other) in enumerate(zip(self.parts, others, strict=True)):
            heard.append(part(other + heard[-1] if number else other))
        y = self.leave(torch.cat(heard, dim=1))
        gates: Tensor = self.excite(functional.relu(self.squeeze(y.mean(dim=2)))).sigmoid()
        gated: Tensor = y * gates[:, :, None]
        return x + gated
