"""The files: JSON that parses strictly, a page that needs nothing and says what it must."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from nestvox.errors import ScoresError, TrialsError
from nestvox.evaluation import Settings, evaluate
from nestvox.evaluation.results import percent, percent_interval
from nestvox.report.page import render_html, write_html, write_json
from nestvox.scoring.sources import system_of_scores

FEW = {"settings": Settings(n_bootstrap=60)}
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks nesting; collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_json_has_the_headline_on_top_and_every_row_below(world, tmp_path):
    evaluation = evaluate(world.store(), world.trials, table=world.table, conditions=["corpus"], **FEW)
    write_json(evaluation, tmp_path / "out.json")

    def refuse(constant):
        raise AssertionError(constant)

    page = Page(render_html(evaluation)).text
    for figure in (figure for figure in evaluation.further if figure.name in ("AUC", "minDCF(0.01)")):
        assert f"{figure.value:.4f} {figure.low:.4f}" in page
    content = json.loads((tmp_path / "out.json").read_text(), parse_constant=refuse)
    headline = evaluation.headline
    assert content["eer"] == headline.eer.value
    assert content["min_dcf"] == headline.min_dcf.value
    assert (content["n_target"], content["n_nontarget"]) == (world.trials.n_target, world.trials.n_nontarget)
    assert content["trials_sha256"] == world.trials.sha256
    assert content["dim"] == 32
    rows = content["results"]
    assert len(rows) == 3 * 4
    keys = set(rows[0]) - {"labels", "fingerprint", "interval", "p_target", "c_miss", "c_fa"}
    for row in rows:
        assert keys <= set(row)
        assert (row["eer"] is None) == (row["reason"] is not None) == (row["condition"] == "corpus=mixed")


def test_a_threshold_at_infinity_is_null(tmp_path):
    # Every non-target above every target: at p_target 0.05 accepting nothing is cheapest.
    import polars as pl

    from nestvox.corpora.trials import Trials

    frame = pl.DataFrame(
        {"enrol": ["a", "b", "c", "d"], "test": ["e", "f", "g", "h"], "target": [True, True, False, False]}
    )
    evaluation = evaluate(np.array([0.1, 0.2, 0.8, 0.9]), Trials(frame, "t"), **FEW)
    assert evaluation.headline.min_dcf_threshold == np.inf
    write_json(evaluation, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["min_dcf_threshold"] is None


def test_page_is_well_formed_and_self_contained(world, tmp_path):
    evaluation = evaluate(world.store(), world.trials, table=world.table, conditions=["corpus"], **FEW)
    plain = evaluate(world.store("plain", tap="embedding", dims=()), world.trials, dims=[16, 32], **FEW)
    write_html(evaluation, tmp_path / "report.html", baselines={"truncation": plain}, name="nested")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    assert not any("src" in attributes for _, attributes in page.tags)
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = [attributes["href"] for _, attributes in page.tags if "href" in attributes]
    assert links
    assert {link.removeprefix("#") for link in links} <= anchors
    assert "default-src 'none'" in text
    svgs = [attributes for tag, attributes in page.tags if tag == "svg"]
    # DET of dimensions and of systems, EER by dimension, Bayes error, calibration, one histogram a dimension.
    assert len(svgs) == 5 + 3
    assert all(attributes["aria-label"] for attributes in svgs)
    assert not re.search(r"nan|inf", "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL)))
    for needed in (
        evaluation.trials_sha256,
        evaluation.fingerprint,
        percent(evaluation.headline.eer.value),
        f"{evaluation.headline.min_dcf.value:.4f}",
        evaluation.headline.interval,
        "truncation",
        "not computable: no target trials",
        evaluation.highest_nontargets[0].enrol,
        evaluation.lowest_targets[-1].test,
    ):
        assert needed in page.text, needed


def test_det_points_stand_where_the_probit_puts_them(world):
    """The curve's last point inside the frame, read back from the drawing, is a point of the curve."""
    from scipy.stats import norm

    from nestvox.report.figures import DetLine, det_figure

    evaluation = evaluate(world.store(), world.trials, dims=[8], **FEW)
    curve = evaluation.det[0]
    drawing = str(det_figure([DetLine("eight", curve, 0, True)]).svg())
    path = re.search(r'class="line s0" d="M([^"]*)"', drawing).group(1)
    points = np.array([[float(value) for value in point.split()] for point in path.split("L")])
    grid = {
        float(text): float(x)
        for x, text in re.findall(
            r'<text class="tick" x="([\d.]+)" y="[\d.]+" text-anchor="middle">([\d.]+)</text>', drawing
        )
    }
    (low, at_low), (high, at_high) = sorted(grid.items())[0], sorted(grid.items())[-1]
    share = (norm.ppf(curve.p_fa) - norm.ppf(low / 100)) / (norm.ppf(high / 100) - norm.ppf(low / 100))
    np.testing.assert_allclose(points[:, 0], at_low + share * (at_high - at_low), atol=0.2)
    assert (np.diff(points[:, 0]) > 0).all()
    assert (np.diff(points[:, 1]) >= 0).all()  # downwards on the page: misses fall as false alarms rise


@pytest.mark.parametrize("label", ["synthetic", "leaky"])
def test_labels_stand_in_a_banner_and_in_the_title(world, label):
    evaluation = evaluate(world.store(), world.trials, labels=[label], **FEW)
    text = render_html(evaluation)
    assert re.search(rf'<div class="banner"[^>]*><strong>{label.upper()}</strong>', text)
    assert label in re.search("<title>(.*?)</title>", text).group(1)
    assert 'class="banner"' not in render_html(evaluate(world.store(), world.trials, **FEW))


def test_a_labelled_baseline_labels_the_page(world):
    plain = evaluate(world.store(), world.trials, **FEW)
    other = evaluate(
        system_of_scores("the scores", world.trials, world.cosines(16), dim=16),
        world.trials,
        labels=["synthetic"],
        **FEW,
    )
    text = render_html(plain, baselines={"other": other})
    assert "<strong>SYNTHETIC</strong>" in text


def test_names_are_escaped(world):
    evaluation = evaluate(world.store("x", model="<script>alert(1)</script>"), world.trials, **FEW)
    other = evaluate(system_of_scores("the scores", world.trials, world.cosines(16), dim=16), world.trials, **FEW)
    text = render_html(evaluation, baselines={"<b>other</b>": other})
    assert "<script" not in text
    assert "<b>other" not in text
    Page(text)


def test_baselines_on_other_trials_are_refused(world):
    from nestvox.corpora.trials import Trials

    evaluation = evaluate(world.store(), world.trials, **FEW)
    other = evaluate(world.store(), Trials(world.trials.frame[1:], "shorter.txt"), **FEW)
    with pytest.raises(TrialsError, match=r"shorter\.txt"):
        render_html(evaluation, baselines={"other": other})


def test_a_copy_beside_itself_is_refused(world):
    evaluation = evaluate(world.store(), world.trials, **FEW)
    with pytest.raises(ScoresError, match="copy and this model have the same error rates"):
        render_html(evaluation, baselines={"copy": evaluate(world.store(), world.trials, **FEW)})


def test_page_of_perfect_and_of_useless_scores(world):
    targets = world.trials.frame["target"].to_numpy()
    for scores in (targets.astype(float), -targets.astype(float), np.zeros(len(targets))):
        Page(render_html(evaluate(scores, world.trials, table=world.table, **FEW)))


def test_same_input_same_page(world):
    pages = [render_html(evaluate(world.store(), world.trials, **FEW)) for _ in range(2)]
    assert pages[0] == pages[1]


def test_per_cent(world):
    row = evaluate(world.store(), world.trials, **FEW).headline
    assert percent(0.05177) == "5.18"
    assert percent_interval(row) == f"{100 * row.eer.value:.2f} [{100 * row.eer.low:.2f}, {100 * row.eer.high:.2f}]"


def test_a_notebook_shows_a_short_line_and_a_table(world):
    found = evaluate(world.store(), world.trials, table=world.table, conditions=["corpus"], **FEW)
    (row,) = found.overall[-1:]
    assert repr(found).startswith("Evaluation(EER % ")
    assert f"{row.n_target} target + {row.n_nontarget} nontarget, sha256 {found.trials_sha256[:16]}" in repr(found)
    assert len(repr(found)) < 400
    page = replace(found, trials_source="<script>", labels=("synthetic",))._repr_html_()
    assert "SYNTHETIC" in page
    assert "<script>" not in page
    assert f"<td>{percent_interval(row)}</td>" in page
    assert page.count("<tr>") == 1 + len(found.results)
