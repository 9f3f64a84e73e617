"""A ReDimNet kept as rows, for torch on a CPU: equal outputs to rounding, fewer and faster steps.

A ReDimNet keeps its flat maps as (B, f c, T) and its planes as (B, c, f, T), so every way from one to the other copies
the map, and its grouped convolutions find channels far apart in memory. Here both are *rows*: a flat map is
(B, T, f c), a plane (B, T, f, c), and the one is a view of the other. With channels last in memory

- 1x1 convolutions, and those whose kernel is their stride, are matrix products of rows;
- grouped convolutions see their channels side by side, and groups of fewer channels than a vector register holds are
  joined until they fill one (the joined blocks hold zeros between the groups);
- normalisations with stored statistics are folded into the convolution before them, in float64.

Notation: B utterances, T frames, f frequencies, c channels, W = f c channels of a flat map, H hidden channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.redimnet.blocks import (
    Block2d,
    ChannelNorm,
    ConvNeXtBlock,
    Flatten,
    FrequencyGate,
    MapSum,
    ResNetBlock,
    Unflatten,
)
from nestvox.encoders.redimnet.ends import fold_ends
from nestvox.encoders.redimnet.network import ReDimNetEncoder
from nestvox.encoders.redimnet.redimnet import ReDimNet
from nestvox.encoders.redimnet.redimnet2 import Repeat
from nestvox.encoders.redimnet.temporal import AttentionLayer, Positions, TemporalBlock
from nestvox.encoders.runtime.folding import Arranged, Product, fewer_groups, folded, joined, scale_and_shift, scaled
from nestvox.errors import ModelError


def arrange_rows(encoder: ReDimNetEncoder) -> None:
    """Rearrange an encoder in place; its backbone still maps features (B, 1, F, T) to frames (B, C, T).

    Raises:
        ModelError: the network holds a module that has no such form.
    """
    backbone, last = encoder.backbone, "mfa" if isinstance(encoder, ReDimNet) else "head"
    for name, child in list(backbone.named_children()):
        made: Callable[[list[nn.Module]], list[nn.Module]] = _stem if name == "stem" else _as_rows
        items = made(list(child) if isinstance(child, nn.Sequential) else [child])
        setattr(backbone, name, items[0] if len(items) == 1 else nn.Sequential(*items))
    setattr(backbone, last, nn.Sequential(backbone.get_submodule(last), _ToFrames()))
    fold_ends(encoder)


def _as_rows(items: Sequence[nn.Module]) -> list[nn.Module]:
    """Modules in sequence to modules that do the same to rows; a normalisation is folded where it can be."""
    made: list[nn.Module] = []
    position = 0
    while position < len(items):
        item = items[position]
        position += 1
        if isinstance(item, nn.Conv1d | nn.Conv2d):
            norm = items[position] if position < len(items) else None
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                position += 1
                made.append(_convolution(item, norm))
            else:
                made.append(_convolution(item, None))
        elif isinstance(item, nn.Sequential):
            made += _as_rows(list(item))
        elif type(item) in _ARRANGED:
            made.append(_ARRANGED[type(item)](item))
        else:
            raise ModelError(f"{type(item).__name__} has no form for inference")
    return made


def _stem(items: Sequence[nn.Module]) -> list[nn.Module]:
    conv, *others = items
    return [_Stem(conv), *_as_rows(others)]


def _convolution(conv: nn.Conv1d | nn.Conv2d, norm: nn.Module | None) -> nn.Module:
    weight, bias = folded(conv, norm)
    kernel = tuple(conv.kernel_size)
    if conv.groups == 1 and max(kernel) == 1 == max(conv.stride):
        return Product(weight.flatten(1), bias)
    if kernel == tuple(conv.stride):
        return _Step(joined(weight, conv.groups, 1), bias)
    return _PlaneConvolution(weight, bias, conv.groups)


class _Step(Arranged):
    """A convolution whose kernel is its stride: each piece of the plane is one row of a product."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        out, _, self.freqs, self.frames = weight.shape
        super().__init__(weight.permute(0, 3, 2, 1).reshape(out, -1), bias)

    def forward(self, plane: Tensor) -> Tensor:
        n, frames, freqs, channels = plane.shape
        pieces = plane.reshape(n, frames // self.frames, self.frames, freqs // self.freqs, self.freqs, channels)
        # A view where the step is in frequency only.
        return functional.linear(pieces.transpose(2, 3).flatten(3), self.weight, self.bias)


class _PlaneConvolution(Arranged):
    """A convolution that keeps the plane's size, over channels that lie side by side."""

    def __init__(self, weight: Tensor, bias: Tensor | None, groups: int) -> None:
        self.groups = fewer_groups(groups, weight.shape[1] * groups, weight.shape[0])
        turned = joined(weight, groups, self.groups).transpose(2, 3)  # time is the height of a plane of rows
        super().__init__(turned.contiguous(memory_format=torch.channels_last), bias)

    def forward(self, plane: Tensor) -> Tensor:
        x = plane.permute(0, 3, 1, 2)  # (B, c, T, f), channels last in memory
        heard = functional.conv2d(x, self.weight, self.bias, padding="same", groups=self.groups)
        return heard.permute(0, 2, 3, 1)


class _Stem(Arranged):
    """The first convolution, features (B, 1, F, T) to a plane. One channel gains nothing from being last."""

    def __init__(self, conv: nn.Module) -> None:
        weight, bias = folded(conv, None)
        super().__init__(weight.transpose(2, 3).contiguous(), bias)

    def forward(self, features: Tensor) -> Tensor:
        heard = functional.conv2d(features.transpose(2, 3), self.weight, self.bias, padding="same")  # (B, c, T, F)
        return heard.permute(0, 2, 3, 1).contiguous()


class _Affine(Arranged):
    """A normalisation with stored statistics that cannot be folded: padding or an activation is between."""

    def __init__(self, norm: nn.Module) -> None:
        dtype = next(norm.parameters()).dtype
        scale, shift = (part.to(dtype) for part in scale_and_shift(norm))
        super().__init__(scale, shift)

    def forward(self, rows: Tensor) -> Tensor:
        assert self.bias is not None
        return torch.addcmul(self.bias, rows, self.weight)


class _RowsMapSum(Arranged):
    def __init__(self, original: MapSum) -> None:
        super().__init__(original.w.double().softmax(dim=1)[0, :, :, 0].to(original.w.dtype), None)  # (K, W)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        if len(maps) == 1:
            return maps[0]
        total = maps[0] * self.weight[0]
        for number in range(1, len(maps)):
            total.addcmul_(maps[number], self.weight[number])
        return total


class _RowsUnflatten(nn.Module):
    def __init__(self, original: Unflatten) -> None:
        super().__init__()
        self.shape = original.shape

    def forward(self, rows: Tensor) -> Tensor:
        return rows.reshape(*rows.shape[:2], *self.shape)


class _RowsFlatten(nn.Module):
    def __init__(self, original: Flatten) -> None:  # noqa: ARG002  has nothing to say
        super().__init__()

    def forward(self, plane: Tensor) -> Tensor:
        return plane.flatten(2)


class _RowsChannelNorm(Arranged):
    def __init__(self, original: ChannelNorm) -> None:
        super().__init__(original.weight.detach(), original.bias.detach())

    def forward(self, rows: Tensor) -> Tensor:
        return functional.layer_norm(rows, self.weight.shape, self.weight, self.bias, eps=1e-6)


class _RowsConvNeXt(nn.Module):
    """Works on planes, and on flat maps as planes of one frequency."""

    def __init__(self, original: ConvNeXtBlock) -> None:
        super().__init__()
        parts, first = [], 0
        scale, shift = scale_and_shift(original.norm)
        for conv in original.dwconvs:
            assert isinstance(conv, nn.Conv1d | nn.Conv2d)
            part = slice(first, first + conv.out_channels)
            weight, bias = scaled(conv, scale[part], shift[part])
            parts.append(_PlaneConvolution(weight if weight.ndim == 4 else weight[:, :, None], bias, conv.groups))
            first = part.stop
        self.parts = nn.ModuleList(parts)
        self.act = original.act
        self.back = _convolution(original.pwconv1, None)

    def forward(self, x: Tensor) -> Tensor:
        plane = x if x.ndim == 4 else x[:, :, None]
        parts = [part(plane) for part in self.parts]
        heard = parts[0] if len(parts) == 1 else torch.cat(parts, dim=3)
        changed: Tensor = self.back(self.act(heard))
        return changed.reshape(x.shape).add_(x)


class _RowsGate(nn.Module):
    def __init__(self, original: FrequencyGate) -> None:
        super().__init__()
        self.squeeze, self.excite = original.squeeze, original.exitation

    def forward(self, plane: Tensor) -> Tensor:
        gate = self.excite(functional.relu(self.squeeze(plane.mean(dim=(1, 3))))).sigmoid()  # (B, f)
        scaled: Tensor = plane * gate[:, None, :, None]
        return scaled


class _RowsResNet(nn.Module):
    def __init__(self, original: ResNetBlock) -> None:
        super().__init__()
        dense = isinstance(original.conv1pw, nn.Identity)
        first = [original.conv1] if dense else [original.conv1, original.conv1pw]
        self.first = nn.Sequential(*_as_rows(first))
        self.norm = _Affine(original.bn1)
        second = [original.conv2, original.bn2] if dense else [original.conv2, original.conv2pw, original.bn2]
        self.second = nn.Sequential(*_as_rows(second))
        self.gate = _RowsGate(original.se) if isinstance(original.se, FrequencyGate) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.second(self.norm(self.first(x).relu_()))
        changed: Tensor = self.gate(hidden)
        return changed.add_(x).relu_()


class _RowsPositions(nn.Module):
    def __init__(self, original: Positions) -> None:
        super().__init__()
        weight, bias = folded(original.conv, None)
        self.conv = _PlaneConvolution(weight[:, :, None], bias, original.conv.groups)
        self.norm = _RowsChannelNorm(original.norm)

    def forward(self, rows: Tensor) -> Tensor:
        told: Tensor = self.norm(self.conv(rows[:, :, None])[:, :, 0])
        return told.add_(rows)


class _RowsAttention(nn.Module):
    """Query, key and value are one product."""

    def __init__(self, original: AttentionLayer, heads: int = 4) -> None:
        super().__init__()
        attention = original.attention
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.heads = heads
        self.enter = Product(torch.cat([p.weight for p in projections]), torch.cat([p.bias for p in projections]))
        self.leave = attention.out_proj
        self.first_norm, self.last_norm = original.layer_norm, original.final_layer_norm
        self.feed_forward = original.feed_forward

    def forward(self, rows: Tensor) -> Tensor:
        query, key, value = self.enter(rows).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        heard = functional.scaled_dot_product_attention(query, key, value)  # (B, heads, T, H / heads)
        rows = self.first_norm(self.leave(heard.transpose(1, 2).flatten(2)).add_(rows))
        changed: Tensor = self.last_norm(self.feed_forward(rows).add_(rows))
        return changed


class _RowsTemporal(nn.Module):
    def __init__(self, original: TemporalBlock) -> None:
        super().__init__()
        self.inner = nn.Sequential(*_as_rows([original.red_dim_conv, original.tcm, original.exp_dim_conv]))

    def forward(self, rows: Tensor) -> Tensor:
        changed: Tensor = self.inner(rows)
        return changed.add_(rows)


class _RowsRepeat(nn.Module):
    def __init__(self, original: Repeat) -> None:
        super().__init__()
        self.times = original.times

    def forward(self, rows: Tensor) -> Tensor:
        return rows if self.times == 1 else rows.repeat_interleave(self.times, dim=1)


class _RowsGroupNorm(Arranged):
    def __init__(self, original: nn.GroupNorm) -> None:
        super().__init__(original.weight.detach(), original.bias.detach())
        self.groups, self.eps = original.num_groups, original.eps

    def forward(self, rows: Tensor) -> Tensor:
        assert self.bias is not None
        share = rows.shape[2] // self.groups

        def over_groups(channels: Tensor) -> Tensor:  # (B, W), the mean of a group at each of its channels
            groups = channels.reshape(-1, self.groups, share).mean(dim=2)
            return groups.repeat_interleave(share, dim=1)

        mean = over_groups(rows.mean(dim=1))
        variance = over_groups((rows - mean[:, None]).square_().mean(dim=1))
        scale = (variance + self.eps).rsqrt() * self.weight
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None], rows, scale[:, None])


class _ToFrames(nn.Module):
    """Rows to the `frames` of an encoder, (B, C, T) without a copy; of a plane, channels before frequencies."""

    def forward(self, rows: Tensor) -> Tensor:
        flat = rows.transpose(2, 3).flatten(2) if rows.ndim == 4 else rows
        return flat.transpose(1, 2)


def _block(original: Block2d) -> nn.Module:
    inner = original.conv_block
    return _RowsResNet(inner) if isinstance(inner, ResNetBlock) else _RowsConvNeXt(inner)  # type: ignore[arg-type]


_ARRANGED: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    AttentionLayer: _RowsAttention,
    Block2d: _block,
    ChannelNorm: _RowsChannelNorm,
    ConvNeXtBlock: _RowsConvNeXt,
    Flatten: _RowsFlatten,
    MapSum: _RowsMapSum,
    Positions: _RowsPositions,
    Repeat: _RowsRepeat,
    TemporalBlock: _RowsTemporal,
    Unflatten: _RowsUnflatten,
    nn.BatchNorm1d: _Affine,
    nn.BatchNorm2d: _Affine,
    nn.GELU: lambda original: original,
    nn.GroupNorm: _RowsGroupNorm,
    nn.Identity: lambda original: original,
}
