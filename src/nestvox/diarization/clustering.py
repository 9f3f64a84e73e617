"""From one vector for each speaker of each chunk to the speakers of a recording.

Agglomerative clustering up to a distance, small clusters joined to the nearest large one; and where a number of
speakers is wanted, the cut that gives it. With centroids the rules are those of pyannote's pipeline 3.1 (H. Bredin,
"pyannote.audio 2.1 speaker diarization pipeline: principle, benchmark, and recipe", Interspeech 2023).

A recording of hours has more vectors than a matrix of their distances has room for. Above `MOST_AT_ONCE` they are
clustered in parts, and then the centroids of these clusters.

Notation: N vectors, D numbers each, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import NestvoxError
from nestvox.extras import require

MOST_AT_ONCE = 2_000
"""The distances of so many vectors have 16 MB."""
_MOST_SPEAKERS = 1_000
_PART_SHRINK = 0.8  # of the threshold, where parts are clustered: what is joined there cannot be parted again

Method = Literal["average", "centroid"]
"""What a distance of clusters is: the mean cosine distance of their members, or that of centroids of unit vectors."""

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class SpeakerCount:
    """How many speakers a recording may have.

    Attributes:
        fewest: at least.
        most: at most; None: any.

    Raises:
        NestvoxError: no such numbers.
    """

    fewest: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= (self.most or _MOST_SPEAKERS) <= _MOST_SPEAKERS:
            raise NestvoxError(
                f"speakers lie between 1 and {_MOST_SPEAKERS}, at least no more than at most; got {self.fewest} to "
                f"{self.most}"
            )

    @classmethod
    def of(cls, speakers: int | None, fewest: int | None, most: int | None) -> SpeakerCount:
        """Return what a fixed number, or bounds, say.

        Raises:
            NestvoxError: both are given, or they are no numbers.
        """
        if speakers is not None and (fewest is not None or most is not None):
            raise NestvoxError("give the number of speakers, or the fewest and the most, not both")
        return cls(speakers or 1, speakers) if speakers is not None else cls(fewest or 1, most)

    def wanted(self, found: int) -> int:
        """The nearest number that is allowed."""
        return max(self.fewest, found if self.most is None else min(found, self.most))


def cluster(
    vectors: NDArray[np.floating],
    threshold: float,
    *,
    method: Method = "average",
    smallest: int = 12,
    count: SpeakerCount,
) -> Labels:
    """Cluster vectors by direction.

    Args:
        vectors: (N, D), N above 0.
        threshold: largest distance, of `method`, of two clusters that are one speaker.
        method: what a distance is.
        smallest: vectors that a cluster of its own needs; at most a tenth of N.
        count: how many clusters may come out.

    Returns:
        (N,) from 0 on, in the order in which clusters come first.
    """
    unit = _unit(np.asarray(vectors, np.float64))
    if len(unit) == 1 or count.most == 1:
        return np.zeros(len(unit), np.int64)
    how = _How(method, threshold, smallest, count)
    if len(unit) <= MOST_AT_ONCE:
        return _agglomerate(unit, np.ones(len(unit)), how)
    parts: list[Labels] = []
    begun = 0
    for part in np.array_split(unit, -(-len(unit) // MOST_AT_ONCE)):
        found = _cut(_linkage(part, method), threshold * _PART_SHRINK)
        parts.append(found + begun)
        begun += int(found.max()) + 1
    fine = np.concatenate(parts)
    sizes = np.bincount(fine).astype(np.float64)
    centres = centroids(unit, fine)
    # Should there be too many of them too, the largest say who there is, and the others join them.
    large = np.argsort(-sizes, kind="stable")[:MOST_AT_ONCE]
    coarse = _agglomerate(centres[large], sizes[large], how)
    nearest = coarse[(centres @ centres[large].T).argmax(axis=1)]
    nearest[large] = coarse
    return _first_come(nearest[fine])


def centroids(vectors: NDArray[np.floating], labels: Labels) -> Floats:
    """Directions of the means of clusters: (N, D) and (N,) to (K, D)."""
    total = np.zeros((int(labels.max()) + 1, vectors.shape[1]))
    np.add.at(total, labels, vectors)
    return _unit(total)


def assign(local: NDArray[np.floating], centres: Floats, *, apart: bool = True) -> Labels:
    """Give every speaker of every chunk the nearest of the recording's speakers.

    Args:
        local: (C, 3, D), NaN where nobody is active.
        centres: (K, D) unit vectors.
        apart: two speakers of one chunk are different ones, as long as there are enough.

    Returns:
        (C, 3); -1 where nobody is active.
    """
    optimize = require("scipy.optimize", extra="diarization", purpose="telling speakers apart")  # slow to import
    active = np.isfinite(local[:, :, 0])
    cosines = np.nan_to_num(_unit(np.asarray(local, np.float64)) @ centres.T, nan=-1.0)  # (C, 3, K)
    found = np.where(active, cosines.argmax(axis=2), -1)
    if apart and len(centres) > 1:
        for chunk in np.flatnonzero(active.sum(axis=1) > 1):
            here = np.flatnonzero(active[chunk])
            rows, columns = optimize.linear_sum_assignment(cosines[chunk, here], maximize=True)
            found[chunk, here[rows]] = columns
    return found


@dataclass(frozen=True)
class _How:
    method: Method
    threshold: float
    smallest: int
    count: SpeakerCount


def _agglomerate(unit: Floats, sizes: Floats, how: _How) -> Labels:
    total = sizes.sum()
    least = min(how.smallest, max(1, round(0.1 * total)))
    if len(unit) == 1:
        return np.zeros(1, np.int64)
    tree = _linkage(unit, how.method)
    labels = _cut(tree, how.threshold)
    large = _large(labels, sizes, least)
    wanted = how.count.wanted(len(large))
    if wanted != len(large):
        labels = _cut_for(tree, how.threshold, sizes, least, wanted)
        large = _large(labels, sizes, least)
    if not len(large):
        return np.zeros(len(unit), np.int64)
    heads = centroids(unit * sizes[:, None], labels)
    nearest = (heads @ heads[large].T).argmax(axis=1)
    nearest[large] = np.arange(len(large))
    return _first_come(nearest[labels])


def _linkage(unit: Floats, method: Method) -> Floats:
    if len(unit) == 1:
        return np.zeros((0, 4))
    hierarchy = require("scipy.cluster.hierarchy", extra="diarization", purpose="telling speakers apart")
    tree: Floats = hierarchy.linkage(unit, method=method, metric="cosine" if method == "average" else "euclidean")
    return tree


def _cut(tree: Floats, threshold: float) -> Labels:
    if not len(tree):
        return np.zeros(1, np.int64)
    hierarchy = require("scipy.cluster.hierarchy", extra="diarization", purpose="telling speakers apart")
    return np.asarray(hierarchy.fcluster(tree, threshold, criterion="distance"), np.int64) - 1


def _cut_for(tree: Floats, threshold: float, sizes: Floats, least: int, wanted: int) -> Labels:
    """The cut, nearest to the threshold, with so many large clusters; else the one that comes closest."""
    n = len(tree) + 1
    weights = np.concatenate([sizes, np.zeros(len(tree))])
    for merge, (a, b, *_) in enumerate(tree):
        weights[n + merge] = weights[int(a)] + weights[int(b)]
    ordered = tree.copy()
    ordered[:, 2] = np.arange(len(tree))
    best, difference = _cut(ordered, len(tree)), abs(wanted - 1)
    for merge in np.argsort(np.abs(tree[:, 2] - threshold), kind="stable"):
        if weights[n + merge] < least:
            continue
        labels = _cut(ordered, float(merge))
        amiss = abs(len(_large(labels, sizes, least)) - wanted)
        if amiss < difference:
            best, difference = labels, amiss
        if amiss == 0:
            break
    return best


def _large(labels: Labels, sizes: Floats, least: int) -> Labels:
    return np.flatnonzero(np.bincount(labels, weights=sizes) >= least)


def _unit(vectors: Floats) -> Floats:
    norms: Floats = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)


def _first_come(labels: Labels) -> Labels:
    """Number clusters by the place of their first member."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[inverse]
