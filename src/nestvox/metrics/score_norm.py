"""Score normalisation with a cohort: Z, T, S and adaptive S-norm, in bounded memory.

What is "high" for one recording is usual for another. Each side of a trial is scored against a cohort of other
speakers, and the trial's score is measured in standard deviations above that side's cohort scores (R. Auckenthaler,
M. Carey and H. Lloyd-Thomas, "Score normalization for text-independent speaker verification systems", Digital Signal
Processing 10(1-3), 2000; S-norm: P. Kenny, "Bayesian speaker verification with heavy-tailed priors", Odyssey 2010;
adaptive, with the top k cohort scores of each side: S. Cumani et al., "Comparison of speaker recognition approaches for
real applications", Interspeech 2011; P. Matejka et al., "Analysis of score normalization in multilingual speaker
recognition", Interspeech 2017).

The cohort holds none of the speakers of the trials, and is best like them in channel and language.

Notation: N trials, U utterances, C cohort vectors, D vector size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_count, as_numbers, as_rows, as_vectors, fit_to_square
from nestvox.errors import NestvoxError, ScoresError
from nestvox.progress import Progress, silent

Floats = NDArray[np.float64]

TOP_K = 300
"""Cohort scores that count in adaptive S-norm where nobody says how many."""

_BLOCK = 2**23  # cohort scores held at once: 32 MiB
_FLAT = 1e-6  # of cosines in float32: less is rounding


@dataclass(frozen=True, eq=False)
class CohortStatistics:
    """Mean and standard deviation of each utterance's cohort scores.

    Attributes:
        mean: (U,) over the cohort, or over the top k.
        std: (U,) above 0.
        n_cohort: scores that each is of: C, or k.
    """

    mean: Floats
    std: Floats
    n_cohort: int


def cohort_statistics(
    vectors: ArrayLike,
    cohort: ArrayLike,
    *,
    top_k: int | None = None,
    progress: Progress = silent,
) -> CohortStatistics:
    """Score every utterance against the cohort by cosine, and keep mean and standard deviation.

    The scores exist for one block of utterances at a time, in float32; statistics are accumulated in float64.

    Args:
        vectors: (U, D), need not be normalised; each utterance once, however many trials it is in.
        cohort: (C, D), need not be normalised.
        top_k: keep the k highest scores of each utterance only; None: all.
        progress: told the utterances scored.

    Raises:
        ScoresError: shapes do not fit, vectors that are no real numbers, one that is zero or not finite, or cohort
            scores that do not vary.
        NestvoxError: `top_k` is below 2 or above C, or the cohort has fewer than two vectors.
    """
    # The check of their lengths finds what is not finite.
    rows_of, others = (as_vectors(v, name, finite=False) for v, name in ((vectors, "embeddings"), (cohort, "cohort")))
    if rows_of.shape[1] != others.shape[1]:
        raise ScoresError(f"embeddings {rows_of.shape} and cohort {others.shape} must be two tables of one width")
    if len(others) < 2:
        raise NestvoxError(f"a cohort needs two vectors or more to have a spread, this one has {len(others)}")
    size = len(others) if top_k is None else as_count(top_k, "top_k", least=2)
    if size > len(others):
        raise NestvoxError(
            f"top_k is {size}, and the cohort has {len(others)} vectors: take a larger cohort, or a top_k of at most "
            f"{len(others)} (all of it: s-norm)"
        )
    unit_cohort = _unit(others, "cohort vector").T
    rows = max(1, _BLOCK // len(others))
    mean, std = np.empty(len(rows_of)), np.empty(len(rows_of))
    for start in range(0, len(rows_of), rows):
        scores = _unit(rows_of[start : start + rows], "embedding", start) @ unit_cohort  # (rows, C)
        if size < len(others):
            scores.partition(len(others) - size, axis=1)
            scores = scores[:, len(others) - size :]
        part = slice(start, start + len(scores))
        # Centred first: the square of a small deviation must not drown in the square of the mean.
        mean[part] = scores.mean(axis=1, dtype=np.float64)
        scores = scores - mean[part, None].astype(np.float32)
        correction = scores.mean(axis=1, dtype=np.float64)
        std[part] = np.sqrt(np.einsum("ij,ij->i", scores, scores, dtype=np.float64) / size - correction**2)
        progress(min(start + rows, len(rows_of)), len(rows_of))
    flat = np.flatnonzero(~(std > _FLAT))
    if len(flat):
        raise ScoresError(
            f"{len(flat)} utterances have the same score with the whole cohort (the first is row {int(flat[0])}): "
            "a cohort of copies normalises nothing"
        )
    return CohortStatistics(mean, std, size)


def z_norm(scores: ArrayLike, enrol: ArrayLike, statistics: CohortStatistics) -> Floats:
    """Normalise by the cohort scores of the first side.

    Args:
        scores: (N,) cosines, as the cohort scores are.
        enrol: (N,) row of the first side among the U utterances.
        statistics: of all cohort scores, or of the top k.

    Raises:
        ScoresError: rows that do not fit.
    """
    values, rows = _aligned(scores, enrol, statistics)
    return (values - statistics.mean[rows]) / statistics.std[rows]


def t_norm(scores: ArrayLike, test: ArrayLike, statistics: CohortStatistics) -> Floats:
    """Normalise by the cohort scores of the second side: (N,) scores, (N,) rows of that side.

    Raises:
        ScoresError: rows that do not fit.
    """
    return z_norm(scores, test, statistics)


def s_norm(
    scores: ArrayLike,
    enrol: ArrayLike,
    test: ArrayLike,
    statistics: CohortStatistics,
    test_statistics: CohortStatistics | None = None,
) -> Floats:
    """Mean of Z-norm and T-norm: the sides of a trial may change places.

    Args:
        scores: (N,) cosines.
        enrol: (N,) row of the first side in `statistics`.
        test: (N,) row of the second side, in `test_statistics` if given, else in `statistics`.
        statistics: of all cohort scores; of the top k this is adaptive S-norm.
        test_statistics: of the utterances of the second side, where they are kept apart.

    Raises:
        ScoresError: rows that do not fit.
    """
    return (z_norm(scores, enrol, statistics) + t_norm(scores, test, test_statistics or statistics)) / 2


def as_norm(
    scores: ArrayLike,
    enrol: ArrayLike,
    test: ArrayLike,
    vectors: ArrayLike,
    cohort: ArrayLike,
    *,
    top_k: int | None = None,
    progress: Progress = silent,
) -> Floats:
    """Adaptive S-norm in one call: each side against the k cohort vectors most like it.

    Args:
        scores: (N,) cosines.
        enrol: (N,) row of the first side in `vectors`.
        test: (N,) row of the second side.
        vectors: (U, D) embeddings of the utterances, each once.
        cohort: (C, D) embeddings of other speakers.
        top_k: k; None: `TOP_K`, or the whole cohort where it is smaller.
        progress: told the utterances scored.

    Raises:
        ScoresError, NestvoxError: as `cohort_statistics` and `s_norm`.
    """
    others = as_vectors(cohort, "cohort", finite=False)
    size = min(TOP_K, len(others)) if top_k is None and len(others) > 1 else top_k
    return s_norm(scores, enrol, test, cohort_statistics(vectors, others, top_k=size, progress=progress))


def _unit(vectors: NDArray[np.floating[Any]], what: str, start: int = 0) -> NDArray[np.float32]:
    vectors = fit_to_square(vectors)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        raise ScoresError(f"{what} {start + int(wrong[0])} is zero or not finite and has no cosine")
    return np.asarray(vectors / lengths[:, None], dtype=np.float32)


def _aligned(scores: ArrayLike, rows: ArrayLike, statistics: CohortStatistics) -> tuple[Floats, NDArray[np.int64]]:
    values, at = as_numbers(scores, "scores"), as_rows(rows, "rows", length=len(statistics.mean))
    if at.shape != values.shape:
        raise ScoresError(f"scores and rows must be two lists of one length, got {values.shape} and {at.shape}")
    return values, at
