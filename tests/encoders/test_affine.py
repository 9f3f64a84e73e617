"""Layers folded into one affine map: equal to running them, one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nestvox.encoders.contract import Affine
from nestvox.errors import ModelError


def batch_norm(size: int, *, affine: bool = True) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(size, affine=affine).double().eval()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_(3.0)
    norm.running_var.uniform_(0.01, 4.0)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize(
    "kinds", ["bl", "blb", "l", "b", "lb", "bil", "nl", "m", "bmnlb"], ids=lambda kinds: f"layers-{kinds}"
)
def test_folded_layers_equal_the_layers(kinds: str) -> None:
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    size = 7
    for kind in kinds:
        if kind in "lm":
            layers.append(nn.Linear(size, size - 2, bias=kind == "l").double())
            size -= 2
        else:
            layers.append(nn.Identity() if kind == "i" else batch_norm(size, affine=kind == "b"))
    x = torch.randn(5, 7, dtype=torch.float64)
    affine = Affine.of(*layers)
    assert affine.weight.dtype == affine.bias.dtype == np.float64
    with torch.no_grad():
        np.testing.assert_allclose(
            x.numpy() @ affine.weight.T + affine.bias, nn.Sequential(*layers)(x).numpy(), atol=1e-12
        )


def test_folding_leaves_the_layers_alone() -> None:
    norm, linear = batch_norm(4), nn.Linear(4, 3).double()
    before = [p.clone() for p in (*norm.state_dict().values(), *linear.state_dict().values())]
    affine = Affine.of(norm, linear)
    affine.weight[:] = 0
    affine.bias[:] = 0
    after = (*norm.state_dict().values(), *linear.state_dict().values())
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "layers", [(), (nn.Identity(),), (nn.Linear(3, 3), nn.ReLU()), (nn.BatchNorm1d(3, track_running_stats=False),)]
)
def test_what_cannot_be_folded(layers: tuple[nn.Module, ...]) -> None:
    with pytest.raises(ModelError, match="fold"):
        Affine.of(*layers)
