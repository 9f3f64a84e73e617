"""`NestedRotation` keeps scikit-learn's contract, and is the rotation that the rest of the package fits."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the extra [sklearn] is not installed")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from nestvox import NestedRotation
from nestvox.heads.refine import Refinement, refine
from nestvox.heads.rotation import Rotation, Scatter, discriminant, pca


@parametrize_with_checks(
    [
        NestedRotation(),
        NestedRotation(method="pca", normalize=True),
        NestedRotation(dim=1, weight=0.5),
    ]
)
def test_contract_of_scikit_learn(estimator, check, monkeypatch: pytest.MonkeyPatch) -> None:
    check(estimator)


def world(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(20), 5)
    return generator.standard_normal((20, 24))[labels] + 0.5 * generator.standard_normal((100, 24)), labels


def moments(X: np.ndarray, y: np.ndarray | None) -> Scatter:
    scatter = Scatter(24)
    scatter.add(X, None if y is None else [str(label) for label in y])
    return scatter


def test_methods() -> None:
    X, y = world()
    order = discriminant(moments(X, y), 0.5)
    names = [str(label) for label in y]
    expected = {
        ("auto", True): discriminant(moments(X, y), 1.0),
        ("auto", False): pca(moments(X, None)),
        ("pca", True): pca(moments(X, None)),
        ("discriminant", True): discriminant(moments(X, y), 1.0),
    }
    for (method, labelled), rotation in expected.items():
        fitted = NestedRotation(method=method).fit(X, y if labelled else None)
        np.testing.assert_allclose(fitted.matrix_, rotation.matrix, atol=1e-12)
        assert fitted.rotation_.dims == (16, 24)
    weighted = NestedRotation(method="discriminant", weight=0.5).fit(X, y)
    np.testing.assert_allclose(weighted.matrix_, order.matrix, atol=1e-12)
    refined = NestedRotation(method="refined", weight=0.5, random_state=3, dims=(4, 8)).fit(X, y)
    np.testing.assert_allclose(refined.matrix_, refine(order, X, names, Refinement(seed=3)).matrix, atol=1e-12)
    assert refined.rotation_.dims == (4, 8, 24)


def test_transform_and_back() -> None:
    X, y = world()
    whole = NestedRotation().fit(X, y)
    turned = whole.transform(X)
    np.testing.assert_allclose(turned @ turned.T, X @ X.T, atol=1e-10)
    np.testing.assert_allclose(whole.inverse_transform(turned), X, atol=1e-12)
    short = NestedRotation(dim=8, normalize=True).fit(X, y)
    prefix = turned[:, :8] / np.linalg.norm(turned[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(short.transform(X), prefix, atol=1e-12)
    assert list(short.get_feature_names_out()) == [f"nestedrotation{k}" for k in range(8)]
    assert short.transform(X.astype(np.float32)).dtype == np.float32
    # From a prefix: the least-squares answer within the span of the first eight directions.
    basis = whole.matrix_[:, :8]
    closest = basis @ np.linalg.lstsq(basis, X.T, rcond=None)[0]
    np.testing.assert_allclose(whole.inverse_transform(turned[:, :8]), closest.T, atol=1e-10)


def test_clone_pickle_and_pipeline(tmp_path) -> None:
    X, y = world()
    estimator = NestedRotation(dims=[4, 8], method="discriminant", weight=2.0, dim=8, normalize=True, random_state=7)
    assert clone(estimator).get_params() == estimator.get_params()
    fitted = estimator.fit(X, y)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    fitted.rotation_.save(tmp_path / "r.safetensors")
    np.testing.assert_array_equal(Rotation.load(tmp_path / "r.safetensors").matrix, fitted.matrix_)
    pipeline = make_pipeline(NestedRotation(dim=6, normalize=True), KNeighborsClassifier(1)).fit(X[::2], y[::2])
    assert pipeline.score(X[1::2], y[1::2]) > 0.9


@pytest.mark.parametrize(
    ("options", "labels", "what"),
    [
        ({"method": "lda"}, True, "method must be"),
        ({"method": "refined"}, False, "needs y"),
        ({"method": "discriminant"}, False, "needs y"),
        ({"dim": 25}, True, "between 1 and n_features=24"),
        ({"dim": 0}, True, "between 1 and n_features=24"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], labels: bool, what: str) -> None:
    X, y = world()
    with pytest.raises(ValueError, match=what):
        NestedRotation(**options).fit(X, y if labels else None)


def test_other_faults() -> None:
    X, y = world()
    with pytest.raises(ValueError, match="50 speakers for 100 vectors"):
        NestedRotation().fit(X, y[:50])
    with pytest.raises(ValueError, match="needs y"):
        NestedRotation(method="refined").fit(X, np.arange(100))  # nobody has two vectors
    with pytest.raises(NotFittedError):
        NestedRotation().transform(X)
    with pytest.raises(ValueError, match="at most 24"):
        NestedRotation().fit(X).inverse_transform(np.ones((2, 25)))


def test_without_scikit_learn_the_error_names_the_extra() -> None:
    code = (
        "import sys\nsys.modules['sklearn'] = None\nimport nestvox\n"
        "try:\n    nestvox.NestedRotation\n"
        "except nestvox.NestvoxError as error:\n    print(type(error).__name__, error)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.startswith("MissingExtraError NestedRotation needs the extra [sklearn]")
