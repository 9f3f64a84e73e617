"""In which settings two things differ, named one by one with both values: for messages to whoever resumes a job."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any

_MOST_CHARACTERS = 60
_MOST_DIFFERENCES = 8
_BEFORE_IT = 12  # characters that both share


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the dotted name and both values of every leaf of nested mappings that differs.

    Args:
        before: settings by name; mappings in them are gone into, anything else is a value.
        now: likewise.
    """
    found: list[tuple[str, Any, Any]] = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key, _ABSENT), now.get(key, _ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += [(f"{key}.{name}", one, other) for name, one, other in differences(old, new)]
        elif _plain(old) != _plain(new):
            found.append((str(key), old, new))
    return found


def differences_in_words(different: Iterable[tuple[str, Any, Any]], *, now: str = "now") -> str:
    """Say what `differences` found: ``seed 0 there, 3 now; crop_s 2.0 there, nothing now``.

    Args:
        different: names and both values.
        now: a word for the second value.
    """
    shown = [_shown(name, old, new, now) for name, old, new in different]
    more = len(shown) - _MOST_DIFFERENCES
    return "; ".join(shown[:_MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _shown(name: str, old: Any, new: Any, now: str) -> str:
    if name.endswith("table_sha256"):  # two hashes say nothing to anybody
        return f"the rows of the table (sha256 {str(old)[:12] or 'none'} there, {str(new)[:12] or 'none'} {now})"
    before, after = repr(old), repr(new)
    if max(len(before), len(after)) > _MOST_CHARACTERS:
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
        start = max(0, same - _BEFORE_IT)
        before, after = (_cut(text, start) for text in (before, after))
    return f"{name} {before} there, {after} {now}"


def _cut(text: str, start: int) -> str:
    """The stretch of a long text that begins just before the place where the two differ."""
    end = start + _MOST_CHARACTERS
    return f"{'...' if start else ''}{text[start:end]}{'...' if len(text) > end else ''}"


def _plain(value: Any) -> Any:
    """As JSON keeps it, in which tuples are lists: what was written compares equal to what is read back."""
    return value if value is _ABSENT else json.loads(json.dumps(value, default=str))
