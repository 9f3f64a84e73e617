"""CAM++ against golden numbers of the published network, with weights drawn from their names and with its own.

`golden/campplus.npz` holds what torchaudio's filter banks and 3D-Speaker's network give for three signals: embedding,
pooled vector, and of every layer mean, deviation, largest magnitude, the first four values of channel 0 and four of the
last frame. ``random_tiny`` and ``random_full`` have drawn weights, ``real`` those of the catalogue.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from keyed_weights import draw
from nestvox.encoders import Encoder, build
from nestvox.encoders.campplus import campplus
from nestvox.encoders.campplus.campplus import CAMPPlus
from nestvox.encoders.contract import Taps
from nestvox.encoders.front_ends.kaldi_fbank import KaldiFbank
from nestvox.encoders.front_ends.log_mel import KaldiBands
from nestvox.encoders.pooling import TSTP
from nestvox.encoders.runtime.backends import Backend, onnx_is_installed
from nestvox.encoders.runtime.inference import optimise
from nestvox.errors import DownloadError, ModelError, WeightsError
from nestvox.zoo.weights import load_encoder_with_report, load_strict

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "campplus.npz"))
TINY: dict[str, Any] = {
    "head_channels": 4,
    "initial": 16,
    "growth": 4,
    "bottleneck": 8,
    "blocks": [[2, 1], [3, 2], [2, 2]],
    "embedding_dim": 16,
}
TOLERANCE = {"random_tiny": 2e-5, "random_full": 1e-4, "real": 1e-4}
LAYERS = ("head", "tdnn", "block1", "block2", "block3")


def signals() -> dict[str, np.ndarray]:
    """Chirps, tones and noise of 0.5, 3 and 7.3 s, the last with a second of exact silence."""

    def noise(seed: int, n: int) -> np.ndarray:
        return np.random.Generator(np.random.PCG64(seed)).standard_normal(n)

    def chirp(first: float, last: float, seconds: float) -> np.ndarray:
        t = time(seconds)
        return np.sin(2 * np.pi * (first * t + (last - first) * t**2 / (2 * seconds)))

    def time(seconds: float) -> np.ndarray:
        return np.arange(round(16_000 * seconds)) / 16_000

    def tone(hz: float, seconds: float) -> np.ndarray:
        return np.sin(2 * np.pi * hz * time(seconds))

    a = 0.25 * chirp(150, 2500, 0.5) + 0.1 * tone(440, 0.5) + 0.03 * noise(501, 8_000)
    b = 0.3 * chirp(100, 3000, 3) + 0.2 * tone(220, 3) * (0.5 + 0.5 * tone(3, 3)) + 0.05 * noise(1234, 48_000)
    swell = 0.5 + 0.5 * np.cos(2 * np.pi * 5 * time(7.3))
    c = 0.25 * chirp(2500, 300, 7.3) + 0.2 * tone(150, 7.3) * swell + 0.03 * noise(4321, 116_800)
    c[48_000:64_000] = 0
    return {name: wave.astype(np.float32) for name, wave in {"a": a, "b": b, "c": c}.items()}


SIGNALS = signals()


def drawn(kind: str) -> CAMPPlus:
    encoder = build({"architecture": "campplus", **(TINY if kind == "random_tiny" else {})})
    # Strongly enough for the gates to differ.
    gains = {key: 3.0 if key.endswith("cam_layer.linear2.weight") else 1.3 for key in encoder.state_dict()}
    encoder.load_state_dict(
        {key: draw(key, tuple(value.shape), gain=gains[key]) for key, value in encoder.state_dict().items()}
    )
    assert isinstance(encoder, CAMPPlus)
    return encoder.eval()


@pytest.fixture
def tiny() -> CAMPPlus:
    return drawn("random_tiny")


@pytest.fixture(scope="module", params=["random_tiny", "random_full", pytest.param("real", marks=pytest.mark.network)])
def golden(request: pytest.FixtureRequest, pretrained: Callable[[str], Encoder | DownloadError]) -> tuple[str, Encoder]:
    if request.param != "real":
        return request.param, drawn(request.param)
    loaded = pretrained("campplus")
    if isinstance(loaded, DownloadError):
        pytest.skip(f"the weights of campplus cannot be had here: {loaded}")
    return "real", loaded


def taps_of(encoder: Encoder, wave: np.ndarray, layers: tuple[str, ...] = ()) -> Taps:
    with torch.inference_mode():
        return encoder(torch.from_numpy(wave)[None], layers=layers)


def summary(values: torch.Tensor) -> np.ndarray:
    flat = values.double()
    moments = [flat.mean(), flat.std(correction=0), flat.abs().max()]
    return np.array([*(float(x) for x in moments), *values.flatten()[:4].tolist(), *values[0, :4, -1].tolist()])


@pytest.mark.parametrize("name", SIGNALS)
def test_the_signals_are_those_of_the_golden_numbers(name: str) -> None:
    wave = SIGNALS[name]
    np.testing.assert_array_equal(wave[[0, 1, 2, len(wave) // 2, -1]], GOLDEN[f"signal_head.{name}"])


@pytest.mark.parametrize("name", SIGNALS)
def test_features_are_torchaudios(name: str) -> None:
    bands = KaldiBands(KaldiFbank(subtract_mean=False))(torch.from_numpy(SIGNALS[name])[None])[0].numpy()
    np.testing.assert_allclose(bands.T[GOLDEN[f"row_index.{name}"]], GOLDEN[f"fbank_rows.{name}"], rtol=0, atol=2e-4)
    np.testing.assert_allclose(bands.mean(axis=1), GOLDEN[f"fbank_mean.{name}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SIGNALS)
def test_golden_numbers(golden: tuple[str, Encoder], name: str) -> None:
    kind, encoder = golden
    taps = taps_of(encoder, SIGNALS[name], LAYERS)
    for tap, values in {"embedding": taps.embedding, "pooled": taps.pooled}.items():
        np.testing.assert_allclose(values[0], GOLDEN[f"{kind}.{name}.{tap}"], rtol=0, atol=TOLERANCE[kind])
    for tap, values in {"frames": taps.frames, **{key: taps.layers[key].values for key in LAYERS}}.items():
        assert tuple(values.shape) == tuple(GOLDEN[f"{kind}.{name}.{tap}.shape"])
        expected = GOLDEN[f"{kind}.{name}.{tap}"]
        limit = max(1e-4, 2e-5 * expected[2])
        np.testing.assert_allclose(summary(values), expected, rtol=0, atol=limit)
    if kind == "real":
        frames = taps.frames[0, :, [0, taps.frames.shape[2] // 2, -1]]
        np.testing.assert_allclose(frames, GOLDEN[f"real.{name}.three_frames"], rtol=0, atol=1e-4)


def test_golden_numbers_in_one_padded_batch(golden: tuple[str, Encoder]) -> None:
    kind, encoder = golden
    lengths = torch.tensor([len(wave) for wave in SIGNALS.values()])
    audio = torch.full((3, int(lengths.max()) + 777), 0.7)
    for row, wave in zip(audio, SIGNALS.values(), strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    with torch.inference_mode():
        found = encoder(audio, lengths).embedding.numpy()
    expected = np.stack([GOLDEN[f"{kind}.{name}.embedding"] for name in SIGNALS])
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[kind])


# What goes wrong most easily: each of it changes the golden numbers.


def _other_window(shape: np.ndarray) -> Callable[[CAMPPlus, pytest.MonkeyPatch], None]:
    def change(encoder: CAMPPlus, _: pytest.MonkeyPatch) -> None:
        encoder.features.window = torch.from_numpy(shape).float()

    return change


def _upper_edge(encoder: CAMPPlus, _: pytest.MonkeyPatch) -> None:
    def mel(hz: Any) -> Any:
        return 1127 * np.log1p(np.asarray(hz) / 700)

    edges = np.linspace(mel(20), mel(7600), 82)[:, None]
    bins = mel(np.arange(256) * 31.25)
    rising, falling = (bins - edges[:-2]) / np.diff(edges[:2], axis=0), (edges[2:] - bins) / np.diff(edges[:2], axis=0)
    encoder.features.filters = torch.from_numpy(np.maximum(0, np.minimum(rising, falling))).float()


def _scale(encoder: CAMPPlus, _: pytest.MonkeyPatch) -> None:
    encoder.features.settings = KaldiFbank(scale=32768.0)


def _biased_deviation(encoder: CAMPPlus, monkeypatch: pytest.MonkeyPatch) -> None:
    def statistics(frames: torch.Tensor) -> torch.Tensor:
        return torch.cat([frames.mean(dim=2), frames.std(dim=2, correction=0)], dim=1)

    monkeypatch.setattr(encoder.pool, "statistics", statistics)


def _segments(means: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[CAMPPlus, pytest.MonkeyPatch], None]:
    return lambda _, monkeypatch: monkeypatch.setattr(campplus, "over_segments", means)


def _last_by_hundred(hidden: torch.Tensor) -> torch.Tensor:
    return torch.stack([part.sum(dim=2) / 100 for part in hidden.split(100, dim=2)], dim=2)


def _without_segments(hidden: torch.Tensor) -> torch.Tensor:
    return hidden.mean(dim=2, keepdim=True).expand(-1, -1, -(-hidden.shape[2] // 100))


def _without_clip(hidden: torch.Tensor) -> torch.Tensor:
    means = torch.stack([part.mean(dim=2) for part in hidden.split(100, dim=2)], dim=2)
    return means - hidden.mean(dim=2, keepdim=True)


def _epsilon(encoder: CAMPPlus, _: pytest.MonkeyPatch) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps = 1e-3


def _no_dilation(encoder: CAMPPlus, _: pytest.MonkeyPatch) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.Conv1d) and module.kernel_size == (3,):
            module.dilation, module.padding = (1,), (1,)


def _bands_slow(encoder: CAMPPlus, _: pytest.MonkeyPatch) -> None:
    channels = encoder.config()["head_channels"]
    encoder.head.register_forward_hook(
        lambda _module, _inputs, out: out.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1, 2)
    )


_PHASE = 2 * np.pi * np.arange(400)
MISTAKES: dict[str, Callable[[CAMPPlus, pytest.MonkeyPatch], None]] = {
    "scale of 16 bits": _scale,
    "periodic window": _other_window((0.5 - 0.5 * np.cos(_PHASE / 400)) ** 0.85),
    "hamming window": _other_window(0.54 - 0.46 * np.cos(_PHASE / 399)),
    "upper edge of 7600 Hz": _upper_edge,
    "biased deviation": _biased_deviation,
    "last segment over 100 frames": _segments(_last_by_hundred),
    "segments ignored": _segments(_without_segments),
    "mean of the clip left out": _segments(_without_clip),
    "epsilon": _epsilon,
    "no dilation": _no_dilation,
    "bands slow": _bands_slow,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_golden_numbers_tell_every_mistake(tiny: CAMPPlus, mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MISTAKES[mistake](tiny, monkeypatch)
    differences = [
        np.abs(taps_of(tiny, wave).embedding[0].numpy() - GOLDEN[f"random_tiny.{name}.embedding"]).max()
        for name, wave in SIGNALS.items()
    ]
    assert max(differences) > 10 * TOLERANCE["random_tiny"]


# Front end


@pytest.mark.parametrize("window", ["povey", "hamming"])
@pytest.mark.parametrize("scale", [1.0, 32768.0])
def test_both_forms_of_the_filter_bank_agree(window: Any, scale: float) -> None:
    settings = KaldiFbank(window=window, scale=scale, n_mels=40)
    waves = np.stack([SIGNALS["b"], SIGNALS["c"][40_000:88_000]])
    found = KaldiBands(settings)(torch.from_numpy(waves)).numpy()
    for row, wave in zip(found, waves, strict=True):
        np.testing.assert_allclose(row.T, settings(wave), rtol=0, atol=1e-3)


def test_the_filter_bank_stays_in_float32_and_out_of_checkpoints(tiny: CAMPPlus) -> None:
    wave = torch.from_numpy(SIGNALS["a"])[None]
    plain = tiny.features(wave)
    assert torch.equal(tiny.features.half()(wave), plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tiny.features(wave), plain)
    assert not tiny.features.state_dict()


# Lengths and pooling


@pytest.mark.parametrize("samples", [720, 879, 880, 1039, 1040])
def test_frames_of_short_clips(tiny: CAMPPlus, samples: int) -> None:
    taps = taps_of(tiny, SIGNALS["a"][:samples], ("head",))
    frames = 1 + (samples - 400) // 160
    assert taps.layers["head"].values.shape[2] == frames
    assert taps.frames.shape[2] == (frames + 1) // 2
    assert taps.embedding.isfinite().all()


def test_segments_of_two_seconds_count_from_the_start() -> None:
    hidden = torch.arange(264.0).repeat(2, 3, 1)
    expected = [np.arange(100).mean(), np.arange(100, 200).mean(), np.arange(200, 264).mean()]
    assert campplus.over_segments(hidden)[1, 2].tolist() == pytest.approx(expected)
    assert campplus.over_segments(hidden[:, :, :100]).shape == (2, 3, 1)


def test_weights_of_zero_and_one_are_a_mask(tiny: CAMPPlus) -> None:
    frames = taps_of(tiny, SIGNALS["c"]).frames.double()
    masks = torch.stack([torch.arange(364) < 100, torch.arange(364) % 3 == 0, torch.arange(364) >= 0])[None]
    torch.testing.assert_close(tiny.pool.weighted(frames, masks.double()), tiny.pool(frames, masks))
    torch.testing.assert_close(tiny.pool.weighted(frames, masks[:, 1].double()), tiny.pool(frames, masks[:, 1]))


def test_weighted_statistics_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(5)
    frames, weights = rng.standard_normal((2, 3, 9)), rng.random((2, 9))
    weights[0, 4] = 0.0
    spoilt = torch.from_numpy(frames.copy())
    spoilt[0, :, 4] = torch.nan
    found = TSTP(3, variance_floor=0.0).weighted(spoilt, torch.from_numpy(weights)).numpy()
    for row, w in enumerate(weights):
        mean = np.average(frames[row], axis=1, weights=w)
        variance = np.stack([np.cov(channel, aweights=w, ddof=1) for channel in frames[row]])
        np.testing.assert_allclose(found[row], np.concatenate([mean, np.sqrt(variance)]), rtol=1e-12)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(1, 4), "batch, frames"),
        (torch.full((1, 5), 1.1), r"\[0, 1\]"),
        (torch.full((1, 5), torch.nan), r"\[0, 1\]"),
        (torch.eye(5)[:1], "2 frames"),
    ],
)
def test_weights_that_pool_nothing_are_refused(weights: torch.Tensor, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        TSTP(3).weighted(torch.zeros(1, 3, 5), weights)


def test_equal_frames_have_a_gradient() -> None:
    frames = torch.zeros(1, 2, 4, requires_grad=True)
    TSTP(2, variance_floor=0.0)(frames).sum().backward()
    assert frames.grad is not None
    assert frames.grad.isfinite().all()


# Forms for inference

_WITH_ONNX = pytest.mark.skipif(not onnx_is_installed(), reason="the extra onnx is not installed")
FORMS = pytest.mark.parametrize("form", ["fused", pytest.param("onnx", marks=_WITH_ONNX)])
_arranged = cache(optimise)  # an ONNX session takes longer to make than to run


def padded(waves: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    audio = torch.full((len(waves), max(map(len, waves)) + 321), 0.3)
    for row, wave in zip(audio, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    return audio, torch.tensor([len(wave) for wave in waves])


@FORMS
def test_forms_give_the_taps_of_the_network(golden: tuple[str, Encoder], form: Backend) -> None:
    _, encoder = golden
    arranged = _arranged(encoder, form)
    assert arranged is not encoder
    # Two frames; one and two whole segments, and a frame more; two utterances of one length.
    whole = [SIGNALS["c"][:n] for n in (720, 32_240, 32_400, 64_240, 48_000)]
    audio, lengths = padded([*whole, SIGNALS["b"]])
    with torch.inference_mode():
        found, expected = arranged(audio, lengths), encoder(audio, lengths)
    assert torch.equal(found.frame_mask, expected.frame_mask)
    assert expected.frame_mask.sum(dim=1).tolist() == [2, 100, 101, 200, 149, 149]
    for tap in ("frames", "pooled", "embedding"):
        there, here = getattr(found, tap), getattr(expected, tap)
        torch.testing.assert_close(there, here, rtol=0, atol=1e-4 * max(1.0, float(here.abs().max())))
    with pytest.raises(ModelError, match="arranged for inference"):
        arranged(audio, lengths, layers=["head"])


@FORMS
@pytest.mark.parametrize("name", SIGNALS)
def test_forms_give_the_golden_numbers(golden: tuple[str, Encoder], form: Backend, name: str) -> None:
    kind, encoder = golden
    taps = taps_of(_arranged(encoder, form), SIGNALS[name])
    np.testing.assert_allclose(taps.embedding[0], GOLDEN[f"{kind}.{name}.embedding"], rtol=0, atol=2 * TOLERANCE[kind])


@FORMS
def test_forms_hear_every_weight(form: Backend) -> None:
    """Scales of both signs and of zero, and statistics far from 0 and 1, as training leaves them."""
    encoder = drawn("random_tiny")
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
                module.weight.copy_(torch.randn(module.weight.shape, generator=rng))
                module.weight[0] = 0.0
                module.bias.copy_(torch.randn(module.bias.shape, generator=rng))
    found, expected = taps_of(optimise(encoder, form), SIGNALS["b"]), taps_of(encoder, SIGNALS["b"])
    torch.testing.assert_close(found.frames, expected.frames, rtol=0, atol=1e-5 * float(expected.frames.max()))


# Weights


def published(encoder: CAMPPlus) -> dict[str, torch.Tensor]:
    """Tensors with the shapes that checkpoints have: the last layer is a convolution of size one there."""
    state = dict(encoder.state_dict())
    state["xvector.dense.linear.weight"] = state["xvector.dense.linear.weight"][:, :, None]
    return state


def test_a_published_checkpoint_loads_strictly(tiny: CAMPPlus) -> None:
    again = build({"architecture": "campplus", **TINY})
    assert load_strict(again, published(tiny), "file").complete
    assert all(torch.equal(value, tiny.state_dict()[key]) for key, value in again.state_dict().items())
    for key in ("head.bn1.bias", "xvector.block3.tdnnd2.cam_layer.linear2.bias", "xvector.dense.linear.weight"):
        lacking = {name: value for name, value in published(tiny).items() if name != key}
        with pytest.raises(WeightsError, match=key):
            load_strict(again, lacking, "file")
    with pytest.raises(WeightsError, match="strange"):
        load_strict(again, {**published(tiny), "head.strange": torch.zeros(1)}, "file")


@pytest.mark.parametrize("suffix", [".bin", ".pt"])
def test_weights_of_another_size_load_by_the_name_of_the_network(tmp_path: Path, suffix: str) -> None:
    """As 3D-Speaker and WeSpeaker publish them, the latter with the classifier of their training."""
    other = CAMPPlus(embedding_dim=24).eval()
    file = tmp_path / f"campplus_voxceleb{suffix}"
    torch.save({**published(other), "projection.weight": torch.zeros(3, 24)}, file)
    said: list[str] = []
    encoder, report = load_encoder_with_report("campplus", weights=file, announce=said.append)
    assert encoder.embedding_dim == 24
    assert report.left_out == ("projection.weight",)
    assert any("embedding_dim" in line for line in said)
    wave = SIGNALS["a"]
    assert torch.equal(taps_of(encoder, wave).embedding, taps_of(other, wave).embedding)


def test_a_file_may_state_another_front_end(tmp_path: Path) -> None:
    file = tmp_path / "wespeaker.safetensors"
    config = json.dumps({"window": "hamming", "scale": 32768.0})
    save_file(
        {key: value.contiguous() for key, value in published(CAMPPlus(embedding_dim=24)).items()},
        file,
        {"config": config},
    )
    encoder, _ = load_encoder_with_report("campplus", weights=file, announce=lambda _: None)
    assert (encoder.config()["window"], encoder.config()["scale"]) == ("hamming", 32768.0)
    assert encoder.embedding_dim == 24


def test_the_full_network_has_the_published_numbers() -> None:
    with torch.device("meta"):
        sizes = [
            sum(parameter.numel() for parameter in CAMPPlus(embedding_dim=size).parameters()) for size in (192, 512)
        ]
        state = CAMPPlus().state_dict()
    assert sizes == [6_848_544, 7_176_224]
    assert (len(state), sum(tensor.numel() for tensor in state.values())) == (937, 6_930_842)


@pytest.mark.parametrize(
    "changes",
    [{"n_bands": 81}, {"blocks": []}, {"blocks": [[3]]}, {"growth": 0}, {"bottleneck": 7}, {"window": "hann"}],
    ids=str,
)
def test_arguments_that_describe_no_network_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=next(iter(changes))):
        build({"architecture": "campplus", **changes})
