"""How many speakers and pairs a study needs: the size of an experiment before it is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_clusters
from nestvox.errors import NestvoxError
from nestvox.metrics.compare import refuse_identical
from nestvox.metrics.curves import check_scores, error_curve
from nestvox.metrics.influence import Clusters, eer_influence
from nestvox.metrics.rates import eer

Floats = NDArray[np.float64]

_MOST = 10**12


class SpeakerCorrelation(NamedTuple):
    """How alike errors are that share speakers.

    Attributes:
        target: correlation of the errors of two target trials of one speaker.
        nontarget: of two non-target trials with exactly one speaker in common.
        pair: of two non-target trials between the same two speakers.
    """

    target: float
    nontarget: float
    pair: float


USUAL = SpeakerCorrelation(target=0.25, nontarget=0.05, pair=0.7)
"""What to assume without a pilot study. Measured: 0.27, 0.02 and 0.59 on the VoxSRC 2021 validation scores (1,251
speakers, 60,000 trials), 0.26, 0.08 and 0.75 for GE2E on 121 speakers of read speech (14,120 trials)."""


@dataclass(frozen=True)
class StudyPlan:
    """What a study of a given difference takes.

    Attributes:
        eer: of the first system.
        difference: eer of the second minus that of the first.
        correlation: of the two systems' errors.
        clusters: correlations that were assumed.
        power: probability of finding the difference.
        confidence: 1 minus the level of the two-sided test.
        speakers: that the study has.
        pairs: trials needed with these speakers, half of them targets; infinity if no number is enough.
        least_speakers: below which no number of pairs is enough.
        per_speaker: target trials a speaker (and as many non-target trials) that `speakers_needed` is for.
        speakers_needed: with so many trials a speaker.
        pairs_given: trials that the study has, if that was said; else those of `per_speaker`.
        standard_error: of the difference with these speakers and `pairs_given`.
        smallest: difference that these find with this power; NaN where even an eer of one half is not far enough.
        design_effect: times that `pairs_given` are worth less than independent ones, targets and non-targets.
    """

    eer: float
    difference: float
    correlation: float
    clusters: SpeakerCorrelation
    power: float
    confidence: float
    speakers: int
    pairs: float
    least_speakers: int
    per_speaker: int
    speakers_needed: int
    pairs_given: int
    standard_error: float
    smallest: float
    design_effect: tuple[float, float]


def eer_error(rate: float, speakers: int, n_target: float, n_nontarget: float, clusters: SpeakerCorrelation) -> float:
    """Standard error of an equal error rate.

    Args:
        rate: e, in (0, 1).
        speakers: S, at least 2.
        n_target: target trials in all, spread evenly over the speakers.
        n_nontarget: non-target trials in all, spread evenly over the pairs of speakers.
        clusters: correlations of errors.
    """
    deff_target, deff_nontarget = _design_effects(speakers, n_target, n_nontarget, clusters)
    variance = rate * (1 - rate) * (deff_target / n_target + deff_nontarget / n_nontarget) / 4
    return math.sqrt(variance)


def difference_error(
    rate: float,
    difference: float,
    speakers: int,
    n_target: float,
    n_nontarget: float,
    *,
    correlation: float = 0.5,
    clusters: SpeakerCorrelation = USUAL,
) -> float:
    """Standard error of the difference of two systems' equal error rates on the same trials.

    Args:
        rate: of the first system.
        difference: of the second's and the first's.
        speakers: S.
        n_target: target trials in all.
        n_nontarget: non-target trials in all.
        correlation: c of the systems' errors.
        clusters: correlations of errors that share speakers.
    """
    a = eer_error(rate, speakers, n_target, n_nontarget, clusters)
    b = eer_error(rate + difference, speakers, n_target, n_nontarget, clusters)
    return math.sqrt(max(0.0, a * a + b * b - 2 * correlation * a * b))


def independent_trials(
    speakers: int, n_target: float, n_nontarget: float, clusters: SpeakerCorrelation = USUAL
) -> tuple[float, float]:
    """How many independent target and non-target trials those of so few speakers are worth: counts by design effect.

    Args:
        speakers: S, at least 2.
        n_target: target trials, spread evenly over the speakers.
        n_nontarget: non-target trials, spread evenly over the pairs of speakers.
        clusters: correlations of errors that share speakers.

    Raises:
        NestvoxError: fewer than two speakers.
    """
    if speakers < 2:
        raise NestvoxError(f"trials of both classes have two speakers or more, got {speakers}")
    of_target, of_nontarget = _design_effects(speakers, n_target, n_nontarget, clusters)
    return n_target / of_target, n_nontarget / of_nontarget


def plan_study(
    eer: float,
    difference: float,
    speakers: int,
    *,
    pairs: int | None = None,
    per_speaker: int = 20,
    correlation: float = 0.5,
    clusters: SpeakerCorrelation = USUAL,
    power: float = 0.8,
    confidence: float = 0.95,
) -> StudyPlan:
    """Say how many pairs or speakers it takes to find a difference.

    The model. A system errs on a share e of both classes at its EER threshold. Errors are correlated by `target` for
    two target trials of one speaker, by `nontarget` for two non-target trials with one speaker in common, by `pair` for
    two non-target trials between the same two speakers, and not at all for trials that share no speaker. With S
    speakers, n target trials a speaker, k non-target trials that each speaker takes part in, hence m = max(1, k / (S -
    1)) between two speakers (N_t = S n targets and N_n = S k / 2 non-targets),

        var p_miss = e (1 - e) / N_t * (1 + (n - 1) target)
        var p_fa   = e (1 - e) / N_n * (1 + (m - 1) pair + 2 (k - m) nontarget)
        var eer    = (var p_miss + var p_fa) / 4

    The brackets are the design effects: how many times more trials it takes than if each had speakers of its own. The 4
    holds where both error rates are equally steep at the threshold; the covariance between misses and false alarms of
    one speaker is left out. For two systems on the same trials, whose errors are correlated by c, the variance of the
    difference is var eer_a + var eer_b - 2 c sd eer_a sd eer_b. A difference is found with probability `power` if it is
    as large as the sum of the two normal quantiles times its standard error.

    With endlessly many pairs of S speakers the variance stays at e (1 - e) (target / S + 2 pair / (S (S - 1)) + 4
    nontarget (S - 2) / (S (S - 1))) / 4: beyond some point only more speakers help.

    Args:
        eer: equal error rate of the first system, a fraction.
        difference: of the second's and the first's, a fraction, not 0; the sign does not matter much.
        speakers: that the study can have.
        pairs: trials that it can have, half of them targets; None: `per_speaker` targets and as many non-targets each.
        per_speaker: target trials a speaker for the number of speakers needed.
        correlation: of the errors of the two systems, from -1 to below 1.
        clusters: correlations of errors that share speakers.
        power: probability of finding the difference.
        confidence: 1 minus the level of the two-sided test.

    Raises:
        NestvoxError: a value out of range.
    """
    _check(eer, difference, speakers, pairs, per_speaker, correlation, clusters, power, confidence)
    reach = NormalDist().inv_cdf((1 + confidence) / 2) + NormalDist().inv_cdf(power)

    def found(n_speakers: int, half: float, size: float = difference) -> bool:
        error = difference_error(eer, size, n_speakers, half, half, correlation=correlation, clusters=clusters)
        return reach * error <= abs(size)

    half_needed = _least(lambda half: found(speakers, half), 1)
    least_speakers = _least(lambda count: found(count, count * _MOST), 2)
    speakers_needed = _least(lambda count: found(count, count * per_speaker), 2)
    half_given = speakers * per_speaker if pairs is None else pairs / 2
    effects = _design_effects(speakers, half_given, half_given, clusters)
    return StudyPlan(
        eer=eer,
        difference=difference,
        correlation=correlation,
        clusters=clusters,
        power=power,
        confidence=confidence,
        speakers=speakers,
        pairs=math.inf if half_needed > _MOST else 2 * half_needed,
        least_speakers=least_speakers,
        per_speaker=per_speaker,
        speakers_needed=speakers_needed,
        pairs_given=int(2 * half_given),
        standard_error=difference_error(
            eer, difference, speakers, half_given, half_given, correlation=correlation, clusters=clusters
        ),
        smallest=_smallest(lambda size: found(speakers, half_given, math.copysign(size, difference)), eer, difference),
        design_effect=effects,
    )


def speaker_correlation(scores: ArrayLike, targets: ArrayLike, enrol: ArrayLike, test: ArrayLike) -> SpeakerCorrelation:
    """Measure the correlations on a pilot study, from the errors at its EER threshold.

    The mean product of the centred errors of two trials that share speakers, divided by the variance of one; negative
    values, which are noise, become 0. A correlation for which the pilot has no two trials is that of `USUAL`.

    Args:
        scores: (N,) finite.
        targets: (N,) bool; both sides of a target trial have one speaker.
        enrol: (N,) speaker of the first side: whole numbers from 0.
        test: (N,) speaker of the second side.

    Raises:
        ScoresError, TrialsError: as `error_curve`.
        NestvoxError: no errors of a class at the EER threshold.
    """
    values, labels = check_scores(scores, targets)
    threshold = eer(error_curve(values, labels)).threshold
    first, second = as_clusters(enrol, len(values)), as_clusters(test, len(values))
    missed = _centred(values[labels] < threshold)
    accepted = _centred(values[~labels] >= threshold)
    target = _products(missed, [first[labels]])
    one, other = first[~labels], second[~labels]
    size = int(max(first.max(), second.max())) + 1
    both = _products(accepted, [np.minimum(one, other) * size + np.maximum(one, other)])
    any_shared = _products(accepted, [one, other])
    # Two trials between the same two speakers share each of them, so they were counted twice.
    exactly_one = any_shared[0] - 2 * both[0], any_shared[1] - 2 * both[1]
    variances = float(missed @ missed) / len(missed), float(accepted @ accepted) / len(accepted)
    found = [
        max(0.0, total / count / variance) if count > 0 else usual
        for (total, count), variance, usual in zip(
            (target, exactly_one, both), (variances[0], variances[1], variances[1]), USUAL, strict=True
        )
    ]
    return SpeakerCorrelation(*found)


def system_correlation(
    scores_a: ArrayLike, scores_b: ArrayLike, targets: ArrayLike, enrol: ArrayLike, test: ArrayLike
) -> float:
    """Correlation of two systems' equal error rates over samples of speakers, from a pilot on the same trials.

    Args:
        scores_a: (N,) of the first system.
        scores_b: (N,) of the second.
        targets: (N,) bool.
        enrol: (N,) speaker of the first side: whole numbers from 0.
        test: (N,) speaker of the second side.

    Raises:
        NestvoxError: a system without errors.
        ScoresError: both systems put the trials in the same order.
    """
    refuse_identical(scores_a, scores_b)
    a, b = (eer_influence(error_curve(scores, targets)) for scores in (scores_a, scores_b))
    of_a, of_b, of_both = map(Clusters(enrol, test).standard_error, (a, b, b - a))
    if of_a == 0 or of_b == 0:
        raise NestvoxError("a system has no errors in the pilot: nothing to learn from")
    # var (b - a) = var a + var b - 2 c sd a sd b
    return max(-1.0, min(1.0, (of_a**2 + of_b**2 - of_both**2) / (2 * of_a * of_b)))


def _design_effects(
    speakers: int, n_target: float, n_nontarget: float, clusters: SpeakerCorrelation
) -> tuple[float, float]:
    each = 2 * n_nontarget / speakers
    between = max(1.0, each / (speakers - 1))
    of_target = 1 + max(0.0, n_target / speakers - 1) * clusters.target
    of_nontarget = 1 + (between - 1) * clusters.pair + 2 * max(0.0, each - between) * clusters.nontarget
    return of_target, of_nontarget


def _least(enough: Callable[[int], bool], start: int) -> int:
    """Smallest whole number from `start` on that is enough; one above `_MOST` if none is."""
    high = start
    while not enough(high):
        if high > _MOST:
            return _MOST + 1
        high *= 2
    low = max(start, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def _smallest(enough: Callable[[float], bool], rate: float, difference: float) -> float:
    """Smallest difference in the direction asked that is found."""
    low, high = 0.0, (0.5 - rate if difference > 0 else rate) * (1 - 1e-9)
    if not enough(high):
        return math.nan
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _centred(errors: NDArray[np.bool_]) -> Floats:
    rate = float(errors.mean())
    if rate in (0, 1):
        raise NestvoxError("the pilot has no errors of one class at its EER threshold: nothing to learn from")
    return np.asarray(errors - rate, dtype=np.float64)


def _products(errors: Floats, groupings: list[NDArray[np.integer]]) -> tuple[float, float]:
    """Sum of the products of two different errors of one group, ordered, and their number, over all groupings."""
    codes, size = [], 0
    for grouping in groupings:
        codes.append(grouping)
        size = max(size, int(grouping.max()) + 1)
    flat = np.unique(np.concatenate(codes), return_inverse=True)[1]
    repeated = np.tile(errors, len(groupings))
    sums, squares = np.bincount(flat, repeated), np.bincount(flat, repeated**2)
    sizes = np.bincount(flat).astype(np.float64)
    return float((sums**2 - squares).sum()), float((sizes**2 - sizes).sum())


def _check(
    rate: float,
    difference: float,
    speakers: int,
    pairs: int | None,
    per_speaker: int,
    correlation: float,
    clusters: SpeakerCorrelation,
    power: float,
    confidence: float,
) -> None:
    if not 0 < rate < 0.5:
        raise NestvoxError(f"an equal error rate to plan for lies between 0 and 0.5, got {rate}")
    if difference == 0 or not 0 < rate + difference < 0.5:
        raise NestvoxError(
            f"the difference must not be 0, and the second system's rate must lie between 0 and 0.5; got {difference} "
            f"from {rate}"
        )
    if speakers < 3 or per_speaker < 1 or (pairs is not None and pairs < 2):
        raise NestvoxError(
            f"a study has at least 3 speakers, 1 trial each and 2 pairs; got {speakers}, {per_speaker} and {pairs}"
        )
    if not -1 <= correlation < 1:
        raise NestvoxError(f"the correlation of two systems lies from -1 to below 1, got {correlation}")
    if not all(0 <= value <= 1 for value in clusters):
        raise NestvoxError(f"correlations of errors lie between 0 and 1, got {tuple(clusters)}")
    if not (0.5 <= power < 1 and 0 < confidence < 1):
        raise NestvoxError(f"power lies from 0.5 to below 1 and confidence between 0 and 1, got {power}, {confidence}")
