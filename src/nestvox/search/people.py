"""The people of a gallery in memory, read anew where another process changed them.

Notation: N people, Q queries, D vector size, K candidates.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nestvox.evaluation.search import nearest
from nestvox.heads.contract import truncate
from nestvox.search.people_files import Signature, bucket_of, read_people, signatures
from nestvox.search.profile import Profile


class People:
    """Everybody in one folder of people.

    Args:
        folder: that `people_files` writes.
        dim: full size of the vectors.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder = folder
        self.dim = dim
        self._known: dict[str, tuple[Signature, dict[str, Profile]]] = {}
        self._everybody: list[Profile] = []
        self._prefixes: dict[int, NDArray[np.float32]] = {}
        self._lock = threading.Lock()

    def bucket(self, bucket: str) -> dict[str, Profile]:
        """The people of one file, by their keys, as the disk has them now."""
        return read_people(self.folder, bucket, self.dim)

    def everybody(self) -> list[Profile]:
        """All people in the order of their keys, as the disk has them now."""
        with self._lock:
            self._refresh()
            return self._everybody

    def find(self, key: str) -> Profile | None:
        """The person of a key."""
        with self._lock:
            self._refresh()
            known = self._known.get(bucket_of(key))
            return None if known is None else known[1].get(key)

    def nearest(
        self, queries: NDArray[np.float32], dim: int, k: int
    ) -> tuple[list[list[Profile]], NDArray[np.float64]]:
        """The K most similar profiles of each query.

        Args:
            queries: (Q, dim) of unit length.
            dim: prefix length.
            k: how many; all where there are fewer.

        Returns:
            For each query its profiles, best first, and their cosines (Q, K).
        """
        with self._lock:
            self._refresh()
            everybody = self._everybody
            if dim not in self._prefixes:
                self._prefixes[dim] = np.asarray(truncate(np.stack([one.mean for one in everybody]), dim), np.float32)
            prefixes = self._prefixes[dim]
        rows, scores = nearest(queries, prefixes, k)
        found = [[everybody[row] for row in of_one] for of_one in rows.tolist()]
        return found, np.clip(scores.astype(np.float64), -1.0, 1.0)

    def _refresh(self) -> None:
        there = signatures(self.folder)
        if there == {bucket: signature for bucket, (signature, _) in self._known.items()}:
            return
        # The signature is taken before the file is read: what changes in between is read again the next time.
        self._known = dict(self._fresh(there))
        everybody = [one for _, found in self._known.values() for one in found.values()]
        self._everybody = sorted(everybody, key=lambda one: one.key)
        self._prefixes = {}

    def _fresh(self, there: Mapping[str, Signature]) -> Iterator[tuple[str, tuple[Signature, dict[str, Profile]]]]:
        for bucket, signature in there.items():
            known = self._known.get(bucket)
            same = known is not None and known[0] == signature
            yield bucket, known if same and known is not None else (signature, self.bucket(bucket))
