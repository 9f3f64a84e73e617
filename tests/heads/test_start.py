"""Where a trained head begins: at the rotated pretrained embedding, and beyond it at what that leaves out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.errors import ModelError
from nestvox.heads.moments import Moments
from nestvox.heads.rotation import Rotation, centred
from nestvox.heads.start import pretrained_start

P, E = 40, 12


@dataclass
class Map:
    weight: np.ndarray
    bias: np.ndarray


def pooled(seed: int = 0, rows: int = 600) -> np.ndarray:
    """Vectors with correlated coordinates, of many scales, far from zero."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, 25)) @ rng.normal(size=(25, P)) + 0.3 * rng.normal(size=(rows, P))
    return mixed * np.geomspace(0.01, 100, P) + 20 * rng.normal(size=P)


def moments(vectors: np.ndarray) -> Moments:
    found = Moments(vectors.shape[1])
    for part in np.array_split(vectors, 3):
        found.add(part)
    return found


def projection(seed: int = 0) -> Map:
    rng = np.random.default_rng(seed)
    return Map(rng.normal(size=(E, P)) / np.geomspace(0.01, 100, P), rng.normal(size=E))


def rotation(seed: int = 0) -> Rotation:
    return Rotation(np.linalg.qr(np.random.default_rng(seed).normal(size=(E, E)))[0], (4,), "pca")


@given(
    seed=st.integers(0, 2**16), sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5), offset=st.floats(-1e6, 1e6)
)
@settings(max_examples=30, deadline=None)
def test_moments_of_batches_are_those_of_all_rows(seed: int, sizes: list[int], offset: float) -> None:
    rng = np.random.default_rng(seed)
    batches = [rng.normal(size=(n, 5)) * [1, 2, 3, 1e-3, 0] + offset for n in (2, *sizes)]
    found, whole = Moments(5), np.vstack(batches)
    for batch in batches:
        found.add(batch)
    assert found.n == len(whole)
    np.testing.assert_allclose(found.mean, whole.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(whole, rowvar=False), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(found.variance, whole.var(axis=0, ddof=1), rtol=1e-7, atol=1e-8)


def test_moments_refuse() -> None:
    found = Moments(3)
    found.add(np.zeros((1, 3)))
    for wanted in ("covariance", "variance"):
        with pytest.raises(ModelError, match="two vectors, got 1"):
            getattr(found, wanted)
    with pytest.raises(ModelError, match="one vector"):
        _ = Moments(3).mean
    with pytest.raises(ModelError, match=r"\(N, 3\)"):
        found.add(np.zeros((1, 4)))
    with pytest.raises(ModelError, match="row 2 is not finite"):
        found.add(np.array([[0.0, 0, 0], [0, np.nan, 0]]))


@pytest.mark.parametrize("size", [1, 5, E])
@pytest.mark.parametrize("rotated", [True, False])
def test_it_is_the_rotated_embedding(size: int, rotated: bool) -> None:
    x, A, R = pooled(), projection(), rotation()
    expected = x @ A.weight.T + A.bias
    if rotated:
        expected = expected @ R.matrix
    for known in (moments(x), None):
        start = pretrained_start(A, R if rotated else None, size, moments=known)
        np.testing.assert_allclose(x @ start.weight.T + start.bias, expected[:, :size], rtol=1e-9, atol=1e-8)
        assert start.mean.shape == start.variance.shape == (P,)
    np.testing.assert_allclose(pretrained_start(A, R, size, moments=moments(x)).mean, x.mean(axis=0))


@pytest.mark.parametrize("extra", [1, 7, P - E])
def test_dims_beyond_are_what_the_embedding_leaves_out(extra: int) -> None:
    x, A, R = pooled(), projection(), rotation()
    start = pretrained_start(A, R, E + extra, moments=moments(x), extra_share=0.02)
    nested = x @ start.weight.T + start.bias
    np.testing.assert_allclose(nested[:, :E], (x @ A.weight.T + A.bias) @ R.matrix, rtol=1e-9, atol=1e-8)
    beyond = nested[:, E:]
    np.testing.assert_allclose(beyond.mean(axis=0), 0, atol=1e-7)
    covariance = np.cov(nested, rowvar=False)
    np.testing.assert_allclose(covariance[E:, :E] / np.abs(covariance).max(), 0, atol=1e-9)
    # A covariance divides by N - 1, a mean square by N.
    n = len(x)
    energy = np.trace(covariance[:E, :E]) + np.sum(nested[:, :E].mean(axis=0) ** 2)
    np.testing.assert_allclose(covariance[E:, E:], 0.02 * energy / extra * np.eye(extra), atol=1e-6 * energy)
    assert n > P


def test_largest_residual_directions_come_first() -> None:
    """Compared with least squares and a singular value decomposition of what it leaves."""
    x, A = pooled(), projection()
    z = (x - x.mean(axis=0)) / x.std(axis=0, ddof=1)
    e = x @ A.weight.T
    e -= e.mean(axis=0)
    left = z - e @ np.linalg.lstsq(e, z, rcond=None)[0]
    _, values, directions = np.linalg.svd(left, full_matrices=False)
    assert values[2] > 1.01 * values[3]
    start = pretrained_start(A, None, E + 3, moments=moments(x))
    beyond = x @ start.weight[E:].T + start.bias[E:]
    for k in range(3):
        assert abs(np.corrcoef(beyond[:, k], left @ directions[k])[0, 1]) > 1 - 1e-9


def test_more_dims_than_inputs_stay_small_and_finite() -> None:
    """A linear map has no more to give than its inputs, but every row must be able to learn."""
    x, A = pooled(), projection()
    start = pretrained_start(A, None, P + 30, moments=moments(x), extra_share=0.01)
    nested = x @ start.weight.T + start.bias
    np.testing.assert_allclose(nested[:, :E], x @ A.weight.T + A.bias, rtol=1e-9, atol=1e-8)
    share = np.mean(np.sum(nested[:, E:] ** 2, axis=1)) / np.mean(np.sum(nested[:, :E] ** 2, axis=1))
    assert share == pytest.approx(0.01, rel=0.01)
    assert (np.abs(start.weight[E:]).max(axis=1) > 0).all()


def test_whole_embedding_leaves_nothing_out() -> None:
    """P = E: all further directions are random, small, the same at every call."""
    x = pooled()
    start = pretrained_start(Map(np.eye(P), np.zeros(P)), None, P + 5, moments=moments(x))
    again = pretrained_start(Map(np.eye(P), np.zeros(P)), None, P + 5, moments=moments(x))
    np.testing.assert_array_equal(start.weight, again.weight)
    np.testing.assert_array_equal(start.weight[:P], np.eye(P))
    assert np.linalg.matrix_rank(start.weight[P:] * x.std(axis=0)) == 5


def test_constant_inputs() -> None:
    x = pooled()
    x[:, 3] = 7.0
    x[:, 8] = 0.0
    start = pretrained_start(projection(), rotation(), E + 4, moments=moments(x))
    assert np.isfinite(start.weight).all()
    assert np.isfinite(start.bias).all()
    assert (start.variance[[3, 8]] == 0).all()


def test_sizes_that_do_not_fit() -> None:
    A, R, known = projection(), rotation(), moments(pooled())
    with pytest.raises(ModelError, match="rotation takes 12 dimensions, the pretrained embedding has 11"):
        pretrained_start(Map(A.weight[:-1], A.bias[:-1]), R, 4)
    with pytest.raises(ModelError, match="moments are of 40 dimensions, the head takes 39"):
        pretrained_start(Map(A.weight[:, :-1], A.bias), R, 4, moments=known)
    with pytest.raises(ModelError, match="give their moments"):
        pretrained_start(A, R, E + 1)
    with pytest.raises(ModelError, match="arrays"):
        pretrained_start(Map(A.weight, A.bias[:-1]), R, 4)
    for wrong in ({"size": 0}, {"size": 4, "extra_share": 0.0}):
        with pytest.raises(ModelError, match="positive"):
            pretrained_start(A, R, **wrong)  # type: ignore[arg-type]


def test_a_mean_of_the_rotation_becomes_part_of_the_bias() -> None:
    vectors, affine, plain = pooled(), projection(), rotation()
    embeddings = vectors @ affine.weight.T + affine.bias
    mean = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).mean(axis=0)
    start = pretrained_start(affine, centred(plain, mean), E, moments=moments(vectors))
    length = np.sqrt((embeddings**2).sum(axis=1).mean())
    expected = (embeddings - length * mean) @ plain.matrix
    np.testing.assert_allclose(vectors @ start.weight.T + start.bias, expected, rtol=1e-3, atol=1e-3 * length)
