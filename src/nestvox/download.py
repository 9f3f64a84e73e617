"""Files from the web: announced, resumable, hash-checked, and there whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from nestvox.content import HEAD_BYTES, content_instead
from nestvox.errors import DownloadError, NestvoxError
from nestvox.locking import locked
from nestvox.progress import Progress, silent
from nestvox.web import Watch, careful_opener

Announce = Callable[[str], None]

_CHUNK = 1 << 18
_BACKOFF_S = 1.0  # before the first repetition; doubles, up to a minute
_LONGEST_BACKOFF_S = 60.0
_LONGEST_WAIT_S = 24 * 3600.0  # for another process that fetches the same file
# Slower than this on the average, a transfer is held up on purpose or will never end.
_SLOWEST_BYTES_PER_S = 1_000.0
_GRACE_S = 60.0  # before the average counts
# Of a body whose length neither the caller nor the server knows.
_MOST_UNANNOUNCED = 64 << 30
_MOST_NOTE_BYTES = 1 << 16
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
    interrupt, only the rest is asked for, and it is joined only where the server says that it is of the same file. The
    file gets its name when it is whole and its hash agrees. One process at a time fetches to one destination: a second
    one waits, and takes the file that the first one brought. A body that is longer than announced, and a transfer that
    is slower than 1 kB/s on the average, end.

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
    try:
        source = urlsplit(url)
    except ValueError as error:
        raise DownloadError(f"{what}: {url!r} is no address: {error}") from error
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
    with alone(transfer.partial, what, announce):
        # Brought by the process that was waited for.
        if not (destination.is_file() and _is_promised(destination, sha256, size)):
            transfer.run(attempts)
    return destination


@contextmanager
def alone(place: str | Path, what: str, announce: Announce) -> Iterator[None]:
    """Be the only process that fetches to a place; wait for one that does it already, and say so.

    Args:
        place: path of the file, with a suffix.
        what: name of the file in messages.
        announce: told where there is something to wait for.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(place, wait_s=0))
        except NestvoxError:
            announce(f"{what}: another process is fetching it; waiting for it")
            stack.enter_context(locked(place, wait_s=_LONGEST_WAIT_S))
        yield


def _is_promised(path: Path, sha256: str | None, size: int | None) -> bool:
    if size is not None and path.stat().st_size != size:
        return False
    return sha256 is None or file_sha256(path) == sha256.lower()


class _Broken(Exception):  # noqa: N818  not an error of the user's: the transfer goes on after it
    """The connection gave less than the file; the message says how it ended."""


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
        self.watch = Watch(4 * timeout_s)
        self.opener = careful_opener(self.watch)
        # Over all connections; what lies between them does not count.
        self.received = 0
        self.receiving_s = 0.0

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
            instead = self._content_instead()
            self._forget()
            if instead:
                raise DownloadError(f"{self.what}: {self.url}: what came is {instead}; nothing was kept")
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
            with self.watch:
                response = self.opener.open(request, timeout=self.timeout_s)
            with response:
                if self.watch.ended:
                    raise _Broken("the answer did not begin in time")
                self._receive(response, start)
        except urllib.error.HTTPError as error:
            with error:
                self._http_error(error, start)
        except urllib.error.URLError as error:
            raise _Broken(f"no connection: {error.reason}") from error
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise _Broken(f"connection lost: {_words(error)}") from error
        except ValueError as error:  # a redirect to what is no address
            self._give_up(f"the server's answer makes no sense: {_words(error)}", error)

    def _receive(self, response: Any, start: int) -> None:
        validator = _strong_validator(response.headers)
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != start:
                self._forget()
                raise _Broken("the server sent another part than asked for")
            total = None if match[2] == "*" else int(match[2])
            noted = self._read_note()
            if (noted.get("validator") or validator) != validator or noted.get("total", total) != total:
                self._forget()
                raise _Broken("the server sent a part of another version of the file")
        else:
            start = 0  # the server sends the whole file, whatever was asked for
            length = response.headers.get("Content-Length", "")
            total = int(length) if re.fullmatch(r"\d{1,18}", length) else None
        if self.size is not None and total is not None and total != self.size:
            instead = content_instead(response.read(HEAD_BYTES))
            self._forget()
            raise DownloadError(
                f"{self.what}: {self.url} holds {total} bytes, expected {self.size}; "
                + (f"what came is {instead}" if instead else "the file there has changed")
            )
        noted_total, total = total, self.size if total is None else total
        self._check_space(start, total)
        self.note.write_text(json.dumps({"url": self.url, "validator": validator, "total": noted_total}))
        done, most = start, _MOST_UNANNOUNCED if total is None else total
        clock_s = time.monotonic()
        with self.partial.open("ab" if start else "wb") as handle:
            while block := self._read(response):
                done += len(block)
                if done > most:
                    break
                handle.write(block)
                self.received += len(block)
                self.progress(done, total)
                clock_s, before_s = time.monotonic(), clock_s
                self.receiving_s += clock_s - before_s
                if self._too_slow():
                    break
        if done > most:
            self._forget()
            raise DownloadError(f"{self.what}: {self.url} sent more than the {most} bytes that were promised")
        if self._too_slow() and done != total:
            self._give_up(f"{self.received} bytes came in {self.receiving_s:.0f} s, which is too slow")
        if done == 0:
            raise _Broken("the server sent nothing")
        if total is not None and done < total:
            raise _Broken(f"the connection ended after {done} of {total} bytes")

    def _read(self, response: Any) -> bytes:
        try:
            block: bytes = response.read1(_CHUNK)
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise _Broken(f"connection lost: {_words(error)}") from error
        return block

    def _too_slow(self) -> bool:
        return self.receiving_s > _GRACE_S and self.received < _SLOWEST_BYTES_PER_S * self.receiving_s

    def _check_space(self, start: int, total: int | None) -> None:
        free = shutil.disk_usage(self.destination.parent).free
        if total is not None and total - start > free:
            raise DownloadError(
                f"{self.what}: {readable_size(total - start)} are still to come, and the disk of "
                f"{self.destination.parent} has room for {readable_size(free)}; make room, or choose another place"
            )

    def _content_instead(self) -> str:
        with self.partial.open("rb") as handle:
            return content_instead(handle.read(HEAD_BYTES))

    def _http_error(self, error: urllib.error.HTTPError, start: int) -> None:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            match = re.fullmatch(r"bytes \*/(\d{1,18})", error.headers.get("Content-Range", ""))
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
            with self.note.open("rb") as handle:
                note = json.loads(handle.read(_MOST_NOTE_BYTES))
        except (OSError, ValueError, RecursionError):
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
