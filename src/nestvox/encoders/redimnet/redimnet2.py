"""ReDimNet2: ReDimNet whose stages also take steps in time, while its flat maps keep the full frame rate.

Source: arXiv 2603.11841.

Notation: B utterances, F mel bands, C base channels, W = C F channels of every flat map, T frames.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.redimnet.blocks import Flatten, MapSum, Unflatten, block_2d, scaled_channels
from nestvox.encoders.redimnet.config import ReDimNet2Config, Stage
from nestvox.encoders.redimnet.network import ReDimNetEncoder
from nestvox.encoders.redimnet.redimnet import stem
from nestvox.encoders.redimnet.temporal import TemporalBlock
from nestvox.errors import ModelError


class ReDimNet2(ReDimNetEncoder):
    """ReDimNet2 B0 to B6 and relatives, built from the `model_config` of a checkpoint.

    Frames are cut to a multiple of all time strides together, four in every release.

    Args:
        model_config: keys of `ReDimNet2Config`.

    Raises:
        ModelError: an unknown key, or a configuration that describes no network.
    """

    architecture = "redimnet2"

    def __init__(self, **model_config: Any) -> None:
        config = ReDimNet2Config.of(model_config)
        backbone = _Backbone(config)
        super().__init__(
            config,
            backbone,
            map_names=backbone.map_names,
            frames_dim=backbone.out_dim,
            frame_multiple=backbone.time_stride,
        )


class _Backbone(nn.Module):
    def __init__(self, config: ReDimNet2Config) -> None:
        super().__init__()
        width = config.C * config.F
        self.stem = stem(config.C)
        self.stem_gnorm = _group_norm(config)
        channels, freqs, n_maps, time_stride = config.C, config.F, 1, 1
        self.branches: list[bool] = []
        self.map_names = ["stem"]
        for number, stage in enumerate(config.stages()):
            time_stride *= stage.time_stride
            conv = _StageItems(config, stage, n_maps, channels, freqs, time_stride)
            channels, freqs = conv.out, conv.out_freqs
            split = config.dual_agg and conv.temporal is not None
            if split:
                assert conv.temporal is not None
                self.add_module(f"stage{number}_pre", nn.Sequential(*conv.plane))
                self.add_module(f"stage{number}_1d", conv.temporal)
                self.add_module(f"stage{number}_up_2d", nn.Sequential(*_hand_on(config, time_stride)))
                self.add_module(f"stage{number}_up_1d", nn.Sequential(*_hand_on(config, time_stride)))
            else:
                temporal = [] if conv.temporal is None else [conv.temporal]
                items = [*conv.plane, *temporal, *_hand_on(config, time_stride)]
                self.add_module(f"stage{number}", nn.Sequential(*items))
            self.branches.append(split)
            self.map_names += [f"stage{number}_2d", f"stage{number}_1d"] if split else [f"stage{number}"]
            n_maps = len(self.map_names)
        self.time_stride = time_stride
        self.fin_wght1d = MapSum(n_maps, width)
        self.fin_to2d: nn.Module = Unflatten(freqs, channels) if config.return_2d_output else nn.Identity()
        self.head: nn.Module = nn.Identity()
        self.out_dim = width
        if config.out_channels is not None and config.return_2d_output:
            self.head = nn.Conv2d(channels, config.out_channels, 1)
            self.out_dim = config.out_channels * freqs
        elif config.out_channels is not None:
            self.head = nn.Conv1d(width, config.out_channels, 1)
            self.out_dim = config.out_channels

    def forward(self, features: Tensor, kept: dict[str, Tensor] | None = None) -> Tensor:
        """Map (B, 1, F, T) to (B, out_dim, T), T cut to a multiple of the time stride; `kept` takes the maps."""
        n_frames = features.shape[3] // self.time_stride * self.time_stride
        maps = [self.stem_gnorm(self.stem(features[..., :n_frames]))]
        for number, split in enumerate(self.branches):
            name = f"stage{number}"
            if not split:
                maps.append(self.get_submodule(name)(maps))
                continue
            plane = self.get_submodule(f"{name}_pre")(maps)
            line = self.get_submodule(f"{name}_1d")(plane)
            maps.append(self.get_submodule(f"{name}_up_2d")(plane))
            maps.append(self.get_submodule(f"{name}_up_1d")(line))
        if kept is not None:
            kept.update(zip(self.map_names, maps, strict=True))
        last: Tensor = self.head(self.fin_to2d(self.fin_wght1d(maps)))
        # Pooled with channels before frequencies, unlike a flat map.
        return last.flatten(1, 2) if last.ndim == 4 else last


class _StageItems:
    """The items of one stage in order: those in two dimensions (`plane`, ending in a flat map), then `temporal`."""

    def __init__(
        self, config: ReDimNet2Config, stage: Stage, n_maps: int, channels: int, freqs: int, time_stride: int
    ) -> None:
        self.out = channels * stage.freq_stride
        self.out_freqs = freqs // stage.freq_stride
        inner = scaled_channels(self.out, stage.expansion)
        # Flat maps have the full frame rate: each stage steps from there to its own, whatever the one before did.
        step = (stage.freq_stride, time_stride)
        groups = math.gcd(channels, inner) if config.compress_tconvs else 1
        width = channels * freqs
        self.plane: list[nn.Module] = [
            MapSum(n_maps, width),
            Unflatten(freqs, channels),
            nn.Conv2d(channels, inner, step, stride=step, groups=groups),
        ]
        self.plane += (
            block_2d(
                config.block_2d_type,
                inner,
                self.out_freqs,
                group_divisor=config.group_divisor,
                kernels=stage.kernels,
            )
            for _ in range(stage.n_blocks)
        )
        if stage.expansion != 1:
            squeeze = nn.Conv2d(inner, self.out, 1)
            self.plane.append(nn.Sequential(squeeze, nn.BatchNorm2d(self.out, eps=1e-6)))
        self.plane.append(Flatten())
        self.temporal: TemporalBlock | None = None
        if stage.reduction is not None:
            self.temporal = TemporalBlock(width, width // stage.reduction, config.block_1d_type)


class Repeat(nn.Module):
    """Each frame `times` times: (B, W, T) to (B, W, times T).

    Args:
        times: 1 or more.
    """

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        """Repeat."""
        return x if self.times == 1 else functional.interpolate(x, scale_factor=self.times, mode="nearest")


def _hand_on(config: ReDimNet2Config, time_stride: int) -> list[nn.Module]:
    """What brings a stage's flat map back to the full frame rate, and to the scale of the other maps."""
    items: list[nn.Module] = [Repeat(time_stride)]
    if config.agg_gnorm:
        items.append(_group_norm(config))
    return items


def _group_norm(config: ReDimNet2Config) -> nn.Module:
    if not config.agg_gnorm:
        return nn.Identity()
    groups = config.C if config.agg_gnorm is True else int(config.agg_gnorm)
    width = config.C * config.F
    if groups < 1 or width % groups:
        raise ModelError(f"agg_gnorm: {groups} groups cannot share {width} channels")
    return nn.GroupNorm(groups, width)
