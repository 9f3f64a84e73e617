"""A model's folder: written whole or not at all, read, told from what is none, and never unpickled."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import Field, field_validator
from safetensors.numpy import save_file

from nestvox.atomic import atomic_path, write_text
from nestvox.atomic_folder import changing, read_together, settled
from nestvox.encoders.foreign.onnx_check import MOST_ONNX_BYTES
from nestvox.encoders.registry import build, is_file_encoder
from nestvox.errors import ModelError
from nestvox.extras import require
from nestvox.gate import is_file, naming, read_bytes, read_json
from nestvox.heads.contract import FloatArray, Head
from nestvox.model.calibration import CALIBRATION_FILE, ModelCalibration, read_calibration, write_calibration
from nestvox.model.storage import unpack
from nestvox.schema import Count, OpenModel, Size, Word, validated
from nestvox.tensor_files import read_arrays

if TYPE_CHECKING:
    from nestvox.model.speaker_model import SpeakerModel

_Model = TypeVar("_Model", bound="SpeakerModel")
FORMAT = "nestvox-model-1"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
NETWORK_FILE = "model.onnx"
"""Of a model whose encoder is an ONNX file: where that stands by itself, the other tensors are in `WEIGHTS_FILE`."""

_NETWORK = "encoder.network"


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


def write_model(
    folder: str | Path,
    config: Mapping[str, Any],
    arrays: Mapping[str, FloatArray],
    decisions: ModelCalibration,
    card: str,
    *,
    network_apart: bool = False,
) -> None:
    """Write a model's folder, all of it or, where the call is stopped or fails, nothing; a model there is replaced.

    Args:
        folder: new, or of a model.
        config: what `ModelConfig` reads.
        arrays: of encoder and head, by name.
        decisions: thresholds and calibration.
        card: README.md.
        network_apart: write an encoder that is an ONNX file as a file of its own.

    Raises:
        ModelError: the folder holds something else, e.g. a README.md that is no model card of ours.
        OSError: it cannot be written.
    """
    text = json.dumps({"format": FORMAT, "library_name": "nestvox", **config}, indent=2) + "\n"
    with changing(folder) as fresh:
        _refuse_foreign(Path(folder))
        if network_apart:
            arrays = dict(arrays)
            (fresh / NETWORK_FILE).write_bytes(arrays.pop(_NETWORK).tobytes())
        with atomic_path(fresh / WEIGHTS_FILE) as temporary:  # ascontiguousarray would make a row of a scalar
            save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, temporary)
        write_calibration(decisions, fresh / CALIBRATION_FILE)
        write_text(fresh / "README.md", card)
        write_text(fresh / CONFIG_FILE, text)


def read_model(folder: str | Path, kind: type[_Model]) -> _Model:
    """Read what `write_model` wrote; nothing is unpickled.

    Args:
        folder: of a model.
        kind: `SpeakerModel`, or a class of its kind.

    Raises:
        ModelError: not a model folder, or its weights are not those that it was saved with.
        WeightsError: tensors are missing, unexpected or mis-shaped.
    """
    return read_together(folder, lambda: _read_model(Path(folder), kind))


def _read_model(folder: Path, kind: type[_Model]) -> _Model:
    config = _read_config(folder)
    arrays = read_tensors(folder)
    try:
        weights = _section(arrays, "encoder.")
        encoder = build(config.encoder, available=sum(array.size for array in weights.values()))
        if is_file_encoder(encoder):
            encoder.take(weights, str(folder / WEIGHTS_FILE))
        else:
            from nestvox.zoo.weights import load_strict  # noqa: PLC0415  imports torch

            load_strict(encoder, weights, str(folder / WEIGHTS_FILE))
        calibration = read_calibration(folder)
        if calibration.fingerprint != config.fingerprint:
            raise ModelError(
                f"{CALIBRATION_FILE} holds thresholds of model {calibration.fingerprint}, "
                f"but this is {config.fingerprint}"
            )
        model = kind(
            encoder,
            read_head(config.head, _section(arrays, "head.")),
            config.name,
            config.truncate_dim,
            calibration.thresholds,
            tuple(config.training_speakers),
            config.card,
            llr=calibration.llr,
            familiarity=calibration.familiarity,
        )
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    if model.fingerprint != config.fingerprint:
        raise ModelError(
            f"{folder}: the weights give fingerprint {model.fingerprint}, config.json says "
            f"{config.fingerprint}; a file was changed after saving"
        )
    return model


def _read_config(folder: Path) -> ModelConfig:
    path = settled(folder, CONFIG_FILE)
    config = _read_json(path)
    if config.get("format") != FORMAT:
        raise ModelError(f"{path}: format {str(config.get('format'))[:80]!r}, expected {FORMAT!r}")
    return validated(ModelConfig, config, str(path), naming(ModelError))


def read_tensors(folder: Path) -> dict[str, FloatArray]:
    """Read the tensors of encoder and head, whatever they are stored in.

    Raises:
        ModelError: they are not there, or not safetensors.
    """
    arrays = read_arrays(settled(folder, WEIGHTS_FILE), naming(ModelError))[0]
    try:
        found = unpack(arrays)
    except ModelError as error:
        raise ModelError(f"{folder / WEIGHTS_FILE}: {error}") from error
    apart = settled(folder, NETWORK_FILE)
    if _NETWORK not in found and is_file(apart):
        found[_NETWORK] = np.frombuffer(read_bytes(apart, naming(ModelError), most_bytes=MOST_ONNX_BYTES), np.uint8)
    return found


def _section(arrays: Mapping[str, FloatArray], prefix: str) -> dict[str, FloatArray]:
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def read_head(config: dict[str, Any] | None, tensors: dict[str, FloatArray]) -> Head | None:
    """Build a head from its configuration and tensors; None: the model has none.

    Raises:
        MissingExtraError: torch is not installed, and the head is no rotation.
        ModelError: a kind that this version does not know, or tensors that do not fit.
    """
    if config is None:
        return None
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in _HEADS:
        raise ModelError(f"unknown head {str(kind)[:80]!r}; this version knows {', '.join(_HEADS)}")
    if kind != "rotation":
        require("torch", extra="torch", purpose=f"a head of the kind {kind}")
    head: Head = getattr(importlib.import_module(f"nestvox.heads.{kind}"), _HEADS[kind]).from_saved(config, tensors)
    return head


def _refuse_foreign(folder: Path) -> None:
    """Refuse to overwrite what no model wrote; half a model that a killed save left is ours."""
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


_HEADS = {"linear": "LinearHead", "mlp": "MlpHead", "rotation": "Rotation"}
