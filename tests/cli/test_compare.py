"""`nestvox compare` as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from nestvox.cli.compare import compare
from nestvox.errors import NestvoxError, ScoresError, TrialsError
from nestvox.evaluation import Settings
from nestvox.evaluation import compare as compare_in_python
from nestvox.testing import make_store

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(compare)

NAMES = [f"id{10000 + speaker}/v/{take}.wav" for speaker in range(20) for take in range(4)]
FEW = ["--bootstrap", "100", "--permutations", "100"]


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """trials.txt, good.txt and bad.txt, and two stores over twenty speakers."""
    generator = np.random.default_rng(2)
    centres = np.repeat(generator.normal(size=(20, 16)), 4, axis=0)
    pairs = [(a, b) for a in range(80) for b in range(a + 1, 80)]
    (tmp_path / "trials.txt").write_text("".join(f"{int(a // 4 == b // 4)} {NAMES[a]} {NAMES[b]}\n" for a, b in pairs))
    for name, noise, fingerprint in (("good", 0.7, "ab" * 8), ("bad", 2.5, "cd" * 8)):
        vectors = (centres + noise * generator.normal(size=(80, 16))).astype(np.float32)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        lines = [f"{unit[a] @ unit[b]:.9f} {NAMES[a]} {NAMES[b]}\n" for a, b in pairs]
        (tmp_path / f"{name}.txt").write_text("".join(lines))
        about = {"fingerprint": fingerprint, "model": name, "dims": (4, 16)}
        make_store(tmp_path / f"{name}_store", vectors, None, NAMES, [name[:7] for name in NAMES], **about)
    return tmp_path


def test_scores_and_stores_agree(files):
    common = ["--trials", files / "trials.txt", *FEW]
    scores = run(files / "good.txt", files / "bad.txt", *common, "--json", files / "a.json")
    stores = run(files / "good_store", files / "bad_store", *common, "--dims", "16", "--json", files / "b.json")
    assert (scores.exit_code, stores.exit_code) == (0, 0), scores.output + stores.output
    a, b = (json.loads((files / name).read_text()) for name in ("a.json", "b.json"))
    assert a["rows"][0]["paired"]["eer"] == pytest.approx(b["rows"][0]["paired"]["eer"], abs=1e-9)
    assert a["trials_sha256"] == b["trials_sha256"]
    for text in ("bad is worse than good by", "95 % interval", "120 target and 3040 non-target", a["trials_sha256"]):
        assert text in scores.output
    assert "bad_store is worse than good_store by" in stores.output
    assert "mean norm" in stores.output
    assert "McNemar" in stores.output


def test_every_common_dimension_and_a_third_system(files):
    noise = np.random.default_rng(1).normal(size=3160)
    rows = ((line.split(maxsplit=1), extra) for line, extra in zip((files / "bad.txt").open(), noise, strict=True))
    (files / "third.txt").write_text("".join(f"{float(score) + extra:.6f} {rest}" for (score, rest), extra in rows))
    result = run(files / "good_store", files / "bad_store", files / "third.txt", "--trials", files / "trials.txt", *FEW)
    assert result.exit_code == 0, result.output
    for text in ("at 4 dimensions", "at 16 dimensions", "16 : -", "3 comparisons (Holm)", "other trials"):
        assert text in result.output


def test_files_of_one_name_keep_their_folders(files):
    (files / "other").mkdir()
    (files / "bad.txt").rename(files / "other" / "good.txt")
    result = run(files / "good.txt", files / "other" / "good.txt", "--trials", files / "trials.txt", *FEW)
    assert result.exit_code == 0, result.output
    assert str(files / "other" / "good.txt") in result.output.replace("\n", "")


def test_a_copy_is_refused(files):
    result = run(files / "good.txt", files / "good_store", "--trials", files / "trials.txt", "--dims", "16")
    assert isinstance(result.exception, NestvoxError)
    assert "scores have no dimensions" in str(result.exception)
    (files / "copy.txt").write_text((files / "good.txt").read_text())
    result = run(files / "good.txt", files / "copy.txt", "--trials", files / "trials.txt")
    assert isinstance(result.exception, ScoresError)
    assert "copy" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["good.txt"], "two or more systems"),
        (["good.txt", "no-such-model"], "--table"),
        (["good_store", "bad_store", "--dims", "4;8"], "whole numbers"),
        (["good_store", "bad_store", "--dims", "4,99"], "1 to 16"),
        (["good.txt", "bad.txt", "--bootstrap", "5"], "40 or more"),
    ],
)
def test_calls_that_mean_nothing(files, monkeypatch, arguments, words):
    monkeypatch.chdir(files)
    result = run(*arguments, "--trials", "trials.txt")
    assert isinstance(result.exception, NestvoxError)
    assert words in str(result.exception)


def nestvox(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from nestvox.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "COLUMNS": "120"}, check=False
    )


def test_from_the_command_line_without_torch(files):
    done = nestvox("compare", "good_store", "bad_store", "--trials", "trials.txt", *FEW, cwd=files)
    assert done.returncode == 0, done.stderr
    assert "bad_store is worse than good_store" in done.stdout
    failed = nestvox("compare", "good.txt", "good.txt", "--trials", "trials.txt", cwd=files)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert "Traceback" not in failed.stderr


def test_models_are_embedded_from_the_table(files, monkeypatch):
    pytest.importorskip("torch")
    from nestvox.extraction.store.store import EmbeddingStore

    rows = [f"u{row}\t{name}\t{name[:7]}\n" for row, name in enumerate(NAMES)]
    (files / "table.tsv").write_text("utt_id\tpath\tspeaker\n" + "".join(rows))

    class Model:
        dims, training_speakers, chosen_on = (4, 16), (), ()

        def __init__(self, name: str, fingerprint: str) -> None:
            self.name, self.fingerprint = name, fingerprint

        def check_dim(self, dim, /):
            return dim

    models = {"good": Model("good", "ab" * 8), "bad": Model("bad", "cd" * 8)}

    def embed_table(model, table, out, *, progress):
        whole = EmbeddingStore(files / f"{model.name}_store")
        ids = table.frame["utt_id"].to_list()
        about = {"fingerprint": model.fingerprint, "model": model.name, "dims": (4, 16)}
        return make_store(out, whole.take(whole.index_of(ids)), ids, **about)

    monkeypatch.setattr("nestvox.model.loading.load", lambda name, **_: models[name])
    monkeypatch.setattr("nestvox.extraction.embed.embed_table", embed_table)
    common = ["--trials", files / "trials.txt", "--table", files / "table.tsv", *FEW]
    by_model = run("good", "bad", *common, "--json", files / "a.json")
    by_store = run(files / "good_store", files / "bad_store", *common, "--json", files / "b.json")
    assert (by_model.exit_code, by_store.exit_code) == (0, 0), f"{by_model.exception} {by_store.exception}"
    a, b = (json.loads((files / name).read_text()) for name in ("a.json", "b.json"))
    assert [row["paired"] for row in a["rows"]] == [row["paired"] for row in b["rows"]]
    # One command compares two checkpoints, dimension by dimension.
    for text in ("accuracy points", "EER threshold", "mean norm", "differences", "EER at 4 dimensions"):
        assert text in by_model.output
    models["bad"].chosen_on = (a["trials_sha256"],)
    chosen = run("good", "bad", *common)
    assert "SELECTED" in chosen.output
    assert "bad: The model's head was chosen" in chosen.output.replace("\n", " ")


def test_report_tables_and_figures(files):
    import polars as pl

    result = run(
        *(files / "good_store", files / "bad_store", "--trials", files / "trials.txt", *FEW),
        *("--report", files / "r.html", "--csv", files / "csv", "--figures", files / "figures"),
        *("--json", files / "a.json"),
    )
    assert result.exit_code == 0, result.output
    content = json.loads((files / "a.json").read_text())
    page = (files / "r.html").read_text()
    for row in content["rows"]:
        assert row["verdict"] in page
    assert content["trials_sha256"] in page
    assert "://" not in page
    tables = {path.stem: pl.read_csv(path) for path in (files / "csv").iterdir()}
    assert tables["systems"]["eer"].to_list() == [row["eer"] for row in content["systems"]]
    differences = tables["differences"]
    for name, kind in (("eer", "eer"), ("min_dcf", "min_dcf")):
        for key in ("difference", "low", "high", "p_value"):
            assert differences[f"{name}_{key}"].to_list() == [row["paired"][kind][key] for row in content["rows"]]
    assert len(tables["disputed_trials"]) == len(content["disputed"]) > 0
    assert {"results", "det", "calibration", "speakers"} <= set(tables)
    assert "selection" not in tables
    assert set(tables["results"]["system"]) == {"good_store", "bad_store"}
    names = {path.name for path in (files / "figures").iterdir()}
    drawn = ("differences", "eer-by-dimension", "det-systems", "bayes-error", "scores-1", "scores-2")
    assert names == {f"{name}.svg" for name in drawn}


def test_the_best_is_chosen_on_other_trials(files):
    lines = (files / "trials.txt").read_text().splitlines(keepends=True)

    def of(first: bool) -> list[str]:
        return [line for line in lines if all((int(name[:7][2:]) < 10010) == first for name in line.split()[1:])]

    (files / "dev.txt").write_text("".join(of(True)))
    (files / "test.txt").write_text("".join(of(False)))
    arguments = [files / "bad.txt", files / "good.txt", *FEW, "--json", files / "a.json"]
    result = run(*arguments, "--trials", files / "test.txt", "--select-on", files / "dev.txt")
    assert result.exit_code == 0, result.output
    assert "good was chosen of 2 by its EER" in result.output.replace("\n", " ")
    content = json.loads((files / "a.json").read_text())
    assert content["selection"]["name"] == "good"
    assert content["rows"][0]["a"] == "good"
    found = compare_in_python(
        files / "bad.txt",
        files / "good.txt",
        files / "test.txt",
        select_on=files / "dev.txt",
        settings=Settings(n_bootstrap=100),
        n_permutations=100,
    )
    assert json.loads(json.dumps(found.to_dict())) == content
    assert [system.name for system in found.scored] == ["bad", "good"]
    same = run(*arguments, "--trials", files / "test.txt", "--select-on", files / "test.txt")
    assert isinstance(same.exception, TrialsError)
    assert "same trials" in str(same.exception)
    shared = run(*arguments, "--trials", files / "test.txt", "--select-on", files / "trials.txt")
    assert isinstance(shared.exception, TrialsError)
    assert f"{len(of(False))} of {len(of(False))} trials" in str(shared.exception)
