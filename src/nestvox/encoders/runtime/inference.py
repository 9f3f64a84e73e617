"""The same network, arranged for inference: equal outputs to rounding, in less time.

A ReDimNet's backbone is arranged anew, for torch (`redimnet_rows`) or for ONNX Runtime (`redimnet_onnx`), GE2E's LSTM
for ONNX Runtime (`lstm_onnx`). Front ends stay as they are. In the attentive pooling the context, equal at every frame,
is multiplied once instead of at every frame.

Notation: B utterances, T frames, C frame channels, D embedding size.
"""

from __future__ import annotations

import copy
import itertools
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.contract import Encoder
from nestvox.encoders.ge2e import GE2E
from nestvox.encoders.pooling import ASTP, Pooling
from nestvox.encoders.redimnet.network import ReDimNetEncoder
from nestvox.encoders.redimnet.onnx_backbone import OnnxBackbone
from nestvox.encoders.redimnet.rows import arrange_rows
from nestvox.encoders.runtime.backends import Backend, Precision, cpu_computes, onnx_is_installed
from nestvox.encoders.runtime.folding import folded, scale_and_shift
from nestvox.encoders.runtime.lstm_onnx import OnnxLstm
from nestvox.errors import ModelError

__all__ = ["Runtime", "for_inference", "has_faster_form", "optimise", "score_shift"]

Runtime = Literal["torch", "onnx"]

# Largest change of a cosine that `precision="auto"` accepts.
_ALLOWED_SHIFT = 1e-3


def for_inference(encoder: Encoder, *, backend: Backend = "auto", precision: Precision = "float32") -> Encoder:
    """Make what runs an encoder, where the encoder is: itself, or a network of its own that gives the same.

    Args:
        encoder: one in training mode runs as it is.
        backend: ``eager``: as it is; ``fused``: arranged for torch; ``onnx``: by ONNX Runtime, on a CPU; ``auto``: on a
            CPU the fastest of those that are installed, on a GPU ``eager``. Where there is no such form: as it is.
        precision: of all behind the front end, for ReDimNets. ``float32`` leaves the network in its own. ``bfloat16``
            and ``float16`` need a device that computes in them. ``auto`` is bfloat16 where the device has it and no
            cosine between test signals changes by more than 1e-3, else ``float32``.

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
    on_cpu = weight.device.type == "cpu"
    if backend == "eager" or (backend == "auto" and not on_cpu):
        return encoder
    onnx_fits = on_cpu and weight.dtype == torch.float32 and onnx_is_installed()
    runtime: Runtime = "onnx" if backend == "onnx" or (backend == "auto" and onnx_fits) else "torch"
    return optimise(encoder, runtime=runtime)


def _in_safe_precision(encoder: Encoder, weight: Tensor, backend: Backend) -> Encoder:
    full = for_inference(encoder, backend=backend)
    if backend == "onnx" or not isinstance(encoder, ReDimNetEncoder) or not _computes(weight.device, "bfloat16"):
        return full
    reduced = _in_precision(encoder, weight, backend, "bfloat16")
    return reduced if score_shift(full, reduced) <= _ALLOWED_SHIFT else full


def _in_precision(encoder: Encoder, weight: Tensor, backend: Backend, precision: Precision) -> Encoder:
    if not isinstance(encoder, ReDimNetEncoder):
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
    reduced = optimise(encoder) if fused else copy.deepcopy(encoder)
    return reduced.to(getattr(torch, precision)).requires_grad_(False)


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


def has_faster_form(encoder: Encoder, *, runtime: Runtime = "torch") -> bool:
    """Whether `optimise` changes anything about this encoder."""
    return isinstance(encoder, ReDimNetEncoder) or (runtime == "onnx" and isinstance(encoder, GE2E))


def optimise(encoder: Encoder, *, runtime: Runtime = "torch") -> Encoder:
    """Arrange a network for inference; the original stays as it is and shares no tensors that change.

    The result gives the same taps up to the rounding of float32. It is for running only: its tensors have other names
    and shapes, so it is neither saved, fingerprinted nor trained. What is trained on later needs a new one.

    Args:
        encoder: in evaluation mode.
        runtime: what runs the heavy part: ``torch``, or ``onnx`` for ONNX Runtime, which takes float32 on a CPU.

    Returns:
        A network of its own, or `encoder` itself where there is no faster form.

    Raises:
        ModelError: the encoder is in training mode, where normalisations depend on the batch; or ONNX
            Runtime is asked for and it is not in float32 on a CPU.
        MissingExtraError: ONNX Runtime is asked for and not installed.
    """
    if not has_faster_form(encoder, runtime=runtime):
        return encoder
    if encoder.training:
        raise ModelError("only an encoder in evaluation mode can be arranged for inference: call eval() first")
    weight = next(encoder.parameters())
    if runtime == "onnx" and (weight.dtype != torch.float32 or weight.device.type != "cpu"):
        raise ModelError(f"backend onnx runs float32 on a CPU, the encoder is {weight.dtype} on {weight.device}")
    arranged = copy.deepcopy(encoder)
    with torch.no_grad():
        if isinstance(arranged, GE2E):
            arranged.lstm = OnnxLstm(arranged.lstm)  # type: ignore[assignment]
        if isinstance(arranged, ReDimNetEncoder):
            if runtime == "onnx":
                arranged.backbone = OnnxBackbone(arranged)
            else:
                arrange_rows(arranged)
            if isinstance(arranged.pool, ASTP):
                arranged.pool = _LeanASTP(arranged.pool)
            _fold_embedding(arranged)
    arranged.layer_rates_hz = {}  # its maps lie otherwise
    return arranged.requires_grad_(False).eval()


def _fold_embedding(encoder: ReDimNetEncoder) -> None:
    """Fold the normalisations before and behind the embedding layer into it."""
    scale, shift = scale_and_shift(encoder.bn)
    weight, bias = encoder.linear.weight.double(), encoder.linear.bias.double()
    weight, bias = weight * scale, bias + weight @ shift
    if isinstance(encoder.bn2, nn.BatchNorm1d):
        scale, shift = scale_and_shift(encoder.bn2)
        weight, bias = weight * scale[:, None], bias * scale + shift
    encoder.linear.weight.copy_(weight)
    encoder.linear.bias.copy_(bias)
    encoder.bn = nn.Identity()  # type: ignore[assignment]
    encoder.bn2 = nn.Identity()


def _product(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A 1x1 convolution as a product with every row."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype, device=weight.device)
    layer.weight.copy_(weight.flatten(1))
    if bias is not None:
        layer.bias.copy_(bias)
    return layer


class _LeanASTP(Pooling):
    """Attentive statistics that multiply their context once."""

    def __init__(self, original: ASTP) -> None:
        super().__init__(original.out_dim)
        self.fewest_frames = original.fewest_frames
        weight, bias = folded(original.linear1, None)
        parts = weight[:, :, 0].chunk(3, dim=1) if original.global_context else (weight[:, :, 0],)
        self.seen = _product(parts[0], bias)
        self.context = _product(torch.cat(parts[1:], dim=1), None) if original.global_context else None
        self.weigh = _product(*folded(original.linear2, None))
        self.floor = 1e-7

    def statistics(self, frames: Tensor) -> Tensor:
        rows = frames.transpose(1, 2)  # (B, T, C)
        hidden = self.seen(rows)
        if self.context is not None:
            mean = rows.mean(dim=1)
            variance = (rows - mean[:, None]).square_().sum(dim=1) / (rows.shape[1] - 1)
            hidden = hidden + self.context(torch.cat([mean, (variance + self.floor).sqrt()], dim=1))[:, None]
        precision = torch.promote_types(rows.dtype, torch.float32)
        weights, wide = self.weigh(hidden.tanh()).softmax(dim=1, dtype=precision), rows.to(precision)
        mean = (weights * wide).sum(dim=1)
        variance = (weights * (wide - mean[:, None]).square_()).sum(dim=1)
        return torch.cat([mean, variance.clamp(min=self.floor).sqrt()], dim=1).to(rows.dtype)
