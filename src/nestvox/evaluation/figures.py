"""Figures of the report as inline SVG: no file, no script, no network; colours are the page's CSS variables.

Classes ``s0`` to ``s7`` colour a series (``--series``), so that light, dark and printed pages share one drawing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape
from scipy.special import ndtri

from nestvox.evaluation.results import DetCurve, ErrorRates, ScoreHistogram

__all__ = ["N_SERIES", "SYSTEM_SERIES", "det_figure", "eer_by_dim_figure", "histogram_figure"]

N_SERIES = 8
SYSTEM_SERIES = (3, 0, 1, 4, 5, 2, 6, 7)
"""Colours of systems, in an order of their own: dimensions count from 0, and blue is not 16 dimensions."""

_DET_TICKS = (0.00001, 0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass
class _Plot:
    """A frame with two axes: data in, pixels out."""

    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: int = 56
    right: int = 14
    top: int = 12
    bottom: int = 44
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def path(self, xs: Iterable[float], ys: Iterable[float]) -> str:
        return "L".join(f"{self.x(a):.1f} {self.y(b):.1f}" for a, b in zip(xs, ys, strict=True))

    def axes(
        self, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]], x_name: str, y_name: str
    ) -> None:
        bottom, right = self.height - self.bottom, self.width - self.right
        for value, text in x_ticks:
            at = self.x(value)
            self.parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{self.top}" y2="{bottom}"/>')
            self.parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{escape(text)}</text>')
        for value, text in y_ticks:
            at = self.y(value)
            self.parts.append(f'<line class="grid" x1="{self.left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
            self.parts.append(f'<text x="{self.left - 6}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>')
        self.parts.append(
            f'<rect class="frame" x="{self.left}" y="{self.top}" width="{right - self.left}" '
            f'height="{bottom - self.top}"/>'
        )
        middle = (self.left + right) / 2
        self.parts.append(
            f'<text class="axis" x="{middle:.0f}" y="{self.height - 8}" text-anchor="middle">{escape(x_name)}</text>'
        )
        up = (self.top + bottom) / 2
        self.parts.append(
            f'<text class="axis" transform="translate(14 {up:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_name)}</text>"
        )

    def svg(self, description: str) -> Markup:
        body = "".join(self.parts)
        # Every value in the parts is a number or escaped where it was put in.
        return Markup(  # noqa: S704
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(description)}">{body}</svg>'
        )


def det_figure(curves: Sequence[DetCurve], banded: Sequence[int | None]) -> Markup:
    """Detection error trade-off: both errors on probit axes, where Gaussian scores give straight lines.

    (A. Martin, G. Doddington, T. Kamm, M. Ordowski and M. Przybocki, "The DET curve in assessment of detection task
    performance", Eurospeech 1997.)

    Args:
        curves: one a dimension.
        banded: dimensions whose interval is shaded (more than two hide each other).
    """
    low, y_low, high = _det_limits(curves)
    plot = _Plot(520, 500, (_probit(low), _probit(high)), (_probit(y_low), _probit(high)))

    def ticks(start: float) -> list[tuple[float, str]]:
        return [(_probit(p), f"{100 * p:g}") for p in _DET_TICKS if start <= p <= high]

    plot.axes(ticks(low), ticks(y_low), "false alarms, % of non-targets", "misses, % of targets")
    clip = f"det-{len(curves)}"
    plot.parts.append(
        f'<clipPath id="{clip}"><rect x="{plot.left}" y="{plot.top}" width="{plot.width - plot.left - plot.right}" '
        f'height="{plot.height - plot.top - plot.bottom}"/></clipPath><g clip-path="url(#{clip})">'
    )
    end = min(low, y_low), high
    plot.parts.append(f'<path class="diagonal" d="M{plot.path(map(_probit, end), map(_probit, end))}"/>')
    xs = [[_probit(p) for p in curve.p_fa] for curve in curves]
    for series, (curve, x) in enumerate(zip(curves, xs, strict=True)):
        if curve.dim in banded:
            there = [_probit(p) for p in curve.p_miss_low]
            back = [_probit(p) for p in reversed(curve.p_miss_high)]
            plot.parts.append(
                f'<path class="band s{series % N_SERIES}" d="M{plot.path([*x, *reversed(x)], [*there, *back])}Z"/>'
            )
    for series, (curve, x) in enumerate(zip(curves, xs, strict=True)):
        line = plot.path(x, [_probit(p) for p in curve.p_miss])
        plot.parts.append(f'<path class="line s{series % N_SERIES}" d="M{line}"/>')
    plot.parts.append("</g>")
    return plot.svg("DET curves: misses against false alarms on probit axes, one curve a dimension")


def eer_by_dim_figure(systems: Mapping[str, Sequence[ErrorRates]]) -> Markup:
    """Equal error rate with its interval against the dimension (spaced by its logarithm), one line a system.

    Args:
        systems: name to its rows over all trials; rows without a dimension are left out.
    """
    rows = {name: [row for row in found if row.dim] for name, found in systems.items()}
    dims = sorted({row.dim for found in rows.values() for row in found if row.dim})
    top = max(row.eer_high for found in rows.values() for row in found)
    step = _round_step(100 * top / 6) / 100
    ceiling = step * math.ceil(top / step + 0.2)
    margin = 0.35
    plot = _Plot(640, 360, (math.log2(dims[0]) - margin, math.log2(dims[-1]) + margin), (0.0, ceiling))
    plot.axes(
        [(math.log2(dim), str(dim)) for dim in dims],
        [(i * step, f"{100 * i * step:g}") for i in range(round(ceiling / step) + 1)],
        "dimensions",
        "equal error rate, %",
    )
    for series, found in enumerate(rows.values()):
        shift = 7 * (series - (len(rows) - 1) / 2)  # pixels, so that the intervals of two systems stand side by side
        points = [(plot.x(math.log2(row.dim)) + shift, row) for row in found if row.dim]
        line = "L".join(f"{x:.1f} {plot.y(row.eer):.1f}" for x, row in points)
        colour = f"s{SYSTEM_SERIES[series % N_SERIES]}"
        plot.parts.append(f'<path class="line {colour}" d="M{line}"/>')
        for x, row in points:
            low, high = plot.y(row.eer_low), plot.y(row.eer_high)
            plot.parts.append(
                f'<path class="whisker {colour}" d="M{x - 3:.1f} {low:.1f}h6m-3 0V{high:.1f}m-3 0h6"/>'
                f'<circle class="dot {colour}" cx="{x:.1f}" cy="{plot.y(row.eer):.1f}" r="3.5"/>'
            )
    return plot.svg("Equal error rate with its interval against the number of dimensions, one line a system")


def histogram_figure(histogram: ScoreHistogram, threshold: float) -> Markup:
    """Shares of both classes in each bin of the score, and the threshold of equal errors as a dashed line."""
    edges = histogram.edges
    shares = [np.asarray(n, float) / max(sum(n), 1) for n in (histogram.n_nontarget, histogram.n_target)]
    top = max(float(share.max()) for share in shares) * 1.08
    plot = _Plot(320, 190, (edges[0], edges[-1]), (0.0, top), left=14)
    step = _round_step((edges[-1] - edges[0]) / 5)
    first = math.ceil(edges[0] / step)
    x_ticks = [(i * step, f"{i * step:.6g}") for i in range(first, math.floor(edges[-1] / step) + 1)]
    plot.axes(x_ticks, [], "score", "")
    for name, share in zip(("nontarget", "target"), shares, strict=True):
        xs = [x for pair in itertools.pairwise(edges) for x in pair]
        ys = [float(y) for y in np.repeat(share, 2)]
        outline = plot.path([edges[0], *xs, edges[-1]], [0.0, *ys, 0.0])
        plot.parts.append(f'<path class="area {name}" d="M{outline}Z"/>')
    at = plot.x(threshold)
    plot.parts.append(
        f'<line class="threshold" x1="{at:.1f}" x2="{at:.1f}" y1="{plot.top}" y2="{plot.height - plot.bottom}"/>'
    )
    return plot.svg("Histogram of the scores of target and non-target trials")


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


def _probit(p: float) -> float:
    # The ends of the scale are at infinity; what lies outside the frame is clipped anyway.
    return float(ndtri(min(max(p, 1e-7), 1 - 1e-7)))


def _round_step(wanted: float) -> float:
    """The round number (1, 2 or 5 times a power of ten) next above `wanted`."""
    power = 10.0 ** math.floor(math.log10(wanted)) if wanted > 0 else 1.0
    return next((factor * power for factor in (1, 2, 5) if factor * power >= wanted), 10 * power)
