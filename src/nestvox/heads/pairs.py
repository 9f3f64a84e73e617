"""Labelled pairs of vectors: what a head is chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nestvox.arrays import as_booleans, as_names, as_rows, as_vectors
from nestvox.errors import ModelError
from nestvox.heads.contract import FloatArray, Head, truncate
from nestvox.metrics.curves import error_curve
from nestvox.metrics.rates import eer

_BLOCK = 262_144
_DENSE = 4  # from one pair in so many of all (i, j), one matrix product is cheaper than gathering both sides


@dataclass(frozen=True, eq=False)
class LabelledPairs:
    """Pairs of rows of `vectors`, with the answer.

    Attributes:
        vectors: (N, D), finite.
        first: (P,) row numbers.
        second: (P,) row numbers.
        target: (P,) bool, true where both rows are of one speaker.

    Raises:
        ModelError: a vector is not finite, rows or answers do not fit, or a kind of pair is missing.
    """

    vectors: FloatArray
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    target: NDArray[np.bool_]

    def __post_init__(self) -> None:
        vectors = as_vectors(self.vectors, "vectors of the pairs", error=ModelError)
        sides = [
            as_rows(side, "rows of the pairs", length=len(vectors), error=ModelError)
            for side in (self.first, self.second)
        ]
        target = as_booleans(self.target, "answers of the pairs", error=ModelError)
        if not len(sides[0]) == len(sides[1]) == len(target):
            raise ModelError(f"{len(sides[0])} and {len(sides[1])} rows for {len(target)} answers")
        for name, value in zip(("vectors", "first", "second", "target"), (vectors, *sides, target), strict=True):
            object.__setattr__(self, name, value)
        if self.target.all() or not self.target.any():
            raise ModelError(
                "choosing a head needs pairs of one speaker and of two: two speakers or more, one of them with two "
                f"vectors; got {int(self.target.sum())} target and {int((~self.target).sum())} non-target pairs"
            )

    @classmethod
    def all_of(cls, vectors: FloatArray, speakers: Sequence[str]) -> Self:
        """Every pair of different rows.

        Args:
            vectors: (N, D).
            speakers: N names.

        Raises:
            ModelError: not one name a row, or as above.
        """
        table = as_vectors(vectors, "vectors of the pairs", error=ModelError)
        names = as_names(speakers, "speakers", length=len(table), error=ModelError)
        _, codes = np.unique(np.asarray(names, dtype=np.str_), return_inverse=True)
        first, second = np.triu_indices(len(table), k=1)
        return cls(table, first.astype(np.int64), second.astype(np.int64), codes[first] == codes[second])

    def scores(self, head: Head, dim: int) -> NDArray[np.float64]:
        """Cosine of the first `dim` coordinates of the head's output, (P,)."""
        return self._cosines(head.transform(self.vectors), dim)

    def eers(self, head: Head) -> dict[int, float]:
        """Equal error rate of that cosine at each of the head's dims, fractions."""
        nested = head.transform(self.vectors)
        return {dim: _eer(self._cosines(nested, dim), self.target) for dim in head.dims}

    def _cosines(self, nested: FloatArray, dim: int) -> NDArray[np.float64]:
        prefix = truncate(nested, dim)
        if len(prefix) ** 2 <= _DENSE * len(self.first):
            return np.asarray((prefix @ prefix.T)[self.first, self.second], np.float64)
        scores = np.empty(len(self.first))
        for start in range(0, len(scores), _BLOCK):
            part = slice(start, start + _BLOCK)
            scores[part] = np.einsum("nd,nd->n", prefix[self.first[part]], prefix[self.second[part]])
        return scores


def _eer(scores: NDArray[np.float64], target: NDArray[np.bool_]) -> float:
    """Return the rate of `metrics.rates.eer`, without sorting millions of non-target scores for each candidate.

    Only the scores between the two neighbouring targets where misses and false alarms cross decide; those outside
    enter as two weighted points.
    """
    targets, nontargets = np.sort(scores[target]), scores[~target]
    low, high = 0, len(targets)  # the first target at which misses are not fewer than false alarms
    while low < high:
        middle = (low + high) // 2
        misses = np.searchsorted(targets, targets[middle], side="left") / len(targets)
        if misses >= np.count_nonzero(nontargets >= targets[middle]) / len(nontargets):
            high = middle
        else:
            low = middle + 1
    floor = targets[low - 1] if low > 0 else scores.min()
    ceiling = targets[low] if low < len(targets) else scores.max()
    values, labels, weights = [], [], []
    for part, label in ((targets, True), (nontargets, False)):
        inside = part[(part >= floor) & (part <= ceiling)]
        below, above = np.count_nonzero(part < floor), np.count_nonzero(part > ceiling)
        values.append(np.concatenate([inside, [floor - 1, ceiling + 1]]))
        weights.append(np.concatenate([np.ones(len(inside)), [below, above]]))
        labels.append(np.full(len(inside) + 2, label))
    return float(eer(error_curve(np.concatenate(values), np.concatenate(labels), np.concatenate(weights))).rate)
