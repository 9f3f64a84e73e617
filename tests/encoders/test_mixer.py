"""The mixers: parameters counted from their description, what a frame hears, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from keyed_weights import keyed_weights
from nestvox.encoders import MIXERS, MLPMixer, build
from nestvox.errors import ModelError
from nestvox.heads import LinearHead
from nestvox.model import SpeakerModel

SMALL: dict[str, Any] = {"width": 16, "expansion": 2, "groups": 2, "embedding_dim": 16}
TEMPORAL: dict[str, Any] = {**SMALL, "depth": 2, "kernels": [3, 5], "chunk": 6}


def drawn(**arguments: Any) -> MLPMixer:
    encoder = MLPMixer(**arguments).eval()
    encoder.load_state_dict(keyed_weights(encoder.state_dict()))
    return encoder


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def published_total(d: int, depth: int, e: int, g: int, *, front: int = 80) -> int:
    """The formula of the description: front, blocks, last norm, pooling, embedding."""
    tokens = 2 * e * d**2 // g + e * d + d
    channels = 3 * e * d**2 + 2 * e * d + d
    block = 4 * d + 5 * d + tokens + channels
    return (3 * front * d + 2 * d) + depth * block + 2 * d + 2 * (d**2 + d) + (2 * d * 512 + 512) + 1024


@pytest.mark.parametrize(
    ("width", "depth", "expansion", "total"),
    [
        (192, 6, 3, 2_664_576),
        (256, 8, 4, 7_844_864),
        (384, 4, 3, 7_008_000),
        (384, 4, 4, 9_076_992),
        (256, 6, 3, 4_617_216),
        (256, 6, 4, 5_998_080),
        (128, 12, 3, 2_291_968),
        (128, 12, 4, 2_984_704),
    ],
)
def test_the_published_sizes(width: int, depth: int, expansion: int, total: int) -> None:
    encoder = MLPMixer(variant="pointwise", width=width, depth=depth, expansion=expansion)
    assert parameters(encoder) == total == published_total(width, depth, expansion, 4)


def test_the_parts_of_the_published_network() -> None:
    encoder = MLPMixer(**MIXERS["v2"])
    assert parameters(encoder.front) == 46_464
    tokens, channels = encoder.blocks[0]
    assert [parameters(part) for part in encoder.blocks] == [390_912] * 6
    assert parameters(tokens.depthwise) + parameters(tokens.depthwise_norm) == 960
    assert parameters(tokens.mlp) == 56_064
    assert parameters(channels) - parameters(channels.norm) == 333_120


def test_every_configuration_has_the_count_that_is_written_down() -> None:
    found = {name: parameters(MLPMixer(**arguments)) for name, arguments in MIXERS.items()}
    d, h = 192, 128
    lstm_before = published_total(192, 6, 3, 4, front=h) + 4 * h * (80 + h) + 8 * h
    lstm_within = published_total(192, 6, 3, 4) + 6 * (2 * d + 4 * h * (d + h) + 8 * h + h * d + d)
    assert found == {
        "v2": 2_664_576,
        "v2-large": 7_844_864,
        "4x384": 7_008_000,
        "6x256": 4_617_216,
        "12x128": 2_291_968,
        "lstm-before": lstm_before,
        "lstm-within": lstm_within,
        "temporal": temporal_total(192, 6, 3, 4, kernels=(3, 7, 15, 31), chunk=24, stride=2, aggregated=384),
        "temporal-large": temporal_large_total(),
    }
    assert found["temporal"] == 1_773_840
    assert found["temporal-large"] == 2_872_816


def temporal_total(
    d: int, depth: int, e: int, g: int, *, kernels: tuple[int, ...], chunk: int, stride: int, aggregated: int
) -> int:
    depthwise = sum(kernels) * d // len(kernels) + 2 * d
    tokens = 2 * 2 * chunk**2 + 3 * chunk
    gates = (2 * d + 1) * (d // 4) + (d // 4 + 1) * d
    channels = (d // g * 2 * e * d + 2 * e * d) + (e * d // g * d + d)
    block = 2 * d + depthwise + tokens + gates + 2 * d + channels
    frames = depth * d * aggregated + aggregated + 2 * aggregated
    pool = aggregated * d + d + d * aggregated + aggregated
    return (80 * d * (2 * stride + 1) + 2 * d) + depth * block + frames + pool + (2 * aggregated * 512 + 512) + 1024


def temporal_large_total(d: int = 256, depth: int = 6, e: int = 2, planes: int = 16) -> int:
    """No chunks, no groups, no second halves; convolutions over 80 bands, 20 of which are left, before the front."""
    p = 2 * planes
    front = 9 * planes + 2 * planes + 9 * planes * p + 2 * p + 2 * (9 * p**2 + 2 * p) + 20 * p * d + 2 * d
    depthwise = (3 + 5 + 9 + 15) * d // 4 + 2 * d
    gates = (2 * d + 1) * (d // 4) + (d // 4 + 1) * d
    channels = 2 * e * d**2 + e * d + d
    frames = depth * d * d + d + 2 * d
    pool = 2 * (d**2 + d)
    return front + depth * (2 * d + depthwise + gates + 2 * d + channels) + frames + pool + (2 * d * 512 + 512) + 1024


def test_the_parameters_of_another_temporal_network() -> None:
    encoder = MLPMixer(width=48, depth=4, expansion=2, groups=3, kernels=[5, 9, 3], chunk=10, stride=4, aggregated=60)
    assert parameters(encoder) == temporal_total(48, 4, 2, 3, kernels=(5, 9, 3), chunk=10, stride=4, aggregated=60)


def heard_by(encoder: MLPMixer, frame: int, size: int) -> list[int]:
    """The features that a frame depends on, by the gradient."""
    features = torch.randn(1, 80, size, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    features.requires_grad_()
    frames = encoder.double().trunk(features, ())["frames"]
    weights = torch.linspace(-1, 2, encoder.frames_dim, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((frames[0, :, frame] * weights.square()).sum(), features)
    return gradient[0].abs().sum(dim=0).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(("depth", "field"), [(6, 15), (8, 19)])
def test_a_frame_of_pointwise_hears_no_more_than_its_receptive_field(depth: int, field: int) -> None:
    encoder = drawn(variant="pointwise", depth=depth, **SMALL)
    assert heard_by(encoder, 30, 60) == list(range(30 - field // 2, 30 + field // 2 + 1))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_frame_of_temporal_hears_everything(stride: int) -> None:
    encoder = drawn(**TEMPORAL, stride=stride)
    assert heard_by(encoder, 60 // stride // 2, 240) == list(range(240))


def test_swapping_two_halves_swaps_the_frames_of_pointwise_and_not_of_temporal() -> None:
    features = torch.randn(1, 80, 120, generator=torch.Generator().manual_seed(5))
    swapped = torch.cat([features[:, :, 60:], features[:, :, :60]], dim=2)
    change = {}
    for variant, more in (("pointwise", {}), ("temporal", {"stride": 1, "kernels": [3, 5], "chunk": 7})):
        encoder = drawn(variant=variant, depth=2, **SMALL, **more)
        with torch.inference_mode():
            straight, turned = (encoder.trunk(x, ())["frames"] for x in (features, swapped))
        back = torch.cat([turned[:, :, 60:], turned[:, :, :60]], dim=2)
        # What lies further from a seam than the convolutions reach, 3 frames in pointwise.
        inside = torch.arange(120) % 60
        inside = (inside >= 6) & (inside < 54)
        change[variant] = float((back - straight)[:, :, inside].abs().max())
    assert change["pointwise"] < 1e-5
    assert change["temporal"] > 1e-2


@pytest.mark.parametrize(("block", "borders"), [(0, (0, 6, 12, 18)), (1, (0, 3, 9, 15))])
def test_the_mlp_over_frames_mixes_within_chunks_that_every_other_block_shifts(
    block: int, borders: tuple[int, ...]
) -> None:
    tokens = drawn(**TEMPORAL).blocks[block][0].tokens
    x = torch.randn(1, 2, 20, generator=torch.Generator().manual_seed(6))
    jacobian = torch.autograd.functional.jacobian(lambda frames: tokens(frames)[0, 0], x)[:, 0]  # (20, 2, 20)
    chunk_of = torch.bucketize(torch.arange(20), torch.tensor(borders), right=True)
    assert torch.equal(jacobian[:, 0] != 0, chunk_of[:, None] == chunk_of)
    assert not jacobian[:, 1].any()  # channels stay apart


def test_temporal_mixing_by_its_parts() -> None:
    """Depth-wise convolutions one by one in one dimension, the chunks by a loop, gates from mean and deviation."""
    encoder = drawn(**TEMPORAL)
    mixing = encoder.blocks[0][0]
    x = torch.randn(3, 16, 14, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        h = mixing.norm(x)
        local = torch.cat([conv(h[:, 8 * n : 8 * n + 8]) for n, conv in enumerate(mixing.depthwise)], dim=1)
        mixed = functional.gelu(h + mixing.depthwise_norm(local))
        filled = functional.pad(mixed, (0, 4))
        tokens = torch.cat([mixing.tokens.mlp(filled[:, :, n : n + 6]) for n in (0, 6, 12)], dim=2)[:, :, :14]
        gates = mixing.gates(torch.cat([h.mean(dim=2), (h.var(dim=2, correction=0) + 1e-5).sqrt()], dim=1))
        torch.testing.assert_close(mixing(x), x + (mixed + tokens) * gates[:, :, None], rtol=0, atol=1e-5)


def test_channel_mixing_in_groups_is_the_grouped_convolution_and_reaches_every_channel() -> None:
    mixing = drawn(**{**TEMPORAL, "groups": 4}).blocks[0][1]
    x = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(8))

    def grouped(conv: torch.nn.Conv1d, values: Tensor) -> Tensor:
        return functional.conv1d(values, conv.weight, conv.bias, groups=4)

    with torch.inference_mode():
        halves = grouped(mixing.expand, mixing.norm(x)).reshape(2, 4, 2, 8, 5)
        best = halves.amax(dim=2)  # (B, groups, hidden of one, T')
        shuffled = torch.stack([best[:, n % 4, n // 4] for n in range(32)], dim=1)
        torch.testing.assert_close(mixing(x), x + grouped(mixing.reduce, shuffled), rtol=0, atol=1e-5)
    heard = torch.autograd.functional.jacobian(lambda v: mixing(v).sum(dim=(0, 2)), x).abs().sum(dim=(1, 3))
    assert (heard > 0).all()


@pytest.mark.parametrize("groups", [1, 4])
def test_channel_mixing_without_a_maximum(groups: int) -> None:
    mixing = drawn(**{**TEMPORAL, "groups": groups, "mfm": False}).blocks[0][1]
    x = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(8))
    with torch.inference_mode():
        h = functional.conv1d(mixing.norm(x), mixing.expand.weight, mixing.expand.bias, groups=groups)
        shuffled = functional.gelu(h).reshape(2, groups, 32 // groups, 5).transpose(1, 2).reshape(2, 32, 5)
        expected = x + functional.conv1d(shuffled, mixing.reduce.weight, mixing.reduce.bias, groups=groups)
        torch.testing.assert_close(mixing(x), expected, rtol=0, atol=1e-5)


def test_what_an_ablation_leaves_out() -> None:
    whole = parameters(MLPMixer(variant="pointwise"))

    def missing(**changes: Any) -> int:
        return whole - parameters(MLPMixer(variant="pointwise", **changes))

    assert missing(id_conv=False) == 6 * (3 * 192 + 2 * 192)
    assert missing(mfm=False) == 6 * (3 * 192 * 192 + 3 * 192)  # one of two halves of 576 hidden channels
    assert missing(pooling="mean") == 2 * (192 * 192 + 192) + 192 * 512
    assert missing(groups=1) == -6 * 3 * 2 * 3 * 192 * 48
    assert heard_by(drawn(variant="pointwise", depth=2, **SMALL, id_conv=False), 20, 40) == [19, 20, 21]  # the front
    plain = drawn(variant="pointwise", depth=1, **SMALL, pooling="mean")
    with torch.inference_mode():
        taps = plain(0.1 * torch.randn(1, 8_000, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(taps.pooled, taps.frames.mean(dim=2))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_planes_see_bands_move(stride: int) -> None:
    """Features that are moved by 4 bands move the convolutions' result by one of 20 bands, beyond the edges."""
    planes = drawn(**TEMPORAL, planes=3, stride=stride).planes
    assert planes is not None
    x = torch.randn(1, 80, 41, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        still, moved = (planes(features).view(1, 6, 20, -1) for features in (x, x.roll(4, dims=1)))
    assert still.shape[3] == -(-41 // stride)
    torch.testing.assert_close(moved[:, :, 6:15], still[:, :, 5:14], rtol=0, atol=1e-5)


def test_pointwise_mixing_by_its_parts() -> None:
    mixing = drawn(variant="pointwise", depth=1, **SMALL).blocks[0][0]
    x = torch.randn(2, 16, 9, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        h = functional.layer_norm(x.transpose(1, 2), (16,), mixing.norm.weight, mixing.norm.bias).transpose(1, 2)
        h = h + mixing.depthwise_norm(mixing.depthwise(h))
        first, _, _, second, _ = mixing.mlp
        hidden = functional.gelu(functional.conv1d(h, first.weight, first.bias, groups=2))
        expected = x + functional.conv1d(hidden, second.weight, second.bias, groups=2)
        torch.testing.assert_close(mixing(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MIXERS)
def test_every_configuration_runs_from_its_own_config(name: str) -> None:
    arguments = {**MIXERS[name], "width": 16, "depth": 2, "embedding_dim": 8}
    if "lstm" in arguments:
        arguments["lstm"] = 4
    encoder = drawn(**arguments)
    again = build({"architecture": "mixer", **encoder.config()}).eval()
    again.load_state_dict(encoder.state_dict())
    audio = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        taps = again(audio, torch.tensor([16_000, 9_001]), layers=again.layer_rates_hz)
        alone = encoder(audio[1:, :9_001]).embedding[0]
    torch.testing.assert_close(taps.embedding[1], alone, rtol=0, atol=1e-6)
    rates = {layer: found.frame_rate_hz for layer, found in taps.layers.items()}
    behind = 50.0 if name.startswith("temporal") else 100.0
    assert rates == {"features": 100.0, "front": behind, "block1": behind, "block2": behind}


def test_an_lstm_within_the_blocks_hears_what_came_before() -> None:
    heard = heard_by(drawn(variant="pointwise", depth=1, **SMALL, lstm=4, lstm_place="within"), 20, 40)
    assert heard == list(range(23))


def test_a_nested_head_begins_as_its_embedding() -> None:
    encoder = drawn(variant="pointwise", width=16, depth=1)
    dims = [16, 32, 64, 128, 256, 512]
    model = SpeakerModel(encoder, LinearHead.from_pretrained(encoder.projection(), None, dims))
    audio = [0.1 * torch.randn(8_000, generator=torch.Generator().manual_seed(n)).numpy() for n in range(2)]
    assert model.dims == tuple(dims)
    whole = torch.from_numpy(SpeakerModel(encoder).embed(audio))
    for dim in dims:
        short = torch.from_numpy(model.embed(audio, dim=dim))
        torch.testing.assert_close(short, functional.normalize(whole[:, :dim], dim=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"width": 10**9}, "width"),
        ({"width": 0}, "width"),
        ({"width": "16"}, "width"),
        ({"width": True}, "width"),
        ({"depth": 10**6}, "depth"),
        ({"expansion": 1.5}, "expansion"),
        ({"groups": 0}, "groups"),
        ({"groups": 3}, "3 groups cannot share a width of 16"),
        ({"embedding_dim": None}, "embedding_dim"),
        ({"dropout": float("nan")}, "dropout"),
        ({"dropout": 1.0}, "dropout"),
        ({"stride": 3}, "stride"),
        ({"aggregated": -1}, "aggregated"),
        ({"kernels": []}, "kernels must be odd"),
        ({"kernels": [3, 4]}, "kernels must be odd"),
        ({"kernels": [3, 3, 3]}, "share a width of 16"),
        ({"kernels": [10**9]}, "kernels"),
        ({"kernels": [3] * 1000}, "kernels"),
        ({"chunk": 1}, "chunk of one frame"),
        ({"chunk": 10**9}, "chunk"),
        ({"variant": "token"}, "variant"),
        ({"variant": "pointwise"}, "mixes nothing over time"),
        ({"variant": "pointwise", "kernels": None}, "mixes nothing over time"),
        ({"variant": "pointwise", "kernels": None, "chunk": None, "planes": 4}, "planes"),
        ({"planes": 4, "lstm": 4}, "planes"),
        ({"planes": -1}, "planes"),
        ({"mfm": 1}, "mfm"),
        ({"id_conv": False}, "id_conv"),
        ({"pooling": "maximum"}, "pooling"),
        ({"lstm": -1}, "lstm"),
        ({"lstm_place": "within"}, "no effect"),
        ({"lstm": 4, "lstm_place": "behind"}, "lstm_place"),
    ],
)
def test_what_describes_no_network_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        build({"architecture": "mixer", **TEMPORAL, **changes})
