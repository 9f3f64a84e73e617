"""What a gallery knows of a person: the vectors of some recordings, and their mean.

Notation: R recordings, D vector size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import NestvoxError
from nestvox.heads.contract import truncate
from nestvox.names import is_text, name_key
from nestvox.schema import Word
from nestvox.scoring.profiles import profile_means

_LONGEST_NAME = 1000


@dataclass(frozen=True)
class EnrolledRecording:
    """A recording that a person was enrolled with.

    Attributes:
        name: by which it is told from the person's other recordings: of the file, or in the table.
        condition: what is wrong with it, codes of `audio.condition.CODES` with blanks between; None: not measured.
    """

    name: Word
    condition: str | None = None


@dataclass(frozen=True, eq=False)
class Profile:
    """An enrolled person.

    Attributes:
        person: as the name was given.
        recordings: R, in the order of their names.
        vectors: (R, D) float32 of unit length, at full size.
        mean: (D,) their average, not normalised.
    """

    person: str
    recordings: tuple[EnrolledRecording, ...]
    vectors: NDArray[np.float32]
    mean: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", profile_means(self.vectors, [np.arange(len(self.vectors))])[0])

    @property
    def key(self) -> str:
        """By which people are told from each other."""
        return name_key(self.person)

    def prefix(self, dim: int) -> NDArray[np.float32]:
        """The mean cut to its first `dim` numbers, of unit length."""
        return np.asarray(truncate(self.mean[None], dim)[0], np.float32)

    @property
    def by_name(self) -> dict[str, tuple[EnrolledRecording, NDArray[np.float32]]]:
        """The recordings and their vectors (D,), by the names of the recordings."""
        return {one.name: (one, vector) for one, vector in zip(self.recordings, self.vectors, strict=True)}

    @classmethod
    def of(cls, person: str, by_name: Mapping[str, tuple[EnrolledRecording, NDArray[np.float32]]]) -> Profile:
        """The profile of a person with these recordings, in the order of their names."""
        ordered = [by_name[name] for name in sorted(by_name)]
        return cls(person, tuple(one for one, _ in ordered), np.stack([vector for _, vector in ordered]))


def check_person(person: str) -> str:
    """Return a name under which somebody can be enrolled.

    Raises:
        NestvoxError: nothing that can be seen, bytes that are no text, a line break or a tab, or too long.
    """
    if not is_text(person) or not name_key(person):
        raise NestvoxError(f"{person!a} is no name of a person: give one that can be read")
    if any(sign in person for sign in "\t\r\n") or len(person) > _LONGEST_NAME:
        raise NestvoxError(
            f"{person[:60]!a} is no name of a person: it is one line of at most {_LONGEST_NAME} characters, "
            "without tabs"
        )
    return person
