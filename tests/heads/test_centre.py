"""A head with a mean: unit length, rotation, subtraction, cut, unit length, each spelled out here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.errors import ModelError
from nestvox.heads.choose import choose_rotation
from nestvox.heads.contract import truncate
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.refine import Refinement
from nestvox.heads.rotation import Rotation, Scatter, centred, pca, truncation

SIZE = 12


def random_orthogonal(size: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def world(seed: int, speakers: int = 40, takes: int = 4) -> tuple[np.ndarray, list[str]]:
    """Speakers in the first four coordinates, and far from zero in all."""
    generator = np.random.default_rng(seed)
    vectors = 2.0 + 0.5 * generator.standard_normal((speakers * takes, SIZE))
    vectors[:, :4] += generator.standard_normal((speakers, 4)).repeat(takes, axis=0)
    return vectors, [f"{seed}-{row // takes}" for row in range(speakers * takes)]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cosines(vectors: np.ndarray) -> np.ndarray:
    return unit(vectors) @ unit(vectors).T


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), scale=st.floats(1e-3, 1e3), dtype=st.sampled_from([np.float32, np.float64]))
def test_full_size_is_the_centred_encoder(seed: int, scale: float, dtype: type) -> None:
    vectors = (scale * world(seed)[0]).astype(dtype)
    mean = unit(vectors.astype(np.float64)).mean(axis=0)
    head = centred(Rotation(random_orthogonal(SIZE, seed), (4,), "pca"), mean)
    nested = head.transform(vectors)
    assert nested.dtype == dtype
    expected = unit(vectors.astype(np.float64)) - mean
    assert np.abs(cosines(nested.astype(np.float64)) - cosines(expected)).max() <= 1e-4 * (dtype is np.float32) + 1e-9
    # A prefix needs the same prefix of the mean only.
    short = unit((unit(vectors.astype(np.float64)) @ head.matrix)[:, :4] - head.mean[:4])
    np.testing.assert_allclose(truncate(nested, 4), short, atol=1e-4 if dtype is np.float32 else 1e-9)


def test_scatter_knows_the_mean_of_directions() -> None:
    vectors, speakers = world(1)
    scatter = Scatter(SIZE)
    scatter.add(vectors[:50], speakers[:50])
    scatter.add(np.vstack([3 * vectors[50:], np.zeros((1, SIZE))]))
    np.testing.assert_allclose(scatter.mean(), unit(vectors).mean(axis=0), atol=1e-12)
    with pytest.raises(ModelError, match="at least one"):
        Scatter(SIZE).mean()


def test_behind_a_prefix_only() -> None:
    vectors, _ = world(2)
    plain, mean = Rotation(random_orthogonal(SIZE, 1), (4, 8), "pca"), unit(vectors).mean(axis=0)
    head = centred(plain, mean, 4)
    rotated = unit(vectors) @ plain.matrix
    np.testing.assert_allclose(head.transform(vectors)[:, :4], rotated[:, :4], atol=1e-12)
    np.testing.assert_allclose(head.transform(vectors)[:, 4:], (rotated - rotated.mean(axis=0))[:, 4:], atol=1e-12)
    assert head.details["centred_from"] == 4
    # Nowhere is the rotation itself, also of one that was centred.
    for back in (centred(plain, mean, SIZE), centred(head, mean, SIZE)):
        assert back.mean is None
        assert back.details == plain.details
        np.testing.assert_array_equal(back.transform(vectors), plain.transform(vectors))


def test_zeros_have_no_direction_and_half_precision_is_rounded_once() -> None:
    vectors = world(3)[0].astype(np.float16)
    vectors[5] = 0
    head = centred(truncation(SIZE, (4,)), np.full(SIZE, 0.2))
    nested = head.transform(vectors)
    assert not nested[5].any()
    assert nested.dtype == np.float16
    rest = np.delete(np.arange(len(vectors)), 5)
    exact = unit(vectors[rest].astype(np.float64)) - 0.2
    np.testing.assert_allclose(nested[rest], exact, rtol=2**-10, atol=1e-6)


def test_it_is_saved_with_the_matrix(tmp_path: Path) -> None:
    vectors, _ = world(4)
    head = centred(Rotation(random_orthogonal(SIZE, 2), (4, 8), "pca"), unit(vectors).mean(axis=0), 4)
    head.save(tmp_path / "r.safetensors")
    again = Rotation.load(tmp_path / "r.safetensors")
    np.testing.assert_array_equal(again.mean, head.mean)
    assert (again.dims, again.details) == (head.dims, head.details)
    plain = centred(head, np.zeros(SIZE), SIZE)
    assert set(plain.tensors()) == {"matrix"}, "a rotation without a mean is the file that it was"


@pytest.mark.parametrize(
    "mean",
    [np.zeros(SIZE - 1), np.full(SIZE, np.nan), np.full(SIZE, 1.0), np.zeros((SIZE, 1)), np.zeros(SIZE, np.float32)],
    ids=["short", "nan", "longer than 1", "column", "single"],
)
def test_what_is_no_mean_is_refused(mean: np.ndarray) -> None:
    with pytest.raises(ModelError, match="mean of 12-dimensional unit vectors"):
        Rotation(np.eye(SIZE), (SIZE,), "pca", mean=mean)
    if mean.dtype == np.float64:
        with pytest.raises(ModelError, match="mean of 12-dimensional unit vectors"):
            centred(truncation(SIZE, (4,)), mean)


def test_a_saved_mean_of_whole_numbers_is_refused() -> None:
    plain = truncation(SIZE, (4,))
    with pytest.raises(ModelError, match="a mean of int64"):
        Rotation.from_saved(plain.config(), {"matrix": plain.matrix, "mean": np.zeros(SIZE, np.int64)})


def test_pairs_choose_where_it_is_subtracted() -> None:
    fit, pairs = world(5), LabelledPairs.all_of(*world(6))
    options = {"dims": (2, 4), "weights": (0.0, 1.0), "refinement": Refinement(checkpoints=(2,), shortest=2)}
    found = {centre: choose_rotation(*fit, pairs, centre=centre, **options) for centre in ("none", "all", "auto")}
    assert list(found["none"]) == ["truncation", "pca", "discriminant", "refined", "best"]
    assert list(found["all"]) == ["truncation", "centred", "pca", "discriminant", "refined", "best"]
    mean = unit(fit[0]).mean(axis=0)
    plain = found["none"]["pca"].rotation
    for name, candidate in found["all"].items():
        if name != "truncation":
            assert candidate.rotation.details["centred_from"] == 0
            np.testing.assert_allclose(candidate.rotation.mean, mean @ candidate.rotation.matrix, atol=1e-12)
            # The full size is the centred encoder, whatever came first.
            assert candidate.eers[SIZE] == found["all"]["centred"].eers[SIZE]
    assert found["auto"]["truncation"].rotation.mean is None
    assert found["auto"]["centred"].eers == found["all"]["centred"].eers
    # PCA's place of all places, measured here.
    by_hand = {}
    for first in (0, 2, 4, SIZE):
        eers = pairs.eers(centred(plain, mean, first))
        by_hand[first] = sum(eers.values()) / len(eers)
    best = found["auto"]["pca"]
    assert best.criterion == pytest.approx(min(by_hand.values()))
    assert best.rotation.details.get("centred_from", SIZE) == min(by_hand, key=by_hand.get)
    np.testing.assert_array_equal(best.rotation.matrix, plain.matrix)


def test_the_layer_of_redimnet_mrl_does_the_same() -> None:
    torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")
    from nestvox.compat.redimnet_mrl.network import RotationLayer

    vectors = world(7)[0]
    head = centred(Rotation(random_orthogonal(SIZE, 3), (4,), "pca"), unit(vectors).mean(axis=0))
    layer = RotationLayer(head)
    np.testing.assert_allclose(layer(torch.from_numpy(vectors)).numpy(), head.transform(vectors), atol=1e-12)
    assert {name.rpartition(".")[2] for name in layer.state_dict()} == {"matrix", "mean"}
    assert set(RotationLayer(truncation(SIZE)).state_dict()) == {"matrix"}


def test_scikit_learn_gets_the_same() -> None:
    pytest.importorskip("sklearn", reason="the extra [sklearn] is not installed")
    from nestvox.heads.estimator import NestedRotation

    vectors, speakers = world(8)
    fitted = NestedRotation(dims=(4,), centre=True).fit(vectors, speakers)
    scatter = Scatter(SIZE)
    scatter.add(vectors, speakers)
    np.testing.assert_allclose(fitted.rotation_.mean, scatter.mean() @ fitted.matrix_, atol=1e-12)
    np.testing.assert_allclose(fitted.transform(vectors), fitted.rotation_.transform(vectors))
    np.testing.assert_allclose(fitted.inverse_transform(fitted.transform(vectors)), unit(vectors), atol=1e-12)
    short = NestedRotation(dims=(4,), dim=4, method="pca", centre=True, normalize=True).fit(vectors)
    by_hand = (unit(vectors) @ pca(scatter).matrix)[:, :4]
    np.testing.assert_allclose(short.transform(vectors), unit(by_hand - by_hand.mean(axis=0)), atol=1e-9)
