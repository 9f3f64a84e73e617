"""The backbone of a ReDimNet as an ONNX graph that ONNX Runtime runs.

The graph is written module by module in the form that ONNX Runtime's blocked convolutions take: everything is a plane,
a flat map being one of a single row. Normalisations with stored statistics are folded into the convolution before them
and narrow groups are joined, as in `redimnet.rows`.

Notation: B utterances, T frames, f frequencies, c channels, W = f c channels of a flat map (B, W, 1, T), H hidden
channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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
from nestvox.encoders.runtime.folding import (
    constant,
    fewer_groups,
    folded,
    joined,
    scale_and_shift,
    scaled,
    write_norm,
)
from nestvox.encoders.runtime.onnx_graph import GraphWriter, OnnxSession
from nestvox.errors import ModelError

_NORM_EPS = 1e-6
_HEADS = 4

Float32 = NDArray[np.float32]


class OnnxBackbone(nn.Module):
    """Runs a backbone with ONNX Runtime: features (B, 1, F, T) to frames (B, C, T).

    Utterances run one by one: a session of one thread is slower with batches, and so the bits of a result do not
    depend on what shares its batch.

    Args:
        encoder: in evaluation mode, float32, on a CPU.

    Raises:
        MissingExtraError: onnxruntime or onnx is not installed.
        ModelError: the network holds a module that has no ONNX form.
    """

    def __init__(self, encoder: ReDimNetEncoder) -> None:
        super().__init__()
        self._multiple = 1 if isinstance(encoder, ReDimNet) else int(encoder.backbone.time_stride)  # type: ignore[arg-type]
        self._session = OnnxSession(backbone_to_onnx(encoder))

    def forward(self, features: Tensor, kept: None = None) -> Tensor:
        """Run; T is cut to a multiple of the network's time stride. The maps stay within the runtime."""
        assert kept is None
        whole = features[..., : features.shape[3] // self._multiple * self._multiple].contiguous().numpy()
        return torch.cat([torch.from_numpy(self._session(row[None])) for row in whole])


def run_with_onnx(encoder: ReDimNetEncoder) -> None:
    """Give an encoder, in place, a backbone that ONNX Runtime runs; see `OnnxBackbone`."""
    encoder.backbone = OnnxBackbone(encoder)
    fold_ends(encoder)


def backbone_to_onnx(encoder: ReDimNetEncoder) -> bytes:
    """Write features (B, 1, F, T) to frames (B, C, T) as a serialised ONNX model; B and T may vary.

    T is a multiple of the network's time stride.

    Args:
        encoder: in evaluation mode, in float32.

    Raises:
        MissingExtraError: onnx is not installed.
        ModelError: the network holds a module that has no ONNX form.
    """
    graph = GraphWriter()
    frames = graph.reshape(write_frames(graph, "features", encoder), 0, encoder.frames_dim, -1)
    n_bands = encoder.spec.n_bands
    return graph.finish(
        {"features": ("batch", 1, n_bands, "time")}, {"frames": (frames, ("batch", encoder.frames_dim, "time"))}
    )


def write_frames(graph: GraphWriter, features: str, encoder: ReDimNetEncoder) -> str:
    """Write a backbone from features (B, 1, F, T) to frames, C numbers each; T is a multiple of its time stride.

    Args:
        graph: written into.
        features: name of the value.
        encoder: in evaluation mode, in float32.

    Returns:
        The name of the frames, (B, C, 1, T) or (B, c, f, T) with C = c f.

    Raises:
        ModelError: the network holds a module that has no ONNX form.
    """
    config = encoder.model_config
    writer = _Writer(graph, config.C * config.F)
    with torch.no_grad():
        backbone: Any = encoder.backbone
        x = writer.sequence(features, [backbone.stem])
        x = x if isinstance(encoder, ReDimNet) else writer.sequence(x, [backbone.stem_gnorm])
        branches = [False] * backbone.n_stages if isinstance(encoder, ReDimNet) else backbone.branches
        maps = [x]
        for number, split in enumerate(branches):
            name = f"stage{number}"
            if not split:
                maps.append(writer.stage(maps, backbone.get_submodule(name)))
                continue
            plane = writer.stage(maps, backbone.get_submodule(f"{name}_pre"))
            line = writer.sequence(plane, [backbone.get_submodule(f"{name}_1d")])
            maps.append(writer.sequence(plane, [backbone.get_submodule(f"{name}_up_2d")]))
            maps.append(writer.sequence(line, [backbone.get_submodule(f"{name}_up_1d")]))
        last = [backbone.mfa] if isinstance(encoder, ReDimNet) else [backbone.fin_to2d, backbone.head]
        return writer.sequence(writer.map_sum(backbone.fin_wght1d, maps), last)


class _Writer:
    """Writes modules into a graph; every method takes and returns the name of a value."""

    def __init__(self, graph: GraphWriter, width: int) -> None:
        self.graph = graph
        self.width = width
        self.forms: dict[type[nn.Module], Callable[[Any, str], str]] = {
            AttentionLayer: self.attention_layer,
            Block2d: lambda module, x: self.sequence(x, [module.conv_block]),
            ChannelNorm: self.channel_norm,
            ConvNeXtBlock: self.conv_next,
            Flatten: self.flatten,
            FrequencyGate: self.frequency_gate,
            Positions: self.positions,
            Repeat: self.repeat,
            ResNetBlock: self.res_net,
            TemporalBlock: self.temporal,
            Unflatten: self.unflatten,
            nn.BatchNorm1d: self.affine,
            nn.BatchNorm2d: self.affine,
            nn.GELU: lambda module, x: self.graph.op("Gelu", x, approximate=module.approximate),
            nn.GroupNorm: self.group_norm,
            nn.Identity: lambda _, x: x,
            nn.ReLU: lambda _, x: self.graph.op("Relu", x),
        }

    def sequence(self, x: str, items: Sequence[nn.Module]) -> str:
        position = 0
        while position < len(items):
            item = items[position]
            position += 1
            if isinstance(item, nn.Sequential):
                x = self.sequence(x, list(item))
            elif isinstance(item, nn.Conv1d | nn.Conv2d):
                norm = items[position] if position < len(items) else None
                known = isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
                position += known
                x = self.convolution(x, item, *folded(item, norm if known else None))
            elif type(item) in self.forms:
                x = self.forms[type(item)](item, x)
            else:
                raise ModelError(f"{type(item).__name__} has no ONNX form")
        return x

    def stage(self, maps: Sequence[str], items: nn.Module) -> str:
        assert isinstance(items, nn.Sequential)
        first, *others = items
        assert isinstance(first, MapSum)
        return self.sequence(self.map_sum(first, maps), others)

    def map_sum(self, module: MapSum, maps: Sequence[str]) -> str:
        if len(maps) == 1:
            return maps[0]
        weights = constant(module.w.double().softmax(dim=1)[0, :, :, 0])[..., None, None]  # (K, W, 1, 1)
        total = self.graph.op("Mul", maps[0], weights[0])
        for number in range(1, len(maps)):
            total = self.graph.op("Add", total, self.graph.op("Mul", maps[number], weights[number]))
        return total

    def convolution(self, x: str, conv: nn.Conv1d | nn.Conv2d, weight: Tensor, bias: Tensor | None) -> str:
        groups = fewer_groups(conv.groups, conv.in_channels, conv.out_channels)
        wide = joined(weight, conv.groups, groups)
        wide = wide if wide.ndim == 4 else wide[:, :, None]
        kernel = list(wide.shape[2:])
        strides = [1, *conv.stride][-2:]
        around = [0 if size == stride else size - 1 for size, stride in zip(kernel, strides, strict=True)]
        before = [size // 2 for size in around]
        after = [size - first for size, first in zip(around, before, strict=True)]
        inputs = [constant(wide)] if bias is None else [constant(wide), constant(bias)]
        return self.graph.op(
            "Conv", x, *inputs, kernel_shape=kernel, strides=strides, pads=[*before, *after], group=groups
        )

    def affine(self, norm: nn.Module, x: str) -> str:
        return write_norm(self.graph, x, norm)

    def channel_norm(self, norm: ChannelNorm, x: str) -> str:
        rows = self.graph.transpose(x, 0, 2, 3, 1)
        return self.graph.transpose(self.layer_norm(rows, norm.weight, norm.bias), 0, 3, 1, 2)

    def layer_norm(self, rows: str, weight: Tensor, bias: Tensor) -> str:
        return self.graph.op("LayerNormalization", rows, constant(weight), constant(bias), axis=-1, epsilon=_NORM_EPS)

    def group_norm(self, norm: nn.GroupNorm, x: str) -> str:
        groups = self.graph.reshape(x, 0, norm.num_groups, -1)
        ones = np.ones(norm.num_groups, np.float32)
        normed = self.graph.op("InstanceNormalization", groups, ones, 0 * ones, epsilon=norm.eps)
        plane = self.graph.reshape(normed, 0, norm.num_channels, 1, -1)
        scaled = self.graph.op("Mul", plane, constant(norm.weight)[:, None, None])
        return self.graph.op("Add", scaled, constant(norm.bias)[:, None, None])

    def flatten(self, _: Flatten, x: str) -> str:
        return self.graph.reshape(self.graph.transpose(x, 0, 2, 1, 3), 0, self.width, 1, -1)

    def unflatten(self, module: Unflatten, x: str) -> str:
        return self.graph.transpose(self.graph.reshape(x, 0, *module.shape, -1), 0, 2, 1, 3)

    def repeat(self, module: Repeat, x: str) -> str:
        if module.times == 1:
            return x
        scales = np.array([1, 1, 1, module.times], np.float32)
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.graph.op("Resize", x, "", scales, **how)

    def conv_next(self, block: ConvNeXtBlock, x: str) -> str:
        scale, shift = scale_and_shift(block.norm)
        parts, first = [], 0
        for conv in block.dwconvs:
            assert isinstance(conv, nn.Conv1d | nn.Conv2d)
            part = slice(first, first + conv.out_channels)
            weight, bias = scaled(conv, scale[part], shift[part])
            parts.append(self.convolution(x, conv, weight, bias))
            first = part.stop
        heard = parts[0] if len(parts) == 1 else self.graph.op("Concat", *parts, axis=1)
        return self.graph.op("Add", self.sequence(heard, [block.act, block.pwconv1]), x)

    def res_net(self, block: ResNetBlock, x: str) -> str:
        # The normalisation behind the activation cannot be folded: padding or the activation is between.
        hidden = self.sequence(x, _given(block.conv1, block.conv1pw))
        hidden = self.sequence(self.graph.op("Relu", hidden), [block.bn1])
        hidden = self.sequence(hidden, [*_given(block.conv2, block.conv2pw), block.bn2, block.se])
        return self.graph.op("Relu", self.graph.op("Add", hidden, x))

    def frequency_gate(self, gate: FrequencyGate, x: str) -> str:
        freqs = gate.squeeze.in_features
        energy = self.graph.op("ReduceMean", x, np.array([1, 3], np.int64), keepdims=0)  # (B, f)
        hidden = self.graph.op("Relu", self.linear(energy, gate.squeeze))
        share = self.graph.op("Sigmoid", self.linear(hidden, gate.exitation))
        return self.graph.op("Mul", x, self.graph.reshape(share, 0, 1, freqs, 1))

    def temporal(self, block: TemporalBlock, x: str) -> str:
        changed = self.sequence(x, [block.red_dim_conv, block.tcm, block.exp_dim_conv])
        return self.graph.op("Add", changed, x)

    def positions(self, module: Positions, x: str) -> str:
        return self.graph.op("Add", self.sequence(x, [module.conv, module.norm]), x)

    def attention_layer(self, layer: AttentionLayer, x: str) -> str:
        hidden = layer.layer_norm.normalized_shape[0]
        rows = self.graph.transpose(self.graph.reshape(x, 0, hidden, -1), 0, 2, 1)  # (B, T, H)
        first, last, feed = layer.layer_norm, layer.final_layer_norm, layer.feed_forward
        heard = self.attention(layer.attention, rows)
        rows = self.layer_norm(self.graph.op("Add", rows, heard), first.weight, first.bias)
        wide = self.graph.op("Gelu", self.linear(rows, feed.intermediate_dense), approximate="tanh")
        fed = self.linear(wide, feed.output_dense)
        rows = self.layer_norm(self.graph.op("Add", rows, fed), last.weight, last.bias)
        return self.graph.reshape(self.graph.transpose(rows, 0, 2, 1), 0, hidden, 1, -1)

    def attention(self, attention: nn.Module, rows: str) -> str:
        parts: Any = (attention.q_proj, attention.k_proj, attention.v_proj)
        inputs = [self.linear(rows, part) for part in parts]
        # ONNX Runtime's own operator: its memory grows with the frames, not with their square.
        heard = self.graph.op("MultiHeadAttention", *inputs, domain="com.microsoft", num_heads=_HEADS)
        out: Any = attention.out_proj
        return self.linear(heard, out)

    def linear(self, rows: str, layer: nn.Linear) -> str:
        return self.graph.op("Add", self.graph.op("MatMul", rows, constant(layer.weight.T)), constant(layer.bias))


def _given(*modules: nn.Module) -> list[nn.Module]:
    return [module for module in modules if not isinstance(module, nn.Identity)]
