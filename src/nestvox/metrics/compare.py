"""Two systems on the same trials: how large is the difference, and would it be there with other speakers?

Bootstrap. Speakers are drawn as in `metrics.bootstrap`, one draw for both systems; the interval is of the difference.

Permutation by speaker. If both systems are equally good, whose scores are called A's does not matter. For each speaker
a fair coin says whether the two systems change places on this speaker's trials. A trial of one speaker (every target
trial) has its two scores exchanged where the coin says so. A trial between two speakers is exchanged where both coins
say so, left alone where neither does, and left out of that round where the coins differ: it would be half of each.
The p value is the share of rounds (the observed one among them) whose difference is at least as large as the observed.
The test is exact for trials within speakers; for trials between speakers the rounds have fewer of them than the data,
which makes the p value a little too large rather than too small. Leaving those trials in with the coin of one side
would ignore that the other speaker is shared too, and give p values that are too small.
Scores are put on a common scale first, the share of a system's own scores that are lower (ties in the middle), which
changes neither EER nor minDCF: so a cosine can be exchanged with a log likelihood ratio.

Notation: N trials, S clusters, R replicates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_booleans, as_clusters, as_numbers
from nestvox.errors import NestvoxError, ScoresError, TrialsError
from nestvox.metrics.bootstrap import check_replicates, draw_speakers, seeded
from nestvox.metrics.costs import check_operating_point, min_dcf
from nestvox.metrics.curves import check_scores, error_curve
from nestvox.metrics.distributions import bdtr
from nestvox.metrics.influence import Clusters, eer_influence, min_dcf_influence, student_quantile
from nestvox.metrics.rates import eer
from nestvox.metrics.replicates import Replicates, SpeakerBootstrap

Floats = NDArray[np.float64]

_REPLICATES = 256  # counted at once
_ENDLESS = 100  # draws per wanted replicate before giving up


class McNemar(NamedTuple):
    """Trials that one system decided rightly and the other wrongly.

    Attributes:
        only_a: trials that only the first decided rightly.
        only_b: trials that only the second decided rightly.
        p_exact: two-sided exact binomial p value: never too small for independent trials, often too large.
        p_mid: the same with half the probability of what was seen: closer to its nominal size.
    """

    only_a: int
    only_b: int
    p_exact: float
    p_mid: float


class PairedFigure(NamedTuple):
    """One figure of two systems, and its difference; all as fractions.

    Attributes:
        a: of the first system.
        b: of the second.
        difference: b - a; above 0 the second makes more errors.
        low: lower end of the percentile interval of the difference, paired bootstrap.
        high: upper end.
        studentised_low: lower end from the standard error and Student's t with S - 1 degrees of freedom.
        studentised_high: upper end.
        standard_error: of the difference over samples of speakers (infinitesimal jackknife).
        p_value: of the permutation by speaker, two-sided.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    studentised_low: float
    studentised_high: float
    standard_error: float
    p_value: float


@dataclass(frozen=True)
class PairedComparison:
    """Two systems on the same trials.

    Attributes:
        eer: equal error rates.
        min_dcf: normalised minimum costs.
        at_eer: decisions of each system at its own EER threshold.
        at_min_dcf: decisions at its own minDCF threshold.
        accuracy_a: share of right decisions of the first system at its EER threshold.
        accuracy_b: of the second.
        threshold_a: EER threshold of the first system.
        threshold_b: of the second.
        n_target: target trials.
        n_nontarget: non-target trials.
        n_clusters: S.
        n_replicates: bootstrap replicates counted.
        n_redrawn: draws without one class, drawn again.
        n_permutations: rounds of the permutation.
        confidence: of the intervals.
    """

    eer: PairedFigure
    min_dcf: PairedFigure
    at_eer: McNemar
    at_min_dcf: McNemar
    accuracy_a: float
    accuracy_b: float
    threshold_a: float
    threshold_b: float
    n_target: int
    n_nontarget: int
    n_clusters: int
    n_replicates: int
    n_redrawn: int
    n_permutations: int
    confidence: float


def compare_scores(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    targets: ArrayLike,
    enrol: ArrayLike,
    test: ArrayLike,
    *,
    p_target: float = 0.05,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    n_replicates: int = 1000,
    n_permutations: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairedComparison:
    """Compare two systems on the same N trials.

    Args:
        scores_a: (N,) of the first system; higher means "more likely the same speaker".
        scores_b: (N,) of the second, same trials in the same order, on any scale.
        targets: (N,) bool.
        enrol: (N,) cluster of the first side: whole numbers 0 to S - 1, every one of which occurs.
        test: (N,) cluster of the second side.
        p_target: of the detection cost.
        c_miss: of the detection cost.
        c_fa: of the detection cost.
        n_replicates: of the bootstrap.
        n_permutations: of the permutation; no p value is below 1 / (n_permutations + 1).
        seed: of both.
        confidence: of the intervals.

    Raises:
        ScoresError: scores do not fit or are not finite, or both systems put the trials in the same order.
        TrialsError: one class only, fewer than two clusters, or cluster numbers with gaps.
        NestvoxError: too few replicates, or an impossible operating point.
    """
    check_operating_point(p_target, c_miss, c_fa)
    check_replicates(n_replicates, confidence)
    if n_permutations < 1:
        raise NestvoxError(f"a p value takes one permutation or more, got {n_permutations}")
    generator = seeded(seed)
    # In float64 from here on: a threshold between two scores must not be rounded onto one of them.
    (scores_a, labels), (scores_b, _) = check_scores(scores_a, targets), check_scores(scores_b, targets)
    curves = (error_curve(scores_a, labels), error_curve(scores_b, labels))
    refuse_identical(scores_a, scores_b)
    sides = as_clusters(enrol, len(labels)), as_clusters(test, len(labels))
    point = {"p_target": p_target, "c_miss": c_miss, "c_fa": c_fa}
    systems = tuple(SpeakerBootstrap(scores, labels, *sides) for scores in (scores_a, scores_b))
    n_clusters = systems[0].n_clusters
    if n_clusters < 2 or len(np.union1d(*sides)) != n_clusters:
        raise TrialsError("a comparison over speakers needs at least two speakers, numbered from 0 without gaps")

    def one_draw(generator: np.random.Generator, count: int) -> tuple[Replicates, Replicates]:
        drawn = draw_speakers(generator, n_clusters, count)
        return systems[0].replicates(drawn, **point), systems[1].replicates(drawn, **point)

    mixed = SpeakerBootstrap(
        np.concatenate([_shares_below(scores_a), _shares_below(scores_b)]),
        np.concatenate([labels, labels]),
        # The scores of system B belong to a second set of speakers, present where those of the first are absent.
        *(np.concatenate([side, side + n_clusters]) for side in sides),
    )

    def one_round(generator: np.random.Generator, count: int) -> tuple[Replicates, Replicates]:
        exchanged = generator.integers(0, 2, (count, n_clusters))
        return (
            mixed.replicates(np.concatenate([1 - exchanged, exchanged], axis=1), **point),
            mixed.replicates(np.concatenate([exchanged, 1 - exchanged], axis=1), **point),
        )

    spread, n_redrawn = _differences(one_draw, generator, n_replicates)
    chance, _ = _differences(one_round, generator, n_permutations)
    equal = tuple(eer(curve) for curve in curves)
    cost = tuple(min_dcf(curve, **point) for curve in curves)
    clusters = Clusters(*sides)
    values = [found.rate for found in equal], [found.value for found in cost]
    moves = [eer_influence(curve) for curve in curves], [min_dcf_influence(curve, **point) for curve in curves]
    errors = [clusters.standard_error(of_b - of_a) for of_a, of_b in moves]
    each = zip(values, spread.T, chance.T, errors, strict=True)
    figures = [_figure(a, b, drawn, swapped, error, n_clusters, confidence) for (a, b), drawn, swapped, error in each]
    right = [_right(scores, labels, found.threshold) for scores, found in zip((scores_a, scores_b), equal, strict=True)]
    cheap = [_right(scores, labels, found.threshold) for scores, found in zip((scores_a, scores_b), cost, strict=True)]
    return PairedComparison(
        eer=figures[0],
        min_dcf=figures[1],
        at_eer=mcnemar(*right),
        at_min_dcf=mcnemar(*cheap),
        accuracy_a=float(right[0].mean()),
        accuracy_b=float(right[1].mean()),
        threshold_a=equal[0].threshold,
        threshold_b=equal[1].threshold,
        n_target=int(labels.sum()),
        n_nontarget=int((~labels).sum()),
        n_clusters=n_clusters,
        n_replicates=n_replicates,
        n_redrawn=n_redrawn,
        n_permutations=n_permutations,
        confidence=confidence,
    )


def pairs_needed(figure: PairedFigure, n_trials: int, *, confidence: float = 0.95, power: float = 0.8) -> float:
    """How many trials, with as many more speakers, would show a difference of the size seen.

    The standard error falls with the root of the number of speakers. More trials of the same speakers help less, and
    from some point on not at all: see `metrics.plan`.

    Args:
        figure: of n_trials trials.
        n_trials: their number.
        confidence: 1 minus the level of the two-sided test.
        power: probability of finding the difference.

    Returns:
        A number of trials; infinity where no difference was seen.
    """
    if figure.difference == 0:
        return math.inf
    reach = NormalDist().inv_cdf((1 + confidence) / 2) + NormalDist().inv_cdf(power)
    return n_trials * (reach * figure.standard_error / figure.difference) ** 2


def rank_identically(scores_a: ArrayLike, scores_b: ArrayLike) -> bool:
    """Whether two systems put the trials in the same order, ties included: then no threshold tells them apart."""
    a, b = (np.unique(as_numbers(scores, "scores"), return_inverse=True)[1] for scores in (scores_a, scores_b))
    return bool(np.array_equal(a, b))


def refuse_identical(scores_a: ArrayLike, scores_b: ArrayLike) -> None:
    """Refuse two systems that are one.

    Raises:
        ScoresError: the scores are equal, or only recalibrated: the trials stand in the same order.
    """
    if np.array_equal(as_numbers(scores_a, "scores"), as_numbers(scores_b, "scores")):
        raise ScoresError("both systems have the same score for every trial: one is a copy of the other")
    if rank_identically(scores_a, scores_b):
        raise ScoresError(
            "both systems put the trials in the same order: one is the other recalibrated, and no error rate over "
            "thresholds can differ"
        )


def _differences(
    sample: Callable[[np.random.Generator, int], tuple[Replicates, Replicates]],
    generator: np.random.Generator,
    wanted: int,
) -> tuple[Floats, int]:
    """(wanted, 2) differences of EER and minDCF over valid samples, and how many samples were not."""
    parts: list[Floats] = []
    kept = dropped = 0
    while kept < wanted:
        a, b = sample(generator, min(_REPLICATES, wanted - kept))
        parts.append(np.stack([b.eer - a.eer, b.min_dcf - a.min_dcf], axis=1)[a.valid])
        kept += int(a.valid.sum())
        dropped += int((~a.valid).sum())
        if dropped > _ENDLESS * wanted:
            raise TrialsError("nearly every draw of these speakers lacks a class; there are too few speakers")
    return np.concatenate(parts), dropped


def _figure(
    a: float, b: float, spread: Floats, chance: Floats, error: float, n_clusters: int, confidence: float
) -> PairedFigure:
    low, high = map(float, np.quantile(spread, [(1 - confidence) / 2, (1 + confidence) / 2]))
    reach = student_quantile((1 + confidence) / 2, n_clusters - 1) * error
    # Equal differences may differ in their last bits.
    as_large = int((np.abs(chance) >= abs(b - a) - 1e-12).sum())
    return PairedFigure(a, b, b - a, low, high, b - a - reach, b - a + reach, error, (1 + as_large) / (1 + len(chance)))


def _shares_below(scores: Floats) -> Floats:
    """(N,) share of the scores below each, ties counted half: a scale that all systems share."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return np.asarray(middle[inverse] / len(inverse))


def _right(scores: Floats, labels: NDArray[np.bool_], threshold: float) -> NDArray[np.bool_]:
    return np.asarray((scores >= threshold) == labels)


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Compare decisions, (N,) bool each: was the trial decided rightly?

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12(2), 1947; the exact and the mid-p form: M. W. Fagerland, S. Lydersen and P. Laake, BMC Medical
    Research Methodology 13:91, 2013.

    The test takes trials as independent. Trials that share speakers are not, and then its p values are too small: it
    says how many trials changed, and `metrics.compare` says whether that would hold for other speakers.

    Raises:
        ScoresError: not two lists of booleans of one length.
    """
    a, b = (as_booleans(side, "decisions", error=ScoresError) for side in (correct_a, correct_b))
    if a.shape != b.shape:
        raise ScoresError(f"decisions must be two lists of booleans of one length, got {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n, fewer = only_a + only_b, min(only_a, only_b)
    upto, below = bdtr(fewer, n, 0.5), bdtr(fewer - 1, n, 0.5) if fewer else 0.0
    p_mid = 1.0 if only_a == only_b else float(upto + below)
    return McNemar(only_a, only_b, min(1.0, float(2 * upto)), p_mid)
