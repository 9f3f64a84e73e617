"""`nestvox evaluate` as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from nestvox.cli.evaluate import evaluate
from nestvox.cli.main import main
from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.trials import read_trials
from nestvox.corpora.utterances import read_utterances
from nestvox.encoders.registry import build
from nestvox.errors import FingerprintError, NestvoxError, OverlapError, ScoresError
from nestvox.evaluation import Settings
from nestvox.evaluation.measure import evaluate as measured
from nestvox.extraction.store.metadata import StoreMetadata
from nestvox.extraction.store.shard_files import ShardRows
from nestvox.extraction.store.store import EmbeddingStore, StoreWriter
from nestvox.heads.rotation import Rotation
from nestvox.model import SpeakerModel
from nestvox.testing import make_store

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(evaluate)

NAMES = [f"id{10000 + speaker}/v/{take}.wav" for speaker in range(8) for take in range(4)]
FEW = ["--bootstrap", "60"]


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """trials.txt, scores.txt, table.tsv and two stores over eight speakers."""
    generator = np.random.default_rng(2)
    centres = np.repeat(generator.normal(size=(8, 16)), 4, axis=0)
    vectors = (centres + generator.normal(size=(32, 16))).astype(np.float32)
    pairs = [(a, b) for a in range(32) for b in range(a + 1, 32)]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    trials = [f"{int(a // 4 == b // 4)} {NAMES[a]} {NAMES[b]}\n" for a, b in pairs]
    scores = [f"{unit[a] @ unit[b]:.9f} {NAMES[a]} {NAMES[b]}\n" for a, b in pairs]
    (tmp_path / "trials.txt").write_text("".join(trials))
    (tmp_path / "scores.txt").write_text("".join(scores))
    rows = [f"u{row}\t{name}\t{name[:7]}\t{'a' if row < 16 else 'b'}\n" for row, name in enumerate(NAMES)]
    (tmp_path / "table.tsv").write_text("utt_id\tpath\tspeaker\tcorpus\n" + "".join(rows))
    for name, keys in (("store", ()), ("leaky", (speaker_key("id10003"),))):
        store_of(tmp_path / name, vectors, "ab" * 8, training_speakers=keys)
    return tmp_path


def store_of(folder, vectors, fingerprint, **changes):
    speakers = [name[:7] for name in NAMES]
    return make_store(folder, vectors, None, NAMES, speakers, fingerprint=fingerprint, **{"dims": (4, 16), **changes})


def test_scores_store_and_json_agree(files):
    first = run("--trials", files / "trials.txt", "--scores", files / "scores.txt", "--json", files / "a.json", *FEW)
    second = run(
        "--trials", files / "trials.txt", "--store", files / "store", "--json", files / "b.json", "--dims", "4,16", *FEW
    )
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    for name in ("AUC 0.", "minDCF(0.01) ", "minDCF(0.05) ", "FRR at FAR 10 %: "):
        assert name in first.output
    a, b = (json.loads((files / name).read_text()) for name in ("a.json", "b.json"))
    for key in ("eer", "eer_low", "min_dcf", "n_target", "n_nontarget", "trials_sha256"):
        assert a[key] == pytest.approx(b[key], abs=1e-9) if isinstance(a[key], float) else a[key] == b[key]
    assert (a["n_target"], a["n_nontarget"]) == (48, 448)
    assert [row["dim"] for row in b["results"]] == [4, 16]
    for text in ("48 target and 448 non-target trials", a["trials_sha256"], "Headline: EER", f"{100 * a['eer']:.2f}"):
        assert text in first.output


@pytest.mark.parametrize("source", [("--scores", "scores.txt"), ("--store", "store")])
def test_one_input_has_one_result_whatever_else_is_written(files, source):
    common = ["--trials", files / "trials.txt", source[0], files / source[1], *FEW]
    plain = run(*common, "--json", files / "plain.json")
    beside = run(*common, "--json", files / "beside.json", "--scores-out", files / "out.csv")
    assert (plain.exit_code, beside.exit_code) == (0, 0), plain.output + beside.output
    assert (files / "plain.json").read_text() == (files / "beside.json").read_text()
    assert beside.output.startswith(plain.output[: plain.output.index("JSON:")])
    written = [line.split(",") for line in (files / "out.csv").read_text().splitlines()]
    assert written[0] == ["enrol", "test", "target", "score"]
    given = [line.split() for line in (files / "scores.txt").read_text().splitlines()]
    lines = run(*common, "--scores-out", files / "out.txt", "--eer-at-corner")
    assert "EER as max(FPR, FNR): " in " ".join(lines.output.split()), lines.output
    assert [line.split()[1:] for line in (files / "out.txt").read_text().splitlines()] == [
        row[:2] for row in written[1:]
    ]
    assert [float(row[3]) for row in written[1:]] == pytest.approx([float(row[0]) for row in given], abs=1e-6)


def test_python_and_the_command_give_one_result(files):
    store = EmbeddingStore(files / "store")
    common = ["--trials", files / "trials.txt", "--table", files / "table.tsv", *FEW]
    run(*common, "--store", files / "store", "--condition", "corpus", "--skip-missing", "--json", files / "a.json")
    found = measured(
        store,
        read_trials(files / "trials.txt"),
        table=read_utterances(files / "table.tsv"),
        conditions=["corpus"],
        skip_missing=True,
        settings=Settings(n_bootstrap=60),
    )
    assert json.loads((files / "a.json").read_text()) == json.loads(json.dumps(found.to_dict()))


def other_store(files: Path) -> Path:
    """Another model's embeddings of the same utterances."""
    vectors = np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)
    return store_of(files / "other", vectors, "cd" * 8, model="other").path


def test_conditions_baseline_and_page(files):
    other_store(files)
    result = run(
        *("--trials", files / "trials.txt", "--store", files / "store", "--table", files / "table.tsv"),
        *("--condition", "corpus", "--baseline", f"other={files / 'other'}", "--report", files / "r.html", *FEW),
    )
    assert result.exit_code == 0, result.output
    for text in ("corpus=a", "corpus=b", "corpus=mixed", "not computable", "no target trials"):
        assert text in result.output
    page = (files / "r.html").read_text()
    assert "corpus=mixed" in page
    assert '<td class="sys">other</td>' in page


def test_overlap_is_refused_or_labelled(files):
    arguments = ["--trials", files / "trials.txt", "--store", files / "leaky", "--json", files / "a.json", *FEW]
    refused = run(*arguments)
    assert isinstance(refused.exception, OverlapError)
    assert "id10003" in str(refused.exception)
    assert not (files / "a.json").exists()
    allowed = run(*arguments, "--allow-overlap")
    assert allowed.exit_code == 0
    assert "LEAKY" in allowed.output
    assert json.loads((files / "a.json").read_text())["labels"] == ["leaky"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "exactly one of --scores, --store and --model, got none"),
        (["--scores", "scores.txt", "--store", "store"], "got --scores and --store"),
        (["--model", "ge2e"], "--model needs --table"),
        (["--scores", "scores.txt", "--dims", "16"], "--dims means nothing"),
        (["--scores", "scores.txt", "--baseline", "a=store"], "--baseline means nothing"),
        (["--store", "store", "--dims", "16;32"], "--dims must be"),
        (["--store", "store", "--baseline", "store"], "NAME=STORE"),
        (["--store", "store", "--llr"], "--llr is about --scores"),
        (["--store", "store", "--figure-format", "pdf"], "svg or png, got 'pdf'"),
        (["--store", "store", "--interval", "bca"], "studentised, percentile"),
        (["--store", "store", "--baseline", "same=store"], "same and tiny have the same error rates"),
    ],
)
def test_calls_that_mean_nothing(files, monkeypatch, arguments, words):
    monkeypatch.chdir(files)
    result = run("--trials", "trials.txt", *arguments)
    assert isinstance(result.exception, NestvoxError)
    assert words in str(result.exception)


def test_trials_without_scores_are_listed(files):
    lines = (files / "scores.txt").read_text().splitlines(keepends=True)
    (files / "scores.txt").write_text("".join(lines[3:]))
    result = run("--trials", files / "trials.txt", "--scores", files / "scores.txt")
    assert isinstance(result.exception, ScoresError)
    assert "3 of 496 trials" in str(result.exception)
    assert f"{NAMES[0]} {NAMES[1]}" in str(result.exception)


def test_a_baseline_may_be_another_model(files):
    # Two systems side by side are two models; only one score must never come of two.
    vectors = np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)
    store_of(files / "other", vectors, "cd" * 8, model="other", dims=(16,))
    with pytest.raises(FingerprintError):
        store_of(files / "store", vectors, "cd" * 8)
    result = run(
        *("--trials", files / "trials.txt", "--store", files / "store", "--dims", "16"),
        *("--baseline", f"other={files / 'other'}", *FEW),
    )
    assert result.exit_code == 0, result.output


def test_a_baseline_may_be_embedded_in_the_same_command(tmp_path: Path):
    pytest.importorskip("torch", reason="the extra [torch] is not installed")
    rng = np.random.default_rng(0)
    table, trials = ["utt_id\tpath\tspeaker\tcorpus"], []
    for number in range(8):
        tone = np.sin(2 * np.pi * (150 + 400 * (number // 2)) * np.arange(12_000) / 16_000)
        soundfile.write(tmp_path / f"{number}.wav", 0.2 * tone + 0.01 * rng.standard_normal(12_000), 16_000)
        table.append(f"{number}\t{number}.wav\ts{number // 2}\t{'ab'[number // 4]}")
        trials += [f"{int(number // 2 == other // 2)} {number} {other}\n" for other in range(number)]
    (tmp_path / "table.tsv").write_text("\n".join(table) + "\n")
    (tmp_path / "trials.txt").write_text("".join(trials))
    common = ["--trials", tmp_path / "trials.txt", "--table", tmp_path / "table.tsv", "--condition", "corpus", *FEW]
    encoder = build({"architecture": "log_mel", "n_mels": 20})
    SpeakerModel(encoder, Rotation(np.eye(40)[::-1], (8, 40), "pca"), "own").save(tmp_path / "own")
    done = run(*common, "--model", tmp_path / "own", "--baseline", "log-mel", "--json", tmp_path / "both.json")
    assert done.exit_code == 0, done.output
    alone = run(*common, "--model", "log-mel", "--json", tmp_path / "alone.json")
    assert alone.exit_code == 0, alone.output
    both, single = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("both", "alone"))
    assert both["baselines"]["log-mel"] == single
    assert {row["dim"] for row in single["results"]} == {128}
    assert {row["condition"] for row in single["results"]} >= {"corpus=a", "corpus=b"}
    assert both["baselines"].keys() == {"log-mel"}
    refused = run(*common, "--model", tmp_path / "own", "--baseline", "log-mel", "--baseline", "log-mel")
    assert "given twice" in str(refused.exception)


def nestvox(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from nestvox.cli.main import main; main()", "evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"}, check=False)


def test_published_figures_from_the_command_line(lists_dir: Path, tmp_path: Path):
    trials, scores = lists_dir / "voxsrc2021_val_trials.txt", lists_dir / "voxsrc2021_val_scores.txt"
    done = nestvox(
        "--scores", scores, "--trials", trials, "--json", tmp_path / "out.json", "--report", tmp_path / "o.html"
    )
    assert done.returncode == 0, done.stderr
    assert "EER 5.177 %, minDCF(0.05) 0.2928" in done.stdout
    content = json.loads((tmp_path / "out.json").read_text())
    assert 100 * content["eer"] == pytest.approx(5.1765, abs=5e-5)
    assert content["min_dcf"] == pytest.approx(0.292829, abs=5e-7)
    assert (content["n_target"], content["n_nontarget"]) == (29_969, 30_031)
    assert content["eer_low"] < content["eer"] < content["eer_high"]
    assert "1251 speakers" in content["interval"]


def test_errors_are_one_line_and_exit_code_two(files):
    done = nestvox("--trials", files / "trials.txt", "--scores", files / "nothing.txt")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nothing.txt" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_torch_is_imported(files):
    code = (
        "import sys; from nestvox.cli.evaluate import evaluate; from pathlib import Path\n"
        f"root = Path({str(files)!r})\n"
        "evaluate(trials=root / 'trials.txt', store=root / 'store', table=root / 'table.tsv', n_bootstrap=60, "
        "report=root / 'r.html', csv=root / 'csv', figures=root / 'figures')\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_model_embeds_what_the_trials_name_and_is_measured_like_its_store(files, monkeypatch):
    pytest.importorskip("torch")

    class Model:
        name, fingerprint, dims, training_speakers, chosen_on = "tiny", "ab" * 8, (4, 16), (), ("0" * 64,)

        def check_dim(self, dim, /):
            return dim

    whole = EmbeddingStore(files / "store")
    asked = []

    def load(name, *, weights, offline, **_):
        asked.append((name, weights, offline))
        return Model()

    def embed_table(model, table, out, *, progress):
        ids = table.frame["utt_id"].to_list()
        writer = StoreWriter(
            out, StoreMetadata(model.fingerprint, "tiny", "nested", (4, 16), 16, "float32", len(ids), 8)
        )
        for shard in writer.pending:
            rows = [ids[row] for row in writer.metadata.planned(shard)]
            writer.write_shard(shard, ShardRows(rows, whole.take(whole.index_of(rows))))
        progress(len(ids), len(ids))
        return writer.finish()

    monkeypatch.setattr("nestvox.model.loading.load", load)
    monkeypatch.setattr("nestvox.extraction.embed.embed_table", embed_table)
    common = ["--trials", files / "trials.txt", "--table", files / "table.tsv", *FEW]
    by_model = run(*common, "--model", "tiny", "--offline", "--json", files / "a.json")
    by_store = run(*common, "--store", files / "store", "--json", files / "b.json")
    assert (by_model.exit_code, by_store.exit_code) == (0, 0), by_model.output + by_store.output
    assert asked == [("tiny", None, True)]
    assert json.loads((files / "a.json").read_text()) == json.loads((files / "b.json").read_text())
    # Chosen on these very trials: every number says so.
    Model.chosen_on = (json.loads((files / "a.json").read_text())["trials_sha256"],)
    again = run(*common, "--model", "tiny", "--offline", "--json", files / "c.json", "--report", files / "c.html")
    assert again.exit_code == 0, again.output
    assert "SELECTED" in again.output
    assert "on these very trials" in again.output.replace("\n", " ")
    assert {tuple(row["labels"]) for row in json.loads((files / "c.json").read_text())["results"]} == {("selected",)}
    assert "<strong>SELECTED</strong>" in (files / "c.html").read_text()


def test_every_number_as_csv_and_every_figure(files):
    import polars as pl

    other_store(files)
    result = run(
        *("--trials", files / "trials.txt", "--store", files / "store", "--table", files / "table.tsv"),
        *("--baseline", f"other={files / 'other'}", "--condition", "corpus", "--json", files / "a.json"),
        *("--csv", files / "csv", "--figures", files / "figures", "--figure-format", "png", *FEW),
    )
    assert result.exit_code == 0, result.output
    content = json.loads((files / "a.json").read_text())
    tables = {path.stem: pl.read_csv(path) for path in (files / "csv").iterdir()}
    results = tables["results"].filter(pl.col("system") == "tiny")
    assert [(row["dim"], row["condition"], row["eer"]) for row in content["results"]] == list(
        results.select("dim", "condition", "eer").iter_rows()
    )
    assert results["reason"].to_list() == [row["reason"] for row in content["results"]]
    for name in ("further", "det", "histograms", "calibration", "speakers", "zoo"):
        mine = tables[name].filter(pl.col("system") == "tiny")
        rows = content[name]
        length = {"det": "p_fa", "histograms": "n_target", "calibration": "bin_low"}.get(name)
        assert len(mine) == (sum(len(row[length]) for row in rows) if length else len(rows)), name
    assert set(tables["worst_trials"]["system"]) == {"tiny", "other"}
    assert tables["speakers"]["n_errors"].sum() > 0
    pictures = sorted((path.name for path in (files / "figures").iterdir()), key=lambda name: name.split("."))
    assert pictures == [
        f"{name}.png"
        for name in ("bayes-error", "calibration", "det", "det-systems", "eer-by-dimension", "scores-16", "scores-4")
    ]
    assert all((files / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def test_llrs_are_judged(files):
    lines = (line.split(maxsplit=1) for line in (files / "scores.txt").read_text().splitlines(keepends=True))
    (files / "llr.txt").write_text("".join(f"{10 * float(score) - 3:.6f} {rest}" for score, rest in lines))
    arguments = ["--trials", files / "trials.txt", "--scores", files / "llr.txt", *FEW]
    result = run(*arguments, "--llr", "--json", files / "a.json", "--report", files / "a.html")
    assert result.exit_code == 0, result.output
    (found,) = json.loads((files / "a.json").read_text())["calibration"]
    assert found["cllr"] >= found["min_cllr"]
    again = run(*arguments, "--llr", "--scores-out", files / "out.csv", "--json", files / "b.json")
    assert again.exit_code == 0, again.output
    assert json.loads((files / "b.json").read_text())["calibration"][0]["cllr"] == found["cllr"]
    twice = run(*arguments, "--llr", "--calibration", files / "out.csv")
    assert "calibrated already" in str(twice.exception)
    assert f"Cllr {found['cllr']:.4f} bits" in " ".join((files / "a.html").read_text().split())


def test_one_trial_of_each_kind_has_no_interval_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.txt").write_text("1 id10001/a/1.wav id10001/b/2.wav\n0 id10001/a/1.wav id10002/b/2.wav\n")
    (tmp_path / "s.txt").write_text("0.9 id10001/a/1.wav id10001/b/2.wav\n0.1 id10001/a/1.wav id10002/b/2.wav\n")
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--trials", str(tmp_path / "t.txt"), "--scores", str(tmp_path / "s.txt")])
    text = capsys.readouterr().out
    assert not stopped.value.code
    assert "0.00 [none]" in text
    assert "[0.00, 0.00]" not in text
    assert "an interval cannot be had" in text


def test_every_row_shows_its_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "id1000{}/a/{}.wav".format
    pairs = [(1, name(i % 5, i), name(i % 5, i + 50)) for i in range(20)]
    pairs += [(0, name(i % 5, i), name((i + 1) % 5, i + 90)) for i in range(20)]
    (tmp_path / "t.txt").write_text("".join(f"{label} {a} {b}\n" for label, a, b in pairs))
    # Half a unit between the classes: the threshold lies at 0.25 + 0.5 = 0.75 of this scale.
    (tmp_path / "s.txt").write_text("".join(f"{0.5 + 0.5 * label} {a} {b}\n" for label, a, b in pairs))
    call = ["--trials", tmp_path / "t.txt", "--scores", tmp_path / "s.txt", "--json", tmp_path / "r.json"]
    with pytest.raises(SystemExit):
        main(["evaluate", *map(str, call)])
    text = capsys.readouterr().out
    threshold = json.loads((tmp_path / "r.json").read_text())["results"][0]["eer_threshold"]
    assert 0.5 < threshold <= 1.0
    assert "at threshold" in text
    assert f"{threshold:.4f}" in text


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-300, 4.9e-17, 1e298])
def test_scores_at_the_ends_of_the_numbers_are_measured_like_others(
    scale: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Denormals, scores that differ in their last digits only (around 1), and huge ones: the same rates."""
    name = "id1000{}/a/{}.wav".format
    pairs = [(1, name(i % 5, i), name(i % 5, i + 50)) for i in range(20)]
    pairs += [(0, name(i % 5, i), name((i + 1) % 5, i + 90)) for i in range(20)]
    values = [(7 * i) % 11 + 4 * label for i, (label, _, _) in enumerate(pairs)]
    (tmp_path / "t.txt").write_text("".join(f"{label} {a} {b}\n" for label, a, b in pairs))
    rates = []
    for unit, start in ((1.0, 0.0), (scale, 0.0) if scale != 4.9e-17 else (2.0**-52, 1.0)):
        lines = [f"{start + unit * value!r} {a} {b}\n" for value, (_, a, b) in zip(values, pairs, strict=True)]
        (tmp_path / "s.txt").write_text("".join(lines))
        call = ["--trials", tmp_path / "t.txt", "--scores", tmp_path / "s.txt", "--json", tmp_path / "r.json"]
        with pytest.raises(SystemExit) as stopped:
            main(["evaluate", *map(str, call), "--report", str(tmp_path / "r.html"), "--bootstrap", "40"])
        printed = capsys.readouterr()
        assert not stopped.value.code, printed
        rates.append(json.loads((tmp_path / "r.json").read_text())["eer"])
    assert rates[0] == pytest.approx(rates[1])
