"""Losses on pairs against loops in plain numpy, and where there is nothing to compare."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch
from torch import nn

from nestvox.errors import ModelError
from nestvox.losses.pairwise import AngularPrototypical, Prototypical, Triplet

LOSSES: dict[str, Callable[[], nn.Module]] = {
    "prototypical": Prototypical,
    "prototypical-every": lambda: Prototypical(queries="every"),
    "angular": AngularPrototypical,
    "angular-every": lambda: AngularPrototypical(queries="every"),
    "triplet-hard": lambda: Triplet(mining="hard"),
    "triplet-semi-hard": lambda: Triplet(mining="semi-hard"),
    "triplet-all": lambda: Triplet(mining="all"),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def normal(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def prototypes_oracle(name: str, x: np.ndarray, labels: np.ndarray) -> float:
    angular, every = name.startswith("angular"), name.endswith("every")
    if angular:
        x = normal(x)
    rows = {speaker: list(np.flatnonzero(labels == speaker)) for speaker in dict.fromkeys(labels.tolist())}

    def similar(query: np.ndarray, prototype: np.ndarray) -> float:
        if angular:
            return float(10 * (normal(query) @ normal(prototype)) - 5)
        return float(-np.sum((query - prototype) ** 2))

    losses = []
    for speaker, own in rows.items():
        if len(own) < 2:
            continue
        for query in own if every else own[:1]:
            logits, answers = [], []
            for other, theirs in rows.items():
                support = [row for row in theirs if row != query] if every else theirs[1:]
                if support:
                    logits.append(similar(x[query], x[support].mean(axis=0)))
                    answers.append(other)
            losses.append(logsumexp(logits) - logits[answers.index(speaker)])
    return float(np.mean(losses))


def triplet_oracle(mining: str, x: np.ndarray, labels: np.ndarray, m: float = 0.3) -> float:
    x = normal(x)
    far = np.linalg.norm(x[:, None] - x, axis=-1)
    losses = []
    for a in range(len(x)):
        positives = [p for p in range(len(x)) if p != a and labels[p] == labels[a]]
        negatives = [n for n in range(len(x)) if labels[n] != labels[a]]
        if not positives or not negatives:
            continue
        if mining == "hard":
            losses.append(max(0.0, max(far[a, positives]) - min(far[a, negatives]) + m))
        for p in positives:
            if mining == "semi-hard":
                near = [far[a, n] for n in negatives if far[a, p] < far[a, n] < far[a, p] + m]
                losses += [far[a, p] - min(near) + m] if near else []
            if mining == "all":
                losses += [far[a, p] - far[a, n] + m for n in negatives if far[a, p] - far[a, n] + m > 0]
    return float(np.mean(losses)) if losses else 0.0


def expected(name: str, x: np.ndarray, labels: np.ndarray) -> float:
    if name.startswith("triplet"):
        return triplet_oracle(name.removeprefix("triplet-"), x, labels)
    return prototypes_oracle(name, x, labels)


@every_loss
@given(
    seed=st.integers(0, 2**16), clips=st.lists(st.integers(1, 4), min_size=2, max_size=5).filter(lambda c: max(c) > 1)
)
@settings(max_examples=40, deadline=None)
def test_known_answer(name: str, seed: int, clips: list[int]) -> None:
    """Any number of clips per speaker, any numbers for speakers, any order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(rng.choice(1000, len(clips), replace=False), clips))
    x = rng.normal(size=(len(labels), 3))
    found = LOSSES[name]().double()(torch.from_numpy(x), torch.from_numpy(labels)).item()
    assert found == pytest.approx(expected(name, x, labels), rel=1e-9, abs=1e-12)


@every_loss
def test_order_of_other_speakers_does_not_matter(name: str) -> None:
    torch.manual_seed(0)
    loss = LOSSES[name]().double()
    x, labels = torch.randn(12, 5, dtype=torch.float64), torch.arange(12) // 3
    speakers = torch.cat([torch.arange(3) + 3 * s for s in (2, 0, 3, 1)])
    assert loss(x[speakers], labels[speakers]).item() == pytest.approx(loss(x, labels).item(), rel=1e-12)
    assert loss(x, 100 - labels).item() == pytest.approx(loss(x, labels).item(), rel=1e-12)


@every_loss
def test_gradient(name: str) -> None:
    torch.manual_seed(2)
    loss = LOSSES[name]().double()
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), (x,))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equal_opposite_and_empty_vectors(name: str, dtype: torch.dtype) -> None:
    """Distances of 0, cosines of 1 and -1, vectors without a direction: the gradient stays finite."""
    for rows in itertools.product(([1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]), repeat=4):
        x = torch.tensor(rows, dtype=dtype, requires_grad=True)
        loss = LOSSES[name]()
        value = loss(x, torch.tensor([0, 0, 1, 1]))
        value.backward()
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert x.grad is not None
        assert x.grad.isfinite().all(), rows
        assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())


@every_loss
def test_half_precision_is_computed_in_single(name: str) -> None:
    torch.manual_seed(1)
    loss = LOSSES[name]()
    x, labels = torch.randn(12, 8).bfloat16(), torch.arange(12) // 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(x, labels)
    assert found.item() == loss(x.float(), labels).item()


@every_loss
def test_batch_without_a_pair_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="several clips per speaker"):
        LOSSES[name]()(torch.randn(4, 3), torch.arange(4))


@every_loss
def test_one_speaker_is_finite(name: str) -> None:
    x = torch.randn(4, 3, requires_grad=True)
    value = LOSSES[name]()(x, torch.zeros(4, dtype=torch.int64))
    value.backward()
    assert value.item() == 0.0
    assert x.grad is not None
    assert x.grad.abs().max() == 0.0


def test_separated_speakers_cost_nothing() -> None:
    x, labels = torch.eye(4).repeat_interleave(3, dim=0), torch.arange(12) // 3
    for mining in ("hard", "semi-hard", "all"):
        assert Triplet(mining=mining)(x, labels).item() == 0.0


def test_semi_hard_means_strictly_farther() -> None:
    """A wrong speaker exactly as far as the right one is passed over for the next one."""
    angles = torch.tensor([0.0, 0.5, -0.5, 0.6, 2.5], dtype=torch.float64)
    x, labels = torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([0, 0, 1, 2, 3])
    far = torch.linalg.vector_norm(x[:, None] - x, dim=2)
    assert far[0, 2] == far[0, 1] < far[0, 3]
    assert far[1, 3] < far[1, 0] < far[1, 2]
    assert far[1, 2] > far[1, 0] + 0.3
    expected = (far[0, 1] - far[0, 3] + 0.3).item()  # of 1 and 0 there is no such wrong speaker
    assert Triplet(mining="semi-hard")(x, labels).item() == pytest.approx(expected, rel=1e-9)


def test_margin_may_be_set() -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(12, 4), torch.arange(12) // 3
    loss = Triplet(margin=0.1)
    before = loss(x, labels).item()
    loss.margin = 0.6
    assert loss(x, labels).item() == pytest.approx(
        triplet_oracle("hard", x.double().numpy(), labels.numpy(), 0.6), rel=1e-5
    )
    assert loss(x, labels).item() > before


def test_scale_and_offset_are_trained() -> None:
    loss = AngularPrototypical()
    assert set(loss.state_dict()) == {"scale", "offset"}
    with torch.no_grad():
        loss.scale.fill_(-3.0)  # stays positive, so that the order of the answers is kept
    x, labels = torch.randn(6, 4), torch.arange(6) // 2
    assert loss(x, labels).item() == pytest.approx(np.log(3), abs=1e-4)


@pytest.mark.parametrize("make", [lambda: Triplet(mining="soft"), lambda: Prototypical(queries="two")])  # type: ignore[arg-type]
def test_unknown_settings(make: Callable[[], object]) -> None:
    with pytest.raises(ModelError, match=r"unknown .*known: "):
        make()
