"""Setting a threshold for an operating point, and how sure it is.

The threshold lies half-way between the two neighbouring scores that it has to separate: whoever counts again on the
same trials gets exactly the same errors, and a score that comes out differently in its last digit stays on its side.

How sure it is has two parts. The speakers are drawn anew as in `metrics.bootstrap`, and each draw sets its own
threshold: the middle of those is the interval of the threshold. Each draw also counts its errors at the threshold that
was set: the middle of those is the interval of both rates. An interval of a rate is never narrower than that of as
many independent trials (E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal
of the American Statistical Association 22(158), 1927), so that no error seen does not mean that there are none.

How many trials an operating point takes: no error in n independent trials puts the rate below 3 / n with 95 %
confidence (the rule of three), so a rate r that is to be held cannot be told from none with fewer than 3 / r trials.
30 errors bound a rate to within 30 % of itself with 90 % confidence (G. R. Doddington et al., "The NIST speaker
recognition evaluation - overview, methodology, systems, results, perspective", Speech Communication 31(2-3), 2000).

Notation: N trials, S clusters, R replicates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_clusters
from nestvox.errors import NestvoxError, TrialsError
from nestvox.metrics.bootstrap import Interval, check_replicates, draw_speakers, seeded
from nestvox.metrics.costs import check_operating_point, min_dcf
from nestvox.metrics.curves import ErrorCurve, SortedScores, check_scores
from nestvox.metrics.rates import OperatingPoint, eer, far_at_frr, frr_at_far, rates_at
from nestvox.progress import Progress, silent

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_RULE_OF_THREE = 3.0
_RULE_OF_THIRTY = 30
_FEWEST = 10  # trials of a class: the rule of three says nothing below 30 % of fewer
_BLOCK = 64  # replicates drawn at once
_ENDLESS = 100  # draws per wanted replicate before giving up


@dataclass(frozen=True)
class DecisionRule:
    """What a threshold is to hold.

    Attributes:
        kind: ``eer``: both error rates equal; ``far``: accept at most this share of the non-targets; ``frr``: reject at
            most this share of the targets; ``min_dcf``: lowest detection cost.
        rate: of ``far`` and ``frr``, in (0, 1).
        p_target: prior of ``min_dcf``.
        c_miss: its cost of a miss.
        c_fa: its cost of a false alarm.
    """

    kind: Literal["eer", "far", "frr", "min_dcf"]
    rate: float | None = None
    p_target: float = 0.05
    c_miss: float = 1.0
    c_fa: float = 1.0

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.kind in ("far", "frr")):
            raise NestvoxError(f"{self.kind} {'needs a' if self.rate is None else 'has no'} rate")
        if self.rate is not None and not 0 < self.rate < 1:
            raise NestvoxError(f"{self.kind} must lie strictly between 0 and 1, got {self.rate}")
        check_operating_point(self.p_target, self.c_miss, self.c_fa)

    @property
    def name(self) -> str:
        """What it is called where it is stored, e.g. ``far 0.01``."""
        if self.kind == "min_dcf":
            return f"min_dcf p_target={self.p_target:g} c_miss={self.c_miss:g} c_fa={self.c_fa:g}"
        return self.kind if self.rate is None else f"{self.kind} {self.rate:g}"

    def too_few(self, n_target: float, n_nontarget: float) -> str:
        """Why so many trials cannot say what is asked; empty where they can."""
        if self.rate is None:
            fewest = min(n_target, n_nontarget)
            if fewest >= _FEWEST:
                return ""
            return (
                f"{self.name} cannot be said from {n_target:,.0f} target and {n_nontarget:,.0f} non-target trials: it "
                f"takes {_FEWEST} of each, because no error at all in {fewest:,.0f} trials only says that the rate is "
                f"below {min(1.0, _RULE_OF_THREE / fewest):.2g}"
            )
        needed = _RULE_OF_THREE / self.rate
        n, kind = (n_nontarget, "non-target") if self.kind == "far" else (n_target, "target")
        if n > needed:
            return ""
        return (
            f"{self.name} cannot be said from {n:,.0f} {kind} trials: it takes more than {needed:,.0f} (3 / "
            f"{self.rate:g}), "
            f"because even no error at all in {n:,.0f} trials only says that the rate is below {_RULE_OF_THREE / n:.2g}"
        )

    def threshold(self, curve: ErrorCurve) -> float:
        """The threshold on this curve, half-way between the scores that it separates; infinity: accepting nothing."""
        if self.kind == "eer":
            return eer(curve).threshold
        if self.kind == "min_dcf":
            return _between(curve, min_dcf(curve, self.p_target, self.c_miss, self.c_fa).threshold)
        assert self.rate is not None
        point = frr_at_far(curve, self.rate) if self.kind == "far" else far_at_frr(curve, self.rate)
        return _between(curve, point.threshold)


@dataclass(frozen=True)
class MeasuredThreshold:
    """A threshold, its errors on some trials, and the intervals of all three.

    Attributes:
        point: threshold, rates and counts.
        value: interval of the threshold over samples of speakers; None where it was given, not set on these trials.
        p_fa: interval of the false-alarm rate at the threshold.
        p_miss: interval of the miss rate.
        n_target: target trials.
        n_nontarget: non-target trials.
        n_clusters: S.
        n_replicates: R.
        confidence: of the intervals.
    """

    point: OperatingPoint
    value: Interval | None
    p_fa: Interval
    p_miss: Interval
    n_target: int
    n_nontarget: int
    n_clusters: int
    n_replicates: int
    confidence: float

    def warnings(self) -> tuple[str, ...]:
        """Sentences on what these errors are too few to say."""
        found = []
        for count, name in ((self.point.n_false_alarm, "false alarms"), (self.point.n_miss, "misses")):
            if count < _RULE_OF_THIRTY:
                found.append(
                    f"its rate of {name} rests on {count:.0f} of them; it takes {_RULE_OF_THIRTY} to know a rate "
                    "within "
                    "30 % of itself with 90 % confidence"
                )
        return tuple(found)


def fit_threshold(
    scores: ArrayLike,
    targets: ArrayLike,
    enrol: ArrayLike,
    test: ArrayLike,
    rule: DecisionRule,
    *,
    n_replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    progress: Progress = silent,
) -> MeasuredThreshold:
    """Set a threshold on labelled trials.

    Args:
        scores: (N,) finite; higher means "more likely the same speaker".
        targets: (N,) bool.
        enrol: (N,) cluster of the first side: whole numbers 0 to S - 1.
        test: (N,) cluster of the second side.
        rule: what it is to hold.
        n_replicates: draws of the speakers.
        seed: of the draws.
        confidence: of the intervals.
        progress: told the replicates counted.

    Raises:
        TrialsError: too few trials for this rate, or none but accepting nobody holds it; one class or one speaker only;
            scores no better than chance.
        ScoresError: scores that do not fit or are not finite.
    """
    trials = _Sorted(scores, targets, enrol, test)
    curve = trials.curve()
    if reason := rule.too_few(curve.n_target, curve.n_nontarget):
        raise TrialsError(reason)
    value = rule.threshold(curve)
    if not math.isfinite(value):
        what = "costs least" if rule.kind == "min_dcf" else "is the only way to hold it"
        raise TrialsError(f"{rule.name} gives no threshold on these trials: rejecting everybody {what}")
    if (rate := eer(curve).rate) >= 0.5:
        raise TrialsError(
            f"these scores tell speakers no better than chance (EER {rate:.1%}), so no threshold on them decides: are "
            "they distances, or the labels exchanged?"
        )
    return _measured(trials, curve, value, rule, n_replicates, seed, confidence, progress)


def measure_threshold(
    scores: ArrayLike,
    targets: ArrayLike,
    enrol: ArrayLike,
    test: ArrayLike,
    threshold: float,
    *,
    n_replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    progress: Progress = silent,
) -> MeasuredThreshold:
    """Count the errors of a threshold that was set elsewhere; arguments and errors as `fit_threshold`."""
    trials = _Sorted(scores, targets, enrol, test)
    return _measured(trials, trials.curve(), threshold, None, n_replicates, seed, confidence, progress)


def wilson_interval(count: float, n: float, confidence: float = 0.95) -> Interval:
    """Interval of a rate from `count` events in `n` independent trials (Wilson's score interval).

    Raises:
        NestvoxError: not a count, or no trials.
    """
    if not (n > 0 and 0 <= count <= n) or not 0 < confidence < 1:
        raise NestvoxError(f"an interval needs 0 <= count <= n, n > 0 and 0 < confidence < 1, got {count} of {n}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, square = count / n, z * z / n
    centre = (rate + square / 2) / (1 + square)
    reach = math.sqrt(square * rate * (1 - rate) + square * square / 4) / (1 + square)
    low = 0.0 if count == 0 else max(0.0, centre - reach)
    high = 1.0 if count == n else min(1.0, centre + reach)
    return Interval(low, high)


class _Sorted:
    """Trials sorted once, counted under many draws of the speakers."""

    def __init__(self, scores: ArrayLike, targets: ArrayLike, enrol: ArrayLike, test: ArrayLike) -> None:
        values, labels = check_scores(scores, targets)
        sides = [as_clusters(side, len(values)) for side in (enrol, test)]
        self.n_clusters = int(max(side.max() for side in sides)) + 1
        if self.n_clusters < 2:
            raise TrialsError("an interval over speakers needs cluster numbers from 0 and at least two speakers")
        self._classes = []
        for mask in (labels, ~labels):
            order = np.flatnonzero(mask)[np.argsort(values[mask], kind="stable")]
            one, other = (side[order] for side in sides)
            self._classes.append((values[order], one, other, one == other))

    def curve(self) -> ErrorCurve:
        """Every trial once."""
        target, nontarget = (SortedScores(values) for values, *_ in self._classes)
        return ErrorCurve(target, nontarget)

    def drawn(self, multiplicity: Integers) -> ErrorCurve | None:
        """Trials as often as their speakers were drawn; None where a class has none."""
        sides = []
        for values, one, other, within in self._classes:
            weights = multiplicity[one] * np.where(within, 1, multiplicity[other])
            there = weights > 0
            if not there.any():
                return None
            cumulative = np.concatenate(([0.0], np.cumsum(weights[there], dtype=np.float64)))
            sides.append(SortedScores(values[there], cumulative))
        return ErrorCurve(sides[0], sides[1])


def _measured(
    trials: _Sorted,
    curve: ErrorCurve,
    value: float,
    rule: DecisionRule | None,
    n_replicates: int,
    seed: int,
    confidence: float,
    progress: Progress,
) -> MeasuredThreshold:
    check_replicates(n_replicates, confidence)
    point = rates_at(curve, value)
    generator = seeded(seed)
    values: list[float] = []
    rates: list[tuple[float, float]] = []
    drawn = 0
    while len(rates) < n_replicates:
        if drawn > _ENDLESS * n_replicates:
            raise TrialsError("hardly any draw of the speakers has trials of both classes: too few speakers")
        for multiplicity in draw_speakers(generator, trials.n_clusters, min(_BLOCK, n_replicates - len(rates))):
            drawn += 1
            replicate = trials.drawn(multiplicity)
            if replicate is not None:
                miss, fa = replicate.rates(value)
                rates.append((float(fa), float(miss)))
                if rule is not None:
                    values.append(rule.threshold(replicate))
        progress(len(rates), n_replicates)
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    # Draws may only be satisfied by accepting nobody: no interpolation between a score and infinity.
    spread = Interval(*map(float, np.quantile(values, ends, method="inverted_cdf"))) if values else None
    low, high = np.quantile(np.array(rates), ends, axis=0)
    fa_alone = wilson_interval(point.n_false_alarm, curve.n_nontarget, confidence)
    miss_alone = wilson_interval(point.n_miss, curve.n_target, confidence)
    return MeasuredThreshold(
        point=point,
        value=spread,
        p_fa=_wider(Interval(float(low[0]), float(high[0])), fa_alone),
        p_miss=_wider(Interval(float(low[1]), float(high[1])), miss_alone),
        n_target=int(curve.n_target),
        n_nontarget=int(curve.n_nontarget),
        n_clusters=trials.n_clusters,
        n_replicates=len(rates),
        confidence=confidence,
    )


def _wider(one: Interval, other: Interval) -> Interval:
    return Interval(min(one.low, other.low), max(one.high, other.high))


def _between(curve: ErrorCurve, threshold: float) -> float:
    """Half-way down to the next lower score: the same decisions about every trial."""
    below = curve.highest_below(threshold)
    if not (math.isfinite(below) and math.isfinite(threshold)):
        return threshold
    middle = below / 2 + threshold / 2
    return middle if below < middle <= threshold else threshold
