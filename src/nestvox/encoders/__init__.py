"""Speaker encoders with three taps.

Importing this package costs nothing; its names run networks and import torch when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nestvox.extras import require

if TYPE_CHECKING:
    from nestvox.encoders.contract import Encoder, Taps
    from nestvox.encoders.registry import architectures, build

__all__ = ["Encoder", "Taps", "architectures", "build"]

_HOME = {"Encoder": "contract", "Taps": "contract", "architectures": "registry", "build": "registry"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("torch", extra="torch", purpose="running an encoder")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
