"""The figures and the JSON of a ladder of probes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from nestvox.atomic import write_text
from nestvox.probing.outcome import Ladder, Rung
from nestvox.report.drawing import Drawing, Plot
from nestvox.report.figures import SYSTEM_SERIES, DetLine, det_figure

_LINE = 22  # pixels a rung
_MOST_DET = 6


def ladder_figure(ladder: Ladder) -> Drawing:
    """Equal error rate with its interval, a line a rung, layers and sources beside each other in colour."""
    names = list(dict.fromkeys(_name(rung) for rung in ladder.rungs))
    sources = list(dict.fromkeys(f"{rung.source} {rung.layer}" for rung in ladder.rungs))
    top = max(rung.eer.ends[1] for rung in ladder.rungs)
    ceiling = 0.05 * math.ceil(top / 0.05)
    height = 60 + _LINE * len(names) + 18 * len(sources)
    drawing = Drawing("ladder", 640, height, f"Equal error rate by rung: what frames of {ladder.source} know")
    plot = Plot(drawing, (0.0, ceiling), (-0.5, len(names) - 0.5 + len(sources) * 0.8), left=120)
    plot.axes(
        [(0.05 * i, f"{5 * i}") for i in range(round(ceiling / 0.05) + 1)],
        [(len(names) - 1 - i, name) for i, name in enumerate(names)],
        "equal error rate, %",
        "",
    )
    for rung in ladder.rungs:
        number = sources.index(f"{rung.source} {rung.layer}")
        series = SYSTEM_SERIES[number % len(SYSTEM_SERIES)]
        y = plot.y(len(names) - 1 - names.index(_name(rung))) + 2.5 * (number - (len(sources) - 1) / 2)
        low, high = map(plot.x, rung.eer.ends)
        drawing.line([(low, y), (high, y)], "whisker", series=series)
        drawing.dot((plot.x(rung.eer.value), y), series=series, radius=3.0)
    plot.key([("line", name, SYSTEM_SERIES[i % len(SYSTEM_SERIES)]) for i, name in enumerate(sources)])
    return drawing


def ladder_det(ladder: Ladder) -> Drawing:
    """DET curves of the best honest rungs of each source and of what is leaky, at most six."""
    best: list[Rung] = []
    for source in dict.fromkeys(rung.source for rung in ladder.rungs):
        honest = [rung for rung in ladder.rungs if rung.source == source and not rung.leaky]
        best.append(min(honest, key=lambda rung: 1.0 if rung.choice_eer is None else rung.choice_eer))
    best += [rung for rung in ladder.rungs if rung.leaky]
    return det_figure(_lines(best[:_MOST_DET]))


def write_ladder(ladder: Ladder, folder: str | Path) -> None:
    """Write probe.json, ladder.svg and det.svg.

    Raises:
        OSError: they cannot be written.
    """
    ladder_figure(ladder).write(folder, "svg")
    ladder_det(ladder).write(folder, "svg")
    write_text(Path(folder) / "probe.json", json.dumps(ladder.to_dict(), indent=2) + "\n")


def _name(rung: Rung) -> str:
    return f"{rung.title} {rung.dim}" if rung.rung == "nested" else rung.title


def _lines(rungs: Sequence[Rung]) -> list[DetLine]:
    return [
        DetLine(f"{rung.source} {_name(rung)}", rung.det, SYSTEM_SERIES[i % len(SYSTEM_SERIES)], banded=len(rungs) < 4)
        for i, rung in enumerate(rungs)
    ]
