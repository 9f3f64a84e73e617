"""An LSTM as an ONNX graph: ONNX Runtime multiplies a few sequences at a time nearly as fast as many.

Notation: N sequences, T steps, M inputs, H hidden units.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from nestvox.encoders.runtime.onnx_graph import GraphWriter, OnnxSession
from nestvox.encoders.runtime.onnx_layers import lstm_gates


def run_with_onnx(encoder: nn.Module) -> None:
    """Let ONNX Runtime run, in place, an encoder's ``lstm``."""
    encoder.lstm = OnnxLstm(encoder.get_submodule("lstm"))


class OnnxLstm(nn.Module):
    """Takes the place of an `nn.LSTM` of which only the last state of the last layer is used.

    Args:
        lstm: batch first, in one direction, with biases, float32.

    Raises:
        MissingExtraError: onnxruntime or onnx is not installed.
    """

    def __init__(self, lstm: nn.Module) -> None:
        super().__init__()
        assert isinstance(lstm, nn.LSTM)
        assert lstm.batch_first
        assert lstm.bias
        assert not lstm.bidirectional
        self._session = OnnxSession(_to_onnx(lstm))

    def forward(self, x: Tensor) -> tuple[None, tuple[Tensor, None]]:
        """Map (N, T, M) to the last state (1, N, H), packed as `nn.LSTM` packs it; the sequence is not given."""
        steps = x.transpose(0, 1).contiguous().numpy()
        return None, (torch.from_numpy(self._session(steps)), None)


def _to_onnx(lstm: nn.LSTM) -> bytes:
    graph = GraphWriter()
    x = "steps"
    hidden = ""
    for layer in range(lstm.num_layers):
        weights = (lstm_gates(lstm, f"{name}_l{layer}")[None] for name in ("weight_ih", "weight_hh"))
        bias = np.concatenate([lstm_gates(lstm, f"{name}_l{layer}") for name in ("bias_ih", "bias_hh")])
        sequence, hidden = graph.ops("LSTM", x, *weights, bias[None], outputs=2, hidden_size=lstm.hidden_size)
        x = graph.op("Squeeze", sequence, np.array([1], np.int64))  # of its one direction
    return graph.finish(
        {"steps": ("time", "batch", lstm.input_size)}, {"hidden": (hidden, (1, "batch", lstm.hidden_size))}
    )
