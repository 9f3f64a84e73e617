"""The figures of the reports, each as a `Drawing`: error trade-off, dimensions, scores, calibration, differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nestvox.evaluation.calibration import CalibrationCurve
from nestvox.evaluation.results import DetCurve, ErrorRates, ScoreHistogram
from nestvox.metrics.distributions import ndtri
from nestvox.report.drawing import Drawing, Plot

SYSTEM_SERIES = (3, 0, 4, 1, 2, 5, 6, 7)
"""Colours of systems, in an order of their own: dimensions count from 0, and blue is not 16 dimensions."""

# In the order in which they are wanted where there is no room for all.
_DET_TICKS = (0.01, 0.1, 0.001, 0.5, 0.05, 0.2, 0.0001, 0.02, 0.005, 0.3, 0.002, 0.0005, 0.00001, 0.4)
_LLR_REACH = 12.0  # nats beyond which nothing is drawn


@dataclass(frozen=True)
class DetLine:
    """A curve of a DET figure.

    Attributes:
        name: in the key.
        curve: what is drawn.
        series: its colour.
        banded: whether its interval is shaded; of more than three they hide each other.
    """

    name: str
    curve: DetCurve
    series: int
    banded: bool


@dataclass(frozen=True)
class BayesLine:
    """A curve of a Bayes error figure: its name, the rates at every prior, and how it is drawn."""

    name: str
    rates: Sequence[float]
    series: int
    style: str = "line"


@dataclass(frozen=True)
class Difference:
    """A difference with its interval, in per cent points: what it is of, and the colour of its system."""

    name: str
    value: float
    low: float
    high: float
    series: int


def det_figure(lines: Sequence[DetLine], *, name: str = "det") -> Drawing:
    """Detection error trade-off: both errors on probit axes, where Gaussian scores give straight lines.

    (A. Martin, G. Doddington, T. Kamm, M. Ordowski and M. Przybocki, "The DET curve in assessment of detection task
    performance", Eurospeech 1997.)

    Args:
        lines: one a dimension or system.
        name: of the drawing.
    """
    low, y_low, high = _det_limits([line.curve for line in lines])
    drawing = Drawing(name, 460, 440, "DET curves: misses against false alarms on probit axes")
    plot = Plot(drawing, (_probit(low), _probit(high)), (_probit(y_low), _probit(high)))

    def ticks(start: float, pixel: Callable[[float], float], least: float) -> list[tuple[float, str]]:
        return _spaced([(_probit(p), f"{100 * p:g}") for p in _DET_TICKS if start <= p <= high], pixel, least)

    plot.axes(
        ticks(low, plot.x, 31), ticks(y_low, plot.y, 17), "false alarms, % of non-targets", "misses, % of targets"
    )
    end = [_probit(value) for value in (min(low, y_low), high)]
    drawing.line(plot.points(end, end), "diagonal", clipped=True)
    xs = [[_probit(p) for p in line.curve.p_fa] for line in lines]
    for line, x in zip(lines, xs, strict=True):
        if line.banded:
            there = [_probit(p) for p in line.curve.p_miss_low]
            back = [_probit(p) for p in reversed(line.curve.p_miss_high)]
            drawing.area(plot.points([*x, *reversed(x)], [*there, *back]), "band", series=line.series, clipped=True)
    for line, x in zip(lines, xs, strict=True):
        ys = [_probit(p) for p in line.curve.p_miss]
        drawing.line(plot.points(x, ys), "line", series=line.series, clipped=True)
    if len(lines) > 1:
        entries: list[tuple[str, str, int | None]] = [("line", line.name, line.series) for line in lines]
        inside = [
            point
            for line, x in zip(lines, xs, strict=True)
            for point in plot.points(x, [_probit(p) for p in line.curve.p_miss])
        ]
        plot.key(entries, corner=plot.emptiest(entries, inside))
    return drawing


def eer_by_dim_figure(systems: Mapping[str, Sequence[ErrorRates]]) -> Drawing:
    """Equal error rate with its interval against the dimension (spaced by its logarithm), one line a system.

    Rows without a dimension are left out.
    """
    rows = {name: [row for row in found if row.dim] for name, found in systems.items()}
    dims = sorted({row.dim for found in rows.values() for row in found if row.dim})
    top = max(row.eer.ends[1] for found in rows.values() for row in found)
    # Room for the key above the lines.
    headroom = 1.0 + 0.07 * len(rows) if len(rows) > 1 else 1.05
    step = _round_step(100 * top * headroom / 6) / 100
    ceiling = step * math.ceil(top * headroom / step)
    drawing = Drawing(
        "eer-by-dimension", 460, 340, "Equal error rate with its interval against the number of dimensions"
    )
    plot = Plot(drawing, (math.log2(dims[0]) - 0.35, math.log2(dims[-1]) + 0.35), (0.0, ceiling))
    plot.axes(
        [(math.log2(dim), str(dim)) for dim in dims],
        [(i * step, f"{100 * i * step:g}") for i in range(round(ceiling / step) + 1)],
        "dimensions",
        "equal error rate, %",
    )
    for number, found in enumerate(rows.values()):
        shift = 7 * (number - (len(rows) - 1) / 2)  # pixels, so that the intervals of two systems stand side by side
        series = SYSTEM_SERIES[number % len(SYSTEM_SERIES)]
        points = [(plot.x(math.log2(row.dim)) + shift, row) for row in found if row.dim]
        drawing.line([(x, plot.y(row.eer.value)) for x, row in points], "line", series=series)
        for x, row in points:
            low, high = map(plot.y, row.eer.ends)
            for ends in ([(x - 3, low), (x + 3, low)], [(x, low), (x, high)], [(x - 3, high), (x + 3, high)]):
                drawing.line(ends, "whisker", series=series)
            drawing.dot((x, plot.y(row.eer.value)), series=series)
    if len(rows) > 1:
        plot.key([("line", name, SYSTEM_SERIES[i % len(SYSTEM_SERIES)]) for i, name in enumerate(rows)])
    return drawing


def histogram_figure(histogram: ScoreHistogram, threshold: float, *, name: str = "scores") -> Drawing:
    """Shares of both classes in each bin of the score, and the threshold of equal errors as a dashed line."""
    edges = histogram.edges
    shares = [np.asarray(n, float) / max(sum(n), 1) for n in (histogram.n_nontarget, histogram.n_target)]
    top = max(float(share.max()) for share in shares) * 1.08
    drawing = Drawing(name, 400, 230, "Histogram of the scores of target and non-target trials")
    plot = Plot(drawing, (edges[0], edges[-1]), (0.0, top), left=14)
    plot.axes(even_ticks(edges[0], edges[-1]), [], "score", "")
    for style, share in zip(("area-nontarget", "area-target"), shares, strict=True):
        xs = [x for pair in itertools.pairwise(edges) for x in pair]
        ys = [float(y) for y in np.repeat(share, 2)]
        drawing.area(plot.points([edges[0], *xs, edges[-1]], [0.0, *ys, 0.0]), style)
    drawing.line(plot.points([threshold, threshold], [0.0, top]), "threshold", clipped=True)
    # Where the bars are low.
    left = sum(float(share[: len(share) // 2].max()) for share in shares)
    right = sum(float(share[len(share) // 2 :].max()) for share in shares)
    plot.key(
        [("area-nontarget", "non-target", None), ("area-target", "target", None), ("threshold", "EER", None)],
        corner="top right" if right <= left else "top left",
    )
    return drawing


def calibration_figure(curve: CalibrationCurve, *, name: str = "calibration") -> Drawing:
    """The log likelihood ratio of the trials at each score, beside what the score itself says.

    The steps are the bins of `ErrorCurve.isotonic`; bins without one class lie at infinity and are left out. The line
    is the score itself where it is a log likelihood ratio, else the affine map fitted on these trials.
    """
    finite = [i for i, llr in enumerate(curve.bin_llr) if math.isfinite(llr)]
    low, high = (curve.bin_low[0], curve.bin_high[-1])
    if finite:
        first, last = curve.bin_low[finite[0]], curve.bin_high[finite[-1]]
        margin = 0.08 * (last - first) or 0.5
        low, high = max(low, first - margin), min(high, last + margin)
    if not high > low:
        low, high = low - 0.5, low + 0.5
    heights = [curve.bin_llr[i] for i in finite] or [0.0]
    scale, offset = (1.0, 0.0) if curve.llr else (curve.affine_scale, curve.affine_offset)
    if scale is not None and offset is not None:
        heights += [offset + scale * low, offset + scale * high]
    y_low, y_high = max(min(heights) - 0.5, -_LLR_REACH), min(max(heights) + 0.5, _LLR_REACH)
    drawing = Drawing(name, 460, 340, "Log likelihood ratio of the trials against their score")
    plot = Plot(drawing, (low, high), (y_low, y_high))
    plot.axes(
        even_ticks(low, high),
        even_ticks(y_low, y_high),
        "score, a log likelihood ratio in nats" if curve.llr else "score",
        "log likelihood ratio, nats",
    )
    drawing.line(plot.points([low, high], [0.0, 0.0]), "diagonal", clipped=True)
    entries: list[tuple[str, str, int | None]] = [("line", "of the trials at this score", 3)]
    if scale is not None and offset is not None:
        ends = [low, high]
        drawing.line(plot.points(ends, [offset + scale * x for x in ends]), "line-dashed", series=0, clipped=True)
        entries.append(("line-dashed", "said by the score" if curve.llr else "affine map of the score", 0))
    xs = [x for i in finite for x in (curve.bin_low[i], curve.bin_high[i])]
    ys = [curve.bin_llr[i] for i in finite for _ in range(2)]
    if xs:
        drawing.line(plot.points(xs, ys), "line", series=3, clipped=True)
    plot.key(entries, corner="top left")
    return drawing


def bayes_error_figure(
    prior_log_odds: Sequence[float], lines: Sequence[BayesLine], *, at: float | None = None, name: str = "bayes-error"
) -> Drawing:
    """The normalised cost of decisions at every prior: 1 is as bad as not listening.

    `at` is the prior log odds of the operating point that is reported, marked by a dashed line.
    """
    drawing = Drawing(name, 460, 340, "Normalised Bayes error rate against the prior log odds of a target")
    plot = Plot(drawing, (prior_log_odds[0], prior_log_odds[-1]), (0.0, 1.4))
    plot.axes(
        even_ticks(prior_log_odds[0], prior_log_odds[-1]),
        [(i / 5, f"{i / 5:g}") for i in range(6)],
        "prior log odds of a target (costs included)",
        "cost, share of not listening",
    )
    drawing.line(plot.points([prior_log_odds[0], prior_log_odds[-1]], [1.0, 1.0]), "diagonal", clipped=True)
    if at is not None:
        drawing.line(plot.points([at, at], [0.0, 1.4]), "threshold", clipped=True)
    for line in lines:
        drawing.line(plot.points(prior_log_odds, line.rates), line.style, series=line.series, clipped=True)
    plot.key([(line.style, line.name, line.series) for line in lines], corner="top right")
    return drawing


def difference_figure(rows: Sequence[Difference]) -> Drawing:
    """Differences of the equal error rate with their intervals, one line each; 0 is drawn, left of it is better."""
    height = 70 + 26 * len(rows)
    names = [row.name if len(row.name) <= 24 else f"{row.name[:11]}…{row.name[-12:]}" for row in rows]
    left = 30 + round(6.6 * max(map(len, names)))
    ends = [bound for row in rows for bound in (row.low, row.high, 0.0)]
    spread = (max(ends) - min(ends)) or 1.0
    drawing = Drawing("differences", 560, height, "Differences of the equal error rate with their intervals")
    plot = Plot(
        drawing, (min(ends) - 0.06 * spread, max(ends) + 0.06 * spread), (len(rows) - 0.3, -0.7), left=left, top=10
    )
    plot.axes(even_ticks(*plot.x_range), [], "difference of the EER, points (below 0: fewer errors)", "")
    drawing.line(plot.points([0.0, 0.0], list(plot.y_range)), "threshold", clipped=True)
    for number, (row, text) in enumerate(zip(rows, names, strict=True)):
        y = plot.y(number)
        drawing.text((left - 8, y + 4), text, "key", anchor="end")
        low, high = plot.x(row.low), plot.x(row.high)
        for ends_of in ([(low, y), (high, y)], [(low, y - 4), (low, y + 4)], [(high, y - 4), (high, y + 4)]):
            drawing.line(ends_of, "whisker", series=row.series)
        drawing.dot((plot.x(row.value), y), series=row.series, radius=4)
    return drawing


def _det_limits(curves: Sequence[DetCurve]) -> tuple[float, float, float]:
    """Lowest false-alarm rate, lowest miss rate and highest rate of either that the frame shows.

    The frame begins where the first curve leaves its top, so that good and bad systems both fill it.
    """
    high = 0.5
    inside = [
        (fa, miss)
        for curve in curves
        for fa, miss in zip(curve.p_fa, curve.p_miss, strict=True)
        if fa <= high and 0 < miss <= high
    ]
    if not inside:  # no errors at all, or nothing but errors
        return 1e-3, 1e-3, high
    low, y_low = (min(points) for points in zip(*inside, strict=True))
    return min(low * 0.8, 0.05), min(y_low * 0.8, 0.05), high


def _spaced(
    ticks: Sequence[tuple[float, str]], pixel: Callable[[float], float], least: float
) -> list[tuple[float, str]]:
    """Of ticks in the order of their worth, those that stay `least` pixels away from all worthier ones."""
    kept: list[tuple[float, str]] = []
    for value, text in ticks:
        if all(abs(pixel(other) - pixel(value)) >= least for other, _ in kept):
            kept.append((value, text))
    return sorted(kept)


def even_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round values between two, about five, with their texts."""
    step = _round_step((high - low) / 5)
    return [(i * step, f"{i * step:.6g}") for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _probit(p: float) -> float:
    # The ends of the scale are at infinity; what lies outside the frame is clipped anyway.
    return float(ndtri(min(max(p, 1e-7), 1 - 1e-7)))


def _round_step(wanted: float) -> float:
    """The round number (1, 2 or 5 times a power of ten) next above `wanted`."""
    power = 10.0 ** math.floor(math.log10(wanted)) if wanted > 0 else 1.0
    return next((factor * power for factor in (1, 2, 5) if factor * power >= wanted), 10 * power)
