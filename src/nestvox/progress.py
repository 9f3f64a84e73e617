"""How long work reports where it is: a callback, so that no library room knows the screen."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Progress(Protocol):
    """Called with the absolute amount done and, when known, the whole amount."""

    def __call__(self, done: int, total: int | None, /) -> None:
        """Report that `done` of `total` (None: unknown) is finished; both in the work's own unit."""


def silent(done: int, total: int | None, /) -> None:
    """Report nowhere: the default of every library function."""


class Bars(Protocol):
    """Opens a progress display for one phase of the work."""

    def __call__(self, description: str, unit: str, /) -> AbstractContextManager[Progress]:
        """Return a context in which the callback draws `done` of `total` in `unit`."""


def no_bars(description: str, unit: str, /) -> AbstractContextManager[Progress]:  # noqa: ARG001
    """Show nothing."""
    return nullcontext(silent)
