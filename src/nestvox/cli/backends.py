"""How `--backend` and `--precision` are typed, for every command that runs a network."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["NetworkBackend", "NetworkPrecision"]


class NetworkBackend(StrEnum):
    """The names of `encoders.backends.Backend`."""

    auto = "auto"
    eager = "eager"
    fused = "fused"
    onnx = "onnx"


class NetworkPrecision(StrEnum):
    """The names of `encoders.backends.Precision`."""

    float32 = "float32"
    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
