"""Text files of one thing a line, in fields: what RTTM, UEM and label files have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from nestvox.diarization.turns import LONGEST_S
from nestvox.errors import TableError
from nestvox.gate import naming, read_text

MOST_BYTES = 256 << 20
"""Of a file of turns: a million of them have about 60 MB."""
_COMMENTS = (";", "#")


def numbered_lines(path: str | Path, *, comments: bool = True) -> Iterator[tuple[int, str]]:
    """Yield the lines that say something, with their numbers from 1 on; the file is read whole before.

    Raises:
        TableError: no regular file, too large, or not UTF-8.
    """
    text = read_text(path, naming(TableError), most_bytes=MOST_BYTES)
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if stripped and not (comments and stripped.startswith(_COMMENTS)):
            yield number, line.rstrip("\r")


def seconds(text: str, what: str, path: str | Path, line: int) -> float:
    """Read a number of seconds of at least 0.

    Raises:
        TableError: it is none; with the line.
    """
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value <= LONGEST_S:
        raise TableError(f"{what} must be a number of seconds from 0 on, got {text[:40]!r}", source=path, line=line)
    return value
