"""Exact search against sorting everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nestvox.errors import ScoresError
from nestvox.evaluation.search import nearest


def sorted_search(queries: np.ndarray, gallery: np.ndarray, k: int) -> list[list[int]]:
    """Best first, of equal scores the first row first: Python's own sort."""
    scores = (queries.astype(int) @ gallery.astype(int).T).tolist()
    return [sorted(range(len(row)), key=lambda index: (-row[index], index))[:k] for row in scores]


@given(st.data(), st.integers(1, 12), st.integers(1, 9))
def test_equals_sorting_everything_with_ties(data: st.DataObject, k: int, block_rows: int) -> None:
    whole = hnp.arrays(np.int8, st.tuples(st.integers(1, 40), st.just(3)), elements=st.integers(-2, 2))
    queries, gallery = (data.draw(whole).astype(np.float32) for _ in range(2))
    rows, scores = nearest(queries, gallery, k, block_rows=block_rows)
    assert rows.tolist() == sorted_search(queries, gallery, k)
    np.testing.assert_array_equal(scores, np.take_along_axis(queries @ gallery.T, rows, axis=1))


def test_blocks_do_not_matter() -> None:
    generator = np.random.default_rng(0)
    queries, gallery = (generator.standard_normal((n, 16)).astype(np.float32) for n in (5, 1000))
    whole = nearest(queries, gallery, 10, block_rows=1000)
    for block_rows in (1, 7, 10, 999):
        np.testing.assert_array_equal(nearest(queries, gallery, 10, block_rows=block_rows)[0], whole[0])


@pytest.mark.parametrize(
    ("queries", "gallery", "k"), [((2, 3), (4, 5), 1), ((3,), (4, 3), 1), ((2, 3), (4, 3), 0)], ids=str
)
def test_sizes_that_do_not_fit(queries: tuple[int, ...], gallery: tuple[int, ...], k: int) -> None:
    with pytest.raises(ScoresError, match="search needs"):
        nearest(np.zeros(queries, np.float32), np.zeros(gallery, np.float32), k)
