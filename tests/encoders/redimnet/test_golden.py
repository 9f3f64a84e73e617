"""ReDimNet against the official networks: names, counts, and what they give for the same weights and signals."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import redimnet_golden as golden
from keyed_weights import draw, keyed_weights
from nestvox.encoders.contract import Encoder
from nestvox.encoders.redimnet.config import ReDimNet2Config, ReDimNetConfig
from nestvox.encoders.registry import build
from nestvox.zoo.variants import variant, variants

NETWORKS = golden.networks()
LIMIT = 1e-4
# Names of the sizes here, and of the golden networks that were built from the same table.
SIZES = {
    entry.name: entry.name.replace("redimnet2-", "v2-").replace("redimnet-", "v1-")
    for entry in variants()
    if entry.name.startswith("redimnet")
}
SIZES |= {"redimnet2-b3-gnorm": "v2-b3-cnc2", "redimnet2-b6-gnorm": "v2-b6-cnc2", "redimnet-b2-mrl": golden.MRL}


def slow_if_large(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.slow) if NETWORKS[name].is_large else name


@cache
def outputs(name: str) -> object:
    return golden.outputs(NETWORKS[name])


@cache
def unfilled(name: str) -> Encoder:
    with torch.device("meta"):  # nothing is run, so no weights are drawn
        return build(NETWORKS[name].config)


@pytest.fixture(scope="session")
def originals(reference_dir: Path) -> Path:
    folder = reference_dir / "redimnet"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    return folder


def test_the_set_is_complete() -> None:
    assert len(NETWORKS) == 43
    for name in ("v1-b0", "v1-b6", "v1-M", "v1-S", "v2-b0", "v2-b6", "v2-b6-dual", "tiny1-TAP", "tiny2-gnorm-dual"):
        assert name in NETWORKS


def test_drawn_weights_begin_as_published() -> None:
    # init_selfcheck.json of the official run
    linear = draw("linear.weight", (192, 2304))
    first = [0.0009669903665781021, 0.027932031080126762, -0.006820491515100002, -0.0112755810841918]
    assert linear.flatten()[:4].tolist() == pytest.approx(first, rel=1e-6)
    assert float(linear.std()) == pytest.approx(0.018721885979175568, rel=1e-4)
    assert float(draw("backbone.stem.1.weight", (16,)).mean()) == pytest.approx(0.987305223941803, rel=1e-6)
    assert draw("bn.running_var", (2304,))[0] == pytest.approx(0.6938385963439941, rel=1e-6)
    assert draw("backbone.stage1.0.w", (1, 2, 1152, 1)).flatten()[0] == pytest.approx(1.9784798622131348, rel=1e-6)
    assert draw("bn.num_batches_tracked", ()).dtype == torch.int64


def test_drawn_weights_equal_the_published_ones(originals: Path) -> None:
    for key, expected in json.loads((originals / "init_selfcheck.json").read_text()).items():
        values = draw(key, tuple(expected["shape"])).double().flatten()
        assert values[:4].tolist() == pytest.approx(expected["first"], rel=1e-6), key
        assert float(values.mean()) == pytest.approx(expected["mean"], rel=1e-4), key
        assert float(values.std(correction=0)) == pytest.approx(expected["std"], rel=1e-4), key


def test_signals_equal_the_published_ones(originals: Path) -> None:
    for name, wave in golden.signals().items():
        np.testing.assert_allclose(wave, np.load(originals / f"signal_{name}.npy"), rtol=0, atol=1e-7)


def test_the_files_here_are_those_of_the_folder(originals: Path) -> None:
    for name, network in NETWORKS.items():
        assert np.array_equal(network.embedding, np.load(originals / f"{name}.emb.npy")), name
        described = json.loads((originals / f"{name}.json").read_text())
        config = {key: value for key, value in network.config.items() if key != "architecture"}
        assert described.get("model_config") in (config, None), name


@pytest.mark.parametrize("name", NETWORKS)
def test_tensors_and_parameters_are_those_of_the_official_network(name: str) -> None:
    network = NETWORKS[name]
    encoder = unfilled(name)
    state = golden.published_state(network, encoder)
    assert len(state) == network.tensors
    assert sum(tensor.numel() for tensor in state.values()) == network.elements
    assert sum(parameter.numel() for parameter in encoder.parameters()) == network.parameters
    assert golden.digest((key, tensor.shape) for key, tensor in state.items()) == network.names_sha256


@pytest.mark.parametrize("name", NETWORKS)
def test_names_shapes_and_types_one_by_one(name: str, originals: Path) -> None:
    state = golden.published_state(NETWORKS[name], unfilled(name))
    listed = golden.original_names(originals, name)
    found = {key: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for key, tensor in state.items()}
    expected = {key: (tuple(shape), dtype.removeprefix("torch.")) for key, shape, dtype in listed}
    assert found == expected


@pytest.mark.parametrize("name", [slow_if_large(name) for name in NETWORKS])
def test_embeddings_are_those_of_the_official_network(name: str) -> None:
    assert golden.compare(NETWORKS[name], outputs(name)).embedding < LIMIT


@pytest.mark.parametrize("name", [slow_if_large(name) for name in NETWORKS if name.startswith("v")])
def test_pooled_vectors_and_features_are_those_of_the_official_network(name: str, originals: Path) -> None:
    found = golden.compare(NETWORKS[name], outputs(name), originals)
    assert found.pooled is not None
    assert found.pooled < LIMIT
    assert (found.log_mel is not None) == (name in {"v1-b2", "v1-M", "v2-b2"})
    assert found.log_mel is None or found.log_mel < LIMIT


def test_a_wrong_constant_would_be_found() -> None:
    # The limit must tell a network from one that differs in the floor under its logarithm.
    network = NETWORKS["tiny1-convatt-resnet"]
    encoder = golden.with_keyed_weights(network)
    wave = torch.from_numpy(golden.signals()["c"])[None]
    expected = network.embedding[2:]
    encoder.spec.floor = 1e-5
    with torch.inference_mode():
        assert golden.relative(encoder(wave).embedding.numpy(), expected) > 10 * LIMIT


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_configured_as_the_golden_networks(size: str) -> None:
    described, network = variant(size), NETWORKS[SIZES[size]]
    config = {key: value for key, value in network.config.items() if key != "architecture"}
    kind = {"redimnet": ReDimNetConfig, "redimnet2": ReDimNet2Config}[described.architecture]
    assert described.architecture == network.config["architecture"]
    assert described.parameters == network.parameters
    assert kind.of(described.config).to_dict() == kind.of(config).to_dict()


def test_weights_may_keep_the_front_end() -> None:
    state = {"spec.x": torch.ones(2), "linear.weight": torch.zeros(2, 3)}
    drawn = keyed_weights(state)
    assert drawn["spec.x"] is state["spec.x"]
    assert torch.equal(drawn["linear.weight"], draw("linear.weight", (2, 3)))
