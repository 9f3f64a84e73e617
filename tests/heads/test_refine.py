"""Gradient refinement: a right gradient, steps that stay rotations, and prefixes that get better where they must."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from nestvox.errors import ModelError
from nestvox.heads.contract import normalise
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.refine import Refinement, contrastive_loss, refine, refinements
from nestvox.heads.rotation import Rotation, Scatter, discriminant, truncation

DIMS, TEMPERATURE = (2, 4, 7), 0.1


def batch(seed: int, rows: int = 9, size: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    a = generator.standard_normal((rows, size))
    b = a + 0.7 * generator.standard_normal((rows, size))
    matrix = np.linalg.qr(generator.standard_normal((size, size)))[0]
    return normalise(a), normalise(b), matrix


def loss_by_loop(a: np.ndarray, b: np.ndarray, matrix: np.ndarray) -> float:
    """The definition, term by term."""
    total = 0.0
    for dim in DIMS:
        for i in range(len(a)):
            first = (a[i] @ matrix)[:dim]
            logits = []
            for j in range(len(b)):
                second = (b[j] @ matrix)[:dim]
                logits.append(first @ second / np.linalg.norm(first) / np.linalg.norm(second) / TEMPERATURE)
            total += (np.log(np.exp(logits).sum()) - logits[i]) / len(a)
    return total


def central_differences(function: Callable[[np.ndarray], float], matrix: np.ndarray, step: float = 1e-6) -> np.ndarray:
    gradient = np.zeros_like(matrix)
    for index in np.ndindex(matrix.shape):
        up, down = matrix.copy(), matrix.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient(seed: int) -> None:
    a, b, matrix = batch(seed)
    loss, gradient = contrastive_loss(a, b, matrix, DIMS, TEMPERATURE)
    assert loss == pytest.approx(loss_by_loop(a, b, matrix), rel=1e-12)
    expected = central_differences(lambda moved: loss_by_loop(a, b, moved), matrix)
    np.testing.assert_allclose(gradient, expected, atol=1e-6 * np.abs(expected).max())


def test_single_precision_agrees() -> None:
    a, b, matrix = batch(4)
    exact_loss, exact = contrastive_loss(a, b, matrix, DIMS, TEMPERATURE)
    loss, gradient = contrastive_loss(*(x.astype(np.float32) for x in (a, b, matrix)), DIMS, TEMPERATURE)
    assert loss == pytest.approx(exact_loss, rel=1e-5)
    np.testing.assert_allclose(gradient, exact, atol=1e-5 * np.abs(exact).max())


def test_gradient_equals_automatic_differentiation() -> None:
    torch = pytest.importorskip("torch")
    a, b, matrix = batch(5)
    variable = torch.tensor(matrix, requires_grad=True)
    first, second = torch.tensor(a) @ variable, torch.tensor(b) @ variable
    loss = sum(
        torch.nn.functional.cross_entropy(
            torch.nn.functional.normalize(first[:, :dim])
            @ torch.nn.functional.normalize(second[:, :dim]).T
            / TEMPERATURE,
            torch.arange(len(a)),
        )
        for dim in DIMS
    )
    loss.backward()
    found, gradient = contrastive_loss(a, b, matrix, DIMS, TEMPERATURE)
    assert found == pytest.approx(float(loss.detach()), rel=1e-12)
    np.testing.assert_allclose(gradient, variable.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_empty_prefix_gives_no_infinity() -> None:
    a = np.eye(4)[:3]  # the last row has nothing in the first two coordinates
    loss, gradient = contrastive_loss(a, a, np.eye(4), (2, 4), TEMPERATURE)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


# --- a world where a better order exists than the discriminant's

SIZE, VOICE = 24, 6


def world(seed: int, speakers: int = 150, takes: int = 4) -> tuple[np.ndarray, list[str]]:
    """Speakers differ in 6 directions; 10 others are loud within speakers only; and the sessions are heavy-tailed.

    Mixed by a fixed rotation, so that no coordinate is a direction.
    """
    generator = np.random.default_rng(seed)
    mix = np.linalg.qr(np.random.default_rng(99).standard_normal((SIZE, SIZE)))[0]
    rows = speakers * takes
    coordinates = 0.15 * generator.standard_normal((rows, SIZE))
    coordinates[:, :VOICE] += generator.standard_normal((speakers, VOICE)).repeat(takes, axis=0)
    coordinates[:, VOICE : VOICE + 10] += 0.8 * generator.standard_t(2.5, (rows, 10))
    coordinates[:, :VOICE] += 0.4 * generator.standard_normal((rows, VOICE)) * np.linspace(0.3, 2, VOICE)
    return coordinates @ mix, [f"s{row // takes}" for row in range(rows)]


def start_of(vectors: np.ndarray, speakers: list[str], weight: float = 0.0, dims: tuple[int, ...] = (4, 8)) -> Rotation:
    scatter = Scatter(vectors.shape[1])
    scatter.add(vectors, speakers)
    return discriminant(scatter, weight, dims)


def held_out_loss(rotation: Rotation, seed: int) -> float:
    vectors, _ = world(seed, takes=2)
    unit = normalise(vectors)
    return contrastive_loss(unit[::2], unit[1::2], rotation.matrix, (4, 8), 0.05)[0]


def test_one_step_lowers_the_loss() -> None:
    vectors, speakers = world(1, takes=2)
    unit = normalise(vectors)
    start = truncation(SIZE, (4, 8))
    # Without spread and with every speaker in the batch, the loss that is descended is the one measured here, up to
    # which of a speaker's two rows is asked for the other.
    settings = Refinement(checkpoints=(1, 2, 3), spread=0.0, learning_rate=1e-3, shortest=4)
    losses = [
        contrastive_loss(unit[::2], unit[1::2], rotation.matrix, (4, 8, 16), settings.temperature)[0]
        for rotation in (start, *refinements(start, vectors, speakers, settings))
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_held_out_speakers_gain_at_short_prefixes() -> None:
    vectors, speakers = world(2)
    start = start_of(vectors, speakers)
    settings = Refinement(checkpoints=(60,), learning_rate=5e-3, shortest=4)
    (refined,) = refinements(start, vectors, speakers, settings)
    pairs = LabelledPairs.all_of(*world(3, speakers=120, takes=3))
    before, after = pairs.eers(start), pairs.eers(refined)
    assert after[4] < before[4] - 0.01
    assert after[8] < before[8]
    assert after[SIZE] == pytest.approx(before[SIZE], abs=1e-12), "the full dimension is what it was"
    assert held_out_loss(refined, 4) < held_out_loss(start, 4)


def test_every_checkpoint_is_orthogonal_and_says_what_it_is() -> None:
    vectors, speakers = world(5, speakers=40)
    start = start_of(vectors, speakers, weight=0.25)
    settings = Refinement(checkpoints=(1, 5, 25), learning_rate=0.1, seed=3)
    found = list(refinements(start, vectors, speakers, settings))
    assert [rotation.details["steps"] for rotation in found] == [1, 5, 25]
    for rotation in found:
        assert np.abs(rotation.matrix.T @ rotation.matrix - np.eye(SIZE)).max() < 1e-10
        assert (rotation.method, rotation.dims) == ("refined", (4, 8, SIZE))
        assert rotation.details | {"start": "discriminant", "seed": 3, "weight": 0.25} == rotation.details
    assert np.linalg.det(found[-1].matrix) == pytest.approx(np.linalg.det(start.matrix)), "moved, never mirrored"


def test_same_seed_same_bytes() -> None:
    vectors, speakers = world(6, speakers=40)
    start = start_of(vectors, speakers)
    one, same = (refine(start, vectors, speakers, Refinement(checkpoints=(3,), seed=1)).matrix for _ in range(2))
    other = refine(start, vectors, speakers, Refinement(checkpoints=(3,), seed=2)).matrix
    assert one.tobytes() == same.tobytes()
    assert np.abs(one - other).max() > 1e-6
    # A later checkpoint does not depend on earlier ones being handed out.
    settings = Refinement(checkpoints=(1, 2, 3), seed=1)
    assert list(refinements(start, vectors, speakers, settings))[-1].matrix.tobytes() == one.tobytes()


def test_speakers_with_one_row_take_part() -> None:
    vectors, speakers = world(7, speakers=40)
    lonely = [name if row % 4 else f"{name}-alone" for row, name in enumerate(speakers)]
    start = start_of(vectors, lonely)
    without = [row for row in range(len(lonely)) if row % 4]
    with_them = refine(start, vectors, lonely, Refinement(checkpoints=(3,))).matrix
    left_out = refine(start, vectors[without], [lonely[row] for row in without], Refinement(checkpoints=(3,))).matrix
    assert np.abs(with_them - left_out).max() > 1e-6


@pytest.mark.parametrize(
    "wrong",
    [
        {"checkpoints": ()},
        {"checkpoints": (5, 2)},
        {"checkpoints": (0, 2)},
        {"checkpoints": (2, 2)},
        {"learning_rate": 0.0},
        {"temperature": -1.0},
        {"spread": -0.1},
        {"speakers_per_step": 1},
        {"shortest": 0},
    ],
)
def test_settings_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"checkpoints|out of range"):
        Refinement(**wrong)


def test_what_cannot_be_refined() -> None:
    start = truncation(4)
    vectors = np.random.default_rng(0).standard_normal((4, 4))
    with pytest.raises(ModelError, match="two speakers with two vectors"):
        refine(start, vectors, ["a", "a", "b", "c"])
    with pytest.raises(ModelError, match="3 speakers for 4 vectors"):
        refine(start, vectors, ["a", "a", "b"])
    with pytest.raises(ModelError, match=r"\(N, 4\)"):
        refine(start, vectors[:, :3], ["a", "a", "b", "b"])


def test_the_average_lies_between_the_checkpoints() -> None:
    vectors, speakers = world(8)
    start = start_of(vectors, speakers)
    settings = Refinement(checkpoints=(10, 20, 30), learning_rate=5e-3, shortest=4)
    steps = list(refinements(start, vectors, speakers, settings))
    average = refine(start, vectors, speakers, settings)
    assert average.details["averaged"] == [10, 20, 30]
    assert np.abs(average.matrix.T @ average.matrix - np.eye(SIZE)).max() < 1e-10

    def prefix(rotation: Rotation, dim: int) -> np.ndarray:
        return rotation.matrix[:, :dim] @ rotation.matrix[:, :dim].T

    for dim in (4, 8):
        mean = np.mean([prefix(step, dim) for step in steps], axis=0)
        off = {at: np.linalg.norm(prefix(other, dim) - mean) for at, other in (("end", steps[-1]), ("mean", average))}
        assert off["mean"] < off["end"]


def test_the_average_of_equal_rotations_is_that_rotation() -> None:
    vectors, speakers = world(9, speakers=40)
    start = start_of(vectors, speakers)
    settings = Refinement(checkpoints=(1, 2), learning_rate=1e-12)
    assert np.abs(refine(start, vectors, speakers, settings).matrix - start.matrix).max() < 1e-8


def test_rounding_of_the_vectors_hardly_moves_the_result() -> None:
    """What is chosen must not hang on the last bit of an embedding, which differs from machine to machine."""
    vectors, speakers = world(10, speakers=60)
    start = start_of(vectors, speakers)
    settings = Refinement(checkpoints=(5, 10), shortest=4)
    noise = 1e-7 * np.random.default_rng(0).standard_normal(vectors.shape)
    one, other = (refine(start, rows, speakers, settings).matrix for rows in (vectors, vectors + noise))
    for dim in (4, 8):
        assert np.abs(one[:, :dim] @ one[:, :dim].T - other[:, :dim] @ other[:, :dim].T).max() < 1e-5
