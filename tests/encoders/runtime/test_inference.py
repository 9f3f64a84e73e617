"""Networks arranged for inference give what the originals give, and leave them alone."""

from __future__ import annotations

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import redimnet_golden as golden
from keyed_weights import keyed_weights
from nestvox.encoders.contract import Encoder, Taps
from nestvox.encoders.ge2e import GE2E
from nestvox.encoders.redimnet import rows as redimnet_rows
from nestvox.encoders.registry import build
from nestvox.encoders.runtime import backends, inference
from nestvox.encoders.runtime.backends import Backend
from nestvox.encoders.runtime.folding import fewer_groups
from nestvox.encoders.runtime.inference import for_inference, optimise, score_shift
from nestvox.errors import MissingExtraError, ModelError
from nestvox.model.loading import load
from nestvox.model.speaker_model import SpeakerModel
from nestvox.zoo.variants import variant

LIMIT = 1e-5
FORMS: tuple[Backend, ...] = ("fused", "onnx")
BOTH = pytest.mark.parametrize("form", FORMS)


NETWORKS = golden.networks()


def of_size(name: str) -> Encoder:
    described = variant(name)
    encoder = build({"architecture": described.architecture, **described.config})
    encoder.load_state_dict(keyed_weights(encoder.state_dict()))
    return encoder.eval()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy((0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32))


@torch.inference_mode()
def taps_of(encoder: Encoder, audio: torch.Tensor, lengths: torch.Tensor | None = None) -> Taps:
    return encoder(audio, lengths)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def assert_equal_taps(found: Taps, expected: Taps, limit: float = LIMIT) -> None:
    assert torch.equal(found.frame_mask, expected.frame_mask)
    for tap in ("frames", "pooled", "embedding"):
        assert getattr(found, tap).shape == getattr(expected, tap).shape
        assert relative(getattr(found, tap), getattr(expected, tap)) < limit, tap


def slow_if_large(name: str) -> Any:
    # The small ones have every option; two of the real sizes stand in the next test.
    return name if name.startswith("tiny") else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [slow_if_large(name) for name in NETWORKS])
def test_every_golden_network_keeps_its_numbers(name: str) -> None:
    network = NETWORKS[name]
    encoder = golden.with_keyed_weights(network)
    signals = golden.signals()
    both, alone = torch.from_numpy(np.stack([signals["a"], signals["b"]])), torch.from_numpy(signals["c"])[None]
    expected, taps = taps_of(encoder, both).embedding, taps_of(encoder, alone)
    official = torch.from_numpy(network.embedding)  # the official network's numbers, which this package did not compute
    for form in FORMS:
        arranged = optimise(encoder, form)
        found, found_alone = taps_of(arranged, both).embedding, taps_of(arranged, alone)
        assert relative(found, expected) < LIMIT, form
        assert relative(found, official[:2]) < 1e-4, form
        assert relative(found_alone.embedding, official[2:]) < 1e-4, form
        if form == "onnx":
            assert_equal_taps(found_alone, taps, limit=1e-4)
    # A normalisation can enlarge the rounding of float32 at a frame; in float64 every tap must be the same.
    encoder = encoder.double()
    assert_equal_taps(taps_of(optimise(encoder, "fused"), alone), taps_of(encoder, alone), limit=1e-9)


@BOTH
@pytest.mark.parametrize("name", ["redimnet-b2", "redimnet2-b0"])
def test_scores_do_not_change(name: str, form: Backend) -> None:
    encoder = of_size(name)
    audio = noise(5, 24_000) * torch.linspace(0.05, 2, 5)[:, None]
    networks = (encoder, optimise(encoder, form))
    units = [functional.normalize(taps_of(network, audio).embedding.double()) for network in networks]
    scores, again = (unit @ unit.T for unit in units)
    assert float((scores - again).abs().max()) < LIMIT
    assert float(scores.std()) > 100 * LIMIT  # the limit tells scores apart


@BOTH
def test_lengths_in_a_batch_differ(form: Backend) -> None:
    encoder = golden.with_keyed_weights(NETWORKS["tiny2-gnorm-dual"])
    audio, lengths = noise(4, 9_000), torch.tensor([9_000, 5_003, 9_000, 4_000])
    arranged = optimise(encoder, form)
    found = taps_of(arranged, audio, lengths)
    assert_equal_taps(found, taps_of(encoder, audio, lengths))
    audio[1, 5_003:] = 7.0  # padding is not looked at
    assert torch.equal(taps_of(arranged, audio, lengths).embedding, found.embedding)


def test_with_onnx_runtime_the_bits_do_not_depend_on_the_batch() -> None:
    arranged = optimise(of_size("redimnet-b0"), "onnx")
    audio, lengths = noise(4, 9_000), torch.tensor([9_000, 5_003, 9_000, 9_000])
    frames = taps_of(arranged, audio, lengths).frames
    for row, length in enumerate(lengths.tolist()):
        alone = taps_of(arranged, audio[row : row + 1, :length]).frames[0]
        assert torch.equal(frames[row, :, : alone.shape[1]], alone)


@BOTH
@pytest.mark.parametrize("name", ["tiny1-convatt-resnet", "tiny2-base"])
def test_the_shortest_input(name: str, form: Backend) -> None:
    encoder = golden.with_keyed_weights(NETWORKS[name])
    audio = noise(1, encoder.min_samples)
    arranged = optimise(encoder, form)
    assert arranged.min_samples == encoder.min_samples
    assert_equal_taps(taps_of(arranged, audio), taps_of(encoder, audio))
    with pytest.raises(ModelError, match="at least"):
        taps_of(arranged, audio[:, 1:])


def test_the_original_stays_as_it_is() -> None:
    encoder = golden.with_keyed_weights(NETWORKS["tiny2-convnext-3x5"])
    audio = noise(1, 8_000)
    model = SpeakerModel(encoder)
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    fingerprint, trainable = model.fingerprint, [p.requires_grad for p in encoder.parameters()]
    embedding = taps_of(encoder, audio).embedding
    taps_of(optimise(encoder, "fused"), audio)
    taps_of(optimise(encoder, "onnx"), audio)
    assert model.fingerprint == fingerprint == SpeakerModel(encoder).fingerprint
    assert [p.requires_grad for p in encoder.parameters()] == trainable
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(taps_of(encoder, audio).embedding, embedding)


@BOTH
def test_an_arranged_network_pools_under_masks_and_hands_out_no_layers(form: Backend) -> None:
    encoder, audio = golden.with_keyed_weights(NETWORKS["tiny2-base"]), noise(1, 8_000)
    arranged, taps = optimise(encoder, form), taps_of(encoder, audio)
    masks = torch.arange(taps.frames.shape[2]) < torch.tensor([[[10], [20]]])
    with torch.inference_mode():
        found, expected = (network.embed(network.pool(taps.frames, masks)) for network in (arranged, encoder))
    assert relative(found, expected) < LIMIT
    assert "stage0" in encoder.layer_rates_hz
    with pytest.raises(ModelError, match=r"no layer 'stage0'.*arranged for inference"):
        arranged(audio, layers=["stage0"])


@BOTH
def test_later_training_does_not_reach_the_arranged_network(form: Backend) -> None:
    encoder = golden.with_keyed_weights(NETWORKS["tiny1-convatt-resnet"])
    arranged, audio = optimise(encoder, form), noise(1, 8_000)
    before = taps_of(arranged, audio).embedding
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    assert torch.equal(taps_of(arranged, audio).embedding, before)
    assert relative(taps_of(encoder, audio).embedding, before) > 0.01


@BOTH
def test_the_same_input_gives_the_same_bits(form: Backend) -> None:
    encoder = of_size("redimnet-b0")
    arranged, audio = optimise(encoder, form), noise(1, 16_000)
    first = taps_of(arranged, audio)
    with ThreadPoolExecutor(3) as pool:  # as streams call one network
        others = list(pool.map(lambda _: taps_of(arranged, audio), range(3)))
    for again in (*others, taps_of(optimise(encoder, form), audio)):
        assert torch.equal(first.embedding, again.embedding)
        assert torch.equal(first.frames, again.frames)


def test_sixteen_bits_are_kept() -> None:
    encoder, audio = golden.with_keyed_weights(NETWORKS["tiny1-mfa-embbn-nogca"]), noise(1, 16_000)
    expected = taps_of(encoder, audio).embedding
    found = taps_of(optimise(encoder.to(torch.bfloat16), "fused"), audio).embedding
    assert found.dtype == torch.bfloat16
    assert float(functional.cosine_similarity(found.float(), expected)) > 0.999


def test_what_has_no_faster_form_is_returned_as_it_is() -> None:
    encoder = GE2E().eval()
    assert optimise(encoder, "fused") is encoder
    assert optimise(encoder, "eager") is encoder
    assert optimise(encoder, "onnx") is not encoder


def test_ge2e_keeps_its_numbers_with_onnx_runtime() -> None:
    torch.manual_seed(0)
    encoder = GE2E().eval()
    with torch.no_grad():  # as drawn, they hardly tell signals apart
        for parameter in encoder.lstm.parameters():
            parameter.mul_(3.0)
    audio, lengths = noise(3, 40_000), torch.tensor([40_000, 26_001, 3_000])
    found, expected = taps_of(optimise(encoder, "onnx"), audio, lengths), taps_of(encoder, audio, lengths)
    assert_equal_taps(found, expected)
    assert float(expected.embedding.std(dim=0).max()) > 0.005


def test_training_mode_and_unknown_modules_are_refused() -> None:
    encoder = golden.with_keyed_weights(NETWORKS["tiny1-fc-convnextrelu"])
    for form in FORMS:
        with pytest.raises(ModelError, match=r"eval\(\)"):
            optimise(encoder.train(), form)
    encoder.eval().backbone.stage0[4] = nn.Hardswish()
    with pytest.raises(ModelError, match="Hardswish has no form for inference"):
        optimise(encoder, "fused")
    with pytest.raises(ModelError, match="Hardswish has no ONNX form"):
        optimise(encoder, "onnx")


def test_onnx_runtime_takes_float32_on_a_cpu() -> None:
    encoder = golden.with_keyed_weights(NETWORKS["tiny2-base"])
    with pytest.raises(ModelError, match=r"float32 on a CPU, the encoder is torch.float64 on cpu"):
        optimise(encoder.double(), "onnx")


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_the_extra_onnx(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, wave = model_of(backend="onnx"), noise(8_000).numpy()
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"nestvox\[onnx\]"):
        model.forward([wave])
    monkeypatch.setattr(inference, "onnx_is_installed", lambda: False)
    model.backend = "auto"
    np.testing.assert_array_equal(model.forward([wave]), model_of(backend="fused").forward([wave]))


# Precision


def centred(name: str = "tiny2-base") -> Encoder:
    """A network whose embeddings differ in direction, which those of random weights hardly do."""
    encoder = golden.with_keyed_weights(NETWORKS[name])
    with torch.no_grad():
        encoder.linear.bias -= taps_of(encoder, noise(4, 16_000)).embedding.mean(dim=0)
    return encoder


def test_automatic_precision_keeps_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    steady, delicate = golden.with_keyed_weights(NETWORKS["tiny2-base"]), centred()
    for encoder in (steady, delicate):  # this processor may not have it
        monkeypatch.setattr(inference, "cpu_computes", lambda _: False)
        assert for_inference(encoder, precision="auto", backend="fused").linear.weight.dtype == torch.float32
        monkeypatch.setattr(inference, "cpu_computes", lambda _: True)
    chosen = [for_inference(encoder, precision="auto", backend="fused") for encoder in (steady, delicate)]
    assert [network.linear.weight.dtype for network in chosen] == [torch.bfloat16, torch.float32]
    assert score_shift(steady, chosen[0]) <= 1e-3
    assert score_shift(delicate, for_inference(delicate, precision="bfloat16")) > 1e-3
    assert steady.linear.weight.dtype == torch.float32


def test_lower_precision_gives_nearly_the_same_and_features_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "cpu_computes", lambda _: True)
    wave = noise(16_000).numpy()
    expected = model_of().forward([wave])[0]
    for precision, limit in (("bfloat16", 0.02), ("float16", 0.003)):
        for backend in ("auto", "eager", "fused"):
            model = model_of(backend=backend, precision=precision)
            found = model.forward([wave])[0]
            assert found.dtype == np.float32
            assert 0 < np.abs(found - expected).max() / np.abs(expected).max() < limit
            assert model.fingerprint == model_of().fingerprint


def test_precisions_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wave = noise(16_000).numpy()
    monkeypatch.setattr(inference, "cpu_computes", lambda precision: precision == "float32")
    with pytest.raises(ModelError, match="cpu does not compute in bfloat16"):
        model_of(precision="bfloat16").forward([wave])
    with pytest.raises(ModelError, match="onnx runs float32, not float16"):
        model_of(precision="float16", backend="onnx").forward([wave])
    with pytest.raises(ModelError, match="ge2e runs in float32 only"):
        SpeakerModel(GE2E(), precision="float16").forward([wave])
    with pytest.raises(ModelError, match="unknown precision 'int8'; known: float32, auto, bfloat16, float16"):
        model_of(precision="int8")
    assert for_inference(GE2E().eval(), precision="auto", backend="eager").lstm is not None


def test_what_the_processor_computes_is_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        "flags\t\t: fpu avx2 avx512f avx512_bf16\n": {"float32", "bfloat16"},
        "flags : amx_bf16 amx_fp16\nflags : amx_bf16\n": {"float32", "bfloat16", "float16"},
        "Features\t: fp asimd asimdhp bf16\n": {"float32", "bfloat16", "float16"},
        "bugs : bf16\nflags : fpu avx512f\n": {"float32"},
    }
    monkeypatch.setattr(backends.platform, "system", lambda: "Linux")
    for number, (text, expected) in enumerate(cases.items()):
        file = tmp_path / str(number)
        file.write_text(text)
        monkeypatch.setattr(backends, "_CPUINFO", file)
        backends._cpu_flags.cache_clear()
        assert {name for name in ("float32", "bfloat16", "float16") if backends.cpu_computes(name)} == expected
    backends._cpu_flags.cache_clear()


# Within a model


def model_of(name: str = "tiny2-base", **changes: Any) -> SpeakerModel:
    return SpeakerModel(golden.with_keyed_weights(NETWORKS[name]), name=name, **changes)


def test_a_model_runs_the_arranged_network_unless_told_otherwise() -> None:
    wave = noise(8_000).numpy()
    runs: list[str] = []
    vectors = {}
    for backend in ("auto", "eager", "fused", "onnx"):
        model = model_of(backend=backend)
        model.encoder.register_forward_pre_hook(lambda *_, backend=backend: runs.append(backend))
        # The copy has the hook as well: a model that runs the original says so by the module that it ran.
        model.encoder.backbone.stem[0].register_forward_hook(
            lambda *_, backend=backend: runs.append(f"{backend} original")
        )
        vectors[backend] = model.forward([wave])[0]
        assert model.fingerprint == model_of().fingerprint
    assert runs == ["auto", "eager", "eager original", "fused", "onnx"]
    np.testing.assert_array_equal(vectors["auto"], vectors["onnx"])
    largest = np.abs(vectors["eager"]).max()
    for backend in ("fused", "onnx"):
        np.testing.assert_allclose(vectors[backend], vectors["eager"], rtol=0, atol=LIMIT * largest)


@pytest.mark.parametrize("backend", ["fused", "onnx"])
def test_a_model_arranges_anew_after_training(backend: str) -> None:
    model, wave = model_of(backend=backend), noise(8_000).numpy()
    before = model.forward([wave])[0]
    np.testing.assert_array_equal(model.forward([wave])[0], before)
    with torch.no_grad():
        model.encoder.linear.bias += 1.0
    np.testing.assert_allclose(model.forward([wave])[0], before + 1.0, rtol=0, atol=1e-5)
    # in place, by a new parameter, and in a module that takes the place of another
    seen = [model.forward([wave])[0]]
    with torch.no_grad():
        model.encoder.backbone.stem[0].weight.mul_(2.0)
    seen.append(model.forward([wave])[0])
    model.encoder.backbone.stem[0].weight = nn.Parameter(model.encoder.backbone.stem[0].weight * 0.3)
    seen.append(model.forward([wave])[0])
    model.encoder.backbone.stem[0] = nn.Conv2d(1, model.encoder.backbone.stem[0].out_channels, 3, padding="same")
    seen.append(model.forward([wave])[0])
    assert all(np.abs(first - second).max() > 1e-4 for first, second in itertools.pairwise(seen))


def test_the_backend_is_not_saved(tmp_path: Path) -> None:
    model_of(backend="eager").save(tmp_path / "eager")
    model_of(backend="fused").save(tmp_path / "fused")
    assert (tmp_path / "eager" / "config.json").read_bytes() == (tmp_path / "fused" / "config.json").read_bytes()
    model = load(tmp_path / "fused", device="cpu", backend="eager")
    assert model.backend == "eager"
    assert model.fingerprint == model_of().fingerprint


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(ModelError, match="unknown backend 'turbo'; known: auto, eager, fused, onnx"):
        model_of(backend="turbo")
    with pytest.raises(ModelError, match="unknown backend 'turbo'"):
        load("ge2e", backend="turbo")  # type: ignore[arg-type]


# Pieces, against torch's own


@settings(max_examples=40, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 3, 4, 6, 12]),
    enter=st.sampled_from([1, 2, 4, 8]),
    leave=st.sampled_from([1, 2, 4, 6]),
    kernel=st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 7])),
    seed=st.integers(0, 99),
)
def test_joined_groups_convolve_as_the_groups_do(
    groups: int, enter: int, leave: int, kernel: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    conv = nn.Conv2d(groups * enter, groups * leave, kernel, padding="same", groups=groups).double()
    plane = torch.randn(2, 9, 5, groups * enter, dtype=torch.float64)  # (B, T, f, c)
    with torch.inference_mode():
        expected = conv(plane.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)
        made: Any = redimnet_rows._PlaneConvolution(conv.weight, conv.bias, groups)
        torch.testing.assert_close(made(plane), expected)
    assert groups % made.groups == 0


def test_narrow_groups_are_joined_and_channels_by_themselves_are_not() -> None:
    assert fewer_groups(24, 96, 96) == 12  # four channels each, of 96: eight each
    assert fewer_groups(6, 48, 48) == 6  # eight already
    assert fewer_groups(40, 40, 40) == 40
    assert fewer_groups(1, 7, 9) == 1
    assert fewer_groups(3, 9, 9) == 3  # nine do not make a multiple of eight


@settings(max_examples=20, deadline=None)
@given(freqs=st.integers(1, 3), frames=st.integers(1, 2), groups=st.sampled_from([1, 2]), seed=st.integers(0, 99))
def test_a_step_is_a_product(freqs: int, frames: int, groups: int, seed: int) -> None:
    torch.manual_seed(seed)
    step = (freqs, frames)
    conv, norm = nn.Conv2d(4, 6, step, stride=step, groups=groups).double(), nn.BatchNorm2d(6).double()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    plane = torch.randn(2, 4 * frames, 5 * freqs, 4, dtype=torch.float64)
    with torch.inference_mode():
        expected = norm.eval()(conv(plane.permute(0, 3, 2, 1))).permute(0, 3, 2, 1)
        (made,) = redimnet_rows._as_rows([conv, norm])
        torch.testing.assert_close(made(plane), expected)
