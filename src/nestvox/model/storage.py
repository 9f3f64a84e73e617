"""Weights in fewer bits on disk: 16-bit numbers, eight bits and a scale a row, four and one for every block of 32.

They are float32 again when they are read, so a model runs, trains and is compared like any other, as fast and in as
much memory as before; what shrinks is its file. Knows no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import ModelError

Storage = Literal["float32", "float16", "int8", "int4"]
"""All but ``float32`` are of the matrices and kernels that are learnt; biases, statistics and rotations, a
hundredth of most models, stay as they are. Of ``int4``, kernels of fewer than 32 numbers an output are float16."""

_BLOCK = 32
_LARGEST = 7  # of four bits, the same on both sides of zero
_LARGEST_OF_EIGHT = 127
_CODES, _SCALES, _SHAPE = "#int4", "#scales", "#shape"
_BYTES = "#int8"

Arrays = Mapping[str, NDArray[Any]]


def learnt(encoder: Any, head: Any) -> frozenset[str]:
    """Names of the arrays of a model that are parameters; what a front end computes with is none."""
    parts = (("encoder", encoder), ("head", head))
    return frozenset(
        f"{prefix}.{name}"
        for prefix, part in parts
        if hasattr(part, "named_parameters")
        for name, _ in part.named_parameters()
    )


def pack(arrays: Arrays, storage: Storage, weights: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return what is stored of a model's arrays.

    Args:
        arrays: by name, as `SpeakerModel` has them.
        storage: in what.
        weights: names of those that are learnt, see `learnt`.

    Raises:
        ModelError: a number that has no place there.
    """
    packed: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if storage == "float32" or array.ndim < 2 or name not in weights:
            packed[name] = array
        elif storage == "int4" and array[0].size >= _BLOCK:
            packed |= _in_four_bits(name, array)
        elif storage == "int8":
            packed |= _in_eight_bits(name, array)
        else:
            packed[name] = _in_sixteen_bits(name, array)
    return packed


def unpack(packed: Arrays) -> dict[str, NDArray[Any]]:
    """Return the arrays that were packed, in float32.

    Raises:
        ModelError: codes without scales or shape, or of other sizes than these say.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, array in packed.items():
        if name.endswith(_CODES):
            whole = name.removesuffix(_CODES)
            arrays[whole] = _from_four_bits(whole, array, packed.get(whole + _SCALES), packed.get(whole + _SHAPE))
        elif name.endswith(_BYTES):
            whole = name.removesuffix(_BYTES)
            arrays[whole] = _from_eight_bits(whole, array, packed.get(whole + _SCALES))
        elif not name.endswith((_SCALES, _SHAPE)):
            arrays[name] = array.astype(np.float32) if array.dtype == np.float16 else array
    return arrays


def _in_sixteen_bits(name: str, array: NDArray[Any]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        short = array.astype(np.float16)
    if not np.isfinite(short).all():
        raise ModelError(f"{name} holds numbers beyond those of 16 bits ({np.abs(array).max():.3g})")
    return short


def _in_eight_bits(name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    # Of 16 bits, so that 127 of a scale is exact and what was rounded once stays.
    mantissa, exponent = np.frexp(np.abs(array).reshape(len(array), -1).max(axis=1) / _LARGEST_OF_EIGHT)
    scales = np.ldexp(np.rint(mantissa * 65536) / 65536, exponent).astype(np.float32)
    steps = scales.reshape(-1, *[1] * (array.ndim - 1))
    codes = np.divide(array, steps, out=np.zeros_like(array), where=steps > 0)
    return {name + _BYTES: np.rint(codes).astype(np.int8), name + _SCALES: scales}


def _from_eight_bits(name: str, codes: NDArray[Any], scales: NDArray[Any] | None) -> NDArray[np.float32]:
    fits = scales is not None and scales.dtype == np.float32 and scales.shape == codes.shape[:1]
    if scales is None or not fits or codes.dtype != np.int8 or codes.ndim < 2:
        raise ModelError(f"the weights {name} in eight bits are damaged: codes {codes.shape} without a scale a row")
    whole: NDArray[np.float32] = codes.astype(np.float32) * scales.reshape(-1, *[1] * (codes.ndim - 1))
    return whole


def _in_four_bits(name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    rows = array.reshape(len(array), -1)
    blocks = np.pad(rows, ((0, 0), (0, -rows.shape[1] % _BLOCK))).reshape(len(rows), -1, _BLOCK)
    scales = _in_sixteen_bits(name, np.abs(blocks).max(axis=2) / _LARGEST)
    steps = scales.astype(np.float32)[:, :, None]
    codes = np.divide(blocks, steps, out=np.zeros_like(blocks), where=steps > 0)
    whole = (np.clip(np.rint(codes), -_LARGEST, _LARGEST) + 8).astype(np.uint8)
    pairs = whole.reshape(len(rows), -1, 2)
    return {
        name + _CODES: pairs[:, :, 0] | pairs[:, :, 1] << 4,
        name + _SCALES: scales,
        name + _SHAPE: np.array(array.shape, np.int64),
    }


def _from_four_bits(
    name: str, codes: NDArray[Any], scales: NDArray[Any] | None, shape: NDArray[Any] | None
) -> NDArray[np.float32]:
    if scales is None or shape is None or shape.dtype != np.int64 or shape.ndim != 1 or not 2 <= len(shape) <= 8:
        raise ModelError(f"the weights {name} in four bits lack their scales or shape")
    sizes = [int(size) for size in shape]
    columns = int(np.prod(sizes[1:], dtype=object))
    blocks = -(-columns // _BLOCK)
    fits = codes.shape == (sizes[0], blocks * _BLOCK // 2) and scales.shape == (sizes[0], blocks)
    if min(sizes) < 1 or not fits or codes.dtype != np.uint8 or scales.dtype != np.float16:
        raise ModelError(f"the weights {name} in four bits are damaged: codes {codes.shape} are not of shape {sizes}")
    whole = np.stack([codes & 15, codes >> 4], axis=2).reshape(sizes[0], blocks, _BLOCK).astype(np.float32) - 8
    rows = (whole * scales.astype(np.float32)[:, :, None]).reshape(sizes[0], -1)
    return np.ascontiguousarray(rows[:, :columns]).reshape(sizes)
