"""Cosines of prefixes against the formula, in blocks of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nestvox.errors import ScoresError
from nestvox.scoring.system import prefix_cosines


@settings(deadline=None)
@given(
    arrays(np.float32, (5, 9), elements=st.floats(-4, 4, width=32).filter(lambda x: abs(x) > 1e-3)),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30),
    st.sets(st.integers(1, 9), min_size=1),
)
def test_equals_the_formula(vectors, pairs, dims):
    enrol, test = np.array(pairs).T
    scores = prefix_cosines(vectors, enrol, test, sorted(dims, reverse=True))
    assert list(scores) == sorted(dims)
    for dim, found in scores.items():
        prefix = vectors[:, :dim].astype(np.float64)
        unit = prefix / np.linalg.norm(prefix, axis=1, keepdims=True)
        np.testing.assert_allclose(found, np.sum(unit[enrol] * unit[test], axis=1), atol=1e-12)
        assert (np.abs(found) <= 1).all()


def test_blocks_and_progress(monkeypatch):
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(10, 8)).astype(np.float32)
    enrol, test = generator.integers(0, 10, (2, 25))
    whole = prefix_cosines(vectors, enrol, test, [4, 8])
    monkeypatch.setattr("nestvox.scoring.system._BLOCK", 80)
    told = []
    parts = prefix_cosines(vectors, enrol, test, [4, 8], progress=lambda done, total: told.append((done, total)))
    assert told == [(10, 25), (20, 25), (25, 25)]
    for dim in (4, 8):
        np.testing.assert_array_equal(whole[dim], parts[dim])


def test_refusals():
    vectors = np.ones((2, 3), np.float32)
    pair = np.array([0]), np.array([1])
    for dims in ([], [0], [4]):
        with pytest.raises(ScoresError, match="1 to 3"):
            prefix_cosines(vectors, *pair, dims)
    vectors[1, 2] = np.nan
    with pytest.raises(ScoresError, match="row 1"):
        prefix_cosines(vectors, *pair, [3])
