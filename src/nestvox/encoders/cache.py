"""Where fetched weights lie. Knows no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nestvox.encoders.catalogue import CatalogueEntry

__all__ = ["cache_dir", "cached_weights"]


def cache_dir() -> Path:
    """Folder of everything that was fetched: NESTVOX_CACHE, else ``nestvox`` in the system's cache folder."""
    chosen = os.environ.get("NESTVOX_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
        return Path(root) / "nestvox" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "nestvox"
    # The XDG rule: a relative path is to be ignored.
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if Path(xdg).is_absolute() else Path.home() / ".cache") / "nestvox"


def cached_weights(entry: CatalogueEntry) -> Path:
    """Path of the converted weights of `entry`, whether they are there or not.

    The name holds the hash of the original, so that a new catalogue never takes old weights for its own.
    """
    return cache_dir() / "weights" / f"{entry.name}-{entry.sha256[:12]}.safetensors"
