"""Terms of a distillation against their formulas in plain numpy, their bounds, and gradients by finite differences."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch

from nestvox.errors import ModelError
from nestvox.losses.hints import AttentionTransfer, Hints, SeveralTeachers, Stage
from nestvox.losses.objective import TERMS, make_term
from nestvox.losses.relations import Angles, Correlation, Distances, Gram, Neighbours, Similarity
from nestvox.losses.terms import DistillationTerm, EmbeddingCosine, EmbeddingMse, LogitKd


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def huber(x: float) -> float:
    return x * x / 2 if abs(x) <= 1 else abs(x) - 0.5


def rows(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def value(term: DistillationTerm, student: np.ndarray, teacher: np.ndarray) -> float:
    return float(term(torch.from_numpy(student), torch.from_numpy(teacher)))


def test_cosine_by_hand() -> None:
    student = np.array([[3.0, 4.0], [2.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    teacher = np.array([[6.0, 8.0], [0.0, 1.0], [0.0, -1.0], [1.0, 0.0]])
    # cosines 1, 0, -1 and 1 / sqrt 2
    assert value(EmbeddingCosine(), student, teacher) == pytest.approx((0 + 1 + 2 + 1 - 0.5**0.5) / 4, rel=1e-12)


@pytest.mark.parametrize(("size", "temperature"), [(2, 1.0), (64, 2.0), (512, 1.0), (512, 4.0)])
def test_squared_error_is_cosine_with_another_weight(size: int, temperature: float) -> None:
    """MSE x D x T^2 / 2 is the cosine, in value and in gradient: at D = 512 and T = 4, 1/4096."""
    student = torch.from_numpy(rows(0, 5, size)).requires_grad_()
    teacher = torch.from_numpy(rows(1, 5, size))
    mse = EmbeddingMse(per="element", temperature=temperature)(student, teacher)
    cosine, vector = EmbeddingCosine()(student, teacher), EmbeddingMse()(student, teacher)
    slopes = [torch.autograd.grad(one, student)[0] for one in (mse, cosine, vector)]
    factor = size * temperature**2 / 2
    assert factor == {(2, 1.0): 1, (64, 2.0): 128, (512, 1.0): 256, (512, 4.0): 4096}[size, temperature]
    assert mse.item() * factor == pytest.approx(cosine.item(), rel=1e-12)
    assert vector.item() == pytest.approx(2 * cosine.item(), rel=1e-12)
    torch.testing.assert_close(slopes[0] * factor, slopes[1], rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(slopes[2], 2 * slopes[1], rtol=1e-9, atol=1e-15)


def test_squared_error_as_libraries_write_it() -> None:
    student, teacher = rows(0, 5, 12), rows(1, 5, 12)
    expected = np.mean((unit(student) / 4 - unit(teacher) / 4) ** 2)
    assert value(EmbeddingMse("element", 4), student, teacher) == pytest.approx(expected, rel=1e-12)


def test_gradient_of_the_cosine_has_the_sine_of_the_angle() -> None:
    angle = 0.7
    student = torch.tensor([[3 * math.cos(angle), 3 * math.sin(angle)]], dtype=torch.float64, requires_grad=True)
    EmbeddingCosine()(student, torch.tensor([[2.0, 0.0]], dtype=torch.float64)).backward()
    assert student.grad is not None
    assert student.grad.norm().item() == pytest.approx(math.sin(angle) / 3, rel=1e-12)


@pytest.mark.parametrize(
    ("term", "chance", "maximum"),
    [
        (EmbeddingCosine(), 1, 2),
        (EmbeddingMse(), 2, 4),
        (EmbeddingMse("element", 1.0), 3.90625e-3, 7.8125e-3),
        (EmbeddingMse("element", 4.0), 2.44140625e-4, 4.8828125e-4),
    ],
)
def test_bounds_at_512(term: DistillationTerm, chance: float, maximum: float) -> None:
    """The table of the specification, and that orthogonal and opposite vectors have these values."""
    teacher = torch.eye(512)[:4]
    for student, expected in ((torch.eye(512)[4:8], chance), (-teacher, maximum), (7 * teacher, 0.0)):
        assert term(student, teacher).item() == pytest.approx(expected, rel=1e-6, abs=1e-12)
    bounds = term.bounds(teacher, teacher)
    assert (bounds.chance, bounds.maximum) == (chance, maximum)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_logits(temperature: float) -> None:
    student, teacher = 3 * rows(0, 5, 7), 3 * rows(1, 5, 7)
    p, q = log_softmax(teacher / temperature, axis=1), log_softmax(student / temperature, axis=1)
    expected = temperature**2 * np.mean(np.sum(np.exp(p) * (p - q), axis=1))
    assert value(LogitKd(temperature), student, teacher) == pytest.approx(expected, rel=1e-10)


def test_temperature_of_logits_means_something() -> None:
    """Hot, it is the squared distance of centred logits over 2 C; and certainty goes from 1 to 0."""
    student, teacher = rows(0, 5, 7), rows(1, 5, 7)
    apart = (student - student.mean(axis=1, keepdims=True)) - (teacher - teacher.mean(axis=1, keepdims=True))
    hot = value(LogitKd(1e4), student, teacher)
    assert hot == pytest.approx(np.mean(np.sum(apart**2, axis=1)) / 14, rel=1e-3)
    assert abs(value(LogitKd(1.0), student, teacher) / hot - 1) > 0.01
    certainties = [LogitKd(t).certainty(torch.from_numpy(teacher)) for t in (1e-3, 1.0, 1e4)]
    assert certainties[0] == pytest.approx(1, abs=1e-9)
    assert 0.05 < certainties[1] < 0.95
    assert certainties[2] == pytest.approx(0, abs=1e-6)
    assert LogitKd(2.0).certainty(torch.tensor([[2 * math.log(3), 0.0]])) == pytest.approx(
        1 + (0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)), rel=1e-6
    )


def test_relations_of_a_triangle_by_hand() -> None:
    """Student: 0, 60 and 180 degrees; teacher: 0, 90 and 180 degrees of the circle."""
    student = np.array([[1.0, 0.0], [0.5, 0.75**0.5], [-1.0, 0.0]])
    teacher = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    # Cosines: 0.5, -0.5, -1 against 0, 0, -1.
    assert value(Similarity(), student, teacher) == pytest.approx((0.25 + 0.25 + 0) / 3, rel=1e-9)
    # Chords: 1, sqrt 3, 2 (mean 1 + sqrt 3 / 3) against sqrt 2, sqrt 2, 2.
    found, wanted = np.array([1, 3**0.5, 2]), np.array([2**0.5, 2**0.5, 2])
    apart = found / found.mean() - wanted / wanted.mean()
    assert value(Distances(), student, teacher) == pytest.approx(np.mean(apart**2) / 2, rel=1e-9)
    # Inner angles: 60, 90 and 30 degrees against 45, 90 and 45.
    angles = np.cos(np.radians([60, 90, 30])) - np.cos(np.radians([45, 90, 45]))
    assert value(Angles(), student, teacher) == pytest.approx(np.mean(angles**2) / 2, rel=1e-9)


def test_relations_against_loops() -> None:
    student, teacher = rows(0, 6, 4), rows(1, 6, 9)
    s, t = unit(student), unit(teacher)
    n, pairs, triplets = len(s), list(itertools.permutations(range(6), 2)), list(itertools.permutations(range(6), 3))

    def mean_distance(x: np.ndarray) -> float:
        return float(np.mean([np.linalg.norm(x[i] - x[j]) for i, j in pairs]))

    def angle(x: np.ndarray, i: int, j: int, k: int) -> float:
        return float(unit(x[i] - x[j]) @ unit(x[k] - x[j]))

    distances = [
        huber(
            np.linalg.norm(s[i] - s[j]).item() / mean_distance(s)
            - np.linalg.norm(t[i] - t[j]).item() / mean_distance(t)
        )
        for i, j in pairs
    ]
    assert value(Distances(), student, teacher) == pytest.approx(np.mean(distances), rel=1e-9)
    angles = [huber(angle(s, i, j, k) - angle(t, i, j, k)) for i, j, k in triplets]
    assert value(Angles(), student, teacher) == pytest.approx(np.mean(angles), rel=1e-9)
    published = np.sum((unit(s @ s.T) - unit(t @ t.T)) ** 2) / n**2
    assert value(Gram(), student, teacher) == pytest.approx(n * published, rel=1e-9)


def test_profiles_over_time_by_hand() -> None:
    # Energies 1, 4, 0 against 0, 9, 0: unit profiles (1, 4, 0) / sqrt 17 and (0, 1, 0).
    student, teacher = np.array([[[1.0, 0.0, 0.0], [0.0, -2.0, 0.0]]]), np.array([[[0.0, 3.0, 0.0]]])
    term = AttentionTransfer()
    assert value(term, student, teacher) == pytest.approx(2 - 2 * 4 / 17**0.5, rel=1e-12)
    # The same at twice the rate; weights are taken as they are.
    assert value(term, student, teacher.repeat(2, axis=2)) == pytest.approx(2 - 2 * 4 / 17**0.5, rel=1e-12)
    weights = np.array([[[0.5, 0.5, 0.0], [0.1, 0.9, 0.0]]])
    assert value(AttentionTransfer("weights"), weights, np.array([[[0.3, 0.7, 0.0]]])) == pytest.approx(0, abs=1e-12)
    assert value(term, np.array([[[1.0, 0.0]]]), np.array([[[0.0, 1.0]]])) == term.known_maximum


def test_hints() -> None:
    stages = [Stage("blocks.2", "lstm.1", 3, 4), Stage("pooled", "pooled", 5, 2, weight=3.0)]
    hints = Hints(stages).double()
    student = {"blocks.2": rows(0, 2, 3, 6), "pooled": rows(1, 2, 5)}
    teacher = {"lstm.1": rows(2, 2, 4, 3), "pooled": rows(3, 2, 2)}
    first, second = ((one.weight.detach().numpy(), one.bias.detach().numpy()) for one in hints.projections)
    halved = student["blocks.2"].reshape(2, 3, 3, 2).mean(axis=3)  # 6 frames to 3
    seen = np.einsum("oc,bct->bto", first[0], halved) + first[1]
    frames = 1 - np.sum(unit(seen) * unit(teacher["lstm.1"].transpose(0, 2, 1)), axis=2)
    pooled = 1 - np.sum(unit(student["pooled"] @ second[0].T + second[1]) * unit(teacher["pooled"]), axis=1)
    s, t = ({name: torch.from_numpy(one) for name, one in them.items()} for them in (student, teacher))
    assert hints(s, t).item() == pytest.approx((frames.mean() + 3 * pooled.mean()) / 4, rel=1e-9)
    with pytest.raises(ModelError, match=r"teacher layer 'lstm.1' is missing; there are \['pooled'\]"):
        hints(s, {"pooled": t["pooled"]})
    with pytest.raises(ModelError, match="should have 3 channels"):
        hints(s | {"blocks.2": s["pooled"]}, t)


def test_projections_learn_with_the_loss_and_are_no_part_of_the_student() -> None:
    torch.manual_seed(0)
    student = torch.nn.Linear(6, 3)
    hints = Hints([Stage("out", "out", 3, 8)])
    x, target = torch.randn(16, 6), torch.randn(16, 8)
    optimiser = torch.optim.Adam([*student.parameters(), *hints.parameters()], lr=0.05)
    first = hints({"out": student(x)}, {"out": target}).item()
    for _ in range(50):
        optimiser.zero_grad()
        loss = hints({"out": student(x)}, {"out": target})
        loss.backward()
        optimiser.step()
    assert loss.item() < first - 0.2
    assert set(student.state_dict()) == {"weight", "bias"}


def test_several_teachers() -> None:
    torch.manual_seed(0)
    term = SeveralTeachers({"campplus": 4, "ge2e": 6}, 5, {"campplus": 3.0}).double()
    student, teachers = rows(0, 7, 5), {"ge2e": rows(1, 7, 6), "campplus": rows(2, 7, 4)}
    each = []
    for projection, name in zip(term.projections, ("campplus", "ge2e"), strict=True):
        seen = student @ projection.weight.detach().numpy().T + projection.bias.detach().numpy()
        each.append(np.mean(1 - np.sum(unit(seen) * unit(teachers[name]), axis=1)))
    given = {name: torch.from_numpy(one) for name, one in teachers.items()}
    assert term(torch.from_numpy(student), given).item() == pytest.approx(0.75 * each[0] + 0.25 * each[1], rel=1e-9)
    bounds = term.bounds(torch.from_numpy(student), given)
    assert (bounds.chance, bounds.maximum) == (1, 2)
    relational = SeveralTeachers({"campplus": 4, "ge2e": 6}, term=Similarity)
    mean = np.mean([value(Similarity(), student, one) for one in teachers.values()])
    assert relational(torch.from_numpy(student), given).item() == pytest.approx(mean, rel=1e-9)
    with pytest.raises(ModelError, match="'ge2e' is missing"):
        term(torch.from_numpy(student), {"campplus": given["campplus"]})
    with pytest.raises(ModelError, match=r"name teachers \['ecapa'\]"):
        SeveralTeachers({"ge2e": 6}, weights={"ecapa": 1})


ON_VECTORS = [
    EmbeddingCosine(),
    EmbeddingMse(),
    EmbeddingMse("element", 4.0),
    LogitKd(2.0),
    Similarity(),
    Gram(),
    Correlation(),
    Neighbours(),
    Distances(),
    Angles(),
]


@pytest.mark.parametrize("term", ON_VECTORS, ids=lambda term: type(term).__name__)
def test_gradient_goes_to_the_student_only(term: DistillationTerm) -> None:
    student = torch.from_numpy(rows(0, 5, 4)).requires_grad_()
    teacher = torch.from_numpy(rows(1, 5, 4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: term(s, teacher), (student,))
    term(student, teacher).backward()
    assert teacher.grad is None
    assert term(teacher, teacher).item() == pytest.approx(0, abs=1e-9)


def test_gradient_of_profiles() -> None:
    student, teacher = torch.from_numpy(rows(0, 3, 2, 6)).requires_grad_(), torch.from_numpy(rows(1, 3, 4, 3))
    assert torch.autograd.gradcheck(lambda s: AttentionTransfer()(s, teacher), (student,))


@pytest.mark.parametrize("term", ON_VECTORS, ids=lambda term: type(term).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equal_and_empty_vectors(term: DistillationTerm, dtype: torch.dtype) -> None:
    for student in (torch.zeros(4, 4), torch.ones(4, 4), torch.eye(4), -torch.ones(4, 4)):
        x = student.to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = term(x, torch.ones(4, 4, dtype=dtype))
        found.backward()
        assert found.dtype == torch.float32
        assert found.isfinite()
        assert -1e-6 <= found.item() <= term.bounds(x, x).maximum * (1 + 1e-6)
        assert x.grad is not None
        assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    "term", [term for term in ON_VECTORS if not isinstance(term, LogitKd)], ids=lambda term: type(term).__name__
)
def test_no_scale_changes_a_direction(term: DistillationTerm) -> None:
    student, teacher = rows(0, 6, 5), rows(1, 6, 5)
    assert value(term, 3 * student, 0.2 * teacher) == pytest.approx(value(term, student, teacher), rel=1e-9)


def test_shuffled_is_the_mean_over_other_orders() -> None:
    student, teacher = rows(0, 5, 4), rows(1, 5, 4)
    term = Similarity()
    expected = np.mean([value(term, student, np.roll(teacher, shift, axis=0)) for shift in range(1, 5)])
    assert term.shuffled(torch.from_numpy(student), torch.from_numpy(teacher)) == pytest.approx(expected, rel=1e-9)
    assert term.bounds(torch.from_numpy(student), torch.from_numpy(teacher)).chance == pytest.approx(expected, rel=1e-9)
    assert math.isnan(EmbeddingCosine().shuffled(torch.ones(1, 2), torch.ones(1, 2)))


@pytest.mark.parametrize("kind", sorted(set(TERMS) - {"logits", "neighbours", "mse"}))
def test_temperature_without_an_effect_is_refused(kind: str) -> None:
    with pytest.raises(ModelError, match=f"temperature has no effect on the term {kind}"):
        make_term(kind, temperature=4.0)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("mse", {"temperature": 4.0}, "temperature has no effect on a squared distance"),
        ("mse", {"per": "batch"}, "unknown per"),
        ("logits", {"temperature": 0.0}, "positive and finite"),
        ("neighbours", {"temperature": math.inf}, "positive and finite"),
        ("cosin", {}, "known: angles"),
        ("logits", {"margin": 1}, "it has temperature"),
        ("attention", {"of": "frames"}, "known: activations"),
        ("hints", {"stages": []}, "distinct pairs"),
        ("hints", {"stages": [Stage("a", "b", 3, 0)]}, "positive sizes"),
        ("hints", {"stages": [Stage("a", "b", 3, 2, weight=0.0)]}, "weights must be positive"),
    ],
)
def test_settings_that_are_refused(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_term(kind, **settings)


def test_terms_by_name() -> None:
    term = make_term("mse", per="element", temperature=4.0)
    assert isinstance(term, EmbeddingMse)
    assert term.temperature == 4.0


@pytest.mark.parametrize(
    ("term", "student", "teacher"),
    [
        (EmbeddingCosine(), (4, 3), (4, 5)),
        (LogitKd(), (4, 1), (4, 1)),
        (Angles(), (2, 3), (2, 3)),
        (AttentionTransfer(), (4, 3), (4, 3)),
    ],
)
def test_shapes_that_are_refused(term: DistillationTerm, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"got|two or more"):
        term(torch.randn(student), torch.randn(teacher))
