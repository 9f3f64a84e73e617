"""What stands before and behind a network as ONNX operators: mel front ends, poolings, the last layer.

Windows, mean subtraction, pre-emphasis and the Fourier transform of a frame are one linear map: a convolution over the
samples, made in float64.

Notation: B utterances, S samples, F mel bands, T frames, C channels, P pooled size, D embedding size.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nestvox.encoders.contract import Affine
from nestvox.encoders.front_ends.kaldi_fbank import LOG_FLOOR, PREEMPHASIS
from nestvox.encoders.front_ends.log_mel import KaldiBands, NormalisedLogMel
from nestvox.encoders.pooling import ASTP, CONTEXT_FLOOR, TAP, TSTP, Pooling
from nestvox.encoders.runtime.onnx_graph import Float32, GraphWriter
from nestvox.encoders.runtime.onnx_layers import write_conv, write_conv_of
from nestvox.errors import ModelError

_N_FFT, _HOP = 512, 160
_TIME = np.array([3], np.int64)


def write_front_end(graph: GraphWriter, waveform: str, front_end: nn.Module) -> str:
    """Write a front end from waveforms (B, S) to features (B, F, 1, T).

    Args:
        graph: written into.
        waveform: name of the value.
        front_end: `KaldiBands` or `NormalisedLogMel`.

    Returns:
        The name of the features.

    Raises:
        ModelError: another front end.
    """
    samples = graph.op("Unsqueeze", waveform, np.array([1, 2], np.int64))  # (B, 1, 1, S)
    if isinstance(front_end, KaldiBands):
        return _kaldi(graph, samples, front_end)
    if type(front_end) is NormalisedLogMel:
        return _normalised(graph, samples, front_end)
    raise ModelError(f"the front end {type(front_end).__name__} has no ONNX form")


def _kaldi(graph: GraphWriter, samples: str, front_end: KaldiBands) -> str:
    settings, size = front_end.settings, len(front_end.window)
    frame = np.eye(size) - 1 / size  # each frame loses its mean
    before = np.eye(size, k=-1)
    before[0, 0] = 1  # before the first sample stands itself
    linear = settings.scale * settings.window_shape[:, None] * ((np.eye(size) - PREEMPHASIS * before) @ frame)
    bands = write_bands(graph, samples, linear, settings.filters, hop=settings.hop_samples)
    logs = graph.op("Log", graph.op("Max", bands, np.array(LOG_FLOOR, np.float32)))
    return graph.op("Sub", logs, graph.op("ReduceMean", logs, _TIME)) if settings.subtract_mean else logs


def _normalised(graph: GraphWriter, samples: str, front_end: NormalisedLogMel) -> str:
    sides = np.array([0, 0, 0, 200, 0, 0, 0, 200], np.int64)
    around = graph.op("Pad", samples, sides, mode="reflect")
    linear = np.diag(front_end.window.double().numpy())
    bands = write_bands(graph, around, linear, front_end.filters.double().numpy(), hop=_HOP)
    logs = graph.op("Log", graph.op("Add", bands, np.array(1e-6, np.float32)))
    one = np.ones(front_end.n_mels, np.float32)
    return graph.op("InstanceNormalization", logs, one, 0 * one, epsilon=1e-5)


def write_bands(
    graph: GraphWriter, samples: str, linear: NDArray[np.float64], filters: NDArray[np.float64], *, hop: int
) -> str:
    """Write mel energies (B, F, 1, T) of samples (B, 1, 1, S).

    Args:
        graph: written into.
        samples: name of the value.
        linear: (W, W) what acts on a frame before its transform.
        filters: (F, bins) from 0 Hz on.
        hop: samples from one frame to the next.

    Returns:
        The name of the energies.
    """
    used = np.flatnonzero(filters.any(axis=0))
    spectrum = write_spectrum(graph, samples, linear, used, hop=hop)
    power = graph.op("Mul", spectrum, spectrum)
    both = np.concatenate([filters[:, used]] * 2, axis=1).astype(np.float32)  # of real and imaginary parts
    return graph.op("Conv", power, both[:, :, None, None], kernel_shape=[1, 1])


def write_spectrum(
    graph: GraphWriter, samples: str, linear: NDArray[np.float64], bins: NDArray[np.int64], *, hop: int
) -> str:
    """Write real and then imaginary parts of some bins, (B, 2 bins, 1, T); arguments as `write_bands`."""
    phase = -2 * np.pi / _N_FFT * np.outer(bins, np.arange(len(linear)))
    kernels: Float32 = (np.concatenate([np.cos(phase), np.sin(phase)]) @ linear).astype(np.float32)
    return graph.op("Conv", samples, kernels[:, None, None], kernel_shape=[1, len(linear)], strides=[1, hop])


def write_deviation(graph: GraphWriter, frames: str, mean: str, floor: float) -> str:
    """Write the unbiased standard deviation over time of (B, C, 1, T), (B, C, 1, 1), with a floor under the root."""
    op = graph.op
    apart = op("Sub", frames, mean)
    count = op("Cast", op("Gather", op("Shape", frames), _TIME, axis=0), to=1)
    variance = op("Div", op("ReduceSum", op("Mul", apart, apart), _TIME), op("Sub", count, np.array(1, np.float32)))
    return op("Sqrt", op("Add", variance, np.array(floor, np.float32)))


def write_pooling(graph: GraphWriter, frames: str, pool: Pooling) -> str:
    """Write a pooling of all frames (B, C, 1, T) to (B, P); returns the name of the result.

    Raises:
        ModelError: a pooling that has no ONNX form.
    """
    op = graph.op
    if type(pool) is TAP:
        return op("Flatten", op("ReduceMean", frames, _TIME), axis=1)
    if type(pool) is TSTP:
        mean = op("ReduceMean", frames, _TIME)
        deviation = write_deviation(graph, frames, mean, pool.variance_floor)
    elif type(pool) is ASTP:
        logits = write_conv_of(graph, op("Tanh", _hidden(graph, frames, pool)), pool.linear2)
        weights = op("Softmax", logits, axis=3)
        mean = op("ReduceSum", op("Mul", weights, frames), _TIME)
        apart = op("Sub", frames, mean)
        variance = op("ReduceSum", op("Mul", weights, op("Mul", apart, apart)), _TIME)
        deviation = op("Sqrt", op("Max", variance, np.array(pool.variance_floor, np.float32)))
    else:
        raise ModelError(f"the pooling {type(pool).__name__} has no ONNX form")
    return op("Flatten", op("Concat", mean, deviation, axis=1), axis=1)


def _hidden(graph: GraphWriter, frames: str, pool: ASTP) -> str:
    """The first layer of an attention; a context that all frames share is multiplied once."""
    if not pool.global_context:
        return write_conv_of(graph, frames, pool.linear1)
    seen, *context = pool.linear1.weight.detach().chunk(3, dim=1)
    mean = graph.op("ReduceMean", frames, _TIME)
    both = graph.op("Concat", mean, write_deviation(graph, frames, mean, CONTEXT_FLOOR), axis=1)
    of_context = write_conv(graph, both, torch.cat(context, dim=1), pool.linear1.bias)
    return graph.op("Add", write_conv(graph, frames, seen), of_context)


def write_affine(graph: GraphWriter, rows: str, layer: Affine) -> str:
    """Write an affine map of (B, P) to (B, D); returns the name of the result."""
    weight, bias = (part.astype(np.float32) for part in (layer.weight.T, layer.bias))
    return graph.op("Add", graph.op("MatMul", rows, weight), bias)
