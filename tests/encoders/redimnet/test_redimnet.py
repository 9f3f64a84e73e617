"""ReDimNet and ReDimNet2 by what can be known without other code: names, layouts, lengths, precision, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keyed_weights import keyed_weights
from nestvox.encoders.redimnet.blocks import ChannelNorm, Flatten, MapSum, Unflatten
from nestvox.encoders.redimnet.network import ReDimNetEncoder
from nestvox.encoders.redimnet.redimnet import ReDimNet
from nestvox.encoders.redimnet.redimnet2 import ReDimNet2
from nestvox.encoders.registry import build
from nestvox.errors import CatalogueError, ModelError, WeightsError
from nestvox.zoo.variants import variant, variants
from nestvox.zoo.weights import load_strict

FIRST: dict[str, Any] = {
    "F": 24,
    "C": 4,
    "block_1d_type": "conv+att",
    "block_2d_type": "convnext_like",
    "stages_setup": [[1, 1, 1, [[3, 3]], 2], [2, 1, 2, [[3, 3]], None], [3, 1, 1, [[3, 3]], 3]],
    "group_divisor": 2,
    "embed_dim": 16,
    "global_context_att": True,
}
SECOND: dict[str, Any] = {
    **FIRST,
    "stages_setup": [[[1, 1], 1, 1, [[3, 3]], 2], [[2, 2], 1, 2, [[3, 3]], None], [[3, 2], 1, 1, [[3, 3]], 3]],
    "feat_type": "tf",
    "return_2d_output": True,
    "spec_params": {"norm_signal": True},
}


def first(**changes: Any) -> ReDimNet:
    return drawn(ReDimNet(**{**FIRST, **changes}))


def second(**changes: Any) -> ReDimNet2:
    return drawn(ReDimNet2(**{**SECOND, **changes}))


def drawn(encoder: ReDimNetEncoder) -> Any:
    encoder.load_state_dict(keyed_weights(encoder.state_dict()))
    return encoder.eval()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy((0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32))


# Names and shapes, from the description of the published networks


def expected_b2() -> dict[str, tuple[int, ...]]:
    """Names and shapes of b2's weights without norms' counters, written out from its description."""
    width, found = 1152, {}

    def conv(name: str, *shape: int) -> None:
        found[f"{name}.weight"] = shape
        found[f"{name}.bias"] = (shape[0],)

    def norm(name: str, channels: int, *, batch: bool) -> None:
        for leaf in ("weight", "bias", *(("running_mean", "running_var") if batch else ())):
            found[f"{name}.{leaf}"] = (channels,)
        if batch:
            found[f"{name}.num_batches_tracked"] = ()

    conv("backbone.stem.0", 16, 1, 3, 3)
    norm("backbone.stem.1", 16, batch=False)
    # entering and leaving channels, stride, blocks, hidden channels of the one-dimensional block
    stages = [(16, 16, 1, 2, 96), (16, 32, 2, 2, 96), (32, 32, 1, 3, 96), (32, 96, 3, 4, 144), (96, 96, 1, 4, 144)]
    for number, (enter, leave, stride, blocks, hidden) in enumerate([*stages, (96, 192, 2, 4, 288)]):
        stage = f"backbone.stage{number}"
        found[f"{stage}.0.w"] = (1, number + 1, width if number else 1, 1)
        conv(f"{stage}.2", leave, enter, stride, 1)
        for block in range(3, 3 + blocks):
            conv(f"{stage}.{block}.conv_block.dwconvs.0", leave, 4, 3, 3)
            norm(f"{stage}.{block}.conv_block.norm", leave, batch=True)
            conv(f"{stage}.{block}.conv_block.pwconv1", leave, leave, 1, 1)
        line = f"{stage}.{4 + blocks}"
        conv(f"{line}.red_dim_conv.0", hidden, width, 1)
        norm(f"{line}.red_dim_conv.1", hidden, batch=False)
        for item, kernel in enumerate((7, 19, 31, 59)):
            conv(f"{line}.tcm.{item}.dwconvs.0", hidden, 1, kernel)
            norm(f"{line}.tcm.{item}.norm", hidden, batch=True)
            conv(f"{line}.tcm.{item}.pwconv1", hidden, hidden, 1)
        for layer in ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj"):
            conv(f"{line}.tcm.4.{layer}", hidden, hidden)
        for layer in ("feed_forward.intermediate_dense", "feed_forward.output_dense"):
            conv(f"{line}.tcm.4.{layer}", hidden, hidden)
        norm(f"{line}.tcm.4.layer_norm", hidden, batch=False)
        norm(f"{line}.tcm.4.final_layer_norm", hidden, batch=False)
        conv(f"{line}.exp_dim_conv", width, hidden, 1)
    found["backbone.fin_wght1d.w"] = (1, 7, width, 1)
    found["spec.torchfbank.1.flipped_filter"] = (1, 1, 2)
    found["spec.torchfbank.2.spectrogram.window"] = (400,)
    found["spec.torchfbank.2.mel_scale.fb"] = (257, 72)
    conv("pool.linear1", 128, 3456, 1)
    conv("pool.linear2", width, 128, 1)
    norm("bn", 2304, batch=True)
    conv("linear", 192, 2304)
    return found


def test_b2_has_the_tensors_of_its_description() -> None:
    with torch.device("meta"):
        encoder = build({"architecture": "redimnet", **variant("redimnet-b2").config})
    assert {key: tuple(tensor.shape) for key, tensor in encoder.state_dict().items()} == expected_b2()
    assert len(expected_b2()) == 556


@pytest.mark.parametrize("name", [entry.name for entry in variants()])
def test_every_size_has_its_parameters(name: str) -> None:
    described = variant(name)
    with torch.device("meta"):
        encoder = build({"architecture": described.architecture, **described.config})
    assert sum(parameter.numel() for parameter in encoder.parameters()) == described.parameters


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(CatalogueError, match=r"redimnet-b7.*redimnet-b2"):
        variant("redimnet-b7")


def test_a_single_map_is_not_weighted_and_its_number_not_trained() -> None:
    encoder = first()
    frozen = {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}
    assert frozen == {"backbone.stage0.0.w"}
    assert dict(second().named_parameters())["backbone.stage0.0.w"].shape == (1, 1, 96, 1)


# Layouts of names


def legacy(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The layout of July 2024: sums in a list, stages without their first two items."""
    renamed = {}
    for key, tensor in state.items():
        parts = key.split(".")
        if key == "backbone.fin_wght1d.w":
            renamed["backbone.inputs_weights.3"] = tensor
        elif parts[1].startswith("stage") and parts[2] == "0":
            # Entry 0 held a one where the new layout holds a zero; a softmax over one number does not mind.
            renamed[f"backbone.inputs_weights.{parts[1][5:]}"] = tensor + 1 if parts[1] == "stage0" else tensor
        elif parts[1].startswith("stage"):
            renamed[".".join([*parts[:2], str(int(parts[2]) - 2), *parts[3:]])] = tensor
        else:
            renamed[key] = tensor
    return renamed


def test_the_legacy_layout_gives_the_same_embeddings() -> None:
    encoder, again = first(), ReDimNet(**FIRST).eval()
    old = legacy(encoder.state_dict())
    assert "backbone.stage0.0.weight" in old
    report = load_strict(again, old, "old.pt")
    assert report.complete
    assert report.layout == "legacy"
    assert "renamed from the legacy layout" in str(report)
    wave = noise(2, 16_000)
    assert torch.equal(again(wave).embedding, encoder(wave).embedding)


def test_a_wrapped_network_gives_the_same_embeddings() -> None:
    encoder, again = first(), ReDimNet(**FIRST).eval()
    wrapped = {}
    for key, tensor in encoder.state_dict().items():
        projection = key.startswith(("bn.", "linear."))
        wrapped[f"{'projection' if projection else 'backbone'}.{key}"] = tensor
    report = load_strict(again, wrapped, "best.pt")
    assert report.layout == "mrl"
    assert torch.equal(again(noise(1, 9_000)).embedding, encoder(noise(1, 9_000)).embedding)


def test_front_end_buffers_may_be_absent() -> None:
    for encoder in (first(), second()):
        state = encoder.state_dict()
        buffers = {key for key in state if key.startswith("spec.")}
        assert buffers
        report = load_strict(encoder, {key: state[key] for key in state.keys() - buffers}, "x.pt")
        assert report.complete
        assert set(report.recomputed) == buffers
        assert "recomputed" in str(report)


def test_front_end_buffers_may_differ_by_rounding_only() -> None:
    encoder = first()
    key = "spec.torchfbank.2.mel_scale.fb"
    state = encoder.state_dict()
    load_strict(encoder, {**state, key: state[key] + 5e-6}, "x.pt")
    with pytest.raises(WeightsError, match=rf"x\.pt: {key} differs by 0\.0001 .*another front end"):
        load_strict(encoder, {**encoder.state_dict(), key: state[key] + 1e-4}, "x.pt")
    with pytest.raises(WeightsError, match=r"mis-shaped: .*mel_scale\.fb \(257, 80\) instead of \(257, 24\)"):
        load_strict(encoder, {**state, key: torch.zeros(257, 80)}, "x.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_sixteen_bits_get_the_front_end_in_thirty_two(dtype: torch.dtype) -> None:
    encoder = first()
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    rounded = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    assert load_strict(encoder, rounded, "x.pt").complete
    for key, value in encoder.state_dict().items():
        torch.testing.assert_close(value, state[key] if key.startswith("spec.") else rounded[key].to(value.dtype))
    key = "spec.torchfbank.2.mel_scale.fb"
    with pytest.raises(WeightsError, match=rf"x\.pt: {key} differs .*another front end"):
        load_strict(encoder, {**rounded, key: (state[key] * 1.1).to(dtype)}, "x.pt")


def test_a_classifier_is_left_out_and_reported() -> None:
    encoder = first(num_classes=7, class_dropout=0.1, head_activation="softmax")
    extra = {"cls_head.2.weight": torch.zeros(7, 16)}
    report = load_strict(encoder, {**encoder.state_dict(), **extra}, "x.pt")
    assert report.left_out == ("cls_head.2.weight",)
    assert "1 left out: cls_head.2.weight" in str(report)


def test_what_is_missing_or_unexpected_is_listed() -> None:
    encoder = first()
    state = encoder.state_dict()
    del state["linear.bias"]
    with pytest.raises(WeightsError, match=r"1 missing: linear\.bias; 1 unexpected: backbone\.stage9\.2\.weight"):
        load_strict(encoder, {**state, "backbone.stage9.2.weight": torch.zeros(1)}, "x.pt")


def test_wespeaker_checkpoints_are_another_network() -> None:
    with pytest.raises(WeightsError, match=r"wespeaker.*another network"):
        load_strict(first(), {"seg_1.weight": torch.zeros(1), "backbone.stem.0.weight": torch.zeros(1)}, "avg.pt")


def test_subnormal_weights_are_flushed_and_counted() -> None:
    encoder = first()
    state = encoder.state_dict()
    state["linear.weight"][0, :3] = torch.finfo(torch.float32).tiny / 4
    report = load_strict(encoder, state, "x.pt")
    assert report.n_flushed == 3
    assert not encoder.linear.weight[0, :3].any()
    assert encoder.linear.weight[0, 3] != 0


# Lengths


@pytest.mark.parametrize("hop", [160, 240])
def test_shortest_input_is_two_frames_of_the_first_generation(hop: int) -> None:
    encoder = first(hop_length=hop)
    assert encoder.min_samples == 257  # the reflected ends need as many samples
    assert encoder(noise(1, 257)).frames.shape[2] == 1 + 257 // hop
    assert encoder.frame_rate_hz == 16_000 / hop


def test_shortest_input_is_one_step_in_time_of_the_second_generation() -> None:
    encoder = second()
    assert encoder.min_samples == 720  # four frames of 400 samples every 160, with 80 zeros at either end
    taps = encoder(noise(1, 720))
    assert taps.frames.shape[2] == 4
    assert taps.embedding.isfinite().all()
    # three frames are left of eight when the pooling leaves out five
    later = second(before_pool_offset=5)
    assert later(noise(1, later.min_samples)).frames.shape[2] == 3
    padded = second(pad_right_samples=400)
    assert padded.min_samples == 320
    assert padded(noise(1, 320)).frames.shape[2] == 4


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(720, 40_000))
def test_frames_of_the_second_generation_are_a_multiple_of_four(samples: int) -> None:
    frames = SECOND_NETWORK(torch.zeros(1, samples)).frames.shape[2]
    assert frames == ((samples + 160 - 400) // 160 + 1) // 4 * 4


SECOND_NETWORK = second()


def test_equal_lengths_run_together_and_others_by_themselves() -> None:
    encoder = first()
    seen: list[tuple[int, ...]] = []
    encoder.spec.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    lengths = torch.tensor([4_000, 8_000, 4_000, 6_001, 8_000])
    audio = noise(5, 8_000)
    taps = encoder(audio, lengths)
    assert sorted(seen) == [(1, 6_001), (2, 4_000), (2, 8_000)]
    for row, length in enumerate(lengths.tolist()):
        alone = encoder(audio[row : row + 1, :length])
        torch.testing.assert_close(taps.embedding[row], alone.embedding[0], rtol=0, atol=1e-6)
        assert int(taps.frame_mask[row].sum()) == alone.frames.shape[2]
    seen.clear()
    encoder(audio[:, :5_000])
    assert seen == [(5, 5_000)]


def test_return_2d_output_changes_the_order_of_the_channels() -> None:
    plane, line = second(), second(return_2d_output=False)
    a, b = plane(noise(1, 8_000)).frames, line(noise(1, 8_000)).frames
    channels, freqs = 24, 4
    torch.testing.assert_close(a, b.unflatten(1, (freqs, channels)).transpose(1, 2).flatten(1, 2))


def test_group_norm_may_have_any_number_of_groups() -> None:
    assert second(agg_gnorm=True).backbone.stem_gnorm.num_groups == 4
    assert second(agg_gnorm=8).backbone.stem_gnorm.num_groups == 8
    with pytest.raises(ModelError, match="agg_gnorm: 7 groups"):
        second(agg_gnorm=7)


# Parts


def test_flat_maps_have_frequency_slow() -> None:
    x = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)  # batch, channels, frequencies, frames
    flat = Flatten()(x)
    assert torch.equal(flat[:, 1 * 3 + 2], x[:, 2, 1])
    assert torch.equal(Unflatten(4, 3)(flat), x)


def test_channel_norm_normalises_every_place_over_channels() -> None:
    x = noise(2, 7, 3, 5) + 4
    norm = ChannelNorm(7)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(1, 2, 7))
        norm.bias.copy_(torch.linspace(-1, 1, 7))
    values = x.double().numpy()
    centred = values - values.mean(axis=1, keepdims=True)
    expected = centred / np.sqrt(values.var(axis=1, keepdims=True) + 1e-6)
    expected = expected * np.linspace(1, 2, 7)[:, None, None] + np.linspace(-1, 1, 7)[:, None, None]
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, atol=1e-4)
    torch.testing.assert_close(norm(x[:, :, 0]), norm(x)[:, :, 0])


def test_maps_are_summed_under_a_softmax_of_each_channel() -> None:
    weights = MapSum(3, 4)
    maps = [noise(2, 4, 6, seed=seed) for seed in range(3)]
    torch.testing.assert_close(weights(maps), sum(maps) / 3)
    with torch.no_grad():
        weights.w[0, 1, 2] = 50.0
    torch.testing.assert_close(weights(maps)[:, 2], maps[1][:, 2])
    torch.testing.assert_close(weights(maps)[:, 1], sum(maps)[:, 1] / 3)


# Precision and training


@pytest.mark.parametrize("make", [first, second])
def test_front_end_stays_in_float32_and_the_rest_follows(make: Any) -> None:
    encoder = make()
    wave = noise(2, 16_000)
    full = encoder(wave).embedding
    state = {key: tensor.clone() for key, tensor in encoder.spec.state_dict().items()}
    encoder.to(torch.bfloat16)
    assert all(torch.equal(tensor, state[key]) for key, tensor in encoder.spec.state_dict().items())
    assert all(tensor.dtype == torch.float32 for tensor in encoder.spec.state_dict().values())
    half = encoder(wave).embedding
    assert half.dtype == torch.bfloat16
    cosine = torch.nn.functional.cosine_similarity(half.float(), full)
    assert (cosine > 0.995).all()
    # In double precision the network is the same to the rounding of float32.
    double = make().double()(wave).embedding
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), full, rtol=1e-4, atol=1e-5)


def test_bands_are_blanked_in_training_only() -> None:
    encoder = first(spec_params={"do_spec_aug": True, "time_mask_width": [20, 21], "freq_mask_width": [5, 6]})
    wave = noise(3, 16_000)
    plain = encoder.spec(wave)
    assert not (plain == 0).any()
    torch.manual_seed(1)
    blanked = encoder.spec.train()(wave) == 0
    times, bands = blanked.all(dim=1).sum(dim=1), blanked.all(dim=2).sum(dim=1)
    assert times.tolist() == [20, 20, 20]
    assert bands.tolist() == [5, 5, 5]


def test_maps_are_dropped_in_training_only() -> None:
    encoder = first(feat_agg_dropout=0.9)
    wave = noise(2, 8_000)
    assert torch.equal(encoder(wave).embedding, first()(wave).embedding)
    encoder.backbone.train()
    assert not torch.allclose(encoder(wave).embedding, first()(wave).embedding)


# Configurations


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling_fun": "ASTP"}, "unknown key 'pooling_fun'; did you mean pooling_func"),
        ({"spec_params": {"norm_sinal": True}}, "unknown key 'norm_sinal'; did you mean norm_signal"),
        ({"spec_params": {"f_max": 8000.0}}, "f_max: only 7600.0"),
        ({"spec_params": {"spec_norm": "cmvn"}}, "no spec_norm 'cmvn'"),
        ({"feat_type": "pt_stft"}, "unknown feat_type 'pt_stft'"),
        ({"feat_type": "tf_spec"}, "tf_spec needs"),
        ({"pooling_func": "TSTP_var"}, r"unknown pooling 'TSTP_var'; known: ASTP, MHASTP"),
        ({"block_1d_type": "conv+rope"}, r"unknown block_1d_type 'conv\+rope'"),
        ({"block_2d_type": "dense"}, "unknown block_2d_type 'dense'"),
        ({"tf_optimized_arch": True}, "tf_optimized_arch"),
        ({"group_divisor": 9}, "group_divisor 9"),
        ({"group_divisor": 0}, "group_divisor 0"),
        ({"F": 25}, "25 frequencies cannot be divided by 2"),
        ({"stages_setup": []}, "stages_setup: list should have at least 1 item"),
        ({"stages_setup": [[1, 1, 1, None]]}, r"lacks 'stages_setup.0.4'"),
        ({"stages_setup": [["1", 1, 1, None, None]]}, r"stages_setup.0.0: input should be a valid integer, got '1'"),
        ({"stages_setup": [[1, 1, 1, None, 0]]}, "stages_setup.0.4: input should be greater than or equal to 1, got 0"),
        ({"stages_setup": [[1, 1, 0.1, None, None]]}, "leaves none of 4 channels"),
        (
            {"stages_setup": [[1, -1, 1, None, None]]},
            "setup.0.1: input should be greater than or equal to 0, got -1",
        ),
        ({"stages_setup": [[1, 1, 1, None, 16]]}, "4 heads cannot share 6 hidden channels"),
    ],
)
def test_what_describes_no_network_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build({"architecture": "redimnet", **FIRST, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fm_weigthing_type": "N"}, "fm_weigthing_type: only 'NC'"),
        ({"causal": "full"}, "causal: only 'none'"),
        ({"spec_in_channels": 2}, "spec_in_channels: only 1"),
        ({"is_subnet": True}, "is_subnet"),
        ({"stages_setup": [[1, 1, 1, [[3, 3]], None]]}, "stages_setup.0.0: input should be a valid tuple|array, got 1"),
        ({"spec_params": {"spec_norm": "mvn"}}, "feat_type tf has no spec_norm 'mvn'"),
        ({"tf_optimized_arch": False}, "unknown key 'tf_optimized_arch'"),
    ],
)
def test_what_the_second_generation_has_not_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build({"architecture": "redimnet2", **SECOND, **changes})


@pytest.mark.parametrize("key", ["stages_setup", "C", "spec_params", "return_2d_output"])
def test_what_has_no_known_default_must_be_stated(key: str) -> None:
    with pytest.raises(ModelError, match=f"lacks '{key}'"):
        build({"architecture": "redimnet2", **{k: v for k, v in SECOND.items() if k != key}})


def test_keys_that_change_nothing_here_are_accepted() -> None:
    ignored = {"num_classes": None, "class_dropout": 0.0, "head_activation": None, "return_all_outputs": True}
    wave = noise(1, 8_000)
    assert torch.equal(first(**ignored, tf_optimized_arch=False)(wave).embedding, first()(wave).embedding)
    later = {"att_dos": 0.1, "offset_fm_weights": 0, "is_subnet": False, "feat_agg_dropout": 0.2}
    assert torch.equal(second(**ignored, **later)(wave).embedding, second()(wave).embedding)
    stated = {"sample_rate": 16_000, "n_fft": 512, "win_length": 400, "f_min": 20, "f_max": 7600, "norm_signal": True}
    assert torch.equal(second(spec_params=stated)(wave).embedding, second()(wave).embedding)


def test_tuples_and_lists_are_alike() -> None:
    config = first(stages_setup=((1, 1, 1, ((3, 3),), 2),), spec_params={"time_mask_width": (0, 3)}).config()
    assert config["stages_setup"] == [[1, 1, 1, [[3, 3]], 2]]
    assert config["spec_params"] == {"time_mask_width": [0, 3]}
