"""The one-dimensional block of ReDimNet: a flat map is narrowed, hears its whole utterance, and is widened again.

Modules are named as in the released checkpoints. Its cost grows with the square of the frames where it attends.

Notation: B utterances, W channels of a flat map, H hidden channels, T frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.redimnet.blocks import ChannelNorm, ConvNeXtBlock
from nestvox.errors import ModelError

_HEADS = 4
_NORM_EPS = 1e-6
_POSITIONS = 59


class TemporalBlock(nn.Module):
    """x plus: 1x1 convolution to H channels, normalisation, layers over time, 1x1 convolution back.

    Args:
        channels: W.
        hidden: H.
        kind: the layers over time: ``conv+att``: four convolutions of growing reach, then attention; ``att``: attention
            after a convolution that tells positions; ``conv``: four triples of convolutions; ``fc``: none, each frame
            by itself.

    Raises:
        ModelError: an unknown kind, or H that its heads cannot share.
    """

    def __init__(self, channels: int, hidden: int, kind: str) -> None:
        super().__init__()
        if hidden < 1:
            raise ModelError(f"stages_setup: the reduction leaves none of {channels} channels")
        self.red_dim_conv = nn.Sequential(nn.Conv1d(channels, hidden, 1), ChannelNorm(hidden))
        self.tcm = nn.Sequential(*_layers(hidden, kind))
        self.exp_dim_conv = nn.Conv1d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, W, T) to the same shape."""
        changed: Tensor = self.exp_dim_conv(self.tcm(self.red_dim_conv(x)))
        return x + changed


def _layers(hidden: int, kind: str) -> list[nn.Module]:
    if kind == "conv+att":
        reaches = [ConvNeXtBlock(hidden, [(kernel,)], groups=hidden) for kernel in (7, 19, 31, 59)]
        return [*reaches, AttentionLayer(hidden, hidden)]
    if kind == "att":
        return [Positions(hidden), AttentionLayer(hidden, 2 * hidden)]
    if kind == "conv":
        return [ConvNeXtBlock(hidden, [(7,), (15,), (31,)], groups=hidden) for _ in range(4)]
    if kind == "fc":
        wide = 2 * hidden
        return [nn.Conv1d(hidden, wide, 1), ChannelNorm(wide), nn.GELU(), nn.Conv1d(wide, hidden, 1)]
    raise ModelError(f"unknown block_1d_type {kind!r}; known: att, conv, conv+att, fc")


class Positions(nn.Module):
    """Tells each frame where it is among its neighbours: x plus a normalised convolution of each channel.

    Args:
        channels: H.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, _POSITIONS, padding=_POSITIONS // 2, groups=channels)
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, T) to the same shape."""
        told: Tensor = self.norm(self.conv(x))
        return x + told


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % _HEADS:
            raise ModelError(f"stages_setup: {_HEADS} heads cannot share {channels} hidden channels")
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Let every frame of (B, T, H) attend to all frames."""
        query, key, value = (
            projection(x).unflatten(2, (_HEADS, -1)).transpose(1, 2)  # (B, heads, T, H / heads)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        heard = functional.scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.out_proj(heard.transpose(1, 2).flatten(2))
        return mixed


class _FeedForward(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(channels, hidden)
        self.output_dense = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        # The tanh form of GELU here, the exact one in the convolution blocks: the networks were trained so.
        changed: Tensor = self.output_dense(functional.gelu(self.intermediate_dense(x), approximate="tanh"))
        return changed


class AttentionLayer(nn.Module):
    """A transformer layer with its normalisations behind the sums.

    Args:
        channels: H.
        hidden: units of its feed-forward part.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.attention = _Attention(channels)
        self.layer_norm = nn.LayerNorm(channels, eps=_NORM_EPS)
        self.feed_forward = _FeedForward(channels, hidden)
        self.final_layer_norm = nn.LayerNorm(channels, eps=_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, T) to the same shape."""
        rows = x.transpose(1, 2)
        rows = self.layer_norm(rows + self.attention(rows))
        rows = self.final_layer_norm(rows + self.feed_forward(rows))
        return torch.transpose(rows, 1, 2)
