"""The autoencoder beside a student, by hand, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from nestvox.errors import ModelError
from nestvox.losses import Bottleneck, make_term


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_by_hand() -> None:
    term = Bottleneck(6, 3, 4)
    student, teacher = drawn(5, 6).requires_grad_(), drawn(5, 4).requires_grad_()
    first, _, second = term.layers
    made = torch.relu(student @ first.weight.T + first.bias) @ second.weight.T + second.bias
    found = term(student, teacher)
    torch.testing.assert_close(found, (1 - functional.cosine_similarity(made, teacher)).mean())
    found.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert all(parameter.grad is not None for parameter in term.parameters())


def test_the_parameters_are_those_of_the_branch() -> None:
    term = make_term("bottleneck")
    assert sum(parameter.numel() for parameter in term.parameters()) == 512 * 128 + 128 + 128 * 512 + 512


def test_it_learns_its_own_input_as_far_as_the_bottleneck_lets_it() -> None:
    torch.manual_seed(0)
    plane = drawn(64, 2) @ drawn(2, 8)  # two numbers are enough; of rectifiers they take four
    values = {}
    for name, vectors in (("plane", plane), ("anything", drawn(64, 8))):
        term = Bottleneck(8, 4)
        optimiser = torch.optim.Adam(term.parameters(), lr=0.02)
        for _ in range(300):
            optimiser.zero_grad()
            loss = term(vectors, vectors)
            loss.backward()
            optimiser.step()
        values[name] = loss.item()
        assert 0.5 < term.bounds(vectors, vectors).chance <= 2
    assert values["plane"] < 0.02
    assert values["anything"] > 0.1


def test_a_student_in_half_precision() -> None:
    term = Bottleneck(6, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = term(drawn(4, 6).bfloat16(), drawn(4, 6).bfloat16())
    assert found.dtype == torch.float32
    assert isinstance(term, nn.Module)


@pytest.mark.parametrize("sizes", [(512, 512), (512, 0), (0, 0), (16, 8, 4), (16, -1)])
def test_what_is_no_bottleneck_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="a bottleneck lies between"):
        Bottleneck(*sizes)


@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 6), (3, 6)), ((4, 5), (4, 6)), ((4, 6), (4, 5)), ((0, 6), (0, 6))]
)
def test_other_vectors_are_refused(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="expected"):
        Bottleneck(6, 3)(torch.zeros(student), torch.zeros(teacher))
