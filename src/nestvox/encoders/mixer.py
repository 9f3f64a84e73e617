"""MLP-Mixer students for distillation: the network as it was published, and one that mixes over time.

What the published network (`pointwise`) calls token mixing are 1x1 convolutions over channels. Time is mixed only by
convolutions of size 3, one in front and a depth-wise one in each block: a frame hears 2 depth + 3 features. Its
write-up prints 2,663,296 parameters for width 192, depth 6, expansion 3 and 4 groups, which no formula that fits the
network gives: it has, and its code always had, 2,664,576. The counts of the planned sizes are wrong there too;
`mixer_sizes` has the true ones.

The other (`temporal`) has what that one lacks: depth-wise convolutions of several sizes, an MLP over the frames of a
chunk, gates that hear the whole utterance, channel mixing in groups that are shuffled, half as many frames from the
start, and frames that are made of the outputs of all blocks.

Sources: ``dimuthuanuraj/voxceleb_trainer`` (`pointwise`); I. Tolstikhin et al., "MLP-Mixer: An all-MLP architecture for
vision", NeurIPS 2021 (chunks); J. Hu et al., "Squeeze-and-excitation networks", CVPR 2018 (gates); X. Zhang et al.,
"ShuffleNet", CVPR 2018 (groups); X. Wu et al., "A light CNN for deep face representation with noisy labels", IEEE TIFS
2018 (the maximum of two halves).

Notation: B utterances, T features, T' frames, C channels, N chunks of K frames, G groups.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nestvox.encoders.front_ends.gabor import GaborBands
from nestvox.encoders.front_ends.log_mel import NormalisedLogMel
from nestvox.encoders.mixings import (
    LSTM,
    VARIANCE_FLOOR,
    ChannelMixing,
    ChannelNorm,
    FrameLinear,
    FrameNorm,
    GroupedChannelMixing,
    Planes,
    PointwiseMLP,
    ResidualLSTM,
    TemporalMixing,
)
from nestvox.encoders.pooling import ASTP, TAP
from nestvox.encoders.whole_utterances import LogMelEncoder
from nestvox.errors import ModelError
from nestvox.schema import StrictModel

_FEATURES_HZ = 100.0

Count = Annotated[int, Field(ge=1, le=100)]
Width = Annotated[int, Field(ge=1, le=4096)]
Kernel = Annotated[int, Field(ge=1, le=255)]


class _Arguments(StrictModel):
    variant: Literal["temporal", "pointwise"] = "temporal"
    width: Width = 192
    depth: Count = 6
    expansion: Annotated[int, Field(ge=1, le=16)] = 3
    groups: Width = 4
    embedding_dim: Width = 512
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    stride: Literal[1, 2, 4] | None = None
    aggregated: Annotated[int, Field(ge=0, le=4096)] | None = None
    kernels: Annotated[list[Kernel], Field(max_length=16)] | None = None
    chunk: Annotated[int, Field(ge=0, le=1000)] | None = None
    lstm: Annotated[int, Field(ge=0, le=4096)] = 0
    lstm_place: Literal["before", "within"] = "before"
    planes: Annotated[int, Field(ge=0, le=256)] = 0
    mfm: bool = True
    id_conv: bool = True
    pooling: Literal["attentive", "mean"] = "attentive"
    front_end: Literal["log_mel", "gabor"] = "log_mel"


class MLPMixer(LogMelEncoder):
    """`frames` are normalised, `pooled` their weighted means and deviations, one weight for each channel and frame.

    Layers are ``features`` at 100 Hz, ``front``, and ``block1`` and so on, as often as there are frames.

    Args:
        variant: ``temporal``, or ``pointwise`` for the published network.
        width: C.
        depth: number of blocks.
        expansion: hidden channels of a block over its width.
        groups: of ``pointwise``, of the MLP that was called token mixing; of ``temporal``, of the channel mixing.
        embedding_dim: D.
        dropout: within the blocks.
        stride: features that the front makes one frame of; None: 2, of ``pointwise`` 1.
        aggregated: channels that are made of the outputs of all blocks; 0 takes the last block alone. None: 2 C, of
            ``pointwise`` 0.
        kernels: odd sizes of the depth-wise convolutions of a block, which share its channels; None: 3, 7, 15, 31. Of
            ``temporal`` only.
        chunk: K of the MLP over frames, 0 for none; None: 24. Of ``temporal`` only.
        lstm: hidden size of an LSTM that only hears what came before; 0 for none.
        lstm_place: ``before`` the network, or ``within`` each block, between its two mixings.
        planes: channels of the first of four convolutions over bands and time before the front, the others have twice
            as many; 0 for none. Of ``temporal`` only.
        mfm: the channel mixing takes the maximum of two halves of its hidden channels, else there is one half.
        id_conv: the blocks of ``pointwise`` have their depth-wise convolution.
        pooling: ``attentive``, or ``mean`` for the plain mean over time.
        front_end: ``log_mel``, or ``gabor`` for band-passes that are learnt from the waveform (`GaborBands`).

    Raises:
        ModelError: the arguments describe no network, or one of them would have no effect.
    """

    architecture = "mixer"
    arguments = _Arguments
    forms = {"onnx": "nestvox.encoders.runtime.mixer_onnx:run_with_onnx"}  # noqa: RUF012

    def __init__(
        self,
        *,
        variant: Literal["temporal", "pointwise"] = "temporal",
        width: int = 192,
        depth: int = 6,
        expansion: int = 3,
        groups: int = 4,
        embedding_dim: int = 512,
        dropout: float = 0.1,
        stride: int | None = None,
        aggregated: int | None = None,
        kernels: Sequence[int] | None = None,
        chunk: int | None = None,
        lstm: int = 0,
        lstm_place: Literal["before", "within"] = "before",
        planes: int = 0,
        mfm: bool = True,
        id_conv: bool = True,
        pooling: Literal["attentive", "mean"] = "attentive",
        front_end: Literal["log_mel", "gabor"] = "log_mel",
    ) -> None:
        if variant not in {"temporal", "pointwise"}:
            raise ModelError(f"mixer: variant is temporal or pointwise, got {variant!r}")
        temporal = variant == "temporal"
        if stride is None:
            stride = 2 if temporal else 1
        if aggregated is None:
            aggregated = 2 * width if temporal else 0
        if kernels is None:
            kernels = (3, 7, 15, 31) if temporal else ()
        if chunk is None:
            chunk = 24 if temporal else 0
        config = {
            "variant": variant,
            "width": width,
            "depth": depth,
            "expansion": expansion,
            "groups": groups,
            "embedding_dim": embedding_dim,
            "dropout": dropout,
            "stride": stride,
            "aggregated": aggregated,
            "kernels": list(kernels),
            "chunk": chunk,
            "lstm": lstm,
            "lstm_place": lstm_place,
            "planes": planes,
            "mfm": mfm,
            "id_conv": id_conv,
            "pooling": pooling,
            "front_end": front_end,
        }
        _check(config)
        frames_dim = aggregated or width
        attentive = pooling == "attentive"
        pool = ASTP(frames_dim, bottleneck=width, variance_floor=VARIANCE_FLOOR) if attentive else TAP(frames_dim)
        super().__init__(pool, embedding_dim, config, GaborBands() if front_end == "gabor" else None)
        self.frames_dim = frames_dim
        self.frame_rate_hz = _FEATURES_HZ / stride
        before = lstm if lstm_place == "before" else 0
        self.recurrent = LSTM(NormalisedLogMel.n_mels, before) if before else nn.Identity()
        entering = before or NormalisedLogMel.n_mels
        self.planes = Planes(entering, planes, stride) if planes else None
        if self.planes is None:
            first: nn.Module = nn.Conv1d(entering, width, 2 * stride + 1, stride=stride, padding=stride, bias=False)
        else:
            first = FrameLinear(self.planes.out_channels, width, bias=False)
        self.front = nn.Sequential(first, FrameNorm(width) if temporal else nn.BatchNorm1d(width), nn.ReLU())
        self.blocks = nn.ModuleList(_block(config, number) for number in range(depth))
        mix = FrameLinear if temporal else partial(nn.Conv1d, kernel_size=1)
        self.aggregate = mix(depth * width, aggregated) if aggregated else None
        self.last_norm = FrameNorm(frames_dim) if temporal else ChannelNorm(frames_dim)
        names = ("front", *(f"block{number}" for number in range(1, depth + 1)))
        self.layer_rates_hz = {"features": _FEATURES_HZ, **dict.fromkeys(names, self.frame_rate_hz)}

    def trunk(self, features: Tensor, layers: Collection[str]) -> dict[str, Tensor]:  # noqa: ARG002
        """Map features (B, 80, T) to the layers and frames, (B, C, T') each."""
        x = self.recurrent(features)
        kept = {"front": self.front(x if self.planes is None else self.planes(x))}
        x = kept["front"]
        outputs = []
        for number, block in enumerate(self.blocks, start=1):
            x = kept[f"block{number}"] = block(x)
            outputs.append(x)
        if self.aggregate is not None:
            x = self.aggregate(torch.cat(outputs, dim=1))
        return {**kept, "frames": self.last_norm(x).contiguous()}


def _block(config: Mapping[str, Any], number: int) -> nn.Sequential:
    """The block that comes after `number` others."""
    width, expansion, groups, dropout = (config[name] for name in ("width", "expansion", "groups", "dropout"))
    parts: list[nn.Module]
    if config["variant"] == "temporal":
        # Every other block shifts its chunks by half of one, so that no border stays a border.
        shift = number % 2 * (config["chunk"] // 2)
        parts = [
            TemporalMixing(width, config["kernels"], config["chunk"], shift, dropout),
            GroupedChannelMixing(width, expansion, groups, dropout, mfm=config["mfm"]),
        ]
    else:
        parts = [
            PointwiseMLP(width, expansion, groups, dropout, id_conv=config["id_conv"]),
            ChannelMixing(width, expansion, dropout, mfm=config["mfm"]),
        ]
    if config["lstm"] and config["lstm_place"] == "within":
        parts.insert(1, ResidualLSTM(width, config["lstm"]))
    return nn.Sequential(*parts)


def _check(config: Mapping[str, Any]) -> None:
    width, groups, kernels, lstm = (config[name] for name in ("width", "groups", "kernels", "lstm"))
    if config["pooling"] not in {"attentive", "mean"}:
        raise ModelError(f"mixer: pooling is attentive or mean, got {config['pooling']!r}")
    if config["front_end"] not in {"log_mel", "gabor"}:
        raise ModelError(f"mixer: front_end is log_mel or gabor, got {config['front_end']!r}")
    if width % groups:
        raise ModelError(f"mixer: {groups} groups cannot share a width of {width}")
    if config["lstm_place"] == "within" and not lstm:
        raise ModelError("mixer: lstm_place has no effect where lstm is 0")
    if config["variant"] == "pointwise":
        if kernels or config["chunk"]:
            raise ModelError(
                "mixer: the variant pointwise mixes nothing over time, and takes neither kernels nor chunk"
            )
        if config["planes"]:
            raise ModelError("mixer: planes are of the variant temporal")
        return
    if not kernels or width % len(kernels) or any(kernel % 2 == 0 for kernel in kernels):
        raise ModelError(f"mixer: kernels must be odd and share a width of {width} evenly, got {list(kernels)}")
    if config["chunk"] == 1:
        raise ModelError("mixer: a chunk of one frame mixes nothing; chunk is 0 for none, or at least 2")
    if not config["id_conv"]:
        raise ModelError("mixer: id_conv is of the variant pointwise; temporal hears its neighbours by kernels")
    if config["planes"] and lstm and config["lstm_place"] == "before":
        raise ModelError("mixer: planes are bands that convolutions move along; the states of an LSTM have none")
