"""What is trained on frozen latents: a weighted sum of layers, a small network over time, a pooling, an embedding.

Notation: B utterances, L layers, C channels, T frames, W width, D embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from nestvox.encoders.ecapa import Res2Block, tdnn_layer
from nestvox.encoders.pooling import ASTP, TSTP, Pooling
from nestvox.errors import ModelError

WIDTH = 128
_AGGREGATED = 384
_HIGHEST_RATE_HZ = 30.0
_DROPOUT = 0.1


class Adapter(nn.Module):
    """Frames of frozen layers to an embedding.

    Args:
        trunk: see `TRUNKS`.
        mean: (L, C), of frames.
        deviation: (L, C), likewise; every channel enters standardised.
        dim: D.
        frame_rate_hz: of the frames; those of more than 30 Hz enter a trunk at half of it.

    Attributes:
        weights: (L,) logits of the sum over layers; with one layer there is nothing to learn.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, trunk: str, mean: Tensor, deviation: Tensor, *, dim: int, frame_rate_hz: float) -> None:
        super().__init__()
        if trunk not in TRUNKS:
            raise ModelError(f"unknown network {trunk!r}; known: {', '.join(TRUNKS)}")
        n_layers, channels = mean.shape
        self.register_buffer("mean", mean[:, :, None])
        self.register_buffer("deviation", deviation.clamp(min=1e-5)[:, :, None])
        self.weights = nn.Parameter(torch.zeros(n_layers), requires_grad=n_layers > 1)
        self.dropout = nn.Dropout1d(_DROPOUT)
        self.trunk, self.pool = TRUNKS[trunk](channels, 2 if frame_rate_hz > _HIGHEST_RATE_HZ else 1)
        self.pooled_norm = nn.BatchNorm1d(self.pool.out_dim)
        self.linear = nn.Linear(self.pool.out_dim, dim)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, L, C, T), all of them real, to (B, D)."""
        each = (frames - self.mean) / self.deviation
        mixed = (each * self.weights.softmax(dim=0)[:, None, None]).sum(dim=1)
        pooled = self.pooled_norm(self.pool(self.trunk(self.dropout(mixed))))
        embedding: Tensor = self.norm(self.linear(pooled))
        return embedding


class _Transformer(nn.Module):
    """Convolution of 5 frames, sinusoidal positions, three layers of attention."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.front = nn.Conv1d(channels, WIDTH, 5, stride=stride, padding=2)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, dropout=_DROPOUT, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, W, T')."""
        steps = self.front(x).transpose(1, 2)
        out: Tensor = self.layers(steps + _positions(steps)).transpose(1, 2)
        return out


def _positions(steps: Tensor) -> Tensor:
    """Sinusoids (T, W) as in A. Vaswani et al., "Attention is all you need", NeurIPS 2017."""
    place = torch.arange(steps.shape[1], device=steps.device)[:, None]
    rate = torch.exp(torch.arange(0, WIDTH, 2, device=steps.device) * (-math.log(10_000.0) / WIDTH))
    return torch.cat([(place * rate).sin(), (place * rate).cos()], dim=1)


class _Ecapa(nn.Module):
    """Three Res2 blocks of growing dilation, aggregated, as ECAPA-TDNN has them; see `encoders.ecapa`."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.AvgPool1d(stride, ceil_mode=True), tdnn_layer(channels, WIDTH, kernel=5))
        self.blocks = nn.ModuleList(Res2Block(WIDTH, 8, dilation, WIDTH // 2) for dilation in (2, 3, 4))
        self.aggregate = nn.Sequential(nn.Conv1d(3 * WIDTH, _AGGREGATED, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, 384, T')."""
        total, outputs = self.front(x), []
        for block in self.blocks:
            outputs.append(block(total))
            total = total + outputs[-1]
        out: Tensor = self.aggregate(torch.cat(outputs, dim=1))
        return out


def _statistics(channels: int, stride: int) -> tuple[nn.Module, Pooling]:  # noqa: ARG001  no network, no stride
    return nn.Identity(), TSTP(channels)


def _attentive(channels: int, stride: int) -> tuple[nn.Module, Pooling]:  # noqa: ARG001
    return nn.Identity(), ASTP(channels, global_context=True)


def _transformer(channels: int, stride: int) -> tuple[nn.Module, Pooling]:
    return _Transformer(channels, stride), ASTP(WIDTH, global_context=True)


def _ecapa(channels: int, stride: int) -> tuple[nn.Module, Pooling]:
    return _Ecapa(channels, stride), ASTP(_AGGREGATED, global_context=True)


TRUNKS: Mapping[str, Callable[[int, int], tuple[nn.Module, Pooling]]] = {
    "statistics": _statistics,
    "attentive": _attentive,
    "transformer": _transformer,
    "ecapa": _ecapa,
}
"""By name: from channels and stride to what comes before the pooling, and the pooling."""
