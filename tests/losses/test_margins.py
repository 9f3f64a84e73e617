"""Margin losses against the papers' formulas in plain numpy, written with angles, and at the edges of the cosine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit, log_expit, logsumexp

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch

from nestvox.errors import ModelError
from nestvox.losses.margins import AamSoftmax, AmSoftmax, ClassifierLoss, SphereFace2, SubCenterAamSoftmax

KINDS: dict[str, Callable[..., ClassifierLoss]] = {
    "aam": AamSoftmax,
    "aam-easy": lambda *a, **k: AamSoftmax(*a, easy_margin=True, **k),
    "am": AmSoftmax,
    "sub-center": SubCenterAamSoftmax,
    "sphereface2": SphereFace2,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)
    torch.set_num_threads(1)


def phi(kind: str, cosine: float, m: float) -> float:
    """What the right class's cosine is replaced with."""
    angle = np.arccos(np.clip(cosine, -1, 1))
    if kind == "am":
        return cosine - m
    if kind == "aam-easy":
        return float(np.cos(angle + m)) if angle < np.pi / 2 else cosine
    return float(np.cos(angle + m)) if angle + m < np.pi else cosine - m * np.sin(np.pi - m)


def oracle(kind: str, x: np.ndarray, labels: np.ndarray, weight: np.ndarray, m: float, s: float, **k: Any) -> float:
    """Mean loss, one utterance and one class after the other; weight is (C, K, d)."""
    losses = []
    for vector, right in zip(x, labels, strict=True):
        cosines = np.array(
            [
                max(vector @ center / np.linalg.norm(vector) / np.linalg.norm(center) for center in centers)
                for centers in weight
            ]
        )
        if kind == "sphereface2":
            g = 2 * ((cosines + 1) / 2) ** 3 - 1
            terms = [
                -0.7 * np.log(expit(s * (g[j] - m) + k["b"]))
                if j == right
                else -0.3 * np.log(expit(-s * (g[j] + m) - k["b"]))
                for j in range(len(g))
            ]
            losses.append(sum(terms) / s)
            continue
        logits = s * cosines
        logits[right] = s * phi(kind, cosines[right], m)
        losses.append(logsumexp(logits) - logits[right])
    return float(np.mean(losses))


def bias_of(loss: ClassifierLoss) -> dict[str, float]:
    return {"b": float(loss.bias.detach())} if isinstance(loss, SphereFace2) else {}


@every_kind
@pytest.mark.parametrize(("margin", "scale"), [(0.0, 1.0), (0.2, 30.0), (0.5, 12.0), (1.3, 4.0)])
def test_known_answer(kind: str, margin: float, scale: float) -> None:
    rng = np.random.default_rng(3)
    loss = KINDS[kind](6, 7, margin, scale).double()
    x, labels = 3 * rng.normal(size=(40, 6)), rng.integers(0, 7, 40)
    weight = loss.weight.detach().numpy()
    x[:7] = -weight[labels[:7], 0]  # opposite to their class, beyond pi - m
    expected = oracle(kind, x, labels, weight, margin, scale, **bias_of(loss))
    assert loss(torch.from_numpy(x), torch.from_numpy(labels)).item() == pytest.approx(expected, rel=1e-7)


@every_kind
def test_gradient(kind: str) -> None:
    loss = KINDS[kind](4, 5, 0.3, 8.0).double()
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])

    def of(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        named = dict(zip(dict(loss.named_parameters()), parameters, strict=True))
        found: torch.Tensor = torch.func.functional_call(loss, named, (x, labels))
        return found

    assert torch.autograd.gradcheck(of, (x, *[p.detach().requires_grad_() for p in loss.parameters()]))


@pytest.mark.parametrize("kind", ["aam", "aam-easy", "am", "sub-center"])
@given(seed=st.integers(0, 2**16), scale=st.floats(0.5, 60))
@settings(max_examples=20, deadline=None)
def test_no_margin_is_plain_softmax(kind: str, seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    loss = KINDS[kind](5, 6, 0.0, scale).double()
    x, labels = torch.randn(9, 5, dtype=torch.float64), torch.randint(0, 6, (9,))
    logits = scale * loss.cosines(x).detach().numpy()
    expected = np.mean(logsumexp(logits, axis=1) - logits[np.arange(9), labels.numpy()])
    assert loss(x, labels).item() == pytest.approx(expected, abs=1e-10)


@every_kind
@given(seed=st.integers(0, 2**16), length=st.floats(1e-3, 1e3))
@settings(max_examples=20, deadline=None)
def test_invariances(kind: str, seed: int, length: float) -> None:
    """Lengths of embeddings and weights do not matter, nor do the numbers that classes and rows happen to have."""
    torch.manual_seed(seed)
    loss = KINDS[kind](5, 6, 0.3, 10.0).double()
    x, labels = torch.randn(9, 5, dtype=torch.float64), torch.randint(0, 6, (9,))
    before = loss(x, labels).item()
    assert loss(x * length, labels).item() == pytest.approx(before, rel=1e-9)
    rows, classes = torch.randperm(9), torch.randperm(6)
    assert loss(x[rows], labels[rows]).item() == pytest.approx(before, rel=1e-9)
    with torch.no_grad():
        loss.weight.copy_(loss.weight[classes] * length)
    assert loss(x, classes.argsort()[labels]).item() == pytest.approx(before, rel=1e-9)


@every_kind
def test_a_larger_margin_is_harder(kind: str) -> None:
    loss = KINDS[kind](5, 6, 0.0, 10.0).double()
    labels = torch.arange(6)
    x = loss.weight.detach()[:, 0] + 0.1 * torch.randn(6, 5, dtype=torch.float64)
    found = []
    for margin in (0.0, 0.1, 0.3, 0.6):
        loss.margin = margin
        found.append(loss(x, labels).item())
    assert found == sorted(found)
    assert len(set(found)) == 4


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sign", [1, -1])
def test_gradient_is_finite_where_the_cosine_is_one(kind: str, dtype: torch.dtype, sign: int) -> None:
    loss = KINDS[kind](4, 3, 0.3, 30.0)
    with torch.no_grad():
        loss.weight[:] = torch.eye(4)[:3, None] * 2
    x = (sign * 5 * torch.eye(4)[:3]).to(dtype).requires_grad_()
    value = loss(x, torch.arange(3))
    value.backward()
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert loss.weight.grad is not None
    assert loss.weight.grad.isfinite().all()
    assert loss.weight.grad.abs().max() < 1e3


@every_kind
def test_vectors_without_a_direction(kind: str) -> None:
    loss = KINDS[kind](4, 3)
    for tiny in (0.0, 1e-30, 1e-8):
        x = torch.full((3, 4), tiny, requires_grad=True)
        with torch.no_grad():
            loss.weight[2] = 0.0
        value = loss(x, torch.arange(3))
        (gradient,) = torch.autograd.grad(value, x)
        assert value.isfinite()
        assert gradient.isfinite().all()


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(kind: str, dtype: torch.dtype) -> None:
    loss = KINDS[kind](16, 50)
    x = torch.randn(20, 16).to(dtype)
    labels = torch.randint(0, 50, (20,))
    expected = loss(x.float(), labels)
    found = loss(x, labels)
    assert found.dtype == torch.float32
    assert found.item() == expected.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(x, labels).item() == expected.item()
    weights = loss.to(dtype)
    assert weights(x, labels).dtype == torch.float32
    assert weights(x, labels).item() == pytest.approx(expected.item(), rel=0.05)


@every_kind
def test_many_classes(kind: str) -> None:
    loss = KINDS[kind](8, 200_000)
    x = torch.randn(4, 8, requires_grad=True)
    value = loss(x, torch.tensor([0, 1, 199_999, 7]))
    value.backward()
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_easy_margin_leaves_far_embeddings_alone() -> None:
    easy, plain = (AamSoftmax(3, 2, margin, 5.0, easy_margin=True).double() for margin in (0.4, 0.0))
    plain.load_state_dict(easy.state_dict())
    far = -easy.weight.detach()[:, 0]
    assert easy(far, torch.arange(2)).item() == plain(far, torch.arange(2)).item()
    near = -far
    assert easy(near, torch.arange(2)).item() > plain(near, torch.arange(2)).item()


def test_nearest_of_several_centers_counts() -> None:
    sub, one = SubCenterAamSoftmax(3, 2, 0.2, 8.0, centers=2).double(), AamSoftmax(3, 2, 0.2, 8.0).double()
    with torch.no_grad():
        sub.weight[:] = torch.tensor([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, -1]]])
        one.weight[:] = torch.tensor([[[0, 1, 0]], [[0, 0, -1]]])
    x = torch.tensor([[0.1, 1.0, -0.3], [0.2, 0.3, -1.0]], dtype=torch.float64)
    assert sub(x, torch.arange(2)).item() == pytest.approx(one(x, torch.arange(2)).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("classes", "margin", "scale"),
    [(2, 0.2, 30.0), (5994, 0.2, 32.0), (40, 0.0, 10.0), (2, 0.5, 64.0), (3, 0.4, 60.0), (9, 0.5, 64.0)],
)
def test_sphereface2_begins_at_the_least_loss(classes: int, margin: float, scale: float) -> None:
    def slope(b: float) -> float:
        """Rising in b, of the sign of the derivative where all cosines are 0: what pulls up over what pulls down."""
        pulls_up = np.log(0.7) + log_expit(-scale * (-0.75 - margin) - b)
        pulls_down = np.log(0.3 * (classes - 1)) + log_expit(scale * (-0.75 + margin) + b)
        return float(pulls_down - pulls_up)

    found = SphereFace2(4, classes, margin, scale).bias.item()
    assert found == pytest.approx(brentq(slope, -200, 200), abs=1e-4)


@every_kind
def test_a_prefix_sees_the_first_columns_of_the_weights(kind: str) -> None:
    whole, part = KINDS[kind](6, 4), KINDS[kind](3, 4)
    with torch.no_grad():
        part.weight.copy_(whole.weight[..., :3])
    x, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    assert whole.at_prefix(x, labels).item() == pytest.approx(part(x, labels).item(), rel=1e-6)
    with pytest.raises(ModelError, match="6 dimensions, got 7"):
        whole.at_prefix(torch.randn(5, 7), labels)


@every_kind
def test_prototypes(kind: str) -> None:
    loss = KINDS[kind](64, 4)
    before = loss.weight.detach().clone()
    prototypes = 7 * torch.randn(4, 64)
    prototypes[3] = 0
    loss.set_prototypes(prototypes)
    assert isinstance(loss.weight, torch.nn.Parameter)
    cosine = loss.cosines(prototypes[:3])
    assert (cosine.diagonal() > 0.98).all()
    if kind != "sub-center":
        assert cosine.diagonal().detach().numpy() == pytest.approx(1.0, abs=1e-6)
    else:
        assert len(loss.weight.unique(dim=1)[0]) == 3
    assert torch.equal(loss.weight[3], before[3])
    with pytest.raises(ModelError, match="prototypes are"):
        loss.set_prototypes(prototypes[:, :63])


@every_kind
def test_prototypes_are_trained_and_saved(kind: str) -> None:
    loss = KINDS[kind](4, 3)
    assert "weight" in dict(loss.named_parameters())
    assert "weight" in loss.state_dict()
    loss(torch.randn(3, 4), torch.arange(3)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.parameters())


@every_kind
@pytest.mark.parametrize(
    ("x", "labels"),
    [
        (torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 4), torch.zeros(2)),
        (torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(4), torch.zeros(1, dtype=torch.int64)),
        (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
    ],
)
def test_what_is_no_batch(kind: str, x: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(ModelError, match="got"):
        KINDS[kind](4, 3)(x, labels)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AamSoftmax(0, 3),
        lambda: AamSoftmax(3, 0),
        lambda: AmSoftmax(3, 3, scale=0.0),
        lambda: SubCenterAamSoftmax(3, 3, centers=0),
        lambda: SphereFace2(3, 1),
        lambda: SphereFace2(3, 3, balance=1.0),
        lambda: SphereFace2(3, 3, sharpness=0.5),
    ],
)
def test_settings_outside_their_range(make: Callable[[], object]) -> None:
    with pytest.raises(ModelError, match="got"):
        make()
