"""Networks arranged for inference give what the originals give, and leave them alone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from nestvox.encoders import inference
from nestvox.encoders.contract import Encoder, Taps
from nestvox.encoders.ge2e import GE2E
from nestvox.encoders.inference import has_faster_form, optimise
from nestvox.encoders.keyed_weights import keyed_weights
from nestvox.encoders.registry import build
from nestvox.encoders.variants import variant
from nestvox.errors import ModelError
from nestvox.model import SpeakerModel, load

LIMIT = 1e-5


def _load_golden() -> ModuleType:
    # pytest imports by file (importlib mode), so a neighbour is not on the path.
    spec = importlib.util.spec_from_file_location("redimnet_golden", Path(__file__).with_name("redimnet_golden.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("redimnet_golden", module)
    spec.loader.exec_module(module)
    return module


golden = _load_golden()
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
    large = not name.startswith("tiny") and name not in {"v1-b0", "v2-b0"}
    return pytest.param(name, marks=pytest.mark.slow) if large else name


@pytest.mark.parametrize("name", [slow_if_large(name) for name in NETWORKS])
def test_every_golden_network_keeps_its_numbers(name: str) -> None:
    network = NETWORKS[name]
    encoder = golden.with_keyed_weights(network)
    arranged = optimise(encoder)
    signals = golden.signals()
    both, alone = torch.from_numpy(np.stack([signals["a"], signals["b"]])), torch.from_numpy(signals["c"])[None]
    found, expected = taps_of(arranged, both).embedding, taps_of(encoder, both).embedding
    assert relative(found, expected) < LIMIT
    # the official network's own numbers, which this package did not compute
    official = torch.from_numpy(network.embedding)
    assert relative(found, official[:2]) < 1e-4
    assert relative(taps_of(arranged, alone).embedding, official[2:]) < 1e-4
    # A normalisation can enlarge the rounding of float32 at a frame; in float64 every tap must be the same.
    encoder = encoder.double()
    assert_equal_taps(taps_of(optimise(encoder), alone), taps_of(encoder, alone), limit=1e-9)


@pytest.mark.parametrize("name", ["redimnet-b2", "redimnet2-b0"])
def test_scores_do_not_change(name: str) -> None:
    encoder = of_size(name)
    audio = noise(5, 24_000) * torch.linspace(0.05, 2, 5)[:, None]
    units = [functional.normalize(taps_of(net, audio).embedding.double()) for net in (encoder, optimise(encoder))]
    scores, again = (unit @ unit.T for unit in units)
    assert float((scores - again).abs().max()) < LIMIT
    assert float(scores.std()) > 100 * LIMIT  # the limit tells scores apart


def test_lengths_in_a_batch_differ() -> None:
    encoder = golden.with_keyed_weights(NETWORKS["tiny2-gnorm-dual"])
    audio, lengths = noise(4, 9_000), torch.tensor([9_000, 5_003, 9_000, 4_000])
    assert_equal_taps(taps_of(optimise(encoder), audio, lengths), taps_of(encoder, audio, lengths))


@pytest.mark.parametrize("name", ["tiny1-convatt-resnet", "tiny2-base"])
def test_the_shortest_input(name: str) -> None:
    encoder = golden.with_keyed_weights(NETWORKS[name])
    audio = noise(1, encoder.min_samples)
    arranged = optimise(encoder)
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
    taps_of(optimise(encoder), audio)
    assert model.fingerprint == fingerprint == SpeakerModel(encoder).fingerprint
    assert [p.requires_grad for p in encoder.parameters()] == trainable
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(taps_of(encoder, audio).embedding, embedding)


def test_later_training_does_not_reach_the_arranged_network() -> None:
    encoder = golden.with_keyed_weights(NETWORKS["tiny1-convatt-resnet"])
    arranged, audio = optimise(encoder), noise(1, 8_000)
    before = taps_of(arranged, audio).embedding
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    assert torch.equal(taps_of(arranged, audio).embedding, before)
    assert relative(taps_of(encoder, audio).embedding, before) > 0.01


def test_the_same_input_gives_the_same_bits() -> None:
    arranged, audio = optimise(of_size("redimnet-b2")), noise(1, 16_000)
    first = taps_of(arranged, audio)
    again = taps_of(arranged, audio)
    assert torch.equal(first.embedding, again.embedding)
    assert torch.equal(first.frames, again.frames)


def test_sixteen_bits_are_kept() -> None:
    encoder, audio = golden.with_keyed_weights(NETWORKS["tiny1-mfa-embbn-nogca"]), noise(1, 16_000)
    expected = taps_of(encoder, audio).embedding
    found = taps_of(optimise(encoder.to(torch.bfloat16)), audio).embedding
    assert found.dtype == torch.bfloat16
    assert float(functional.cosine_similarity(found.float(), expected)) > 0.999


def test_what_has_no_faster_form_is_returned_as_it_is() -> None:
    encoder = GE2E().eval()
    assert not has_faster_form(encoder)
    assert optimise(encoder) is encoder
    assert has_faster_form(golden.with_keyed_weights(NETWORKS["tiny1-fc-convnextrelu"]))


def test_training_mode_and_unknown_modules_are_refused() -> None:
    encoder = golden.with_keyed_weights(NETWORKS["tiny1-fc-convnextrelu"])
    with pytest.raises(ModelError, match=r"eval\(\)"):
        optimise(encoder.train())
    encoder.eval().backbone.stage0[4] = nn.Hardswish()
    with pytest.raises(ModelError, match="Hardswish has no form for inference"):
        optimise(encoder)


# Within a model


def model_of(name: str = "tiny2-base", **changes: Any) -> SpeakerModel:
    return SpeakerModel(golden.with_keyed_weights(NETWORKS[name]), name=name, **changes)


def test_a_model_runs_the_arranged_network_unless_told_otherwise() -> None:
    wave = noise(8_000).numpy()
    runs: list[str] = []
    vectors = {}
    for backend in ("auto", "eager", "fused"):
        model = model_of(backend=backend)
        model.encoder.register_forward_pre_hook(lambda *_, backend=backend: runs.append(backend))
        # The copy has the hook as well: a model that runs the original says so by the module that it ran.
        model.encoder.backbone.stem[0].register_forward_hook(
            lambda *_, backend=backend: runs.append(f"{backend} original")
        )
        vectors[backend] = model.forward([wave])[0]
        assert model.fingerprint == model_of().fingerprint
    assert runs == ["auto", "eager", "eager original", "fused"]
    np.testing.assert_array_equal(vectors["auto"], vectors["fused"])
    largest = np.abs(vectors["eager"]).max()
    np.testing.assert_allclose(vectors["auto"], vectors["eager"], rtol=0, atol=LIMIT * largest)


def test_a_model_arranges_anew_after_training() -> None:
    model, wave = model_of(), noise(8_000).numpy()
    before = model.forward([wave])[0]
    np.testing.assert_array_equal(model.forward([wave])[0], before)
    with torch.no_grad():
        model.encoder.linear.bias += 1.0
    np.testing.assert_allclose(model.forward([wave])[0], before + 1.0, rtol=0, atol=1e-5)


def test_the_backend_is_not_saved(tmp_path: Path) -> None:
    model_of(backend="eager").save(tmp_path / "eager")
    model_of(backend="fused").save(tmp_path / "fused")
    assert (tmp_path / "eager" / "config.json").read_bytes() == (tmp_path / "fused" / "config.json").read_bytes()
    model = load(tmp_path / "fused", device="cpu", backend="eager")
    assert model.backend == "eager"
    assert model.fingerprint == model_of().fingerprint


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(ModelError, match="unknown backend 'turbo'; known: auto, eager, fused"):
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
        made: Any = inference._PlaneConvolution(conv.weight, conv.bias, groups)
        torch.testing.assert_close(made(plane), expected)
    assert groups % made.groups == 0


def test_narrow_groups_are_joined_and_channels_by_themselves_are_not() -> None:
    assert inference._fewer_groups(24, 96, 96) == 12  # four channels each, of 96: eight each
    assert inference._fewer_groups(6, 48, 48) == 6  # eight already
    assert inference._fewer_groups(40, 40, 40) == 40
    assert inference._fewer_groups(1, 7, 9) == 1
    assert inference._fewer_groups(3, 9, 9) == 3  # nine do not make a multiple of eight


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
        (made,) = inference._as_rows([conv, norm])
        torch.testing.assert_close(made(plane), expected)
