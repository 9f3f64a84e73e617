"""Nested speaker embeddings: one model, one forward, every prefix an embedding by itself.

`import nestvox` is light: names are resolved when they are first used, and torch is imported only by what runs a
network.
"""

from __future__ import annotations

# Not from typing, which takes longer to import than all else here: until the command has begun, Ctrl-C is a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nestvox.errors import NestvoxError
    from nestvox.heads.estimator import NestedRotation
    from nestvox.model.load import load
    from nestvox.model.speaker_model import SpeakerModel
    from nestvox.model.threshold import Threshold, Verification

__version__ = "0.1.0"

__all__ = ["NestedRotation", "NestvoxError", "SpeakerModel", "Threshold", "Verification", "__version__", "load"]

_HOME = {
    "NestedRotation": "nestvox.heads.estimator",
    "NestvoxError": "nestvox.errors",
    "SpeakerModel": "nestvox.model.speaker_model",
    "Threshold": "nestvox.model.threshold",
    "Verification": "nestvox.model.threshold",
    "load": "nestvox.model.load",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib  # noqa: PLC0415  see above

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
