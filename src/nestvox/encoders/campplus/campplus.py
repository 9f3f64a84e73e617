"""CAM++, the encoder of 3D-Speaker and WeSpeaker: a convolutional head, three densely connected blocks, statistics.

Modules are named as the published checkpoints name them.

Source: H. Wang et al., "CAM++: A fast and efficient network for speaker verification using context-aware masking",
Interspeech 2023.

Notation: B utterances, S samples, F bands, T frames of the head (100 Hz), T' = ceil(T / 2) of the trunk (50 Hz), C
channels, N segments of 100 frames (2 s) at 50 Hz, the last of them perhaps shorter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.contract import Affine, Translation
from nestvox.encoders.front_ends.kaldi_fbank import KaldiFbank
from nestvox.encoders.front_ends.log_mel import KaldiBands
from nestvox.encoders.pooling import TSTP
from nestvox.encoders.whole_utterances import WholeUtteranceEncoder
from nestvox.errors import ModelError
from nestvox.schema import StrictModel

SEGMENT = 100
_BLOCKS = ((12, 1), (24, 2), (16, 2))
_DENSE = "xvector.dense.linear.weight"

Width = Annotated[int, Field(ge=1, le=65_536)]
Block = Annotated[list[Annotated[int, Field(ge=1, le=1_000)]], Field(min_length=2, max_length=2)]


class _Arguments(StrictModel):
    n_bands: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = 80
    head_channels: Width = 32
    initial: Width = 128
    growth: Width = 32
    bottleneck: Annotated[int, Field(ge=2, le=65_536, multiple_of=2)] = 128
    blocks: list[Block] = Field(default=[list(block) for block in _BLOCKS], min_length=1, max_length=100)
    embedding_dim: Width = 192
    window: Literal["povey", "hamming"] = "povey"
    scale: Annotated[float, Field(gt=0, le=1e9)] = 1.0


class CAMPPlus(WholeUtteranceEncoder):
    """`frames` are the last activations at 50 Hz, `pooled` their means before their deviations; `embedding` is raw.

    Every frame depends on the whole utterance, by the gates. Layers are ``features``, ``head`` and ``tdnn``, and
    ``block1`` and so on: the output of each dense block, before the convolution that halves its channels.

    Args:
        n_bands: F, a multiple of 8.
        head_channels: of every convolution of the head.
        initial: channels that enter the first block.
        growth: channels that every layer of a block adds.
        bottleneck: channels within a layer.
        blocks: number of layers and dilation of each block.
        embedding_dim: D.
        window: of the filter bank; WeSpeaker's is ``hamming``.
        scale: samples are multiplied by it; WeSpeaker's is 32768.

    Raises:
        ModelError: the arguments describe no network.
    """

    architecture = "campplus"
    sample_rate = 16_000
    frame_rate_hz = 50.0
    min_samples = 720  # three frames of the head, two of the trunk: the fewest that have a deviation
    arguments = _Arguments
    forms = {  # noqa: RUF012
        "fused": "nestvox.encoders.campplus.fused:arrange",
        "onnx": "nestvox.encoders.campplus.onnx_network:run_with_onnx",
    }

    def __init__(
        self,
        *,
        n_bands: int = 80,
        head_channels: int = 32,
        initial: int = 128,
        growth: int = 32,
        bottleneck: int = 128,
        blocks: Sequence[Sequence[int]] = _BLOCKS,
        embedding_dim: int = 192,
        window: Literal["povey", "hamming"] = "povey",
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if n_bands % 8:
            raise ModelError(f"campplus halves its bands three times: n_bands must be a multiple of 8, got {n_bands}")
        self._config = {
            "n_bands": n_bands,
            "head_channels": head_channels,
            "initial": initial,
            "growth": growth,
            "bottleneck": bottleneck,
            "blocks": [list(block) for block in blocks],
            "embedding_dim": embedding_dim,
            "window": window,
            "scale": scale,
        }
        self.features = KaldiBands(KaldiFbank(n_mels=n_bands, window=window, scale=scale))
        self.head = Head(head_channels)
        entering = head_channels * (n_bands // 8)
        self.xvector = Trunk(entering, initial, growth, bottleneck, blocks, embedding_dim)
        self.frames_dim = self.xvector.frames_dim
        self.pool = TSTP(self.frames_dim, variance_floor=0.0)
        self.pooled_dim = self.pool.out_dim
        self.embedding_dim = embedding_dim
        trunk = ("tdnn", *(f"block{number}" for number in range(1, len(blocks) + 1)))
        self.layer_rates_hz = {"features": 100.0, "head": 100.0, **dict.fromkeys(trunk, self.frame_rate_hz)}

    def config(self) -> dict[str, Any]:
        """Return the JSON-serialisable constructor arguments."""
        return dict(self._config)

    def projection(self) -> Affine:
        """Linear layer and batch norm as one map; exact."""
        return Affine.of(self.xvector.dense.linear, *self.xvector.dense.nonlinear)

    @classmethod
    def fitted(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """The published networks differ in the size of their embedding, which none of their files states."""
        dense = tensors.get(_DENSE)
        return config if dense is None or dense.ndim < 2 else {**config, "embedding_dim": len(dense)}

    def translate(self, tensors: Mapping[str, Tensor], source: str) -> Translation:  # noqa: ARG002
        """Accept the last layer as it was published, a convolution of size one, and leave a classifier out."""
        classifier = [name for name in tensors if name.startswith("projection.")]
        given = {name: tensor for name, tensor in tensors.items() if name not in classifier}
        dense = given.get(_DENSE)
        if dense is not None and dense.ndim == 3 and dense.shape[2] == 1:
            given[_DENSE] = dense[:, :, 0]
        return Translation(given, left_out=tuple(sorted(classifier)))

    def run(self, audio: Tensor, layers: Collection[str]) -> Mapping[str, Tensor]:
        """Features, head, blocks and frames of utterances (B, S) without padding."""
        features = self.features(audio)  # (B, F, T)
        head = self.head(features.to(self.xvector.dense.linear.weight.dtype))
        kept: dict[str, Tensor] = {}
        frames = self.xvector(head, kept if layers else None)
        return {"features": features, "head": head, **kept, "frames": frames}

    def embed(self, pooled: Tensor) -> Tensor:
        """Map pooled vectors (..., P) to embeddings (..., D)."""
        dense = self.xvector.dense
        embedding: Tensor = dense.nonlinear(dense.linear(pooled.reshape(-1, self.pooled_dim)))
        return embedding.reshape(*pooled.shape[:-1], -1)


class Head(nn.Module):
    """Convolutions over bands and frames: eight times fewer bands, as many frames."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layer1 = nn.Sequential(HeadBlock(channels, 2), HeadBlock(channels, 1))
        self.layer2 = nn.Sequential(HeadBlock(channels, 2), HeadBlock(channels, 1))
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, F, T) to (B, C F / 8, T), the bands of one channel side by side."""
        x = functional.relu(self.bn1(self.conv1(features[:, None])))
        x = self.layer2(self.layer1(x))
        return functional.relu(self.bn2(self.conv2(x))).flatten(1, 2)


class HeadBlock(nn.Module):
    """Two convolutions beside a shortcut; `stride` is that of the bands."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=(stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride > 1:
            conv = nn.Conv2d(channels, channels, 1, stride=(stride, 1), bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, F, T) to (B, C, F / stride, T)."""
        hidden = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class Trunk(nn.Module):
    """From the head to the frames, and the layer behind the pooling."""

    def __init__(
        self,
        entering: int,
        initial: int,
        growth: int,
        bottleneck: int,
        blocks: Sequence[Sequence[int]],
        embedding_dim: int,
    ) -> None:
        super().__init__()
        self.tdnn = nn.Sequential(
            OrderedDict(
                linear=nn.Conv1d(entering, initial, 5, stride=2, padding=2, bias=False), nonlinear=_norm_relu(initial)
            )
        )
        channels = initial
        self.n_blocks = len(blocks)
        for number, (depth, dilation) in enumerate(blocks, start=1):
            layers = [DenseLayer(channels + growth * place, growth, bottleneck, dilation) for place in range(depth)]
            names = [f"tdnnd{place}" for place in range(1, depth + 1)]
            self.add_module(f"block{number}", nn.Sequential(OrderedDict(zip(names, layers, strict=True))))
            channels += growth * depth
            half = nn.Conv1d(channels, channels // 2, 1, bias=False)
            self.add_module(f"transit{number}", nn.Sequential(OrderedDict(nonlinear=_norm_relu(channels), linear=half)))
            channels //= 2
        self.frames_dim = channels
        self.out_nonlinear = _norm_relu(channels)
        self.dense = _Dense(2 * channels, embedding_dim)

    def forward(self, x: Tensor, kept: dict[str, Tensor] | None) -> Tensor:
        """Map (B, C, T) to frames (B, C', T'); what lies between goes into `kept`."""
        kept = {} if kept is None else kept
        x = kept["tdnn"] = self.tdnn(x)
        for number in range(1, self.n_blocks + 1):
            x = kept[f"block{number}"] = self.get_submodule(f"block{number}")(x)
            x = self.get_submodule(f"transit{number}")(x)
        frames: Tensor = self.out_nonlinear(x)
        return frames


class _Dense(nn.Module):
    def __init__(self, entering: int, leaving: int) -> None:
        super().__init__()
        self.linear = nn.Linear(entering, leaving, bias=False)
        self.nonlinear = nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(leaving, affine=False)))


class DenseLayer(nn.Module):
    """One layer of a block."""

    def __init__(self, entering: int, growth: int, bottleneck: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = _norm_relu(entering)
        self.linear1 = nn.Conv1d(entering, bottleneck, 1, bias=False)
        self.nonlinear2 = _norm_relu(bottleneck)
        self.cam_layer = ContextGate(bottleneck, growth, dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Hand on what enters, (B, C, T'), with `growth` channels of its own behind."""
        return torch.cat([x, self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))], dim=1)


class ContextGate(nn.Module):
    """A convolution over time whose channels are gated: by the mean of the utterance and that of 2 s around."""

    def __init__(self, entering: int, leaving: int, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(entering, leaving, 3, padding=dilation, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(entering, entering // 2, 1)
        self.linear2 = nn.Conv1d(entering // 2, leaving, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, C, T') to as many frames."""
        context = hidden.mean(dim=2, keepdim=True) + over_segments(hidden)  # (B, C, N)
        gates = torch.sigmoid(self.linear2(functional.relu(self.linear1(context))))
        local: Tensor = self.linear_local(hidden)
        return local * gates.repeat_interleave(SEGMENT, dim=2)[:, :, : hidden.shape[2]]


def over_segments(hidden: Tensor) -> Tensor:
    """Mean over each segment, (B, C, T') to (B, C, N); the last one over the frames that it has."""
    return torch.stack([segment.mean(dim=2) for segment in torch.split(hidden, SEGMENT, dim=2)], dim=2)


def _norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(channels), relu=nn.ReLU()))
