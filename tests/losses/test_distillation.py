"""Distillation of prefixes against its formulas in plain numpy, term by term."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import pearsonr

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch

from nestvox.errors import ModelError
from nestvox.losses.distillation import PrefixDistillation


def cosines(x: np.ndarray) -> np.ndarray:
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def oracle(student: np.ndarray, teacher: np.ndarray, factors: tuple[float, float, float], temperature: float) -> float:
    S, T = cosines(student), cosines(teacher)
    n = len(S)
    squares, correlations, divergences = [], [], []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        squares += [(S[i, j] - T[i, j]) ** 2 for j in others]
        correlations.append(1 - pearsonr(S[i, others], T[i, others]).statistic)
        p, q = log_softmax(T[i, others] / temperature), log_softmax(S[i, others] / temperature)
        divergences.append(np.sum(np.exp(p) * (p - q)))
    return float(np.dot(factors, [np.mean(squares), np.mean(correlations), np.mean(divergences)]))


@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(4, 9),
    factors=st.tuples(*[st.floats(0, 5)] * 3).filter(lambda f: max(f) > 1e-3),
    temperature=st.floats(0.05, 2),
)
@settings(max_examples=50, deadline=None)
def test_known_answer(seed: int, rows: int, factors: tuple[float, float, float], temperature: float) -> None:
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(size=(rows, 8)), rng.normal(size=(rows, 11))
    loss = PrefixDistillation(
        [8, 3],
        {3: 2.0},
        similarity=factors[0],
        correlation=factors[1],
        neighbours=factors[2],
        temperature=temperature if factors[2] else None,
    )
    terms = loss(torch.from_numpy(student), torch.from_numpy(teacher))
    expected = {d: oracle(student[:, :d], teacher, factors, temperature) for d in (3, 8)}
    for d in (3, 8):
        assert terms.per_dim[d].item() == pytest.approx(expected[d], rel=1e-8, abs=1e-10)
    assert terms.total.item() == pytest.approx((2 * expected[3] + expected[8]) / 3, rel=1e-8, abs=1e-10)


def test_gradient_goes_to_the_student_only() -> None:
    torch.manual_seed(0)
    loss = PrefixDistillation([3, 6], neighbours=1.0)
    student = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher).total, (student,))
    loss(student, teacher).total.backward()
    assert teacher.grad is None
    assert not list(loss.parameters())


@given(seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_rotated_and_scaled_teacher_costs_its_student_nothing(seed: int) -> None:
    """At full size the rotation of a pretrained embedding is a perfect student, and nothing else is asked of it."""
    rng = np.random.default_rng(seed)
    teacher = rng.normal(size=(7, 5))
    student = 3.0 * teacher @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
    loss = PrefixDistillation([5], neighbours=1.0)
    assert abs(loss(torch.from_numpy(student), torch.from_numpy(teacher)).total.item()) < 1e-12
    permuted = loss(torch.from_numpy(student), torch.from_numpy(np.roll(teacher, 1, axis=0)))
    assert permuted.total.item() > 1e-3


def test_correlation_allows_any_spread() -> None:
    """Cosines that are all halved are the same relation, and another similarity."""
    x = torch.eye(6, dtype=torch.float64) + 0.3 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double()
    teacher = torch.nn.functional.normalize(x)
    gram = teacher @ teacher.T
    halved = torch.linalg.cholesky(0.5 * gram + 0.5 * torch.eye(6, dtype=torch.float64))
    relation = PrefixDistillation([6], similarity=0, correlation=1)
    same = PrefixDistillation([6], similarity=1, correlation=0)
    assert abs(relation(halved, teacher).total.item()) < 1e-12
    assert same(halved, teacher).total.item() > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equal_and_empty_vectors(dtype: torch.dtype) -> None:
    loss = PrefixDistillation([2, 4], neighbours=1.0)
    for student in (torch.zeros(4, 4), torch.ones(4, 4), torch.eye(4), -torch.ones(4, 4)):
        x = student.to(dtype).requires_grad_()
        value = loss(x, torch.ones(4, 3, dtype=dtype)).total
        value.backward()
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_half_precision_under_autocast() -> None:
    torch.manual_seed(0)
    loss = PrefixDistillation([2, 8], neighbours=1.0)
    student, teacher = torch.randn(6, 8).bfloat16(), torch.randn(6, 9).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student, teacher).total
    assert found.item() == loss(student.float(), teacher.float()).total.item()


def test_only_active_dims_count() -> None:
    loss = PrefixDistillation([2, 8])
    student, teacher = torch.randn(6, 8), torch.randn(6, 9)
    both = loss(student, teacher).per_dim
    loss.set_active([2])
    assert loss(student, teacher).total.item() == pytest.approx(both[2].item(), rel=1e-6)


@pytest.mark.parametrize(("student", "teacher"), [((2, 4), (2, 4)), ((5, 4), (4, 4)), ((5, 3), (5, 4)), ((5,), (5, 4))])
def test_shapes_that_are_refused(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="got"):
        PrefixDistillation([4])(torch.randn(student), torch.randn(teacher))


@pytest.mark.parametrize(
    "settings", [{"similarity": -1.0}, {"similarity": 0.0, "correlation": 0.0}, {"temperature": 0.0}]
)
def test_settings_that_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ModelError, match="distillation needs"):
        PrefixDistillation([4], **settings)  # type: ignore[arg-type]


def test_temperature_that_nothing_uses() -> None:
    with pytest.raises(ModelError, match=r"temperature of 0\.2 has no effect"):
        PrefixDistillation([4], temperature=0.2)


def test_cut_targets_compare_vectors() -> None:
    """Each prefix against the same prefix of the teacher, as it comes or rotated, in numpy."""
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(6, 8)), rng.normal(size=(6, 9))
    matrix = np.linalg.qr(rng.normal(size=(9, 9)))[0]

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean(1 - np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))

    only = {"similarity": 0.0, "correlation": 0.0, "cosine": 1.0}
    s, t = torch.from_numpy(student), torch.from_numpy(teacher)
    truncated = PrefixDistillation([3, 8], target="truncated", **only)(s, t)  # type: ignore[arg-type]
    rotated = PrefixDistillation([3, 8], target="rotated", rotation=torch.from_numpy(matrix), **only)(s, t)  # type: ignore[arg-type]
    for d in (3, 8):
        assert truncated.per_dim[d].item() == pytest.approx(apart(student[:, :d], teacher[:, :d]), rel=1e-12)
        assert rotated.per_dim[d].item() == pytest.approx(apart(student[:, :d], (teacher @ matrix)[:, :d]), rel=1e-12)


@pytest.mark.parametrize("target", ["truncated", "rotated"])
def test_cut_targets_compare_relations_of_the_cut(target: Literal["truncated", "rotated"]) -> None:
    rng = np.random.default_rng(2)
    student, teacher = rng.normal(size=(6, 8)), rng.normal(size=(6, 9))
    matrix = np.linalg.qr(rng.normal(size=(9, 9)))[0]
    rotation = torch.from_numpy(matrix) if target == "rotated" else None
    loss = PrefixDistillation([3], neighbours=0.5, temperature=0.3, target=target, rotation=rotation)
    seen = (teacher @ matrix if target == "rotated" else teacher)[:, :3]
    expected = oracle(student[:, :3], seen, (1.0, 1.0, 0.5), 0.3)
    assert loss(torch.from_numpy(student), torch.from_numpy(teacher)).total.item() == pytest.approx(expected, rel=1e-9)
    assert not loss.state_dict(), "a checkpoint would hold what the recipe says already"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "cut"}, "unknown target"),
        ({"target": "rotated"}, "needs a rotation"),
        ({"rotation": torch.eye(4)}, "has no rotation"),
        ({"target": "rotated", "rotation": 2 * torch.eye(4)}, "orthogonal"),
        ({"target": "rotated", "rotation": torch.ones(4, 5)}, "orthogonal"),
    ],
)
def test_targets_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        PrefixDistillation([4], **settings)


def test_teachers_that_do_not_fit_a_target() -> None:
    with pytest.raises(ModelError, match="has no prefix of 8"):
        PrefixDistillation([8], target="truncated")(torch.randn(4, 8), torch.randn(4, 6))
    with pytest.raises(ModelError, match="rotation is for 9"):
        PrefixDistillation([4], target="rotated", rotation=torch.eye(9))(torch.randn(4, 8), torch.randn(4, 6))
    with pytest.raises(ModelError, match="same"):
        PrefixDistillation([4], cosine=1.0)(torch.randn(4, 8), torch.randn(4, 6))
