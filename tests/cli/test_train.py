"""`nestvox train` as it is typed."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
import yaml

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch

import nestvox
from nestvox.cli.main import main
from nestvox.corpora.trials import Trials, read_trials, write_trials
from nestvox.corpora.utterances import UtteranceTable, read_utterances, write_utterances
from nestvox.encoders.redimnet.redimnet import ReDimNet
from nestvox.metrics.curves import error_curve
from nestvox.metrics.rates import eer
from nestvox.model.speaker_model import SpeakerModel
from nestvox.mrl import load_trained_mrl
from nestvox.training.recipe.recipe import load_recipe, shipped_recipes

TINY = {
    "F": 24,
    "C": 4,
    "block_1d_type": "fc",
    "block_2d_type": "convnext_like",
    "stages_setup": [[1, 1, 1, [[3, 3]], 2], [2, 1, 2, [[3, 3]], None]],
    "group_divisor": 2,
    "embed_dim": 24,
}
RATE = 16_000


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine threads wait for each other for minutes, and small networks gain nothing from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen speakers, twelve of them for training, three clips each, and a model folder."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(4)
    rows = []
    for speaker in range(18):
        for take in range(3):
            samples = 0.05 * draw.standard_normal(RATE // 2)
            samples *= np.sin(2 * np.pi * (100 + 30 * speaker) * np.arange(len(samples)) / RATE)
            name = f"s{speaker}-{take}.wav"
            soundfile.write(folder / name, samples, RATE)
            split = "train" if speaker < 12 else "dev"
            rows.append({"utt_id": name, "path": name, "speaker": f"s{speaker}", "split": split})
    write_utterances(UtteranceTable(pl.DataFrame(rows), "table", folder), folder / "utterances.tsv")
    dev = [(row["speaker"], row["utt_id"]) for row in rows if row["split"] == "dev"]
    pairs = [(a, b, x == y) for k, (x, a) in enumerate(dev) for y, b in dev[k + 1 :]]
    schema = {"enrol": pl.String, "test": pl.String, "target": pl.Boolean}
    write_trials(Trials(pl.DataFrame(pairs, schema, orient="row"), "dev"), folder / "trials.txt", "voxceleb")
    torch.manual_seed(0)
    SpeakerModel(ReDimNet(**TINY).eval(), name="tiny").save(folder / "tiny")
    recipe = {
        "kind": "linear",
        "start": "tiny",
        "data": {"table": "utterances.tsv", "dev_trials": "trials.txt", "variants": 2, "test": {}},
        "head": {"dims": [8, 24], "start": "pretrained"},
        "training": {"epochs": 2, "batch_size": 12},
        "run": {"device": "cpu"},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return int(caught.value.code or 0), shown.out, shown.err


def test_from_a_table_to_a_model(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    code, shown, err = run(capsys, "train", corpus / "mine.yaml", "--out", out, "--set", "training.epochs=3")
    assert code == 0, err
    assert "of 3 epochs" in shown
    # 6 development speakers with 3 clips each.
    assert "18 target and 135 non-target trials" in shown
    assert f"model: {out / 'model'}" in shown
    model = nestvox.load(out / "model")
    assert model.dims == (8, 24)
    assert (out / "cache" / "train" / "store.json").is_file()
    assert load_recipe(out / "recipe.yaml").training.epochs == 3
    rates = json.loads((out / "result.json").read_text())["development"]["eer"]
    table = [line.split() for line in shown.splitlines() if re.match(r"\s+(8|24)\s", line)]
    assert [float(line[3]) for line in table] == [round(100 * rate["best"], 2) for rate in rates]
    assert {threshold.dim for threshold in model.thresholds} | {
        dim for dim in (8, 24) if f"no threshold of {dim} dimensions" in (out / "result.json").read_text()
    } == {8, 24}
    assert all(threshold.fingerprint == model.fingerprint for threshold in model.thresholds)


def test_again_only_with_resume(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["train", corpus / "mine.yaml", "--out", tmp_path / "run", "--set", "training.epochs=1"]
    code, _, err = run(capsys, *call, "--resume")
    assert code == 0, err
    weights = tmp_path / "run" / "model" / "model.safetensors"
    before = weights.read_bytes()
    code, _, err = run(capsys, *call)
    assert code == 2
    assert "holds a run; --resume goes on with it" in err
    assert run(capsys, *call, "--resume")[0] == 0
    assert weights.read_bytes() == before
    # The features of the development utterances are in the run's folder too; it is the trials that are others.
    trials = (corpus / "trials.txt").read_text()
    try:
        (corpus / "trials.txt").write_text("\n".join(trials.splitlines()[:40]) + "\n")
        code, _, err = run(capsys, *call, "--resume")
    finally:
        (corpus / "trials.txt").write_text(trials)
    assert code == 2
    assert re.search(r"another data\.dev_trials: there .*\(153 trials, \w+\), now .*\(40 trials, \w+\)", err)


def test_two_epochs_of_one_run_are_compared(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    settings = {"training.epochs": "5", "run.save_interval": "2", "training.learning_rate": "0.05"}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    code, _, err = run(capsys, "train", corpus / "mine.yaml", "--out", out, *words)
    assert code == 0, err
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["epoch_2", "epoch_4", "latest"]
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = {line["epoch"]: line["dev_eer"] for line in log if "dev_eer" in line}
    table, trials = read_utterances(corpus / "utterances.tsv"), read_trials(corpus / "trials.txt")
    files = dict(zip(table.frame["utt_id"], table.audio_paths, strict=True))
    for epoch in (2, 4):
        model = nestvox.load(out / "checkpoints" / f"epoch_{epoch}")
        assert model.name == f"tiny-linear-epoch-{epoch}"
        vectors = {name: model.embed(files[name], dim=8) for name in {*trials.frame["enrol"], *trials.frame["test"]}}
        pairs = zip(trials.frame["enrol"], trials.frame["test"], strict=True)
        scores = np.array([float(np.dot(vectors[a], vectors[b])) for a, b in pairs])
        # The head learned on half precision; a trial in 153 may change sides.
        found = eer(error_curve(scores, trials.frame["target"].to_numpy())).rate
        assert found == pytest.approx(rates[epoch]["8"], abs=0.03)
        assert load_trained_mrl(out / "checkpoints" / f"epoch_{epoch}").mrl_dims == (8, 24)
    latest, last = (nestvox.load(out / "checkpoints" / name) for name in ("latest", "epoch_4"))
    assert latest.fingerprint == last.fingerprint
    assert last.fingerprint != nestvox.load(out / "checkpoints" / "epoch_2").fingerprint
    # On speakers of whom the run knows nothing.
    draw = np.random.default_rng(9)
    with (tmp_path / "new.tsv").open("w") as file:
        print("utt_id", "path", "speaker", sep="\t", file=file)
        for speaker, take in itertools.product(range(4), range(3)):
            soundfile.write(tmp_path / f"n{speaker}-{take}.wav", 0.05 * draw.standard_normal(RATE // 2), RATE)
            print(f"n{speaker}-{take}", f"n{speaker}-{take}.wav", f"n{speaker}", sep="\t", file=file)
    names = [f"n{speaker}-{take}" for speaker in range(4) for take in range(3)]
    pairs_of = itertools.combinations(names, 2)
    (tmp_path / "new.txt").write_text("".join(f"{int(a[:2] == b[:2])} {a} {b}\n" for a, b in pairs_of))
    code, shown, err = run(
        capsys,
        "compare",
        *(out / "checkpoints" / name for name in ("epoch_2", "epoch_4")),
        *("--trials", tmp_path / "new.txt", "--table", tmp_path / "new.tsv", "--bootstrap", "50"),
    )
    assert code == 0, err
    assert "epoch_2" in shown
    assert "epoch_4" in shown


def test_the_newest_epochs_are_kept(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    call = ["train", corpus / "mine.yaml", "--out", out, "--set", "training.epochs=4", "--set", "run.save_interval=1"]
    assert run(capsys, *call, "--set", "run.keep_last_n=2")[0] == 0
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["epoch_3", "epoch_4", "latest"]
    code, _, err = run(capsys, "train", corpus / "mine.yaml", "--out", tmp_path / "b", "--set", "run.keep_last_n=2")
    assert code == 2
    assert "run.keep_last_n means nothing here: run.save_interval is not set" in err


def test_a_run_can_be_watched(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    code, shown, err = run(
        capsys, "train", corpus / "mine.yaml", "--out", out, "--set", "training.balanced={speakers: 12, utterances: 4}"
    )
    assert code == 0
    lines = err.splitlines()
    assert lines[0].startswith("warning: training.balanced: 12 of 12 speakers have fewer than 4 utterances")
    told = [line for line in lines if line.startswith(("start", "epoch"))]
    assert [line.partition(";")[0] for line in told] == ["start", "epoch 1 of 2", "epoch 2 of 2"]
    assert "saw all 36 utterances, all 12 speakers" in told[-1]
    assert f"page: {out / 'training.html'}" in shown
    page = (out / "training.html").read_text()
    assert page.count("<svg") == 2
    assert "12 of 12 speakers have fewer than 4 utterances" in page
    kept = json.loads((out / "result.json").read_text())["kept"]
    assert f"kept: {kept}" in shown
    assert kept.partition(":")[0] in ("the starting point, of 2 epochs", "epoch 1 of 2 epochs", "epoch 2 of 2 epochs")


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, _ = run(capsys, "train", "--list")
    assert code == 0
    assert [line.split()[0] for line in shown.splitlines()] == list(shipped_recipes())
    code, shown, _ = run(capsys, "train", "linear", "--show", "--set", "training.epochs=7")
    assert code == 0
    settings = yaml.safe_load(shown)
    assert settings["training"]["epochs"] == 7
    assert settings["run"]["device"] == "auto"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train"], "give a recipe: a name of `nestvox train --list`"),
        (["train", "linear"], "--out is missing"),
        (["train", "liner", "--out", "run"], "did you mean linear?"),
        (["train", "linear", "--out", "run", "--set", "training.epoch=3"], "nearest known one is training.epochs"),
        (["train", "linear", "--out", "run"], "start is missing"),
        (["train", "linear", "--out", "run", "--set", "start=nothing"], "nothing"),
    ],
)
def test_what_is_refused_costs_one_line_and_no_folder(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = run(capsys, *arguments)
    assert code == 2
    assert error.startswith("error: ")
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_distil_is_train_for_recipes_of_its_kind_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, _ = run(capsys, "distil", "--list")
    assert code == 0
    assert {line.split()[0] for line in shown.splitlines()} >= {"v1_mse", "real_mixing", "no_kd"}
    assert not {line.split()[0] for line in shown.splitlines()} & {"linear", "scratch", "unfreeze"}
    both = [run(capsys, name, "v1_mse", "--show") for name in ("distil", "train")]
    assert both[0] == both[1]
    assert both[0][0] == 0
    code, _, error = run(capsys, "distil", "linear", "--show")
    assert code == 2
    assert "linear is of kind linear, and no distillation; `nestvox train` runs every kind" in " ".join(error.split())
