"""Pooling against its formulas in numpy."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.encoders.pooling import ASTP, MHASTP, MQMHASTP, TAP, length_mask, pooling
from nestvox.errors import ModelError


def test_length_mask() -> None:
    assert length_mask(torch.tensor([0, 2, 3]), 3).int().tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_the_mean_is_that_of_the_real_frames_whatever_stands_beside_them(lengths: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((len(lengths), 3, 9)).astype(np.float32)
    frames = torch.from_numpy(values.copy())
    mask = length_mask(torch.tensor(lengths), 9)
    for row, length in enumerate(lengths):
        frames[row, :, length:] = torch.nan
    expected = np.stack([values[row, :, :length].mean(axis=1) for row, length in enumerate(lengths)])
    np.testing.assert_allclose(TAP(3)(frames, mask).numpy(), expected, atol=1e-6)


def frames(batch: int = 3, channels: int = 16, length: int = 11) -> torch.Tensor:
    values = np.random.default_rng(5).standard_normal((batch, channels, length)) + 0.7
    return torch.from_numpy(values.astype(np.float32))


def conv(layer: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """A convolution of width one, as the product that it is."""
    weight = layer.weight.detach().double().numpy()[:, :, 0]
    return np.einsum("oc,bct->bot", weight, x) + layer.bias.detach().double().numpy()[:, None]


def softmax(x: np.ndarray) -> np.ndarray:
    risen = np.exp(x - x.max(axis=2, keepdims=True))
    return risen / risen.sum(axis=2, keepdims=True)


def weighted(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    mean = (weights * x).sum(axis=2)
    variance = (weights * (x - mean[:, :, None]) ** 2).sum(axis=2)
    return np.concatenate([mean, np.sqrt(np.maximum(variance, 1e-7))], axis=1)


def attentive(head: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    return weighted(x, softmax(conv(head["att_1"], np.tanh(conv(head["att_0"], x)))))


def test_plain_statistics() -> None:
    x = frames()
    values = x.double().numpy()
    mean, deviation = values.mean(axis=2), np.sqrt(values.var(axis=2, ddof=1) + 1e-7)
    expected = {
        "TAP": mean,
        "TSDP": deviation,
        "TSTP": np.concatenate([mean, deviation], axis=1),
        "TMAP": values.max(axis=2) + mean,
    }
    for name, vectors in expected.items():
        made = pooling(name, 16)
        np.testing.assert_allclose(made(x).numpy(), vectors, atol=1e-5)
        assert made.out_dim == vectors.shape[1]
        assert not made.state_dict()


@pytest.mark.parametrize("global_context", [False, True])
def test_attentive_statistics(global_context: bool) -> None:
    torch.manual_seed(0)
    layer = ASTP(16, global_context=global_context)
    x = frames()
    values = x.double().numpy()
    seen = values
    if global_context:
        mean, deviation = values.mean(axis=2), np.sqrt(values.var(axis=2, ddof=1) + 1e-7)
        context = np.concatenate([mean, deviation], axis=1)[:, :, None]
        seen = np.concatenate([values, np.repeat(context, 11, axis=2)], axis=1)
    weights = softmax(conv(layer.linear2, np.tanh(conv(layer.linear1, seen))))
    found = layer(x).detach().numpy()
    np.testing.assert_allclose(found, weighted(values, weights), atol=1e-5)
    assert found.shape[1] == layer.out_dim == 32


def test_heads_pool_their_share_of_the_channels() -> None:
    torch.manual_seed(0)
    layer = MHASTP(16)
    x = frames()
    shares = np.split(x.double().numpy(), 2, axis=1)
    heads = zip(layer.heads_att_trans, shares, strict=True)
    expected = np.concatenate([attentive(head, share) for head, share in heads], axis=1)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-5)
    assert layer.out_dim == 32


def test_queries_pool_side_by_side() -> None:
    torch.manual_seed(0)
    layer = MQMHASTP(16)
    x = frames()
    shares = np.split(x.double().numpy(), 8, axis=1)
    expected = [
        attentive(head, share)
        for query in layer.n_query
        for head, share in zip(query.heads_att_trans, shares, strict=True)
    ]
    np.testing.assert_allclose(layer(x).detach().numpy(), np.concatenate(expected, axis=1), atol=1e-5)
    assert layer.out_dim == 64


def test_a_constant_signal_has_the_smallest_deviation() -> None:
    constant = torch.full((1, 16, 5), 3.0)
    for name in ("ASTP", "MHASTP", "MQMHASTP", "TSTP"):
        pooled = pooling(name, 16)(constant).detach()
        assert pooled.isfinite().all()
        assert float(pooled.min()) == pytest.approx(1e-7**0.5, rel=2.0)


def test_sixteen_bits_keep_the_deviation() -> None:
    # The mean is far above the deviation: squares of sixteen bits would leave nothing of it.
    x = (20 + 0.5 * (frames() - 0.7)).bfloat16()
    torch.manual_seed(0)
    layer = ASTP(16)
    expected = layer(x.float())[:, 16:]
    torch.testing.assert_close(layer.bfloat16()(x)[:, 16:].float(), expected, rtol=0.05, atol=0.0)


@pytest.mark.parametrize("name", ["ASTP", "ASTP with context", "MHASTP", "MQMHASTP", "TAP", "TMAP", "TSDP", "TSTP"])
def test_a_mask_chooses_frames(name: str) -> None:
    torch.manual_seed(0)
    layer = pooling(name.split(maxsplit=1)[0], 16, global_context=name.endswith("context"))
    x = frames()
    masks = torch.from_numpy(np.random.default_rng(1).random((3, 4, 11)) < 0.5)
    masks[:, :, :2] = True
    masks[0, 0] = True
    with torch.inference_mode():
        found = layer(x, masks)
        for row in range(3):
            for number in range(4):
                alone = layer(x[row : row + 1, :, masks[row, number]])[0]
                torch.testing.assert_close(found[row, number], alone, rtol=0, atol=1e-5)
        assert torch.equal(layer(x, torch.ones(3, 11, dtype=torch.bool)), layer(x))
        beside = x.masked_fill(~masks[:, 1, None], torch.nan)
        torch.testing.assert_close(layer(beside, masks[:, 1]), found[:, 1], rtol=0, atol=1e-6)
    assert layer(x.requires_grad_(), masks).sum().backward() is None
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (
            torch.ones(3, 10, dtype=torch.bool),
            "(batch, masks, frames), got torch.bool (3, 10)",
        ),
        (torch.ones(2, 11, dtype=torch.bool), "got torch.bool (2, 11)"),
        (torch.ones(11, dtype=torch.bool), "got torch.bool (11,)"),
        (torch.ones(3, 11), "got torch.float32 (3, 11)"),
        (torch.arange(33).view(3, 1, 11) > 11, "at least 2 frames: mask 0 of utterance 0 chooses 0"),
    ],
)
def test_a_mask_that_fits_no_frames_is_refused(mask: torch.Tensor, words: str) -> None:
    with pytest.raises(ModelError, match=re.escape(words)):
        pooling("TSTP", 16)(frames(), mask)


def test_unknown_poolings_and_heads_that_cannot_share_are_refused() -> None:
    with pytest.raises(ModelError, match=r"unknown pooling 'ATP'; known: ASTP, MHASTP, MQMHASTP, TAP"):
        pooling("ATP", 16)
    with pytest.raises(ModelError, match="8 heads of the pooling cannot share 12 channels"):
        pooling("MQMHASTP", 12)
