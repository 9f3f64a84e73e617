"""CAM++ arranged for torch on a CPU: normalisations folded into the convolutions before them, products for the rest.

Notation as in `campplus.campplus`; H channels within a layer of a block, G channels that it adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.campplus.campplus import SEGMENT, over_segments
from nestvox.encoders.runtime.folding import Arranged, folded, scale_and_shift


def arrange(encoder: Any) -> None:
    """Put the faster form into the places of head and blocks of a `CAMPPlus`; what is behind the pooling stays."""
    encoder.head = _Head(encoder.head)
    trunk = encoder.xvector
    trunk.tdnn = _Convolution(trunk.tdnn.linear, trunk.tdnn.nonlinear.batchnorm, relu=True)
    for number in range(1, trunk.n_blocks + 1):
        block, transit = (trunk.get_submodule(f"{name}{number}") for name in ("block", "transit"))
        behind = trunk.out_nonlinear.batchnorm if number == trunk.n_blocks else None
        half = _Product(transit.linear, behind, relu=behind is not None)
        setattr(trunk, f"block{number}", nn.Sequential(*map(_Layer, block)))
        setattr(trunk, f"transit{number}", nn.Sequential(_NormRelu(transit.nonlinear.batchnorm), half))
    trunk.out_nonlinear = nn.Identity()


class _Convolution(Arranged):
    """A convolution over planes or lines, with the normalisation behind it."""

    def __init__(self, conv: nn.Conv1d | nn.Conv2d, norm: nn.Module, *, relu: bool) -> None:
        weight, bias = folded(conv, norm)
        planes = isinstance(conv, nn.Conv2d)
        super().__init__(weight.contiguous(memory_format=torch.channels_last) if planes else weight, bias)
        self.run: Callable[..., Tensor] = functional.conv2d if planes else functional.conv1d
        self.stride, self.padding, self.relu = conv.stride, conv.padding, relu

    def forward(self, x: Tensor) -> Tensor:
        y = self.run(x, self.weight, self.bias, stride=self.stride, padding=self.padding)
        return y.relu_() if self.relu else y


class _Head(nn.Module):
    """Planes with their channels side by side, which is what 3x3 convolutions of 32 channels are fastest on."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        first = _Convolution(head.conv1, head.bn1, relu=True)
        last = _Convolution(head.conv2, head.bn2, relu=True)
        self.chain = nn.Sequential(first, *map(_HeadBlock, (*head.layer1, *head.layer2)), last)

    def forward(self, features: Tensor) -> Tensor:
        planes: Tensor = self.chain(features[:, None].contiguous(memory_format=torch.channels_last))
        return planes.flatten(1, 2)


class _HeadBlock(nn.Module):
    def __init__(self, block: Any) -> None:
        super().__init__()
        self.first = _Convolution(block.conv1, block.bn1, relu=True)
        self.second = _Convolution(block.conv2, block.bn2, relu=False)
        self.shortcut = _Convolution(*block.shortcut, relu=False) if len(block.shortcut) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.second(self.first(x))
        return hidden.add_(self.shortcut(x)).relu_()


class _NormRelu(Arranged):
    bias: Tensor

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        scale, shift = (part.to(norm.weight.dtype)[:, None] for part in scale_and_shift(norm))
        super().__init__(scale, shift)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, x, self.weight).relu_()


class _Product(Arranged):
    """A convolution of size one over lines (B, C, T'), with the normalisation behind it."""

    def __init__(self, conv: nn.Module, norm: nn.Module | None, *, relu: bool) -> None:
        weight, bias = folded(conv, norm)
        super().__init__(weight[:, :, 0].contiguous(), None if bias is None else bias[:, None])
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y = torch.matmul(self.weight, x)
        if self.bias is not None:
            y += self.bias
        return y.relu_() if self.relu else y


class _Layer(nn.Module):
    """A layer of a block; its convolution of three frames is one product, whose thirds are moved and added."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        gate = layer.cam_layer
        self.norm = _NormRelu(layer.nonlinear1.batchnorm)
        self.narrow = _Product(layer.linear1, layer.nonlinear2.batchnorm, relu=True)
        kernels = gate.linear_local.weight.detach()  # (G, H, 3)
        self.local = Arranged(kernels.permute(2, 0, 1).flatten(0, 1).contiguous(), None)
        self.growth, self.dilation = len(kernels), gate.linear_local.dilation[0]
        self.squeeze = _Product(gate.linear1, None, relu=True)
        self.excite = _Product(gate.linear2, None, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.narrow(self.norm(x))  # (B, H, T')
        context = hidden.mean(dim=2, keepdim=True) + over_segments(hidden)
        gates = self.excite(self.squeeze(context)).sigmoid_().repeat_interleave(SEGMENT, dim=2)
        before, local, after = torch.split(torch.matmul(self.local.weight, hidden), self.growth, dim=1)
        local[:, :, self.dilation :] += before[:, :, : -self.dilation]
        local[:, :, : -self.dilation] += after[:, :, self.dilation :]
        return torch.cat([x, local.mul_(gates[:, :, : x.shape[2]])], dim=1)
