"""From the name of an architecture to its class; a class is imported when it is first built."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from nestvox.encoders.contract import Encoder
from nestvox.errors import ModelError

__all__ = ["architectures", "build"]

_CLASSES = {
    "ge2e": "nestvox.encoders.ge2e:GE2E",
    "onnx": "nestvox.encoders.onnx_encoder:OnnxEncoder",
    "redimnet": "nestvox.encoders.redimnet:ReDimNet",
    "redimnet2": "nestvox.encoders.redimnet2:ReDimNet2",
}


def architectures() -> tuple[str, ...]:
    """Names that `build` knows, sorted."""
    return tuple(sorted(_CLASSES))


def build(config: Mapping[str, Any]) -> Encoder:
    """Build an encoder with random weights.

    Args:
        config: `architecture`, and the constructor's arguments as `Encoder.config` gives them.

    Raises:
        ModelError: no or an unknown architecture, or an argument that it does not take.
    """
    arguments = dict(config)
    name = arguments.pop("architecture", None)
    if name not in _CLASSES:
        raise ModelError(f"unknown encoder architecture {name!r}; known: {', '.join(architectures())}")
    module, attribute = _CLASSES[name].split(":")
    encoder_class = getattr(importlib.import_module(module), attribute)
    try:
        encoder = encoder_class(**arguments)
    except TypeError as error:
        raise ModelError(f"encoder {name}: the configuration does not fit: {error}") from error
    assert isinstance(encoder, Encoder)
    return encoder
