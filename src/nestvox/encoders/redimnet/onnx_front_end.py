"""What stands around the backbone of a ReDimNet as ONNX operators: its front ends, and the cut to whole strides.

Notation: B utterances, S samples, F bands, T frames, C channels of the frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from nestvox.encoders.redimnet.network import ReDimNetEncoder
from nestvox.encoders.redimnet.onnx_backbone import write_frames
from nestvox.encoders.redimnet.redimnet2 import ReDimNet2
from nestvox.encoders.runtime.folding import write_norm
from nestvox.encoders.runtime.onnx_ends import write_bands, write_deviation, write_spectrum
from nestvox.encoders.runtime.onnx_graph import GraphWriter

_TIME = np.array([3], np.int64)
_BINS = 256


def write_features(graph: GraphWriter, waveform: str, encoder: ReDimNetEncoder) -> str:
    """Write the front end from waveforms (B, S) to features (B, 1, F, T), T a multiple of the network's time stride.

    Args:
        graph: written into.
        waveform: name of the value.
        encoder: in evaluation mode.

    Returns:
        The name of the features.
    """
    with torch.no_grad():
        samples = graph.op("Unsqueeze", waveform, np.array([1, 2], np.int64))  # (B, 1, 1, S)
        samples = _padded(graph, samples, 0, encoder.pad_right)
        front_end = encoder.spec
        chain: Any = front_end.spectrogram if front_end.kind == "tf_spec" else front_end.torchfbank
        normalise, preemphasise, spectrum = chain
        samples = samples if isinstance(normalise, nn.Identity) else _normalised(graph, samples, normalise.floor)
        if not isinstance(preemphasise, nn.Identity):
            samples = _preemphasised(graph, samples, *preemphasise.flipped_filter[0, 0].tolist())
        bands = _centred(graph, samples, spectrum) if front_end.kind == "pt" else _framed(graph, samples, spectrum)
        logs = graph.op("Log", graph.op("Add", bands, np.array(front_end.floor, np.float32)))  # (B, F, 1, T)
        features = graph.transpose(_normalised_over_time(graph, logs, front_end.spec_norm), 0, 2, 1, 3)
        if front_end.kind == "tf_spec":
            size = list(front_end.settings.pool_freqs)
            features = graph.op("AveragePool", features, kernel_shape=size, strides=size)
    multiple = encoder.backbone.time_stride if isinstance(encoder, ReDimNet2) else 1
    return _cut_to(graph, features, int(multiple))  # type: ignore[arg-type]


def write_pooled_frames(graph: GraphWriter, features: str, encoder: ReDimNetEncoder) -> str:
    """Write the backbone up to the frames (B, C, 1, T) that the pooling hears; returns their name."""
    frames = graph.reshape(write_frames(graph, features, encoder), 0, encoder.frames_dim, 1, -1)
    skipped = encoder.skipped_frames
    if not skipped:
        return frames
    return graph.op("Slice", frames, *(np.array([number], np.int64) for number in (skipped, 1 << 60, 3)))


def _padded(graph: GraphWriter, samples: str, before: int, after: int, mode: str = "constant") -> str:
    if not before and not after:
        return samples
    return graph.op("Pad", samples, np.array([0, 0, 0, before, 0, 0, 0, after], np.int64), mode=mode)


def _normalised(graph: GraphWriter, samples: str, floor: float) -> str:
    centred = graph.op("Sub", samples, graph.op("ReduceMean", samples, _TIME))
    power = graph.op("ReduceMean", graph.op("Mul", centred, centred), _TIME)
    return graph.op("Div", centred, graph.op("Add", graph.op("Sqrt", power), np.array(floor, np.float32)))


def _preemphasised(graph: GraphWriter, samples: str, before: float, now: float) -> str:
    """Each sample with the one before it; before the first stands the second."""

    def part(first: int, end: int) -> str:
        return graph.op("Slice", samples, *(np.array([number], np.int64) for number in (first, end, 3)))

    shifted = graph.op("Concat", part(1, 2), part(0, -1), axis=3)
    kept, added = (np.array(number, np.float32) for number in (now, before))
    return graph.op("Add", graph.op("Mul", samples, kept), graph.op("Mul", shifted, added))


def _centred(graph: GraphWriter, samples: str, spectrum: Any) -> str:
    window = spectrum.spectrogram.window.double().numpy()
    around = _padded(graph, samples, len(window) // 2, len(window) // 2, "reflect")
    return write_bands(graph, around, np.diag(window), spectrum.mel_scale.fb.double().numpy().T, hop=spectrum.hop)


def _framed(graph: GraphWriter, samples: str, spectrum: Any) -> str:
    around = _padded(graph, samples, spectrum.hop // 2, spectrum.hop // 2)
    window = np.diag(spectrum.window.double().numpy())
    parts = write_spectrum(graph, around, window, np.arange(_BINS), hop=spectrum.hop)
    real, imaginary = graph.ops("Split", graph.op("Mul", parts, parts), outputs=2, axis=1, num_outputs=2)
    low, high = np.array(1e-8, np.float32), np.array(1e8, np.float32)
    power = graph.op("Clip", graph.op("Add", real, imaginary), low, high)
    if not spectrum.has_bands:
        return power
    filters = spectrum.melbanks_pt.numpy()[:, :, None]  # (F, 256, 1, 1)
    return graph.op("Clip", graph.op("Conv", power, filters, kernel_shape=[1, 1]), low, high)


def _normalised_over_time(graph: GraphWriter, logs: str, norm: Any) -> str:
    if isinstance(norm, nn.BatchNorm1d):
        return write_norm(graph, logs, norm)
    mean = graph.op("ReduceMean", logs, _TIME)
    centred = graph.op("Sub", logs, mean)
    if not norm.divide:
        return centred
    deviation = write_deviation(graph, logs, mean, 0.0)
    return graph.op("Div", centred, graph.op("Add", deviation, np.array(1e-8, np.float32)))


def _cut_to(graph: GraphWriter, features: str, multiple: int) -> str:
    """The first frames, as many as whole strides take."""
    if multiple == 1:
        return features
    stride = np.array([multiple], np.int64)
    frames = graph.op("Gather", graph.op("Shape", features), _TIME, axis=0)
    end = graph.op("Mul", graph.op("Div", frames, stride), stride)
    return graph.op("Slice", features, np.array([0], np.int64), end, _TIME)
