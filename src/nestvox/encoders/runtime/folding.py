"""Normalisations folded into the convolutions before them, and narrow groups of convolutions joined.

Both leave a network's results as they are, up to rounding, and its weights in fewer, wider pieces.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.runtime.onnx_graph import GraphWriter

# Channels of one register of AVX2 in float32: narrower groups leave lanes of it empty.
_LANES = 8


class Arranged(nn.Module):
    """Part of a network for inference, whose tensors are computed from those of the original."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)


class Product(Arranged):
    """A convolution of size one, as a product with every row."""

    def forward(self, rows: Tensor) -> Tensor:
        """Map (..., entering) to (..., leaving)."""
        return functional.linear(rows, self.weight, self.bias)


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a normalisation with stored statistics does to each channel, in float64."""
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def scaled(conv: nn.Module, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution whose channels are scaled and shifted (C,) behind it, in float64."""
    assert isinstance(conv, nn.Conv1d | nn.Conv2d)
    weight = conv.weight.detach()
    moved = shift if conv.bias is None else conv.bias.detach().double() * scale + shift
    wide = weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))
    return wide.to(weight.dtype), moved.to(weight.dtype)


def folded(conv: nn.Module, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution with the normalisation behind it, or without one."""
    assert isinstance(conv, nn.Conv1d | nn.Conv2d)
    if norm is not None:
        return scaled(conv, *scale_and_shift(norm))
    return conv.weight.detach(), None if conv.bias is None else conv.bias.detach()


def constant(tensor: Tensor) -> NDArray[np.float32]:
    """The numbers of a tensor, for a graph."""
    return tensor.detach().float().numpy()


def write_norm(graph: GraphWriter, x: str, norm: nn.Module) -> str:
    """Write a normalisation that cannot be folded into a graph, and return its value's name."""
    scale, shift = (constant(part) for part in scale_and_shift(norm))
    nothing = np.zeros_like(shift)
    return graph.op("BatchNormalization", x, scale, shift, nothing, nothing + 1, epsilon=0.0)


def joined(weight: Tensor, groups: int, into: int) -> Tensor:
    """Kernels of `groups` groups as those of the fewer groups `into`, with zeros where a group does not look."""
    if groups == into:
        return weight
    out, share = weight.shape[0] // groups, weight.shape[1]
    wide = weight.new_zeros(weight.shape[0], share * (groups // into), *weight.shape[2:])
    for group in range(groups):
        column = group % (groups // into) * share
        wide[group * out : (group + 1) * out, column : column + share] = weight[group * out : (group + 1) * out]
    return wide


def fewer_groups(groups: int, entering: int, leaving: int) -> int:
    """Number of groups after joining narrow neighbours; groups of one channel are a case that libraries know."""
    if groups == 1 or entering == leaving == groups:
        return groups
    for join in range(1, groups + 1):
        if groups % join == 0 and leaving // groups * join % _LANES == 0 and entering // groups * join >= _LANES:
            return groups // join
    return groups
