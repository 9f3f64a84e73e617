"""Linear and mlp heads: what they begin as, numpy equal to torch, saved equal to loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch
from torch import nn

from nestvox.encoders.contract import Affine
from nestvox.errors import ModelError
from nestvox.heads.contract import Head, normalise
from nestvox.heads.linear import LinearHead
from nestvox.heads.mlp import MlpHead
from nestvox.heads.moments import Moments
from nestvox.heads.rotation import Rotation
from nestvox.heads.trained import Norm, TrainedHead

P, E = 40, 12
NORMS: tuple[Norm, ...] = ("batch", "fixed", "none")
KINDS: dict[str, Callable[..., TrainedHead]] = {
    "linear": LinearHead,
    "mlp": lambda *a, **k: MlpHead(*a, **{"hidden": 9, **k}),
    "mlp3": lambda *a, **k: MlpHead(*a, **{"hidden": 9, "layers": 3, "dropout": 0.2, **k}),
}
STARTS: dict[str, Callable[..., TrainedHead]] = {
    "linear": LinearHead.from_pretrained,
    "mlp": lambda *a, **k: MlpHead.from_pretrained(*a, hidden=9, **k),
    "mlp3": lambda *a, **k: MlpHead.from_pretrained(*a, hidden=9, layers=3, dropout=0.2, **k),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_norm = pytest.mark.parametrize("norm", NORMS)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(7)
    torch.set_num_threads(1)


def pooled(rows: int = 300, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return ((rng.normal(size=(rows, P)) + 3) * np.geomspace(0.1, 10, P)).astype(np.float32)


def moments(x: np.ndarray) -> Moments:
    found = Moments(x.shape[1])
    found.add(x)
    return found


def pretrained(seed: int = 1) -> tuple[Affine, Rotation]:
    """A batch norm and a linear layer behind such vectors, and a rotation."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(E, P)) / np.geomspace(0.1, 10, P)
    matrix = np.linalg.qr(rng.normal(size=(E, E)))[0]
    return Affine(weight, rng.normal(size=E) - weight @ (3 * np.geomspace(0.1, 10, P))), Rotation(matrix, (4, 8), "pca")


def disturbed(head: TrainedHead) -> TrainedHead:
    """Every weight and statistic away from where it begins."""
    with torch.no_grad():
        for name, tensor in head.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor) if name.endswith("var") else 0.1 * torch.randn_like(tensor))
    return head


# --- the start


@every_kind
@every_norm
@pytest.mark.parametrize("with_moments", [True, False])
def test_begins_as_the_rotated_pretrained_model(kind: str, norm: Norm, with_moments: bool) -> None:
    x = pooled()
    affine, rotation = pretrained()
    head = STARTS[kind](affine, rotation, [4, 8, E], moments=moments(x) if with_moments else None, norm=norm)
    embedding = x.astype(np.float64) @ affine.weight.T + affine.bias
    nested = head.transform(x).astype(np.float64)
    full = normalise(nested) @ normalise(nested).T
    np.testing.assert_allclose(full, normalise(embedding) @ normalise(embedding).T, atol=1e-6)
    rotated = rotation.transform(embedding)
    for d in (1, 4, 8, E):
        np.testing.assert_allclose(normalise(nested[:, :d]), normalise(rotated[:, :d]), atol=2e-5)
    assert (head.tap, head.input_dim, head.dims) == ("pooled", P, (4, 8, E))


@every_kind
def test_fewer_and_more_dims_than_pretrained(kind: str) -> None:
    x = pooled()
    affine, rotation = pretrained()
    rotated = rotation.transform(x.astype(np.float64) @ affine.weight.T + affine.bias)
    few = STARTS[kind](affine, rotation, [2, 7], moments=moments(x))
    assert few.dims == (2, 7)
    np.testing.assert_allclose(few.transform(x), rotated[:, :7], rtol=1e-4, atol=1e-4)
    many = STARTS[kind](affine, rotation, [16, 32], moments=moments(x))
    nested = many.transform(x)
    assert nested.shape == (len(x), 32)
    np.testing.assert_allclose(nested[:, :E], rotated, rtol=1e-4, atol=1e-4)
    share = np.mean(np.sum(nested[:, E:] ** 2, axis=1)) / np.mean(np.sum(nested[:, :E] ** 2, axis=1))
    assert share == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(ModelError, match="give their moments"):
        STARTS[kind](affine, rotation, [16, 32])


@every_kind
def test_without_a_projection_it_takes_the_embedding(kind: str) -> None:
    _, rotation = pretrained()
    head = STARTS[kind](None, rotation, rotation.dims)
    x = np.random.default_rng(0).normal(size=(9, E)).astype(np.float32)
    assert (head.tap, head.input_dim) == ("embedding", E)
    np.testing.assert_allclose(head.transform(x), rotation.transform(x), atol=1e-5)
    with pytest.raises(ModelError, match="projection, a rotation, or both"):
        STARTS[kind](None, None, [4])


@every_kind
def test_known_statistics_standardise_the_input(kind: str) -> None:
    x = pooled()
    affine, rotation = pretrained()
    head = STARTS[kind](affine, rotation, [E], moments=moments(x))
    z = head.norm(torch.from_numpy(x)).numpy()  # as built, in training mode
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(axis=0, ddof=1), 1, atol=1e-3)


@every_kind
@pytest.mark.parametrize("norm", ["batch", "fixed"])
def test_first_training_step_is_near_the_pretrained_model(kind: str, norm: Norm) -> None:
    """Also in training mode, where a batch norm takes the statistics of the batch."""
    x = pooled(2000)
    affine, rotation = pretrained()
    head = STARTS[kind](affine, rotation, [E], moments=moments(x), norm=norm).train()
    found = normalise(head(torch.from_numpy(x)).detach().numpy())
    expected = normalise(rotation.transform(x.astype(np.float64) @ affine.weight.T + affine.bias))
    np.testing.assert_allclose(found, expected, atol=1e-2 if norm == "batch" else 1e-5)


def test_fixed_norm_never_moves_and_does_not_see_the_batch() -> None:
    x = torch.from_numpy(pooled(32))
    affine, rotation = pretrained()
    head = LinearHead.from_pretrained(affine, rotation, [4, E], moments=moments(pooled()), norm="fixed")
    before = {name: buffer.clone() for name, buffer in head.named_buffers()}
    head.train()
    assert head.training
    torch.testing.assert_close(head(x)[:5], head(x[:5]), rtol=1e-5, atol=1e-4)
    optimiser = torch.optim.SGD(head.parameters(), 0.1)
    head(x).square().mean().backward()
    optimiser.step()
    assert all(torch.equal(buffer, before[name]) for name, buffer in head.named_buffers())
    assert [name for name, _ in head.named_parameters()] == ["linear.weight", "linear.bias"]


def test_batch_norm_follows_the_batch_in_training_and_its_statistics_afterwards() -> None:
    x = torch.from_numpy(pooled(32))
    head = LinearHead(P, [4])
    assert {name for name, _ in head.named_parameters()} == {"norm.weight", "norm.bias", "linear.weight", "linear.bias"}
    in_training = head(x).detach().numpy()
    assert isinstance(head.norm, nn.BatchNorm1d)
    assert head.norm.running_mean is not None
    assert head.norm.running_mean.abs().max() > 0
    assert head.training
    np.testing.assert_allclose(head.transform(x.numpy()), head.eval()(x).detach().numpy(), rtol=1e-4, atol=1e-4)
    assert np.abs(head.transform(x.numpy()) - in_training).max() > 0.1


def test_size_of_redimnet_mrl() -> None:
    """Its trainable part: BatchNorm1d(1024) and Linear(1024, 256), 264,448 parameters."""
    head = LinearHead(1024, [64, 128, 192, 256])
    assert sum(p.numel() for p in head.parameters()) == 264_448


@pytest.mark.parametrize("layers", [2, 3])
def test_mlp_begins_as_its_linear_path_and_can_learn(layers: int) -> None:
    head = MlpHead(P, [4], layers=layers, norm="none")
    x = torch.from_numpy(pooled(16))
    torch.testing.assert_close(head(x), head.linear(x), rtol=0, atol=0)
    assert len(head.inner) == layers - 1
    optimiser = torch.optim.SGD(head.parameters(), 1e-4)
    for _ in range(2):
        optimiser.zero_grad()
        head(x).square().mean().backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters())
    assert (head(x) - head.linear(x)).abs().max() > 0


# --- numpy at the edges


@every_kind
@every_norm
@given(rows=st.integers(0, 5), dtype=st.sampled_from(["float16", "float32", "float64"]), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_transform_equals_the_network(kind: str, norm: Norm, rows: int, dtype: str, seed: int) -> None:
    head = disturbed(KINDS[kind](P, [3, 5], norm=norm))
    x = pooled(rows, seed).astype(dtype)
    found = head.transform(x)
    assert found.dtype == x.dtype
    assert found.shape == (rows, 5)
    assert head.training
    reference = KINDS[kind](P, [3, 5], norm=norm).double()
    reference.load_state_dict(head.state_dict())
    with torch.no_grad():
        expected = reference.eval()(torch.from_numpy(x).double()).numpy()
    tolerance = {"float16": 2e-2, "float32": 2e-4, "float64": 1e-9}[dtype]
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)


@every_kind
def test_transform_of_weights_elsewhere_in_precision(kind: str) -> None:
    x = pooled(4)
    head = disturbed(KINDS[kind](P, [5], norm="fixed"))
    before = head.transform(x)
    np.testing.assert_allclose(head.double().transform(x), before, atol=1e-5)
    assert head.transform(x).dtype == np.float32


@every_kind
@pytest.mark.parametrize("x", [np.zeros((2, P + 1)), np.zeros(P), np.zeros((2, P), int)])
def test_transform_refuses(kind: str, x: np.ndarray) -> None:
    with pytest.raises(ModelError, match=rf"\(N, {P}\)"):
        KINDS[kind](P, [4]).transform(x)


# --- saving


@every_kind
@every_norm
def test_saved_is_what_is_loaded(kind: str, norm: Norm) -> None:
    head = disturbed(KINDS[kind](P, [16, 3], tap="embedding", norm=norm))
    head.method, head.details = "trained", {"epochs": 3}
    assert isinstance(head, Head)
    head.train()
    head(torch.from_numpy(pooled(8)))
    again = type(head).from_saved(head.config(), head.tensors())
    assert again.config() == head.config()
    assert not again.training
    assert all(np.array_equal(a, b) for a, b in zip(again.tensors().values(), head.tensors().values(), strict=True))
    np.testing.assert_array_equal(again.transform(pooled(5)), head.transform(pooled(5)))
    assert again.dims == (3, 16)


def test_saved_head_that_is_damaged() -> None:
    head = MlpHead(P, [4, 8], hidden=6, norm="fixed")
    config, tensors = head.config(), head.tensors()

    def load(config: dict[str, Any] = config, **changes: np.ndarray | None) -> None:
        changed = {name: array for name, array in (tensors | changes).items() if array is not None}
        MlpHead.from_saved(config, changed)

    load()
    with pytest.raises(ModelError, match=r"linear\.bias missing for \(8,\)"):
        load(**{"linear.bias": None})
    with pytest.raises(ModelError, match=r"linear\.bias \(7,\) for \(8,\)"):
        load(**{"linear.bias": np.zeros(7, np.float32)})
    with pytest.raises(ModelError, match=r"other \(1,\) for none"):
        load(other=np.zeros(1, np.float32))
    with pytest.raises(ModelError, match=r"not finite: linear\.bias"):
        load(**{"linear.bias": np.full(8, np.nan, np.float32)})
    for missing in ("dims", "input_dim", "method"):
        with pytest.raises(ModelError, match=f"lacks '{missing}'"):
            load({name: value for name, value in config.items() if name != missing})
    for wrong in ({"hidden": "six"}, {"dims": 4}, {"input_dim": None}, {"unheard": 1}, {"details": 3}):
        with pytest.raises(ModelError, match="malformed"):
            load(config | wrong)


@every_kind
@pytest.mark.parametrize(
    ("arguments", "settings", "what"),
    [
        ((0, [4]), {}, "input_dim"),
        ((4, []), {}, "dims must be"),
        ((4, [2, 2]), {}, "dims must be"),
        ((4, [0]), {}, "dims must be"),
        ((4, [4]), {"tap": "frames"}, "unknown tap 'frames'"),
        ((4, [4]), {"norm": "layer"}, "norm 'layer'"),
    ],
)
def test_settings_that_are_refused(kind: str, arguments: tuple[Any, ...], settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ModelError, match=what):
        KINDS[kind](*arguments, **settings)


@pytest.mark.parametrize("settings", [{"layers": 1}, {"layers": 4}, {"hidden": 0}, {"dropout": 1.0}])
def test_mlp_settings_that_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="2 or 3 layers"):
        MlpHead(4, [4], **settings)
