"""Where fetched weights lie. Knows no torch.

The folder is found by hand: where a user has no home, platformdirs takes ``~`` for a name, and the check is most of it.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from nestvox.atomic import write_text
from nestvox.errors import DownloadError
from nestvox.gate import naming, parse_json, read_text
from nestvox.home import expand_home, home_folder
from nestvox.shown import shown
from nestvox.zoo.catalogue import CatalogueEntry

_MOST_NOTE_BYTES = 4096
_MOST_HEADER_BYTES = 1 << 20


def cache_dir() -> Path:
    """Folder of everything that was fetched: NESTVOX_CACHE, else ``nestvox`` in the system's cache folder.

    Raises:
        NestvoxError: it lies in the folder of a user who has none.
    """
    chosen = os.environ.get("NESTVOX_CACHE")
    if chosen:
        return expand_home(chosen, what="NESTVOX_CACHE")
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or str(home_folder(instead="NESTVOX_CACHE") / "AppData" / "Local")
        return Path(root) / "nestvox" / "cache"
    if sys.platform == "darwin":
        return home_folder(instead="NESTVOX_CACHE") / "Library" / "Caches" / "nestvox"
    # The XDG rule: a relative path is to be ignored.
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if Path(xdg).is_absolute() else home_folder(instead="NESTVOX_CACHE") / ".cache") / "nestvox"


def cached_weights(entry: CatalogueEntry) -> Path:
    """Path of the converted weights of `entry`, whether they are there or not.

    The name holds the hash of the original, so that a new catalogue never takes old weights for its own; or
    ``first-use`` where the catalogue knows none.
    """
    return cache_dir() / "weights" / f"{entry.name}-{entry.sha256[:12] or 'first-use'}.safetensors"


def taken_from(entry: CatalogueEntry) -> str:
    """The source that the cached weights of `entry` came from; empty where they are not there, or do not say it."""
    path = cached_weights(entry)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(min(length, _MOST_HEADER_BYTES)).decode(errors="replace")
        header = parse_json(text, str(path), naming(DownloadError))
        return shown(str(header["__metadata__"]["source"]))
    except (OSError, DownloadError, LookupError, TypeError):
        return ""


def first_use_record(entry: CatalogueEntry) -> Path:
    """Path of the note of the hash that the original had when it was first fetched, beside the converted weights."""
    return cached_weights(entry).with_suffix(".sha256")


def expected_sha256(entry: CatalogueEntry) -> str:
    """Hash that the original must have: the catalogue's, else the one recorded at first use, else empty."""
    if entry.sha256:
        return entry.sha256
    record = first_use_record(entry)
    if not record.exists():
        return ""
    noted = read_text(record, naming(DownloadError), most_bytes=_MOST_NOTE_BYTES).split()
    if not noted or not re.fullmatch("[0-9a-f]{64}", noted[0]):
        raise DownloadError(f"{record}: not the record of a hash; delete it, and the weights beside it")
    return noted[0]


def record_first_use(entry: CatalogueEntry, sha256: str) -> None:
    """Note the hash of an original whose hash the catalogue does not know, in the form of ``sha256sum``."""
    write_text(first_use_record(entry), f"{sha256}  {entry.file_name}\n")
