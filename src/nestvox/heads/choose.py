"""Fitting a rotation, and choosing one on pairs of speakers that no candidate was fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nestvox.errors import ModelError
from nestvox.heads.contract import FloatArray
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.refine import Refinement, refine
from nestvox.heads.rotation import Centre, Rotation, Scatter, centred, default_dims, discriminant, pca, truncation
from nestvox.progress import Progress, silent

Method = Literal["auto", "pca", "discriminant", "refined"]

_BLOCK = 32_768

WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A fitted rotation and what it reached on the pairs that it was chosen on.

    Attributes:
        rotation: the candidate.
        eers: equal error rate per prefix length, fractions; optimistic for the candidate that was chosen by them.
        criterion: their mean over the prefixes below the full size, where no mean is subtracted and the full size is
            the same for all; else over all. The number that is minimised.
    """

    rotation: Rotation
    eers: dict[int, float]
    criterion: float


def fit_rotation(
    method: Literal["pca", "discriminant", "refined"],
    scatter: Scatter,
    dims: Sequence[int] | None = None,
    *,
    weight: float = 1.0,
    every_speaker: bool = False,
    labelled: tuple[FloatArray, Sequence[str]] | None = None,
    refinement: Refinement | None = None,
) -> Rotation:
    """Fit one rotation: all that fit any, with or without pairs to choose on, do it here.

    Args:
        method: ``pca``; ``discriminant``; ``refined``: gradient steps from the discriminant order.
        scatter: moments of the vectors.
        dims: prefix lengths.
        weight: of the spread within a speaker.
        every_speaker: see `discriminant`.
        labelled: (N, D) vectors and N names, for ``refined``.
        refinement: its settings.

    Raises:
        ModelError: too few speakers.
    """
    if method == "pca":
        return pca(scatter, dims)
    order = discriminant(scatter, weight, dims, every_speaker=every_speaker)
    if method == "discriminant":
        return order
    assert labelled is not None
    return refine(order, *labelled, refinement or Refinement())


def choose_rotation(
    vectors: FloatArray,
    speakers: Sequence[str],
    pairs: LabelledPairs,
    *,
    dims: Sequence[int] | None = None,
    method: Method = "auto",
    weights: Sequence[float] = WEIGHTS,
    refinement: Refinement | None = None,
    centre: Centre = "none",
    progress: Progress = silent,
) -> dict[str, Candidate]:
    """Fit candidates on labelled vectors and keep, for each method, the best on `pairs`.

    The mean of `vectors` may be subtracted: from all coordinates, or from those behind a prefix length, the best for
    each candidate. It moves nothing else: the matrices are the same with a mean and without.

    Args:
        vectors: (N, D) to fit on.
        speakers: N names.
        pairs: of other speakers; what a weight, a stopping step and a method are chosen on.
        dims: prefix lengths; the criterion is the mean EER over those below D.
        method: the richest method to try: ``pca``, then ``discriminant``, then ``refined``; ``auto`` is ``refined``.
        weights: of the spread within a speaker, for the discriminant order.
        refinement: settings of the gradient steps.
        centre: ``none``; ``all``: every candidate but ``truncation`` is centred in all coordinates; ``auto``: in those
            that are best on `pairs`, perhaps in none.
        progress: candidates done of all.

    Returns:
        The best candidate of each method by name, ``truncation`` first, then, unless `centre` is ``none``, ``centred``
        (truncation less the mean: the encoder itself, centred), and ``best`` last, which is neither of these.

    Raises:
        ModelError: too few speakers, or vectors of another size than the pairs'.
    """
    size = vectors.shape[1]
    if pairs.vectors.shape[1] != size:
        raise ModelError(f"vectors have {size} dimensions, the pairs' vectors {pairs.vectors.shape[1]}")
    lengths = default_dims(size) if dims is None else tuple(dims)
    refinement = refinement or Refinement()
    depth = {"pca": 1, "discriminant": 2, "refined": 3, "auto": 3}[method]
    total = 2 + (centre != "none") + (len(weights) if depth > 1 else 0) + (depth > 2)
    done = 0

    def measured(rotation: Rotation, *firsts: int) -> Candidate:
        """The best of the rotation with its mean subtracted from each of these coordinates on."""
        nonlocal done
        done += 1
        progress(done, total)
        return best([judged(centred(rotation, scatter.mean(), first)) for first in firsts])

    def judged(rotation: Rotation) -> Candidate:
        eers = pairs.eers(rotation)
        counted = [rate for dim, rate in eers.items() if dim < size or centre != "none"] or list(eers.values())
        return Candidate(rotation, eers, sum(counted) / len(counted))

    def best(candidates: Sequence[Candidate]) -> Candidate:
        return min(candidates, key=lambda candidate: candidate.criterion)

    if len(speakers) != len(vectors):
        raise ModelError(f"{len(speakers)} speakers for {len(vectors)} vectors")
    scatter = Scatter(size)
    for start in range(0, len(vectors), _BLOCK):  # double precision of everything at once would be the peak of memory
        scatter.add(vectors[start : start + _BLOCK], speakers[start : start + _BLOCK])
    plain = truncation(size, lengths)
    firsts = {"none": (size,), "all": (0,), "auto": (0, *plain.dims)}[centre]
    found = {"truncation": measured(plain, size)}
    if centre != "none":
        found["centred"] = measured(plain, 0)
    found["pca"] = measured(fit_rotation("pca", scatter, lengths), *firsts)
    if depth > 1:
        orders = (fit_rotation("discriminant", scatter, lengths, weight=weight) for weight in weights)
        found["discriminant"] = best([measured(order, *firsts) for order in orders])
    if depth > 2:
        refined = fit_rotation(
            "refined",
            scatter,
            lengths,
            weight=refinement.weight,
            every_speaker=True,
            labelled=(vectors, speakers),
            refinement=refinement,
        )
        found["refined"] = measured(refined, *firsts)
    return found | {"best": best([found[name] for name in found if name not in ("truncation", "centred")])}
