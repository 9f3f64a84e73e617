"""Pool adjacent violators: the best non-decreasing map of scores to log likelihood ratios for these very trials.

Its bins are the edges of the convex hull of the ROC curve (M. Ayer et al., "An empirical distribution function for
sampling with incomplete information", Annals of Mathematical Statistics 26(4), 1955; N. Brummer and E. de Villiers,
"The BOSARIS toolkit user guide", 2011). Nothing can be calibrated better on the trials it is fitted on: the yardstick
of `min_cllr` and of the minimum of the Bayes error curve, and useless as a calibration of other trials. By hand because
scipy compares rounded means where whole numbers are multiplied here, and its module takes half a second to import.

Notation: K thresholds, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from nestvox.metrics.curves import ErrorCurve

Floats = NDArray[np.float64]

_FEW = 4096  # points that the plain loop takes in milliseconds
_SHRINKS = 0.9


@dataclass(frozen=True, eq=False)
class IsotonicBins:
    """Trials pooled into bins of equal log likelihood ratio, in ascending order.

    Attributes:
        n_target: (B,) target trials (their weight).
        n_nontarget: (B,) non-target trials.
        llr: (B,) log likelihood ratio in nats, ascending; minus and plus infinity where a class is absent.
        lowest: (B,) lowest score of each bin.
        n_miss: (B + 1,) corners of the hull: targets below each bin, and all of them.
        n_false_alarm: (B + 1,) non-targets not below each bin, and none.
    """

    n_target: Floats
    n_nontarget: Floats
    llr: Floats
    lowest: Floats
    n_miss: Floats
    n_false_alarm: Floats


def pav(curve: ErrorCurve) -> IsotonicBins:
    """Pool the trials of a curve; O(K) once it is sorted, and done once."""
    return curve.isotonic


def pool(thresholds: Floats, n_miss: Floats, n_false_alarm: Floats) -> IsotonicBins:
    """Pool the trials of the K points of a curve: (K,) each, as `ErrorCurve` has them."""
    right, up = np.diff(n_false_alarm) < 0, np.diff(n_miss) > 0
    # Points where a step to the right (a group with non-targets) ends and one upwards (with targets) begins.
    corners = np.flatnonzero(np.append(up, True) & np.insert(right, 0, True) | _ends(len(thresholds)))
    x, y = n_false_alarm[0] - n_false_alarm[corners], n_miss[corners]
    kept = _lower_hull(x, y)
    hull = corners[kept]
    n_target, n_nontarget = np.diff(y[kept]), np.diff(x[kept])
    with np.errstate(divide="ignore"):
        llr = np.log(n_target) - np.log(n_nontarget) - (np.log(n_miss[-1]) - np.log(n_false_alarm[0]))
    return IsotonicBins(n_target, n_nontarget, llr, thresholds[hull[:-1]], n_miss[hull], n_false_alarm[hull])


def _ends(length: int) -> NDArray[np.bool_]:
    ends = np.zeros(length, dtype=np.bool_)
    ends[[0, -1]] = True
    return ends


def _lower_hull(x: Floats, y: Floats) -> NDArray[np.int64]:
    """Positions of the points of a staircase that are corners of its lower convex hull.

    A point on or above the chord of any two points around it is no corner, so all that lie so between their present
    neighbours go at once; what few passes leave is gone through by the plain loop. On whole numbers all is exact.
    """
    kept = np.arange(len(x))
    while len(kept) > _FEW:
        a, b = x[kept], y[kept]
        below = (b[1:-1] - b[:-2]) * (a[2:] - a[1:-1]) < (b[2:] - b[1:-1]) * (a[1:-1] - a[:-2])
        smaller = kept[np.concatenate(([True], below, [True]))]
        if len(smaller) > _SHRINKS * len(kept):
            kept = smaller
            break
        kept = smaller
    hull: list[int] = []
    xs, ys = x[kept].tolist(), y[kept].tolist()
    for point, (px, py) in enumerate(zip(xs, ys, strict=True)):
        while len(hull) > 1:
            before, last = hull[-2], hull[-1]
            slope_in = (ys[last] - ys[before]) * (px - xs[last])
            slope_out = (py - ys[last]) * (xs[last] - xs[before])
            if slope_in < slope_out:
                break
            hull.pop()
        hull.append(point)
    return np.asarray(kept[hull])
