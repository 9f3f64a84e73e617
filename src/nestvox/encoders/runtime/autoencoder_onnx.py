"""The LSTM-autoencoder's encoder as an ONNX graph that ONNX Runtime runs. Notation as in `encoders.lstm`."""

from __future__ import annotations

import torch

from nestvox.encoders.lstm import LSTMAutoencoder
from nestvox.encoders.runtime.onnx_graph import GraphWriter
from nestvox.encoders.runtime.onnx_layers import OnnxTrunk, write_channel_norm, write_lstm, write_stack


def run_with_onnx(encoder: LSTMAutoencoder) -> None:
    """Let ONNX Runtime run, in place, what lies between the features and the frames.

    Raises:
        MissingExtraError: onnxruntime or onnx is not installed.
    """
    graph = GraphWriter()
    frames = write_frames(graph, "features", encoder)
    content = graph.finish(
        {"features": (1, encoder.features.n_mels, 1, "time")},
        {"frames": (frames, (1, encoder.frames_dim, 1, "frames"))},
    )
    for name in ("encoder", "decoder", "lstms", "layer_norm"):
        setattr(encoder, name, None)
    encoder.trunk = OnnxTrunk(content)  # type: ignore[method-assign]


def write_frames(graph: GraphWriter, features: str, encoder: LSTMAutoencoder) -> str:
    """Write a network from features (B, 80, 1, T) to frames (B, C, 1, T); returns their name."""
    with torch.no_grad():
        x = write_stack(graph, features, encoder.encoder)
        for lstm in encoder.lstms:
            x = write_lstm(graph, x, lstm)
        return write_channel_norm(graph, x, encoder.layer_norm)
