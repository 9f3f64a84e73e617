"""What lies in a model's folder beside its thresholds: read, told from what is none, and never unpickled."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from nestvox.errors import ModelError
from nestvox.heads.contract import FloatArray, Head
from nestvox.heads.rotation import Rotation

__all__ = [
    "CONFIG_FILE",
    "FORMAT",
    "WEIGHTS_FILE",
    "read_config",
    "read_head",
    "read_tensors",
    "refuse_foreign",
    "section",
]

FORMAT = "nestvox-model-1"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json.

    Raises:
        ModelError: it is not there, not JSON, or not of a model.
    """
    config = _read_json(folder / CONFIG_FILE)
    if config.get("format") != FORMAT:
        raise ModelError(f"{folder / CONFIG_FILE}: format {config.get('format')!r}, expected {FORMAT!r}")
    return config


def read_tensors(folder: Path) -> dict[str, FloatArray]:
    """Read the tensors of encoder and head.

    Raises:
        ModelError: they are not there, or not safetensors.
    """
    path = folder / WEIGHTS_FILE
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {error}") from error


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
    if config["kind"] not in _HEADS:
        raise ModelError(f"unknown head {config['kind']!r}; this version knows {', '.join(_HEADS)}")
    return _HEADS[config["kind"]](config, tensors)


def refuse_foreign(folder: Path) -> None:
    """Refuse to overwrite what no model wrote; half a model that a killed save left is ours.

    Raises:
        ModelError: the folder holds something else.
    """
    if (folder / CONFIG_FILE).is_file():
        if _read_json(folder / CONFIG_FILE).get("format") != FORMAT:
            raise ModelError(f"{folder / 'config.json'} is not of a nestvox model; give another folder")
    elif (folder / "README.md").exists() and not (folder / WEIGHTS_FILE).exists():
        raise ModelError(f"{folder} holds a README.md but no model; give another folder, so that it is not overwritten")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path}: not there; a model folder holds config.json, model.safetensors and calibration.json"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not JSON: {error}") from error
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
