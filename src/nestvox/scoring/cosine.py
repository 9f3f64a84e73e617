"""Cosine scores of nested embeddings: every prefix of every trial from one pass over the vectors.

Notation: U utterances, D vector size, N trials.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_count, as_rows, as_vectors, fit_to_square
from nestvox.errors import ScoresError
from nestvox.progress import Progress, silent

_BLOCK = 2**22  # numbers of one side held at once


def prefix_cosines(
    vectors: ArrayLike,
    enrol: ArrayLike,
    test: ArrayLike,
    dims: Sequence[int],
    *,
    names: Sequence[str] | None = None,
    progress: Progress = silent,
) -> dict[int, NDArray[np.float64]]:
    """Cosine of the first d dimensions, renormalised for each d, accumulated in float64.

    The inner product of a prefix is that of the next shorter one plus the columns between, so all dimensions cost as
    much as the largest.

    Args:
        vectors: (U, D) of any real type, need not be normalised.
        enrol: (N,) rows of the first side.
        test: (N,) rows of the second side.
        dims: prefix lengths in 1 to D, in any order.
        names: U names for messages.
        progress: told the trials scored.

    Returns:
        d to (N,) scores in [-1, 1], d ascending.

    Raises:
        ScoresError: a dimension or row out of range, or a vector that is zero or not finite in some prefix.
    """
    table = fit_to_square(as_vectors(vectors, "embeddings", finite=False))
    enrol, test = (as_rows(rows, "rows of the trials", length=len(table)) for rows in (enrol, test))
    if len(enrol) != len(test):
        raise ScoresError(f"trials have two sides of one length, got {len(enrol)} and {len(test)} rows")
    size = table.shape[1]
    ascending = sorted({as_count(dim, "a dimension", least=0, error=ScoresError) for dim in dims})
    if not ascending or ascending[0] < 1 or ascending[-1] > size:
        raise ScoresError(f"dimensions must lie in 1 to {size}, got {', '.join(map(str, ascending)) or 'none'}")
    pieces = list(itertools.pairwise([0, *ascending]))
    squares = np.cumsum(
        [np.einsum("ij,ij->i", part, part) for part in (table[:, a:b].astype(np.float64) for a, b in pieces)], axis=0
    )  # (dims, U)
    for dim, square in zip(ascending, squares, strict=True):
        wrong = np.flatnonzero(~(np.isfinite(square) & (square > 0)))
        if len(wrong):
            first = int(wrong[0])
            raise ScoresError(
                f"the first {dim} dimensions of {len(wrong)} embeddings are zero or not finite and have no cosine; "
                f"the first is {names[first] if names is not None else f'row {first}'}"
            )
    norms = np.sqrt(squares)
    scores = {dim: np.empty(len(enrol)) for dim in ascending}
    rows = max(1, _BLOCK // size)
    for start in range(0, len(enrol), rows):
        left, right = enrol[start : start + rows], test[start : start + rows]
        a, b = table[left].astype(np.float64), table[right].astype(np.float64)
        product = np.zeros(len(left))
        for (first, last), dim, norm in zip(pieces, ascending, norms, strict=True):
            product += np.einsum("ij,ij->i", a[:, first:last], b[:, first:last])
            scores[dim][start : start + rows] = np.clip(product / (norm[left] * norm[right]), -1.0, 1.0)
        progress(min(start + rows, len(enrol)), len(enrol))
    return scores
