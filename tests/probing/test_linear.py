"""The steps without a network, against what other code computes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from nestvox.probing.linear import (
    Plda,
    Projection,
    all_pairs_eer,
    centring,
    lda_on_choice,
    score_matrix_eer,
    standardising,
    whitening,
)

RNG = np.random.default_rng(7)


def voices(n_speakers: int, each: int, dim: int = 6, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Speakers differ along the first two axes only; the others vary much within each."""
    rng = np.random.default_rng(seed)
    means = np.zeros((n_speakers, dim))
    means[:, :2] = rng.standard_normal((n_speakers, 2))
    spread = np.array([0.1, 0.1, *[4.0] * (dim - 2)])
    vectors = np.repeat(means, each, axis=0) + rng.standard_normal((n_speakers * each, dim)) * spread
    return vectors, [f"s{i}" for i in range(n_speakers) for _ in range(each)]


def test_what_is_fitted_has_the_moments_that_it_is_named_after() -> None:
    mixed = RNG.standard_normal((500, 5)) @ RNG.standard_normal((5, 5)) + 3
    assert np.allclose(centring(mixed)(mixed).mean(axis=0), 0)
    scaled = standardising(np.column_stack([mixed, np.ones(500)]))(np.column_stack([mixed, np.ones(500)]))
    assert np.allclose(scaled.std(axis=0), [1, 1, 1, 1, 1, 0])
    white = whitening(mixed, 0.0)(mixed)
    assert np.allclose(np.cov(white, rowvar=False), np.eye(5))
    part = whitening(mixed, 0.5)(mixed)
    covariance = np.cov(mixed, rowvar=False)
    shrunk = 0.5 * covariance + 0.5 * np.trace(covariance) / 5 * np.eye(5)
    matrix = whitening(mixed, 0.5).matrix
    assert np.allclose(matrix.T @ shrunk @ matrix, np.eye(5))
    assert not np.allclose(np.cov(part, rowvar=False), np.eye(5), atol=0.05)


def test_lda_finds_the_directions_in_which_speakers_differ() -> None:
    fit, speakers = voices(60, 5)
    choice, others = voices(20, 5, seed=1)
    scale = standardising(fit)
    found, how = lda_on_choice(scale(fit), speakers, scale(choice), others)
    unseen, strangers = voices(20, 5, seed=2)
    raw, projected = all_pairs_eer(scale(unseen), strangers), all_pairs_eer(found(scale(unseen)), strangers)
    assert projected < 0.7 * raw
    assert "dimensions" in how
    assert found.unit_first


def test_plda_is_the_ratio_of_two_normal_densities() -> None:
    fit, speakers = voices(40, 5, dim=3)
    model = Plda.fitted(fit, speakers)
    pair = RNG.standard_normal((4, 3))
    scores = model(pair)
    u = model.projection(pair)
    between, total = np.diag(model.between), np.diag(model.between + 1)
    joint = np.block([[total, between], [between, total]])
    for i, j in itertools.product(range(4), repeat=2):
        same = multivariate_normal(np.zeros(6), joint).logpdf(np.concatenate([u[i], u[j]]))
        apart = sum(multivariate_normal(np.zeros(3), total).logpdf(u[k]) for k in (i, j))
        assert scores[i, j] == pytest.approx(same - apart, abs=1e-9)


def test_all_pairs_count_each_pair_once() -> None:
    scores = np.array([[0, 0.9, 0.2, 0.6], [0.9, 0, 0.1, 0.3], [0.2, 0.1, 0, 0.4], [0.6, 0.3, 0.4, 0]], float)
    # Targets 0.9 and 0.4; non-targets 0.2, 0.6, 0.1, 0.3: at 0.4 to 0.6 one of two is missed or one of four let in.
    assert 0.25 <= score_matrix_eer(scores, ["a", "a", "b", "b"]) <= 0.5
    assert all_pairs_eer(np.eye(4)[[0, 0, 1, 1]], ["a", "a", "b", "b"]) == 0
    assert isinstance(centring(np.eye(3)), Projection)
