"""A study as one self-contained HTML page, with the Pareto front of errors against every cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from nestvox.ablation.outcome import Ablation, Measured
from nestvox.ablation.pareto import Front
from nestvox.atomic import write_text
from nestvox.download import readable_size
from nestvox.report.drawing import Drawing, Plot
from nestvox.report.figures import SYSTEM_SERIES, even_ticks
from nestvox.report.page import render_page

COST_NAMES: Mapping[str, str] = {
    "parameters": "parameters",
    "macs": "multiply-accumulates of 3 s",
    "cpu_ms": "milliseconds of one core for 3 s",
    "size_bytes": "bytes of the model",
}
"""The costs of `costs.Costs` as a page names them."""

_POWERS = ("", "k", "M", "G", "T")


def write_ablation(ablation: Ablation, path: str | Path) -> None:
    """Write the page atomically: no script, no network, light and dark, printable."""
    figures = ablation_figures(ablation)
    lists = {"dev": ablation.dev} | ({} if ablation.report is None else {"report": ablation.report})
    page = render_page(
        "ablation.html.j2",
        {"size": readable_size, "short": short_number},
        ablation=ablation,
        lists=lists,
        titles={"dev": "Development", "report": "Report"},
        fronts={
            name: [figures[f"{name}-{front.cost}"] for front in found.fronts if front.names]
            for name, found in lists.items()
        },
        cost_names=COST_NAMES,
        labels=sorted({label for found in lists.values() for label in found.labels}),
    )
    write_text(path, page)


def ablation_figures(ablation: Ablation) -> dict[str, Drawing]:
    """The fronts by name, ``dev-parameters``, ``dev-macs``... and ``report-...`` where there is a report."""
    lists = {"dev": ablation.dev} | ({} if ablation.report is None else {"report": ablation.report})
    drawings = [
        front_figure(front, measured, name=f"{name}-{front.cost}")
        for name, measured in lists.items()
        for front in measured.fronts
        if front.names
    ]
    return {drawing.name: drawing for drawing in drawings}


def front_figure(front: Front, measured: Measured, *, name: str) -> Drawing:
    """Mean equal error rate of every arm against a cost on a logarithmic axis; the line joins those worth having."""
    words = COST_NAMES[front.cost]
    drawing = Drawing(name, 460, 340, f"Equal error rate against {words}, with the Pareto front")
    xs = [math.log10(value) for value in front.values]
    ys = [100 * error for error in front.errors]
    x_room, y_room = (max(0.1, 0.12 * (max(xs) - min(xs)))), (max(0.05, 0.15 * (max(ys) - min(ys))))
    plot = Plot(drawing, (min(xs) - x_room, max(xs) + x_room), (max(0.0, min(ys) - y_room), max(ys) + y_room))
    ticks = [(at, short_number(10**at)) for at, _ in even_ticks(*plot.x_range)]
    plot.axes(ticks, even_ticks(*plot.y_range), words, f"equal error rate at {measured.dim} dimensions, %")
    points = {arm: (x, y) for arm, x, y in zip(front.names, xs, ys, strict=True)}
    kept = [points[arm] for arm in front.kept]
    if len(kept) > 1:
        drawing.line(plot.points(*zip(*kept, strict=True)), "line-dashed", series=SYSTEM_SERIES[0], clipped=True)
    middle = sum(plot.x_range) / 2
    for arm, (x, y) in points.items():
        worth = arm in front.kept
        at = (plot.x(x), plot.y(y))
        drawing.dot(at, series=SYSTEM_SERIES[0] if worth else 6, radius=4.5 if worth else 3.0)
        left = x > middle
        drawing.text(
            (at[0] + (-8 if left else 8), at[1] + 4), arm, "key" if worth else "tick", anchor="end" if left else "start"
        )
    return drawing


def short_number(value: float | None) -> str:
    """Three digits and a power: 2664576 is ``2.66 M``."""
    if value is None:
        return "-"
    power = 0 if value < 1000 else min(len(_POWERS) - 1, int(math.log10(value) / 3))
    return f"{value / 1000**power:.3g} {_POWERS[power]}".rstrip()
