"""What a public function that takes numbers makes of them: the one check, so that the type never changes the answer.

The same values give the same answer as a list, in any real type of numpy, contiguous or not, read-only or not.
Whole numbers become float64, in which sums of products do not overflow as they do in 8 bits; half precision is widened.
What would change its value on the way is refused: complex numbers, words, objects, masked entries, whole numbers beyond
2^53, and what is not finite. Each function raises what its argument `error` makes, a `NestvoxError`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.errors import NestvoxError, ScoresError, TrialsError

Refusal = Callable[[str], NestvoxError]
"""Makes the error of a message: most classes of `nestvox.errors`."""

_EXACT = 2**53  # whole numbers up to here have a float64 each
_SIDES = 2  # so many clusters can a trial add


def as_numbers(
    values: ArrayLike, what: str, *, ndim: int | None = 1, finite: bool = True, error: Refusal = ScoresError
) -> NDArray[np.float64]:
    """Finite real numbers as float64; not a copy where they are that already.

    Args:
        values: numbers of any real type.
        what: their name in the message, in the plural.
        ndim: axes that they must have; None: any.
        finite: refuse infinities and what is not a number.
        error: what is raised.
    """
    array = _real(values, what, error)
    if ndim is not None and array.ndim != ndim:
        form = {0: "one number", 1: "one list of numbers", 2: "a table of rows and columns"}[ndim]
        raise error(f"{what} must be {form}, got shape {array.shape}")
    numbers: NDArray[np.float64] = array.astype(np.float64, copy=False)
    if finite:
        _refuse_infinite(numbers, what, error)
    return numbers


def as_vectors(
    vectors: ArrayLike, what: str, *, size: int | None = None, finite: bool = True, error: Refusal = ScoresError
) -> NDArray[np.floating[Any]]:
    """A table of vectors (N, D) in a type that can be computed with: float32 and float64 stay, all else is widened.

    Args:
        vectors: (N, D) of any real type.
        what: their name in the message, in the plural.
        size: D that they must have; None: any from 1.
        finite: refuse rows that are not finite.
        error: what is raised.
    """
    array = _real(vectors, what, error)
    if array.ndim != 2 or array.shape[1] < 1 or (size is not None and array.shape[1] != size):
        wanted = "N, D" if size is None else f"N, {size}"
        raise error(f"{what} must be one table of ({wanted}) numbers, got shape {array.shape}")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    if finite:
        for row in np.flatnonzero(~np.isfinite(array).all(axis=1))[:1]:
            raise error(f"row {int(row)} of the {what} is not finite")
    return array


def as_booleans(values: ArrayLike, what: str, *, error: Refusal = TrialsError) -> NDArray[np.bool_]:
    """One list of booleans; 0 and 1 are refused, because nobody can tell whether a 1 is a label, a count or a class."""
    array = _plain(values, what, error)
    if array.dtype != np.bool_ or array.ndim != 1:
        raise error(f"{what} must be booleans (true: same speaker), got {array.dtype} of shape {array.shape}")
    return array


def as_rows(rows: ArrayLike, what: str, *, length: int, error: Refusal = ScoresError) -> NDArray[np.int64]:
    """Row numbers (n,) from 0 to `length` - 1; a negative one does not count from the end."""
    array = _whole(rows, what, error)
    if array.ndim != 1:
        raise error(f"{what} must be one list of whole numbers, got shape {array.shape}")
    if array.size and not (int(array.min()) >= 0 and int(array.max()) < length):
        raise error(f"{what} must lie in 0 to {length - 1}, got {array.min()} to {array.max()}")
    return array.astype(np.int64, copy=False)


def as_clusters(clusters: ArrayLike, length: int, what: str = "clusters") -> NDArray[np.int64]:
    """Numbers (N,) of the speaker (or what else is drawn) of one side of N trials.

    So many trials have at most 2 N clusters: a larger number is a name, and would take memory for all below it.

    Raises:
        TrialsError: not N whole numbers, one below 0, or one that is a name rather than a number from 0.
    """
    array = _whole(clusters, what, TrialsError)
    if array.shape != (length,):
        raise TrialsError(f"{what} must be {length} whole numbers a side, got {array.dtype} of shape {array.shape}")
    if length and int(array.min()) < 0:
        raise TrialsError(f"{what} must be whole numbers of at least 0, got {array.min()}")
    if length and int(array.max()) >= max(_SIDES, _SIDES * length):
        raise TrialsError(
            f"{what} must be numbered from 0: {length} trials have at most {_SIDES * length} of them, got number "
            f"{array.max()}; numpy.unique(..., return_inverse=True) numbers names"
        )
    return array.astype(np.int64, copy=False)


def as_count(value: Any, what: str, *, least: int = 1, error: Refusal = NestvoxError) -> int:
    """One whole number of at least `least`, of Python or numpy; no truth value."""
    try:
        count = operator.index(value)
    except TypeError:
        count = least - 1
    if isinstance(value, bool | np.bool_) or count < least:
        raise error(f"{what} must be a whole number of at least {least}, got {value!r}")
    return count


def as_names(names: Iterable[Any], what: str, *, length: int, error: Refusal = NestvoxError) -> list[str]:
    """Words or whole numbers that name something, as words; a missing one, or one that is a fraction, names nothing."""
    found = names.tolist() if isinstance(names, np.ndarray) else list(names)
    if len(found) != length:
        raise error(f"{len(found)} {what} for {length} vectors")
    for row, name in enumerate(found):
        whole = isinstance(name, int | np.integer) or (isinstance(name, float | np.floating) and name == name // 1)
        if not isinstance(name, str) and (not whole or isinstance(name, bool | np.bool_)):
            raise error(f"{what} must be words, got {name!r} for row {row}")
    return [str(int(name)) if isinstance(name, float | np.floating) else str(name) for name in found]


def fit_to_square(vectors: NDArray[np.floating[Any]], working: type = np.float64) -> NDArray[np.floating[Any]]:
    """Scale rows whose squares would leave the range of a type by a power of two, which changes no angle and no digit.

    Args:
        vectors: (N, D).
        working: the type that they will be squared and added in.

    Returns:
        The same array where no row is that large or small.
    """
    limits = np.finfo(working)
    if np.finfo(vectors.dtype).maxexp * 2 < limits.maxexp:  # whatever the rows are, their squares fit
        return vectors
    margin = 2.0 ** (limits.nmant // 2)  # the smaller numbers of a row keep their digits too
    smallest, largest = float(np.sqrt(limits.tiny)) * margin, float(np.sqrt(limits.max)) / margin
    sizes = np.abs(vectors).max(axis=1, initial=0.0).astype(np.float64)
    far = np.isfinite(sizes) & (sizes > 0) & ((sizes < smallest) | (sizes > largest))
    if not far.any():
        return vectors
    scaled = vectors.copy()
    scaled[far] = np.ldexp(vectors[far], -np.frexp(sizes[far])[1][:, None])
    return scaled


def _plain(values: ArrayLike, what: str, error: Refusal) -> NDArray[Any]:
    if np.ma.isMaskedArray(values) and np.ma.getmaskarray(values).any():
        raise error(f"{what} have masked entries, which have no value: leave them out")
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError, OverflowError) as problem:  # rows of several lengths, another device
        raise error(f"{what} are no array of numbers: {problem}") from problem


def _real(values: ArrayLike, what: str, error: Refusal) -> NDArray[Any]:
    array = _plain(values, what, error)
    if array.dtype.kind not in "biuf":
        raise error(f"{what} must be real numbers, got {_kind(array)}")
    if array.dtype.kind in "iu" and array.dtype.itemsize > 4 and array.size:
        farthest = max(abs(int(array.min())), abs(int(array.max())))
        if farthest > _EXACT:
            raise error(f"{what} reach {farthest}: whole numbers beyond 2^53 are no longer told apart; scale them down")
    return array


def _whole(values: ArrayLike, what: str, error: Refusal) -> NDArray[np.integer[Any]]:
    array = _plain(values, what, error)
    if array.dtype.kind not in "iu":
        if not array.size:  # an empty list has no type
            return array.astype(np.int64)
        raise error(f"{what} must be whole numbers, got {_kind(array)}")
    return array


def _refuse_infinite(numbers: NDArray[np.float64], what: str, error: Refusal) -> None:
    finite = np.isfinite(numbers)
    if finite.all():
        return
    first = tuple(int(i) for i in np.argwhere(~finite)[0])
    place = f"number {first[0] + 1}" if len(first) == 1 else f"at {first}"
    raise error(
        f"{int((~finite).sum())} of {numbers.size} {what} are not finite; the first is {place} ({numbers[first]})"
    )


def _kind(array: NDArray[Any]) -> str:
    names = {"O": "objects", "U": "words", "S": "bytes", "c": "complex numbers", "M": "dates", "m": "times"}
    return f"{names.get(array.dtype.kind, 'values')} ({array.dtype})"
