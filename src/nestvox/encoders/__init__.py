"""Speaker encoders with three taps.

Importing this package costs nothing; its names run networks and import torch when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.extras import require
from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.encoders.contract import Encoder, Taps
    from nestvox.encoders.registry import architectures, build

__all__ = ["Encoder", "Taps", "architectures", "build"]


def _need(_: str) -> None:
    require("torch", extra="torch", purpose="running an encoder")


__getattr__, __dir__ = lazily(
    __name__, {"Encoder": "contract", "Taps": "contract", "architectures": "registry", "build": "registry"}, _need
)
