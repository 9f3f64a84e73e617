"""The pages in a real Chromium: drawn, in both colour schemes, nothing cut at desktop and mobile width, no request.

Skipped where there is no Chromium.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nestvox.corpora.scores import read_scores
from nestvox.corpora.trials import read_trials
from nestvox.evaluation import Settings, evaluate
from nestvox.evaluation.comparing import compare_systems
from nestvox.report.comparison_page import write_comparison
from nestvox.report.drawing import PALETTES
from nestvox.report.page import write_html
from nestvox.scoring.sources import known_store
from nestvox.testing import make_world

DESKTOP, MOBILE = 1280, 500  # Chromium without a window is never narrower than 500
NARROW = 390

# Where the browser itself asks for updates and the time, whatever page it shows.
OWN = re.compile(r"(https?://)?[\w.-]+\.(google|googleapis|gvt1|gstatic)\.com(:443|/|$)")

# What the page measures of itself: how far it reaches to the right, words that overlap or leave their drawing.
MEASURE = """
<script>
addEventListener("load", () => {
  const shown = [...document.querySelectorAll("body *")].filter((element) =>
    element.closest(".scroll") === null && element.parentElement.closest("svg") === null);
  const wide = shown.filter((element) => element.getBoundingClientRect().right > WIDTH + 1).map((element) =>
    element.outerHTML.slice(0, 80));
  const out = [], touching = [];
  for (const drawing of document.querySelectorAll("svg")) {
    const box = drawing.getBoundingClientRect();
    const words = [...drawing.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
    for (const [text, word] of words)
      if (word.left < box.left - 1 || word.right > box.right + 1 || word.top < box.top - 1
        || word.bottom > box.bottom + 1) out.push(text);
    for (const [a, one] of words) for (const [b, two] of words)
      if (a < b && one.left < two.right && two.left < one.right && one.top + 3 < two.bottom && two.top + 3 < one.bottom)
        touching.push(a + " / " + b);
  }
  const worded = [...document.querySelectorAll("td, th, dd, p, b, h1, h2, h3, span, figcaption")];
  const clipped = worded.filter((element) => element.clientWidth && element.scrollWidth > element.clientWidth + 1).map(
    (element) => element.textContent.slice(0, 60));
  const found = {scrollWidth: document.documentElement.scrollWidth, wide, out, touching, clipped,
    height: document.documentElement.scrollHeight, smallest: Math.min(...[...document.querySelectorAll("svg text")].map(
      (text) => text.getBoundingClientRect().height))};
  const mark = document.createElement("pre");
  mark.id = "measured";
  mark.textContent = JSON.stringify(found);
  document.body.replaceChildren(mark);
});
</script>
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium on this machine: install chromium to look at the reports")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report with everything on it, and a comparison of three systems."""
    folder = tmp_path_factory.mktemp("pages")
    world = make_world(folder)
    generator = np.random.default_rng(5)
    seconds = pl.Series("duration_s", generator.choice([1.5, 3.0, 6.0, 12.0], len(world.table)))
    table = replace(world.table, frame=world.table.frame.with_columns(seconds))
    stores = {"nested": world.store()}
    for name, noise in (("truncation", 0.8), ("a-system-with-quite-a-long-name-v2", 1.6)):
        vectors = (world.vectors + noise * generator.normal(size=world.vectors.shape)).astype(np.float32)
        stores[name] = replace(world, vectors=vectors).store(name, fingerprint=name[:5] + "0" * 11)
    common = {"table": table, "settings": Settings(n_bootstrap=60)}
    nested, *others = (evaluate(store, world.trials, **common) for store in stores.values())
    nested = evaluate(stores["nested"], world.trials, conditions=["corpus", "duration"], **common)
    write_html(
        nested, folder / "report.html", baselines=dict(zip(list(stores)[1:], others, strict=True)), name="nested"
    )
    systems = [known_store(name, world.trials, store).score() for name, store in stores.items()]
    compared = compare_systems(world.trials, systems, table=table, settings=Settings(n_bootstrap=60), n_permutations=60)
    evaluations = dict(zip(stores, (nested, *others), strict=True))
    write_comparison(compared, evaluations, folder / "comparison.html")
    return {name: folder / f"{name}.html" for name in ("report", "comparison")}


@pytest.fixture
def proxy() -> Iterator[tuple[int, list[str]]]:
    """A proxy that writes down what is asked of it and answers nothing."""
    asked: list[str] = []

    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(502)

        def do_CONNECT(self) -> None:
            self.do_GET()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port, asked
    server.shutdown()
    server.server_close()
    thread.join()


def browse(chromium: str, page: Path, width: int, *arguments: str, port: int = 9, height: int = 3000) -> str:
    profile = page.parent / "profile"
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
        *("--disable-default-apps", "--disable-dev-shm-usage", "--disable-features=OptimizationHints,MediaRouter"),
        *(f"--user-data-dir={profile}", f"--proxy-server=http://127.0.0.1:{port}", f"--window-size={width},{height}"),
        *arguments,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def measured(chromium: str, page: Path, width: int) -> dict:
    """What the page finds out about itself; its policy forbids scripts, so a copy without it is asked."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    copy = page.with_name(f"measured-{page.name}")
    # Narrower than the browser itself can be: the page is put into a frame of that width.
    body = text.replace("</body>", MEASURE.replace("WIDTH", str(width)) + "</body>")
    copy.write_text(body.replace("<html ", f'<html style="width:{width}px" ', 1), encoding="utf-8")
    found = re.search(r'<pre id="measured">(.*?)</pre>', browse(chromium, copy, max(width, MOBILE), "--dump-dom"))
    assert found, "the page has not measured itself"
    return json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))


def picture(chromium: str, page: Path, width: int, scheme: str) -> np.ndarray:
    from matplotlib.image import imread

    target = page.with_name(f"{page.stem}-{width}-{scheme}.png")
    wish = {"dark": 0, "light": 1}[scheme]
    browse(chromium, page, width, f"--screenshot={target}", f"--blink-settings=preferredColorScheme={wish}")
    return imread(target)[..., :3]


def shades_of(found: np.ndarray) -> np.ndarray:
    """Colours of the pixels as numbers 0xRRGGBB."""
    return np.round(found * 255).astype(np.int64) @ np.array([65536, 256, 1])


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_it_is_drawn_in_both_colour_schemes(chromium, pages, name):
    light, dark = (picture(chromium, pages[name], DESKTOP, scheme) for scheme in ("light", "dark"))
    assert light.shape == dark.shape == (3000, DESKTOP, 3)
    # The paper is the commonest colour, and ink, lines and bands are there beside it.
    for found, paper in ((light, 1.0), (dark, 18 / 255)):
        assert float(np.median(found[..., 0])) == pytest.approx(paper, abs=0.02)
        assert len(np.unique(shades_of(found))) > 200
        drawn = (np.abs(found - found[2, 2]) > 0.2).any(axis=2).mean(axis=1)
        assert (drawn[:2500].reshape(10, 250).max(axis=1) > 0.01).all()  # no blank stretch
    # The colours of series stand in each page as they are in its palette.
    for series in ("s0", "s3"):
        for found, scheme in ((light, "light"), (dark, "dark")):
            assert int(PALETTES[scheme][series][1:], 16) in shades_of(found), (scheme, series)


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_nothing_is_cut_at_any_width(chromium, pages, name):
    for width in (DESKTOP, NARROW):
        found = measured(chromium, pages[name], width)
        assert found["scrollWidth"] <= max(width, MOBILE), (width, found["wide"])
        assert found["wide"] == [], width
        assert found["out"] == [], width
        assert found["touching"] == [], width
        assert found["clipped"] == [], width
        assert found["height"] > 2000
        assert found["smallest"] > 8, "words in drawings are too small to read"


def test_the_report_of_published_scores(chromium, lists_dir: Path, tmp_path: Path):
    """60,000 trials of 1,251 speakers: the page that the guide makes."""
    trials = read_trials(lists_dir / "voxsrc2021_val_trials.txt")
    evaluation = evaluate(
        read_scores(lists_dir / "voxsrc2021_val_scores.txt"), trials, settings=Settings(n_bootstrap=60)
    )
    write_html(evaluation, tmp_path / "voxsrc2021.html")
    for width in (DESKTOP, NARROW):
        found = measured(chromium, tmp_path / "voxsrc2021.html", width)
        assert {key: found[key] for key in ("wide", "out", "touching", "clipped")} == {
            key: [] for key in ("wide", "out", "touching", "clipped")
        }, width
    text = browse(chromium, tmp_path / "voxsrc2021.html", DESKTOP, "--dump-dom")
    for words in ("5.18 %", "0.2928", "29,969 target, 30,031 non-target", "of 1,251 speakers", "goat"):
        assert words in text


def test_no_request_leaves(chromium, pages, proxy):
    port, asked = proxy
    for page in pages.values():
        assert not re.search(r"(?<!-)https?:|//[a-z]", page.read_text(encoding="utf-8"))
        browse(chromium, page, DESKTOP, "--dump-dom", port=port)
    assert [path for path in asked if not OWN.match(path)] == []
    # The proxy is one that a request would reach.
    asking = next(iter(pages.values())).with_name("asking.html")
    asking.write_text('<img src="http://example.invalid/x.png">')
    browse(chromium, asking, DESKTOP, "--dump-dom", port=port)
    assert "http://example.invalid/x.png" in asked
