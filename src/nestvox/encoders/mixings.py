"""What the blocks of the mixers are made of.

Where time is mixed, maps (B, C, T') lie in memory with the channels of a frame side by side: a product of matrices over
channels and a depth-wise convolution take them as they are, so that a training step on a CPU copies next to nothing.

Notation: B utterances, T' frames, C channels, F bands of a plane, N chunks of K frames, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

VARIANCE_FLOOR = 1e-5


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, T')."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T')."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class GroupedConv(nn.Conv1d):
    """A grouped convolution of size 1, as a product of matrices: torch's own runs group by group on a CPU."""

    def __init__(self, entering: int, leaving: int, groups: int) -> None:
        super().__init__(entering, leaving, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T') to (B, C', T')."""
        weight = self.weight.view(self.groups, -1, self.weight.shape[1])  # (G, leaving, entering) of each group
        product = (weight @ x.reshape(len(x), self.groups, -1, x.shape[2])).flatten(1, 2)
        return product if self.bias is None else product + self.bias[:, None]

    def of_rows(self, rows: Tensor) -> Tensor:
        """Map rows (n, C) of channels, or (G, n, C / G) of each group's, to (G, n, C' / G)."""
        weight = self.weight[:, :, 0]
        if self.groups == 1:
            return functional.linear(rows, weight, self.bias).view(1, rows.shape[-2], -1)
        apart = rows if rows.ndim == 3 else rows.view(len(rows), self.groups, -1).transpose(0, 1)
        weights = weight.view(self.groups, -1, weight.shape[1]).transpose(1, 2)  # (G, C / G, C' / G)
        assert self.bias is not None
        return torch.baddbmm(self.bias.view(self.groups, 1, -1), apart, weights)


class FrameLinear(nn.Conv1d):
    """A convolution of size 1, as a product with the channels of each frame, which lie side by side behind it."""

    def __init__(self, entering: int, leaving: int, *, bias: bool = True) -> None:
        super().__init__(entering, leaving, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T') to (B, C', T')."""
        return functional.linear(x.transpose(1, 2), self.weight[:, :, 0], self.bias).transpose(1, 2)


def _depthwise(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve each channel of (B, C, T') with its kernel of (C, 1, K), as a plane of one row with its channels last.

    torch computes these up to 60 times faster than the same in one dimension on a CPU (32 x 192 x 151, K = 31). The
    channels of a frame lie side by side in the result.
    """
    planes = x[:, :, None].contiguous(memory_format=torch.channels_last)
    padding = (0, weight.shape[2] // 2)
    return functional.conv2d(planes, weight[:, :, None], padding=padding, groups=len(weight))[:, :, 0]


class FrameNorm(nn.BatchNorm1d):
    """Batch norm of (B, C, T') that lets the channels of a frame lie side by side, as they do behind it."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T')."""
        rows = x.transpose(1, 2)
        return super().forward(rows.reshape(-1, rows.shape[2])).view(rows.shape).transpose(1, 2)


class LSTM(nn.Module):
    """The states (B, H, T) of an LSTM over (B, C, T)."""

    def __init__(self, entering: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(entering, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, H, T)."""
        states: Tensor = self.lstm(x.transpose(1, 2))[0]
        return states.transpose(1, 2)


class ResidualLSTM(nn.Module):
    """An LSTM that only hears what came before, added to what it hears.

    Args:
        width: C.
        hidden: size of its state.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.recurrent = LSTM(width, hidden)
        self.linear = nn.Conv1d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T')."""
        residual: Tensor = self.linear(self.recurrent(self.norm(x)))
        return x + residual


class PointwiseMLP(nn.Module):
    """A depth-wise convolution of size 3 and a pointwise grouped MLP: published as token mixing.

    Args:
        width: C.
        expansion: hidden channels over C.
        groups: G.
        dropout: behind both layers.
        id_conv: the convolution is there; without it, no frame hears another.
    """

    def __init__(self, width: int, expansion: int, groups: int, dropout: float, *, id_conv: bool = True) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.depthwise = self.depthwise_norm = None
        if id_conv:
            self.depthwise = nn.Conv1d(width, width, 3, padding=1, groups=width, bias=False)
            self.depthwise_norm = nn.BatchNorm1d(width)
        self.mlp = nn.Sequential(
            GroupedConv(width, expansion * width, groups),
            nn.GELU(),
            nn.Dropout(dropout),
            GroupedConv(expansion * width, width, groups),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T')."""
        h = self.norm(x)
        if self.depthwise is not None and self.depthwise_norm is not None:
            h = h + self.depthwise_norm(_depthwise(h, self.depthwise.weight).contiguous())
        residual: Tensor = self.mlp(h)
        return x + residual


class ChannelMixing(nn.Module):
    """Channel mixing as published: not grouped; of two halves of the hidden channels the maximum goes on.

    Args:
        width: C.
        expansion: hidden channels over C.
        dropout: behind both layers.
        mfm: there are two halves; else one, and no maximum.
    """

    def __init__(self, width: int, expansion: int, dropout: float, *, mfm: bool = True) -> None:
        super().__init__()
        self.mfm = mfm
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, (2 if mfm else 1) * expansion * width)
        self.reduce = nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T')."""
        hidden = self.expand(self.norm(x.transpose(1, 2)))
        if self.mfm:
            hidden = _larger(*hidden.chunk(2, dim=2))
        residual: Tensor = self.dropout(self.reduce(self.dropout(functional.gelu(hidden))))
        return x + residual.transpose(1, 2)


def _larger(one: Tensor, other: Tensor) -> Tensor:
    """The maximum; `torch.maximum` shares the gradient of equals, and takes three times as long for the way back."""
    return torch.where(one > other, one, other)


class TemporalMixing(nn.Module):
    """Frames hear their neighbours by depth-wise convolutions, their chunk by an MLP, and all others by the gates."""

    def __init__(self, width: int, kernels: Sequence[int], chunk: int, shift: int, dropout: float) -> None:
        super().__init__()
        share = width // len(kernels)
        self.norm = FrameNorm(width)
        self.depthwise = nn.ModuleList(
            nn.Conv1d(share, share, kernel, padding=kernel // 2, groups=share, bias=False) for kernel in kernels
        )
        self.largest = max(kernels)
        self.depthwise_norm = FrameNorm(width)
        self.tokens = ChunkMLP(chunk, shift) if chunk else None
        squeezed = max(1, width // 4)
        self.gates = nn.Sequential(nn.Linear(2 * width, squeezed), nn.ReLU(), nn.Linear(squeezed, width), nn.Sigmoid())
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T')."""
        h = self.norm(x)
        # All at once, the small kernels between zeros.
        kernels = list(self.depthwise.parameters())
        sides = [(self.largest - kernel.shape[2]) // 2 for kernel in kernels]
        wide = [functional.pad(kernel, (side, side)) for kernel, side in zip(kernels, sides, strict=True)]
        mixed = functional.gelu(h + self.depthwise_norm(_depthwise(h, torch.cat(wide))))
        if self.tokens is not None:
            mixed = mixed + self.tokens(mixed)
        mean = h.mean(dim=2, keepdim=True)
        # The floor keeps the slope of the root finite where nothing varies.
        deviation = ((h - mean).square().mean(dim=2) + VARIANCE_FLOOR).sqrt()
        gates = self.gates(torch.cat([mean[:, :, 0], deviation], dim=1))  # (B, C)
        residual: Tensor = self.dropout(mixed * gates[:, :, None])
        return x + residual


class ChunkMLP(nn.Module):
    """An MLP from the frames of a chunk to the same frames, the same for every channel.

    Args:
        chunk: K.
        shift: frames of silence before the first chunk begins; the last one is filled up with it.
    """

    def __init__(self, chunk: int, shift: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.shift = shift
        self.mlp = nn.Sequential(nn.Linear(chunk, 2 * chunk), nn.GELU(), nn.Linear(2 * chunk, chunk))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T') to as many frames."""
        frames = x.shape[2]
        filled = functional.pad(x, (self.shift, -(self.shift + frames) % self.chunk))
        mixed: Tensor = self.mlp(filled.reshape(*x.shape[:2], -1, self.chunk)).flatten(2)  # (B, C, N, K) in between
        return mixed[:, :, self.shift : self.shift + frames]


class GroupedChannelMixing(nn.Module):
    """Channel mixing in groups: each takes the maximum of its two halves, and hands a share to every group.

    Args:
        width: C.
        expansion: hidden channels over C.
        groups: G.
        dropout: behind the second layer.
        mfm: there are two halves; else one, and a GELU in place of the maximum.
    """

    def __init__(self, width: int, expansion: int, groups: int, dropout: float, *, mfm: bool = True) -> None:
        super().__init__()
        self.groups = groups
        self.mfm = mfm
        self.norm = FrameNorm(width)
        self.expand = GroupedConv(width, (2 if mfm else 1) * expansion * width, groups)
        self.reduce = GroupedConv(expansion * width, width, groups)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T')."""
        rows = self.norm(x).transpose(1, 2).flatten(0, 1)  # (B T', C)
        hidden = self.expand.of_rows(rows)  # (G, B T', hidden of a group)
        hidden = _larger(*hidden.chunk(2, dim=2)) if self.mfm else functional.gelu(hidden)
        if self.groups > 1:  # unit s of what enters next is of group s mod G, its number s div G
            apart = hidden.view(*hidden.shape[:2], self.groups, -1)  # (G, B T', G of those to come, n)
            hidden = apart.permute(2, 1, 3, 0).flatten(2)
        frames = self.reduce.of_rows(hidden).transpose(0, 1).reshape(len(x), x.shape[2], -1)  # (B, T', C)
        residual: Tensor = self.dropout(frames.transpose(1, 2))
        return x + residual


class Planes(nn.Module):
    """Convolutions over bands and time, (B, F, T) to (B, 2 P F / 4, T'): what a voice does moves along the bands.

    Args:
        bands: F, a multiple of 4.
        planes: P.
        stride: features of which one frame is made: 1, 2 or 4.
    """

    def __init__(self, bands: int, planes: int, stride: int) -> None:
        super().__init__()
        self.out_channels = 2 * planes * (bands // 4)

        def layer(entering: int, leaving: int, strides: tuple[int, int]) -> tuple[nn.Module, nn.Module]:
            return nn.Conv2d(entering, leaving, 3, strides, padding=1, bias=False), nn.BatchNorm2d(leaving)

        first, second = min(stride, 2), max(1, stride // 2)
        self.enter = nn.Sequential(*layer(1, planes, (2, first)), nn.ReLU())
        self.widen = nn.Sequential(*layer(planes, 2 * planes, (2, second)), nn.ReLU())
        self.residual = nn.Sequential(*layer(2 * planes, 2 * planes, (1, 1)), nn.ReLU())
        self.residual.extend(layer(2 * planes, 2 * planes, (1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, T)."""
        plane = x[:, None].contiguous(memory_format=torch.channels_last)
        plane = self.widen(self.enter(plane))
        plane = functional.relu(plane + self.residual(plane))
        return plane.permute(0, 3, 1, 2).flatten(2).transpose(1, 2)
