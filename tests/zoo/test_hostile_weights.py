"""Weights files that lie about themselves: refused by name, before anything is allocated, in bounded time."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")

from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from nestvox.errors import WeightsError  # noqa: E402
from nestvox.zoo.checkpoint import read_checkpoint  # noqa: E402
from nestvox.zoo.weights import load_strict  # noqa: E402


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


class Storage:
    def __init__(self, kind: Any = torch.FloatStorage, key: Any = "0", numbers: Any = 4) -> None:
        self.reference = ("storage", kind, key, "cpu", numbers)


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.reference if isinstance(obj, Storage) else None


def pickled(value: Any) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def tensor(
    shape: Any = (4,), strides: Any = (1,), offset: Any = 0, storage: Any = None, function: Any = None, *more: Any
) -> Call:
    function = function or torch._utils._rebuild_tensor_v2
    return Call(function, storage or Storage(), offset, shape, strides, False, OrderedDict(), *more)


def archive(path: Path, program: bytes, data: bytes = b"\0" * 16, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", program)
        file.writestr("x/byteorder", b"little")
        file.writestr("x/data/0", data)
        file.writestr("x/version", b"3\n")
        for name, content in members.items():
            file.writestr(f"x/{name}", content)
    return path


def legacy(path: Path, value: Any, stated: int = 4, data: bytes = b"\0" * 16) -> Path:
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]

    class Legacy(Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return (*obj.reference, None) if isinstance(obj, Storage) else None

    stream = io.BytesIO()
    Legacy(stream, protocol=2).dump(value)
    path.write_bytes(b"".join([*parts, stream.getvalue(), pickle.dumps(["0"], 2), struct.pack("<q", stated), data]))
    return path


def test_the_forms_of_these_tests_are_those_of_torch(tmp_path: Path) -> None:
    data = np.arange(4, dtype=np.float32).tobytes()
    for path in (
        archive(tmp_path / "a.pt", pickled({"a": tensor()}), data),
        legacy(tmp_path / "b.pt", {"a": tensor()}, data=data),
        archive(tmp_path / "c.pt", pickled({"a": tensor((2, 2), (1, 2))}), data),
    ):
        assert read_checkpoint(path).tensors["a"].sum() == 6.0
    assert read_checkpoint(tmp_path / "c.pt").tensors["a"].tolist() == [[0.0, 2.0], [1.0, 3.0]]


BIG = 10**13
TENSORS: dict[str, Any] = {
    "a storage longer than its bytes": tensor(storage=Storage(numbers=4_000_000)),
    "a storage of 10^13 numbers": tensor(storage=Storage(numbers=BIG)),
    "a storage of -1 numbers": tensor(storage=Storage(numbers=-1)),
    "a storage whose size is text": tensor(storage=Storage(numbers="4")),
    "a storage that is not there": tensor(storage=Storage(key="7")),
    "a storage elsewhere": tensor(storage=Storage(key="../../../etc/passwd")),
    "an offset beyond the storage": tensor(offset=1),
    "an offset of 10^13": tensor(offset=BIG),
    "an offset before the storage": tensor(offset=-1),
    "a shape of 10^13": tensor((BIG,)),
    "a shape of 10^13 by repeating": tensor((BIG,), (0,)),
    "a shape of 10^18 in two": tensor((10**9, 10**9), (0, 0)),
    "a shape beyond 64 bits": tensor((10**4000,)),
    "a negative shape": tensor((-4,)),
    "strides beyond the storage": tensor((2, 2), (3, 1)),
    "negative strides": tensor((4,), (-1,)),
    "more strides than sizes": tensor((4,), (1, 1)),
    "a shape that is a list": tensor([4], [1]),
    "a shape of texts": tensor(("4",), (1,)),
    "a shape of 65 dimensions": tensor((1,) * 65, (1,) * 65),
    "a quantised storage": tensor(storage=Storage(kind=torch.QInt8Storage)),
    "a tensor without a storage": Call(torch._utils._rebuild_tensor_v2, [1.0], 0, (1,), (1,), False, OrderedDict()),
    "a tensor made of a number": Call(torch.Tensor, BIG),
    "a storage made of a number": Call(torch.FloatStorage, BIG),
    "bytes made of a number": Call(bytearray, BIG),
    "a meta tensor": Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (4,), (1,), False),
    "a call of a call": Call(Call(torch.Size, [1]), 1),
}


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("value", TENSORS.values(), ids=TENSORS.keys())
def test_tensors_that_lie(tmp_path: Path, value: Any, form: str) -> None:
    write = archive if form == "zip" else legacy
    try:
        program = {"a": value}
        path = write(tmp_path / "x.pt", pickled(program) if form == "zip" else program)
    except pickle.PicklingError:
        pytest.skip("cannot be written")
    began = time.monotonic()
    with pytest.raises(WeightsError, match=r"x\.pt: "):
        read_checkpoint(path)
    assert time.monotonic() - began < 5


def test_a_tensor_that_is_made_and_thrown_away_is_checked_too(tmp_path: Path) -> None:
    # POP after the call: nothing in the result refers to it.
    body = pickled(tensor((BIG,), storage=Storage(numbers=4)))
    program = body[:-1] + b"0}."
    with pytest.raises(WeightsError, match="beyond the 4 numbers"):
        read_checkpoint(archive(tmp_path / "x.pt", program))


KINDS: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse": (lambda: torch.eye(3).to_sparse(), "sparse.*to_dense"),
    "sparse rows": (lambda: torch.eye(3).to_sparse_csr(), "sparse.*to_dense"),
    "quantised": (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantised.*dequantize"),
    "meta": (lambda: torch.ones(3, device="meta"), "device meta"),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), "type complex64; read are"),
    "eight bits": (lambda: torch.ones(3).to(torch.float8_e4m3fn), "type float8_e4m3fn; read are"),
    "a numpy array": (lambda: np.ones(3), r"numpy|expected a dictionary of tensors"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "words"), KINDS.values(), ids=KINDS.keys())
def test_kinds_of_tensors_that_no_network_has_are_named(tmp_path: Path, make: Callable[[], Any], words: str) -> None:
    torch.save({"layer.weight": make()}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=words):
        read_checkpoint(tmp_path / "x.pt")


def test_kinds_in_safetensors_are_named_too(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.ones(3).to(torch.float8_e5m2)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"layer\.weight is of the type float8_e5m2; read are"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_repeated_tensors_do_not_fill_the_memory(tmp_path: Path) -> None:
    whole = tensor((1_000_000,), storage=Storage(numbers=1_000_000))
    program = {str(number): whole for number in range(10_000)}
    path = archive(tmp_path / "x.pt", pickled(program), b"\0" * 4_000_000)
    with pytest.raises(WeightsError, match="by repeating them"):
        read_checkpoint(path)


def test_a_tuple_that_cannot_be_hashed_in_time_is_no_key(tmp_path: Path) -> None:
    program = b"\x80\x02}K\x01" + b"2\x86" * 60 + b"K\x02s."  # DUP, TUPLE2: 2^60 numbers to hash
    began = time.monotonic()
    with pytest.raises(WeightsError, match="as its key"):
        read_checkpoint(archive(tmp_path / "x.pt", program))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # an integer of 2 GB that is not there
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a text likewise
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a place in the memo that a table would need 64 GB for
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",  # 100,000 lists in each other
        b"\x80\x02\x82\x01.",  # an extension of the registry
        b"",
    ],
)
def test_pickles_that_lie(tmp_path: Path, program: bytes) -> None:
    with pytest.raises(WeightsError, match=r"x\.pt: "):
        read_checkpoint(archive(tmp_path / "x.pt", program))


# Archives


def test_archives_that_unpack_to_more_than_a_file_of_weights(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", pickled({"a": tensor(storage=Storage(numbers=10_000_000))}))
        file.writestr("x/data/0", b"\0" * 40_000_000)
    with pytest.raises(WeightsError, match="are to unpack to 40,"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("size", [2**31, 10**13])
def test_archives_whose_members_are_longer_than_the_file(tmp_path: Path, size: int) -> None:
    path = archive(tmp_path / "x.pt", pickled({"a": tensor(storage=Storage(numbers=size // 4))}))
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4) + 4)
    lying = content[: at + 20] + struct.pack("<II", size % 2**32, size % 2**32) + content[at + 28 :]
    path.write_bytes(lying)
    with pytest.raises(WeightsError, match=r"x\.pt: not a readable checkpoint"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Duplicate")
def test_archives_that_name_a_member_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
        file.writestr("x/data.pkl", pickled({"a": tensor()}))
        file.writestr("x/data.pkl", pickled({"a": tensor((BIG,))}))
        file.writestr("x/data/0", b"\0" * 16)
    with pytest.raises(WeightsError, match="twice"):
        read_checkpoint(tmp_path / "x.pt")


class Net(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


@pytest.mark.filterwarnings("ignore")
def test_programs_are_named_and_the_way_out_does_not_switch_the_protection_off(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"TorchScript.*torch\.jit\.load.*state_dict") as error:
        read_checkpoint(tmp_path / "x.pt")
    assert "weights_only" not in str(error.value)
    with zipfile.ZipFile(tmp_path / "y.pt", "w") as file:
        file.writestr("y/archive_format", "pt2")
    with pytest.raises(WeightsError, match=r"torch\.export.*state_dict"):
        read_checkpoint(tmp_path / "y.pt")
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as file:
        file.writestr("resemblyzer/pretrained.pt", "")
    with pytest.raises(WeightsError, match=r"ZIP archive of something else, which holds resemblyzer/pretrained\.pt"):
        read_checkpoint(tmp_path / "z.pt")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False])
def test_objects_that_may_run_code_are_named(tmp_path: Path, zipped: bool) -> None:
    import argparse

    content = {"state": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=1), "net": Net()}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"argparse\.Namespace.*\.Net") as error:
        read_checkpoint(tmp_path / "x.pt", state_key="state")
    assert "weights_only" not in str(error.value)
    assert "network.state_dict()" in str(error.value)


def test_the_keys_that_were_found_and_those_that_are_looked_for_are_named(tmp_path: Path) -> None:
    torch.save({"ema": {"a": torch.ones(1), "b": torch.ones(1)}, "epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"under 'state_dict', else at the top, found ema \(2 tensors\), epoch"):
        read_checkpoint(tmp_path / "x.pt", state_key="state_dict")


# Other contents and other kinds of files


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 17090379\n", "git lfs pull"),
        (b"<!doctype html><html><title>Sign in</title></html>", "a web page"),
        (b'{"error": "Entry not found"}', "Entry not found"),
        (b"/annex/objects/SHA256E-s9--ab.pt\n", "git annex get"),
        (b"\x1f\x8b\x08\x00" + b"x" * 40, "gunzip"),
    ],
)
def test_what_stands_in_the_place_of_weights_is_named(tmp_path: Path, suffix: str, content: bytes, words: str) -> None:
    (tmp_path / f"x{suffix}").write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        read_checkpoint(tmp_path / f"x{suffix}")


def test_a_file_of_the_other_kind_is_told_its_suffix(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"safetensors file; give it the suffix \.safetensors"):
        read_checkpoint(tmp_path / "x.pt")
    torch.save({"a": torch.ones(1)}, tmp_path / "y.safetensors")
    with pytest.raises(WeightsError, match=r"give it the suffix \.pt"):
        read_checkpoint(tmp_path / "y.safetensors")


def test_tar_archives_and_plain_pickles_are_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.pt", "w") as file:
        file.addfile(tarfile.TarInfo("tensors"))
    with pytest.raises(WeightsError, match="a tar archive"):
        read_checkpoint(tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(pickle.dumps({"a": [1.0]}))
    with pytest.raises(WeightsError, match=r"pickle that torch\.save did not write"):
        read_checkpoint(tmp_path / "y.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_only_regular_files_are_opened(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"fifo{suffix}")
    (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    (tmp_path / f"folder{suffix}").mkdir()
    for name, words in (("fifo", "a FIFO"), ("zero", "a device"), ("folder", "a folder")):
        with pytest.raises(WeightsError, match=f"{words}, not a regular file"):
            read_checkpoint(tmp_path / f"{name}{suffix}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested"),
        ('{"C": ' + "9" * 6000 + "}", "6,000 digits"),
        ('{"C": NaN}', "NaN"),
        ("[1]", "must be a dictionary, found list"),
        ("{", "not JSON"),
    ],
)
def test_configurations_beside_the_tensors_go_through_the_gate(tmp_path: Path, text: str, words: str) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"config": text})
    with pytest.raises(WeightsError, match=words):
        read_checkpoint(tmp_path / "x.safetensors")


def test_configurations_in_a_checkpoint_go_through_it_too(tmp_path: Path) -> None:
    for value, words in ((float("nan"), "NaN"), (10**5000, "plain values|digits"), ([1, {2}], "plain values")):
        torch.save({"state": {"a": torch.ones(1)}, "config": {"C": value}}, tmp_path / "x.pt")
        with pytest.raises(WeightsError, match=words):
            read_checkpoint(tmp_path / "x.pt", state_key="state", config_key="config")


@pytest.mark.parametrize("stated", [10**12, 2**63, 0])
def test_safetensors_whose_header_is_longer_than_the_file(tmp_path: Path, stated: int) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**13], "data_offsets": [0, 4 * 10**13]}}).encode()
    length = stated or len(header)
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + header + b"\0" * 16)
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        read_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("kind", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint8])
def test_numbers_of_another_kind_are_not_put_into_a_network(kind: Any) -> None:
    layer = nn.Linear(2, 2, bias=False)
    before = layer.weight.clone()
    with pytest.raises(WeightsError, match=r"x\.pt: weight is of the type .*float32 there"):
        load_strict(layer, {"weight": torch.ones(2, 2).to(kind)}, "x.pt")
    assert torch.equal(layer.weight, before)
    for precision in (torch.float16, torch.bfloat16, torch.float64):
        load_strict(layer, {"weight": torch.ones(2, 2).to(precision)}, "x.pt")
        assert layer.weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]
