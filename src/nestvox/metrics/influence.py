"""What each trial does to an error rate: standard errors without resampling, and the intervals made of them.

The weight of a trial is changed a little, and the change of the figure per change of weight is the trial's influence.
The variance of the figure over samples of speakers is the sum of the products of the influences of all two trials that
share a speaker, each trial with itself among them (the infinitesimal jackknife: B. Efron, "The jackknife, the bootstrap
and other resampling plans", SIAM, 1982; for data about pairs: M. Fafchamps and F. Gubert, "The formation of risk
sharing networks", Journal of Development Economics 83(2), 2007). Sum the influences of each speaker's trials, square,
add: that counts two trials between the same two speakers twice, so they are taken off once. The bootstrap of speakers
does count them twice, and gives intervals that are a little too wide where such trials make most of the noise.

Notation: N trials, S clusters.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_clusters, as_numbers
from nestvox.errors import NestvoxError, TrialsError
from nestvox.metrics.curves import ErrorCurve, check_scores, error_curve
from nestvox.metrics.dcf import min_dcf
from nestvox.metrics.eer import eer

__all__ = [
    "auc_influence",
    "by_speaker",
    "cllr_influence",
    "dcf_influence",
    "eer_influence",
    "logit_interval",
    "min_dcf_influence",
    "standard_error",
    "student_quantile",
]

Floats = NDArray[np.float64]

_NORMAL_FROM = 2000  # degrees of freedom from which Student's t is the normal distribution to three digits


def eer_influence(scores: ArrayLike, targets: ArrayLike) -> Floats:
    """Influence of each trial on the equal error rate.

    Where the curve crosses the diagonal, ``d eer = w d p_miss + (1 - w) d p_fa`` with w the share of the false alarms
    in the step from ``p_miss = p_fa - eer / 2`` to ``p_miss = p_fa + eer / 2``: the steeper rate moves the threshold,
    the flatter one the figure.

    Args:
        scores: (N,) finite.
        targets: (N,) bool.

    Returns:
        (N,) summing to 0.

    Raises:
        ScoresError, TrialsError: as `error_curve`.
    """
    values, labels = check_scores(scores, targets)
    curve = error_curve(values, labels)
    rate = eer(curve).rate
    crossing, _ = curve.first(lambda miss, fa: miss >= fa)
    low, _ = curve.first(lambda miss, fa: miss - fa >= -rate / 2)
    high, _ = curve.first(lambda miss, fa: miss - fa >= rate / 2)
    (miss_low, fa_low), (miss_high, fa_high) = curve.rates(low), curve.rates(high)
    moved = float(miss_high - miss_low + fa_low - fa_high)
    share = float(fa_low - fa_high) / moved if moved > 0 else 0.5
    of_miss, of_fa = _rate_influences(curve, values, labels, crossing)
    return share * of_miss + (1 - share) * of_fa


def min_dcf_influence(
    scores: ArrayLike,
    targets: ArrayLike,
    *,
    p_target: float = 0.05,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> Floats:
    """Influence of each trial on the normalised minimum cost.

    At a minimum the threshold does not matter in the first order, so it is the influence on the cost at the threshold
    found.

    Args:
        scores: (N,) finite.
        targets: (N,) bool.
        p_target: of the cost.
        c_miss: of the cost.
        c_fa: of the cost.

    Returns:
        (N,) summing to 0.

    Raises:
        ScoresError, TrialsError, NestvoxError: as `error_curve` and `min_dcf`.
    """
    threshold = min_dcf(error_curve(scores, targets), p_target, c_miss, c_fa).threshold
    return dcf_influence(scores, targets, threshold, p_target=p_target, c_miss=c_miss, c_fa=c_fa)


def dcf_influence(
    scores: ArrayLike,
    targets: ArrayLike,
    threshold: float,
    *,
    p_target: float = 0.05,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> Floats:
    """Influence of each trial on the normalised cost at a threshold that was set elsewhere.

    Args:
        scores: (N,) finite.
        targets: (N,) bool.
        threshold: accept if score >= threshold.
        p_target: of the cost.
        c_miss: of the cost.
        c_fa: of the cost.

    Returns:
        (N,) summing to 0.

    Raises:
        ScoresError, TrialsError: as `error_curve`.
    """
    values, labels = check_scores(scores, targets)
    of_miss, of_fa = _rate_influences(error_curve(values, labels), values, labels, threshold)
    worst = min(c_miss * p_target, c_fa * (1 - p_target))
    return (c_miss * p_target * of_miss + c_fa * (1 - p_target) * of_fa) / worst


def auc_influence(scores: ArrayLike, targets: ArrayLike) -> Floats:
    """Influence of each trial on the area under the ROC curve: its own share of wins against the other class.

    (E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, "Comparing the areas under two or more correlated receiver
    operating characteristic curves", Biometrics 44(3), 1988.)

    Args:
        scores: (N,) finite.
        targets: (N,) bool.

    Returns:
        (N,) summing to 0.

    Raises:
        ScoresError, TrialsError: as `error_curve`.
    """
    values, labels = check_scores(scores, targets)
    influence = np.empty(len(values))
    for mine, sign in ((labels, 1), (~labels, -1)):
        others = np.sort(sign * values[~mine])
        ends = [np.searchsorted(others, sign * values[mine], side=side) for side in ("left", "right")]
        wins = (ends[0] + ends[1]) / (2 * len(others))
        influence[mine] = (wins - wins.mean()) / len(wins)
    return influence


def cllr_influence(scores: ArrayLike, targets: ArrayLike) -> Floats:
    """Influence of each trial on the cost (`metrics.cllr.cllr`) of log likelihood ratios.

    Args:
        scores: (N,) finite, in nats.
        targets: (N,) bool.

    Returns:
        (N,) summing to 0.

    Raises:
        ScoresError, TrialsError: as `error_curve`.
    """
    values, labels = check_scores(scores, targets)
    costs = np.logaddexp(0.0, np.where(labels, -values, values)) / (2 * math.log(2))
    for mine in (labels, ~labels):
        costs[mine] = (costs[mine] - costs[mine].mean()) / mine.sum()
    return np.asarray(costs, dtype=np.float64)


def by_speaker(influence: ArrayLike, enrol: ArrayLike, test: ArrayLike) -> Floats:
    """Sum the influences of the trials of each cluster; a trial between two belongs to both.

    Args:
        influence: (N,) of the trials.
        enrol: (N,) cluster of the first side: whole numbers 0 to S - 1.
        test: (N,) cluster of the second side.

    Returns:
        (S,): by how much the figure would change if this speaker's trials counted double.

    Raises:
        TrialsError: clusters that do not fit.
    """
    values, one, other = _sides(influence, enrol, test)
    between = one != other
    size = 1 + int(max(one.max(), other.max()))
    sums = np.bincount(one, values, size)
    sums += np.bincount(other[between], values[between], size)
    return np.asarray(sums, dtype=np.float64)


def standard_error(influence: ArrayLike, enrol: ArrayLike, test: ArrayLike) -> float:
    """Standard error of a figure over samples of S clusters, from the influences of its trials.

    Multiplied by S / (S - 1), which makes up for measuring the spread of the speakers around their own mean.

    Args:
        influence: (N,) of the trials; for a difference of two figures, the difference of the influences.
        enrol: (N,) cluster of the first side: whole numbers 0 to S - 1.
        test: (N,) cluster of the second side.

    Raises:
        TrialsError: fewer than two clusters, or clusters that do not fit.
    """
    values, one, other = _sides(influence, enrol, test)
    of_speaker = by_speaker(values, one, other)
    if len(of_speaker) < 2:
        raise TrialsError("a standard error over speakers needs at least two speakers")
    pairs = np.minimum(one, other) * len(of_speaker) + np.maximum(one, other)
    within = one == other
    of_pair = np.bincount(np.unique(pairs[~within], return_inverse=True)[1], values[~within])
    alone = np.bincount(one[within], values[within])
    # With few trials the difference can be too small by chance; pairs of speakers as if independent are the least.
    variance = max(of_speaker @ of_speaker - of_pair @ of_pair, of_pair @ of_pair + alone @ alone)
    return float(len(of_speaker) / (len(of_speaker) - 1) * np.sqrt(variance))


def logit_interval(rate: float, error: float, n_clusters: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a rate from its standard error: Student's t with S - 1 degrees of freedom, on the logit scale.

    The logit keeps both ends within 0 and 1 and makes the interval longer upwards where errors are rare. A rate of
    exactly 0 or 1 has no logit and comes back as both ends: no standard error says how rare errors are.

    Args:
        rate: in [0, 1].
        error: its standard error, at least 0.
        n_clusters: S, at least 2.
        confidence: in (0, 1).
    """
    if not 0 < rate < 1:
        return rate, rate
    reach = student_quantile((1 + confidence) / 2, n_clusters - 1) * error / (rate * (1 - rate))
    odds = math.log(rate) - math.log1p(-rate)
    # An absurd reach (one speaker makes all errors) must not overflow.
    low, high = (1 / (1 + math.exp(-min(max(odds + sign * reach, -700.0), 700.0))) for sign in (-1, 1))
    return low, high


def student_quantile(p: float, df: int) -> float:
    """Quantile of Student's t distribution, by bisection of its closed form for whole degrees of freedom.

    Args:
        p: in (0, 1).
        df: degrees of freedom, at least 1.

    Raises:
        NestvoxError: out of range.
    """
    if not 0 < p < 1 or df < 1:
        raise NestvoxError(f"a quantile needs 0 < p < 1 and at least one degree of freedom, got {p} and {df}")
    if p < 0.5:
        return -student_quantile(1 - p, df)
    if df >= _NORMAL_FROM:
        return NormalDist().inv_cdf(p)
    low, high = 0.0, 1.0
    while _student_within(high, df) < 2 * p - 1:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, df) < 2 * p - 1 else (low, middle)
    return (low + high) / 2


def _student_within(t: float, df: int) -> float:
    """Probability of -t to t (M. Abramowitz and I. A. Stegun, "Handbook of mathematical functions", 26.7.3 and 4)."""
    angle = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term = cosine if odd else 1.0
    total = 0.0 if df == 1 else term
    for k in range(3 if odd else 2, df - 1, 2):
        term *= cosine * cosine * ((k - 1) / k)
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _rate_influences(
    curve: ErrorCurve, values: Floats, labels: NDArray[np.bool_], threshold: float
) -> tuple[Floats, Floats]:
    """(N,) influences on the miss and on the false-alarm rate at one threshold."""
    miss, fa = map(float, curve.rates(threshold))
    accepted = values >= threshold
    of_miss = np.where(labels, ~accepted - miss, 0.0) / curve.n_target
    of_fa = np.where(labels, 0.0, accepted - fa) / curve.n_nontarget
    return of_miss, of_fa


def _sides(
    influence: ArrayLike, enrol: ArrayLike, test: ArrayLike
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    values = as_numbers(influence, "influences", error=TrialsError)
    if not len(values):
        raise TrialsError("influences must be of one trial or more, got none")
    one, other = (as_clusters(side, len(values)) for side in (enrol, test))
    return values, one, other
