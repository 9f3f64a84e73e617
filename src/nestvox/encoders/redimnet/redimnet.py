"""ReDimNet: a network whose stages alternate between maps of time and frequency and flat maps of time.

Source: I. Yakovlev et al., "Reshape dimensions network for speaker recognition", Interspeech 2024 (arXiv 2407.18223).

Notation: B utterances, F mel bands, C base channels, W = C F channels of every flat map, T frames.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.redimnet.blocks import (
    ChannelNorm,
    Flatten,
    MapSum,
    Unflatten,
    block_2d,
    groups_of,
    scaled_channels,
)
from nestvox.encoders.redimnet.config import ReDimNetConfig, Stage
from nestvox.encoders.redimnet.network import ReDimNetEncoder
from nestvox.encoders.redimnet.temporal import TemporalBlock


class ReDimNet(ReDimNetEncoder):
    """ReDimNet b0 to b6, M, S and relatives, built from the `model_config` of a checkpoint.

    Args:
        model_config: keys of `ReDimNetConfig`.

    Raises:
        ModelError: an unknown key, or a configuration that describes no network.
    """

    architecture = "redimnet"

    def __init__(self, **model_config: Any) -> None:
        config = ReDimNetConfig.of(model_config)
        backbone = _Backbone(config)
        frames_dim = config.out_channels or config.C * config.F
        super().__init__(config, backbone, map_names=backbone.map_names, frames_dim=frames_dim)


class _Backbone(nn.Module):
    def __init__(self, config: ReDimNetConfig) -> None:
        super().__init__()
        stages = config.stages()
        width = config.C * config.F
        self.dropout = config.feat_agg_dropout
        self.n_stages = len(stages)
        self.map_names = ("stem", *(f"stage{number}" for number in range(self.n_stages)))
        self.stem = stem(config.C)
        channels, freqs = config.C, config.F
        for number, stage in enumerate(stages):
            self.add_module(f"stage{number}", _stage(config, stage, number, channels, freqs))
            channels, freqs = channels * stage.freq_stride, freqs // stage.freq_stride
        self.fin_wght1d = MapSum(self.n_stages + 1, width)
        self.mfa: nn.Module = nn.Identity()
        if config.out_channels is not None:
            out = config.out_channels
            self.mfa = nn.Sequential(nn.Conv1d(width, out, 1), nn.BatchNorm1d(out))

    def forward(self, features: Tensor, kept: dict[str, Tensor] | None = None) -> Tensor:
        """Map (B, 1, F, T) to (B, W or out_channels, T); `kept` takes the maps."""
        maps = [self.stem(features)]
        for number in range(self.n_stages):
            made = self.get_submodule(f"stage{number}")(maps)
            maps.append(functional.dropout(made, self.dropout, self.training))
        if kept is not None:
            kept.update(zip(self.map_names, maps, strict=True))
        frames: Tensor = self.mfa(self.fin_wght1d(maps))
        return frames


def stem(channels: int) -> nn.Sequential:
    """Features (B, 1, F, T) to the first flat map (B, C F, T).

    Args:
        channels: C.
    """
    return nn.Sequential(nn.Conv2d(1, channels, 3, padding="same"), ChannelNorm(channels), Flatten())


def _stage(config: ReDimNetConfig, stage: Stage, number: int, channels: int, freqs: int) -> nn.Sequential:
    """Flat maps so far to the next; entered with `channels` and `freqs`."""
    stride = stage.freq_stride
    out, out_freqs = channels * stride, freqs // stride
    inner = scaled_channels(out, stage.expansion)
    items: list[nn.Module] = [
        # A single map needs no weights; checkpoints store one number for it.
        MapSum(number + 1, 1 if number == 0 else channels * freqs),
        Unflatten(freqs, channels),
        nn.Conv2d(channels, inner, (stride, 1), stride=(stride, 1)),
    ]
    items += (
        block_2d(config.block_2d_type, inner, out_freqs, group_divisor=config.group_divisor, kernels=stage.kernels)
        for _ in range(stage.n_blocks)
    )
    if stage.expansion != 1:
        items.append(_squeeze(inner, out, config.group_divisor))
    items.append(Flatten())
    if stage.reduction is not None:
        width = out * out_freqs
        items.append(TemporalBlock(width, width // stage.reduction, config.block_1d_type))
    return nn.Sequential(*items)


def _squeeze(inner: int, out: int, group_divisor: int | None) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, out, 3, padding="same", groups=groups_of(out, group_divisor, entering=inner)),
        nn.BatchNorm2d(out, eps=1e-6),
        nn.GELU(),
        nn.Conv2d(out, out, 1),
    )
