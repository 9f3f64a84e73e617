"""Checkpoints of voxceleb_trainer (``model000000057.model``) as networks of here, tensor by tensor.

Rebuilt are the two networks of the distillation write-up: ``MLPMixerSpeaker``, the student, and ``LSTMAutoencoder``,
its teacher, of any size; what a file does not say (widths, depths, groups) is read from the shapes of its tensors.

Source: names and shapes of ``dimuthuanuraj/voxceleb_trainer``, forms of a file also of ``clovaai/voxceleb_trainer``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nestvox.encoders.contract import Encoder
from nestvox.encoders.front_ends.log_mel import NormalisedLogMel
from nestvox.encoders.registry import build
from nestvox.errors import WeightsError, first_of
from nestvox.gate import naming, open_regular
from nestvox.model.speaker_model import SpeakerModel
from nestvox.zoo.checkpoint import Checkpoint, parse_checkpoint
from nestvox.zoo.weights import load_strict

# What stands before the names of the network: of a plain run, and of a distilled student.
_NETWORKS = ("__S__.", "__impl__.__S__.")
# Beside it in the file: the loss over training speakers, and the teacher, whole, in every student's file.
_LEFT = {
    "the loss over training speakers": ("__L__.", "__impl__.__L__."),
    "the teacher": ("__T__.", "__impl__.__T__."),
}
_MOST_BYTES = 1 << 31
_FRONT_END = {"torchfb.spectrogram.window": "window", "torchfb.mel_scale.fb": "filters"}
_TOLERANCE = 1e-5  # of windows and filters, whose peaks are 1
_DECODER = "autoencoder.decoder."

Rename = tuple[re.Pattern[str], str]


_BOTH: tuple[Rename, ...] = (
    (re.compile(r"fc\."), "linear."),
    (re.compile(r"bn\."), "norm."),
    (re.compile(r"pooling\.attention\.0\."), "pool.linear1."),
    (re.compile(r"pooling\.attention\.2\."), "pool.linear2."),
)
_MIXER: tuple[Rename, ...] = (
    *_BOTH,
    (re.compile(r"frontend\."), "front."),
    (re.compile(r"encoder_norm\."), "last_norm."),
    (re.compile(r"mixer_blocks\.(\d+)\.norm1\."), r"blocks.\1.0.norm."),
    (re.compile(r"mixer_blocks\.(\d+)\.id_conv\.conv\."), r"blocks.\1.0.depthwise."),
    (re.compile(r"mixer_blocks\.(\d+)\.id_conv\.bn\."), r"blocks.\1.0.depthwise_norm."),
    (re.compile(r"mixer_blocks\.(\d+)\.token_mixing\.fc1\."), r"blocks.\1.0.mlp.0."),
    (re.compile(r"mixer_blocks\.(\d+)\.token_mixing\.fc2\."), r"blocks.\1.0.mlp.3."),
    (re.compile(r"mixer_blocks\.(\d+)\.norm2\."), r"blocks.\1.1.norm."),
    (re.compile(r"mixer_blocks\.(\d+)\.channel_mixing\.fc1\."), r"blocks.\1.1.expand."),
    (re.compile(r"mixer_blocks\.(\d+)\.channel_mixing\.fc2\."), r"blocks.\1.1.reduce."),
)
_LSTM: tuple[Rename, ...] = (
    *_BOTH,
    (re.compile(r"autoencoder\.encoder\."), "encoder."),
    (re.compile(r"lstm_encoder\.layer_norm\."), "layer_norm."),
    (re.compile(r"lstm_encoder\.lstm\.(weight|bias)_([ih]h)_l(\d+)(_reverse)?$"), r"lstms.\3.\1_\2_l0\4"),
)


@dataclass(frozen=True)
class Transfer:
    """What became of the tensors of a file.

    Attributes:
        network: name of the network there.
        form: how the file holds it.
        loaded: tensors that are the network's; every one of both found its place.
        front_end: tensors of the front end, which were found to be ours.
        left: tensors that were left out, by what they are.
        parameters: of the network here.
        epoch: that the file or its name says; None: neither does.
    """

    network: str
    form: str
    loaded: int
    front_end: int
    left: Mapping[str, int]
    parameters: int
    epoch: int | None

    def __str__(self) -> str:
        left = ", ".join(f"{count} of {what}" for what, count in self.left.items() if count)
        return (
            f"{self.network}, {self.form}: {self.loaded} tensors loaded, none missing, none left over; "
            f"{self.front_end} of the front end checked; left out: {left or 'nothing'}; {self.parameters:,} parameters"
        )


def read_trainer_checkpoint(path: str | Path) -> tuple[Encoder, Transfer]:
    """Read a ``.model`` file; no code in it is run.

    Args:
        path: the state of a plain run or of a distilled student, bare, or under ``model_state_dict`` beside the state
            of the optimiser; also one whose names begin at the network.

    Returns:
        The network in evaluation mode, and what became of the tensors.

    Raises:
        WeightsError: damaged, more than tensors and plain values, another network, a front end that is not ours, or
            tensors that do not all find their place (all are named).
    """
    path = Path(path)
    checkpoint = _read(path)
    form, own, left = _network_in(checkpoint.tensors, str(path))
    mels = {key: own.pop(key) for key in _FRONT_END if key in own}
    _check_front_end(mels, str(path))
    network, config, renames = _described(own, str(path))
    decoder = {key for key in own if key.startswith(_DECODER)}
    left |= {"the decoder, which no loss ever trained": len(decoder)}
    tensors: dict[str, Tensor] = {}
    for key, tensor in own.items():
        if key in decoder:
            continue
        if (ours := _renamed(key, renames)) in tensors:
            raise WeightsError(f"{path}: {key} and another tensor would both be {ours}")
        tensors[ours] = tensor
    encoder = build(config, available=sum(tensor.numel() for tensor in tensors.values()))
    shapes = encoder.state_dict()
    for key in ("pool.linear1.weight", "pool.linear2.weight"):  # linear there, convolutions of size 1 here
        if key in tensors and tensors[key].ndim == 2 and shapes[key].ndim == 3:
            tensors[key] = tensors[key][:, :, None]
    report = load_strict(encoder, tensors, str(path))
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    transfer = Transfer(network, form, len(report.loaded), len(mels), left, parameters, _epoch(checkpoint, path))
    return encoder.eval(), transfer


def import_checkpoint(path: str | Path) -> tuple[SpeakerModel, Transfer]:
    """Read a ``.model`` file as a model whose prefixes are cut from its embedding as it is.

    Raises:
        WeightsError: see `read_trainer_checkpoint`.
    """
    encoder, transfer = read_trainer_checkpoint(path)
    card: dict[str, Any] = {
        **({} if transfer.epoch is None else {"checkpoint": {"epoch": transfer.epoch}}),
        "base_model": f"{transfer.network} of voxceleb_trainer ({Path(path).name})",
        "training_data": "what its training list named; the file does not say",
        "licence": "that of whoever trained it",
    }
    return SpeakerModel(encoder, name=Path(path).stem, card=card), transfer


def _read(path: Path) -> Checkpoint:
    with open_regular(path, naming(WeightsError), missing="no such checkpoint") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MOST_BYTES:
            raise WeightsError(f"{path}: {size:,} bytes are more than any checkpoint of voxceleb_trainer has")
        content = file.read(_MOST_BYTES + 1)
    problems = []
    for key in ("model_state_dict", "model"):
        try:
            return parse_checkpoint(content, key, "", str(path))
        except WeightsError as error:
            problems.append(error)
    raise problems[0]


def _network_in(tensors: Mapping[str, Tensor], source: str) -> tuple[str, dict[str, Tensor], dict[str, int]]:
    """The tensors of the network by their names there, in which form they stood, and what stood beside them."""
    left = {what: sum(key.startswith(prefixes) for key in tensors) for what, prefixes in _LEFT.items()}
    beside = tuple(prefix for prefixes in _LEFT.values() for prefix in prefixes)
    there = {key: tensor for key, tensor in tensors.items() if not key.startswith(beside)}
    for prefix, form in zip(_NETWORKS, ("a plain run", "a distilled student"), strict=True):
        if there and all(key.startswith(prefix) for key in there):
            return form, {key.removeprefix(prefix): tensor for key, tensor in there.items()}, left
    if any(key.startswith(_NETWORKS) for key in there):
        strange = sorted(key for key in there if not key.startswith(_NETWORKS[0]))
        raise WeightsError(f"{source}: beside the network stand those of neither loss nor teacher: {first_of(strange)}")
    return "the network alone", there, left


def _check_front_end(mels: Mapping[str, Tensor], source: str) -> None:
    """Hold window and filters of the file against ours: the numbers would be heard by another network."""
    ours = NormalisedLogMel()
    for key, tensor in mels.items():
        wanted = getattr(ours, _FRONT_END[key])
        wanted = wanted.T if key.endswith(".fb") else wanted
        if tensor.shape != wanted.shape or not torch.allclose(tensor.float(), wanted, rtol=0, atol=_TOLERANCE):
            raise WeightsError(
                f"{source}: {key} {tuple(tensor.shape)} is not that of 80 log-mel bands from 0 to 8000 Hz with "
                "Hamming windows of 400 samples (n_mels: 80), on which the networks here are built"
            )


def _described(own: Mapping[str, Tensor], source: str) -> tuple[str, dict[str, Any], tuple[Rename, ...]]:
    """Name, arguments here and renames of the network that these are the tensors of."""
    if "mixer_blocks.0.norm1.weight" in own and "sincnet.low_hz_" not in own:
        return "MLPMixerSpeaker", _arguments(own, source, _mixer), _MIXER
    if "lstm_encoder.layer_norm.weight" in own:
        return "LSTMAutoencoder", _arguments(own, source, _lstm), _LSTM
    named = (
        "MLPMixerSpeaker_RawWaveform"
        if "sincnet.low_hz_" in own
        else "a ResNet"
        if any(re.match(r"layer1\.0\.(conv1|se)\.", key) for key in own)
        else f"a network with the tensors {first_of(sorted(own)) or 'none'}"
    )
    raise WeightsError(
        f"{source}: {named}: of voxceleb_trainer, MLPMixerSpeaker and LSTMAutoencoder are rebuilt here. In place of a "
        "pretrained ResNet take an encoder of 'nestvox models list'; any network that is exported to ONNX with its "
        "front end is read by 'nestvox models import-onnx'"
    )


def _arguments(
    own: Mapping[str, Tensor], source: str, describe: Callable[[Mapping[str, Tensor]], dict[str, Any]]
) -> dict[str, Any]:
    try:
        return describe(own)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(
            f"{source}: its tensors do not say how large the network is: {type(error).__name__} {error}; the file is "
            "of another version, or a part of one"
        ) from error


def _count(own: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for key in own if (match := re.match(pattern, key))})


def _mixer(own: Mapping[str, Tensor]) -> dict[str, Any]:
    width = own["frontend.0.weight"].shape[0]
    hidden, share = own["mixer_blocks.0.token_mixing.fc1.weight"].shape[:2]
    return {
        "architecture": "mixer",
        "variant": "pointwise",
        "width": width,
        "depth": _count(own, r"mixer_blocks\.(\d+)\."),
        "expansion": hidden // width,
        "groups": width // share,
        "embedding_dim": own["fc.weight"].shape[0],
    }


def _lstm(own: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "architecture": "lstm_autoencoder",
        "channels": own["autoencoder.encoder.0.weight"].shape[0],
        "bottleneck": own["autoencoder.encoder.8.weight"].shape[0],
        "hidden": own["lstm_encoder.lstm.weight_hh_l0"].shape[1],
        "depth": _count(own, r"lstm_encoder\.lstm\.weight_ih_l(\d+)"),
        "embedding_dim": own["fc.weight"].shape[0],
    }


def _renamed(key: str, renames: Iterable[Rename]) -> str:
    """The name here; what has none keeps its own, by which strict loading refuses it."""
    for pattern, ours in renames:
        if (match := pattern.match(key)) is not None:
            return match.expand(ours) + key[match.end() :]
    return key


def _epoch(checkpoint: Checkpoint, path: Path) -> int | None:
    if type(said := checkpoint.numbers.get("epoch")) is int:
        return said
    match = re.fullmatch(r"model(\d{9})", path.stem)
    return int(match[1]) if match else None
