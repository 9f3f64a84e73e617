"""How prefix lengths are typed: ``--dims 16,32,64``."""

from __future__ import annotations

from nestvox.errors import NestvoxError

_MOST, _LARGEST = 1000, 1_000_000


def parse_dims(text: str | None) -> tuple[int, ...] | None:
    """Return the numbers as typed, or None where nothing was.

    Raises:
        NestvoxError: something between the commas is no whole number, or there are absurdly many or large ones.
    """
    if text is None:
        return None
    try:
        dims = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise NestvoxError(f"--dims {text}: --dims must be whole numbers with commas between, like 16,32,64") from error
    if len(dims) > _MOST or max(dims) > _LARGEST:
        raise NestvoxError(
            f"--dims takes at most {_MOST} numbers up to {_LARGEST:,}, got {len(dims)} up to {max(dims):,}"
        )
    return dims
