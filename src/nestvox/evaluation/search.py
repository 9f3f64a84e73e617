"""Exact search: the most similar rows of a gallery, block by block, so that no matrix of all scores is ever held.

Notation: G gallery rows, Q queries, D vector size, K neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import ScoresError

__all__ = ["BLOCK_ROWS", "nearest"]

BLOCK_ROWS = 16_384
"""Gallery rows whose scores are held at once: with 64 queries 4 MB."""


def nearest(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], k: int, *, block_rows: int = BLOCK_ROWS
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the K gallery rows with the largest inner product, which is the cosine for rows of unit length.

    Args:
        queries: (Q, D).
        gallery: (G, D).
        k: how many; all where the gallery has fewer.
        block_rows: gallery rows at once.

    Returns:
        Rows (Q, K) and their scores (Q, K), best first; of equal scores the first row goes first.

    Raises:
        ScoresError: sizes that do not fit, or k below 1.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1] or k < 1 or block_rows < 1:
        raise ScoresError(
            f"search needs queries and gallery of one vector size and k of at least 1, got {queries.shape}, "
            f"{gallery.shape} and {k}"
        )
    rows = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(gallery), block_rows):
        block = queries @ gallery[start : start + block_rows].T  # (Q, block)
        found = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        if block.shape[1] > k:
            kept = _best_columns(block, k)
            found, block = np.take_along_axis(found, kept, axis=1), np.take_along_axis(block, kept, axis=1)
        rows, scores = np.concatenate([rows, found], axis=1), np.concatenate([scores, block], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
    return rows, scores


def _best_columns(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Columns (Q, k) of the k largest of each row, ascending; of scores equal to the smallest of these the first."""
    best = np.argpartition(scores, -k, axis=1)[:, -k:]
    lowest = np.take_along_axis(scores, best, axis=1).min(axis=1, keepdims=True)
    tied = (scores >= lowest).sum(axis=1) > k
    for row in np.flatnonzero(tied):
        best[row] = np.argsort(-scores[row], kind="stable")[:k]
    return np.sort(best, axis=1)
