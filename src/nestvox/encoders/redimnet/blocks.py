"""Two-dimensional blocks of ReDimNet, and its ways between maps of one and of two dimensions.

Modules are named as in the released checkpoints, spelling included. Source: I. Yakovlev et al., "Reshape dimensions
network for speaker recognition", Interspeech 2024.

Notation: B utterances, c channels, f frequencies, T frames. A flat map is (B, f * c, T), frequency the slow index.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestvox.errors import ModelError

_NORM_EPS = 1e-6


def groups_of(channels: int, group_divisor: int | None, *, entering: int | None = None) -> int:
    """Groups of a convolution that gives `channels`: as many as `group_divisor` goes into them; None: dense.

    Rounded down, as in the official network: b1, with a divisor of 8, has one group of 12 where there are 12 channels.

    Args:
        channels: that it gives.
        group_divisor: channels in each group, where it divides them.
        entering: channels that it takes; None: as many.

    Raises:
        ModelError: there is no such number of groups, or the channels cannot be divided among them.
    """
    if group_divisor is None:
        return 1
    groups = channels // group_divisor if group_divisor > 0 else 0
    entering = channels if entering is None else entering
    if groups < 1 or channels % groups or entering % groups:
        raise ModelError(f"group_divisor {group_divisor} makes {groups} groups of {entering} to {channels} channels")
    return groups


def scaled_channels(channels: int, factor: float) -> int:
    """`channels` times `factor`, cut off to a whole number as the published networks do.

    Raises:
        ModelError: nothing is left.
    """
    scaled = int(channels * factor)
    if scaled < 1:
        raise ModelError(f"an expansion of {factor} leaves none of {channels} channels")
    return scaled


class Flatten(nn.Module):
    """(B, c, f, T) to (B, f * c, T)."""

    def forward(self, x: Tensor) -> Tensor:
        """Flatten, frequency the slow index."""
        return x.transpose(1, 2).flatten(1, 2)


class Unflatten(nn.Module):
    """(B, f * c, T) to (B, c, f, T); the inverse of `Flatten`.

    Args:
        freqs: f.
        channels: c.
    """

    def __init__(self, freqs: int, channels: int) -> None:
        super().__init__()
        self.shape = (freqs, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Unflatten."""
        return x.reshape(x.shape[0], *self.shape, x.shape[2]).transpose(1, 2)


class ChannelNorm(nn.Module):
    """Layer normalisation over dimension 1 of a (B, c, T) or (B, c, f, T) tensor.

    Args:
        channels: c.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every place by itself."""
        last = functional.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, _NORM_EPS)
        return last.movedim(-1, 1)


class MapSum(nn.Module):
    """Weighted sum of the flat maps so far; for each channel, the weights of all maps are a softmax.

    Args:
        n_maps: K. One map alone keeps its values, and its parameter is not trained.
        channels: of a flat map; 1 where a checkpoint stores one number for a single map.
    """

    def __init__(self, n_maps: int, channels: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, n_maps, channels, 1), requires_grad=n_maps > 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map K tensors (B, CF, T) to one."""
        if len(maps) == 1:
            return maps[0]
        weights = self.w.softmax(dim=1)  # (1, K, CF, 1)
        total = weights[:, 0] * maps[0]
        for number in range(1, len(maps)):
            total = torch.addcmul(total, weights[:, number], maps[number])
        return total


class ConvNeXtBlock(nn.Module):
    """x plus: grouped convolutions side by side, batch normalisation, activation, 1x1 convolution back.

    Args:
        channels: c.
        kernels: one kernel for each of the parallel convolutions; pairs in two dimensions, one number in one.
        groups: of each convolution.
        activation: between normalisation and 1x1 convolution.
    """

    def __init__(
        self, channels: int, kernels: Sequence[tuple[int, ...]], *, groups: int, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        flat = len(kernels[0]) == 1
        conv: type[nn.Conv1d | nn.Conv2d] = nn.Conv1d if flat else nn.Conv2d
        norm: type[nn.BatchNorm1d | nn.BatchNorm2d] = nn.BatchNorm1d if flat else nn.BatchNorm2d
        self.dwconvs = nn.ModuleList(
            conv(channels, channels, kernel, padding="same", groups=groups)  # type: ignore[arg-type]
            for kernel in kernels
        )
        self.norm = norm(channels * len(kernels))
        self.act = nn.GELU() if activation is None else activation
        self.pwconv1 = conv(channels * len(kernels), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, ...) to the same shape."""
        parts = [conv(x) for conv in self.dwconvs]
        heard = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        changed: Tensor = self.pwconv1(self.act(self.norm(heard)))
        return x + changed


class FrequencyGate(nn.Module):
    """Squeeze and excitation along frequency: every frequency is scaled by a number between 0 and 1.

    Args:
        freqs: f.
        hidden: units between.
    """

    def __init__(self, freqs: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(freqs, hidden)
        self.exitation = nn.Linear(hidden, freqs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, f, T) to the same shape."""
        energy = x.mean(dim=(1, 3))  # (B, f)
        gate = self.exitation(functional.relu(self.squeeze(energy))).sigmoid()
        scaled: Tensor = x * gate[:, None, :, None]
        return scaled


class ResNetBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; grouped ones are each followed by a dense 1x1 convolution.

    The first activation comes before its normalisation, unlike elsewhere.

    Args:
        channels: c.
        freqs: f.
        group_divisor: channels in each group; None: dense, and no 1x1 convolutions.
        gated: with a `FrequencyGate` before the sum.
    """

    def __init__(self, channels: int, freqs: int, *, group_divisor: int | None, gated: bool) -> None:
        super().__init__()
        groups = groups_of(channels, group_divisor)

        def conv() -> nn.Conv2d:
            return nn.Conv2d(channels, channels, 3, padding=1, bias=False, groups=groups)

        def pointwise() -> nn.Module:
            return nn.Identity() if group_divisor is None else nn.Conv2d(channels, channels, 1)

        self.conv1 = conv()
        self.conv1pw = pointwise()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv()
        self.conv2pw = pointwise()
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = FrequencyGate(freqs, min(64, max(channels, 32))) if gated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, f, T) to the same shape."""
        hidden = self.bn1(functional.relu(self.conv1pw(self.conv1(x))))
        hidden = self.bn2(self.conv2pw(self.conv2(hidden)))
        return functional.relu(self.se(hidden) + x)


class Block2d(nn.Module):
    """The place in a checkpoint's names of a two-dimensional block.

    Args:
        block: the block itself.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.conv_block = block

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, f, T) to the same shape."""
        changed: Tensor = self.conv_block(x)
        return changed


def block_2d(
    kind: str, channels: int, freqs: int, *, group_divisor: int | None, kernels: Sequence[tuple[int, int]]
) -> Block2d:
    """Build one two-dimensional block.

    Args:
        kind: ``convnext_like``, ``convnext_like_relu``, ``basic_resnet`` or ``basic_resnet_fwse``.
        channels: c.
        freqs: f.
        group_divisor: channels in each group of its convolutions; None: dense.
        kernels: of the `convnext_like` kinds; the others are 3x3.

    Raises:
        ModelError: an unknown kind, or channels that cannot be grouped so.
    """
    if kind in {"convnext_like", "convnext_like_relu"}:
        activation = nn.ReLU() if kind.endswith("relu") else nn.GELU()
        groups = groups_of(channels, group_divisor)
        return Block2d(ConvNeXtBlock(channels, kernels, groups=groups, activation=activation))
    if kind in {"basic_resnet", "basic_resnet_fwse"}:
        gated = kind.endswith("fwse")
        return Block2d(ResNetBlock(channels, freqs, group_divisor=group_divisor, gated=gated))
    raise ModelError(
        f"unknown block_2d_type {kind!r}; known: basic_resnet, basic_resnet_fwse, convnext_like, convnext_like_relu"
    )
