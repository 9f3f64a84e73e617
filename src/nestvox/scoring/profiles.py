"""Profiles: one vector that stands for several recordings of one person.

Every recording counts alike: vectors are scaled to unit length at their full size and averaged; the average is cut to a
prefix and scaled again where it is compared. Cutting first would give the recordings other weights at every prefix.

Notation: U recordings, D vector size, P profiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_vectors
from nestvox.errors import ScoresError
from nestvox.heads.contract import normalise


def profile_means(vectors: ArrayLike, members: Sequence[ArrayLike]) -> NDArray[np.float32]:
    """Average recordings of unit length.

    Args:
        vectors: (U, D) at full size, need not be normalised.
        members: rows of each of P profiles.

    Returns:
        (P, D) float32, not normalised: the length says how much the recordings agree, 1 where they are one direction.

    Raises:
        ScoresError: a vector that is zero or not finite, a profile of no recordings, or one whose recordings cancel
            each other.
    """
    unit = as_vectors(vectors, "vectors", error=ScoresError)
    unit = normalise(unit.astype(np.float64))
    if len(zero := np.flatnonzero(~unit.any(axis=1))):
        raise ScoresError(f"{len(zero)} vectors are zero and have no direction; the first is row {zero[0]}")
    means = np.zeros((len(members), unit.shape[1]))
    for number, rows in enumerate(members):
        chosen = np.asarray(rows, np.int64)
        if not chosen.size:
            raise ScoresError(f"profile {number + 1} of {len(members)} has no recordings")
        means[number] = unit[chosen].mean(axis=0)
    found = means.astype(np.float32)
    if len(zero := np.flatnonzero(~found.any(axis=1))):
        raise ScoresError(
            f"the recordings of {len(zero)} profiles cancel each other; the first is number {zero[0] + 1}"
        )
    return found


def vectors_of_names(vectors: NDArray[np.float32], members: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    """One vector for each name of a trial list: that of a recording as it is, or that of a profile.

    A profile's is as long as its recordings are on average, times how much they agree.

    Args:
        vectors: (M, D) of the recordings.
        members: rows of each of U names.

    Raises:
        ScoresError: as `profile_means`.
    """
    found = np.stack([vectors[rows[0]] for rows in members]) if members else vectors[:0]
    profiles = [number for number, rows in enumerate(members) if len(rows) > 1]
    if profiles:
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        means = profile_means(vectors, [members[number] for number in profiles])
        for number, mean in zip(profiles, means, strict=True):
            found[number] = mean * lengths[members[number]].mean()
    return found
