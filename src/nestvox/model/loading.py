"""A model folder, an ONNX file or an encoder of the catalogue as a `SpeakerModel`; and which, where none is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nestvox.device import find_device
from nestvox.download import announce_on_stderr
from nestvox.encoders.foreign.onnx_check import MOST_ONNX_BYTES
from nestvox.encoders.foreign.onnx_encoder import OnnxEncoder
from nestvox.encoders.foreign.onnx_model import read_onnx
from nestvox.encoders.front_ends.kaldi_fbank import KaldiFbank
from nestvox.encoders.registry import build, is_file_encoder
from nestvox.encoders.runtime.backends import Backend, Precision, check_way
from nestvox.errors import DownloadError, MissingExtraError, ModelError, WeightsError
from nestvox.extras import require
from nestvox.gate import is_file, is_folder, naming, read_bytes
from nestvox.model.exported import read_exported
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Progress, silent
from nestvox.zoo.box import BOX, box_folder, box_in_words
from nestvox.zoo.catalogue import BEST_FIRST, entries, find

LOG_MEL = "log-mel"
LOG_MEL_BANDS: Mapping[str, Any] = {"architecture": "log_mel", "n_mels": 64, "hop": 320}
"""Means and deviations of mel bands, under a name of their own: what any network has to be better than."""


def best_encoder(
    *, offline: bool = False, announce: Callable[[str], None] | None = None, progress: Progress = silent
) -> str:
    """Name of the encoder that a call means which names no model: the best whose weights are here or can be fetched.

    It is said each time which one that is, and as a warning where it is not the best: scores and thresholds of two
    encoders have nothing to do with each other. Nothing is remembered; a script that names its model has it always.

    Args:
        offline: only what is here.
        announce: told; default: stderr.
        progress: in bytes of a download.

    Raises:
        DownloadError: none of them can be had; says why, and what else there is.
        MissingExtraError: torch is not installed.
    """
    require("torch", extra="torch", purpose="running an encoder")
    from nestvox.zoo.weights import fetch  # noqa: PLC0415  imports torch

    announce = announce or announce_on_stderr
    reasons: list[str] = []
    for name in BEST_FIRST:
        try:
            fetch(name, offline=offline, announce=announce, progress=progress)
        except (DownloadError, WeightsError) as error:
            reasons.append(str(error))
            continue
        if reasons:
            announce(reasons[0])
            announce(
                f"WARNING: no model is named, and {BEST_FIRST[0]} cannot be had: {name} is taken instead, another "
                f"encoder with other scores. --model {name} or nestvox.load({name!r}) pins it, and fetches no other"
            )
        else:
            announce(f"no model is named: {name} is taken; --model {name} or nestvox.load({name!r}) pins it")
        return name
    raise DownloadError(
        f"no model is named, and neither {' nor '.join(BEST_FIRST)} can be had. {' '.join(reasons)}. Or name a model "
        "folder, an .onnx file, or another of 'nestvox models list'"
    )


def load(
    name_or_folder: str | Path | None = None,
    *,
    truncate_dim: int | None = None,
    weights: str | Path | None = None,
    offline: bool = False,
    device: str = "auto",
    backend: Backend = "auto",
    precision: Precision = "float32",
    front_end: str | Path | KaldiFbank | None = None,
    output: str | None = None,
    announce: Callable[[str], None] | None = None,
    progress: Progress = silent,
) -> SpeakerModel:
    """Load a model folder, an ONNX file (of `export_onnx` or another toolkit), or an encoder of the catalogue by name.

    Args:
        name_or_folder: a folder written by `SpeakerModel.save`, a file that ends in ``.onnx``, or a name that
            ``nestvox models list`` shows, ``box`` too; ``log-mel``: means and deviations of mel bands, no network;
            None: the model in the box, which comes with the package; where there is none, the best encoder at hand,
            see `best_encoder`.
        truncate_dim: prefix length that `embed` and `verify` use by default.
        weights: a local weights file for a catalogue name, instead of its source.
        offline: never fetch; what is not in the cache is an error.
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda[:n]``.
        backend: of `SpeakerModel`: ``auto``, ``eager``, ``fused`` or ``onnx``.
        precision: of `SpeakerModel`: ``float32``, ``auto``, ``bfloat16`` or ``float16``.
        front_end: of an ONNX file, where neither it nor a description beside it says so: ``wespeaker``, ``3dspeaker``,
            filter banks of your own, or a description's path; see `encoders.onnx_model.read_onnx`.
        output: of an ONNX file with several, the name of the one that is the embedding, where no description says so.
        announce: told, before anything is downloaded, what, whence, how large and under which licence; default: stderr.
        progress: in bytes of a download.

    Raises:
        CatalogueError: neither a folder nor a known name.
        DownloadError: the weights could not be had.
        ModelError: the folder is not a model, nor the ONNX file a speaker encoder, another file is given without the
            name of its network, or an option means nothing.
        MissingExtraError: torch is not installed, and the model is neither the box, an ONNX file nor a folder of one.
    """
    check_way(backend, precision)
    if name_or_folder is None:
        for what, given in (("weights", weights), ("front end", front_end), ("output", output)):
            if given is not None:
                raise ModelError(
                    f"the {what} {given} belong to a network: name it as the model ('nestvox models list')"
                )
        name_or_folder = _unnamed(device, offline, announce, progress)
    path = Path(name_or_folder)
    if str(name_or_folder) == BOX and not is_folder(path):
        path = _box()
    if path.suffix.lower() == ".onnx":
        if weights is not None or device not in ("auto", "cpu"):
            raise ModelError(f"{path} has its own weights and runs on the CPU; leave out weights and device")
        model = _load_onnx(path, front_end, output)
    else:
        for what, given in (("front end", front_end), ("output", output)):
            if given is not None:
                raise ModelError(f"only an ONNX file is told its {what}, and {path} is none; leave it out")
        model = _load_named(path, weights, device, offline, announce, progress)
    model.backend, model.precision = backend, precision
    if truncate_dim is not None:
        model.truncate_dim = model.check_dim(truncate_dim)
    return model


def _unnamed(device: str, offline: bool, announce: Callable[[str], None] | None, progress: Progress) -> str:
    """The model in the box, else the best encoder at hand."""
    box = box_folder()
    if box is not None:
        (announce or announce_on_stderr)(box_in_words(box))
        return str(box)
    try:
        require("torch", extra="torch", purpose="running an encoder")
    except MissingExtraError as error:
        raise ModelError(
            "no model is named, and none is in the box of this nestvox. Name one: --model campplus or "
            "nestvox.load('campplus') (the extra [torch] runs it: pip install 'nestvox[torch]'), a model folder, or an "
            ".onnx file that 'nestvox export MODEL --onnx' wrote"
        ) from error
    find_device(device)  # before anything is downloaded
    return best_encoder(offline=offline, announce=announce, progress=progress)


def _box() -> Path:
    folder = box_folder()
    if folder is None:
        raise ModelError("no model is in the box of this nestvox; --model campplus or nestvox.load('campplus') has one")
    return folder


def _load_named(
    path: Path,
    weights: str | Path | None,
    device: str,
    offline: bool,
    announce: Callable[[str], None] | None,
    progress: Progress,
) -> SpeakerModel:
    """A model folder, or an encoder of the catalogue."""
    folder = is_folder(path)
    if device not in ("auto", "cpu") or not folder:
        require("torch", extra="torch", purpose="running an encoder")
        find_device(device)  # before anything is downloaded
    if folder:
        if weights is not None:
            raise ModelError(f"{path} is a model folder and has its own weights; leave out weights={weights}")
        model = SpeakerModel.from_folder(path)
    elif path.suffix and is_file(path):
        raise ModelError(_no_model_by_itself(path))
    elif str(path) == LOG_MEL:
        model = _log_mel(weights)
    else:
        model = _of_the_catalogue(str(path), weights, offline, announce, progress)
    if is_file_encoder(model.encoder):
        model.encoder.trusted = path == box_folder()
        return model
    return model.to(find_device(device))


def _log_mel(weights: str | Path | None) -> SpeakerModel:
    """Bands without a network behind them."""
    if weights is not None:
        raise ModelError(f"{LOG_MEL} is no network and has no weights; leave out weights={weights}")
    return SpeakerModel(build(dict(LOG_MEL_BANDS)), name=LOG_MEL)


def _of_the_catalogue(
    name: str,
    weights: str | Path | None,
    offline: bool,
    announce: Callable[[str], None] | None,
    progress: Progress,
) -> SpeakerModel:
    from nestvox.zoo.weights import load_encoder, of_the_catalogue  # noqa: PLC0415  imports torch

    entry = find(name)
    encoder = load_encoder(entry.name, weights=weights, offline=offline, announce=announce, progress=progress)
    if weights is not None and not of_the_catalogue(entry, weights):
        # Somebody else's training: nothing that the catalogue says of its own weights holds for them.
        own = {"base_model": f"{Path(weights).name}, for the network of {entry.name}"}
        return SpeakerModel(encoder, name=Path(weights).stem, card=own)
    card = {"licence": entry.licence, "base_model": entry.name, "training_data": entry.training_data}
    return SpeakerModel(encoder, name=entry.name, card=card)


def _no_model_by_itself(path: Path) -> str:
    """Say how a file of weights is loaded."""
    named = [entry.name for entry in entries() if entry.file_name == path.name]
    return (
        f"{path} is a file, not a model folder. Weights are loaded with the name of their network: --model "
        f"{' or '.join(named) or 'NAME'} --weights {path} ('nestvox models list' shows the names); checkpoints of "
        "redimnet-mrl go through 'nestvox models import-mrl', those of voxceleb_trainer through "
        "'nestvox models import-voxceleb-trainer'"
    )


def _load_onnx(path: Path, front_end: str | Path | KaldiFbank | None, output: str | None) -> SpeakerModel:
    content = read_bytes(path, naming(ModelError), most_bytes=MOST_ONNX_BYTES, missing="cannot be read: not there")
    model = read_exported(content, str(path))
    if model is None:
        file = read_onnx(path, front_end=front_end, output=output)
        encoder = OnnxEncoder.from_file(file)
        return SpeakerModel(encoder, name=path.stem, card={"base_model": path.name, **file.card})  # type: ignore[arg-type]
    if front_end is not None or output is not None:
        raise ModelError(f"{path}: has its front end inside, and one output; leave out front end and output")
    return model
