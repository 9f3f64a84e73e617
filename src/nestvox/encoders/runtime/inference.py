"""The same network, arranged for inference: equal outputs to rounding, in less time.

Each encoder names the forms that it has (`Encoder.forms`); here one is chosen, and made of a copy.
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nestvox.encoders.contract import Encoder
from nestvox.encoders.registry import named
from nestvox.encoders.runtime.backends import Backend, Precision, cpu_computes, onnx_is_installed
from nestvox.errors import ModelError

# Largest change of a cosine that `precision="auto"` accepts.
_ALLOWED_SHIFT = 1e-3


def for_inference(encoder: Encoder, *, backend: Backend = "auto", precision: Precision = "float32") -> Encoder:
    """Make what runs an encoder, where the encoder is: itself, or a network of its own that gives the same.

    Args:
        encoder: one in training mode runs as it is.
        backend: ``eager``: as it is; ``fused``: arranged for torch; ``onnx``: by ONNX Runtime, on a CPU; ``auto``: on a
            CPU the fastest of those that are installed, on a GPU ``eager``. Where there is no such form: as it is.
        precision: of all behind the front end, where the encoder may run so (`Encoder.half_precision`). ``float32``
            leaves the network in its own. ``bfloat16`` and ``float16`` need a device that computes in them. ``auto`` is
            bfloat16 where the device has it and no cosine between test signals changes by more than 1e-3, else
            ``float32``.

    Raises:
        ModelError: the precision is not for this network, device or backend; or ``onnx`` is not for this device.
        MissingExtraError: ``onnx`` is asked for and not installed.
    """
    if encoder.training:
        return encoder
    weight = next(itertools.chain(encoder.parameters(), encoder.buffers()))
    if precision == "auto":
        return _in_safe_precision(encoder, weight, backend)
    if precision != "float32":
        return _in_precision(encoder, weight, backend, precision)
    if backend == "auto":
        fits = weight.dtype == torch.float32 and "onnx" in encoder.forms and onnx_is_installed()
        backend = "eager" if weight.device.type != "cpu" else "onnx" if fits else "fused"
    return optimise(encoder, backend)


def _in_safe_precision(encoder: Encoder, weight: Tensor, backend: Backend) -> Encoder:
    full = for_inference(encoder, backend=backend)
    if backend == "onnx" or not encoder.half_precision or not _computes(weight.device, "bfloat16"):
        return full
    reduced = _in_precision(encoder, weight, backend, "bfloat16")
    return reduced if score_shift(full, reduced) <= _ALLOWED_SHIFT else full


def _in_precision(encoder: Encoder, weight: Tensor, backend: Backend, precision: Precision) -> Encoder:
    if not encoder.half_precision:
        raise ModelError(f"{encoder.architecture} runs in float32 only, not in {precision}")
    if backend == "onnx":
        raise ModelError(f"backend onnx runs float32, not {precision}; choose backend auto, or precision float32")
    if not _computes(weight.device, precision):
        raise ModelError(
            f"this machine's {weight.device.type} does not compute in {precision}: it would convert every number and "
            "be slower than in float32; choose precision auto or float32"
        )
    fused = backend == "fused" or (backend == "auto" and weight.device.type == "cpu")
    # Normalisations are folded in full precision before anything is rounded.
    reduced = optimise(encoder, "fused") if fused else encoder
    own = copy.deepcopy(encoder) if reduced is encoder else reduced
    return own.to(getattr(torch, precision)).requires_grad_(False)


def _computes(device: torch.device, precision: Precision) -> bool:
    if device.type == "cpu":
        return cpu_computes(precision)
    return device.type == "cuda" and (
        precision != "bfloat16" or torch.cuda.is_bf16_supported(including_emulation=False)
    )


@torch.inference_mode()
def score_shift(first: Encoder, second: Encoder) -> float:
    """Largest difference that two networks make to the cosines between test signals (voices of different pitch).

    Args:
        first: gives embeddings as it is.
        second: of the same size, on the same device.
    """
    device = next(itertools.chain(first.parameters(), first.buffers())).device
    audio = torch.from_numpy(_voices(first.sample_rate)).to(device)
    units = [functional.normalize(network(audio).embedding.double()) for network in (first, second)]
    scores = [unit @ unit.T for unit in units]
    return float((scores[0] - scores[1]).abs().max())


def _voices(sample_rate: int, count: int = 6, seconds: float = 2.0) -> NDArray[np.float32]:
    """Signals (count, S): buzzes of different pitch and colour, rising and falling four times a second, in noise."""
    rng = np.random.default_rng(0)
    time_s = np.arange(int(seconds * sample_rate)) / sample_rate
    voices = []
    for pitch_hz in np.geomspace(80, 300, count):
        order = np.arange(1, int(4000 / pitch_hz))[:, None]
        level, phase = 0.1 * rng.random(order.shape) / order, rng.random(order.shape)
        buzz = (level * np.sin(2 * np.pi * (order * pitch_hz * time_s + phase))).sum(axis=0)
        rising = 0.6 + 0.4 * np.sin(2 * np.pi * (4 * time_s + rng.random()))
        voices.append(buzz * rising + 0.003 * rng.standard_normal(len(time_s)))
    return np.stack(voices).astype(np.float32)


def optimise(encoder: Encoder, form: Backend) -> Encoder:
    """Arrange a network for inference; the original stays as it is and shares no tensors that change.

    The result gives the same taps up to the rounding of float32, and no layers. It is for running only: its tensors
    have other names and shapes, so it is neither saved, fingerprinted nor trained. What is trained on later needs a new
    one.

    Args:
        encoder: in evaluation mode.
        form: ``fused``, or ``onnx`` for ONNX Runtime, which takes float32 on a CPU.

    Returns:
        A network of its own, or `encoder` itself where it names no such form.

    Raises:
        ModelError: the encoder is in training mode, where normalisations depend on the batch; or ONNX
            Runtime is asked for and it is not in float32 on a CPU.
        MissingExtraError: ONNX Runtime is asked for and not installed.
    """
    if form not in encoder.forms:
        return encoder
    if encoder.training:
        raise ModelError("only an encoder in evaluation mode can be arranged for inference: call eval() first")
    weight = next(encoder.parameters())
    if form == "onnx" and (weight.dtype != torch.float32 or weight.device.type != "cpu"):
        raise ModelError(f"backend onnx runs float32 on a CPU, the encoder is {weight.dtype} on {weight.device}")
    arranged = copy.deepcopy(encoder)
    with torch.no_grad():
        named(encoder.forms[form])(arranged)
    arranged.layer_rates_hz = {}  # its maps lie otherwise
    return arranged.requires_grad_(False).eval()
