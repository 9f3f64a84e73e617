"""What is left out of a network: it gives what the whole network gives without those channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from keyed_weights import keyed_weights
from nestvox.compression.pruning import sparse, without_weak_channels
from nestvox.encoders import build
from nestvox.encoders.contract import Encoder
from nestvox.errors import ModelError
from nestvox.heads import MlpHead

_MIXER: dict[str, Any] = {"architecture": "mixer", "width": 16, "depth": 2, "embedding_dim": 8, "groups": 2}
_POINTWISE = {**_MIXER, "variant": "pointwise", "expansion": 4}
_AUTOENCODER: dict[str, Any] = {
    "architecture": "lstm_autoencoder",
    "channels": 8,
    "bottleneck": 6,
    "hidden": 4,
    "embedding_dim": 8,
}
_CAMPPLUS: dict[str, Any] = {
    "architecture": "campplus",
    "head_channels": 4,
    "initial": 16,
    "growth": 4,
    "bottleneck": 8,
    "blocks": [[2, 1], [1, 2]],
    "embedding_dim": 8,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "campplus": _CAMPPLUS,
    "temporal": {**_MIXER, "kernels": [3, 5], "chunk": 6, "expansion": 3},
    "temporal-plain": {**_MIXER, "kernels": [3], "chunk": 0, "planes": 2, "mfm": False},
    "temporal-dense": {**_MIXER, "kernels": [3], "chunk": 0, "groups": 1, "mfm": False},
    "pointwise-bare": {**_POINTWISE, "mfm": False, "id_conv": False, "pooling": "mean"},
    "temporal-lstm": {**_MIXER, "kernels": [5], "chunk": 0, "lstm": 3, "lstm_place": "within"},
    "pointwise": _POINTWISE,
    "autoencoder": {**_AUTOENCODER, "decoder": True},
}


def drawn(config: dict[str, Any]) -> Encoder:
    encoder = build(config).eval()
    encoder.load_state_dict(keyed_weights(encoder.state_dict()))
    return encoder


def noise() -> torch.Tensor:
    return torch.from_numpy((0.1 * np.random.default_rng(0).standard_normal((2, 16_000))).astype(np.float32))


def unheard(encoder: Encoder, name: str, weak: torch.Tensor) -> None:
    """Let nobody hear what enters a convolution at the weak places, and everybody hear the others alike."""
    with torch.no_grad():
        weight = encoder.get_parameter(name)
        weight.copy_(weight.sign() * weight.abs().mean())
        weight[:, weak] = 0.0


def without(encoder: Encoder, name: str) -> None:
    """Silence as many hidden channels of each kind as are left out."""
    if name == "campplus":
        for gate in ("block1.tdnnd1", "block1.tdnnd2", "block2.tdnnd1"):
            for part, hidden in (("linear_local", 8), ("linear1", 8), ("linear2", 4)):
                unheard(encoder, f"xvector.{gate}.cam_layer.{part}.weight", torch.arange(hidden) % 2 == 1)
        return
    if "temporal" in name:  # of the frames' channels every second is heard by none, as mean, deviation or weight
        with torch.no_grad():
            encoder.get_parameter("linear.weight")[:, 1::2] = 0.0
            for key in ("pool.linear1.weight", "aggregate.weight", "pool.linear2.weight"):
                weight = encoder.get_parameter(key)
                weight.copy_(weight.sign() * weight.abs().mean())
            encoder.get_parameter("pool.linear1.weight")[:, 1::2] = 0.0
    for block in range(2):
        place = torch.arange(NETWORKS[name].get("expansion", 3) * 16)
        if "pointwise" in name:
            unheard(encoder, f"blocks.{block}.1.reduce.weight", place % 2 == 0)
            unheard(encoder, f"blocks.{block}.0.mlp.3.weight", place[:32] % 2 == 0)
        else:  # what enters alternates between the two groups that it comes from: a third of each goes
            entering = 48 // NETWORKS[name]["groups"]
            key = f"blocks.{block}.{2 if 'lstm' in name else 1}.reduce.weight"
            unheard(encoder, key, place[:entering] % 6 >= 4)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "autoencoder"])
def test_channels_that_do_nothing_are_not_missed(name: str) -> None:
    encoder = drawn(NETWORKS[name])
    with torch.no_grad():  # what enters is of one size, so that only what leaves tells the channels apart
        for key, weight in encoder.named_parameters():
            if key.endswith(("expand.weight", "mlp.0.weight")):
                weight.copy_(weight.sign() * weight.abs().mean())
        whole = encoder(noise())
    without(encoder, name)
    silent = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    smaller = without_weak_channels(encoder, {})[0]
    with torch.inference_mode():
        found, expected = smaller(noise()), encoder(noise())
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in encoder.parameters())
    torch.testing.assert_close(found.embedding, expected.embedding, rtol=0, atol=1e-5)
    assert float((whole.embedding - expected.embedding).abs().max()) > 1e-3  # they did something before
    assert all(torch.equal(tensor, silent[key]) for key, tensor in encoder.state_dict().items())


def test_units_of_an_lstm_go_with_their_gates() -> None:
    encoder = drawn(NETWORKS["autoencoder"])
    hidden = 4
    # Units 1 and 3 of either direction: their gates say nothing, so their states are zero and heard by nobody.
    with torch.no_grad():
        for layer in range(2):
            lstm = encoder.get_submodule(f"lstms.{layer}")
            for name, parameter in lstm.named_parameters():
                if "weight" in name or "bias" in name:
                    for gate in range(4):
                        parameter[gate * hidden + 1 : (gate + 1) * hidden : 2] = 0.0
            assert isinstance(lstm, nn.LSTM)
            lstm.weight_hh_l0[:, 1::2] = 0.0
            lstm.weight_hh_l0_reverse[:, 1::2] = 0.0
        encoder.get_parameter("lstms.1.weight_ih_l0")[:, 1::2] = 0.0
        encoder.get_parameter("lstms.1.weight_ih_l0_reverse")[:, 1::2] = 0.0
        encoder.get_parameter("encoder.4.weight")[:, ::2] = 0.0
        encoder.get_parameter("encoder.0.weight")[::2] = 0.0
        encoder.get_parameter("encoder.8.weight")[:, ::2] = 0.0
        encoder.get_parameter("encoder.4.weight")[::2] = 0.0
    smaller = without_weak_channels(encoder, {})[0]
    assert smaller.config() == {**encoder.config(), "channels": 4, "hidden": 2, "decoder": False}
    with torch.inference_mode():
        found = smaller(noise(), layers=["lstm1", "lstm2"]).layers
        expected = encoder(noise(), layers=["lstm1", "lstm2"]).layers
    for name in ("lstm1", "lstm2"):
        torch.testing.assert_close(found[name].values, expected[name].values[:, ::2], rtol=0, atol=1e-6)


def test_a_head_takes_the_pooled_channels_that_are_left() -> None:
    encoder = drawn(NETWORKS["temporal"])
    torch.manual_seed(0)
    head = MlpHead(encoder.pooled_dim, (4, 8), hidden=5).eval()
    with torch.no_grad():  # deaf to every second channel, as mean and as deviation; the others weigh most
        head.last.weight.normal_()
        for layer in (head.linear, head.inner[0]):
            layer.weight.fill_(0.5)  # type: ignore[union-attr, operator]
            layer.weight[:, 1::2] = 0.0  # type: ignore[union-attr, index, operator]
        for name in ("aggregate.weight", "pool.linear1.weight", "pool.linear2.weight", "linear.weight"):
            weight = encoder.get_parameter(name)
            weight.copy_(weight.sign() * weight.abs().mean())
    smaller, tensors = without_weak_channels(encoder, dict(head.state_dict()))
    for name, tensor in head.state_dict().items():
        every_second = tensor[..., ::2] if tensor.shape and tensor.shape[-1] == encoder.pooled_dim else tensor
        torch.testing.assert_close(tensors[name], every_second)
    assert smaller.pooled_dim == encoder.pooled_dim // 2


def test_of_others_it_is_not_known() -> None:
    with pytest.raises(ModelError, match="ge2e go together is not known; it is of campplus, lstm_autoencoder, mixer"):
        without_weak_channels(build({"architecture": "ge2e"}), {})
    with pytest.raises(ModelError, match="an expansion of 1 cannot be made smaller"):
        without_weak_channels(drawn({**_POINTWISE, "expansion": 1}), {})


def test_the_smaller_half_becomes_zero() -> None:
    encoder = drawn(NETWORKS["temporal"])
    pruned = sparse(encoder)
    for name, weight in encoder.named_parameters():
        left = pruned.get_parameter(name)
        if weight.ndim < 2:
            assert torch.equal(left, weight)
            continue
        gone = left == 0
        assert int(gone.sum()) == weight.numel() // 2
        assert weight[gone].abs().max() <= weight[~gone].abs().min()
        assert torch.equal(left[~gone], weight[~gone])
