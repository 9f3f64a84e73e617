"""Labelled pairs of vectors: what a head is chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import ModelError
from nestvox.heads.contract import FloatArray, truncate
from nestvox.heads.rotation import Rotation
from nestvox.metrics.curves import error_curve
from nestvox.metrics.eer import eer

__all__ = ["LabelledPairs"]

_BLOCK = 262_144


@dataclass(frozen=True)
class LabelledPairs:
    """Pairs of rows of `vectors`, with the answer.

    Attributes:
        vectors: (N, D).
        first: (P,) row numbers.
        second: (P,) row numbers.
        target: (P,) bool, true where both rows are of one speaker.
    """

    vectors: FloatArray
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    target: NDArray[np.bool_]

    @classmethod
    def all_of(cls, vectors: FloatArray, speakers: Sequence[str]) -> Self:
        """Every pair of different rows.

        Raises:
            ModelError: there is no target pair or no non-target pair.
        """
        _, codes = np.unique(np.asarray(speakers), return_inverse=True)
        first, second = np.triu_indices(len(vectors), k=1)
        target = codes[first] == codes[second]
        if target.all() or not target.any():
            raise ModelError("choosing a head needs two speakers or more, and one of them with two vectors")
        return cls(vectors, first.astype(np.int64), second.astype(np.int64), target)

    def scores(self, rotation: Rotation, dim: int) -> NDArray[np.float64]:
        """Cosine of the first `dim` rotated coordinates, (P,)."""
        prefix = truncate(rotation.transform(self.vectors), dim)
        scores = np.empty(len(self.first))
        for start in range(0, len(scores), _BLOCK):
            part = slice(start, start + _BLOCK)
            scores[part] = np.einsum("nd,nd->n", prefix[self.first[part]], prefix[self.second[part]])
        return scores

    def eer(self, rotation: Rotation, dim: int) -> float:
        """Equal error rate of that cosine, a fraction."""
        return float(eer(error_curve(self.scores(rotation, dim), self.target)).rate)
