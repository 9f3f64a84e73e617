"""What a trained model costs: parameters, multiply-accumulates, processor time and bytes.

Multiply-accumulates are those of matrix products and convolutions, as torch's own counter finds them in one forward
pass; a Fourier transform and what is done element by element are not counted. They mislead about time: a depth-wise
convolution has few of them and takes long.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nestvox.inspection.bench import times_by_turns
from nestvox.inspection.inspect import part_sizes
from nestvox.model.speaker_model import SpeakerModel
from nestvox.schema import Count, Word

CLIP_S = 3.0
"""Seconds of the clip that time and multiply-accumulates are of."""

COSTS = ("parameters", "macs", "cpu_ms", "size_bytes")
"""Names of the costs: attributes of `Costs`."""


@dataclass(frozen=True)
class Costs:
    """Of one model.

    Attributes:
        shape: hash of what makes the costs: of two models that differ in weights alone it is the same.
        parameters: of the encoder, and of the head that was fitted.
        macs: multiply-accumulates of a clip of three seconds; 0: the network is a closed box.
        size_bytes: of the files of its folder.
    """

    shape: Word
    parameters: Count
    macs: Count
    size_bytes: Count


def count_costs(model: SpeakerModel, size_bytes: int) -> Costs:
    """Count what one model has; `size_bytes` are those of its files."""
    head = None if model.head is None else [model.head.kind, list(model.head.dims)]
    about = [model.encoder.architecture, model.encoder.config(), head]
    return Costs(
        shape=hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16],
        parameters=sum(part.parameters for part in part_sizes(model)),
        macs=count_macs(model),
        size_bytes=size_bytes,
    )


def cpu_times(models: Mapping[str, SpeakerModel]) -> dict[str, float]:
    """Processor time of a clip on one thread, from samples to embedding, in milliseconds."""
    return times_by_turns(models, CLIP_S, clock=time.process_time)


def count_macs(model: SpeakerModel, clip_s: float = CLIP_S) -> int:
    """Multiply-accumulates of one clip through encoder and head; 0: the network is a closed box."""
    if "pooled" not in model.encoder.taps:
        return 0
    network = copy.deepcopy(model.encoder).cpu().eval()
    audio = torch.zeros(1, round(clip_s * model.sample_rate))
    # Fused recurrences and attention are one operation that the counter does not know: they are taken apart.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on some machines the switch talks about graphics cards
        with torch.enable_grad(), torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            counter = FlopCounterMode(display=False)
            with counter:
                network(audio)
    head = 0 if model.head is None else sum(tensor.size for tensor in model.head.tensors().values() if tensor.ndim > 1)
    return int(counter.get_total_flops()) // 2 + head
