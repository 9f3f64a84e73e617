"""How long work reports where it is: a callback, so that no library room knows the screen."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Called with the absolute amount done and, when known, the whole amount."""

    def __call__(self, done: int, total: int | None, /) -> None:
        """Report that `done` of `total` (None: unknown) is finished; both in the work's own unit."""


def silent(done: int, total: int | None, /) -> None:
    """Report nowhere: the default of every library function."""
