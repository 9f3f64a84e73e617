"""Downloads against a local server that breaks off, corrupts, ignores ranges, redirects, stalls and refuses."""

from __future__ import annotations

import hashlib
import io
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestvox import download as room
from nestvox import web
from nestvox.download import download, file_sha256, offline_by_environment, readable_size
from nestvox.errors import DownloadError

CONTENT = np.random.default_rng(0).bytes(1_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """What the server does, and what it was asked for."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag: str | None = '"v1"'
        self.ranges = True
        self.announce_length = True
        self.stop_after: list[int] = []  # bytes after which each of the next answers ends
        self.statuses: list[int] = []  # codes with which the next requests are refused
        self.redirects: dict[str, str] = {}
        self.wrong_part = False
        self.stall_s = 0.0
        self.requests: list[dict[str, str]] = []
        self.url = ""


@pytest.fixture
def server(serve: Callable[[type[BaseHTTPRequestHandler]], str], monkeypatch: pytest.MonkeyPatch) -> Server:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            state.requests.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
            if self.path in state.redirects:
                self.send_response(302)
                self.send_header("Location", state.redirects[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            start = 0
            asked = self.headers.get("Range")
            if asked and state.ranges and self.headers.get("If-Range", state.etag) == state.etag:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(state.content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(state.content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                said = start + 1 if state.wrong_part else start
                self.send_header("Content-Range", f"bytes {said}-{len(state.content) - 1}/{len(state.content)}")
            else:
                self.send_response(200)
            body = state.content[start:]
            if state.announce_length:
                self.send_header("Content-Length", str(len(body)))
            if state.etag is not None:
                self.send_header("ETag", state.etag)
            self.end_headers()
            if state.stop_after:
                body = body[: state.stop_after.pop(0)]
            self.wfile.write(body)
            self.wfile.flush()
            if state.stall_s:
                time.sleep(state.stall_s)
            self.close_connection = True

    state.url = serve(Handler)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "NESTVOX_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(room, "_BACKOFF_S", 0.01)
    monkeypatch.setattr(room, "_LONGEST_BACKOFF_S", 0.02)
    return state


class Call:
    """`download` with the arguments that most tests share, and a record of what it said."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.destination = folder / "corpora" / "speech.tar.gz"
        self.said: list[str] = []
        self.seen: list[tuple[int, int | None]] = []

    def __call__(self, path: str = "/file", **options: Any) -> Path:
        options = {"sha256": SHA256, "size": len(CONTENT), "what": "speech", "licence": "CC-BY-4.0", **options}
        options.setdefault("announce", self.said.append)
        options.setdefault("progress", lambda done, total: self.seen.append((done, total)))
        url = path if "://" in path else self.server.url + path
        return download(url, self.destination, **options)

    def left(self) -> set[str]:
        return {path.name for path in self.destination.parent.iterdir()} if self.destination.parent.is_dir() else set()


@pytest.fixture
def call(server: Server, tmp_path: Path) -> Call:
    return Call(server, tmp_path)


def whole(call: Call) -> None:
    assert call.destination.read_bytes() == CONTENT
    assert call.left() == {"speech.tar.gz"}


def test_a_file_arrives_announced_with_progress(server: Server, call: Call) -> None:
    assert call() == call.destination
    whole(call)
    assert len(call.said) == 1
    for part in ("speech", "1.0 MB", server.url, "CC-BY-4.0", str(call.destination)):
        assert part in call.said[0]
    assert call.seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in call.seen] == sorted(done for done, _ in call.seen)


def test_it_is_announced_before_the_server_hears_of_it(server: Server, call: Call) -> None:
    heard_before = []
    call(announce=lambda message: heard_before.append(len(server.requests)))
    assert heard_before == [0]


def test_the_right_file_is_not_fetched_again(server: Server, call: Call) -> None:
    call()
    call(offline=True)
    assert len(server.requests) == 1
    assert len(call.said) == 1


def test_a_wrong_file_in_its_place_is_replaced(call: Call) -> None:
    call.destination.parent.mkdir()
    call.destination.write_bytes(b"\0" * len(CONTENT))
    call()
    whole(call)


def test_without_hash_and_size_the_server_is_believed(call: Call) -> None:
    call(sha256=None, size=None)
    whole(call)
    assert "unknown size" in call.said[0]


@pytest.mark.parametrize("etag", ['"v1"', None])
def test_a_broken_connection_is_continued_where_it_broke(server: Server, call: Call, etag: str | None) -> None:
    server.etag = etag
    server.stop_after = [300_000, 200_000]
    call()
    whole(call)
    assert [r.get("range") for r in server.requests] == [None, "bytes=300000-", "bytes=500000-"]
    assert [r.get("if-range") for r in server.requests] == [None, etag, etag]


def test_without_hash_and_validator_it_starts_anew(server: Server, call: Call) -> None:
    server.etag = None
    server.stop_after = [300_000]
    call(sha256=None)
    whole(call)
    assert [r.get("range") for r in server.requests] == [None, None]


def test_a_weak_etag_is_no_validator(server: Server, call: Call) -> None:
    server.etag = 'W/"v1"'
    server.stop_after = [300_000]
    call(sha256=None)
    whole(call)
    assert [r.get("range") for r in server.requests] == [None, None]


def test_a_server_that_ignores_ranges_sends_it_whole(server: Server, call: Call) -> None:
    server.ranges = False
    server.stop_after = [300_000]
    call()
    whole(call)


def test_an_interrupted_call_is_continued_by_the_next(server: Server, call: Call) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done >= 400_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(progress=interrupt)
    assert not call.destination.exists()
    kept = (call.destination.parent / "speech.tar.gz.partial").stat().st_size
    assert kept >= 400_000
    call()
    whole(call)
    assert server.requests[-1]["range"] == f"bytes={kept}-"
    assert call.seen[0][0] > kept


def test_a_file_that_changed_meanwhile_comes_whole_in_its_new_form(server: Server, call: Call) -> None:
    server.stop_after = [300_000]
    server.content = b"\1" * len(CONTENT)
    with pytest.raises(DownloadError):
        call(attempts=1)
    server.content, server.etag = CONTENT, '"v2"'
    call()
    whole(call)
    assert server.requests[-1]["if-range"] == '"v1"'


def test_a_wrong_first_part_is_thrown_away_once(server: Server, call: Call) -> None:
    # No validator, so only the hash can tell that the first part was of another file.
    server.etag = None
    server.stop_after = [300_000]
    server.content = b"\1" * len(CONTENT)
    with pytest.raises(DownloadError):
        call(attempts=1)
    server.content = CONTENT
    call()
    whole(call)
    assert [r.get("range") for r in server.requests] == [None, "bytes=300000-", None]


def test_wrong_content_is_refused_and_not_kept(server: Server, call: Call) -> None:
    server.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(DownloadError, match=f"SHA-256 {hashlib.sha256(server.content).hexdigest()}, expected {SHA256}"):
        call()
    assert call.left() == set()
    assert len(server.requests) == 1


def test_another_size_is_refused_before_the_content_comes(server: Server, call: Call) -> None:
    server.content = CONTENT + b"x"
    with pytest.raises(DownloadError, match="holds 1000001 bytes, expected 1000000"):
        call()
    assert call.seen == []
    assert call.left() == set()


def test_more_than_promised_without_a_stated_length_is_refused(server: Server, call: Call) -> None:
    server.announce_length = False
    server.content = CONTENT + b"x"
    with pytest.raises(DownloadError, match="more than the 1000000 bytes"):
        call()
    assert call.left() == set()


def test_a_partial_file_that_is_whole_only_needs_its_name(server: Server, call: Call) -> None:
    server.announce_length = False
    server.stop_after = [999_999]
    with pytest.raises(DownloadError):
        call(attempts=1)
    (call.destination.parent / "speech.tar.gz.partial").write_bytes(CONTENT)
    call()
    whole(call)
    assert len(server.requests) == 1


def test_a_range_beyond_the_end_says_that_all_is_there(server: Server, call: Call) -> None:
    server.stop_after = [999_999]
    with pytest.raises(DownloadError):
        call(attempts=1, size=None)
    (call.destination.parent / "speech.tar.gz.partial").write_bytes(CONTENT)
    call(size=None)
    whole(call)
    assert server.requests[-1]["range"] == "bytes=1000000-"


def test_a_partial_file_longer_than_the_file_is_thrown_away(server: Server, call: Call) -> None:
    server.stop_after = [999_999]
    with pytest.raises(DownloadError):
        call(attempts=1, size=None)
    (call.destination.parent / "speech.tar.gz.partial").write_bytes(CONTENT + b"xx")
    call(size=None)
    whole(call)


def test_a_server_that_sends_another_part_is_not_believed(server: Server, call: Call) -> None:
    server.stop_after = [300_000]
    server.wrong_part = True
    call()
    whole(call)
    assert [r.get("range") for r in server.requests] == [None, "bytes=300000-", None]


def test_the_partial_file_of_another_address_is_not_used(server: Server, call: Call) -> None:
    server.stop_after = [300_000]
    with pytest.raises(DownloadError):
        call(attempts=1)
    call("/elsewhere")
    whole(call)
    assert "range" not in server.requests[-1]


@pytest.mark.parametrize("note", [b"", b"[1]", b"\xff\xfe"])
def test_a_damaged_note_means_a_new_start(server: Server, call: Call, note: bytes) -> None:
    server.stop_after = [300_000]
    with pytest.raises(DownloadError):
        call(attempts=1)
    (call.destination.parent / "speech.tar.gz.partial.json").write_bytes(note)
    call()
    whole(call)
    assert "range" not in server.requests[-1]


def test_redirects_are_followed_with_the_range(server: Server, call: Call) -> None:
    server.redirects = {"/file": "/moved", "/moved": server.url + "/there"}
    server.stop_after = [300_000]
    call()
    whole(call)
    assert server.requests[-1]["path"] == "/there"
    assert server.requests[-1]["range"] == "bytes=300000-"


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_redirects_to_other_schemes_are_refused(server: Server, call: Call, target: str) -> None:
    server.redirects = {"/file": target}
    with pytest.raises(DownloadError):
        call()
    assert call.left() == set()


def test_a_circle_of_redirects_ends(server: Server, call: Call) -> None:
    server.redirects = {"/file": "/other", "/other": "/file"}
    with pytest.raises(DownloadError, match="302"):
        call()


@pytest.mark.parametrize(
    ("status", "words"), [(404, "no such file"), (403, "refuses"), (401, "login"), (410, "withdrawn"), (400, "400")]
)
def test_refusals_are_final_and_explained(server: Server, call: Call, status: int, words: str) -> None:
    server.statuses = [status] * 9
    with pytest.raises(DownloadError, match=words) as error:
        call()
    assert len(server.requests) == 1
    assert server.url in str(error.value)
    assert str(call.destination) in str(error.value)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(server: Server, call: Call, status: int) -> None:
    server.statuses = [status, status]
    call()
    whole(call)
    assert len(server.requests) == 3


def test_it_is_given_up_after_so_many_tries_that_brought_nothing(server: Server, call: Call) -> None:
    server.statuses = [503] * 9
    with pytest.raises(DownloadError, match=r"503.*3 tries"):
        call(attempts=3)
    assert len(server.requests) == 3


def test_tries_that_brought_something_are_not_counted(server: Server, call: Call) -> None:
    server.stop_after = [100_000] * 8
    call(attempts=2)
    whole(call)


def test_a_server_that_always_breaks_off_at_the_same_place_is_given_up(server: Server, call: Call) -> None:
    server.ranges = False
    server.stop_after = [100_000] * 50
    with pytest.raises(DownloadError, match="100000 of 1000000"):
        call(attempts=3)
    assert len(server.requests) == 3


def test_a_silent_server_is_left_and_the_rest_asked_for(server: Server, call: Call) -> None:
    server.stop_after = [300_000]
    server.stall_s = 1.5
    begun = time.monotonic()
    with pytest.raises(DownloadError, match=r"timed out.*kept in"):
        call(timeout_s=0.2, attempts=1)
    assert time.monotonic() - begun < 1.4
    server.stall_s = 0.0
    call()
    whole(call)
    assert server.requests[-1]["range"] == "bytes=300000-"


def test_nobody_at_the_address(call: Call) -> None:
    with pytest.raises(DownloadError, match="no connection"):
        call("http://127.0.0.1:9/file", attempts=2, timeout_s=1)


@pytest.mark.parametrize("variable", [False, True])
def test_offline_refuses_and_names_the_place(
    server: Server, call: Call, monkeypatch: pytest.MonkeyPatch, variable: bool
) -> None:
    if variable:
        monkeypatch.setenv("NESTVOX_OFFLINE", "1")
    with pytest.raises(DownloadError, match="offline") as error:
        call(offline=not variable)
    assert str(call.destination) in str(error.value)
    assert server.requests == []
    assert call.said == []


def test_only_web_addresses(call: Call) -> None:
    for url in ("file:///etc/hostname", "ftp://127.0.0.1/x"):
        with pytest.raises(DownloadError, match="not an http"):
            call(url)


@pytest.mark.parametrize(("value", "offline"), [("", False), ("0", False), ("1", True), ("yes", True)])
def test_the_offline_variable(monkeypatch: pytest.MonkeyPatch, value: str, offline: bool) -> None:
    monkeypatch.setenv("NESTVOX_OFFLINE", value)
    assert offline_by_environment() is offline


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "unknown size"),
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (15_747_704, "15.7 MB"),
        (999_949_000, "999.9 MB"),
        (999_960_000, "1.0 GB"),
        (337_926_286, "337.9 MB"),
    ],
)
def test_sizes_as_people_read_them(size: int | None, text: str) -> None:
    assert readable_size(size) == text


def test_known_hash(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-4
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_no_redirect_from_https_to_http() -> None:
    handler = web._NoDowngrade()
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(DownloadError, match="not as safe"):
        handler.redirect_request(request, io.BytesIO(), 302, "Found", {}, "http://example.org/b")
    followed = handler.redirect_request(request, io.BytesIO(), 302, "Found", {}, "https://example.org/b")
    assert followed is not None
    assert followed.full_url == "https://example.org/b"
