"""Weights of fewer bits: what is read back, spelled out by hand, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nestvox.encoders import build
from nestvox.errors import ModelError
from nestvox.model import SpeakerModel, load
from nestvox.model.storage import pack, unpack


def test_four_bits_are_steps_of_the_largest_of_a_block() -> None:
    row = np.zeros(40, np.float32)
    row[:4] = (7.0, -3.4, 0.6, 0.4)  # the scale of the first 32 is 1
    row[32:35] = (-1.75, 0.2, 0.1)  # of the others 0.25
    packed = pack(
        {"encoder.a": row[None], "encoder.b": row[:3], "encoder.fixed": row.reshape(5, 8)}, "int4", {"encoder.a"}
    )
    assert packed["encoder.a#int4"].shape == (1, 32)
    assert packed["encoder.a#int4"].dtype == np.uint8
    np.testing.assert_array_equal(packed["encoder.a#scales"], np.array([[1.0, 0.25]], np.float16))
    read = unpack(packed)
    expected = np.zeros(40, np.float32)
    expected[:4] = (7.0, -3.0, 1.0, 0.0)
    expected[32:35] = (-1.75, 0.25, 0.0)
    np.testing.assert_array_equal(read["encoder.a"], expected[None])
    np.testing.assert_array_equal(read["encoder.b"], row[:3])
    np.testing.assert_array_equal(read["encoder.fixed"], row.reshape(5, 8))


def test_eight_bits_are_steps_of_the_largest_of_a_row() -> None:
    rows = np.array([[127.0, -3.4, 0.6, 0.4], [-0.5, 0.25, 0.1, 0.0]], np.float32)
    packed = pack({"encoder.a": rows}, "int8", {"encoder.a"})
    np.testing.assert_array_equal(packed["encoder.a#int8"], np.array([[127, -3, 1, 0], [-127, 64, 25, 0]], np.int8))
    read = unpack(packed)["encoder.a"]
    np.testing.assert_array_equal(read[0], [127, -3, 1, 0])
    np.testing.assert_allclose(read[1], [-0.5, 64 / 254, 25 / 254, 0], rtol=2e-5)
    with pytest.raises(ModelError, match=r"encoder\.a in eight bits are damaged"):
        unpack({"encoder.a#int8": packed["encoder.a#int8"]})


@pytest.mark.parametrize("storage", ["float16", "int8", "int4"])
def test_what_was_rounded_once_stays(storage: Any) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "encoder.wide": rng.standard_normal((5, 7, 9)).astype(np.float32),
        "encoder.narrow": rng.standard_normal((6, 3)).astype(np.float32),
        "encoder.zeros": np.zeros((2, 64), np.float32),
        "encoder.count": np.array(3),
    }
    once = unpack(pack(arrays, storage, arrays))
    again = unpack(pack(once, storage, arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(once[name], again[name])
        assert once[name].shape == array.shape
        assert once[name].dtype == array.dtype
    limit = {"float16": 2**-11 * 4, "int8": 4 / 254, "int4": 4 / 14}[storage]
    assert np.abs(once["encoder.wide"] - arrays["encoder.wide"]).max() <= limit


def test_numbers_beyond_sixteen_bits_are_refused() -> None:
    with pytest.raises(ModelError, match=r"encoder\.a holds numbers beyond those of 16 bits \(1e\+05\)"):
        pack({"encoder.a": np.full((2, 2), 1e5, np.float32)}, "float16", {"encoder.a"})


def test_weights_that_would_change_are_not_saved(tmp_path: Path) -> None:
    model = SpeakerModel(build({"architecture": "mixer", "width": 16, "depth": 1, "groups": 2, "embedding_dim": 8}))
    with pytest.raises(ModelError, match="not exact in float16; `nestvox compress` rounds them"):
        model.save(tmp_path / "model", storage="float16")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda a: a.pop("encoder.front.0.weight#scales"), "lack their scales or shape"),
        (lambda a: a.update({"encoder.front.0.weight#shape": np.array([16, 1 << 40, 5])}), "are damaged"),
        (lambda a: a.update({"encoder.front.0.weight#shape": np.array([-16, -80, 5])}), "are damaged"),
    ],
)
def test_damaged_weights_are_an_error(tmp_path: Path, change: Any, problem: str) -> None:
    from nestvox.compression import compress

    model = SpeakerModel(build({"architecture": "mixer", "width": 16, "depth": 1, "groups": 2, "embedding_dim": 8}))
    compress(model, tmp_path, forms=["int4"])
    file = tmp_path / "int4" / "model.safetensors"
    arrays = load_file(file)
    change(arrays)
    save_file(arrays, file)
    with pytest.raises(ModelError, match=problem):
        load(tmp_path / "int4")
