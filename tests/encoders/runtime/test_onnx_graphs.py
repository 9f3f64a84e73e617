"""Students and teachers as ONNX graphs: the taps of the network as it is written, from features and from waveforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import redimnet_golden as golden
from keyed_weights import keyed_weights
from nestvox.encoders.contract import Encoder
from nestvox.encoders.pooling import ASTP, TAP, TSTP
from nestvox.encoders.registry import build
from nestvox.encoders.runtime.backends import onnx_is_installed
from nestvox.encoders.runtime.inference import for_inference, optimise
from nestvox.encoders.runtime.onnx_graph import OnnxSession
from nestvox.encoders.runtime.whole_graph import encoder_to_onnx
from nestvox.errors import ModelError

pytestmark = pytest.mark.skipif(not onnx_is_installed(), reason="the extra onnx is not installed")

_MIXER: dict[str, Any] = {"architecture": "mixer", "width": 16, "depth": 3, "embedding_dim": 8, "groups": 2}
_POINTWISE = {**_MIXER, "variant": "pointwise"}
LOG_MEL: dict[str, dict[str, Any]] = {
    "temporal": {**_MIXER, "kernels": [3, 7], "chunk": 6},
    "temporal-plain": {**_MIXER, "kernels": [5], "chunk": 0, "aggregated": 0, "stride": 4},
    "temporal-one-block": {**_MIXER, "kernels": [5], "chunk": 5, "depth": 1, "groups": 4, "expansion": 2},
    "temporal-planes": {**_MIXER, "kernels": [3], "chunk": 0, "planes": 3, "mfm": False, "stride": 4},
    "pointwise": _POINTWISE,
    "pointwise-bare": {**_POINTWISE, "mfm": False, "id_conv": False, "pooling": "mean"},
    "pointwise-aggregated": {**_POINTWISE, "aggregated": 12, "stride": 2},
    "lstm-before": {**_POINTWISE, "lstm": 5},
    "lstm-within": {**_MIXER, "kernels": [3, 7], "chunk": 6, "lstm": 5, "lstm_place": "within"},
    "autoencoder": {
        "architecture": "lstm_autoencoder",
        "channels": 8,
        "bottleneck": 6,
        "hidden": 5,
        "depth": 3,
        "embedding_dim": 8,
        "decoder": True,
    },
}
_CAMPPLUS: dict[str, Any] = {
    "architecture": "campplus",
    "head_channels": 4,
    "initial": 16,
    "growth": 4,
    "bottleneck": 8,
    "blocks": [[2, 1], [2, 2]],
    "embedding_dim": 8,
}
WHOLE = {**LOG_MEL, "campplus": _CAMPPLUS, "campplus-wespeaker": {**_CAMPPLUS, "window": "hamming", "scale": 32768.0}}


def drawn(config: dict[str, Any]) -> Encoder:
    encoder = build(config).eval()
    encoder.load_state_dict(keyed_weights(encoder.state_dict()))
    with torch.no_grad():  # signs and zeros among the scales, as training leaves them
        for number, module in enumerate(m for m in encoder.modules() if isinstance(m, nn.BatchNorm1d | nn.LayerNorm)):
            if module.weight is not None:
                module.weight[number % len(module.weight)] *= -1
                module.weight[(number + 1) % len(module.weight)] = 0.0
    return encoder


def noise(*shape: int) -> Tensor:
    return torch.from_numpy((0.1 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32))


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", LOG_MEL)
def test_the_form_gives_the_taps_of_the_network(name: str) -> None:
    encoder = drawn(LOG_MEL[name])
    arranged = optimise(encoder, "onnx")
    # The shortest, whole chunks and a frame more, and two of one length.
    lengths = torch.tensor([encoder.min_samples, 16_000, 15_360, 15_520, 16_000])
    audio = noise(5, 16_000)
    with torch.inference_mode():
        found, expected = arranged(audio, lengths), encoder(audio, lengths)
    assert torch.equal(found.frame_mask, expected.frame_mask)
    for tap in ("frames", "pooled", "embedding"):
        assert_close(getattr(found, tap), getattr(expected, tap))
    assert sum(tensor.numel() for tensor in arranged.state_dict().values()) < sum(
        tensor.numel() for tensor in encoder.state_dict().values()
    )
    with pytest.raises(ModelError, match="arranged for inference"):
        arranged(audio, lengths, layers=["block1"])


def test_the_form_is_what_runs_by_default() -> None:
    encoder = drawn(LOG_MEL["temporal"])
    assert not hasattr(for_inference(encoder).trunk, "__func__")
    assert for_inference(encoder, backend="eager") is encoder


def test_a_part_without_a_form_is_named() -> None:
    encoder = drawn(LOG_MEL["pointwise"])
    encoder.get_submodule("blocks.1").append(nn.Softplus())  # type: ignore[operator]
    with pytest.raises(ModelError, match="mixer: Softplus has no ONNX form"):
        optimise(encoder, "onnx")


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_graph_goes_from_waveforms_to_embeddings(name: str) -> None:
    encoder = drawn(WHOLE[name])
    session = OnnxSession(encoder_to_onnx(encoder))
    # Batches and lengths of any size, the shortest among them; two whole segments of CAM++ and a frame more.
    for audio in (noise(1, encoder.min_samples), noise(3, 9_001), noise(2, 64_560) + 0.2):
        pooled, embedding = session.outputs(audio.numpy())
        with torch.inference_mode():
            expected = encoder(audio)
        assert_close(torch.from_numpy(pooled), expected.pooled)
        assert_close(torch.from_numpy(embedding), expected.embedding)


REDIMNETS = {name: network for name, network in golden.networks().items() if name.startswith("tiny")}


@pytest.mark.parametrize("name", REDIMNETS)
def test_the_whole_graph_of_a_redimnet(name: str) -> None:
    encoder, signals = golden.with_keyed_weights(REDIMNETS[name]), golden.signals()
    if type(encoder.pool) not in (ASTP, TAP, TSTP):
        with pytest.raises(ModelError, match=f"the pooling {type(encoder.pool).__name__} has no ONNX form"):
            encoder_to_onnx(encoder)
        return
    session = OnnxSession(encoder_to_onnx(encoder))
    two, alone = np.stack([signals["a"], signals["b"]]), signals["c"][None]
    for audio in (two, alone, alone[:, : encoder.min_samples]):
        pooled, embedding = session.outputs(audio)
        with torch.inference_mode():
            expected = encoder(torch.from_numpy(audio))
        for found, wanted in ((pooled, expected.pooled), (embedding, expected.embedding)):
            atol = 1e-4 * float(wanted.abs().max())  # a normalisation can enlarge the rounding of float32
            torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=0, atol=atol)


def test_networks_without_a_whole_graph_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"ge2e cannot be written.*: campplus, .*mixer, redimnet, "):
        encoder_to_onnx(build({"architecture": "ge2e"}).eval())
    encoder = drawn(LOG_MEL["pointwise"])
    encoder.features = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(ModelError, match="front end Identity has no ONNX form"):
        encoder_to_onnx(encoder)
