"""Turns: who speaks in which file from when on and for how long."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from nestvox.errors import NestvoxError

Stretch = tuple[float, float]
"""Begin and end in seconds."""

LONGEST_S = 1e7
"""Sixteen weeks: what lies beyond is no recording."""
_MOST_LETTERS = 1 << 10


@dataclass(frozen=True, order=True, slots=True)
class Turn:
    """One speaker in one stretch of one file; turns of different speakers may overlap.

    Attributes:
        file: name of the recording, as RTTM has it: without folder and suffix.
        start_s: from the beginning of the recording on.
        duration_s: above 0.
        speaker: whose turn it is; a name holds within a file, and across files where the labels say so.

    Raises:
        NestvoxError: seconds that are none, or names that are empty.
    """

    file: str
    start_s: float
    duration_s: float
    speaker: str

    def __post_init__(self) -> None:
        for what, name in (("file", self.file), ("speaker", self.speaker)):
            if not name.strip() or len(name) > _MOST_LETTERS:
                raise NestvoxError(f"the {what} of a turn must have a name, got {name[:40]!r}")
        if not 0 <= self.start_s <= LONGEST_S:
            raise NestvoxError(f"a turn must begin at 0 s or later, got {self.start_s} s")
        if not 0 < self.duration_s <= LONGEST_S:
            raise NestvoxError(f"a turn must last longer than 0 s, got {self.duration_s} s")

    @property
    def end_s(self) -> float:
        """Where it ends."""
        return self.start_s + self.duration_s

    @property
    def stretch(self) -> Stretch:
        """Where it begins and ends."""
        return self.start_s, self.end_s


def by_file(turns: Iterable[Turn]) -> dict[str, list[Turn]]:
    """Sort turns, and part them by file."""
    found: dict[str, list[Turn]] = {}
    for turn in sorted(turns):
        found.setdefault(turn.file, []).append(turn)
    return found


def by_speaker(turns: Iterable[Turn]) -> dict[str, list[Stretch]]:
    """Where each speaker of one file speaks: stretches that overlap or touch become one."""
    found: dict[str, list[Stretch]] = {}
    for turn in sorted(turns):
        found.setdefault(turn.speaker, []).append(turn.stretch)
    return {speaker: united(stretches) for speaker, stretches in sorted(found.items())}


def united(stretches: Iterable[Stretch]) -> list[Stretch]:
    """Unite stretches that overlap or touch; in order."""
    found: list[Stretch] = []
    for begin, end in sorted(stretches):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def length_s(stretches: Iterable[Stretch]) -> float:
    """Seconds in all."""
    return math.fsum(end - begin for begin, end in stretches)


def common(first: Iterable[Stretch], second: Iterable[Stretch]) -> list[Stretch]:
    """What two lists of stretches, each in order and without overlap, have in common."""
    found: list[Stretch] = []
    left, right = list(first), list(second)
    i = j = 0
    while i < len(left) and j < len(right):
        begin, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if begin < end:
            found.append((begin, end))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return found
