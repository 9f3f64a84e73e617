"""Labelled pairs: their scores are cosines, and their error rates those of the full curve."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.errors import ModelError
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.rotation import Rotation, truncation
from nestvox.metrics.curves import error_curve
from nestvox.metrics.rates import eer


def rotation(size: int) -> Rotation:
    matrix = np.linalg.qr(np.random.default_rng(1).standard_normal((size, size)))[0]
    return Rotation(matrix, (2, size), "pca")


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_all_pairs_and_their_cosines() -> None:
    vectors = np.random.default_rng(2).standard_normal((7, 5))
    speakers = list("aabbbca")
    pairs = LabelledPairs.all_of(vectors, speakers)
    assert [tuple(pair) for pair in zip(pairs.first, pairs.second, strict=True)] == list(
        itertools.combinations(range(7), 2)
    )
    turned = vectors @ rotation(5).matrix
    for dim in (2, 5):
        for i, j, target, score in zip(
            pairs.first, pairs.second, pairs.target, pairs.scores(rotation(5), dim), strict=True
        ):
            assert target == (speakers[i] == speakers[j])
            assert score == pytest.approx(cosine(turned[i, :dim], turned[j, :dim]), abs=1e-12)


def test_a_few_pairs_of_many_rows_are_scored_the_same() -> None:
    """Few pairs are gathered, many come out of one product; both are cosines."""
    generator = np.random.default_rng(3)
    vectors = generator.standard_normal((60, 6))
    few = LabelledPairs(vectors, np.array([0, 5, 59]), np.array([1, 5, 3]), np.array([True, False, True]))
    turned = vectors @ rotation(6).matrix
    expected = [cosine(turned[i, :2], turned[j, :2]) for i, j in ((0, 1), (5, 5), (59, 3))]
    np.testing.assert_allclose(few.scores(rotation(6), 2), expected, atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    speakers=st.integers(2, 6),
    rows=st.integers(4, 25),
    levels=st.integers(1, 4),
)
def test_error_rates_are_those_of_the_whole_curve(seed: int, speakers: int, rows: int, levels: int) -> None:
    generator = np.random.default_rng(seed)
    # Few levels make many equal scores, and rows of zeros.
    vectors = generator.integers(-levels, levels + 1, (rows, 3)).astype(np.float64)
    names = [f"s{k}" for k in [0, 0, 1, *generator.integers(0, speakers, rows - 3)]]
    pairs = LabelledPairs.all_of(vectors, names)
    found = pairs.eers(truncation(3, (1, 2)))
    assert list(found) == [1, 2, 3]
    for dim, rate in found.items():
        assert rate == eer(error_curve(pairs.scores(truncation(3), dim), pairs.target)).rate


def test_separated_and_inverted_scores() -> None:
    near, far = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    vectors = np.array([near, near, far, far])
    assert LabelledPairs.all_of(vectors, list("aabb")).eers(truncation(2))[2] == 0.0
    # Targets at cosine 0; of four non-targets two are at 1 and two at 0.
    assert LabelledPairs.all_of(vectors, list("abab")).eers(truncation(2))[2] == pytest.approx(2 / 3)


@pytest.mark.parametrize("speakers", [list("aaa"), list("abc")])
def test_pairs_of_one_kind_are_refused(speakers: list[str]) -> None:
    with pytest.raises(ModelError, match="two speakers or more"):
        LabelledPairs.all_of(np.eye(3), speakers)


def test_other_faults() -> None:
    with pytest.raises(ModelError, match="2 speakers for 3 vectors"):
        LabelledPairs.all_of(np.eye(3), ["a", "b"])
    with pytest.raises(ModelError, match="not finite"):
        LabelledPairs.all_of(np.full((3, 3), np.inf), list("aab"))
