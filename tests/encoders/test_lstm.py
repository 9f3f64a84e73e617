"""The LSTM-autoencoder: parameters counted from its description, its pooling, and the loss of its decoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from keyed_weights import keyed_weights
from nestvox.encoders import LSTMAutoencoder, build, reconstruction_loss
from nestvox.encoders.contract import Layer
from nestvox.errors import ModelError

SMALL: dict[str, Any] = {"channels": 8, "bottleneck": 6, "hidden": 5, "embedding_dim": 16}


def parameters(module: torch.nn.Module | None) -> int:
    assert module is not None
    return sum(parameter.numel() for parameter in module.parameters())


def test_its_parameters() -> None:
    encoder = LSTMAutoencoder(decoder=True)

    def conv(entering: int, leaving: int) -> int:
        return 3 * entering * leaving + leaving

    into = conv(80, 256) + 512 + conv(256, 256) + 512 + conv(256, 128) + 256
    out = conv(128, 256) + 512 + conv(256, 256) + 512 + conv(256, 80)
    lstm = sum(2 * (4 * 256 * (entering + 256) + 2 * 4 * 256) for entering in (128, 512))
    assert parameters(encoder.encoder) == into == 358_272
    assert parameters(encoder.decoder) == out == 357_968
    assert parameters(encoder.lstms) + parameters(encoder.layer_norm) == lstm + 1024 == 2_368_512
    assert parameters(encoder.pool) == 512 * 512 + 512 + 512 + 1 == 263_169
    assert parameters(encoder.linear) + parameters(encoder.norm) == 1024 * 512 + 512 + 1024 == 525_824
    assert parameters(encoder) == 3_873_745
    assert parameters(LSTMAutoencoder()) == 3_515_777


def test_it_begins_without_biases() -> None:
    encoder = LSTMAutoencoder(**SMALL, decoder=True)
    biases = [value for name, value in encoder.named_parameters() if "bias" in name and "norm" not in name]
    assert len(biases) > 10
    assert not any(value.any() for value in biases)


def drawn(**arguments: Any) -> LSTMAutoencoder:
    encoder = LSTMAutoencoder(**SMALL, **arguments).eval()
    encoder.load_state_dict(keyed_weights(encoder.state_dict()))
    return encoder


def audio(n: int = 2) -> torch.Tensor:
    return 0.1 * torch.randn(n, 16_000, generator=torch.Generator().manual_seed(2))


def test_one_weight_a_frame_pools_every_channel() -> None:
    encoder = drawn()
    with torch.inference_mode():
        taps = encoder(audio())
        frames = taps.frames.double().transpose(1, 2)  # (B, T, C)
        first, second = encoder.pool.linear1, encoder.pool.linear2
        hidden = torch.tanh(frames @ first.weight[:, :, 0].double().T + first.bias.double())
        weights = (hidden @ second.weight[:, :, 0].double().T + second.bias.double()).softmax(dim=1)  # (B, T, 1)
        mean = (weights * frames).sum(dim=1)
        deviation = (weights * (frames - mean[:, None]) ** 2).sum(dim=1).clamp(min=1e-5).sqrt()
    torch.testing.assert_close(taps.pooled.double(), torch.cat([mean, deviation], dim=1), rtol=0, atol=1e-5)


def test_the_frames_are_those_of_torchs_own_two_layers() -> None:
    encoder = drawn()
    both = torch.nn.LSTM(6, 5, num_layers=2, batch_first=True, bidirectional=True)
    named = {
        name.replace("_l0", f"_l{number}"): value
        for number, lstm in enumerate(encoder.lstms)
        for name, value in lstm.state_dict().items()
    }
    both.load_state_dict(named)
    with torch.inference_mode():
        taps = encoder(audio(), layers=["bottleneck", "lstm2"])
        expected = both(taps.layers["bottleneck"].values.transpose(1, 2))[0].transpose(1, 2)
    torch.testing.assert_close(taps.layers["lstm2"].values, expected, rtol=0, atol=1e-6)


def test_the_decoder_is_linear_and_runs_where_it_is_asked_for() -> None:
    encoder = drawn(decoder=True)
    assert encoder.decoder is not None
    lengths = torch.tensor([16_000, 7_000])
    with torch.inference_mode():
        encoder.decoder[-1].weight.mul_(100)
        taps = encoder(audio(), lengths, layers=["features", "reconstruction"])
    assert taps.layers["reconstruction"].values.shape == taps.layers["features"].values.shape
    assert taps.layers["reconstruction"].values.abs().max() > 2
    with pytest.raises(ModelError, match="reconstruction"):
        drawn()(audio(), layers=["reconstruction"])


def test_the_loss_of_the_decoder() -> None:
    encoder = drawn(decoder=True)
    lengths = torch.tensor([16_000, 7_000])
    layers = encoder(audio(), lengths, layers=["features", "reconstruction"]).layers
    made, target = layers["reconstruction"], layers["features"]
    loss = reconstruction_loss(made, target)
    parts = [encoder(audio()[n : n + 1, :size], layers=layers).layers for n, size in enumerate(lengths)]
    squares = [(part["reconstruction"].values - part["features"].values).square().flatten() for part in parts]
    torch.testing.assert_close(loss, torch.cat(squares).mean(), rtol=1e-5, atol=0)
    silent = Layer(torch.zeros_like(target.values), target.mask, target.frame_rate_hz)
    assert float(reconstruction_loss(silent, target)) == pytest.approx(1, abs=1e-3)
    loss.backward()
    assert encoder.encoder[0].weight.grad.any()  # type: ignore[union-attr]
    assert encoder.decoder[-1].weight.grad.any()  # type: ignore[index,union-attr]
    assert encoder.lstms[0].weight_ih_l0.grad is None
    with pytest.raises(ModelError, match="same frames"):
        reconstruction_loss(made, parts[0]["features"])


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 10**9},
        {"bottleneck": 0},
        {"hidden": "5"},
        {"depth": 0},
        {"depth": 10**6},
        {"embedding_dim": float("nan")},
        {"decoder": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_describes_no_network_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=next(iter(changes))):
        build({"architecture": "lstm_autoencoder", **SMALL, **changes})
