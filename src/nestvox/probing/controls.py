"""What a probed encoder is held against: frames that no codec made, through the same steps at the same cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nestvox.encoders.registry import build
from nestvox.errors import NestvoxError
from nestvox.model.loading import load as load_model
from nestvox.model.speaker_model import SpeakerModel

CONTROLS = {"log-mel": "64 logarithmic mel bands at 50 Hz"}
"""Names of controls that no catalogue has, and what they are."""


def control(name: str, *, load: Callable[[str], Any] = load_model) -> SpeakerModel:
    """Make a control.

    Args:
        name: of `CONTROLS`, or of a model.
        load: makes a model of a path or a name.

    Raises:
        NestvoxError: as `load`.
    """
    if name == "log-mel":
        return SpeakerModel(build({"architecture": "log_mel"}), name=name)
    found = load(name)
    if not isinstance(found, SpeakerModel):
        raise NestvoxError(f"{name} is no model whose frames could be probed")
    return found
