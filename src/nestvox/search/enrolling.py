"""Recordings that people are to be enrolled with, checked, and put beside those that they have.

Notation: R recordings, D vector size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_names, as_vectors
from nestvox.errors import NestvoxError, ScoresError
from nestvox.heads.contract import truncate
from nestvox.names import name_key
from nestvox.search.answers import Enrolled
from nestvox.search.hearing import as_text
from nestvox.search.profile import EnrolledRecording, Profile, check_person

_LONGEST_NAME = 4096


@dataclass(frozen=True, eq=False)
class NewRecordings:
    """What one person is to be enrolled with: recordings by their names, with vectors (D,) of unit length."""

    person: str
    by_name: dict[str, tuple[EnrolledRecording, NDArray[np.float32]]]

    def added_to(self, people: dict[str, Profile], *, again: bool) -> Enrolled:
        """Put them into people, by their keys; recordings whose names are there stay, or are replaced `again`."""
        key = name_key(self.person)
        before = people.get(key)
        there = {} if before is None else before.by_name
        kept = set() if again else set(self.by_name) & set(there)
        by_name = {**there, **{name: new for name, new in self.by_name.items() if name not in kept}}
        people[key] = Profile.of(self.person if before is None else before.person, by_name)
        added = tuple(name for name in sorted(self.by_name) if name not in kept)
        return Enrolled(people[key].person, added, tuple(sorted(kept)), len(by_name))


def enrolment_of(
    people: Sequence[str],
    names: Sequence[str],
    vectors: ArrayLike,
    *,
    dim: int,
    conditions: Sequence[str | None] | None,
) -> list[NewRecordings]:
    """Check R recordings and part them by person, in the order in which people first stand there.

    Args:
        people: R names.
        names: of the recordings, R.
        vectors: (R, dim), need not be normalised.
        dim: full size of the gallery's vectors.
        conditions: of the recordings, R; None: not measured.

    Raises:
        NestvoxError: names that are none, or one recording of a person named twice.
        ScoresError: vectors of another size, zero, or not finite.
    """
    table = as_vectors(vectors, "vectors", error=ScoresError)
    if table.shape != (len(people), dim):
        raise ScoresError(f"{len(people)} recordings need vectors ({len(people)}, {dim}), got {table.shape}")
    called = [as_text(name) for name in as_names(names, "names of recordings", length=len(people))]
    codes = [None] * len(people) if conditions is None else list(conditions)
    unit = np.asarray(truncate(table.astype(np.float64), None), np.float32)
    if not unit.any(axis=1).all():
        raise ScoresError("a vector is zero and has no direction")
    found: dict[str, NewRecordings] = {}
    for person, name, code, vector in zip(people, called, codes, unit, strict=True):
        if not name_key(name) or len(name) > _LONGEST_NAME:
            raise NestvoxError(f"{name[:60]!a} is no name of a recording")
        of_person = found.setdefault(name_key(check_person(person)), NewRecordings(person, {}))
        if name in of_person.by_name:
            raise NestvoxError(f"{person!r} is to be enrolled with {name!r} twice")
        of_person.by_name[name] = EnrolledRecording(name, code), vector
    return list(found.values())
