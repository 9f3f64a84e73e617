"""Exact search: the most similar rows of a gallery, block by block, so that no matrix of all scores is ever held.

Notation: G gallery rows, Q queries, D vector size, K neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_count, as_vectors
from nestvox.errors import ScoresError

BLOCK_ROWS = 16_384
"""Gallery rows whose scores are held at once: with 64 queries 4 MB."""


def nearest(
    queries: ArrayLike, gallery: ArrayLike, k: int, *, block_rows: int = BLOCK_ROWS
) -> tuple[NDArray[np.int64], NDArray[np.floating[Any]]]:
    """Find the K gallery rows with the largest inner product, which is the cosine for rows of unit length.

    Args:
        queries: (Q, D), finite, of any real type: whole numbers are multiplied in float64, exactly.
        gallery: (G, D), likewise.
        k: how many; all where the gallery has fewer.
        block_rows: gallery rows at once.

    Returns:
        Rows (Q, K) and their scores (Q, K), float32 for float32 vectors, best first; of equal scores the first row goes
        first.

    Raises:
        ScoresError: vectors that are no finite real numbers, sizes that do not fit, k below 1, or products that
            overflow.
    """
    wanted = as_count(k, "k", error=_refusal)
    step = as_count(block_rows, "block_rows", error=_refusal)
    left, right = (
        as_vectors(given, name, error=_refusal) for given, name in ((queries, "queries"), (gallery, "gallery vectors"))
    )
    if left.shape[1] != right.shape[1]:
        raise _refusal(f"queries and gallery differ, {left.shape} and {right.shape}")
    common = np.result_type(left, right)
    left, right = left.astype(common, copy=False), right.astype(common, copy=False)
    rows = np.empty((len(left), 0), np.int64)
    scores = np.empty((len(left), 0), common)
    for start in range(0, len(right), step):
        with np.errstate(over="ignore", invalid="ignore"):
            block = left @ right[start : start + step].T  # (Q, block)
        if not np.isfinite(block).all():
            raise ScoresError("inner products of these vectors overflow: scale the vectors, e.g. to unit length")
        found = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        if block.shape[1] > wanted:
            kept = _best_columns(block, wanted)
            found, block = np.take_along_axis(found, kept, axis=1), np.take_along_axis(block, kept, axis=1)
        rows, scores = np.concatenate([rows, found], axis=1), np.concatenate([scores, block], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :wanted]
        rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
    return rows, scores


def _refusal(problem: str) -> ScoresError:
    return ScoresError(f"search needs finite vectors of one size, and k of at least 1: {problem}")


def _best_columns(scores: NDArray[np.floating[Any]], k: int) -> NDArray[np.int64]:
    """Columns (Q, k) of the k largest of each row, ascending; of scores equal to the smallest of these the first."""
    best = np.argpartition(scores, -k, axis=1)[:, -k:]
    lowest = np.take_along_axis(scores, best, axis=1).min(axis=1, keepdims=True)
    tied = (scores >= lowest).sum(axis=1) > k
    for row in np.flatnonzero(tied):
        best[row] = np.argsort(-scores[row], kind="stable")[:k]
    return np.sort(best, axis=1)
