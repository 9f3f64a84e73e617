"""Downloads beside another process, and from servers that lie, dawdle or never end."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestvox import download as room
from nestvox.download import download
from nestvox.errors import DownloadError

CONTENT = np.random.default_rng(1).bytes(200_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    def __init__(self) -> None:
        self.answer: Answer = whole
        self.requests: list[dict[str, str]] = []
        self.url = ""


def head(handler: BaseHTTPRequestHandler, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def whole(handler: BaseHTTPRequestHandler) -> None:
    head(handler, Content_Length=str(len(CONTENT)), ETag='"v1"')
    handler.wfile.write(CONTENT)


@pytest.fixture
def server(serve: Callable[[type[BaseHTTPRequestHandler]], str], monkeypatch: pytest.MonkeyPatch) -> Server:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            state.requests.append({name.lower(): value for name, value in self.headers.items()})
            state.answer(self)
            self.close_connection = True

    state.url = f"{serve(Handler)}/file"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "NESTVOX_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(room, "_BACKOFF_S", 0.01)
    return state


def fetch(server: Server, folder: Path, **options: Any) -> Path:
    given = {"sha256": None, "size": None, "what": "speech", "licence": "MIT", "announce": lambda message: None}
    return download(server.url, folder / "file.bin", **(given | options))


@pytest.mark.parametrize("known", [True, False])
def test_processes_that_fetch_one_file_at_once_all_get_it_and_one_asks(
    server: Server, tmp_path: Path, known: bool
) -> None:
    def slowly(handler: BaseHTTPRequestHandler) -> None:
        head(handler, Content_Length=str(len(CONTENT)))
        for first in range(0, len(CONTENT), 10_000):
            handler.wfile.write(CONTENT[first : first + 10_000])
            time.sleep(0.02)

    server.answer = slowly
    code = (
        "import hashlib, sys; from nestvox.download import download\n"
        "path = download(sys.argv[1], sys.argv[2], sha256=sys.argv[3] or None, size=None, what='x', licence='MIT')\n"
        "print(hashlib.sha256(path.read_bytes()).hexdigest())"
    )
    arguments = [sys.executable, "-c", code, server.url, str(tmp_path / "file.bin"), SHA256 if known else ""]
    running = [subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in running:
        said, wrong = process.communicate(timeout=60)
        assert (process.returncode, said.strip()) == (0, SHA256), wrong
    assert len(server.requests) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_a_part_of_another_version_is_not_joined(server: Server, tmp_path: Path) -> None:
    other = b"\1" * len(CONTENT)

    def changing(handler: BaseHTTPRequestHandler) -> None:
        # Honours a range and not If-Range, as some caches do.
        asked = handler.headers.get("Range")
        if len(server.requests) == 1:
            head(handler, Content_Length=str(len(other)), ETag='"v1"')
            handler.wfile.write(other[:50_000])
        elif asked:
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
            last = len(CONTENT) - 1
            head(handler, 206, Content_Range=f"bytes {first}-{last}/{len(CONTENT)}", ETag='"v2"')
            handler.wfile.write(CONTENT[first:])
        else:
            head(handler, Content_Length=str(len(CONTENT)), ETag='"v2"')
            handler.wfile.write(CONTENT)

    server.answer = changing
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_does_not_end_is_left(server: Server, tmp_path: Path, announced: bool) -> None:
    sent = 0

    def endless(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        head(handler)
        while sent < 200_000_000:
            handler.wfile.write(b"\0" * 1_000_000)
            sent += 1_000_000

    server.answer = endless
    with pytest.MonkeyPatch.context() as patch:
        if not announced:
            patch.setattr(room, "_MOST_UNANNOUNCED", 300_000)
        with pytest.raises(DownloadError, match="more than the 300000 bytes"):
            fetch(server, tmp_path, size=300_000 if announced else None)
    assert sent < 100_000_000
    assert list(tmp_path.iterdir()) == []


def test_a_transfer_that_only_drips_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        head(handler, Content_Length=str(len(CONTENT)), ETag='"v1"')
        for first in range(0, 20_000, 10):
            handler.wfile.write(CONTENT[first : first + 10])
            handler.wfile.flush()
            time.sleep(0.02)

    monkeypatch.setattr(room, "_GRACE_S", 0.2)
    server.answer = drip
    began = time.monotonic()
    with pytest.raises(DownloadError, match=r"too slow.*kept in"):
        fetch(server, tmp_path, sha256=SHA256)
    assert time.monotonic() - began < 5


def test_an_answer_whose_beginning_only_drips_is_given_up(server: Server, tmp_path: Path) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(200):
            handler.wfile.write(b"X-Header: a\r\n")
            handler.wfile.flush()
            time.sleep(0.05)

    server.answer = drip
    began = time.monotonic()
    with pytest.raises(DownloadError, match=r"connection lost|no connection|did not begin in time"):
        fetch(server, tmp_path, timeout_s=0.1, attempts=2)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<!DOCTYPE html><html><title>Sign in</title>", "a web page"),
        (b'{"error": "Repository not found"}', "Repository not found"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "git lfs pull"),
    ],
)
@pytest.mark.parametrize("known", ["hash", "size"])
def test_what_comes_in_place_of_the_file_is_named(
    server: Server, tmp_path: Path, body: bytes, words: str, known: str
) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        head(handler, Content_Length=str(len(body)))
        handler.wfile.write(body)

    server.answer = answer
    with pytest.raises(DownloadError, match=words):
        fetch(server, tmp_path, **({"sha256": SHA256} if known == "hash" else {"size": len(CONTENT)}))
    assert list(tmp_path.iterdir()) == []


def test_answers_that_make_no_sense_are_told(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler: head(handler, 302, Location="http://[half", Content_Length="0")
    with pytest.raises(DownloadError, match="makes no sense"):
        fetch(server, tmp_path)
    with pytest.raises(DownloadError, match="is no address"):
        download("http://[half", tmp_path / "x", sha256=None, size=None, what="x", licence="MIT")

    def long_number(handler: BaseHTTPRequestHandler) -> None:
        head(handler, Content_Length="9" * 6000)
        handler.wfile.write(CONTENT)

    server.answer = long_number
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_file_that_does_not_fit_on_the_disk_is_not_begun(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler: head(handler, Content_Length=str(10**16))
    with pytest.raises(DownloadError, match="has room for"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_note_that_is_nested_without_end_means_a_new_start(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.partial").write_bytes(b"old")
    (tmp_path / "file.bin.partial.json").write_text("[" * 50_000)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    note = {"url": server.url, "validator": '"v1"', "total": 5}
    (tmp_path / "file.bin").unlink()
    (tmp_path / "file.bin.partial").write_bytes(CONTENT[:3])
    (tmp_path / "file.bin.partial.json").write_text(json.dumps(note))
    assert fetch(server, tmp_path).read_bytes() == CONTENT
