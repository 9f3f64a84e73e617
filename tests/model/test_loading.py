"""Which encoder a call takes that names none, and what it says about it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")

from nestvox.encoders.ge2e import GE2E  # noqa: E402
from nestvox.errors import DownloadError, ModelError  # noqa: E402
from nestvox.model import loading  # noqa: E402
from nestvox.model.loading import load  # noqa: E402
from nestvox.zoo import weights as room  # noqa: E402
from nestvox.zoo.catalogue import WheelSource, find  # noqa: E402
from nestvox.zoo.weights import fetch  # noqa: E402


def saved(seed: int) -> bytes:
    torch.manual_seed(seed)
    stream = io.BytesIO()
    torch.save({"model_state": GE2E().state_dict()}, stream)
    return stream.getvalue()


CONTENT = {"strong": saved(1), "small": saved(2)}
ENTRIES = {
    name: dataclasses.replace(
        find("ge2e"),
        name=name,
        sources=(WheelSource(distribution=f"{name}voice", version="1.0", member="voice.pt", download_bytes=1),),
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    for name, content in CONTENT.items()
}


@pytest.fixture(autouse=True)
def two_encoders(tmp_path: Path, empty_cache: Path, empty_index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue of a strong and a small encoder, an empty cache, and a package index in a folder, which is empty."""
    monkeypatch.setattr(loading, "box_folder", lambda: None)  # else that would be taken
    monkeypatch.setattr(loading, "BEST_FIRST", ("strong", "small"))
    for module in (room, loading):
        monkeypatch.setattr(module, "find", ENTRIES.__getitem__)
    return tmp_path


def cache(name: str, folder: Path) -> None:
    (folder / f"{name}.pt").write_bytes(CONTENT[name])
    fetch(name, weights=folder / f"{name}.pt", announce=lambda message: None)


def publish(name: str, folder: Path) -> None:
    described = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}voice\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / "index" / f"{name}voice-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("voice.pt", CONTENT[name])
        for member, text in described.items():
            archive.writestr(f"{name}voice-1.0.dist-info/{member}", text)


def test_the_best_is_taken_where_it_is_here_and_that_is_said(tmp_path: Path) -> None:
    cache("small", tmp_path)
    cache("strong", tmp_path)
    said: list[str] = []
    assert load(announce=said.append).name == "strong"
    assert said == ["no model is named: strong is taken; --model strong or nestvox.load('strong') pins it"]


def test_the_best_is_fetched_though_another_is_here(tmp_path: Path) -> None:
    cache("small", tmp_path)
    publish("strong", tmp_path)
    said: list[str] = []
    seen: list[int] = []
    assert load(announce=said.append, progress=lambda done, total: seen.append(done)).name == "strong"
    assert [line.split(":")[0] for line in said] == ["strong", "no model is named"]
    assert "downloading strongvoice 1.0" in said[0]
    assert "Apache-2.0" in said[0]
    assert seen


@pytest.mark.parametrize("offline", [True, False])
def test_another_is_never_taken_silently(tmp_path: Path, offline: bool) -> None:
    cache("small", tmp_path)
    said: list[str] = []
    assert load(offline=offline, announce=said.append).name == "small"
    assert said[-1].startswith("WARNING: no model is named, and strong cannot be had: small is taken instead")
    reason = "offline, and its weights are not at" if offline else "pip could not fetch strongvoice==1.0"
    assert reason in said[-2]
    assert "--model small or nestvox.load('small') pins it" in said[-1]
    assert len(said) == (2 if offline else 3)


def test_where_none_can_be_had_everything_else_is_named() -> None:
    with pytest.raises(DownloadError, match="no model is named, and neither strong nor small can be had") as error:
        load(announce=lambda message: None)
    for part in (
        "pip could not fetch strongvoice==1.0",
        "pip could not fetch smallvoice==1.0",
        "--weights FILE",
        ".onnx",
        "nestvox models list",
    ):
        assert part in str(error.value)
    with pytest.raises(DownloadError, match=r"neither strong nor small can be had.*offline"):
        load(offline=True, announce=pytest.fail)


def test_a_name_has_its_encoder_or_none(tmp_path: Path) -> None:
    cache("small", tmp_path)
    assert load("small", announce=pytest.fail).name == "small"
    with pytest.raises(DownloadError, match="strong: offline"):
        load("strong", offline=True, announce=pytest.fail)


def test_weights_need_the_name_of_their_network(tmp_path: Path) -> None:
    cache("strong", tmp_path)
    with pytest.raises(ModelError, match=r"the weights .*own\.pt belong to a network: name it"):
        load(weights=tmp_path / "own.pt", announce=pytest.fail)


def test_a_wrong_device_is_told_before_anything_is_fetched() -> None:
    with pytest.raises(Exception, match="nonesuch"):
        load(device="nonesuch", announce=pytest.fail)
