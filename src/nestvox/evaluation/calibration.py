"""What the scores of a trial list say as log likelihood ratios, beside what they would say if perfectly calibrated.

The reference is the non-decreasing map that fits these very trials best (`ErrorCurve.isotonic`), as in the reliability
diagrams of T. Dimitriadis, T. Gneiting and A. I. Jordan ("Stable reliability diagrams for probabilistic classifiers",
PNAS 118(8), 2021). Scores that are no log likelihood ratios (a cosine) are shown through an affine map fitted on these
same trials: what a calibration of this shape could reach at best, not what one fitted elsewhere will reach here.

Notation: N trials, B bins, P priors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import ScoresError
from nestvox.metrics import (
    Calibration,
    ErrorCurve,
    act_dcf,
    bayes_error_curve,
    cllr,
    fit_calibration,
    min_cllr,
)
from nestvox.metrics.costs import bayes_errors
from nestvox.metrics.curves import SortedScores

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationCurve:
    """Calibration of one dimension's scores over all trials.

    Attributes:
        dim: prefix length; None where scores came from a file.
        llr: whether the scores were given as log likelihood ratios in nats.
        bin_low: (B,) lowest score of each bin of equal log likelihood ratio, ascending.
        bin_high: (B,) highest score.
        bin_llr: (B,) log likelihood ratio of its trials, in nats; infinite where a class is absent.
        bin_target: (B,) target trials in it.
        bin_nontarget: (B,) non-target trials.
        affine_scale: nats per unit of score of the affine map fitted on these trials; None where higher scores do not
            mean the same speaker.
        affine_offset: nats at score 0.
        min_cllr: cost in bits of the bins' ratios: what the order of the scores is worth.
        cllr: cost of the scores themselves; None unless `llr`.
        cllr_affine: cost of the affine map, on the trials that it was fitted on.
        act_dcf: cost at the Bayes threshold of the evaluation's operating point; None unless `llr`.
        calibration_error: mean distance between the probability said (of the scores if `llr`, else of the affine map)
            and that of the trial's bin, both classes weighing the same, at prior 1/2.
        prior_log_odds: (P,) of the Bayes error curves.
        bayes_minimum: (P,) normalised Bayes error at the best threshold for each prior.
        bayes_actual: (P,) at the Bayes threshold of the scores; empty unless `llr`.
        bayes_affine: (P,) at that of the affine map; empty where there is none.
    """

    dim: int | None
    llr: bool
    bin_low: tuple[float, ...]
    bin_high: tuple[float, ...]
    bin_llr: tuple[float, ...]
    bin_target: tuple[int, ...]
    bin_nontarget: tuple[int, ...]
    affine_scale: float | None
    affine_offset: float | None
    min_cllr: float
    cllr: float | None
    cllr_affine: float | None
    act_dcf: float | None
    calibration_error: float | None
    prior_log_odds: tuple[float, ...]
    bayes_minimum: tuple[float, ...]
    bayes_actual: tuple[float, ...]
    bayes_affine: tuple[float, ...]


def calibration_curve(
    dim: int | None, curve: ErrorCurve, point: tuple[float, float, float] = (0.05, 1.0, 1.0), *, llr: bool
) -> CalibrationCurve:
    """Set the scores beside their best non-decreasing and their best affine map.

    `curve` is of N trials; `point` is the prior and both costs of `act_dcf`; `llr`: scores are ratios in nats already.

    Raises:
        NestvoxError: as `act_dcf`.
    """
    scores, targets = curve.trials
    bins = curve.isotonic
    fitted = _affine(scores, targets)
    affine, affine_curve = None, None
    if fitted is not None:  # on the trials of the fit, so nothing is bounded
        affine = fitted.affine(scores)
        # The map rises, so what it makes of sorted scores is sorted.
        sides = [SortedScores(fitted.affine(side.values)) for side in (curve.target, curve.nontarget)]
        affine_curve = ErrorCurve(sides[0], sides[1])
    said = scores if llr else affine
    minimum = bayes_error_curve(curve)
    last = np.searchsorted(curve.thresholds, np.append(bins.lowest[1:], np.inf)) - 1
    return CalibrationCurve(
        dim=dim,
        llr=llr,
        bin_low=_numbers(bins.lowest),
        bin_high=_numbers(curve.thresholds[last]),
        bin_llr=_numbers(bins.llr),
        bin_target=tuple(int(count) for count in bins.n_target),
        bin_nontarget=tuple(int(count) for count in bins.n_nontarget),
        affine_scale=None if fitted is None else fitted.scale,
        affine_offset=None if fitted is None else fitted.offset,
        min_cllr=min_cllr(curve),
        cllr=cllr(curve) if llr else None,
        cllr_affine=None if affine_curve is None else cllr(affine_curve),
        act_dcf=act_dcf(curve, *point).value if llr else None,
        calibration_error=None if said is None else _calibration_error(said, scores, targets, bins.lowest, bins.llr),
        prior_log_odds=_numbers(minimum.prior_log_odds),
        bayes_minimum=_numbers(minimum.minimum),
        bayes_actual=_numbers(minimum.actual) if llr else (),
        bayes_affine=() if affine_curve is None else _numbers(bayes_errors(affine_curve, minimum.prior_log_odds)),
    )


def _affine(scores: Floats, targets: NDArray[np.bool_]) -> Calibration | None:
    try:
        return fit_calibration(scores, targets)
    except ScoresError:  # all equal, or higher means different: there is no such map
        return None


def _calibration_error(
    said: Floats, scores: Floats, targets: NDArray[np.bool_], lowest: Floats, bin_llr: Floats
) -> float:
    of_bin = bin_llr[np.searchsorted(lowest, scores, side="right") - 1]
    distance = np.abs(_probability(said) - _probability(of_bin))
    return float((distance[targets].mean() + distance[~targets].mean()) / 2)


def _probability(llr: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(llr / 2)))  # the logistic function, without overflow


def _numbers(values: Floats) -> tuple[float, ...]:
    return tuple(values.tolist())
