"""The contract of every encoder: each architecture with random weights, each catalogue entry with its own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from keyed_weights import keyed_weights
from nestvox.encoders import Encoder, architectures, build
from nestvox.errors import DownloadError, ModelError
from nestvox.zoo import CatalogueEntry, entries
from nestvox.zoo.cache import cached_weights
from nestvox.zoo.catalogue import WheelSource

Pretrained = Callable[[str], Encoder | DownloadError]

# A small network of each architecture that says how it is built, with every kind of layer that looks across time.
SMALL: dict[str, dict[str, Any]] = {
    "campplus": {
        "head_channels": 4,
        "initial": 16,
        "growth": 4,
        "bottleneck": 32,
        "blocks": [[2, 1], [3, 2], [2, 2]],
        "embedding_dim": 16,
    },
    "ecapa": {"channels": 16, "aggregated": 12, "scale": 4, "bottleneck": 6, "embedding_dim": 16},
    "lstm_autoencoder": {"channels": 8, "bottleneck": 6, "hidden": 8, "embedding_dim": 16},
    "mimi": {
        "sample_rate": 16_000,
        "filters": 4,
        "size": 16,
        "ratios": [8, 5, 4],
        "depth": 2,
        "heads": 2,
        "feed_forward": 24,
        "window": 20,
        "codebooks": 0,
    },
    "mixer": {"width": 16, "depth": 3, "expansion": 2, "groups": 2, "kernels": [3, 5], "chunk": 6, "embedding_dim": 16},
    "redimnet": {
        "F": 24,
        "C": 4,
        "block_1d_type": "conv+att",
        "block_2d_type": "basic_resnet_fwse",
        "stages_setup": [[1, 1, 2, [[3, 3]], 2], [2, 1, 1, [[3, 3]], 3], [3, 1, 1, [[3, 3]], None]],
        "group_divisor": 2,
        "embed_dim": 16,
        "global_context_att": True,
        "spec_params": {"norm_signal": True},
    },
    "redimnet2": {
        "F": 24,
        "C": 4,
        "block_1d_type": "conv+att",
        "block_2d_type": "convnext_like",
        "stages_setup": [
            [[1, 1], 1, 2, [[3, 5]], 2],
            [[2, 2], 1, 1, [[3, 3], [3, 5]], 3],
            [[1, 2], 1, 0.5, [[3, 3]], 4],
        ],
        "group_divisor": 1,
        "out_channels": 6,
        "embed_dim": 16,
        "feat_type": "tf",
        "spec_params": {"norm_signal": True},
        "return_2d_output": True,
        "agg_gnorm": True,
        "dual_agg": True,
    },
}
# They have neither random weights nor gradients: test_onnx_encoder, test_compress and test_lyra are about them.
FILES = {"graph", "lyra", "onnx"}
NETWORKS = [name for name in architectures() if name not in FILES]
# Nothing here downloads the many weights on the web; those that are in the cache already are tested, slowly: a small
# network of each architecture holds the contract otherwise.
WITH_WEIGHTS = [
    pytest.param(entry, marks=pytest.mark.slow, id=f"{entry.name}-weights")
    for entry in entries()
    if (isinstance(entry.sources[0], WheelSource) or cached_weights(entry).is_file())
    and entry.architecture not in FILES
]


def needs(architecture: str) -> None:
    """Skip where the extra that its network is built by is not installed."""
    if architecture == "mimi":
        pytest.importorskip("transformers", reason="the extra [codec] is not installed")


def random_encoder(config: Mapping[str, Any]) -> Encoder:
    needs(config["architecture"])
    torch.manual_seed(11)
    encoder = build(config).eval()
    if encoder.architecture in SMALL:
        encoder.load_state_dict(keyed_weights(encoder.state_dict()))
        return encoder
    # As initialised, networks hardly hear their input: far enough from linear, every frame leaves its trace.
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(4.0)
    return encoder


@pytest.fixture(scope="module", params=[*NETWORKS, *WITH_WEIGHTS])
def encoder(request: pytest.FixtureRequest, pretrained: Pretrained) -> Encoder:
    if not isinstance(request.param, CatalogueEntry):
        return random_encoder({"architecture": request.param, **SMALL.get(request.param, {})})
    loaded = pretrained(request.param.name)
    if isinstance(loaded, Encoder):
        return loaded
    # Where the weights cannot be had, the configuration of the entry is still tested.
    return random_encoder({"architecture": request.param.architecture, **request.param.config})


def clips(encoder: Encoder) -> list[torch.Tensor]:
    """Noise of several lengths and levels, the shortest allowed among them."""
    rng = np.random.default_rng(3)
    rate = encoder.sample_rate
    lengths = (encoder.min_samples, rate, round(1.9 * rate) + 1, round(3.2 * rate) - 7, round(1.6 * rate))
    levels = (0.1, 0.001, 0.3, 0.02, 0.05)
    noise = [rng.standard_normal(n) * level for n, level in zip(lengths, levels, strict=True)]
    return [torch.from_numpy(wave.astype(np.float32)) for wave in noise]


def batch_of(waves: list[torch.Tensor], padding: float, extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(wave) for wave in waves])
    audio = torch.full((len(waves), int(lengths.max()) + extra), padding)
    for row, wave in zip(audio, waves, strict=True):
        row[: len(wave)] = wave
    return audio, lengths


def test_the_registry_holds_every_architecture_of_the_catalogue() -> None:
    assert {entry.architecture for entry in entries()} <= set(architectures())


@cache  # many entries are trainings of one network
def unfilled(config: str) -> Encoder:
    with torch.device("meta"):  # nothing is run, so no weights are drawn
        return build(json.loads(config))


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_a_catalogue_entry_describes_its_network(entry: CatalogueEntry) -> None:
    needs(entry.architecture)
    built = unfilled(json.dumps({"architecture": entry.architecture, **entry.config}))
    assert built.sample_rate == entry.sample_rate
    assert built.embedding_dim == entry.embedding_dim


def test_config_round_trips_through_json(encoder: Encoder) -> None:
    config = json.loads(json.dumps({"architecture": encoder.architecture, **encoder.config()}))
    again = build(config)
    assert type(again) is type(encoder)
    assert again.config() == encoder.config()
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in encoder.state_dict().items()}


def test_an_unknown_argument_is_refused(encoder: Encoder) -> None:
    with pytest.raises(ModelError, match="bananas"):
        build({"architecture": encoder.architecture, **encoder.config(), "bananas": 3})


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'nonesuch'.*ge2e"):
        build({"architecture": "nonesuch"})
    with pytest.raises(ModelError, match="None"):
        build({})


def test_shapes_and_masks_of_the_taps(encoder: Encoder) -> None:
    audio, lengths = batch_of(clips(encoder), 0.0)
    with torch.inference_mode():
        taps = encoder(audio, lengths)
    size, frames = taps.frame_mask.shape
    assert size == len(lengths)
    assert taps.frames.shape == (size, encoder.frames_dim, frames)
    assert taps.pooled.shape == (size, encoder.pooled_dim)
    assert taps.embedding.shape == (size, encoder.embedding_dim)
    assert taps.frame_mask.dtype == torch.bool
    assert taps.frame_mask.any(dim=1).all()
    assert not taps.frames.transpose(1, 2)[~taps.frame_mask].any()
    # The mask is a run of true from the start, longer for longer clips, at the rate that the encoder states.
    counts = taps.frame_mask.sum(dim=1)
    assert torch.equal(taps.frame_mask, torch.arange(frames) < counts[:, None])
    assert counts[lengths.argsort()].diff().min() >= 0
    long = torch.zeros(1, 20 * encoder.sample_rate)
    with torch.inference_mode():
        assert int(encoder(long).frame_mask.sum()) == pytest.approx(20 * encoder.frame_rate_hz, abs=4)


def test_a_batch_gives_what_each_clip_gives_alone(encoder: Encoder) -> None:
    waves = clips(encoder)
    audio, lengths = batch_of(waves, 0.0)
    with torch.inference_mode():
        together = encoder(audio, lengths)
        for row, wave in enumerate(waves):
            alone = encoder(wave[None])
            real = together.frames[row][:, together.frame_mask[row]]
            for found, expected in (
                (real, alone.frames[0]),
                (together.pooled[row], alone.pooled[0]),
                (together.embedding[row], alone.embedding[0]),
            ):
                limit = 1e-6 * max(1.0, float(expected.abs().max()))
                torch.testing.assert_close(found, expected, rtol=0, atol=limit)


def test_layers_have_names_a_rate_and_no_trace_of_padding(encoder: Encoder) -> None:
    waves = clips(encoder)
    audio, lengths = batch_of(waves, float("nan"), extra=1_234)
    with torch.inference_mode():
        together = encoder(audio, lengths, layers=encoder.layer_rates_hz)
        plain = encoder(audio, lengths)
        assert not plain.layers
        assert torch.equal(plain.embedding, together.embedding)
        assert list(together.layers) == list(encoder.layer_rates_hz)
        for row, wave in enumerate(waves):
            alone = encoder(wave[None], layers=encoder.layer_rates_hz)
            for name, layer in together.layers.items():
                real, by_itself = layer.values[row][:, layer.mask[row]], alone.layers[name]
                assert by_itself.mask.all()
                limit = 1e-5 * max(1.0, float(real.abs().max()))
                torch.testing.assert_close(real, by_itself.values[0], rtol=0, atol=limit)
                assert not layer.values[row][:, ~layer.mask[row]].any()
        long = encoder(torch.zeros(1, 20 * encoder.sample_rate), layers=encoder.layer_rates_hz)
    for name, layer in long.layers.items():
        assert layer.frame_rate_hz == encoder.layer_rates_hz[name]
        assert int(layer.mask.sum()) == pytest.approx(
            20 * layer.frame_rate_hz, abs=max(4, 0.04 * 20 * layer.frame_rate_hz)
        )
    with pytest.raises(ModelError, match=r"hands out no layer 'nonesuch'; there is \w+"):
        encoder(waves[1][None], layers=["nonesuch"])


def test_layers_differ_and_hear_the_audio(encoder: Encoder) -> None:
    one, other = (wave[None, :16_000] for wave in clips(encoder)[1:3])
    with torch.inference_mode():
        first, second = (encoder(wave, layers=encoder.layer_rates_hz).layers for wave in (one, other))
    for name, layer in first.items():
        assert (layer.values - second[name].values).abs().max() > 1e-5, name
    values = [layer.values for layer in first.values()]
    for before, after in itertools.pairwise(values):
        assert before.shape != after.shape or not torch.equal(before, after)


def test_one_forward_is_pooled_under_many_masks(encoder: Encoder) -> None:
    audio, lengths = batch_of(clips(encoder)[1:], float("nan"), extra=4_321)
    with torch.inference_mode():
        taps = encoder(audio, lengths)
        frames, whole = taps.frames, taps.frame_mask
        assert torch.equal(encoder.pool(frames, whole), taps.pooled)
        assert torch.equal(encoder.embed(taps.pooled), taps.embedding)
        # All frames, the first half, the last half (two at least), and two at the ends.
        place, count = torch.arange(whole.shape[1]), whole.sum(dim=1, keepdim=True)
        half = torch.clamp(count // 2, min=2)
        ends = (place == 0) | (place == count - 1)
        if encoder.pool.fewest_frames > 1:
            ends |= (place == 1) & (count == 1)
        masks = torch.stack([whole, whole & (place < half), whole & (place >= count - half), ends], dim=1)
        pooled = encoder.pool(frames.masked_fill(~whole[:, None], torch.nan), masks)
        embedded = encoder.embed(pooled)
        assert pooled.shape == (*masks.shape[:2], encoder.pooled_dim)
        assert embedded.shape == (*masks.shape[:2], encoder.embedding_dim)
        for row, number in itertools.product(range(len(frames)), range(4)):
            chosen = frames[row : row + 1, :, masks[row, number]]
            alone = encoder.pool(chosen, torch.ones(1, chosen.shape[2], dtype=torch.bool))
            limit = 1e-5 * max(1.0, float(alone.abs().max()))
            torch.testing.assert_close(pooled[row, number], alone[0], rtol=0, atol=limit)
            torch.testing.assert_close(embedded[row, number], encoder.embed(alone)[0], rtol=0, atol=1e-5)
    with pytest.raises(ModelError, match="at least"):
        encoder.pool(frames, torch.zeros_like(whole))
    with pytest.raises(ModelError, match="bool"):
        encoder.pool(frames, whole.float())


@pytest.mark.parametrize("garbage", [0.9, -1.0, float("nan"), float("inf")])
def test_what_stands_in_the_padding_does_not_matter(encoder: Encoder, garbage: float) -> None:
    waves = clips(encoder)
    with torch.inference_mode():
        clean = encoder(*batch_of(waves, 0.0))
        spoilt = encoder(*batch_of(waves, garbage, extra=12_345))
    torch.testing.assert_close(spoilt.pooled, clean.pooled, rtol=0, atol=1e-6)
    torch.testing.assert_close(spoilt.embedding, clean.embedding, rtol=0, atol=1e-6)


def test_the_order_of_a_batch_does_not_matter(encoder: Encoder) -> None:
    audio, lengths = batch_of(clips(encoder), 0.0)
    order = torch.tensor([3, 0, 4, 2, 1])
    with torch.inference_mode():
        straight = encoder(audio, lengths).embedding
        shuffled = encoder(audio[order], lengths[order]).embedding
    torch.testing.assert_close(shuffled, straight[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-6, 1.0])
def test_the_shortest_clip_is_finite(encoder: Encoder, level: float) -> None:
    wave = clips(encoder)[0] * level
    assert len(wave) == encoder.min_samples
    taps = encoder(wave[None])
    assert taps.frames.isfinite().all()
    assert taps.pooled.isfinite().all()
    assert taps.embedding.isfinite().all()


def test_a_shorter_clip_is_refused(encoder: Encoder) -> None:
    audio = torch.zeros(2, encoder.min_samples)
    with pytest.raises(ModelError, match="needs at least"):
        encoder(audio[:, 1:])
    with pytest.raises(ModelError, match="needs at least"):
        encoder(audio, torch.tensor([encoder.min_samples, encoder.min_samples - 1]))


@pytest.mark.parametrize(
    ("audio", "lengths"),
    [
        (torch.zeros(16_000), None),
        (torch.zeros(1, 1, 16_000), None),
        (torch.zeros(1, 16_000, dtype=torch.int16), None),
        (torch.zeros(0, 16_000), None),
        (torch.zeros(1, 16_000), torch.tensor([16_001])),
        (torch.zeros(1, 16_000), torch.tensor([16_000, 16_000])),
    ],
    ids=["1-D", "3-D", "integers", "empty batch", "too long", "too many lengths"],
)
def test_malformed_batches_are_refused(encoder: Encoder, audio: torch.Tensor, lengths: torch.Tensor | None) -> None:
    with pytest.raises(ModelError):
        encoder(audio, lengths)


def test_gradients_reach_every_parameter_and_the_audio(encoder: Encoder) -> None:
    audio, lengths = batch_of(clips(encoder), 0.0)
    audio.requires_grad_()
    embedding = encoder(audio, lengths).embedding
    weights = torch.linspace(-1, 1, embedding.numel()).view_as(embedding)
    parameters = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad((embedding * weights).sum(), [*parameters.values(), audio])
    for name, gradient in zip([*parameters, "audio"], gradients, strict=True):
        assert gradient.isfinite().all(), name
        # A softmax over time does not see what is added to all of its inputs.
        assert gradient.any() or name.endswith(("k_proj.bias", "pool.linear2.bias")), name
    beyond = torch.arange(audio.shape[1]) >= lengths[:, None]
    assert not gradients[-1][beyond].any()


def test_evaluation_is_deterministic(encoder: Encoder) -> None:
    audio, lengths = batch_of(clips(encoder), 0.0)
    with torch.inference_mode():
        assert torch.equal(encoder(audio, lengths).embedding, encoder(audio, lengths).embedding)


def test_different_clips_have_different_embeddings(encoder: Encoder) -> None:
    with torch.inference_mode():
        embedding = encoder(*batch_of(clips(encoder), 0.0)).embedding
    distances = torch.cdist(embedding, embedding) + torch.eye(len(embedding))
    assert distances.min() > 1e-4


def test_projection_makes_the_embedding_of_pooled(encoder: Encoder) -> None:
    """Up to a positive factor: what a head begins from is what the encoder was published for."""
    affine = encoder.projection()
    assert affine is not None
    assert affine.weight.shape == (encoder.embedding_dim, encoder.pooled_dim)
    audio = torch.stack([clip[:16_000] for clip in clips(encoder) if len(clip) >= 16_000])
    with torch.inference_mode():
        taps = encoder(audio)
    expected = taps.embedding.double().numpy()
    found = taps.pooled.double().numpy() @ affine.weight.T + affine.bias
    expected, found = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (expected, found))
    np.testing.assert_allclose(found, expected, atol=2e-6)
