"""MLP-Mixer students for distillation: the network as it was published, and one that mixes over time.

What the published network (`pointwise`) calls token mixing are 1x1 convolutions over channels. Time is mixed only by
convolutions of size 3, one in front and a depth-wise one in each block: a frame hears 2 depth + 3 features. Its
write-up prints 2,663,296 parameters for width 192, depth 6, expansion 3 and 4 groups, which no formula that fits the
network gives: it has, and its code always had, 2,664,576. The counts of the planned sizes are wrong there too;
`MIXERS` has the true ones.

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
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.front_ends.log_mel import NormalisedLogMel
from nestvox.encoders.pooling import ASTP
from nestvox.encoders.whole_utterances import LogMelEncoder
from nestvox.errors import ModelError
from nestvox.schema import StrictModel

_FEATURES_HZ = 100.0
_VARIANCE_FLOOR = 1e-5

MIXERS: Mapping[str, Mapping[str, Any]] = {
    "v2": {"variant": "pointwise", "width": 192, "depth": 6, "expansion": 3},
    "v2-large": {"variant": "pointwise", "width": 256, "depth": 8, "expansion": 4},
    "4x384": {"variant": "pointwise", "width": 384, "depth": 4, "expansion": 3},
    "6x256": {"variant": "pointwise", "width": 256, "depth": 6, "expansion": 3},
    "12x128": {"variant": "pointwise", "width": 128, "depth": 12, "expansion": 3},
    "lstm-before": {"variant": "pointwise", "lstm": 128, "lstm_place": "before"},
    "lstm-within": {"variant": "pointwise", "lstm": 128, "lstm_place": "within"},
    "temporal": {"variant": "temporal"},
}
"""Arguments of `MLPMixer` by name.

``v2`` and ``v2-large`` are the published networks (2,664,576 and 7,844,864 parameters); of the planned ones 4x384 has
7,008,000, 6x256 4,617,216 and 12x128 2,291,968, or with an expansion of 4 9,076,992, 5,998,080 and 2,984,704.
"""

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
        _check(temporal, width, groups, kernels, chunk)
        if lstm_place == "within" and not lstm:
            raise ModelError("mixer: lstm_place has no effect where lstm is 0")
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
        }
        frames_dim = aggregated or width
        pool = ASTP(frames_dim, bottleneck=width, variance_floor=_VARIANCE_FLOOR)
        super().__init__(pool, embedding_dim, config)
        self.frames_dim = frames_dim
        self.frame_rate_hz = _FEATURES_HZ / stride
        before, within = (lstm if lstm_place == place else 0 for place in ("before", "within"))
        self.recurrent = _LSTM(NormalisedLogMel.n_mels, before) if before else nn.Identity()
        entering = before or NormalisedLogMel.n_mels
        self.front = nn.Sequential(
            nn.Conv1d(entering, width, 2 * stride + 1, stride=stride, padding=stride, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        )

        def mixings(number: int) -> tuple[nn.Module, nn.Module]:
            if temporal:
                # Every other block shifts its chunks by half of one, so that no border stays a border.
                shift = number % 2 * (chunk // 2)
                return (
                    _TemporalMixing(width, kernels, chunk, shift, dropout),
                    _GroupedChannelMixing(width, expansion, groups, dropout),
                )
            return _PointwiseMLP(width, expansion, groups, dropout), _ChannelMixing(width, expansion, dropout)

        self.blocks = nn.ModuleList()
        for number in range(depth):
            first, second = mixings(number)
            between = [_ResidualLSTM(width, within)] if within else []
            self.blocks.append(nn.Sequential(first, *between, second))
        self.aggregate = nn.Conv1d(depth * width, aggregated, 1) if aggregated else None
        self.last_norm = nn.BatchNorm1d(frames_dim) if temporal else _ChannelNorm(frames_dim)
        names = ("front", *(f"block{number}" for number in range(1, depth + 1)))
        self.layer_rates_hz = {"features": _FEATURES_HZ, **dict.fromkeys(names, self.frame_rate_hz)}

    def trunk(self, features: Tensor, layers: Collection[str]) -> dict[str, Tensor]:  # noqa: ARG002
        """Map features (B, 80, T) to the layers and frames, (B, C, T') each."""
        kept = {"front": self.front(self.recurrent(features))}
        x = kept["front"]
        outputs = []
        for number, block in enumerate(self.blocks, start=1):
            x = kept[f"block{number}"] = block(x)
            outputs.append(x)
        if self.aggregate is not None:
            x = self.aggregate(torch.cat(outputs, dim=1))
        return {**kept, "frames": self.last_norm(x)}


def _check(temporal: bool, width: int, groups: int, kernels: Sequence[int], chunk: int) -> None:
    if width % groups:
        raise ModelError(f"mixer: {groups} groups cannot share a width of {width}")
    if not temporal and (kernels or chunk):
        raise ModelError("mixer: the variant pointwise mixes nothing over time, and takes neither kernels nor chunk")
    if not temporal:
        return
    if not kernels or width % len(kernels) or any(kernel % 2 == 0 for kernel in kernels):
        raise ModelError(f"mixer: kernels must be odd and share a width of {width} evenly, got {list(kernels)}")
    if chunk == 1:
        raise ModelError("mixer: a chunk of one frame mixes nothing; chunk is 0 for none, or at least 2")


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, T')."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class _GroupedConv(nn.Conv1d):
    """A grouped convolution of size 1, as a product of matrices: torch's own runs group by group on a CPU."""

    def __init__(self, entering: int, leaving: int, groups: int) -> None:
        super().__init__(entering, leaving, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.view(self.groups, -1, self.weight.shape[1])  # (G, leaving, entering) of each group
        product = (weight @ x.reshape(len(x), self.groups, -1, x.shape[2])).flatten(1, 2)
        return product if self.bias is None else product + self.bias[:, None]


def _depthwise(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve each channel of (B, C, T') with its kernel of (C, 1, K), as a plane of one row with its channels last.

    torch computes these up to 60 times faster than the same in one dimension on a CPU (32 x 192 x 151, K = 31).
    """
    planes = x[:, :, None].contiguous(memory_format=torch.channels_last)
    padding = (0, weight.shape[2] // 2)
    return functional.conv2d(planes, weight[:, :, None], padding=padding, groups=len(weight))[:, :, 0].contiguous()


class _LSTM(nn.Module):
    """The states (B, H, T) of an LSTM over (B, C, T)."""

    def __init__(self, entering: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(entering, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.lstm(x.transpose(1, 2))[0]
        return states.transpose(1, 2)


class _ResidualLSTM(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = _ChannelNorm(width)
        self.recurrent = _LSTM(width, hidden)
        self.linear = nn.Conv1d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.linear(self.recurrent(self.norm(x)))
        return x + residual


class _PointwiseMLP(nn.Module):
    """A depth-wise convolution of size 3 and a pointwise grouped MLP: published as token mixing."""

    def __init__(self, width: int, expansion: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm = _ChannelNorm(width)
        self.depthwise = nn.Conv1d(width, width, 3, padding=1, groups=width, bias=False)
        self.depthwise_norm = nn.BatchNorm1d(width)
        self.mlp = nn.Sequential(
            _GroupedConv(width, expansion * width, groups),
            nn.GELU(),
            nn.Dropout(dropout),
            _GroupedConv(expansion * width, width, groups),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        residual: Tensor = self.mlp(h + self.depthwise_norm(_depthwise(h, self.depthwise.weight)))
        return x + residual


class _ChannelMixing(nn.Module):
    """Channel mixing as published: not grouped; of two halves of the hidden channels the maximum goes on."""

    def __init__(self, width: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * expansion * width)
        self.reduce = nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.expand(self.norm(x.transpose(1, 2))).chunk(2, dim=2)
        hidden = self.dropout(functional.gelu(torch.maximum(one, other)))
        residual: Tensor = self.dropout(self.reduce(hidden))
        return x + residual.transpose(1, 2)


class _TemporalMixing(nn.Module):
    """Frames hear their neighbours by depth-wise convolutions, their chunk by an MLP, and all others by the gates."""

    def __init__(self, width: int, kernels: Sequence[int], chunk: int, shift: int, dropout: float) -> None:
        super().__init__()
        share = width // len(kernels)
        self.norm = nn.BatchNorm1d(width)
        self.depthwise = nn.ModuleList(
            nn.Conv1d(share, share, kernel, padding=kernel // 2, groups=share, bias=False) for kernel in kernels
        )
        self.largest = max(kernels)
        self.depthwise_norm = nn.BatchNorm1d(width)
        self.tokens = _ChunkMLP(chunk, shift) if chunk else None
        squeezed = max(1, width // 4)
        self.gates = nn.Sequential(nn.Linear(2 * width, squeezed), nn.ReLU(), nn.Linear(squeezed, width), nn.Sigmoid())
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
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
        deviation = ((h - mean).square().mean(dim=2) + _VARIANCE_FLOOR).sqrt()
        gates = self.gates(torch.cat([mean[:, :, 0], deviation], dim=1))  # (B, C)
        residual: Tensor = self.dropout(mixed * gates[:, :, None])
        return x + residual


class _ChunkMLP(nn.Module):
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
        mixed: Tensor = self.mlp(filled.view(*x.shape[:2], -1, self.chunk)).flatten(2)  # (B, C, N, K) in between
        return mixed[:, :, self.shift : self.shift + frames]


class _GroupedChannelMixing(nn.Module):
    """Channel mixing in groups: each takes the maximum of its two halves, and hands a share to every group."""

    def __init__(self, width: int, expansion: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.groups = groups
        self.norm = nn.BatchNorm1d(width)
        self.expand = _GroupedConv(width, 2 * expansion * width, groups)
        self.reduce = _GroupedConv(expansion * width, width, groups)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.expand(self.norm(x)).view(len(x), self.groups, 2, -1, x.shape[2]).unbind(2)
        shuffled = torch.maximum(one, other).transpose(1, 2).flatten(1, 2)
        residual: Tensor = self.dropout(self.reduce(shuffled))
        return x + residual
