"""Fixtures that several rooms share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

from nestvox.testing import World, make_world

if TYPE_CHECKING:
    from nestvox.encoders import Encoder
    from nestvox.errors import DownloadError

# A deadline says something about the machine's other work, not about the code; tests that measure time do so openly.
settings.register_profile("nestvox", deadline=None)
settings.load_profile("nestvox")
# Hypothesis takes constants of every module that is loaded for its examples: in a fresh clone it parses all of them,
# eight seconds of each worker, and none of these tests asks for that.
providers.is_local_module_file = lambda _: False  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parents[1]


def _material(variable: str, folder: str) -> Path:
    path = Path(os.environ.get(variable, ROOT.parent / "shared" / folder))
    if not path.is_dir():
        pytest.skip(f"no folder {path}; set {variable} to run this test")
    return path


@pytest.fixture(scope="session")
def speech_dir() -> Path:
    """Folder with utterances.tsv, trials_dev.txt, trials_test.txt and the audio they name."""
    return _material("NESTVOX_SPEECH", "speech")


@pytest.fixture(scope="session")
def lists_dir() -> Path:
    """Folder with the public VoxCeleb and VoxSRC lists and scores."""
    return _material("NESTVOX_LISTS", "lists")


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Folder with golden vectors of other implementations."""
    return _material("NESTVOX_REFERENCE", "reference")


@pytest.fixture(scope="session")
def codec_dir() -> Path:
    """Folder with the two files of the codec Lyra v2."""
    return _material("NESTVOX_CODEC", "codec")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Twelve speakers whose trials, table and store agree."""
    return make_world(tmp_path)


@pytest.fixture
def serve() -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """Starts a server on this machine that answers by a handler, and gives its address; it ends with the test."""
    servers = []

    def start(handler: type[BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        server.handle_error = lambda *args: None  # a client that hangs up is what some tests do
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of weights that is empty, and a network that may be asked."""
    monkeypatch.setenv("NESTVOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NESTVOX_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def empty_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only package index of pip, and empty."""
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


@pytest.fixture(scope="session")
def pretrained() -> Callable[[str], Encoder | DownloadError]:
    """A catalogue encoder with its weights, from the user's own cache, or the error that says why not."""
    pytest.importorskip("torch", reason="the extra [torch] is not installed")
    from nestvox.errors import DownloadError
    from nestvox.zoo import load_encoder

    @cache
    def load(name: str) -> Encoder | DownloadError:
        try:
            return load_encoder(name)
        except DownloadError as error:
            return error

    return load


@pytest.fixture(scope="session")
def ge2e(pretrained: Callable[[str], Encoder | DownloadError]) -> Encoder:
    """The pretrained GE2E encoder; skips where its weights cannot be had."""
    from nestvox.errors import DownloadError

    loaded = pretrained("ge2e")
    if isinstance(loaded, DownloadError):
        pytest.skip(f"the weights of ge2e cannot be had here: {loaded}")
    return loaded
