"""Manifests of other toolkits: JSON lines, plain or gzipped, read a line at a time in bounded memory."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nestvox.corpora.delimited import located
from nestvox.errors import TableError
from nestvox.gate import open_regular, parse_json
from nestvox.names import BYTE_ORDER_MARK

_MOST_LINE = 16 << 20
_MOST_RATIO, _LEAST_LIMIT = 400, 64 << 20  # text of such manifests is a tenth of its size when packed


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and object of every line that is not blank; ``.gz`` is unpacked on the way.

    Raises:
        TableError: no regular file, damaged, a line that is no JSON object, or one without end; with the line.
    """
    number = 0

    def no_json(problem: str, _: str) -> TableError:
        return TableError(f"is not JSON lines: {problem}", source=path, line=number)

    with open_regular(path, located(TableError), missing="no such file", text=path.suffix != ".gz") as raw:
        limit = max(_LEAST_LIMIT, _MOST_RATIO * os.fstat(raw.fileno()).st_size)
        try:
            with gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw as file:
                while line := file.readline(_MOST_LINE + 1):
                    number += 1
                    limit -= len(line)
                    if len(line) > _MOST_LINE or limit < 0:
                        raise TableError("is too long for a manifest: a line without end", source=path, line=number)
                    text = line.decode().removeprefix(BYTE_ORDER_MARK)
                    if not text.strip():
                        continue
                    item = parse_json(text, str(path), no_json)
                    if not isinstance(item, dict):
                        raise TableError("expected one JSON object a line", source=path, line=number)
                    yield number, item
        except (EOFError, OSError, zlib.error, UnicodeDecodeError) as why:
            raise TableError(f"is not JSON lines: {why}", source=path, line=number or None) from why


def text_in(item: dict[str, Any], key: str, path: Path, line: int) -> str:
    """Return a text; a `TableError` with the line where it is missing, empty or no text."""
    value = item.get(key)
    if not isinstance(value, str) or not value:
        raise TableError(f"{key} is not a text", source=path, line=line, column=key)
    return value


def seconds_in(item: dict[str, Any], key: str, path: Path, line: int) -> float:
    """Return a finite number; a `TableError` with the line where it is missing or no such number."""
    value = item.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TableError(f"{key} is not a number of seconds", source=path, line=line, column=key)
    return float(value)


def name_in(item: dict[str, Any], key: str, path: Path, line: int) -> str | None:
    """Return a name, which may be a whole number; None where it is missing or empty.

    Raises:
        TableError: it is a number with a fraction, or no text; with the line.
    """
    value = item.get(key)
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    kind = f"the number {value}, which may have been another name" if isinstance(value, float) else "no text"
    raise TableError(f"{key} is {kind}", source=path, line=line, column=key)
