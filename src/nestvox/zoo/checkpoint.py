"""Weights files of any origin: named tensors and a configuration, read without running code in them."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file
from torch import Tensor

from nestvox.content import HEAD_BYTES, content_instead
from nestvox.errors import WeightsError, first_of
from nestvox.gate import naming, open_regular, parse_json
from nestvox.shown import shown
from nestvox.zoo.torch_file import check_torch_file, foreign_objects, named_objects

_LISTED = 20
_LARGEST = 2.0**63
_DTYPES = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.bool,
)
# Tied weights stand under several names; more than so often the file was made to fill memory.
_MOST_REPEATS = 8
_MOST_SMALL_BYTES = 16 << 20
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
        numbers: single numbers that stand beside the tensors, such as ``epoch``.
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None
    numbers: Mapping[str, int | float] = field(default_factory=dict)


def read_checkpoint(path: str | Path, *, state_key: str = "", config_key: str = "") -> Checkpoint:
    """Read named tensors and, where it has one, the configuration of a weights file; no code in it is ever run.

    Args:
        path: a ``.safetensors`` file, or a ``.pt``, ``.pth`` or ``.bin`` file of torch.save.
        state_key: key of a ``.pt`` checkpoint under which the tensors stand, where it has that key.
        config_key: the same for the configuration. In a safetensors file it is the metadatum ``config``, as JSON.

    Raises:
        WeightsError: not there, of another kind, unreadable, or without named tensors.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in {".safetensors", ".pt", ".pth", ".bin"}:
        raise WeightsError(
            f"{path}: weights are read from .safetensors, .pt, .pth and .bin files, not from "
            f"{suffix or 'a file without suffix'}; other formats may run code when they are opened"
        )
    with open_regular(path, naming(WeightsError), missing="no such weights file") as file:
        size = os.fstat(file.fileno()).st_size
        if suffix == ".safetensors":
            return _read_safetensors(file, path)
        return _parse(file, size, state_key, config_key, str(path))


def parse_checkpoint(content: bytes, state_key: str, config_key: str, source: str) -> Checkpoint:
    """Read the content of a ``.pt``, ``.pth`` or ``.bin`` file; see `read_checkpoint`.

    Args:
        content: of the file.
        state_key: key of the tensors, where the checkpoint has it; empty: they are at its top.
        config_key: key of the configuration, where the checkpoint has it; empty: it has none.
        source: name of the file, for messages.

    Raises:
        WeightsError: damaged, more than tensors and plain values, or without named tensors.
    """
    return _parse(io.BytesIO(content), len(content), state_key, config_key, source)


def parse_safetensors(content: bytes, source: str) -> Checkpoint:
    """Read the content of a ``.safetensors`` file; see `read_checkpoint`.

    Raises:
        WeightsError: not one, or with tensors that no network here has.
    """
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, LookupError, AttributeError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{source}: not a readable safetensors file ({error}); fetch it again") from error
    _check_tensors(tensors, io.BytesIO(content), source)
    return Checkpoint(unwrapped(tensors), None)


def _read_safetensors(file: BinaryIO, path: Path) -> Checkpoint:
    head = file.read(HEAD_BYTES)
    if instead := content_instead(head):
        raise WeightsError(f"{path}: not a readable safetensors file: it is {instead}")
    if head.startswith((b"PK\x03\x04", b"\x80")):
        raise WeightsError(f"{path}: not a readable safetensors file: it is one of torch.save; give it the suffix .pt")
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, LookupError, AttributeError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error}); fetch it again") from error
    _check_tensors(tensors, file, str(path))
    config = None
    if "config" in metadata:
        where = f"{path}: its metadatum config"
        config = _mapping(parse_json(metadata["config"], where, naming(WeightsError)), where)
    return Checkpoint(unwrapped(tensors), config)


def _parse(file: BinaryIO, size: int, state_key: str, config_key: str, source: str) -> Checkpoint:
    check_torch_file(file, size, source)
    file.seek(0)
    try:
        with torch.serialization.safe_globals(_PLAIN_GLOBALS):
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        file.seek(0)
        strange = [shown(name) for name in foreign_objects(named_objects(file, size, source))]
        # PyTorch's own message tells people to switch the protection off.
        raise WeightsError(
            f"{source}: not a readable checkpoint: it holds more than tensors and plain values"
            f"{f' ({first_of(strange)})' if strange else ''}, which may run code when it is opened. Where you trust "
            "it, open it with the code that made it, and save the tensors alone: torch.save(network.state_dict(), FILE)"
        ) from error
    except Exception as error:  # a damaged pickle fails in every way there is
        reason = shown(f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0].removesuffix(": "))
        raise WeightsError(f"{source}: not a readable checkpoint: {reason}") from error
    config = _configuration(checkpoint, config_key, source)
    top = checkpoint
    if state_key and isinstance(checkpoint, dict) and state_key in checkpoint:
        checkpoint = checkpoint[state_key]
    if not _is_state(checkpoint):
        looked = f"under {state_key!r}, else at the top" if state_key else "at the top"
        raise WeightsError(
            f"{source}: expected a dictionary of tensors {looked}, found {_held(top)}; where the tensors stand under "
            "another key, save them alone: torch.save(checkpoint[KEY], FILE)"
        )
    _check_tensors(checkpoint, file, source)
    return Checkpoint(unwrapped(checkpoint), config, {} if top is checkpoint else _numbers_in(top))


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(key, str) for key in value)
        and all(isinstance(item, Tensor) for item in value.values())
    )


def _numbers_in(checkpoint: Mapping[Any, Any]) -> dict[str, int | float]:
    found: dict[str, int | float] = {}
    for key, value in checkpoint.items():
        plain = value.item() if isinstance(value, np.generic) else value
        if isinstance(key, str) and type(plain) in (int, float) and math.isfinite(plain) and abs(plain) < _LARGEST:
            found[key] = plain
    return found


def _held(value: Any) -> str:
    """The keys of a checkpoint, and how many tensors stand under each."""
    if not isinstance(value, dict):
        return f"a {type(value).__name__}"
    words = []
    for key, item in value.items():
        number = f" ({len(item)} tensors)" if item and _is_state(item) else ""
        words.append(f"{shown(key)}{number}")
    return first_of(words, _LISTED) or "an empty dictionary"


def _check_tensors(tensors: Mapping[str, Tensor], file: BinaryIO, source: str) -> None:
    """Refuse kinds of tensors that no network here has, and more of them than the file has bytes for."""
    for key, tensor in tensors.items():
        kind = ""
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            kind = (
                "sparse"
                if tensor.layout != torch.strided
                else "quantised"
                if tensor.is_quantized
                else "without numbers"
            )
        elif tensor.dtype not in _DTYPES:
            kind = f"of the type {str(tensor.dtype).removeprefix('torch.')}"
        if kind:
            listed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
            raise WeightsError(f"{source}: the tensor {shown(key)} is {kind}; read are dense tensors of {listed}")
    size = file.seek(0, os.SEEK_END)
    whole = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if whole > _MOST_REPEATS * size + _MOST_SMALL_BYTES:
        raise WeightsError(f"{source}: its {size:,} bytes are to be {whole:,} bytes of tensors, by repeating them")


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
    where = f"{source}: {config_key}"
    try:
        text = json.dumps(checkpoint[config_key])
    except (TypeError, ValueError, RecursionError) as error:
        raise WeightsError(f"{where} holds more than plain values ({error})") from error
    return _mapping(parse_json(text, where, naming(WeightsError)), where)


def _mapping(config: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(config, dict):
        raise WeightsError(f"{where} must be a dictionary, found {type(config).__name__}")
    return config
