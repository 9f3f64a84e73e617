"""Rotations: the full dimension loses nothing, the closed forms are those of a linear-algebra library."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from nestvox.errors import ModelError
from nestvox.heads.contract import Head, normalise, truncate
from nestvox.heads.refine import Refinement, refine
from nestvox.heads.rotation import Rotation, Scatter, check_dims, default_dims, discriminant, pca, truncation

METHODS = ("pca", "discriminant", "refined")


def speakers_of(n: int, per_speaker: int = 3) -> list[str]:
    return [f"s{row // per_speaker}" for row in range(n)]


def fitted(method: str, vectors: np.ndarray, speakers: list[str]) -> Rotation:
    scatter = Scatter(vectors.shape[1])
    scatter.add(vectors, speakers)
    if method == "pca":
        return pca(scatter)
    start = discriminant(scatter, 0.5)
    return start if method == "discriminant" else refine(start, vectors, speakers, Refinement(checkpoints=(2,)))


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Every pair, spelled out in double precision."""
    x = vectors.astype(np.float64)
    norms = np.sqrt((x * x).sum(axis=1))
    return (x @ x.T) / np.outer(norms, norms)


def random_orthogonal(size: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(2, 300),
    rows=st.integers(6, 30),
    scale=st.floats(1e-3, 1e3),
    offset=st.floats(0, 3),
    method=st.sampled_from(METHODS),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_full_dimension_cosines_stay(
    seed: int, size: int, rows: int, scale: float, offset: float, method: str, dtype: type
) -> None:
    generator = np.random.default_rng(seed)
    decay = 1 / (1 + np.arange(size))  # real embeddings spread unevenly and have a mean
    vectors = (scale * (generator.standard_normal((rows, size)) * decay + offset * decay[::-1])).astype(dtype)
    rotation = fitted(method, vectors, speakers_of(rows))
    rotated = rotation.transform(vectors)
    assert rotated.dtype == dtype
    assert np.abs(cosines(rotated) - cosines(vectors)).max() <= 1e-6
    assert np.abs(rotation.matrix.T @ rotation.matrix - np.eye(size)).max() <= 1e-10


@pytest.mark.parametrize("method", METHODS)
def test_norms_stay_and_a_rotation_is_a_head(method: str) -> None:
    vectors = np.random.default_rng(1).standard_normal((30, 24))
    rotation = fitted(method, vectors, speakers_of(30))
    assert isinstance(rotation, Head)
    assert (rotation.kind, rotation.tap, rotation.input_dim, rotation.method) == ("rotation", "embedding", 24, method)
    assert rotation.dims == (16, 24)
    np.testing.assert_allclose(
        np.linalg.norm(rotation.transform(vectors), axis=1), np.linalg.norm(vectors, axis=1), rtol=1e-12
    )


def test_half_precision_is_rounded_once() -> None:
    vectors = np.random.default_rng(2).standard_normal((50, 64)).astype(np.float16)
    rotation = Rotation(random_orthogonal(64, 3), (64,), "pca")
    rotated = rotation.transform(vectors)
    assert rotated.dtype == np.float16
    exact = vectors.astype(np.float64) @ rotation.matrix
    np.testing.assert_allclose(rotated, exact.astype(np.float16), rtol=2**-10, atol=1e-6)


@pytest.mark.parametrize(
    ("vectors", "what"),
    [
        (np.zeros((2, 5)), r"\(2, 5\)"),
        (np.zeros(4), r"\(4,\)"),
        (np.zeros((2, 4), np.int64), "int64"),
    ],
)
def test_vectors_that_it_is_not_made_for(vectors: np.ndarray, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        truncation(4).transform(vectors)


@pytest.mark.parametrize(
    "matrix",
    [
        np.eye(4) * 0.9,
        np.full((4, 4), np.nan),
        np.diag([1.0, 1.0, np.inf, 1.0]),
        np.eye(4)[:, :3],
        np.eye(4, dtype=np.float32),
        np.zeros((0, 0)),
        np.array([[1.0, 1e-6], [0.0, 1.0]]),
    ],
    ids=["scaled", "nan", "infinite", "oblong", "single", "empty", "sheared"],
)
def test_what_is_no_rotation_is_refused(matrix: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"orthogonal|square"):
        Rotation(matrix, (max(1, len(matrix)),), "pca")


def test_dims() -> None:
    assert default_dims(192) == (16, 32, 64, 128, 192)
    assert default_dims(256) == (16, 32, 64, 128, 256)
    assert default_dims(16) == (16,)
    assert default_dims(7) == (7,)
    assert check_dims([8, 2], 16) == (2, 8, 16)
    for wrong in ([], [0, 4], [4, 4], [17], [-1]):
        with pytest.raises(ModelError, match="between 1 and 16"):
            check_dims(wrong, 16)
    with pytest.raises(ModelError, match="dims"):
        truncation(16, ())


def test_prefix_rule() -> None:
    vectors = np.array([[3.0, 4.0, 12.0], [0.0, 0.0, 2.0]])
    np.testing.assert_allclose(truncate(vectors, 2), [[0.6, 0.8], [0.0, 0.0]])
    np.testing.assert_allclose(truncate(vectors, None), [[3 / 13, 4 / 13, 12 / 13], [0, 0, 1]])
    np.testing.assert_array_equal(normalise(np.zeros((1, 3))), np.zeros((1, 3)))


# --- the moments


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def scatters_by_loop(vectors: np.ndarray, speakers: list[str], every_speaker: bool) -> tuple[np.ndarray, np.ndarray]:
    """S_b and S_w from their definitions, speaker by speaker."""
    groups: dict[str, list[np.ndarray]] = {}
    for row, name in zip(unit(vectors), speakers, strict=True):
        groups.setdefault(name, []).append(row)
    size = vectors.shape[1]
    within, degrees = np.zeros((size, size)), 0
    for rows in groups.values():
        if len(rows) < 2:
            continue
        mean = sum(rows) / len(rows)
        for row in rows:
            within += np.outer(row - mean, row - mean)
        degrees += len(rows) - 1
    within /= degrees
    means = [sum(rows) / len(rows) for rows in groups.values() if every_speaker or len(rows) >= 2]
    grand = sum(means) / len(means)
    between = sum(np.outer(mean - grand, mean - grand) for mean in means) / (len(means) - 1)
    if every_speaker:
        between = between - within * sum(1 / len(rows) for rows in groups.values()) / len(groups)
    return between, within


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(1, 6), min_size=3, max_size=12),
    size=st.integers(2, 20),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    every_speaker=st.booleans(),
)
def test_moments_equal_their_definitions_in_any_batches(
    seed: int, counts: list[int], size: int, cuts: list[float], every_speaker: bool
) -> None:
    counts = [*counts, 2, 3]  # at least two speakers with two rows
    generator = np.random.default_rng(seed)
    speakers = [f"s{k}" for k, count in enumerate(counts) for _ in range(count)]
    order = generator.permutation(len(speakers))
    speakers = [speakers[k] for k in order]
    vectors = generator.standard_normal((len(speakers), size)) + 1
    scatter = Scatter(size)
    edges = [0, *sorted(round(cut * len(speakers)) for cut in cuts), len(speakers)]
    for start, stop in itertools.pairwise(edges):
        scatter.add(vectors[start:stop], speakers[start:stop])
    assert scatter.n == len(speakers)
    assert scatter.n_speakers == sum(count >= 2 for count in counts)
    np.testing.assert_allclose(scatter.covariance(), np.cov(unit(vectors), rowvar=False, bias=True), atol=1e-12)
    for found, expected in zip(
        scatter.between_within(every_speaker=every_speaker),
        scatters_by_loop(vectors, speakers, every_speaker),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_within_is_unbiased_and_so_is_between_of_every_speaker() -> None:
    """Averaged over many draws of a model with known covariances; the plain S_b carries S_w / n on top."""
    generator = np.random.default_rng(5)
    size, n = 3, 2
    spread_b, spread_w = np.diag([0.03, 0.02, 0.01]) ** 2, np.diag([0.01, 0.03, 0.02]) ** 2
    sums = {key: np.zeros((size, size)) for key in ("plain", "every", "within")}
    draws = 300
    far = np.array([0.0, 0.0, 0.0, 1.0])  # near one point of the sphere it is flat, and the moments those of a plane
    for _ in range(draws):
        means = generator.multivariate_normal(np.zeros(size), spread_b, 20).repeat(n, axis=0)
        rows = means + generator.multivariate_normal(np.zeros(size), spread_w, 20 * n)
        scatter = Scatter(size + 1)
        scatter.add(np.hstack([rows, np.zeros((len(rows), 1))]) + far, speakers_of(len(rows), n))
        plain, within = scatter.between_within()
        every, _ = scatter.between_within(every_speaker=True)
        for key, value in (("plain", plain), ("every", every), ("within", within)):
            sums[key] += value[:size, :size] / draws
    np.testing.assert_allclose(np.diag(sums["within"]), np.diag(spread_w), rtol=0.1)
    np.testing.assert_allclose(np.diag(sums["every"]), np.diag(spread_b), rtol=0.15)
    np.testing.assert_allclose(np.diag(sums["plain"]), np.diag(spread_b + spread_w / n), rtol=0.1)


def test_rows_of_zeros_are_left_out() -> None:
    vectors = np.random.default_rng(3).standard_normal((12, 5))
    speakers = speakers_of(12)
    plain, gapped = Scatter(5), Scatter(5)
    plain.add(vectors, speakers)
    gapped.add(np.vstack([vectors[:4], np.zeros((2, 5)), vectors[4:]]), [*speakers[:4], "z", "s0", *speakers[4:]])
    assert gapped.n == plain.n == 12
    np.testing.assert_allclose(gapped.covariance(), plain.covariance(), atol=1e-15)
    for found, expected in zip(gapped.between_within(), plain.between_within(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-15)


def test_rows_that_cannot_be_added() -> None:
    scatter = Scatter(3)
    scatter.add(np.ones((4, 3)))
    wrong = np.ones((3, 3))
    wrong[1, 2] = np.nan
    with pytest.raises(ModelError, match="row 5 is not finite"):
        scatter.add(wrong)
    with pytest.raises(ModelError, match=r"one table of \(N, 3\)"):
        scatter.add(np.ones((4, 2)))
    with pytest.raises(ModelError, match="2 speakers for 3 vectors"):
        scatter.add(np.ones((3, 3)), ["a", "b"])
    assert scatter.n == 4, "what was refused must not count"
    with pytest.raises(ModelError, match="two speakers with two vectors"):
        scatter.between_within()
    with pytest.raises(ModelError, match="at least two vectors"):
        Scatter(3).covariance()


# --- the closed forms


def same_subspace(a: np.ndarray, b: np.ndarray) -> float:
    return float(scipy.linalg.subspace_angles(a, b).max())


def test_pca_spans_what_svd_spans() -> None:
    generator = np.random.default_rng(6)
    vectors = generator.standard_normal((200, 12)) * np.geomspace(3, 0.1, 12) + 0.3
    scatter = Scatter(12)
    scatter.add(vectors)
    rotation = pca(scatter, (3, 6))
    rows = unit(vectors)
    _, _, right = scipy.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    for dim in (1, 3, 6, 11):
        assert same_subspace(rotation.matrix[:, :dim], right[:dim].T) < 1e-7
    variance = ((rows - rows.mean(axis=0)) @ right.T).var(axis=0)
    np.testing.assert_allclose(rotation.details["variance"], variance, rtol=1e-9)
    assert rotation.dims == (3, 6, 12)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("every_speaker", [False, True])
def test_discriminant_spans_the_leading_eigenvectors(weight: float, every_speaker: bool) -> None:
    generator = np.random.default_rng(7)
    speakers = [*speakers_of(90), "alone", "also alone"]
    vectors = generator.standard_normal((30, 10))[np.repeat(np.arange(30), 3)] * np.geomspace(2, 0.2, 10)
    vectors = np.vstack([vectors, generator.standard_normal((2, 10))])
    vectors += 0.5 * generator.standard_normal(vectors.shape) * np.geomspace(0.2, 2, 10)
    scatter = Scatter(10)
    scatter.add(vectors, speakers)
    rotation = discriminant(scatter, weight, every_speaker=every_speaker)
    between, within = scatters_by_loop(vectors, speakers, every_speaker)
    _, columns = scipy.linalg.eig(between - weight * within)  # not the symmetric solver, and not in order
    values = np.array([column @ (between - weight * within) @ column for column in columns.T.real])
    columns = columns.real[:, np.argsort(-values)]
    for dim in (1, 4, 9):
        assert same_subspace(rotation.matrix[:, :dim], columns[:, :dim]) < 1e-6
    details = rotation.details
    assert (details["weight"], details["n_speakers"], details["n_vectors"]) == (weight, 30, 92)


def test_discriminant_finds_the_directions_that_carry_speakers() -> None:
    """Three directions carry speakers, three others carry sessions more loudly; PCA takes the loud ones."""
    generator = np.random.default_rng(8)
    basis = random_orthogonal(16, 9)
    voice, channel = basis[:, :3], basis[:, 3:6]
    identity = generator.standard_normal((400, 3))[np.repeat(np.arange(400), 4)]
    session = 3 * generator.standard_normal((1600, 3))
    noise = 0.05 * generator.standard_normal((1600, 16))
    vectors = identity @ voice.T + session @ channel.T + noise + 6 * basis[:, 15]
    scatter = Scatter(16)
    scatter.add(vectors, speakers_of(1600, 4))
    assert same_subspace(discriminant(scatter, 1.0).matrix[:, :3], voice) < 0.15
    assert same_subspace(pca(scatter).matrix[:, :3], channel) < 0.15


def test_signs_do_not_depend_on_the_data_order() -> None:
    vectors = np.random.default_rng(10).standard_normal((60, 9)) * np.geomspace(1, 0.1, 9)
    matrices = []
    for order in (slice(None), slice(None, None, -1)):
        scatter = Scatter(9)
        scatter.add(vectors[order], speakers_of(60)[order])
        matrices.append(pca(scatter).matrix)
    np.testing.assert_allclose(matrices[0], matrices[1], atol=1e-9)
    largest = np.abs(matrices[0]).argmax(axis=0)
    assert (matrices[0][largest, np.arange(9)] > 0).all()


# --- files


def test_saved_and_loaded(tmp_path: Path) -> None:
    rotation = Rotation(random_orthogonal(20, 11), (4, 8), "discriminant", {"weight": 0.5, "variance": [1.0, 2.0]})
    path = tmp_path / "folder" / "rotation.safetensors"
    rotation.save(path)
    loaded = Rotation.load(path)
    np.testing.assert_array_equal(loaded.matrix, rotation.matrix)
    assert (loaded.dims, loaded.method, loaded.details) == ((4, 8, 20), "discriminant", rotation.details)
    before = path.read_bytes()
    rotation.save(path)
    assert path.read_bytes() == before, "the same rotation makes the same file"


def rotation_file(path: Path, matrix: np.ndarray, **metadata: str) -> Path:
    save_file({"matrix": matrix}, path, metadata=metadata)
    return path


def test_files_that_are_none(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    truncation(8).save(good)
    good_matrix = np.eye(8)
    config = {"format": "nestvox-rotation-1", "method": "pca", "dims": [8], "details": {}}

    def with_config(name: str, text: str, matrix: np.ndarray = good_matrix) -> Path:
        return rotation_file(tmp_path / name, matrix, rotation=text)

    files = {
        "truncated": tmp_path / "truncated",
        "text": tmp_path / "text",
        "empty": tmp_path / "empty",
        "foreign": rotation_file(tmp_path / "foreign", good_matrix),
        "newer": with_config("newer", json.dumps(config | {"format": "nestvox-rotation-9"})),
        "no dims": with_config("no dims", json.dumps({k: v for k, v in config.items() if k != "dims"})),
        "not json": with_config("not json", "{"),
        "list": with_config("list", "[1]"),
        "dims": with_config("dims", json.dumps(config | {"dims": 3})),
        "tampered": with_config("tampered", json.dumps(config), 2 * good_matrix),
        "no matrix": tmp_path / "no matrix",
        "missing": tmp_path / "missing",
        "folder": tmp_path,
    }
    files["truncated"].write_bytes(good.read_bytes()[:-100])
    files["text"].write_text("no rotation")
    files["empty"].touch()
    save_file({"other": good_matrix}, files["no matrix"], metadata={"rotation": json.dumps(config)})
    for name, path in files.items():
        with pytest.raises(ModelError) as caught:
            Rotation.load(path)
        assert str(path) in str(caught.value), name


def few_speakers(
    n_speakers: int, size: int, n_dead: int, *, rows: int = 6, seed: int = 0
) -> tuple[np.ndarray, list[str]]:
    """Rows of few speakers that never leave the last but `n_dead` coordinates, before they are turned."""
    generator = np.random.default_rng(seed)
    live = size - n_dead
    scale = 1 / np.sqrt(1 + np.arange(live))
    voices = generator.normal(size=(n_speakers, live)) * scale
    rows_of = np.repeat(voices, rows, axis=0) + 0.4 * scale * generator.normal(size=(n_speakers * rows, live))
    turn = np.linalg.qr(generator.normal(size=(size, size)))[0]
    padded = np.concatenate([rows_of, np.zeros((len(rows_of), n_dead))], axis=1) @ turn
    return padded, [f"s{row // rows}" for row in range(len(rows_of))]


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("every_speaker", [False, True])
@pytest.mark.parametrize(
    ("n_speakers", "size", "n_dead"), [(8, 32, 12), (20, 32, 5), (40, 32, 8), (4, 48, 0), (3, 64, 40)]
)
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_directions_without_variance_come_last(weight, every_speaker, n_speakers, size, n_dead, kind) -> None:
    vectors, speakers = few_speakers(n_speakers, size, n_dead)
    scatter = Scatter(size)
    scatter.add(vectors.astype(kind), speakers)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = discriminant(scatter, weight, every_speaker=every_speaker)
    variances = (unit @ found.matrix).var(axis=0)
    rank = np.linalg.matrix_rank(unit - unit.mean(axis=0), tol=1e-5)
    assert rank < size or n_dead == 0
    dead = variances < 1e-12
    assert dead.sum() == size - rank
    assert not dead[:rank].any(), "a prefix pays for no direction in which nobody differs"
    # What speakers so few cannot judge follows by falling variance.
    means = np.stack([unit[np.array(speakers) == name].mean(axis=0) for name in sorted(set(speakers))])
    between = np.cov(means, rowvar=False) if not every_speaker else None
    if between is not None and weight == 0 and n_speakers - 1 < rank:
        filled = variances[n_speakers - 1 : rank]
        assert (np.diff(filled) <= 1e-12).all()
        np.testing.assert_allclose(np.diag(found.matrix.T @ between @ found.matrix)[n_speakers - 1 :], 0, atol=1e-12)
    np.testing.assert_allclose(unit @ found.matrix @ (unit @ found.matrix).T, unit @ unit.T, atol=1e-9)


def test_many_speakers_are_believed_as_ever() -> None:
    """From three speakers a dimension on the order is that of the criterion, to the bit."""
    vectors, speakers = few_speakers(60, 16, 2, rows=3)
    scatter = Scatter(16)
    scatter.add(vectors, speakers)
    between, within = scatter.between_within()
    values = np.diag(discriminant(scatter, 1.0).matrix.T @ (between - within) @ discriminant(scatter, 1.0).matrix)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(between - within)[::-1], atol=1e-12)
