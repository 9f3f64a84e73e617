"""How prefix lengths are typed: ``--dims 16,32,64``."""

from __future__ import annotations

from nestvox.errors import NestvoxError

__all__ = ["parse_dims"]


def parse_dims(text: str | None) -> tuple[int, ...] | None:
    """Return the numbers as typed, or None where nothing was.

    Raises:
        NestvoxError: something between the commas is no whole number.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise NestvoxError(f"--dims {text}: --dims must be whole numbers with commas between, like 16,32,64") from error
