"""What identifies a model: its configuration and its numbers, not its name or where it lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["fingerprint_of"]


def fingerprint_of(config: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return 16 hex digits over a configuration and arrays.

    Args:
        config: JSON-serialisable; the order of its keys does not enter.
        arrays: by name; dtypes and shapes enter, the order in memory does not.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(config, sort_keys=True).encode())
    for key, array in sorted(arrays.items()):
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
