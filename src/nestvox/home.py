"""The folder of the user, which a container or a mistyped name may not have."""

from __future__ import annotations

from pathlib import Path

from nestvox.errors import NestvoxError


def expand_home(path: str | Path, *, what: str = "") -> Path:
    """Return `path` with ``~`` and ``~user`` replaced.

    Args:
        path: as it was typed.
        what: where it was typed, for the message, e.g. ``NESTVOX_CACHE``.

    Raises:
        NestvoxError: there is no such user, or the user has no folder.
    """
    try:
        return Path(path).expanduser()
    except (RuntimeError, KeyError) as error:
        named = f"{what} {path}" if what else str(path)
        raise NestvoxError(f"{named}: no such user, or one without a folder; give the whole path") from error


def home_folder(*, instead: str) -> Path:
    """Return the folder of the user.

    Args:
        instead: what to set where there is none, e.g. ``NESTVOX_CACHE``.

    Raises:
        NestvoxError: the user has none.
    """
    try:
        return Path.home()
    except (RuntimeError, KeyError) as error:
        raise NestvoxError(f"this user has no home folder; set HOME, or {instead} to a folder") from error
