"""Safetensors files from outside: the header is held against the file before a library opens it. Knows no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file

from nestvox.content import HEAD_BYTES, content_instead
from nestvox.gate import ErrorMaker, decode, open_regular, parse_json
from nestvox.schema import StrictModel, Word, validated

_MOST_HEADER_BYTES = 100_000_000  # as the library has it
_ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL"), 1),
}
_NOT_NUMPY = ("BF16",)
_METADATA = "__metadata__"

Extent = Annotated[int, Field(ge=0, le=1 << 48)]


@dataclass(frozen=True)
class TensorInfo:
    """Kind and shape of one tensor, as the header has them; `dtype` is ``F32``, ``BF16``, ``I64``..."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorHeader:
    """What a safetensors file says of itself.

    Attributes:
        tensors: by name.
        metadata: texts that stand beside them.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    @property
    def size(self) -> int:
        """Numbers in all tensors."""
        return sum(tensor.size for tensor in self.tensors.values())


class _Entry(StrictModel):
    dtype: Word
    shape: Annotated[list[Extent], Field(max_length=16)]
    data_offsets: Annotated[list[Extent], Field(min_length=2, max_length=2)]


class _Metadata(StrictModel):
    texts: dict[str, str]


def read_header(path: str | Path, error: ErrorMaker, *, missing: str = "not there") -> TensorHeader:
    """Read the header of a safetensors file and hold it against the file: kinds, shapes, places, length.

    Args:
        path: of the file.
        error: makes the error.
        missing: what the error says where no file is.

    Raises:
        NestvoxError: of `error`: no regular file, no safetensors, a kind of numbers that is not read (complex, 8-bit
            floats, packed bits), or tensors that lie beyond the file or upon each other.
    """
    source = str(path)
    with open_regular(path, error, missing=missing) as file:
        size = os.fstat(file.fileno()).st_size
        if instead := content_instead(file.read(HEAD_BYTES)):
            raise error(f"not a safetensors file: it is {instead}", source)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MOST_HEADER_BYTES):
            raise error("not a safetensors file, or cut short: its header reaches beyond the file", source)
        text = decode(file.read(length), source, error)
    content = parse_json(text, source, error, most_depth=8)
    if not isinstance(content, dict):
        raise error("not a safetensors file: its header is no object", source)
    metadata = validated(
        _Metadata, {"texts": content.pop(_METADATA, {})}, source, error, what="malformed metadata"
    ).texts
    tensors, places = {}, []
    for name, given in content.items():
        entry = validated(_Entry, given, source, error, what=f"the tensor {name[:80]!r} is malformed")
        tensors[name] = TensorInfo(entry.dtype, tuple(entry.shape))
        if entry.dtype not in _ITEM_BYTES:
            known = ", ".join(sorted(_ITEM_BYTES))
            raise error(f"the tensor {name[:80]!r} holds {entry.dtype[:20]} numbers; those read are {known}", source)
        start, end = entry.data_offsets
        if end - start != tensors[name].size * _ITEM_BYTES[entry.dtype]:
            raise error(f"the tensor {name[:80]!r} of {entry.shape} has {end - start} bytes", source)
        places.append((start, end))
    position = 0
    for start, end in sorted(places):
        if start != position:
            raise error("tensors lie upon each other, or apart", source)
        position = end
    if position != size - 8 - length:
        raise error(f"damaged or cut short: {size - 8 - length:,} bytes of tensors where {position:,} belong", source)
    return TensorHeader(tensors, metadata)


def read_arrays(
    path: str | Path, error: ErrorMaker, *, missing: str = "not there"
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read all tensors of a safetensors file, and its metadata.

    Raises:
        NestvoxError: of `error`: as `read_header`, or numbers that NumPy has not.
    """
    header = read_header(path, error, missing=missing)
    for name, info in header.tensors.items():
        if info.dtype in _NOT_NUMPY:
            raise error(f"the tensor {name[:80]!r} holds {info.dtype} numbers; save it as F32", str(path))
    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError) as why:
        raise error(f"not a readable safetensors file: {why}", str(path)) from why
    return {name: np.asarray(array) for name, array in found.items()}, dict(header.metadata)
