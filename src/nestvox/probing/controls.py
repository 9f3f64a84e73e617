"""What a probed encoder is held against: frames that no codec made, through the same steps at the same cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from nestvox.encoders.registry import build
from nestvox.errors import NestvoxError
from nestvox.model.loading import LOG_MEL, LOG_MEL_BANDS
from nestvox.model.loading import load as load_model
from nestvox.model.speaker_model import SpeakerModel

CONTROLS: Mapping[str, Mapping[str, Any]] = {
    LOG_MEL: LOG_MEL_BANDS,
    "random-lyra": {
        "architecture": "mimi",
        "sample_rate": 16_000,
        "filters": 8,
        "size": 64,
        "ratios": [8, 5, 4],
        "depth": 1,
        "heads": 4,
        "feed_forward": 128,
    },
    "random-mimi": {"architecture": "mimi"},
}
"""Controls that no catalogue has: bands of 50 Hz, and codecs of drawn weights with frames as those of Lyra and Mimi."""

_SEED = 0  # of the weights


def control(name: str, *, load: Callable[[str], Any] = load_model) -> SpeakerModel:
    """Make a control.

    Args:
        name: of `CONTROLS`, or of a model.
        load: makes a model of a path or a name.

    Raises:
        NestvoxError: as `load`.
    """
    if name in CONTROLS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            return SpeakerModel(build(CONTROLS[name]), name=name)
    found = load(name)
    if not isinstance(found, SpeakerModel):
        raise NestvoxError(f"{name} is no model whose frames could be probed")
    return found
