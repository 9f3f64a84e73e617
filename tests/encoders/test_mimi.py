"""Mimi through both layouts of its weights, in pieces and whole, and against the golden latents of two programs."""

from __future__ import annotations

import csv
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nestvox.encoders import Encoder, build
from nestvox.encoders.mimi import _from_moshi, _in_memory
from nestvox.errors import ModelError, WeightsError
from nestvox.zoo.weights import load_strict

pytest.importorskip("transformers", reason="the extra [codec] is not installed")

# 12.5 frames a second out of 1000 samples: 15 s are 375 steps of the transformer, and its window is 50.
SMALL: Mapping[str, Any] = {
    "architecture": "mimi",
    "sample_rate": 1000,
    "filters": 4,
    "size": 32,
    "ratios": [8, 5],
    "depth": 2,
    "heads": 4,
    "feed_forward": 48,
    "window": 50,
}


def by_name(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights that a name determines, layer scales near 1 and attention sharp, so that no layer can hide a mistake."""
    z = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    rules: list[tuple[bool, Callable[[], Any]]] = [
        (name.endswith("_layer_scale.scale") or "layernorm.weight" in name, lambda: 1 + 0.1 * z),
        ("layernorm.bias" in name, lambda: 0.1 * z),
        (name.endswith(".bias"), lambda: 0.05 * z),
        (name.endswith(".initialized"), lambda: np.ones(shape)),
        (name.endswith(".cluster_usage"), lambda: 1 + abs(z)),
        (name.endswith(".embed_sum"), lambda: 2 * z),
    ]
    made = next((rule() for fits, rule in rules if fits), None)
    if made is None:
        gain = (
            1.3
            if name.startswith("encoder.layers.")
            else 2.5
            if name.endswith(("q_proj.weight", "k_proj.weight"))
            else 1
        )
        made = gain * z / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(made, np.float32))


def flat_weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    """By the names of a file of transformers."""
    found = {}
    for name, tensor in encoder.state_dict().items():
        flat = name.removeprefix("codec.").replace("encoder_seanet.", "encoder.", 1)
        found[flat] = by_name(flat, tuple(tensor.shape))
    return found


def as_moshi(flat: Mapping[str, torch.Tensor], heads: int) -> dict[str, torch.Tensor]:
    """The other way round, written row by row."""
    found = {}
    for given_name, tensor in flat.items():
        name = given_name
        for old, new in (
            (".mlp.fc", ".linear"),
            (".input_layernorm.", ".norm1."),
            (".post_attention_layernorm.", ".norm2."),
            (".self_attn_layer_scale.", ".layer_scale_1."),
            (".mlp_layer_scale.", ".layer_scale_2."),
            (".o_proj.", ".out_proj."),
            ("encoder_transformer.", "encoder_transformer.transformer."),
        ):
            name = name.replace(old, new)
        if name.startswith("encoder.layers."):
            name = name.replace("encoder.layers.", "encoder.model.").replace(".conv.", ".conv.conv.")
        elif name.startswith("downsample."):
            name = "downsample.conv.conv.conv.weight"
        elif ".q_proj." in name:
            stem = given_name.removesuffix("q_proj.weight")
            size, half = tensor.shape[0], tensor.shape[0] // heads // 2
            rows = torch.zeros(3 * size, tensor.shape[1])
            for part, letter in enumerate("qk"):
                given = flat[f"{stem}{letter}_proj.weight"]
                for head in range(heads):
                    for i in range(half):
                        for r in range(2):
                            rows[part * size + head * 2 * half + 2 * i + r] = given[head * 2 * half + half * r + i]
            rows[2 * size :] = flat[f"{stem}v_proj.weight"]
            found[name.replace("q_proj.weight", "in_proj_weight")] = rows
            continue
        elif ".k_proj." in name or ".v_proj." in name:
            continue
        found[name] = tensor
    return found


@pytest.fixture(scope="module")
def small() -> Encoder:
    encoder = build(SMALL).eval()
    load_strict(encoder, flat_weights(encoder), "flat")
    return encoder


def wave(seconds: float, rate: int = 1000) -> torch.Tensor:
    rng = np.random.default_rng(1)
    return torch.from_numpy((0.3 * rng.standard_normal(round(seconds * rate))).astype(np.float32))[None]


def test_both_layouts_give_one_network(small: Encoder) -> None:
    flat = flat_weights(small)
    moshi = as_moshi(flat, 4)
    assert "encoder_transformer.transformer.layers.1.self_attn.in_proj_weight" in moshi
    other = build(SMALL).eval()
    extra = {"decoder.model.0.conv.conv.weight": torch.ones(3), "upsample.convtr.weight": torch.ones(2)}
    report = load_strict(other, {**moshi, **extra}, "moshi")
    assert (report.layout, len(report.left_out)) == ("moshi", 2)
    with torch.inference_mode():
        for seconds in (3, 15):
            one, two = small(wave(seconds)).frames, other(wave(seconds)).frames
            assert one.std() > 0.5
            assert (one - two).abs().max() < 1e-5
    for newer in ("in_projs.0.weight", "in_proj.weight"):  # other releases of moshi
        renamed = {key.replace("in_proj_weight", newer): value for key, value in moshi.items()}
        again = build(SMALL).eval()
        load_strict(again, renamed, "newer")
        assert torch.equal(again(wave(15)).frames, two)


def test_rows_that_are_left_as_they_are_give_another_network(small: Encoder) -> None:
    moshi = as_moshi(flat_weights(small), 4)
    wrong = dict(flat_weights(small))
    for key in [key for key in wrong if key.endswith(("q_proj.weight", "k_proj.weight"))]:
        stem, letter = key.rsplit(".", 2)[0], key.rsplit(".", 2)[1][0]
        fused = moshi[f"{stem.replace('encoder_transformer.', 'encoder_transformer.transformer.')}.in_proj_weight"]
        wrong[key] = fused[:32] if letter == "q" else fused[32:64]
    other = build(SMALL).eval()
    load_strict(other, wrong, "unpermuted")
    assert (small(wave(3)).frames - other(wave(3)).frames).abs().max() > 0.1
    broken = {key: value[:-1] if key.endswith("in_proj_weight") else value for key, value in moshi.items()}
    with pytest.raises(WeightsError, match="no query, key and value of 4 heads"):
        load_strict(other, broken, "cut")


def test_a_stream_gives_what_the_whole_gives_beyond_the_window(small: Encoder) -> None:
    audio = wave(16)
    with torch.inference_mode():
        whole = small(audio).frames
        parts, state = [], None
        for start in range(0, audio.shape[1], 80):
            latents, state = small.stream(audio[:, start : start + 80], state)
            parts.append(latents)
        assert whole.shape[2] == 200
        torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=0, atol=2e-5)
        with pytest.raises(ModelError, match="whole frames of 80 samples, got 120"):
            small.stream(audio[:, :120])


def test_attention_reaches_back_a_window_and_no_further() -> None:
    encoder = build({**SMALL, "depth": 1}).eval()
    load_strict(encoder, flat_weights(encoder), "flat")
    one, other = wave(16), wave(16)
    other[:, :40] += 1.0  # the first step of the transformer, and a little behind it through the convolutions
    with torch.inference_mode():
        first, second = (encoder(w, layers=["seanet", "transformer0"]).layers for w in (one, other))
    reached = (first["seanet"].values - second["seanet"].values).abs().amax(dim=1)[0].nonzero().max()
    changed = (first["transformer0"].values - second["transformer0"].values).abs().amax(dim=1)[0]
    assert changed[reached + 49] > 0
    assert not changed[reached + 50 :].any()


@pytest.mark.parametrize("n", [81, 160, 161, 959, 960, 961])
def test_frames_are_as_many_as_begin(small: Encoder, n: int) -> None:
    taps = small(wave(n / 1000), layers=["seanet"])
    assert taps.frames.shape[2] == math.ceil(n / 80)
    assert taps.layers["seanet"].values.shape[2] == 2 * math.ceil(n / 80)


def test_the_codebooks_are_heard_one_after_another() -> None:
    encoder = build({**SMALL, "codebooks": 4}).eval()
    load_strict(encoder, flat_weights(encoder), "flat")
    layers = encoder(wave(2), layers=["latents", "semantic", "quantised4"]).layers
    assert encoder.codes(wave(2)).shape == (1, 4, 25)
    assert not torch.equal(layers["semantic"].values, layers["quantised4"].values)
    with pytest.raises(ModelError, match="without its quantiser"):
        build(SMALL).codes(wave(2))


def test_the_key_map_is_one_to_one_on_shapes(reference_dir: Path) -> None:
    moshi: dict[str, torch.Tensor] = {}
    wanted: dict[str, tuple[int, ...]] = {}
    for row in keymap(reference_dir):
        if row["part"] != "decoder":
            moshi[row["moshi_key"]] = torch.empty(shape_of(row["moshi_shape"]), device="meta")
            wanted[row["hf_key"]] = shape_of(row["hf_shape"])
    found = {name: tuple(tensor.shape) for name, tensor in _from_moshi(moshi, 8, "the map").items()}
    assert found == wanted
    assert (len(moshi), len(found)) == (209, 225)
    in_memory = {row["hf_key"]: row["hf_key_in_memory_v5"] for row in keymap(reference_dir) if row["part"] == "encoder"}
    assert {f"encoder.{_in_memory(flat)}" for flat in in_memory} == set(in_memory.values())


def keymap(reference: Path) -> list[dict[str, str]]:
    with (reference / "mimi_keymap.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def shape_of(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("x"))


def golden_input(seconds: int) -> NDArray[np.float32]:
    t = np.arange(24_000 * seconds) / 24_000
    noise = np.random.Generator(np.random.PCG64(zlib.crc32(b"input"))).uniform(-1.0, 1.0, len(t))
    tones = 0.25 * np.sin(2 * np.pi * (120 * t + 40 * t**2)) + 0.15 * np.sin(2 * np.pi * 1375 * t + 0.5)
    return (tones + 0.1 * noise).astype(np.float32)


@pytest.mark.slow
def test_the_full_network_gives_the_golden_latents(reference_dir: Path) -> None:
    encoder = build({"architecture": "mimi", "codebooks": 8}).eval()
    flat = {
        row["hf_key"]: by_name(row["hf_key"], shape_of(row["hf_shape"]))
        for row in keymap(reference_dir)
        if row["part"] != "decoder"
    }
    load_strict(encoder, flat, "golden")
    assert sum(p.numel() for p in encoder.codec.parameters()) == 38_867_232
    folder = reference_dir / "mimi"
    names = ["seanet", *(f"transformer{n}" for n in range(8))]
    for seconds in (3, 15):
        audio = torch.from_numpy(golden_input(seconds))[None]
        with torch.inference_mode():
            taps = encoder(audio, layers=names)
        latents, expected = taps.frames[0].T.numpy(), np.load(folder / f"latents_{seconds}s.npy")
        assert latents.shape == expected.shape
        assert np.abs(latents[:-1] - expected[:-1]).max() < 2e-4  # the last frame depends on the rule of padding
        means = np.stack([taps.layers[name].values[0, :, : 25 * seconds].mean(dim=1).numpy() for name in names])
        assert np.abs(means - np.load(folder / f"layer_means_{seconds}s.npy")).max() < 2e-4
        if seconds == 3:
            assert np.abs(latents[-1] - np.load(folder / "latents_3s_padded_wave_last.npy")).max() < 2e-4
            codes = encoder.codes(audio)[0].numpy()
            assert np.array_equal(codes[:, :-1], np.load(folder / "codes_3s_8q.npy")[:, :-1])
