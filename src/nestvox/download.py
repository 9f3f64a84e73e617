"""Files from the web: announced, resumable, hash-checked, and there whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.parse import urlsplit

from nestvox.errors import DownloadError
from nestvox.progress import Progress, silent

__all__ = ["Announce", "announce_on_stderr", "download", "file_sha256", "offline_by_environment", "readable_size"]

Announce = Callable[[str], None]

_CHUNK = 1 << 18
_BACKOFF_S = 1.0  # before the first repetition; doubles, up to a minute
_LONGEST_BACKOFF_S = 60.0
_HINTS = {
    401: "the server wants a login",
    403: "the server refuses it; a licence may have to be accepted in a browser first",
    404: "there is no such file",
    410: "the file has been withdrawn",
}


def announce_on_stderr(message: str) -> None:
    """Print one line on stderr: how the library announces a download unless told otherwise."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def offline_by_environment() -> bool:
    """Whether the variable NESTVOX_OFFLINE forbids every download (set, and neither empty nor ``0``)."""
    return os.environ.get("NESTVOX_OFFLINE", "") not in {"", "0"}


def readable_size(size: int | None) -> str:
    """Size in bytes as people read it: ``15.7 MB`` (decimal), or ``unknown size``."""
    if size is None:
        return "unknown size"
    if size < 1_000:
        return f"{size} B"
    for unit, factor in (("kB", 1e3), ("MB", 1e6)):
        if size < 999.95 * factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e9:.1f} GB"


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, as 64 hex digits."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def download(
    url: str,
    destination: str | Path,
    *,
    sha256: str | None,
    size: int | None,
    what: str,
    licence: str,
    offline: bool = False,
    announce: Announce = announce_on_stderr,
    progress: Progress = silent,
    timeout_s: float = 30.0,
    attempts: int = 5,
) -> Path:
    """Fetch `url` to `destination`, unless the right file is already there.

    What has come so far lies in ``<destination>.partial``: after a broken connection, or in the next call after an
    interrupt, only the rest is asked for. The file gets its name when it is whole and its hash agrees. One process
    at a time may fetch to one destination.

    Args:
        url: http or https.
        destination: path of the file; its folder is made.
        sha256: 64 hex digits that the content must have; None: cannot be checked.
        size: bytes that the file must have; None: unknown.
        what: name of the file in messages, e.g. ``LibriSpeech dev-clean``.
        licence: licence of the content, shown before the first byte.
        offline: refuse to download (so does the variable NESTVOX_OFFLINE).
        announce: told what, whence, how large and under which licence before anything is fetched.
        progress: in bytes.
        timeout_s: longest silence of the server, in seconds.
        attempts: consecutive tries that may bring nothing before it is given up.

    Returns:
        `destination`.

    Raises:
        DownloadError: offline, refused, not found, given up, or not the file that was promised.
    """
    destination = Path(destination)
    if destination.is_file() and _is_promised(destination, sha256, size):
        return destination
    source = urlsplit(url)
    if source.scheme not in {"http", "https"}:
        raise DownloadError(f"{what}: {url} is not an http(s) address; copy the file to {destination} yourself")
    if offline or offline_by_environment():
        raise DownloadError(
            f"{what}: offline, and {destination} is not there (or not the right file); "
            f"fetch {url} elsewhere and put it there, or go online"
        )
    announce(f"{what}: downloading {readable_size(size)} from {url} to {destination}; licence: {licence}")
    destination.parent.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(url, destination, what=what, sha256=sha256, size=size, timeout_s=timeout_s, progress=progress)
    transfer.run(attempts)
    return destination


def _is_promised(path: Path, sha256: str | None, size: int | None) -> bool:
    if size is not None and path.stat().st_size != size:
        return False
    return sha256 is None or file_sha256(path) == sha256.lower()


class _Broken(Exception):  # noqa: N818  not an error of the user's: the transfer goes on after it
    """The connection gave less than the file; the message says how it ended."""


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but neither from https to http nor to another scheme."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        target = urlsplit(newurl).scheme
        if target != "https" and not (target == "http" and req.type == "http"):
            raise DownloadError(f"{req.full_url} redirects to {newurl}, which is not as safe; not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Transfer:
    """One file on its way; the state is the partial file and the note of the version that it is a part of."""

    def __init__(
        self,
        url: str,
        destination: Path,
        *,
        what: str,
        sha256: str | None,
        size: int | None,
        timeout_s: float,
        progress: Progress,
    ) -> None:
        self.url = url
        self.destination = destination
        self.what = what
        self.sha256 = sha256
        self.size = size
        self.timeout_s = timeout_s
        self.progress = progress
        self.partial = destination.with_name(destination.name + ".partial")
        self.note = destination.with_name(destination.name + ".partial.json")
        self.opener = urllib.request.build_opener(_NoDowngrade)

    def run(self, attempts: int) -> None:
        failures = 0
        furthest = self._resumable()
        while True:
            resumed = self._resumable() > 0
            try:
                self._once()
            except _Broken as broken:
                # Counted against the furthest point, not the last one: a server that starts anew each time ends too.
                reached = self.partial.stat().st_size if self.partial.is_file() else 0
                failures = 1 if reached > furthest else failures + 1
                furthest = max(furthest, reached)
                if failures >= attempts:
                    self._give_up(f"{broken} ({attempts} tries in a row brought nothing)")
                time.sleep(min(_BACKOFF_S * 2 ** (failures - 1), _LONGEST_BACKOFF_S))
                continue
            if self.sha256 is None or file_sha256(self.partial) == self.sha256.lower():
                break
            found = file_sha256(self.partial)
            self._forget()
            if not resumed:
                raise DownloadError(
                    f"{self.what}: {self.url} has SHA-256 {found}, expected {self.sha256.lower()}; nothing was kept. "
                    "The file at this address has changed or was tampered with: do not use it"
                )
            # The first part may have been of another version of the file: once more, from the start.
        with self.partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        self.partial.replace(self.destination)
        self.note.unlink(missing_ok=True)

    def _once(self) -> None:
        """Ask for what is missing and append it; return when the partial file is whole."""
        start = self._resumable()
        if start and start == self.size:
            return
        request = urllib.request.Request(self.url, headers={"Accept-Encoding": "identity"})  # noqa: S310  scheme checked
        if start:
            request.add_header("Range", f"bytes={start}-")
            validator = self._validator()
            if validator is not None:
                request.add_header("If-Range", validator)
        try:
            with self.opener.open(request, timeout=self.timeout_s) as response:
                self._receive(response, start)
        except urllib.error.HTTPError as error:
            with error:
                self._http_error(error, start)
        except urllib.error.URLError as error:
            raise _Broken(f"no connection: {error.reason}") from error
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise _Broken(f"connection lost: {_words(error)}") from error

    def _receive(self, response: Any, start: int) -> None:
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != start:
                self._forget()
                raise _Broken("the server sent another part than asked for")
            total = None if match[2] == "*" else int(match[2])
        else:
            start = 0  # the server sends the whole file, whatever was asked for
            length = response.headers.get("Content-Length")
            total = int(length) if length is not None and length.isdigit() else None
        if self.size is not None and total is not None and total != self.size:
            self._forget()
            raise DownloadError(
                f"{self.what}: {self.url} holds {total} bytes, expected {self.size}; the file there has changed"
            )
        total = self.size if total is None else total
        self.note.write_text(json.dumps({"url": self.url, "validator": _strong_validator(response.headers)}))
        done = start
        with self.partial.open("ab" if start else "wb") as handle:
            while True:
                try:
                    block = response.read1(_CHUNK)
                except (http.client.HTTPException, OSError) as error:
                    raise _Broken(f"connection lost: {_words(error)}") from error
                if not block:
                    break
                handle.write(block)
                done += len(block)
                self.progress(done, total)
        if total is not None and done < total:
            raise _Broken(f"the connection ended after {done} of {total} bytes")
        if total is not None and done > total:
            self._forget()
            raise DownloadError(f"{self.what}: {self.url} sent more than the {total} bytes that were promised")

    def _http_error(self, error: urllib.error.HTTPError, start: int) -> None:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            match = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
            if match is not None and int(match[1]) == start and self.size in {None, start}:
                return  # everything is here already
            self._forget()
            raise _Broken("the partial file does not fit the file on the server") from error
        if error.code in {408, 429} or error.code >= 500:
            raise _Broken(f"the server answers {error.code} {error.reason}") from error
        hint = _HINTS.get(error.code, "the request was not accepted")
        self._give_up(f"the server answers {error.code} {error.reason}: {hint}", error)

    def _give_up(self, problem: str, cause: Exception | None = None) -> NoReturn:
        kept = f" What came so far is kept in {self.partial}." if self._resumable() else ""
        raise DownloadError(
            f"{self.what}: cannot download {self.url}: {problem}.{kept} "
            f"Try again later, or put the file at {self.destination} yourself"
        ) from cause

    def _resumable(self) -> int:
        """Bytes of the partial file that a new request may build on."""
        if not self.partial.is_file():
            return 0
        note = self._read_note()
        # Without a validator only the hash can tell whether old and new bytes are of one file.
        if note.get("url") != self.url or (note.get("validator") is None and self.sha256 is None):
            return 0
        present = self.partial.stat().st_size
        return 0 if self.size is not None and present > self.size else present

    def _validator(self) -> str | None:
        validator = self._read_note().get("validator")
        return validator if isinstance(validator, str) else None

    def _read_note(self) -> dict[str, Any]:
        try:
            note = json.loads(self.note.read_text())
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    def _forget(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _strong_validator(headers: http.client.HTTPMessage) -> str | None:
    """Strong ETag: the only kind that RFC 9110 allows in If-Range beside a date, and dates are too coarse."""
    etag = headers.get("ETag")
    return etag if etag is not None and etag.startswith('"') else None


def _words(error: BaseException) -> str:
    """What an exception says, or its type where it says nothing."""
    return str(error) or type(error).__name__
