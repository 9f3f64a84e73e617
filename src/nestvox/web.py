"""Addresses opened with care: no redirect to what is less safe, and an end for a server that keeps one waiting."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.request
from typing import IO, Any
from urllib.parse import urlsplit

from nestvox.errors import DownloadError


def careful_opener(watch: Watch) -> urllib.request.OpenerDirector:
    """Make what opens http and https addresses; proxies are those of the environment.

    Args:
        watch: is told of every connection; enter it around `open`.
    """
    return urllib.request.build_opener(_NoDowngrade, _Http(watch), _Https(watch))


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but neither from https to http nor to another scheme."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        target = urlsplit(newurl).scheme
        if target != "https" and not (target == "http" and req.type == "http"):
            raise DownloadError(f"{req.full_url} redirects to {newurl}, which is not as safe; not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Watch:
    """Ends a connection whose answer does not begin in time: a byte now and then would keep it for ever.

    Args:
        limit_s: from the request to the end of the answer's headers, redirects included.

    Attributes:
        ended: whether it had to.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.ended = False
        self._sockets: list[socket.socket] = []

    def connection(self, kind: type[http.client.HTTPConnection]) -> type[http.client.HTTPConnection]:
        """A kind of connection that is watched."""
        watch = self

        class Watched(kind):  # type: ignore[valid-type, misc]
            def connect(self) -> None:
                super().connect()
                watch._sockets.append(self.sock)

        return Watched

    def __enter__(self) -> None:
        self._sockets.clear()
        self.ended = False
        self._timer = threading.Timer(self.limit_s, self._end)
        self._timer.daemon = True
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        self.ended = True
        for watched in self._sockets:
            try:
                watched.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed already
                continue


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._kind = watch.connection(http.client.HTTPConnection)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._kind, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._kind = watch.connection(http.client.HTTPSConnection)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._kind, req)
