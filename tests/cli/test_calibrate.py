"""`nestvox calibrate`, `nestvox threshold` and `nestvox evaluate` with what they made, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nestvox.cli.main import main
from nestvox.evaluation import calibrate, threshold
from nestvox.metrics import cllr, eer, error_curve
from nestvox.metrics.thresholds import DecisionRule
from nestvox.model.calibration import read_calibration
from nestvox.progress import no_bars
from nestvox.scoring import read_steps
from nestvox.testing import make_store

N_SPEAKERS, TAKES, DIM = 24, 6, 16
FEW = ["--bootstrap", "60"]


def write_store(folder: Path, names: list[str], speakers: list[str], vectors: np.ndarray, fingerprint: str) -> None:
    paths = [f"{name}.wav" for name in names]
    make_store(folder, vectors, names, paths, speakers, fingerprint=fingerprint, dims=(4, DIM))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """dev.txt and test.txt over twelve speakers each, table.tsv, store, a cohort, and scores of both lists."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(4)
    centres = np.repeat(generator.normal(size=(N_SPEAKERS, DIM)), TAKES, axis=0)
    seconds = np.tile([1.0, 1.5, 3.0, 3.0, 6.0, 30.0], N_SPEAKERS)
    vectors = centres + generator.normal(size=centres.shape) * (1.6 / np.sqrt(seconds))[:, None] + 0.2
    names = [f"u{row:03}" for row in range(len(vectors))]
    speakers = [f"s{row // TAKES:02}" for row in range(len(vectors))]
    write_store(tmp_path / "store", names, speakers, vectors, "ab" * 8)
    cohort = generator.normal(size=(30, DIM)) + 0.2
    others = [f"c{row}" for row in range(30)]
    write_store(tmp_path / "cohort", others, others, cohort, "ab" * 8)
    rows = [f"{n}\t{n}.wav\t{s}\t{d}\n" for n, s, d in zip(names, speakers, seconds, strict=True)]
    (tmp_path / "table.tsv").write_text("utt_id\tpath\tspeaker\tduration_s\n" + "".join(rows))
    half = len(names) // 2
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for part, rows_of in (("dev", range(half)), ("test", range(half, len(names)))):
        pairs = [(a, b) for a in rows_of for b in rows_of if a < b]
        (tmp_path / f"{part}.txt").write_text(
            "".join(f"{int(speakers[a] == speakers[b])} {names[a]} {names[b]}\n" for a, b in pairs)
        )
        (tmp_path / f"{part}_scores.txt").write_text(
            "".join(f"{unit[a] @ unit[b]:.9f} {names[a]} {names[b]}\n" for a, b in pairs)
        )
    return tmp_path


def nestvox(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


DEV = ["--trials", "dev.txt", "--store", "store", "--table", "table.tsv"]
TEST = ["--trials", "test.txt", "--store", "store", "--table", "table.tsv", *FEW]


def test_fitted_on_dev_and_measured_on_test(files: Path, capsys) -> None:
    code, text, error = nestvox(capsys, "calibrate", *DEV, "--out", "c.json", "--json", "fit.json")
    assert code == 0, error
    for words in ("Cllr before", "Cllr held out", "LLR = ", "too good", "Written to c.json"):
        assert words in text
    fit = json.loads(Path("fit.json").read_text())
    assert [row["dim"] for row in fit["held_out"]] == [4, 16]

    code, text, error = nestvox(
        capsys, "evaluate", *TEST, "--calibration", "c.json", "--json", "e.json", "--scores-out", "llr.csv"
    )
    assert code == 0, error
    for words in ("calibrated by c.json", "Cllr after", "EER at an LLR of", "The scores are the LLR in nats"):
        assert words in text
    content = json.loads(Path("e.json").read_text())
    frame = pl.read_csv("llr.csv")
    assert frame.columns == ["enrol", "test", "target", "score", "cosine"]
    targets = frame["target"].to_numpy() == 1
    curve = error_curve(frame["score"].to_numpy(), targets)
    assert content["llr_cost_after"][1]["cllr"] == pytest.approx(cllr(curve))
    assert content["llr_cost_before"][1]["cllr"] == pytest.approx(
        cllr(error_curve(frame["cosine"].to_numpy(), targets))
    )
    assert content["llr_cost_after"][1]["cllr"] < content["llr_cost_before"][1]["cllr"]
    assert content["eer"] == pytest.approx(eer(curve).rate)
    assert content["score"].startswith("LLR in nats (calibration ")
    # The score file is one that nestvox reads again.
    code, text, error = nestvox(capsys, "evaluate", "--trials", "test.txt", "--scores", "llr.csv", *FEW)
    assert code == 0, error
    assert f"EER {100 * content['eer']:.3f} %" in text


def test_quality_measures_enter_and_are_asked_for_again(files: Path, capsys) -> None:
    arguments = ["--quality", "duration", "--quality", "norm", "--out", "q.json"]
    code, text, error = nestvox(capsys, "calibrate", *DEV, *arguments)
    assert code == 0, error
    assert "(log duration, mean)" in text
    assert "(log norm, difference)" in text
    code, text, error = nestvox(capsys, "evaluate", *TEST, "--calibration", "q.json")
    assert code == 0, error
    without = [argument for argument in TEST if argument not in ("--table", "table.tsv")]
    code, _, error = nestvox(capsys, "evaluate", *without, "--calibration", "q.json")
    assert code == 2
    assert "needs the utterance table" in error


def test_own_trials_and_speakers_are_refused(files: Path, capsys) -> None:
    assert nestvox(capsys, "calibrate", *DEV, "--out", "c.json")[0] == 0
    same = [argument if argument != "test.txt" else "dev.txt" for argument in TEST]
    code, _, error = nestvox(capsys, "evaluate", *same, "--calibration", "c.json")
    assert code == 2
    assert "these very trials" in error
    lines = Path("dev.txt").read_text().splitlines(keepends=True)
    Path("part.txt").write_text("".join(lines[::2]))
    part = [argument if argument != "test.txt" else "part.txt" for argument in TEST]
    code, _, error = nestvox(capsys, "evaluate", *part, "--calibration", "c.json")
    assert code == 2
    assert "12 of the evaluated speakers served to fit the calibration: s00, s01" in error
    code, text, _ = nestvox(capsys, "evaluate", *part, "--calibration", "c.json", "--allow-overlap")
    assert code == 0
    assert "LEAKY" in text


def test_python_and_the_commands_make_the_same(files: Path, capsys) -> None:
    out = ["--out", "c.json"]
    assert nestvox(capsys, "calibrate", *DEV, *out, "--quality", "duration", "--dims", 4)[0] == 0
    assert nestvox(capsys, "threshold", *DEV, *out, *FEW, "--far", 0.05, "--domain", "phone")[0] == 0
    kept = read_calibration("c.json")
    given = {"table": "table.tsv", "bars": no_bars}
    assert calibrate("store", "dev.txt", dims=[4], quality=["duration"], **given).llr.to_dict() == kept.llr.to_dict()
    made = threshold("store", "dev.txt", DecisionRule("far", 0.05), domain="phone", n_bootstrap=60, **given)
    assert made.thresholds == kept.thresholds
    steps = read_steps(score_norm="s", cohort="cohort")
    assert nestvox(capsys, "calibrate", *DEV, "--out", "n.json", "--score-norm", "s", "--cohort", "cohort")[0] == 0
    assert calibrate("store", "dev.txt", steps=steps, **given).llr.key == read_calibration("n.json").llr.key


def test_scores_of_a_file_and_a_file_of_their_own(files: Path, capsys) -> None:
    table = ["--table", "table.tsv"]
    arguments = ["--trials", "dev.txt", "--scores", "dev_scores.txt", *table, "--out", "s.json"]
    assert nestvox(capsys, "calibrate", *arguments)[0] == 0
    assert nestvox(capsys, "threshold", *arguments, *FEW, "--far", 0.05)[0] == 0
    kept = read_calibration("s.json")
    assert kept.llr is not None
    assert (list(kept.llr.maps), [t.dim for t in kept.thresholds]) == ([None], [None])
    code, text, error = nestvox(
        capsys,
        *("evaluate", "--trials", "test.txt", "--scores", "test_scores.txt", *table, *FEW),
        *("--thresholds", "s.json"),
    )
    assert code == 0, error
    assert "stored thresholds on these trials" in text
    assert "SELECTED" not in text
    code, text, _ = nestvox(
        capsys,
        *("evaluate", "--trials", "dev.txt", "--scores", "dev_scores.txt", *table, *FEW),
        *("--thresholds", "s.json", "--json", "own.json"),
    )
    assert code == 0
    assert "stored thresholds on these trials SELECTED" in text
    assert [use["labels"] for use in json.loads(Path("own.json").read_text())["thresholds"]] == [["selected"]]
    assert nestvox(capsys, "calibrate", *arguments)[0] == 0
    assert len(read_calibration("s.json").thresholds) == 1  # kept beside the map that is fitted anew
    code, text, error = nestvox(
        capsys,
        *("evaluate", "--trials", "test.txt", "--scores", "test_scores.txt", *table, *FEW),
        *("--calibration", "s.json"),
    )
    assert code == 0, error


@pytest.mark.parametrize("method", ["z", "t", "s", "as"])
def test_score_norm(files: Path, capsys, method: str) -> None:
    norm = ["--score-norm", method, "--cohort", "cohort", *(["--top-k", 10] if method == "as" else [])]
    code, text, error = nestvox(capsys, "evaluate", *TEST, *norm, "--json", "n.json")
    assert code == 0, error
    assert f"normalised cosine ({method}-norm" in text
    plain = nestvox(capsys, "evaluate", *TEST, "--json", "p.json")
    assert plain[0] == 0
    a, b = (json.loads(Path(name).read_text()) for name in ("n.json", "p.json"))
    assert a["trials_sha256"] == b["trials_sha256"]
    assert a["eer_threshold"] != b["eer_threshold"]
    assert 0 < a["eer"] < 0.3


def test_a_normalised_score_has_its_own_calibration_and_threshold(files: Path, capsys) -> None:
    norm = ["--score-norm", "as", "--cohort", "cohort", "--top-k", 10]
    assert nestvox(capsys, "calibrate", *DEV, *norm, "--out", "n.json")[0] == 0
    assert nestvox(capsys, "threshold", *DEV, *norm, *FEW, "--eer", "--out", "n.json")[0] == 0
    code, _, error = nestvox(capsys, "evaluate", *TEST, *norm, "--calibration", "n.json")
    assert code == 0, error
    code, _, error = nestvox(capsys, "evaluate", *TEST, *norm, "--thresholds", "n.json")
    assert code == 0, error
    for arguments, words in (
        (["--calibration", "n.json"], "fitted on the normalised cosine"),
        (["--thresholds", "n.json"], "splits a normalised cosine"),
        ([*norm[:-1], 11, "--thresholds", "n.json"], "splits a normalised cosine (as-norm, top 10"),
    ):
        code, _, error = nestvox(capsys, "evaluate", *TEST, *arguments)
        assert code == 2
        assert words in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["calibrate", *DEV], "give --out FILE, or a model folder"),
        (["calibrate", "--trials", "dev.txt", "--out", "c.json"], "give --scores, --store, or --model"),
        (
            ["calibrate", "--trials", "dev.txt", "--scores", "dev_scores.txt", "--store", "store", "--out", "c"],
            "already",
        ),
        (["calibrate", *DEV, "--out", "c.json", "--cohort", "cohort"], "--cohort means nothing without --score-norm"),
        (["calibrate", *DEV, "--out", "c.json", "--score-norm", "s"], "needs --cohort"),
        (["calibrate", *DEV, "--out", "c.json", "--score-norm", "x", "--cohort", "cohort"], "expected z, t, s, as"),
        (["calibrate", *DEV, "--out", "c.json", "--quality", "age"], "no column 'age'"),
        (
            ["evaluate", *TEST, "--score-norm", "s", "--cohort", "store"],
            "12 speakers of the trials stand in the cohort",
        ),
        (["evaluate", *TEST, "--calibration", "none.json"], "none.json: not there"),
        (["evaluate", *TEST, "--scores-out", "s.tsv"], ".csv, .parquet or .txt"),
        (["threshold", *DEV, "--out", "t.json"], "exactly one operating point"),
        (["threshold", *DEV, "--out", "t.json", "--far", 0.01, "--eer"], "--far and --eer"),
        (["threshold", *DEV, "--out", "t.json", "--c-miss", 2], "costs need --p-target"),
        (["threshold", *DEV, "--out", "t.json", "--far", 0.0001], "cannot be said from 2376 non-target trials"),
        (
            ["threshold", *DEV, "--out", "t.json", "--eer", "--duration-edges", "4,x"],
            "--duration-edges must be seconds",
        ),
        (["threshold", *DEV, "--out", "t.json", "--eer", "--calibration", "dev.txt"], "not JSON"),
    ],
)
def test_calls_that_mean_nothing(files: Path, capsys, arguments: list[object], words: str) -> None:
    code, text, error = nestvox(capsys, *arguments)
    assert code == 2
    assert words in error.replace("2,376", "2376")
    assert "Traceback" not in text + error
    assert not list(files.glob("[ct].json"))


def test_a_threshold_by_duration_and_what_it_does_elsewhere(files: Path, capsys) -> None:
    code, text, error = nestvox(
        capsys,
        *("threshold", *DEV, *FEW, "--far", 0.05, "--by-duration", "--domain", "phone"),
        *("--out", "t.json", "--json", "set.json"),
    )
    assert code == 0, error
    assert "far 0.05 for phone, cosine" in text
    assert "not set: 16 dimensions, recordings of 16 s and more" in text
    stored = read_calibration("t.json").thresholds
    assert {str(t.duration_class) for t in stored} == {"None", "0 to 2 s", "2 to 4 s", "4 to 8 s"}
    short, middle = (
        next(t.value for t in stored if t.dim == 16 and str(t.duration_class) == name)
        for name in ("0 to 2 s", "4 to 8 s")
    )
    assert short != middle
    content = json.loads(Path("set.json").read_text())
    assert len(content["thresholds"]) == len(stored)
    assert all(row["p_fa"] <= 0.05 for row in content["thresholds"])

    code, text, error = nestvox(capsys, "evaluate", *TEST, "--thresholds", "t.json", "--json", "e.json")
    assert code == 0, error
    uses = json.loads(Path("e.json").read_text())["thresholds"]
    assert len(uses) == len(stored)
    by_hand = pl.read_csv("test_scores.txt", separator=" ", has_header=False, new_columns=["score", "enrol", "test"])
    labels = np.array([line.startswith("1") for line in Path("test.txt").read_text().splitlines()])
    whole = next(u for u in uses if u["threshold"]["dim"] == 16 and u["threshold"].get("duration_class") is None)
    accepted = by_hand["score"].to_numpy() >= whole["threshold"]["value"]
    assert whole["p_fa"] == accepted[~labels].mean()
    assert whole["p_miss"] == (~accepted[labels]).mean()


def test_a_threshold_on_calibrated_scores(files: Path, capsys) -> None:
    assert nestvox(capsys, "calibrate", *DEV, "--out", "c.json")[0] == 0
    # On other speakers than the calibration's; on its own it is refused.
    own = nestvox(capsys, "threshold", *DEV, *FEW, "--eer", "--calibration", "c.json", "--out", "c.json")
    assert own[0] == 2
    assert "these very trials" in own[2]
    others = [argument if argument != "dev.txt" else "test.txt" for argument in DEV]
    arguments = ["threshold", *others, *FEW, "--p-target", 0.3, "--calibration", "c.json", "--out", "c.json"]
    code, text, error = nestvox(capsys, *arguments)
    assert code == 0, error
    assert "LLR in nats" in text
    kept = read_calibration("c.json")
    assert kept.llr is not None
    assert {t.space for t in kept.thresholds} == {kept.llr.llr_space}
    # Near the threshold that follows from the prior, as calibrated scores should have it.
    at_16 = next(t.value for t in kept.thresholds if t.dim == 16)
    assert abs(at_16 - np.log(0.7 / 0.3)) < 2
