"""The names of a ReDimNet checkpoint's tensors: the three layouts in which they were published, and one of ours.

The names in our networks are those of the releases since November 2024 (``current``). In files of July to November
2024 (``legacy``) the weights of the sums stand in a list, and a stage begins with its convolution. The files of
redimnet-mrl wrap the network and call its last layers a projection (``mrl``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from nestvox.encoders.contract import Translation
from nestvox.errors import WeightsError

_LEGACY_SUM = re.compile(r"backbone\.inputs_weights\.(\d+)")
_LEGACY_STAGE = re.compile(r"(backbone\.stage\d+)\.(\d+)\.(.+)")
_CLASSIFIER = "cls_head."
_TOLERANCE = 1e-5


def translate(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], fixed: set[str], source: str) -> Translation:
    """Bring the tensors of a checkpoint into the current layout.

    Args:
        tensors: as the checkpoint has them, in any of the layouts.
        own: the state of the network that they are for.
        fixed: names in `own` of the front end's buffers, which the configuration determines: they may be absent, and
            may differ by rounding only; those that were kept in 16 bits are replaced.
        source: name of the checkpoint, for messages.

    Raises:
        WeightsError: a checkpoint of another toolkit, or a front end that is not the configuration's.
    """
    if any(key.startswith("seg_1.") for key in tensors):
        raise WeightsError(
            f"{source}: a checkpoint of wespeaker, whose ReDimNet has no normalisation before its last layer and is "
            "another network; it cannot be loaded into this one"
        )
    layout, named = _current_names(tensors)
    left_out = tuple(sorted(key for key in named if key.startswith(_CLASSIFIER)))
    kept = {key: tensor for key, tensor in named.items() if key not in left_out}
    recomputed = tuple(sorted(fixed - kept.keys()))
    for key in sorted(fixed & kept.keys()):
        wanted, given = own[key], kept[key]
        if wanted.shape != given.shape:
            continue  # told with the others that do not fit
        rounding = torch.finfo(given.dtype).eps if given.dtype in (torch.float16, torch.bfloat16) else 0.0
        same = given.to(wanted.device, wanted.dtype)
        if not torch.allclose(same, wanted, rtol=rounding, atol=_TOLERANCE):
            worst = (same - wanted).abs().max()
            raise WeightsError(
                f"{source}: {key} differs by {worst:.2g} from what the configuration gives; "
                "the checkpoint was made with another front end"
            )
        if rounding:
            kept[key] = wanted  # the front end is float32, in whatever precision the weights were kept
    return Translation(
        tensors=kept | {key: own[key] for key in recomputed},
        layout=layout,
        recomputed=recomputed,
        left_out=left_out,
    )


def _current_names(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    if any(key.startswith("backbone.backbone.") for key in tensors):
        return "mrl", {_without_wrapping(key): tensor for key, tensor in tensors.items()}
    sums = [int(match[1]) for match in map(_LEGACY_SUM.fullmatch, tensors) if match]
    if not sums:
        return "current", dict(tensors)
    n_stages = max(sums)
    return "legacy", {_current_name(key, n_stages): tensor for key, tensor in tensors.items()}


def _current_name(key: str, n_stages: int) -> str:
    if match := _LEGACY_SUM.fullmatch(key):
        number = int(match[1])
        return "backbone.fin_wght1d.w" if number == n_stages else f"backbone.stage{number}.0.w"
    if match := _LEGACY_STAGE.fullmatch(key):
        # The sum and the reshaping have become the first two items.
        return f"{match[1]}.{int(match[2]) + 2}.{match[3]}"
    return key


def _without_wrapping(key: str) -> str:
    if key.startswith("backbone."):
        return key.removeprefix("backbone.")
    return key.removeprefix("projection.") if key.startswith("projection.") else key
