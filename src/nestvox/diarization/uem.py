"""UEM: which stretches of a recording are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nestvox.atomic import write_text
from nestvox.diarization.lines import numbered_lines, seconds
from nestvox.diarization.turns import Stretch, united
from nestvox.errors import TableError
from nestvox.gate import is_folder

_FIELDS = 4


def read_uem(path: str | Path) -> dict[str, list[Stretch]]:
    """Read what is scored of each file: lines ``FILE CHANNEL BEGIN END``.

    Args:
        path: a UEM file, or a folder whose ``.uem`` files count together.

    Returns:
        By file, stretches in seconds, in order and without overlap.

    Raises:
        TableError: a line that is malformed, by its number; or nothing is there.
    """
    files = sorted(Path(path).glob("*.uem")) if is_folder(path) else [Path(path)]
    found: dict[str, list[Stretch]] = {}
    for file in files:
        for line, text in numbered_lines(file):
            fields = text.split()
            if len(fields) != _FIELDS:
                raise TableError(
                    f"a line of UEM has {_FIELDS} fields, FILE CHANNEL BEGIN END, this one {len(fields)}",
                    source=file,
                    line=line,
                )
            begin, end = (seconds(field, what, file, line) for field, what in zip(fields[2:], _ENDS, strict=True))
            if end <= begin:
                raise TableError(f"it ends at {end:g} s, before it begins at {begin:g} s", source=file, line=line)
            found.setdefault(fields[0], []).append((begin, end))
    if not found:
        raise TableError("no stretch of a recording stands here to be scored", source=path)
    return {name: united(stretches) for name, stretches in sorted(found.items())}


_ENDS = ("the begin", "the end")


def write_uem(path: str | Path, scored: Mapping[str, Sequence[Stretch]]) -> None:
    """Write stretches in seconds, by file, as UEM; whole or not at all."""
    lines = [f"{name} 1 {begin:.3f} {end:.3f}\n" for name in sorted(scored) for begin, end in scored[name]]
    write_text(path, "".join(lines))
