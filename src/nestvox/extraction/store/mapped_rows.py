"""Vectors that stay in the files of a store: rows are gathered by number, and only pages that hold them are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import StoreError

FloatVectors = NDArray[np.float32]


class MappedRows:
    """Rows (N, D) in one or several memory-mapped pieces.

    Args:
        parts: (n_i, D) arrays, read-only views of the files, in row order.
        dim: D.
        dtype: of the files, ``float16`` or ``float32``; what is gathered is float32.

    Attributes:
        shape: (N, D).
        dtype: of the files.
    """

    def __init__(self, parts: Sequence[NDArray[np.floating[Any]]], dim: int, dtype: str) -> None:
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])
        self.shape = (int(self._starts[-1]), dim)
        self.dtype = np.dtype(dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"MappedRows({self.shape[0]} x {self.shape[1]} {self.dtype}, {len(self._parts)} files)"

    def take(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> FloatVectors:
        """Gather rows by number.

        Args:
            rows: (n,) numbers from 0 to N - 1, in any order, repeated as often as they like.

        Returns:
            (n, D) float32, in the order asked.

        Raises:
            StoreError: a number outside 0 to N - 1.
        """
        wanted = np.asarray(rows, np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise StoreError(f"there are rows 0 to {len(self) - 1}, asked for {wanted.min()} to {wanted.max()}")
        taken = np.empty((len(wanted), self.shape[1]), np.float32)
        if len(self._parts) == 1:
            taken[...] = self._parts[0][wanted]
            return taken
        # In the order of the files, so that a cold page is read once and neighbours come together.
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        bounds = np.searchsorted(ascending, self._starts)
        for part in np.flatnonzero(np.diff(bounds)):
            here = slice(bounds[part], bounds[part + 1])
            taken[order[here]] = self._parts[part][ascending[here] - self._starts[part]]
        return taken

    def blocks(self, rows: int = 65536) -> Iterator[FloatVectors]:
        """Yield all rows in order as float32, at most `rows` at a time."""
        for part in self._parts:
            for first in range(0, len(part), rows):
                yield np.asarray(part[first : first + rows], np.float32)
