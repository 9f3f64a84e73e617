"""Score normalisation of a system: every score in standard deviations above those of a cohort of other speakers.

Notation: N trials, C cohort vectors, D vector size.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nestvox.corpora.overlap import shared_speakers
from nestvox.errors import FingerprintError, NestvoxError, OverlapError, StoreError, first_of
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.metrics.score_norm import TOP_K, cohort_statistics, s_norm, t_norm, z_norm
from nestvox.model.threshold import COSINE, ScoreSpace
from nestvox.progress import Progress, silent
from nestvox.scoring.speakers import TrialSpeakers
from nestvox.scoring.system import System

NormMethod = Literal["z", "t", "s", "as"]
NORM_METHODS: tuple[NormMethod, ...] = get_args(NormMethod)
_ROUGH = 50  # cohort scores below which their standard deviation is not known to 10 %


@dataclass(frozen=True, eq=False)
class ScoreNorm:
    """How scores are normalised.

    Attributes:
        method: ``z`` by the first side, ``t`` by the second, ``s`` by both, ``as`` by both and the most alike of the
            cohort only.
        cohort: embeddings of other speakers by the same model.
        top_k: of ``as``: how many of the cohort count for each utterance; None: 300, or all of a smaller
            cohort.
    """

    method: NormMethod
    cohort: EmbeddingStore
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.method not in NORM_METHODS:
            raise NestvoxError(f"score norms are {', '.join(NORM_METHODS)}; got {self.method!r}")
        if self.top_k is not None and self.method != "as":
            raise NestvoxError(f"top_k means nothing to {self.method}-norm, which takes the whole cohort; leave it out")

    @property
    def used(self) -> int | None:
        """Cohort scores that count for each utterance; None: all."""
        if self.method != "as":
            return None
        return min(TOP_K, len(self.cohort)) if self.top_k is None else self.top_k

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what a cohort of this size cannot say."""
        size, found = len(self.cohort) if self.used is None else self.used, []
        if self.method == "as" and self.top_k is None and len(self.cohort) < TOP_K:
            found.append(
                f"The cohort has {len(self.cohort)} vectors, fewer than the usual top {TOP_K} of as-norm: all of them "
                "count, which is s-norm."
            )
        if size < _ROUGH:
            found.append(
                f"{size} cohort scores an utterance know their standard deviation to "
                f"{100 / math.sqrt(2 * max(1, size - 1)):.0f} % only: normalised scores are that rough."
            )
        return tuple(found)

    @property
    def space(self) -> ScoreSpace:
        """What normalised scores mean: method and cohort."""
        shards = "".join(shard.sha256 for shard in self.cohort.metadata.shards)
        key = hashlib.sha256(shards.encode()).hexdigest()[:12]
        top = "" if self.used is None else f", top {self.used}"
        return ScoreSpace("normalised", f"{self.method}-norm{top} of {len(self.cohort)} vectors {key}")


def normalised(system: System, norm: ScoreNorm, speakers: TrialSpeakers, *, progress: Progress = silent) -> System:
    """Measure every score in standard deviations above the cohort's.

    The scores of the utterances against the cohort exist for one block of utterances at a time.

    `system` holds cosines of embeddings; no speaker of the trials may stand in the cohort.

    Raises:
        NestvoxError: there are no embeddings behind the scores, they are no cosines any more, or `top_k` does not fit.
        FingerprintError: the cohort is of another model.
        OverlapError: speakers of the trials stand in the cohort; they are named.
        ScoresError: cohort scores that do not vary.
        StoreError: the cohort is of another tap of the model.
    """
    if system.embedded is None or system.space != COSINE:
        raise NestvoxError(
            f"{system.name} has no cosines of embeddings to normalise: score normalisation needs a store or a model"
        )
    notes = (*norm.notes, *check_cohort(norm, speakers, fingerprint=system.fingerprint, tap=system.embedded.tap))
    vectors, enrol, test = system.embedded.vectors, system.embedded.enrol, system.embedded.test
    cohort = norm.cohort.vectors()
    found: dict[int | None, NDArray[np.float64]] = {}
    for done, (dim, scores) in enumerate(system.scores.items(), start=1):
        statistics = cohort_statistics(vectors[:, :dim], cohort[:, :dim], top_k=norm.used)
        if norm.method == "z":
            found[dim] = z_norm(scores, enrol, statistics)
        elif norm.method == "t":
            found[dim] = t_norm(scores, test, statistics)
        else:
            found[dim] = s_norm(scores, enrol, test, statistics)
        progress(done, len(system.scores))
    labels = tuple(sorted({*system.labels, *norm.cohort.metadata.labels}))
    return replace(system, scores=found, space=norm.space, labels=labels, notes=(*system.notes, *notes))


def check_cohort(norm: ScoreNorm, speakers: TrialSpeakers, *, fingerprint: str | None, tap: str) -> tuple[str, ...]:
    """Refuse a cohort that these trials cannot be normalised by.

    `fingerprint` and `tap` are those of the model that scores the trials, and of its output.

    Returns:
        Sentences on what could not be checked.

    Raises:
        FingerprintError: the cohort is of another model.
        StoreError: it is of another tap.
        OverlapError: speakers of the trials stand in it; they are named.
        NestvoxError: it has fewer vectors than count.
    """
    metadata = norm.cohort.metadata
    if metadata.fingerprint != fingerprint:
        raise FingerprintError(
            f"the cohort {norm.cohort.path} is of the model {metadata.fingerprint}, the trials of {fingerprint}; embed "
            "the cohort with the same model"
        )
    if metadata.tap != tap:
        raise StoreError(
            f"the cohort {norm.cohort.path} holds the tap {metadata.tap}, the trials are scored on {tap}: a head may "
            f"lie between them; embed the cohort with --tap {tap}"
        )
    if norm.used is not None and norm.used > len(norm.cohort):
        raise NestvoxError(
            f"top_k is {norm.used}, and the cohort has {len(norm.cohort)} vectors: take a larger cohort, or a "
            "smaller top_k"
        )
    names = norm.cohort.speakers
    notes = []
    if not speakers.known:
        notes.append("Whether speakers of the trials stand in the cohort is not checked: the trials do not name them.")
    unnamed = sum(name is None for name in names)
    if unnamed:
        notes.append(f"{unnamed} of {len(names)} cohort vectors name no speaker: they may be speakers of the trials.")
    both = shared_speakers((name for name in names if name is not None), speakers.names)
    if both:
        raise OverlapError(
            f"{len(both)} speakers of the trials stand in the cohort {norm.cohort.path}: {first_of(both)}; "
            "take a cohort of other speakers"
        )
    return tuple(notes)
