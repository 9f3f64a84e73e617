"""The option --channel of commands that read recordings."""

from __future__ import annotations

from nestvox.errors import NestvoxError


def pair_of_channels(text: str | None) -> tuple[int | None, int | None]:
    """Read ``0`` (of both recordings) or ``0,1`` (of the first and the second).

    Raises:
        NestvoxError: anything else.
    """
    if text is None:
        return None, None
    words = text.split(",")
    if len(words) > 2 or not all(word.isascii() and word.isdecimal() and len(word) < 5 for word in words):
        raise NestvoxError(f"--channel {text}: expected a number from 0 on (0 is the first channel), or two like 0,1")
    return int(words[0]), int(words[-1])
