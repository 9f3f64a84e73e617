"""The two error counts at every threshold that a set of scores can tell apart.

Notation: N trials, K thresholds (one more than there are distinct scores).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.errors import ScoresError, TrialsError

__all__ = ["ErrorCurve", "check_scores", "error_curve"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """Misses and false alarms under the rule "accept if score >= threshold".

    Equal scores share one threshold: a rule that sees only the score cannot separate them, so a curve that did would
    depend on the order of the trials.

    Attributes:
        thresholds: (K,) ascending; every distinct score, then infinity (nothing is accepted).
        n_miss: (K,) rejected targets (their weight), from 0 to `n_target`.
        n_false_alarm: (K,) accepted non-targets (their weight), from `n_nontarget` to 0.
        n_target: number (weight) of target trials.
        n_nontarget: number (weight) of non-target trials.
    """

    thresholds: Floats
    n_miss: Floats
    n_false_alarm: Floats
    n_target: float
    n_nontarget: float

    @property
    def p_miss(self) -> Floats:
        """(K,) miss rate, a fraction, ascending from 0 to 1."""
        return self.n_miss / self.n_target

    @property
    def p_fa(self) -> Floats:
        """(K,) false-alarm rate, a fraction, descending from 1 to 0."""
        return self.n_false_alarm / self.n_nontarget

    def p_miss_at(self, p_fa: ArrayLike) -> Floats:
        """Miss rate where the curve, its points joined by straight lines, has these false-alarm rates.

        Where several points share one false-alarm rate the lowest miss rate is taken.

        Args:
            p_fa: (G,) false-alarm rates in [0, 1], in any order.
        """
        wanted = np.asarray(p_fa, dtype=np.float64)
        # Scanned from the left (p_fa falls), the first point at or below the wanted rate has the lowest miss rate.
        after = np.searchsorted(-self.n_false_alarm, -wanted * self.n_nontarget, side="left")
        after = np.clip(after, 1, len(self.thresholds) - 1)
        fa, miss = self.p_fa, self.p_miss
        step = fa[after - 1] - fa[after]
        share = np.divide(fa[after - 1] - wanted, step, out=np.zeros_like(wanted), where=step > 0)
        return np.asarray(miss[after - 1] + np.clip(share, 0.0, 1.0) * (miss[after] - miss[after - 1]))


def check_scores(scores: ArrayLike, targets: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Return scores (N,) float64 and targets (N,) bool, or say why they cannot be evaluated.

    Raises:
        ScoresError: lengths differ, or a score is not finite.
        TrialsError: a class has no trials, or the labels are not booleans.
    """
    values = np.asarray(scores, dtype=np.float64)
    labels: NDArray[Any] = np.asarray(targets)
    if values.ndim != 1 or values.shape != labels.shape:
        raise ScoresError(
            f"scores and labels must be two lists of one length, got shapes {values.shape} and {labels.shape}"
        )
    if labels.dtype != np.bool_:
        raise TrialsError(f"labels must be booleans (true: same speaker), got {labels.dtype}")
    finite = np.isfinite(values)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ScoresError(
            f"{int((~finite).sum())} of {len(values)} scores are not finite; "
            f"the first is number {first + 1} ({values[first]})"
        )
    n_target = int(labels.sum())
    if n_target in (0, len(labels)):
        raise TrialsError(
            f"error rates need trials of both classes, got {n_target} target and {len(labels) - n_target} non-target"
        )
    return values, labels


def error_curve(scores: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> ErrorCurve:
    """Sort once and count both errors at every distinct threshold.

    Args:
        scores: (N,) finite; higher means "more likely the same speaker".
        targets: (N,) bool, true for trials of one speaker.
        weights: (N,) how often each trial counts; at least 0. None: once each.

    Raises:
        ScoresError: lengths differ, a score is not finite, or a weight is negative or not finite.
        TrialsError: a class has no trials, or no weight.
    """
    values, labels = check_scores(scores, targets)
    if weights is None:
        counts = np.ones(len(values))
    else:
        counts = np.asarray(weights, dtype=np.float64)
        if counts.shape != values.shape or not np.isfinite(counts).all() or (counts < 0).any():
            raise ScoresError(f"weights must be {len(values)} finite numbers of at least 0")
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] > ordered[:-1])))
    of_target = np.where(labels, counts, 0.0)[order]
    of_nontarget = np.where(labels, 0.0, counts)[order]
    # Weight below each distinct score; the last entry is everything.
    below_target = np.concatenate(([0.0], np.cumsum(of_target)))[np.append(starts, len(values))]
    below_nontarget = np.concatenate(([0.0], np.cumsum(of_nontarget)))[np.append(starts, len(values))]
    n_target, n_nontarget = float(below_target[-1]), float(below_nontarget[-1])
    if n_target == 0 or n_nontarget == 0:
        raise TrialsError(f"a class has no weight: target {n_target:g}, non-target {n_nontarget:g}")
    return ErrorCurve(
        thresholds=np.append(ordered[starts], np.inf),
        n_miss=below_target,
        n_false_alarm=n_nontarget - below_nontarget,
        n_target=n_target,
        n_nontarget=n_nontarget,
    )
