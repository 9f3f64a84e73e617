"""Profiles in trial lists: a side of a trial may name several recordings of one person, with bars between.

``a|b|c`` is the profile of the recordings a, b and c: one vector stands for them. The list itself says so, in any
format, and its hash covers it; whatever takes trials takes those of profiles. A recording whose own name has a bar in
it is found before a profile is looked for.

Notation: N trials, U distinct names, M recordings of all names together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.corpora.trials import Trials
from nestvox.errors import TrialsError

BAR = "|"
"""Between the recordings of a profile."""

Numbers = NDArray[np.int64]
_Value = TypeVar("_Value")


def profile_name(recordings: Sequence[str]) -> str:
    """The name of a profile in a trial list, the same whatever the order of its recordings.

    Raises:
        TrialsError: a name with a bar in it, or one that stands there twice.
    """
    for name in recordings:
        if BAR in name:
            raise TrialsError(f"{name!r} has a {BAR} in its name, which parts the recordings of a profile")
    if len(set(recordings)) < len(recordings):
        raise TrialsError(f"a profile has each recording once, got {', '.join(sorted(recordings))}")
    return BAR.join(sorted(recordings))


def recordings_of_name(name: str, whole: Collection[str] = ()) -> list[str]:
    """The recordings that a name of a trial list stands for; `whole`: recordings that have a bar in their own name.

    Raises:
        TrialsError: a profile with an empty name in it, or one twice.
    """
    if BAR not in name or name in whole:
        return [name]
    found = name.split(BAR)
    if not all(part.strip() for part in found) or len(set(found)) < len(found):
        raise TrialsError(f"{name!r} is no profile: each of its recordings is named, and once")
    return found


def with_bars(*columns: pl.Series) -> frozenset[str]:
    """Those of some names that have a bar in them."""
    found = (names.filter(names.str.contains(BAR, literal=True).fill_null(value=False)) for names in columns)
    return frozenset().union(*found)


@dataclass(frozen=True, eq=False)
class NamedRecordings:
    """The recordings that the two sides of N trials name.

    Attributes:
        names: (U,) as the trials have them.
        rows: (M,) rows of the recordings in a table or store, those of one name after another.
        starts: (U + 1,) where each name's begin in `rows`.
        enrol: (N,) number of the first side's name.
        test: (N,) of the second side's.
    """

    names: pl.Series
    rows: Numbers
    starts: Numbers
    enrol: Numbers
    test: Numbers

    @property
    def largest(self) -> int:
        """Recordings of the largest profile; 1: there are none."""
        return int(np.diff(self.starts).max(initial=1))

    @property
    def members(self) -> list[Numbers]:
        """U arrays of positions in `rows`."""
        return [np.arange(a, b) for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)]

    def with_rows(self, rows: Numbers) -> NamedRecordings:
        """The same recordings by their rows elsewhere, (M,)."""
        return replace(self, rows=rows)

    def of_sides(
        self, values: Sequence[_Value], together: Callable[[list[_Value]], _Value]
    ) -> tuple[list[_Value], list[_Value]]:
        """What belongs to both sides of the trials, N values each.

        Args:
            values: (M,) of the recordings.
            together: makes one value of those of a profile.
        """
        starts = self.starts.tolist()
        of_names = [values[a] if b - a == 1 else together(list(values[a:b])) for a, b in pairwise(starts)]
        return [of_names[n] for n in self.enrol.tolist()], [of_names[n] for n in self.test.tolist()]


def named_recordings(
    trials: Trials, whole: Callable[[], Collection[str]], look_up: Callable[[pl.Series], Numbers]
) -> NamedRecordings:
    """Find the recordings that both sides of trials name.

    Args:
        trials: N of them.
        whole: gives the recordings that have a bar in their own name, see `with_bars`; asked where a trial has one.
        look_up: rows (n,) of names (n,) of recordings; it raises where one is not there.

    Raises:
        TrialsError: a name that is no profile.
        NestvoxError: as `look_up`.
    """
    names, enrol, test = trials.pairs.names, trials.pairs.enrol, trials.pairs.test
    if not with_bars(names):
        return NamedRecordings(names, look_up(names), np.arange(len(names) + 1), enrol, test)
    barred = whole()
    parts = [recordings_of_name(name, barred) for name in names]
    flat = pl.Series("name", [part for found in parts for part in found], dtype=pl.String)
    starts = np.cumsum([0, *map(len, parts)])
    return NamedRecordings(names, look_up(flat), starts, enrol, test)


def profile_sizes(trials: Trials, whole: Collection[str] = ()) -> Numbers:
    """(N,) how many recordings the first side of each trial names."""
    names = trials.pairs.names
    if not with_bars(names):
        return np.ones(len(trials), np.int64)
    sizes = np.array([len(recordings_of_name(name, whole)) for name in names], np.int64)
    return np.asarray(sizes[trials.pairs.enrol])
