"""What every head promises: vectors of one tap in, a nested embedding out.

Heads are numpy at their edges, so that a rotation of existing vectors needs no deep-learning library; a trained
head wraps its network behind the same three methods.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_count, as_vectors, fit_to_square
from nestvox.errors import ModelError

FloatArray = NDArray[np.floating[Any]]


class NotNestedWarning(UserWarning):
    """An embedding was cut whose numbers stand in no order of worth; the message says what to do."""


def cut_in_words(dim: int, dims: Sequence[int]) -> str:
    """What is wrong with a prefix of a model that is not nested; empty where nothing is.

    Args:
        dim: prefix length.
        dims: lengths that the model was made for, the last its full size.
    """
    if dim >= dims[-1] or len(dims) > 1:
        return ""
    return (
        f"cut to {dim} of {dims[-1]} dimensions, but this model is not nested: its numbers stand in no order of worth "
        "(GE2E loses three points of EER at 64). Make it nested, with `nestvox rotate` or `nestvox train`, or take all"
    )


def warn_of_cut(dim: int, dims: Sequence[int], *, stacklevel: int) -> None:
    """Warn where `cut_in_words` has something to say; the level is counted from the caller."""
    if words := cut_in_words(dim, dims):
        warnings.warn(words, NotNestedWarning, stacklevel=stacklevel + 1)


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


def in_working_precision(vectors: ArrayLike, input_dim: int, what: str) -> FloatArray:
    """Check what a head is given, and raise half to single precision, so that it is rounded once, at the end.

    Args:
        vectors: (N, input_dim) floating-point.
        input_dim: columns that the head takes.
        what: the head, for the message.

    Raises:
        ModelError: another shape, or whole numbers.
    """
    try:
        array = np.asarray(vectors)
    except (TypeError, ValueError, RuntimeError) as problem:  # a tensor of another device, or with a gradient
        raise ModelError(f"this {what} takes arrays: {problem}") from problem
    if array.ndim != 2 or array.shape[1] != input_dim or not np.issubdtype(array.dtype, np.floating):
        raise ModelError(f"this {what} takes floating-point (N, {input_dim}) vectors, got {array.dtype} {array.shape}")
    working: FloatArray = array.astype(np.result_type(array.dtype, np.float32), copy=False)
    return working


def normalise(vectors: ArrayLike) -> FloatArray:
    """Scale the rows of (N, D), of any real type, to unit length; a zero row stays zero, whole numbers become float64.

    Raises:
        ModelError: not a table of real numbers, or a row that is not finite.
    """
    working = as_vectors(vectors, "vectors", error=ModelError)
    given = getattr(vectors, "dtype", working.dtype)
    fitting = fit_to_square(working, working.dtype.type)
    norms = np.linalg.norm(fitting, axis=1, keepdims=True)
    unit: FloatArray = np.divide(fitting, norms, out=np.zeros_like(fitting), where=norms > 0)
    return unit.astype(np.float16) if given == np.float16 else unit  # the only type that was widened and is given back


def truncate(vectors: ArrayLike, dim: int | None) -> FloatArray:
    """First `dim` columns (None: all), normalised again: the prefix rule of a nested embedding.

    Raises:
        ModelError: as `normalise`, or a dimension that the vectors do not have.
    """
    if dim is None:
        return normalise(vectors)
    size = as_count(dim, "a prefix length", error=ModelError)
    table = as_vectors(vectors, "vectors", finite=False, error=ModelError)
    if size > table.shape[1]:
        raise ModelError(f"vectors of shape {table.shape} have no first {size} dimensions")
    prefix = normalise(table[:, :size])
    return prefix.astype(np.float16) if getattr(vectors, "dtype", None) == np.float16 else prefix
