"""Head and blocks of CAM++ as an ONNX graph that ONNX Runtime runs: every map is a plane, a line one of a single row.

Notation as in `campplus.campplus`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nestvox.encoders.campplus.campplus import SEGMENT, CAMPPlus
from nestvox.encoders.runtime.folding import constant, folded, write_norm
from nestvox.encoders.runtime.onnx_graph import GraphWriter, OnnxSession


def run_with_onnx(encoder: CAMPPlus) -> None:
    """Let ONNX Runtime run, in place, what lies between the features and the frames.

    Raises:
        MissingExtraError: onnxruntime or onnx is not installed.
    """
    dense, session = encoder.xvector.dense, OnnxSession(network_to_onnx(encoder))
    encoder.head = nn.Identity()  # type: ignore[assignment]
    encoder.xvector = _OnnxTrunk(session, dense)  # type: ignore[assignment]


class _OnnxTrunk(nn.Module):
    def __init__(self, session: OnnxSession, dense: nn.Module) -> None:
        super().__init__()
        self._session = session
        self.dense = dense

    def forward(self, features: Tensor, kept: None) -> Tensor:
        """Map features (B, F, T) to frames (B, C, T'), one utterance at a time: what shares a batch changes no bit."""
        assert kept is None
        rows = features.contiguous().numpy()
        return torch.cat([torch.from_numpy(self._session(row[None, None]))[:, :, 0] for row in rows])


def network_to_onnx(encoder: CAMPPlus) -> bytes:
    """Write features (1, 1, F, T) to frames (1, C, 1, T') as a serialised ONNX model; T may vary.

    Args:
        encoder: in evaluation mode, in float32.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    graph = GraphWriter()
    frames = write_frames(graph, "features", encoder)
    n_bands = encoder.config()["n_bands"]
    return graph.finish({"features": (1, 1, n_bands, "time")}, {"frames": (frames, (1, encoder.frames_dim, 1, "half"))})


def write_frames(graph: GraphWriter, features: str, encoder: CAMPPlus) -> str:
    """Write a network from features (B, 1, F, T) to frames (B, C, 1, T').

    Args:
        graph: written into.
        features: name of the value.
        encoder: in evaluation mode, in float32.

    Returns:
        The name of the frames.
    """
    writer = _Writer(graph, encoder.config()["n_bands"] // 8)
    with torch.no_grad():
        return writer.trunk(writer.head(features, encoder.head), encoder.xvector)


class _Writer:
    """Writes modules into a graph; every method takes and returns the name of a value.

    Args:
        graph: written into.
        bands: that leave the head.
    """

    def __init__(self, graph: GraphWriter, bands: int) -> None:
        self.graph = graph
        self.bands = bands

    def convolution(self, x: str, conv: nn.Module, norm: nn.Module | None = None, *, relu: bool = False) -> str:
        assert isinstance(conv, nn.Conv1d | nn.Conv2d)
        weight, bias = folded(conv, norm)
        line = isinstance(conv, nn.Conv1d)
        assert not isinstance(conv.padding, str)
        one, nothing = ([1], [0]) if line else ([], [])  # of the single row
        around = [*nothing, *conv.padding]
        inputs = [constant(weight[:, :, None] if line else weight), *([] if bias is None else [constant(bias)])]
        y = self.graph.op(
            "Conv",
            x,
            *inputs,
            kernel_shape=[*one, *conv.kernel_size],
            strides=[*one, *conv.stride],
            dilations=[*one, *conv.dilation],
            pads=around + around,
        )
        return self.graph.op("Relu", y) if relu else y

    def norm_relu(self, x: str, norm: nn.Module) -> str:
        return self.graph.op("Relu", write_norm(self.graph, x, norm))

    def head(self, x: str, head: Any) -> str:
        x = self.convolution(x, head.conv1, head.bn1, relu=True)
        for block in (*head.layer1, *head.layer2):
            x = self.head_block(x, block)
        x = self.convolution(x, head.conv2, head.bn2, relu=True)  # (B, C, F / 8, T)
        return self.graph.reshape(x, 0, head.conv2.out_channels * self.bands, 1, -1)

    def head_block(self, x: str, block: Any) -> str:
        y = self.convolution(self.convolution(x, block.conv1, block.bn1, relu=True), block.conv2, block.bn2)
        shortcut = self.convolution(x, *block.shortcut) if len(block.shortcut) else x
        return self.graph.op("Relu", self.graph.op("Add", y, shortcut))

    def trunk(self, x: str, trunk: Any) -> str:
        x = self.convolution(x, trunk.tdnn.linear, trunk.tdnn.nonlinear.batchnorm, relu=True)
        count = self.graph.op("Gather", self.graph.op("Shape", x), np.array(3), axis=0)
        segments = self.graph.op("Div", self.graph.op("Range", np.array(0), count, np.array(1)), np.array(SEGMENT))
        for number in range(1, trunk.n_blocks + 1):
            for layer in trunk.get_submodule(f"block{number}"):
                x = self.graph.op("Concat", x, self.layer(x, layer, segments), axis=1)
            transit = trunk.get_submodule(f"transit{number}")
            last = number == trunk.n_blocks
            behind = trunk.out_nonlinear.batchnorm if last else None
            x = self.convolution(self.norm_relu(x, transit.nonlinear.batchnorm), transit.linear, behind, relu=last)
        return x

    def layer(self, x: str, layer: Any, segments: str) -> str:
        """What a layer adds; `segments` (T',) is the segment of each frame."""
        gate, op = layer.cam_layer, self.graph.op
        x = self.norm_relu(x, layer.nonlinear1.batchnorm)
        hidden = self.convolution(x, layer.linear1, layer.nonlinear2.batchnorm, relu=True)
        # The last window may reach beyond the end: it is divided by the frames that are there.
        means = op("AveragePool", hidden, kernel_shape=[1, SEGMENT], strides=[1, SEGMENT], ceil_mode=1)
        context = op("Add", op("GlobalAveragePool", hidden), means)
        gates = op("Sigmoid", self.convolution(self.convolution(context, gate.linear1, relu=True), gate.linear2))
        return op("Mul", self.convolution(hidden, gate.linear_local), op("Gather", gates, segments, axis=3))
