"""Weights files of any origin: named tensors and a configuration, read without running code in them."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from nestvox.errors import WeightsError

__all__ = ["Checkpoint", "parse_checkpoint", "read_checkpoint", "read_tensors", "unwrapped"]

_LISTED = 20
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
# Single numbers of numpy stand in many checkpoints beside the tensors; making one runs nothing.
_PLAIN_GLOBALS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
]


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    Attributes:
        tensors: by name, as the file has them; see `unwrapped`.
        config: constructor arguments of the network, where the file states them.
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None


def read_tensors(path: str | Path, *, state_key: str = "") -> dict[str, Tensor]:
    """Read named tensors from a ``.safetensors``, ``.pt`` or ``.pth`` file; no code in it is ever run.

    Args:
        path: the file.
        state_key: key of a ``.pt`` checkpoint under which the tensors stand, where it has that key.

    Raises:
        WeightsError: not there, of another kind, unreadable, or without named tensors.
    """
    return dict(read_checkpoint(path, state_key=state_key).tensors)


def read_checkpoint(path: str | Path, *, state_key: str = "", config_key: str = "") -> Checkpoint:
    """Read named tensors and, where it has one, the configuration of a weights file; no code in it is ever run.

    Args:
        path: a ``.safetensors``, ``.pt`` or ``.pth`` file.
        state_key: key of a ``.pt`` checkpoint under which the tensors stand, where it has that key.
        config_key: the same for the configuration. In a safetensors file it is the metadatum ``config``, as JSON.

    Raises:
        WeightsError: not there, of another kind, unreadable, or without named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
            return Checkpoint(
                unwrapped(load_file(path)), json.loads(metadata["config"]) if "config" in metadata else None
            )
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(f"{path}: not a readable safetensors file ({error}); fetch it again") from error
    if suffix in {".pt", ".pth"}:
        return parse_checkpoint(path.read_bytes(), state_key, config_key, str(path))
    raise WeightsError(
        f"{path}: weights are read from .safetensors, .pt and .pth files, not from "
        f"{suffix or 'a file without suffix'}; other formats may run code when they are opened"
    )


def parse_checkpoint(content: bytes, state_key: str, config_key: str, source: str) -> Checkpoint:
    """Read the content of a ``.pt`` or ``.pth`` file; see `read_checkpoint`.

    Args:
        content: of the file.
        state_key: key of the tensors, where the checkpoint has it; empty: they are at its top.
        config_key: key of the configuration, where the checkpoint has it; empty: it has none.
        source: name of the file, for messages.

    Raises:
        WeightsError: damaged, more than tensors and plain values, or without named tensors.
    """
    try:
        with torch.serialization.safe_globals(_PLAIN_GLOBALS):
            checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message tells people to switch the protection off.
        raise WeightsError(
            f"{source}: not a readable checkpoint: it is damaged, or holds more than tensors and plain values, which "
            "may run code when it is opened; convert it to safetensors where you trust it"
        ) from error
    except Exception as error:  # a damaged pickle fails in every way there is
        reason = f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0].removesuffix(": ")
        raise WeightsError(f"{source}: not a readable checkpoint: {reason}") from error
    config = _configuration(checkpoint, config_key, source)
    if state_key and isinstance(checkpoint, dict) and state_key in checkpoint:
        checkpoint = checkpoint[state_key]
    if not isinstance(checkpoint, dict) or not all(isinstance(value, Tensor) for value in checkpoint.values()):
        keys = ", ".join(map(str, list(checkpoint)[:_LISTED])) if isinstance(checkpoint, dict) else type(checkpoint)
        raise WeightsError(f"{source}: expected a dictionary of tensors, found {keys}")
    return Checkpoint(unwrapped(checkpoint), config)


def unwrapped(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Take off what `nn.DataParallel` and `torch.compile` put before every name of a state.

    Args:
        tensors: by name. Where only some names begin so, none is changed: it is a part of the network.
    """
    names = list(tensors)
    while names and (wrapper := next((w for w in _WRAPPERS if all(name.startswith(w) for name in names)), None)):
        names = [name.removeprefix(wrapper) for name in names]
    return dict(zip(names, tensors.values(), strict=True))


def _configuration(checkpoint: Any, config_key: str, source: str) -> Mapping[str, Any] | None:
    if not config_key or not isinstance(checkpoint, dict) or checkpoint.get(config_key) is None:
        return None
    try:
        config = json.loads(json.dumps(checkpoint[config_key]))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{source}: {config_key} holds more than plain values ({error})") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{source}: {config_key} must be a dictionary, found {type(config).__name__}")
    return config
