"""What identifies a model: its configuration and its numbers, not its name or where it lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def versions_of(network: object) -> tuple[object, ...]:
    """Return what changes with every weight of a torch network, without reading any: torch counts the changes.

    Args:
        network: anything else never changes.
    """
    found: list[object] = []
    open_modules: list[Any] = [network] if hasattr(network, "_parameters") else []
    # Called before every forward pass: four times as fast as the iterators that torch has for it.
    while open_modules:
        module = open_modules.pop()
        open_modules.extend(child for child in module._modules.values() if child is not None)
        for tensors in (module._parameters, module._buffers):
            found += [(tensor.data_ptr(), tensor._version) for tensor in tensors.values() if tensor is not None]
    return tuple(found)
