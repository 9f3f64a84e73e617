"""What lies in a model's folder beside its thresholds: read, told from what is none, and never unpickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from nestvox.atomic_folder import settled
from nestvox.errors import ModelError
from nestvox.gate import naming, read_json
from nestvox.heads.contract import FloatArray, Head
from nestvox.heads.rotation import Rotation
from nestvox.schema import Count, OpenModel, Size, Word, validated
from nestvox.tensor_files import read_arrays

__all__ = [
    "CONFIG_FILE",
    "FORMAT",
    "WEIGHTS_FILE",
    "Card",
    "ModelConfig",
    "read_config",
    "read_head",
    "read_tensors",
    "refuse_foreign",
    "section",
]

FORMAT = "nestvox-model-1"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class _Row(OpenModel):
    """Error rates of one dimension, as the card shows them."""

    dim: Size
    eer: float
    eer_low: float
    eer_high: float
    min_dcf: float
    p_target: float
    n_target: Count
    n_nontarget: Count
    trials_sha256: Word
    trials_source: Word
    labels: list[Word]


class Card(OpenModel):
    """Further lines of the model card; what is not listed is kept and not read."""

    licence: Word = "unknown"
    base_model: Word | None = None
    training_data: Word = ""
    head_data: Word = ""
    language: list[Word] = Field(default_factory=list)
    results: list[_Row] = Field(default_factory=list)
    chosen_on: list[Word] = Field(default_factory=list)


class ModelConfig(OpenModel):
    """config.json of a model folder; what a hub adds to it is passed over.

    Attributes:
        name: for people.
        fingerprint: of the configuration and every weight.
        encoder: architecture and arguments.
        head: kind and what it is rebuilt from; None: the model has none.
        truncate_dim: prefix length that is used by default.
        training_speakers: keys of the speakers that the head was fitted on.
        card: further lines for the model card.
    """

    name: Word
    fingerprint: Word
    encoder: dict[str, Any]
    head: dict[str, Any] | None
    truncate_dim: Size | None
    training_speakers: list[Word]
    card: dict[str, Any]

    @field_validator("card")
    @classmethod
    def _of_known_types(cls, value: dict[str, Any]) -> dict[str, Any]:
        Card.model_validate(value)
        return value


def read_config(folder: Path) -> ModelConfig:
    """Read config.json.

    Raises:
        ModelError: it is not there, not JSON, or not of a model.
    """
    path = settled(folder, CONFIG_FILE)
    config = _read_json(path)
    if config.get("format") != FORMAT:
        raise ModelError(f"{path}: format {str(config.get('format'))[:80]!r}, expected {FORMAT!r}")
    return validated(ModelConfig, config, str(path), naming(ModelError))


def read_tensors(folder: Path) -> dict[str, FloatArray]:
    """Read the tensors of encoder and head.

    Raises:
        ModelError: they are not there, or not safetensors.
    """
    return read_arrays(settled(folder, WEIGHTS_FILE), naming(ModelError))[0]


def section(arrays: Mapping[str, FloatArray], prefix: str) -> dict[str, FloatArray]:
    """Return the arrays whose names begin with `prefix`, by the rest of their names."""
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def read_head(config: dict[str, Any] | None, tensors: dict[str, FloatArray]) -> Head | None:
    """Build a head from its configuration and tensors; None: the model has none.

    Raises:
        ModelError: a kind that this version does not know, or tensors that do not fit.
    """
    if config is None:
        return None
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in _HEADS:
        raise ModelError(f"unknown head {str(kind)[:80]!r}; this version knows {', '.join(_HEADS)}")
    return _HEADS[kind](config, tensors)


def refuse_foreign(folder: Path) -> None:
    """Refuse to overwrite what no model wrote; half a model that a killed save left is ours.

    Raises:
        ModelError: the folder holds something else.
    """
    if settled(folder, CONFIG_FILE).is_file():
        if _read_json(settled(folder, CONFIG_FILE)).get("format") != FORMAT:
            raise ModelError(f"{folder / 'config.json'} is not of a nestvox model; give another folder")
    elif (folder / "README.md").exists() and not settled(folder, WEIGHTS_FILE).exists():
        raise ModelError(f"{folder} holds a README.md but no model; give another folder, so that it is not overwritten")


def _read_json(path: Path) -> dict[str, Any]:
    missing = "not there; a model folder holds config.json, model.safetensors and calibration.json"
    content = read_json(path, naming(ModelError), missing=missing)
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object")
    return content


def _saved_linear(config: dict[str, Any], tensors: dict[str, FloatArray]) -> Head:
    from nestvox.heads.linear import LinearHead  # noqa: PLC0415  imports torch

    return LinearHead.from_saved(config, tensors)


def _saved_mlp(config: dict[str, Any], tensors: dict[str, FloatArray]) -> Head:
    from nestvox.heads.mlp import MlpHead  # noqa: PLC0415  imports torch

    return MlpHead.from_saved(config, tensors)


_HEADS: dict[str, Callable[[dict[str, Any], dict[str, FloatArray]], Head]] = {
    "linear": _saved_linear,
    "mlp": _saved_mlp,
    "rotation": Rotation.from_saved,
}
