"""How a network is loaded and run: the options that mean the same on every command that runs one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nestvox.model.speaker_model import SpeakerModel


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


Device = Annotated[str, typer.Option(help="Where the network runs: auto, cpu or cuda[:n].")]
Backend = Annotated[
    NetworkBackend,
    typer.Option(help="How the network runs; auto: ONNX Runtime where installed, else arranged for torch."),
]
Precision = Annotated[
    NetworkPrecision, typer.Option(help="Of the network; auto: bfloat16 where the device has it and scores stay.")
]
Weights = Annotated[Path | None, typer.Option(help="Local weights file for a catalogue name.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never fetch anything.")]


@dataclass(frozen=True)
class Running:
    """What these options said.

    Attributes:
        device: ``auto``, ``cpu`` or ``cuda[:n]``.
        backend: how the network runs.
        weights: local weights file for a catalogue name.
        offline: never fetch.
        precision: of the network.
    """

    device: str = "auto"
    backend: NetworkBackend = NetworkBackend.auto
    weights: Path | None = None
    offline: bool = False
    precision: NetworkPrecision = NetworkPrecision.float32

    def load(self, model: str) -> SpeakerModel:
        """Load a model folder, an ONNX file or an encoder of the catalogue; see `nestvox.load`."""
        from nestvox.model.loading import load

        return load(
            model,
            weights=self.weights,
            offline=self.offline,
            device=self.device,
            backend=self.backend.value,
            precision=self.precision.value,
        )
