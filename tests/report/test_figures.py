"""Drawings: files that other programs read, points where the data puts them."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from nestvox.errors import NestvoxError
from nestvox.evaluation import Settings, evaluate
from nestvox.evaluation.results import DetCurve
from nestvox.report.drawing import FIGURE_FORMATS, PALETTES, Drawing, Plot
from nestvox.report.figures import (
    BayesLine,
    DetLine,
    Difference,
    bayes_error_figure,
    calibration_figure,
    det_figure,
    difference_figure,
)
from nestvox.report.page import evaluation_figures, systems_dim, write_figures
from nestvox.scoring.sources import system_of_scores

FEW = {"settings": Settings(n_bootstrap=60)}
SVG = "{http://www.w3.org/2000/svg}"


def points_of(drawing: Drawing, style: str) -> list[np.ndarray]:
    """The lines of a style, read back from the drawing, (n, 2) pixels each."""
    found = re.findall(rf'<path class="{style}" d="M([^"Z]*)Z?"', str(drawing.svg()))
    return [np.array([[float(value) for value in point.split()] for point in path.split("L")]) for path in found]


def ticks_of(drawing: Drawing, anchor: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers written at one of the axes, and the pixels at which they stand."""
    found = re.findall(
        rf'<text class="tick" x="([\d.]+)" y="([\d.]+)" text-anchor="{anchor}">(-?[\d.]+)<', str(drawing.svg())
    )
    at = 0 if anchor == "middle" else 1
    offset = 0.0 if anchor == "middle" else -4.0  # words stand on a line, not around it
    return np.array([float(row[2]) for row in found]), np.array([float(row[at]) + offset for row in found])


def to_data(drawing: Drawing, line: np.ndarray) -> np.ndarray:
    """Pixels back to the units of the axes, by their ticks."""
    columns = []
    for number, anchor in enumerate(("middle", "end")):
        values, pixels = ticks_of(drawing, anchor)
        slope, offset = np.polyfit(pixels, values, 1)
        columns.append(slope * line[:, number] + offset)
    return np.stack(columns, axis=1)


def test_every_figure_is_a_file_that_others_read(world, tmp_path):
    from matplotlib.image import imread

    evaluation = evaluate(world.store(), world.trials, table=world.table, **FEW)
    drawings = evaluation_figures(evaluation)
    assert set(drawings) == {
        "det",
        "eer-by-dimension",
        "bayes-error",
        "calibration",
        "scores-8",
        "scores-16",
        "scores-32",
    }
    for fmt in FIGURE_FORMATS:
        written = write_figures(drawings, tmp_path / fmt, fmt)
        assert [path.name for path in written] == [f"{name}.{fmt}" for name in drawings]
        for path, drawing in zip(written, drawings.values(), strict=True):
            if fmt == "svg":
                root = ET.parse(path).getroot()
                assert (root.get("width"), root.find(f"{SVG}title").text) == (str(drawing.width), drawing.description)
                assert not re.search(r"nan|inf", path.read_text())
            else:
                pixels = imread(path)[..., :3]
                assert pixels.shape == (2 * drawing.height, 2 * drawing.width, 3)
                assert 0.01 < (np.abs(pixels - 1) > 0.1).any(axis=2).mean() < 0.7
    with pytest.raises(NestvoxError, match="svg or png"):
        drawings["det"].write(tmp_path, "pdf")


def test_same_figure_same_bytes(world, tmp_path):
    evaluation = evaluate(world.store(), world.trials, dims=[32], **FEW)
    for fmt in FIGURE_FORMATS:
        files = [evaluation_figures(evaluation)["det"].write(tmp_path / str(turn), fmt) for turn in range(2)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_words_cannot_break_out_of_a_drawing(tmp_path):
    drawing = Drawing("d", 100, 80, 'a "b" <c>')
    drawing.text((10, 10), "<script>&</script>")
    (element,) = ET.fromstring(f"<x>{drawing.svg()}</x>")
    assert element.get("aria-label") == 'a "b" <c>'
    assert element[0].text == "<script>&</script>"
    assert ET.parse(drawing.write(tmp_path, "svg")).getroot().find(f"{SVG}text").text == "<script>&</script>"


def test_a_plot_puts_data_where_it_belongs():
    drawing = Drawing("d", 212, 158, "")
    plot = Plot(drawing, (0.0, 10.0), (-1.0, 1.0), left=52, right=10, top=12, bottom=46)
    assert (plot.x(0), plot.x(10), plot.x(5)) == (52, 202, 127)
    assert (plot.y(-1), plot.y(1), plot.y(0)) == (112, 12, 62)
    assert drawing.clip == (52, 12, 150, 100)


def test_bayes_error_lines_stand_where_the_numbers_are():
    odds = np.linspace(-7, 7, 29)
    rates = 0.2 + 0.1 * np.abs(odds)
    drawing = bayes_error_figure(odds.tolist(), [BayesLine("one", rates.tolist(), 3)], at=-2.5)
    (line,) = (found for found in points_of(drawing, "line s3") if len(found) == 29)
    np.testing.assert_allclose(to_data(drawing, line), np.stack([odds, rates], axis=1), atol=0.02)
    (marked,) = points_of(drawing, "threshold")
    assert to_data(drawing, marked)[:, 0] == pytest.approx([-2.5, -2.5], abs=0.02)


def test_calibration_steps_are_the_bins(world):
    scores = 4 * world.cosines(32) - 1
    evaluation = evaluate(scores, world.trials, llr=True, **FEW)
    (curve,) = evaluation.calibration
    drawing = calibration_figure(curve)
    finite = [i for i, llr in enumerate(curve.bin_llr) if np.isfinite(llr)]
    (line,) = (found for found in points_of(drawing, "line s3") if len(found) == 2 * len(finite))
    expected = [(x, curve.bin_llr[i]) for i in finite for x in (curve.bin_low[i], curve.bin_high[i])]
    np.testing.assert_allclose(to_data(drawing, line), expected, atol=0.05)
    # What a log likelihood ratio says is itself.
    (said, _) = points_of(drawing, "line-dashed s0")
    np.testing.assert_allclose(*to_data(drawing, said).T, atol=0.05)


def test_differences_stand_left_and_right_of_nothing():
    rows = [Difference("b", -2.0, -3.0, -1.0, 0), Difference("c", 1.5, -0.5, 3.5, 4)]
    drawing = difference_figure(rows)
    values, pixels = ticks_of(drawing, "middle")
    slope, offset = np.polyfit(pixels, values, 1)
    (zero,) = points_of(drawing, "threshold")
    assert slope * zero[:, 0] + offset == pytest.approx([0, 0], abs=0.02)
    for row in rows:
        whole = points_of(drawing, f"whisker s{row.series}")[0]
        assert slope * whole[:, 0] + offset == pytest.approx([row.low, row.high], abs=0.02)
        dot = float(re.search(rf'class="dot s{row.series}" cx="([\d.]+)"', str(drawing.svg()))[1])
        assert slope * dot + offset == pytest.approx(row.value, abs=0.02)


def test_systems_are_shown_where_they_differ(world):
    """At full size a rotation is what it was made of."""
    from dataclasses import replace

    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))[0]
    turned = replace(world, vectors=(world.vectors @ rotation).astype(np.float32)).store("turned")
    one, two = (evaluate(store, world.trials, **FEW) for store in (world.store(), turned))
    assert systems_dim({"one": one, "two": two}) == 16
    other = evaluate(system_of_scores("the scores", world.trials, world.cosines(8), dim=32), world.trials, **FEW)
    assert systems_dim({"one": one, "other": other}) == 32


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (Web Content Accessibility Guidelines 2.2)."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_lines_can_be_told_from_the_paper(scheme):
    palette = PALETTES[scheme]
    assert set(palette) == set(PALETTES["light"])
    for paper in ("paper", "shade"):
        assert contrast(palette["ink"], palette[paper]) >= 7
        assert contrast(palette["soft"], palette[paper]) >= 4.5
        assert contrast(palette["accent"], palette[paper]) >= 4.5
    assert contrast(palette["warn-ink"], palette["warn"]) >= 7
    series = [palette[f"s{number}"] for number in range(8)]
    assert all(contrast(colour, palette["paper"]) >= 3 for colour in (*series, palette["target"], palette["nontarget"]))
    assert len(set(series)) == 8


@pytest.mark.parametrize("distance", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("names", [["16", "64"], [f"a system with a long name {i}" for i in range(8)]])
def test_the_key_of_a_det_figure_covers_as_little_as_it_can(distance: float, names: list[str]) -> None:
    """Whether the systems are at chance or nearly perfect, the key stands where curves do not run."""
    far = np.linspace(0.001, 0.95, 80)
    lines = []
    for series, name in enumerate(names):
        miss = ndtr(-distance - 0.1 * series - ndtri(far))
        curve = DetCurve(None, tuple(far), tuple(miss), tuple(miss), tuple(miss))
        lines.append(DetLine(name, curve, series % 8, banded=False))
    drawing = det_figure(lines)
    (key,) = [shape for shape in drawing._parts if getattr(shape, "style", "") == "backing"]
    xs, ys = zip(*key.points, strict=True)
    curves = [shape for shape in drawing._parts if getattr(shape, "style", "") == "line" and len(shape.points) > 10]
    covered = [sum(min(xs) <= x <= max(xs) and min(ys) <= y <= max(ys) for x, y in shape.points) for shape in curves]
    assert len(curves) == len(names)
    assert sum(covered) <= 0.1 * sum(len(shape.points) for shape in curves)
