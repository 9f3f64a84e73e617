"""The mixers as ONNX graphs that ONNX Runtime runs.

Normalisations before and behind convolutions of size one or without padding are folded into them, and so is the
identity beside a depth-wise convolution. Notation as in `encoders.mixer`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders import mixings
from nestvox.encoders.mixer import MLPMixer
from nestvox.encoders.runtime.folding import constant, folded, scale_and_shift, write_norm
from nestvox.encoders.runtime.onnx_graph import GraphWriter
from nestvox.encoders.runtime.onnx_layers import (
    OnnxTrunk,
    write_channel_norm,
    write_conv,
    write_conv_of,
    write_layer_norm,
    write_linear,
    write_lstm,
    write_stack,
)
from nestvox.errors import ModelError


def run_with_onnx(encoder: MLPMixer) -> None:
    """Let ONNX Runtime run, in place, what lies between the features and the frames.

    Raises:
        MissingExtraError: onnxruntime or onnx is not installed.
        ModelError: a part of the network has no ONNX form.
    """
    graph = GraphWriter()
    bands = encoder.features.n_mels
    frames = write_frames(graph, "features", encoder)
    content = graph.finish(
        {"features": (1, bands, 1, "time")}, {"frames": (frames, (1, encoder.frames_dim, 1, "frames"))}
    )
    for name in ("recurrent", "planes", "front", "blocks", "aggregate", "last_norm"):
        setattr(encoder, name, None)
    encoder.trunk = OnnxTrunk(content)  # type: ignore[method-assign]


def write_frames(graph: GraphWriter, features: str, encoder: MLPMixer) -> str:
    """Write a network from features (B, 80, 1, T) to frames (B, C, 1, T').

    Args:
        graph: written into.
        features: name of the value.
        encoder: in evaluation mode, in float32.

    Returns:
        The name of the frames.

    Raises:
        ModelError: a part of the network has no ONNX form.
    """
    with torch.no_grad():
        x = _write(graph, features, encoder.recurrent)
        if encoder.planes is not None:
            x = _planes(graph, x, encoder.planes)
        x = write_stack(graph, x, encoder.front)
        lengths: dict[int, tuple[str, str]] = {}
        outputs = []
        for block in encoder.blocks:
            assert isinstance(block, nn.Sequential)
            for part in block:
                x = _write(graph, x, part, lengths)
            outputs.append(x)
        norm = encoder.last_norm
        if encoder.aggregate is not None:
            joint = outputs[0] if len(outputs) == 1 else graph.op("Concat", *outputs, axis=1)
            batch_norm = norm if isinstance(norm, nn.BatchNorm1d) else None
            x = write_conv_of(graph, joint, encoder.aggregate, batch_norm)
            if batch_norm is not None:
                return x
        return write_norm(graph, x, norm) if isinstance(norm, nn.BatchNorm1d) else write_channel_norm(graph, x, norm)


def _write(graph: GraphWriter, x: str, part: nn.Module, lengths: dict[int, tuple[str, str]] | None = None) -> str:
    """Write one part of a network; `lengths` are those of chunks, by shift, as far as they are written."""
    if isinstance(part, nn.Identity):
        return x
    if isinstance(part, mixings.LSTM):
        return write_lstm(graph, x, part.lstm)
    writers: dict[type[nn.Module], Any] = {
        mixings.ResidualLSTM: _residual_lstm,
        mixings.PointwiseMLP: _pointwise_mlp,
        mixings.ChannelMixing: _channel_mixing,
        mixings.GroupedChannelMixing: _grouped_channel_mixing,
    }
    if isinstance(part, mixings.TemporalMixing):
        return graph.op("Add", x, _temporal_mixing(graph, x, part, {} if lengths is None else lengths))
    if type(part) not in writers:
        raise ModelError(f"mixer: {type(part).__name__} has no ONNX form")
    return graph.op("Add", x, writers[type(part)](graph, x, part))


def _planes(graph: GraphWriter, x: str, planes: Any) -> str:
    def convolution(x: str, conv: nn.Conv2d, norm: nn.Module) -> str:
        weight, bias = folded(conv, norm)
        assert bias is not None
        strides = list(conv.stride)
        return graph.op(
            "Conv", x, constant(weight), constant(bias), kernel_shape=[3, 3], strides=strides, pads=[1, 1, 1, 1]
        )

    x = graph.transpose(x, 0, 2, 1, 3)  # (B, 1, F, T)
    for conv, norm, _ in (planes.enter, planes.widen):
        x = graph.op("Relu", convolution(x, conv, norm))
    first, first_norm, _, second, second_norm = planes.residual
    residual = convolution(graph.op("Relu", convolution(x, first, first_norm)), second, second_norm)
    return graph.reshape(graph.op("Relu", graph.op("Add", x, residual)), 0, planes.out_channels, 1, -1)


def _residual_lstm(graph: GraphWriter, x: str, part: Any) -> str:
    states = write_lstm(graph, write_channel_norm(graph, x, part.norm), part.recurrent.lstm)
    return write_conv_of(graph, states, part.linear)


def _pointwise_mlp(graph: GraphWriter, x: str, part: Any) -> str:
    h = write_channel_norm(graph, x, part.norm)
    hidden = h if part.depthwise is None else _with_identity(graph, h, part.depthwise.weight, part.depthwise_norm)
    expand, _, _, reduce, _ = part.mlp
    return write_conv_of(graph, graph.op("Gelu", write_conv_of(graph, hidden, expand)), reduce)


def _channel_mixing(graph: GraphWriter, x: str, part: Any) -> str:
    rows = write_layer_norm(graph, graph.transpose(x, 0, 2, 3, 1), part.norm)
    n_halves = 2 if part.mfm else 1
    halves = zip(part.expand.weight.chunk(n_halves), part.expand.bias.chunk(n_halves), strict=True)
    made = [write_linear(graph, rows, *half) for half in halves]
    hidden = graph.op("Gelu", graph.op("Max", *made) if part.mfm else made[0])
    return graph.transpose(write_linear(graph, hidden, part.reduce.weight, part.reduce.bias), 0, 3, 1, 2)


def _temporal_mixing(graph: GraphWriter, x: str, part: Any, lengths: dict[int, tuple[str, str]]) -> str:
    op = graph.op
    h = write_norm(graph, x, part.norm)
    sides = [(part.largest - conv.weight.shape[2]) // 2 for conv in part.depthwise]
    kernels = [functional.pad(conv.weight, (side, side)) for conv, side in zip(part.depthwise, sides, strict=True)]
    mixed = op("Gelu", _with_identity(graph, h, torch.cat(kernels), part.depthwise_norm))
    if part.tokens is not None:
        mixed = op("Add", mixed, _chunk_mlp(graph, mixed, part.tokens, lengths))
    mean = op("GlobalAveragePool", h)
    apart = op("Sub", h, mean)
    variance = op("GlobalAveragePool", op("Mul", apart, apart))
    deviation = op("Sqrt", op("Add", variance, np.array(mixings.VARIANCE_FLOOR, np.float32)))
    squeeze, _, widen, _ = part.gates
    gates = op("Concat", mean, deviation, axis=1)
    gates = op("Relu", write_conv(graph, gates, squeeze.weight[:, :, None], squeeze.bias))
    gates = op("Sigmoid", write_conv(graph, gates, widen.weight[:, :, None], widen.bias))
    return op("Mul", mixed, gates)


def _chunk_mlp(graph: GraphWriter, x: str, part: Any, lengths: dict[int, tuple[str, str]]) -> str:
    if part.shift not in lengths:
        lengths[part.shift] = _chunk_ends(graph, x, part.chunk, part.shift)
    pads, end = lengths[part.shift]
    first, _, second = part.mlp
    chunks = graph.reshape(graph.op("Pad", x, pads), 0, 0, -1, part.chunk)  # (B, C, N, K)
    hidden = graph.op("Gelu", write_linear(graph, chunks, first.weight, first.bias))
    mixed = graph.reshape(write_linear(graph, hidden, second.weight, second.bias), 0, 0, 1, -1)
    return graph.op("Slice", mixed, np.array([part.shift], np.int64), end, np.array([3], np.int64))


def _chunk_ends(graph: GraphWriter, x: str, chunk: int, shift: int) -> tuple[str, str]:
    """What `Pad` takes so that T' frames behind `shift` of silence fill whole chunks, and the end of the last frame."""
    frames = graph.op("Gather", graph.op("Shape", x), np.array([3], np.int64), axis=0)  # (1,)
    end = graph.op("Add", frames, np.array([shift], np.int64))
    # Of a positive divisor, the remainder of a negative number is positive, as in Python.
    rest = graph.op("Mod", graph.op("Neg", end), np.array([chunk], np.int64))
    before = np.array([0, 0, 0, shift, 0, 0, 0], np.int64)
    return graph.op("Concat", before, rest, axis=0), end


def _grouped_channel_mixing(graph: GraphWriter, x: str, part: Any) -> str:
    weight, bias = _normalised_first(part.expand, part.norm)
    groups = part.groups
    # Of the two halves of each group, one convolution makes the first and another the second.
    n_halves = 2 if part.mfm else 1
    weights = weight.view(groups, n_halves, -1, *weight.shape[1:]).unbind(1)
    biases = bias.view(groups, n_halves, -1).unbind(1)
    halves = [
        write_conv(graph, x, w.flatten(0, 1), b.flatten(), groups=groups) for w, b in zip(weights, biases, strict=True)
    ]
    hidden = part.expand.out_channels // n_halves
    largest = graph.op("Max", *halves) if part.mfm else graph.op("Gelu", halves[0])
    apart = graph.reshape(largest, 0, groups, hidden // groups, -1)
    shuffled = graph.reshape(graph.transpose(apart, 0, 2, 1, 3), 0, hidden, 1, -1)
    return write_conv_of(graph, shuffled, part.reduce)


def _with_identity(graph: GraphWriter, h: str, kernels: Tensor, norm: nn.Module) -> str:
    """``h + norm(depthwise(h))`` as one depth-wise convolution; kernels are (C, 1, K)."""
    scale, shift = scale_and_shift(norm)
    weight = kernels.double() * scale[:, None, None]
    middle = weight.shape[2] // 2
    weight[:, :, middle] += 1
    return write_conv(graph, h, weight.float(), shift.float(), padding=middle, groups=len(weight))


def _normalised_first(conv: nn.Conv1d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution of size one with the normalisation before it."""
    scale, shift = scale_and_shift(norm)
    share = conv.weight.shape[1]
    leaving = conv.out_channels // conv.groups
    scales, shifts = (part.view(conv.groups, share).repeat_interleave(leaving, dim=0) for part in (scale, shift))
    weight = conv.weight.double()[:, :, 0]
    assert conv.bias is not None
    bias = conv.bias.double() + (weight * shifts).sum(dim=1)
    return (weight * scales)[:, :, None].float(), bias.float()
