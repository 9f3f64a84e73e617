"""Weights that are several files, kept as they are: read from a folder or fetched one by one, each held to its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nestvox.content import HEAD_BYTES, content_instead
from nestvox.download import Announce, download
from nestvox.errors import DownloadError, WeightsError
from nestvox.gate import naming, read_bytes
from nestvox.progress import Progress
from nestvox.zoo.cache import cache_dir
from nestvox.zoo.catalogue import FolderSource, RawFile


def in_folder(source: FolderSource, folder: Path) -> bytes:
    """Read the files of a source from a folder at hand.

    Returns:
        Their bytes, one after another.

    Raises:
        DownloadError: one has another hash than the catalogue says.
        WeightsError: one is not there.
    """
    return _joined(source, folder, lambda file: _read(folder / file.name, file))


def from_web(source: FolderSource, what: str, licence: str, announce: Announce, progress: Progress) -> bytes:
    """Fetch the files of a source one by one; arguments as `download.download` takes them.

    Returns:
        Their bytes, one after another.

    Raises:
        DownloadError: one cannot be had, or is another file.
    """
    folder = cache_dir() / "downloads"

    def fetched(file: RawFile) -> bytes:
        place = folder / f"{what}-{file.name}"
        try:
            download(
                f"{source.url.rstrip('/')}/{file.name}",
                place,
                sha256=file.sha256,
                size=file.size_bytes,
                what=f"{what} ({file.name})",
                licence=licence,
                announce=announce,
                progress=progress,
            )
            return _read(place, file)
        finally:
            place.unlink(missing_ok=True)

    return _joined(source, Path(source.url), fetched)


def tensors_of(source: FolderSource, content: bytes) -> dict[str, Tensor]:
    """Take the bytes of all files apart again, (size,) uint8 each, by the name of the tensor."""
    found, start = {}, 0
    for file in source.files:
        part = bytearray(content[start : start + file.size_bytes])
        found[file.tensor] = torch.frombuffer(part, dtype=torch.uint8)
        start += file.size_bytes
    return found


def _joined(source: FolderSource, folder: Path, read: Callable[[RawFile], bytes]) -> bytes:
    parts = []
    for file in source.files:
        content = read(file)
        if (found := hashlib.sha256(content).hexdigest()) != file.sha256:
            instead = content_instead(content[:HEAD_BYTES])
            why = f"is {instead}" if instead else f"has SHA-256 {found}, expected {file.sha256}"
            raise DownloadError(f"{folder / file.name} {why}; it was not opened and nothing was kept")
        parts.append(content)
    return b"".join(parts)


def _read(path: Path, file: RawFile) -> bytes:
    missing = f"cannot be read: not there; the folder needs {file.name} ({file.size_bytes:,} bytes)"
    return read_bytes(path, naming(WeightsError), most_bytes=1 << 30, missing=missing)
