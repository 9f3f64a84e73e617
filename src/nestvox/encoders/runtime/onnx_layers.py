"""Layers that several networks share as ONNX operators: every map is a plane (B, C, 1, T), a line of a single row.

So ONNX Runtime's blocked convolutions take them. Notation: B utterances, C channels, T frames, H hidden units.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nestvox.encoders.runtime.folding import constant, folded
from nestvox.encoders.runtime.onnx_graph import Float32, GraphWriter, OnnxSession
from nestvox.errors import ModelError


class OnnxTrunk:
    """Takes the place of the method `trunk` of a `LogMelEncoder`; utterances run one by one.

    Batches are no faster, and so what shares a batch changes no bit.

    Args:
        content: of a graph from features (1, F, 1, T) to frames (1, C, 1, T').

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, content: bytes) -> None:
        self._session = OnnxSession(content)

    def __call__(self, features: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """Map (B, F, T) to the frames (B, C, T'); layers are not handed out."""
        assert not layers
        rows = features.contiguous().numpy()
        frames = [torch.from_numpy(self._session(row[None, :, None])[:, :, 0]) for row in rows]
        return {"frames": torch.cat(frames)}


def write_conv(
    graph: GraphWriter,
    x: str,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> str:
    """Convolve (B, C, 1, T) over time with a weight (C', C / groups, K)."""
    inputs = [constant(weight[:, :, None]), *([] if bias is None else [constant(bias)])]
    return graph.op(
        "Conv",
        x,
        *inputs,
        kernel_shape=[1, weight.shape[2]],
        strides=[1, stride],
        pads=[0, padding, 0, padding],
        group=groups,
    )


def write_conv_of(graph: GraphWriter, x: str, conv: nn.Module, norm: nn.Module | None = None) -> str:
    """Write a convolution of torch, with the normalisation behind it."""
    assert isinstance(conv, nn.Conv1d)
    assert not isinstance(conv.padding, str)
    weight, bias = folded(conv, norm)
    return write_conv(graph, x, weight, bias, stride=conv.stride[0], padding=conv.padding[0], groups=conv.groups)


def write_layer_norm(graph: GraphWriter, rows: str, norm: nn.LayerNorm) -> str:
    """Normalise the last axis."""
    return graph.op("LayerNormalization", rows, constant(norm.weight), constant(norm.bias), axis=-1, epsilon=norm.eps)


def write_channel_norm(graph: GraphWriter, x: str, norm: nn.LayerNorm) -> str:
    """Normalise the channels of (B, C, 1, T) at each frame."""
    return graph.transpose(write_layer_norm(graph, graph.transpose(x, 0, 2, 3, 1), norm), 0, 3, 1, 2)


def write_linear(graph: GraphWriter, rows: str, weight: Tensor, bias: Tensor) -> str:
    """Multiply the last axis with a weight (C', C)."""
    return graph.op("Add", graph.op("MatMul", rows, constant(weight.T)), constant(bias))


def write_lstm(graph: GraphWriter, x: str, lstm: nn.Module) -> str:
    """Map (B, C, 1, T) to the states of an LSTM of one layer, (B, H, 1, T), or both directions', (B, 2 H, 1, T)."""
    assert isinstance(lstm, nn.LSTM)
    if lstm.num_layers != 1 or not lstm.bias or lstm.proj_size:
        raise ModelError("an LSTM of several layers in one, without biases or with a projection has no ONNX form")
    ends = ["_l0", "_l0_reverse"] if lstm.bidirectional else ["_l0"]
    weights = [np.stack([lstm_gates(lstm, name + end) for end in ends]) for name in ("weight_ih", "weight_hh")]
    biases = [np.concatenate([lstm_gates(lstm, name + end) for name in ("bias_ih", "bias_hh")]) for end in ends]
    steps = graph.op("Squeeze", graph.transpose(x, 3, 0, 1, 2), np.array([3], np.int64))  # (T, B, C)
    direction = "bidirectional" if lstm.bidirectional else "forward"
    states = graph.op(
        "LSTM", steps, *weights, np.stack(biases), hidden_size=lstm.hidden_size, direction=direction
    )  # (T, directions, B, H)
    return graph.reshape(graph.transpose(states, 2, 1, 3, 0), 0, len(ends) * lstm.hidden_size, 1, -1)


def lstm_gates(lstm: nn.LSTM, name: str) -> NDArray[np.float32]:
    """A parameter of an LSTM, its gates in the order of ONNX: input, output, forget, cell."""
    enter, forget, cell, leave = getattr(lstm, name).detach().numpy().reshape(4, lstm.hidden_size, -1)
    gates: Float32 = np.concatenate([enter, leave, forget, cell])
    return gates if name.startswith("weight") else gates[:, 0]


def plain_modules(part: Sequence[Any] | nn.Sequential) -> list[nn.Module]:
    """The modules of a sequence that act in evaluation mode, in order."""
    return [module for module in part if not isinstance(module, nn.Dropout | nn.Identity)]


def write_stack(graph: GraphWriter, x: str, part: nn.Sequential) -> str:
    """Write convolutions, each with the normalisation and the rectifier that may stand behind it.

    Raises:
        ModelError: another module.
    """
    modules = plain_modules(part)
    for place, module in enumerate(modules):
        if isinstance(module, nn.Conv1d):
            behind = modules[place + 1] if place + 1 < len(modules) else None
            x = write_conv_of(graph, x, module, behind if isinstance(behind, nn.BatchNorm1d) else None)
        elif isinstance(module, nn.ReLU):
            x = graph.op("Relu", x)
        elif not (isinstance(module, nn.BatchNorm1d) and place and isinstance(modules[place - 1], nn.Conv1d)):
            raise ModelError(f"{type(module).__name__} has no ONNX form there")
    return x
