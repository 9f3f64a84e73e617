"""Configurations of networks that no weights have: refused before anything is allocated."""

from __future__ import annotations

import time
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")

from nestvox.encoders.front_ends.kaldi_fbank import KaldiFbank  # noqa: E402
from nestvox.encoders.registry import build  # noqa: E402
from nestvox.errors import ModelError  # noqa: E402
from nestvox.zoo.variants import variants  # noqa: E402

FIRST = {"architecture": "redimnet", "F": 12, "C": 4, "stages_setup": [[1, 1, 1, [[3, 3]], None]], "group_divisor": 1}
SECOND = {
    "architecture": "redimnet2",
    "F": 12,
    "C": 4,
    "stages_setup": [[[1, 1], 1, 1, [[3, 3]], None]],
    "group_divisor": 1,
    "return_2d_output": False,
    "spec_params": {},
}
NAN, INF = float("nan"), float("inf")
NUMBERS: list[Any] = [0, -1, 10**9, 10**13, 10**30, NAN, INF, -INF, 1.5, "16", None, [16], {}, True]


@pytest.mark.parametrize("value", NUMBERS, ids=lambda value: f"{value!r:.12}")
@pytest.mark.parametrize("key", ["F", "C", "embed_dim", "hop_length"])
@pytest.mark.parametrize("base", [FIRST, SECOND], ids=["redimnet", "redimnet2"])
def test_sizes_that_are_none(base: dict[str, Any], key: str, value: Any) -> None:
    began = time.monotonic()
    with pytest.raises(ModelError, match=key):
        build({**base, key: value})
    assert time.monotonic() - began < 2


STAGES: list[Any] = [
    [],
    "stages",
    {},
    [[1, 10**9, 1, [[3, 3]], None]],
    [[1, 1, NAN, [[3, 3]], None]],
    [[1, 1, 10**9, [[3, 3]], None]],
    [[1, 1, "2", [[3, 3]], None]],
    [[0, 1, 1, [[3, 3]], None]],
    [[True, 1, 1, [[3, 3]], None]],
    [[1, 1, 1, [[3, 3]], 1.5]],
    [[1, 1, 1, [[3, 3]], "2"]],
    [[1, 1, 1, [[3, 3]], None]] * 10_000,
    [[10**30, 1, 1, [[3, 3]], None]],
]


@pytest.mark.parametrize("stages", STAGES, ids=range(len(STAGES)))
def test_stages_that_are_none(stages: Any) -> None:
    with pytest.raises(ModelError, match="stages_setup"):
        build({**FIRST, "stages_setup": stages})


@pytest.mark.parametrize("kernels", [[], [[0, 3]], [[3]], 3, [["3", 3]], [[3, 10**9]], [[3, 3]] * 1000])
def test_kernels_that_are_none(kernels: Any) -> None:
    with pytest.raises(ModelError, match="stages_setup"):
        build({**SECOND, "block_2d_type": "convnext_like", "stages_setup": [[[1, 1], 1, 1, kernels, None]]})


@pytest.mark.parametrize(
    "changes",
    [
        {"out_channels": 10**9},
        {"out_channels": -1},
        {"group_divisor": 0.5},
        {"feat_agg_dropout": NAN},
        {"emb_bn": "no"},
        {"global_context_att": 3},
        {"pooling_func": ["ASTP"]},
        {"feat_type": None},
        {"spec_params": [1]},
        {"spec_params": {"freq_mask_width": 3}},
        {"spec_params": {"freq_mask_width": [0, NAN]}},
        {"spec_params": {"do_preemph": "yes"}},
        {"spec_params": {"num_apply_spec_aug": 10**9}},
        {"spec_params": {"spec_norm": ["mn"]}},
        {"spec_params": {"pool_freqs": [0]}},
        {1: 2},
        {"x\x1b[31m": 1},
    ],
    ids=str,
)
def test_settings_that_are_none(changes: dict[Any, Any]) -> None:
    with pytest.raises(ModelError) as error:
        build({**FIRST, **changes})
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize("key", ["pad_right_samples", "before_pool_offset", "agg_gnorm"])
@pytest.mark.parametrize("value", [-1, 10**12, NAN, "1", [1]])
def test_settings_of_the_second_generation(key: str, value: Any) -> None:
    with pytest.raises(ModelError, match=key):
        build({**SECOND, key: value})


@pytest.mark.parametrize("key", ["partials_per_s", "min_coverage"])
@pytest.mark.parametrize("value", [NAN, INF, -1, 0, 10**400, "1", None, [1], True], ids=lambda v: f"{v!r:.10}")
def test_settings_of_ge2e(key: str, value: Any) -> None:
    with pytest.raises(ModelError, match=key):
        build({"architecture": "ge2e", key: value})


@pytest.mark.parametrize("key", ["size_bytes", "embedding_dim", "min_samples"])
@pytest.mark.parametrize("value", [0, -1, 10**13, NAN, "12", None, True])
def test_settings_of_an_onnx_file(key: str, value: Any) -> None:
    fine = {"architecture": "onnx", "size_bytes": 10, "embedding_dim": 4, "min_samples": 400, "front_end": {}}
    with pytest.raises(ModelError, match=key):
        build({**fine, key: value})


@pytest.mark.parametrize("key", ["size_bytes", "sample_rate", "min_samples", "pooled_dim", "embedding_dim"])
@pytest.mark.parametrize("value", [0, -1, 10**13, NAN, "12", None, True])
def test_settings_of_a_graph(key: str, value: Any) -> None:
    numbers = {"size_bytes": 10, "sample_rate": 16_000, "min_samples": 400, "pooled_dim": 4, "embedding_dim": 4}
    with pytest.raises(ModelError, match=key):
        build({"architecture": "graph", "written_from": "mixer", **numbers, key: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"n_mels": 10**9},
        {"n_mels": 80.0},
        {"n_mels": True},
        {"sample_rate": 10**12},
        {"sample_rate": "16000"},
        {"sample_rate": NAN},
        {"scale": NAN},
        {"scale": INF},
        {"scale": "1"},
        {"subtract_mean": "no"},
        {"window": ["povey"]},
    ],
    ids=str,
)
def test_filter_banks_that_are_none(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"no filter bank|unknown window"):
        KaldiFbank(**changes)


@pytest.mark.parametrize("architecture", [None, 3, ["ge2e"], {}, "", "x\x1b[2J"])
def test_architectures_that_are_none(architecture: Any) -> None:
    with pytest.raises(ModelError, match="unknown encoder architecture") as error:
        build({"architecture": architecture})
    assert "\x1b" not in str(error.value)


def test_a_network_much_larger_than_its_weights_is_not_built() -> None:
    wide = {**FIRST, "F": 512, "C": 4096, "embed_dim": 60_000}  # 1 TB, each number within its bounds
    began = time.monotonic()
    with pytest.raises(ModelError, match="a network of 252,252,040,821 numbers, the file holds 5,000,000"):
        build(wide, available=5_000_000)
    file = {"architecture": "onnx", "size_bytes": 10**9, "embedding_dim": 4, "min_samples": 400, "front_end": {}}
    with pytest.raises(ModelError, match="a network of 1,000,000,000 numbers"):
        build(file, available=20)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("size", [size for size in variants() if size.name in ("redimnet-b0", "redimnet2-b0")])
def test_published_networks_are_built_with_weights_of_their_size(size: Any) -> None:
    config = {**size.config, "architecture": size.architecture}
    plain = build(config)
    checked = build(config, available=sum(tensor.numel() for tensor in plain.state_dict().values()))
    assert {k: v.shape for k, v in checked.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    assert not any(tensor.is_meta for tensor in checked.state_dict().values())
