"""From scores to log likelihood ratios: an affine map, with the quality of the recordings as side information.

Prior-weighted logistic regression (N. Brummer and J. du Preez, "Application-independent evaluation of speaker
detection", Computer Speech & Language 20(2-3), 2006): with prior p and tau = logit(p), the map ``l = offset + scale *
score + weights . quality`` minimises

    p mean_target log(1 + exp(-l - tau)) + (1 - p) mean_nontarget log(1 + exp(l + tau)) + ridge / 2 |w|^2

where w are the weights of the score and the qualities, each scaled to variance 1. At p = 1/2 and without the ridge this
is the `cllr` in nats. The ridge keeps the map finite where the classes do not overlap. The minimum is found by Newton's
method.

How much the trials can say bounds what the map says, whatever its slope: where the classes do not overlap the ridge
alone chooses that. If none of n independent non-targets scores so high, the odds that the next one does are 1 to n + 1
(the rule of succession: P. S. Laplace, "Essai philosophique sur les probabilites", 1814). So no log likelihood ratio
above log (n + 1) of the non-targets, or below -log (n + 1) of the targets, is supported (bounds by what was seen: P.
Vergeer et al., "Numerical likelihood ratios outputted by LR systems are often based on extrapolation: when to stop
extrapolating?", Science & Justice 56(6), 2016; that a test which stays right under small contamination cuts the ratio
off: P. J. Huber, "A robust version of the probability ratio test", Annals of Mathematical Statistics 36(6), 1965).
Within one nat of a bound the map bends towards it and never reaches it, so that the order of the trials stays.

Each weight of a quality measure takes five independent trials of the rarer class (E. Vittinghoff and C. E. McCulloch,
"Relaxing the rule of ten events per variable in logistic and Cox regression", American Journal of Epidemiology 165(6),
2007).

A calibration is fitted on development trials and used on others: it knows the trials that it has seen.

Notation: N trials, Q quality measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_numbers
from nestvox.errors import NestvoxError, ScoresError
from nestvox.metrics.costs import bayes_threshold
from nestvox.metrics.curves import check_scores

Floats = NDArray[np.float64]

_STEPS = 100
_MANY, _PART = 1 << 20, 1 << 17  # of more trials than the one about as many as the other are fitted first
_ROUNDING = 1e-13  # of a loss over so many
_FULL = "scores"  # key of a calibration that belongs to no dimension
_BEND = 1.0  # nats below a bound from which the map bends towards it
_PER_WEIGHT = 5  # independent trials of the rarer class that each quality measure takes


@dataclass(frozen=True)
class Calibration:
    """An affine map of scores to log likelihood ratios in nats.

    Attributes:
        scale: nats per unit of score, above 0.
        offset: nats.
        quality: name and weight (nats per unit) of each quality measure, in the order of their columns.
        p_target: prior that the fit was weighted for.
        ridge: that it was fitted with.
        n_target: target trials that it was fitted on.
        n_nontarget: non-target trials.
        trials_sha256: canonical hash of these trials; empty where it is not known.
        independent_target: independent target trials that these are worth, because they share speakers; None: as many
            as there are.
        independent_nontarget: the same of the non-targets.
    """

    scale: float
    offset: float
    quality: tuple[tuple[str, float], ...]
    p_target: float
    ridge: float
    n_target: int
    n_nontarget: int
    trials_sha256: str = ""
    independent_target: float | None = None
    independent_nontarget: float | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """Nats between which every log likelihood ratio lies: what the trials of the fit can support."""
        counts = (
            (self.independent_target, self.n_target),
            (self.independent_nontarget, self.n_nontarget),
        )
        low, high = (math.log1p(there if worth is None else worth) for worth, there in counts)
        return -low, high

    def __call__(self, scores: ArrayLike, quality: ArrayLike | None = None) -> Floats:
        """Map scores (N,) to log likelihood ratios (N,) in nats, within `bounds`.

        Args:
            scores: (N,) finite.
            quality: (N, Q) finite, in the order of the fit; needed if and only if it had any.

        Raises:
            ScoresError: scores or quality measures that do not fit or are not finite.
        """
        low, high = self.bounds
        return -_bent(-_bent(self.affine(scores, quality), high), -low)

    def affine(self, scores: ArrayLike, quality: ArrayLike | None = None) -> Floats:
        """The same without bounds: what the fit itself says, however far from what was seen; arguments as above."""
        values = as_numbers(scores, "scores")
        columns = _columns(quality, len(values), [name for name, _ in self.quality])
        weights = np.array([weight for _, weight in self.quality])
        with np.errstate(over="ignore"):
            return np.asarray(self.offset + self.scale * values + columns @ weights)

    def threshold(self, p_target: float = 0.05, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
        """The score at which the map reaches the Bayes threshold of this operating point.

        Raises:
            NestvoxError: the threshold is another for every trial, because quality measures enter; the operating point
                is not one; or it asks for more evidence than the trials of the fit can support.
        """
        if self.quality:
            raise NestvoxError("with quality measures the threshold on the score differs from trial to trial")
        wanted = bayes_threshold(p_target, c_miss, c_fa)
        low, high = self.bounds
        if not low < wanted < high:
            raise NestvoxError(
                f"this operating point takes a log likelihood ratio of {wanted:.2f} nats, and the trials of the fit "
                f"({self.n_target} target, {self.n_nontarget} non-target) support {low:.2f} to {high:.2f}: fit on more"
            )
        return (-_unbent(-_unbent(wanted, high), -low) - self.offset) / self.scale

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what was not given is left out."""
        content = {**asdict(self), "quality": [list(pair) for pair in self.quality]}
        return {name: value for name, value in content.items() if value is not None}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` wrote.

        Raises:
            NestvoxError: keys are missing or unknown, or a number is not finite.
        """
        wanted = set(cls.__dataclass_fields__)
        optional = {"independent_target", "independent_nontarget"}
        if not wanted - optional <= set(content) <= wanted:
            raise NestvoxError(
                f"a calibration has the keys {', '.join(sorted(wanted))}, got {', '.join(sorted(content)) or 'none'}"
            )
        quality = tuple((str(name), float(weight)) for name, weight in content["quality"])
        found = cls(**{**content, "quality": quality})
        numbers = (found.scale, found.offset, found.p_target, found.ridge, *(weight for _, weight in quality))
        worth = [w for w in (found.independent_target, found.independent_nontarget) if w is not None]
        if any(not 0 < w < math.inf for w in (*worth, found.n_target, found.n_nontarget)):
            raise NestvoxError(f"a calibration was fitted on trials of both classes, got {dict(content)}")
        if not all(math.isfinite(number) for number in numbers) or found.scale <= 0:
            raise NestvoxError(f"a calibration has finite numbers and a positive scale, got {dict(content)}")
        return found


def check_prior(p_target: float, ridge: float) -> None:
    """Refuse a prior or a penalty that no map can be fitted with.

    Raises:
        NestvoxError: with the value.
    """
    if not 0 < p_target < 1:
        raise NestvoxError(f"p_target must lie strictly between 0 and 1, got {p_target}")
    if not (ridge > 0 and math.isfinite(ridge)):
        raise NestvoxError(f"ridge must be positive and finite, got {ridge}")


def fit_calibration(
    scores: ArrayLike,
    targets: ArrayLike,
    quality: ArrayLike | None = None,
    *,
    quality_names: Sequence[str] = (),
    p_target: float = 0.5,
    ridge: float = 1e-4,
    trials_sha256: str = "",
    independent: tuple[float, float] | None = None,
) -> Calibration:
    """Fit on development trials.

    Args:
        scores: (N,) finite; higher means "more likely the same speaker".
        targets: (N,) bool, both classes.
        quality: (N, Q) finite measures of each trial, e.g. from `symmetric_quality`.
        quality_names: Q names.
        p_target: prior around which the map is to be best.
        ridge: strength of the penalty, above 0.
        trials_sha256: hash of the trials, kept with the result.
        independent: independent target and non-target trials that these are worth, where they share speakers (see
            `plan.independent_trials`); None: as many as there are.

    Raises:
        ScoresError: scores or measures that do not fit or are not finite; more measures than the trials can weigh; all
            scores equal; or higher scores mean different speakers.
        TrialsError: one class only.
        NestvoxError: a prior or ridge out of range.
    """
    values, labels = check_scores(scores, targets)
    check_prior(p_target, ridge)
    columns = np.column_stack([values, _columns(quality, len(values), list(quality_names))])
    varies = columns.min(axis=0) < columns.max(axis=0)
    if not varies[0]:
        raise ScoresError("all scores are equal: there is nothing to calibrate")
    n_target = int(labels.sum())
    worth = (float(n_target), float(len(labels) - n_target)) if independent is None else independent
    weighed = int(varies[1:].sum())
    if min(worth) < _PER_WEIGHT * weighed:
        raise ScoresError(
            f"{weighed} columns of quality measures take {_PER_WEIGHT * weighed} independent trials of each class, "
            f"these are worth {worth[0]:.0f} target and {worth[1]:.0f} non-target: leave measures out"
        )
    # Sums of huge scores overflow; scaled by the largest they do not.
    largest = np.maximum(np.abs(columns).max(axis=0), np.finfo(float).tiny)
    columns = columns / largest
    # A column of equal numbers has a spread of rounding only: centred on its own value it gets the weight 0.
    centre = np.where(varies, columns.mean(axis=0), columns[0])
    spread = columns.std(axis=0)
    varies &= spread > 0
    if not varies[0]:
        raise ScoresError("the scores are equal to their last digits: there is nothing to calibrate")
    spread = np.where(varies, spread, 1.0)
    design = np.column_stack([np.ones(len(values)), (columns - centre) / spread])
    weights = np.where(labels, p_target / n_target, (1 - p_target) / (len(labels) - n_target))
    solution = _newton(design, np.where(labels, 1.0, -1.0), weights, math.log(p_target / (1 - p_target)), ridge)
    slopes = solution[1:] / spread
    offset = float(solution[0] - slopes @ centre)
    with np.errstate(over="ignore"):
        slopes = slopes / largest
    if not np.isfinite(slopes).all():
        raise ScoresError("the scores or measures are too small for a map: multiply them all by one number")
    if slopes[0] <= 0:
        raise ScoresError(
            "higher scores mean different speakers in these trials: turn the sign of the scores, or check the labels"
        )
    return Calibration(
        scale=float(slopes[0]),
        offset=offset,
        quality=tuple(zip(quality_names, map(float, slopes[1:]), strict=True)),
        p_target=p_target,
        ridge=ridge,
        n_target=n_target,
        n_nontarget=len(labels) - n_target,
        trials_sha256=trials_sha256,
        **({} if independent is None else {"independent_target": worth[0], "independent_nontarget": worth[1]}),
    )


def symmetric_quality(enrol: ArrayLike, test: ArrayLike) -> Floats:
    """(N, 2) mean and absolute difference of a measure of both sides, e.g. log durations: sides may change places.

    Raises:
        ScoresError: not two lists of one length.
    """
    a, b = (as_numbers(side, "quality measures", finite=False) for side in (enrol, test))
    if a.shape != b.shape:
        raise ScoresError(f"a quality measure needs one number a side and trial, got {a.shape} and {b.shape}")
    return np.column_stack([(a + b) / 2, np.abs(a - b)])


def calibrations_to_dict(calibrations: Mapping[int | None, Calibration]) -> dict[str, Any]:
    """Plain values for JSON: one calibration a dimension, under its number; under ``scores`` that of no dimension."""
    return {_FULL if dim is None else str(dim): found.to_dict() for dim, found in calibrations.items()}


def calibrations_from_dict(content: Mapping[str, Any]) -> dict[int | None, Calibration]:
    """Read what `calibrations_to_dict` wrote.

    Raises:
        NestvoxError: a key is no dimension, or a calibration is malformed.
    """
    found: dict[int | None, Calibration] = {}
    for key, value in content.items():
        if key != _FULL and not (key.isascii() and key.isdigit()):
            raise NestvoxError(f"{key!r} is no dimension; calibrations are kept under numbers or {_FULL!r}")
        found[None if key == _FULL else int(key)] = Calibration.from_dict(value)
    return found


def _columns(quality: ArrayLike | None, length: int, names: list[str]) -> Floats:
    values = (
        np.empty((length, 0)) if quality is None else as_numbers(quality, "quality measures", ndim=None, finite=False)
    )
    if values.shape != (length, len(names)):
        raise ScoresError(
            f"quality measures {', '.join(names) or '(none)'} of {length} trials are ({length}, {len(names)}) numbers, "
            f"got {values.shape}"
        )
    if not np.isfinite(values).all():
        row, column = (int(i[0]) for i in np.nonzero(~np.isfinite(values)))
        raise ScoresError(f"quality measure {names[column]} of trial {row + 1} is {values[row, column]}")
    return values


def _bent(values: Floats, bound: float) -> Floats:
    """Values as they are up to one nat below a bound, then ever closer to it."""
    over = values - (bound - _BEND)
    return np.where(over <= 0, values, bound - _BEND * np.exp(-np.maximum(over, 0.0) / _BEND))


def _unbent(value: float, bound: float) -> float:
    """What `_bent` maps to a value below the bound."""
    start = bound - _BEND
    return value if value <= start else start - _BEND * math.log((bound - value) / _BEND)


def _newton(design: Floats, sign: Floats, weights: Floats, prior_log_odds: float, ridge: float) -> Floats:
    """Minimise the weighted logistic loss; every step goes down, and the loss is convex."""
    penalty = np.full(design.shape[1], ridge)
    penalty[0] = 0.0  # the offset is free
    solution, rounding = np.zeros(design.shape[1]), 0.0
    if len(design) > _MANY:  # begin where a part of the trials ends, so close that the loss tells no step from the next
        rounding = _ROUNDING
        step = len(design) // _PART
        part = slice(None, None, step)
        solution = _newton(design[part], sign[part], step * weights[part], prior_log_odds, ridge)

    def loss_of(candidate: Floats) -> tuple[float, Floats]:
        margin = sign * (design @ candidate + prior_log_odds)
        return float(weights @ np.logaddexp(0.0, -margin) + penalty @ candidate**2 / 2), margin

    loss, margin = loss_of(solution)
    for _ in range(_STEPS):
        wrong = np.exp(-np.logaddexp(0.0, margin))  # 1 / (1 + exp(margin)), without overflow
        gradient = design.T @ (-sign * weights * wrong) + penalty * solution
        curvature = (design * (weights * wrong * (1 - wrong))[:, None]).T @ design + np.diag(penalty)
        change = np.linalg.lstsq(curvature, -gradient, rcond=None)[0]
        length = 1.0
        while length > 1e-10 and not (found := loss_of(solution + length * change))[0] <= loss * (1 + rounding):
            length /= 2
        if length <= 1e-10:
            break
        solution = solution + length * change
        finished = np.abs(length * change).max() < 1e-12 * (1 + np.abs(solution).max())
        loss, margin = found
        if finished:
            break
    return solution
