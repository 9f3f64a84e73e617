"""The nested loss is the weighted mean of ordinary losses on slices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch
from torch import nn
from torch.nn import functional

from nestvox.errors import ModelError
from nestvox.losses.margins import AamSoftmax, AmSoftmax, SphereFace2, SubCenterAamSoftmax
from nestvox.losses.nested import NestedLoss
from nestvox.losses.pairwise import AngularPrototypical, Prototypical, Triplet

MAKERS: dict[str, Callable[[int], nn.Module]] = {
    "aam": lambda d: AamSoftmax(d, 4),
    "am": lambda d: AmSoftmax(d, 4),
    "sub-center": lambda d: SubCenterAamSoftmax(d, 4),
    "sphereface2": lambda d: SphereFace2(d, 4),
    "prototypical": lambda _: Prototypical(),
    "angular": lambda _: AngularPrototypical(queries="every"),
    "triplet": lambda _: Triplet(mining="all"),
}
LABELS = torch.arange(12) % 4


def vectors(seed: int = 0, size: int = 16) -> torch.Tensor:
    return torch.randn(12, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", MAKERS)
@given(
    weights=st.dictionaries(st.sampled_from([2, 5, 16]), st.floats(0.1, 10)),
    order=st.permutations([2, 5, 16]),
)
@settings(max_examples=15, deadline=None)
def test_weighted_mean_of_losses_on_slices(kind: str, weights: dict[int, float], order: list[int]) -> None:
    """Weights go with their dimension, in whatever order dimensions are named."""
    torch.manual_seed(1)
    loss = NestedLoss(order, MAKERS[kind], weights).double()
    x = vectors()
    terms = loss(x, LABELS)
    assert list(terms.per_dim) == [2, 5, 16]
    total = 0.0
    for d in order:
        alone = loss.criteria[str(d)](functional.normalize(x[:, :d]), LABELS).item()
        assert terms.per_dim[d].item() == pytest.approx(alone, rel=1e-9)
        total += weights.get(d, 1.0) * alone
    assert terms.total.item() == pytest.approx(total / sum(weights.get(d, 1.0) for d in order), rel=1e-9)
    assert terms.total.requires_grad or not list(loss.parameters())
    assert not any(value.requires_grad for value in terms.per_dim.values())


@pytest.mark.parametrize("kind", MAKERS)
def test_shared_classifier_is_one_for_all(kind: str) -> None:
    torch.manual_seed(1)
    loss = NestedLoss([4, 16], MAKERS[kind], classifier="shared").double()
    assert list(loss.criteria) == ["16"]
    torch.manual_seed(1)
    small = MAKERS[kind](4).double()
    if hasattr(small, "weight"):
        with torch.no_grad():
            small.weight.copy_(loss.criteria["16"].weight[..., :4])
    terms = loss(vectors(), LABELS)
    assert terms.per_dim[4].item() == pytest.approx(
        small(functional.normalize(vectors()[:, :4]), LABELS).item(), rel=1e-9
    )


def test_own_classifiers_are_bound_to_their_dimension() -> None:
    loss = NestedLoss([64, 16, 32], MAKERS["aam"])
    shapes = {name: tuple(p.shape) for name, p in loss.named_parameters()}
    assert shapes == {f"criteria.{d}.weight": (4, 1, d) for d in (16, 32, 64)}
    assert loss.dims == (16, 32, 64)


def test_gradient_of_a_coordinate_comes_from_the_prefixes_that_hold_it() -> None:
    torch.manual_seed(0)
    loss = NestedLoss([4, 8], MAKERS["am"]).double()
    x = vectors(size=8).requires_grad_()
    loss.set_active([4])
    (gradient,) = torch.autograd.grad(loss(x, LABELS).total, x)
    assert gradient[:, :4].abs().min() > 0
    assert gradient[:, 4:].abs().max() == 0
    loss.set_active([8, 4])
    assert loss.active == (4, 8)
    (gradient,) = torch.autograd.grad(loss(x, LABELS).total, x)
    assert gradient[:, 4:].abs().min() > 0


@pytest.mark.parametrize("active", [[16], [2, 16], [5]])
def test_only_active_dims_count(active: list[int]) -> None:
    torch.manual_seed(0)
    loss = NestedLoss([2, 5, 16], MAKERS["aam"], {2: 3.0}).double()
    everything = loss(vectors(), LABELS)
    loss.set_active(active)
    terms = loss(vectors(), LABELS)
    assert list(terms.per_dim) == active
    weights = [loss.weights[d] for d in active]
    expected = np.average([everything.per_dim[d].item() for d in active], weights=weights)
    assert terms.total.item() == pytest.approx(expected, rel=1e-12)


def test_margin_reaches_every_criterion_that_has_one() -> None:
    loss = NestedLoss([4, 8], MAKERS["aam"])
    loss.set_margin(0.37)
    assert [c.margin for c in loss.criteria.values()] == [0.37, 0.37]
    NestedLoss([4, 8], MAKERS["prototypical"]).set_margin(0.37)


@pytest.mark.parametrize("classifier", ["own", "shared"])
def test_prototypes_are_prefixes_of_one_matrix(classifier: str) -> None:
    loss = NestedLoss([4, 8], MAKERS["aam"], classifier=classifier)  # type: ignore[arg-type]
    prototypes = torch.randn(4, 8)
    loss.set_prototypes(prototypes)
    for d, criterion in loss.criteria.items():
        expected = functional.normalize(prototypes[:, : int(d)])
        torch.testing.assert_close(criterion.weight[:, 0].detach(), expected)
    with pytest.raises(ModelError, match="no classes"):
        NestedLoss([4], MAKERS["triplet"]).set_prototypes(prototypes)
    with pytest.raises(ModelError, match="prototypes must be"):
        loss.set_prototypes(prototypes[:, :7])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", MAKERS)
def test_half_precision_under_autocast(kind: str, dtype: torch.dtype) -> None:
    """Prefixes are normalised in float32 too."""
    torch.manual_seed(0)
    loss = NestedLoss([2, 16], MAKERS[kind])
    x = vectors().to(dtype)
    expected = loss(x.float(), LABELS).total
    x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(x, LABELS).total
    assert found.dtype == torch.float32
    assert found.item() == expected.item()
    found.backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("kind", MAKERS)
def test_prefix_without_a_direction(kind: str) -> None:
    """A first coordinate of 0 leaves the whole embedding usable."""
    loss = NestedLoss([2, 16], MAKERS[kind])
    x = vectors().float()
    x[:, :2] = 0
    x.requires_grad_()
    terms = loss(x, LABELS)
    terms.total.backward()
    assert terms.total.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_embedding_may_be_longer_than_the_largest_dim_but_not_shorter() -> None:
    loss = NestedLoss([2, 8], MAKERS["am"]).double()
    assert loss(vectors(), LABELS).total.item() == loss(vectors()[:, :8], LABELS).total.item()
    with pytest.raises(ModelError, match=r"\(B, 8\)"):
        loss(vectors()[:, :7], LABELS)


@pytest.mark.parametrize(
    ("dims", "weights", "what"),
    [
        ([], None, "distinct and positive"),
        ([4, 4], None, "distinct and positive"),
        ([0, 4], None, "distinct and positive"),
        ([4, 8], {16: 1.0}, r"dims \[16\]"),
        ([4, 8], {4: 0.0}, "positive and finite"),
        ([4, 8], {4: float("nan")}, "positive and finite"),
    ],
)
def test_settings_that_are_refused(dims: list[int], weights: dict[int, float] | None, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        NestedLoss(dims, MAKERS["aam"], weights)


@pytest.mark.parametrize("dims", [[], [3], [4, 16]])
def test_active_dims_are_some_of_the_dims(dims: list[int]) -> None:
    loss = NestedLoss([4, 8], MAKERS["aam"])
    with pytest.raises(ModelError, match="active dims"):
        loss.set_active(dims)
    assert loss.active == (4, 8)


def test_unknown_classifier() -> None:
    with pytest.raises(ModelError, match="own, shared"):
        NestedLoss([4], MAKERS["aam"], classifier="half")  # type: ignore[arg-type]
