"""What every head promises: vectors of one tap in, a nested embedding out.

Heads are numpy at their edges, so that a rotation of existing vectors needs no deep-learning library; a trained
head wraps its network behind the same three methods.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import ModelError

__all__ = ["FloatArray", "Head", "in_working_precision", "normalise", "truncate"]

FloatArray = NDArray[np.floating[Any]]


@runtime_checkable
class Head(Protocol):
    """A map from `tap` vectors to a nested embedding.

    Attributes:
        kind: the name under which a saved head is found again, e.g. ``rotation``.
        tap: which encoder output it takes.
        input_dim: size of that output.
        dims: ascending prefix lengths that it was made for; the last is the full size.
    """

    @property
    def kind(self) -> str: ...  # noqa: D102  described above

    @property
    def tap(self) -> Literal["pooled", "embedding"]: ...  # noqa: D102

    @property
    def input_dim(self) -> int: ...  # noqa: D102

    @property
    def dims(self) -> tuple[int, ...]: ...  # noqa: D102

    def transform(self, vectors: FloatArray, /) -> FloatArray:
        """Map floating-point (N, input_dim) to (N, dims[-1]), unnormalised, in the dtype given."""

    def config(self) -> dict[str, Any]:
        """Return what rebuilds the head beside its tensors, JSON-serialisable."""

    def tensors(self) -> dict[str, FloatArray]:
        """Return its arrays by name, as they are saved."""


def in_working_precision(vectors: FloatArray, input_dim: int, what: str) -> FloatArray:
    """Check what a head is given, and raise half to single precision, so that it is rounded once, at the end.

    Args:
        vectors: (N, input_dim) floating-point.
        input_dim: columns that the head takes.
        what: the head, for the message.

    Raises:
        ModelError: another shape, or whole numbers.
    """
    if vectors.ndim != 2 or vectors.shape[1] != input_dim or not np.issubdtype(vectors.dtype, np.floating):
        raise ModelError(
            f"this {what} takes floating-point (N, {input_dim}) vectors, got {vectors.dtype} {vectors.shape}"
        )
    return vectors.astype(np.result_type(vectors.dtype, np.float32), copy=False)


def normalise(vectors: FloatArray) -> FloatArray:
    """Scale the rows of (N, D) to unit length; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: FloatArray = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return unit


def truncate(vectors: FloatArray, dim: int | None) -> FloatArray:
    """First `dim` columns (None: all), normalised again: the prefix rule of a nested embedding."""
    return normalise(vectors if dim is None else vectors[:, :dim])
