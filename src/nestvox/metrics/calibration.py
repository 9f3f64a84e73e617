"""From scores to log likelihood ratios: an affine map, with the quality of the recordings as side information.

Prior-weighted logistic regression (N. Brummer and J. du Preez, "Application-independent evaluation of speaker
detection", Computer Speech & Language 20(2-3), 2006): with prior p and tau = logit(p), the map ``l = offset + scale *
score + weights . quality`` minimises

    p mean_target log(1 + exp(-l - tau)) + (1 - p) mean_nontarget log(1 + exp(l + tau)) + ridge / 2 |w|^2

where w are the weights of the score and the qualities, each scaled to variance 1. At p = 1/2 and without the ridge this
is the `cllr` in nats. The ridge keeps the map finite where the classes do not overlap. The minimum is found by Newton's
method.

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
from nestvox.metrics.curves import check_scores
from nestvox.metrics.dcf import bayes_threshold

__all__ = [
    "Calibration",
    "calibrations_from_dict",
    "calibrations_to_dict",
    "fit_calibration",
    "symmetric_quality",
]

Floats = NDArray[np.float64]

_STEPS = 100
_FULL = "scores"  # key of a calibration that belongs to no dimension


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
    """

    scale: float
    offset: float
    quality: tuple[tuple[str, float], ...]
    p_target: float
    ridge: float
    n_target: int
    n_nontarget: int
    trials_sha256: str = ""

    def __call__(self, scores: ArrayLike, quality: ArrayLike | None = None) -> Floats:
        """Map scores (N,) to log likelihood ratios (N,) in nats.

        Args:
            scores: (N,) finite.
            quality: (N, Q) finite, in the order of the fit; needed if and only if it had any.

        Raises:
            ScoresError: scores or quality measures that do not fit or are not finite.
        """
        values = as_numbers(scores, "scores")
        columns = _columns(quality, len(values), [name for name, _ in self.quality])
        weights = np.array([weight for _, weight in self.quality])
        return np.asarray(self.offset + self.scale * values + columns @ weights)

    def threshold(self, p_target: float = 0.05, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
        """The score at which the map reaches the Bayes threshold of this operating point.

        Raises:
            NestvoxError: the threshold is another for every trial, because quality measures enter; or the operating
                point is not one.
        """
        if self.quality:
            raise NestvoxError("with quality measures the threshold on the score differs from trial to trial")
        return (bayes_threshold(p_target, c_miss, c_fa) - self.offset) / self.scale

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "quality": [list(pair) for pair in self.quality]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` wrote.

        Raises:
            NestvoxError: keys are missing or unknown, or a number is not finite.
        """
        wanted = set(cls.__dataclass_fields__)
        if set(content) != wanted:
            raise NestvoxError(
                f"a calibration has the keys {', '.join(sorted(wanted))}, got {', '.join(sorted(content)) or 'none'}"
            )
        quality = tuple((str(name), float(weight)) for name, weight in content["quality"])
        found = cls(**{**content, "quality": quality})
        numbers = (found.scale, found.offset, found.p_target, found.ridge, *(weight for _, weight in quality))
        if not all(math.isfinite(number) for number in numbers) or found.scale <= 0:
            raise NestvoxError(f"a calibration has finite numbers and a positive scale, got {dict(content)}")
        return found


def fit_calibration(
    scores: ArrayLike,
    targets: ArrayLike,
    quality: ArrayLike | None = None,
    *,
    quality_names: Sequence[str] = (),
    p_target: float = 0.5,
    ridge: float = 1e-4,
    trials_sha256: str = "",
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

    Raises:
        ScoresError: scores or measures that do not fit or are not finite; all scores equal; or higher scores mean
            different speakers.
        TrialsError: one class only.
        NestvoxError: a prior or ridge out of range.
    """
    values, labels = check_scores(scores, targets)
    if not 0 < p_target < 1:
        raise NestvoxError(f"p_target must lie strictly between 0 and 1, got {p_target}")
    if not (ridge > 0 and math.isfinite(ridge)):
        raise NestvoxError(f"ridge must be positive and finite, got {ridge}")
    columns = np.column_stack([values, _columns(quality, len(values), list(quality_names))])
    # Sums of huge scores overflow; scaled by the largest they do not.
    largest = np.maximum(np.abs(columns).max(axis=0), np.finfo(float).tiny)
    columns = columns / largest
    centre, spread = columns.mean(axis=0), columns.std(axis=0)
    if spread[0] == 0:
        raise ScoresError("all scores are equal: there is nothing to calibrate")
    spread = np.where(spread > 0, spread, 1.0)  # a measure that never varies gets the weight 0
    design = np.column_stack([np.ones(len(values)), (columns - centre) / spread])
    n_target = int(labels.sum())
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


def _newton(design: Floats, sign: Floats, weights: Floats, prior_log_odds: float, ridge: float) -> Floats:
    """Minimise the weighted logistic loss; every step goes down, and the loss is convex."""
    penalty = np.full(design.shape[1], ridge)
    penalty[0] = 0.0  # the offset is free
    solution = np.zeros(design.shape[1])

    def loss_of(candidate: Floats) -> float:
        margin = sign * (design @ candidate + prior_log_odds)
        return float(weights @ np.logaddexp(0.0, -margin) + penalty @ candidate**2 / 2)

    loss = loss_of(solution)
    for _ in range(_STEPS):
        margin = sign * (design @ solution + prior_log_odds)
        wrong = np.exp(-np.logaddexp(0.0, margin))  # 1 / (1 + exp(margin)), without overflow
        gradient = design.T @ (-sign * weights * wrong) + penalty * solution
        curvature = (design * (weights * wrong * (1 - wrong))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.lstsq(curvature, -gradient, rcond=None)[0]
        length = 1.0
        while length > 1e-10 and not (lower := loss_of(solution + length * step)) <= loss:
            length /= 2
        if length <= 1e-10:
            break
        solution = solution + length * step
        finished = np.abs(length * step).max() < 1e-12 * (1 + np.abs(solution).max())
        loss = lower
        if finished:
            break
    return solution
