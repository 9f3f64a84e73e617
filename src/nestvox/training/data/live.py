"""What layers of teachers say of clips: no cache has them, so the teachers run beside the student."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from nestvox.encoders.contract import Encoder
from nestvox.errors import RecipeError

Layers = Mapping[tuple[str | None, str], Tensor]
"""Name of the teacher, None for the one without, and of its layer, to (b, C, T)."""


class LiveTeachers:
    """Teachers that hear clips. No module, so that nothing of them can come into a student, an optimiser or a file.

    Args:
        encoders: by the name of the teacher.
        layers: that are wanted of each.
        sample_rate: of the clips, in Hz.
        device: of the run.

    Raises:
        RecipeError: a teacher has no such layer, or another sample rate.
    """

    def __init__(
        self,
        encoders: Mapping[str | None, Encoder],
        layers: Mapping[str | None, Collection[str]],
        sample_rate: int,
        device: torch.device,
    ) -> None:
        self._layers = {name: tuple(wanted) for name, wanted in layers.items()}
        for name, wanted in self._layers.items():
            refuse_other_layers(encoders[name], wanted, "teacher")
            if (rate := encoders[name].sample_rate) != sample_rate:
                raise RecipeError(
                    f"objective.terms: the teacher hears {rate} Hz and the student {sample_rate} Hz; "
                    "layers are compared on the same clips"
                )
        self._encoders = {
            name: copy.deepcopy(encoders[name]).to(device).eval().requires_grad_(False) for name in layers
        }

    def __call__(self, clips: Tensor) -> dict[tuple[str | None, str], Tensor]:
        """Return the layers, (b, C, T) each, of clips (b, S): in evaluation, without dropout, statistics or a graph."""
        found: dict[tuple[str | None, str], Tensor] = {}
        for name, wanted in self._layers.items():
            encoder = self._encoders[name]
            assert not any(module.training for module in encoder.modules())
            with torch.inference_mode():
                taps = encoder(clips, layers=wanted)
            # A copy, as tensors of inference cannot be parts of a graph.
            found |= {(name, layer): taps.layers[layer].values.clone() for layer in wanted}
        return found


def channels_of(encoder: Encoder, layers: Collection[str]) -> dict[str, int]:
    """Channels of layers, found by listening to a second of nothing in evaluation mode."""
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        taps = encoder.eval()(
            torch.zeros(1, max(encoder.min_samples, encoder.sample_rate), device=device), layers=layers
        )
    return {name: taps.layers[name].values.shape[1] for name in layers}


def refuse_other_layers(encoder: Encoder, layers: Collection[str], whose: str) -> None:
    """Refuse layers that a network does not hand out.

    Raises:
        RecipeError: naming one, and those that there are.
    """
    if strange := sorted(set(layers) - set(encoder.layer_rates_hz)):
        known = ", ".join(encoder.layer_rates_hz) or "none: it is a closed box"
        raise RecipeError(f"objective.terms: the {whose} hands out no layer {strange[0]!r}; there is {known}")
