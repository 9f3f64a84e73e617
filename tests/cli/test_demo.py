"""`nestvox demo` on a corpus of harmonic tones: everything that it promises is there, and it reuses what it finds."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch

import nestvox
from nestvox.cli.main import main
from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.trials import read_trials
from nestvox.encoders.registry import build
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.model.speaker_model import SpeakerModel

RATE, TAKES, SIZE = 16_000, 4, 64
SPEAKERS = {"train": range(8), "dev": range(8, 13), "test": range(13, 18)}


def tone(speaker: int, take: int) -> np.ndarray:
    """A 'voice' of its own pitch and timbre, each take a little off; 1.7 s."""
    voice, moment = np.random.default_rng(speaker), np.random.default_rng(1000 + 10 * speaker + take)
    pitch_hz = 90 * 2 ** (voice.uniform(0, 1.5) + 0.02 * moment.standard_normal())
    levels = voice.uniform(0, 1, 12) ** 2
    t = np.arange(round(1.7 * RATE)) / RATE
    wave = sum(level * np.sin(2 * np.pi * pitch_hz * (k + 1) * t) for k, level in enumerate(levels))
    wave = wave / np.abs(wave).max() + 0.05 * moment.standard_normal(len(t))
    return 0.3 * wave


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    lines = ["utt_id\tpath\tspeaker\tsplit\tsex\tsynthetic"]
    for split, speakers in SPEAKERS.items():
        names = []
        for speaker in speakers:
            for take in range(TAKES):
                name = f"s{speaker}-{take}"
                soundfile.write(folder / f"{name}.wav", tone(speaker, take), RATE)
                lines.append(f"{name}\t{name}.wav\ts{speaker}\t{split}\t{'mf'[speaker % 2]}\ttrue")
                names.append((speaker, name))
        if split != "train":
            pairs = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
            text = "".join(f"{int(a[0] == b[0])} {a[1]} {b[1]}\n" for a, b in pairs)
            (folder / f"trials_{split}.txt").write_text(text)
    (folder / "utterances.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("encoder") / "model"
    torch.manual_seed(2)
    network = build({"architecture": "mixer", "width": 16, "depth": 1, "embedding_dim": SIZE}).eval()
    SpeakerModel(network, name="tiny", card={"licence": "MIT"}).save(folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def demo(capsys: pytest.CaptureFixture[str], data: Path, encoder: Path, out: Path, *more: object):
    options = ["--data", data, "--model", encoder, "--out", out, "--bootstrap", 40, "--offline"]
    return run(capsys, "demo", *options, *more)


def test_from_speech_to_two_files_verified(  # noqa: PLR0915  one run of the demo is looked at from all sides
    tmp_path: Path, data: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, text, error = demo(capsys, data, encoder, out)
    assert code == 0, error
    assert "72 utterances, " in text
    assert re.search(r"train +8 speakers +32 utterances", text)
    assert "SYNTHETIC" in text
    assert "report   " in text

    # The model is whole, and knows whom it must not be measured on.
    model = nestvox.load(out / "model")
    assert model.name == "tiny-nested"
    fitted = {speaker_key(f"s{speaker}") for split in ("train", "dev") for speaker in SPEAKERS[split]}
    assert set(model.training_speakers) == fitted
    assert {t.labels for t in model.thresholds} == {("synthetic",)}
    assert {t.operating_point for t in model.thresholds if t.default} == {"eer"}
    assert {t.fingerprint for t in model.thresholds} == {model.fingerprint}
    before, after = nestvox.load(encoder).encoder.state_dict(), model.encoder.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)

    # The results are of the test trials, every row labelled, and the full dimension is where its mean puts it.
    trials = read_trials(data / "trials_test.txt")
    found = {path.stem: json.loads(path.read_text()) for path in (out / "results").glob("*.json")}
    kept = model.head.method
    assert set(found) == {"nested", "truncation", "centred", "pca", "discriminant", "refined"} - {kept}
    for result in found.values():
        assert result["trials_sha256"] == trials.sha256
        assert (result["n_target"], result["n_nontarget"]) == (trials.n_target, trials.n_nontarget)
        assert result["labels"] == ["synthetic"]
    full = {name: next(r for r in result["results"] if r["dim"] == SIZE) for name, result in found.items()}
    # Scores agree within 1e-6; an error rate of so few trials can move by one of them.
    first = model.head.details.get("centred_from")
    assert (first is None) == ("no mean" in text)
    if first in (None, 0):
        same = full["truncation" if first is None else "centred"]["eer"]
        assert full["nested"]["eer"] == pytest.approx(same, abs=1 / trials.n_target)
    front = yaml.safe_load((out / "model" / "README.md").read_text().split("---\n")[1])
    rows = front["model-index"][0]["results"]
    assert len(rows) == len(model.dims)
    assert all("synthetic" in row["dataset"]["name"] for row in rows)
    assert "synthetic" in (out / "results" / "table.md").read_text()
    assert "<html" in (out / "report.html").read_text()

    # The commands that it prints can be typed.
    commands = re.findall(r"nestvox (verify .+)", text)
    answers = re.findall(r"(same speaker|different speakers) \(truth: (same|different)\): score ([+-][\d.]+)", text)
    assert [truth for _, truth, _ in answers] == ["same", "different"]
    assert len(commands) == 2
    for command, (verdict, _, score) in zip(commands, answers, strict=True):
        code, said, _ = run(capsys, *command.split())
        assert code == (0 if verdict == "same speaker" else 1)
        assert said.startswith(verdict)
        assert f"{score} cosine" in said

    # Again: nothing is embedded, and everything comes out the same.
    stamps = {file: file.stat().st_mtime_ns for file in (out / "store").iterdir()}
    weights = (out / "model" / "model.safetensors").read_bytes()
    code, again, _ = demo(capsys, data, encoder, out)
    assert code == 0
    assert "reused 72 embeddings" in again
    assert {file: file.stat().st_mtime_ns for file in (out / "store").iterdir()} == stamps
    assert (out / "model" / "model.safetensors").read_bytes() == weights
    assert len(EmbeddingStore(out / "store")) == 72


def test_a_split_is_missing(tmp_path: Path, data: Path, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = (data / "utterances.tsv").read_text()
    folder = tmp_path / "data"
    folder.mkdir()
    faults = {
        "no table": None,
        "no column": "\n".join(line.replace("\tsplit", "\tpart") for line in table.splitlines()) + "\n",
        "no dev": table.replace("\tdev\t", "\ttrain\t"),
        "no audio": table,
    }
    for name, content in faults.items():
        if content is not None:
            (folder / "utterances.tsv").write_text(content)
        code, text, error = demo(capsys, folder, encoder, tmp_path / "out")
        assert code == 2, name
        assert error.startswith("error: "), name
        assert "Traceback" not in text + error
        assert not (tmp_path / "out" / "model").exists()
    assert "s0-0.wav: no such file" in error


def test_model_with_a_head_is_refused_before_anything_is_embedded(
    tmp_path: Path, data: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nestvox.heads.rotation import truncation

    SpeakerModel(nestvox.load(encoder).encoder, truncation(SIZE), "done").save(tmp_path / "nested")
    for given in (data, None):  # nor downloaded
        code, _, error = demo(capsys, given, tmp_path / "nested", tmp_path / "out")
        assert code == 2
        assert "has a head already" in error
        assert not (tmp_path / "out").exists()


def test_a_plain_tree_of_speaker_folders_is_enough(
    tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for speaker in range(10):
        (tmp_path / f"voices/[{speaker}] it's").mkdir(parents=True)  # markup, patterns and quotes are names like others
        for take in range(3):
            soundfile.write(tmp_path / f"voices/[{speaker}] it's/{take}.wav", tone(speaker, take), RATE)
    (tmp_path / "voices/[0] it's/empty.wav").touch()
    (tmp_path / "voices/[0] it's/no audio.wav").write_text("words")
    options = ["--model", encoder, "--bootstrap", 40, "--offline"]
    code, text, error = run(capsys, "demo", "--data", "voices", *options)
    assert code == 0, error
    assert re.search(r"train +6 speakers +18 utterances", text)
    assert len(re.findall(r"^skipped \[0\] it's/", text, flags=re.MULTILINE)) == 2
    # The commands that it prints can be typed; of six pairs of one speaker nobody sets a threshold.
    for command in re.findall(r"nestvox (verify .+)", text):
        assert ".." not in command
        assert run(capsys, *shlex.split(command))[0] == 3
    # Two speakers with three recordings each: 3 + 3 pairs of one speaker, 3 * 3 of two.
    (result,) = json.loads((tmp_path / "demo-output/results/truncation.json").read_text())["results"][:1]
    assert (result["n_target"], result["n_nontarget"]) == (6, 9)
    # Another folder in the same place goes beside it, and the first one goes on where it was.
    (tmp_path / "voices").rename(tmp_path / "others")
    assert run(capsys, "demo", "--data", "others", *options)[0] == 0
    assert (tmp_path / "demo-output-others-model/model/config.json").is_file()
    code, _, error = run(capsys, "demo", "--data", "others", "--out", "demo-output", *options)
    assert code == 2
    assert "demo-output holds a demo of other data" in " ".join(error.split())


def test_too_few_speakers_are_told(tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for speaker in range(3):
        (tmp_path / f"voices/{speaker}").mkdir(parents=True)
        for take in range(2):
            soundfile.write(tmp_path / f"voices/{speaker}/{take}.wav", tone(speaker, take), RATE)
    code, _, error = demo(capsys, tmp_path / "voices", encoder, tmp_path / "out")
    assert code == 2
    assert "3 speakers have two recordings or more; 6 are needed" in " ".join(error.split())
    assert not (tmp_path / "out").exists(), "what is refused leaves nothing"


def test_it_embeds_what_is_trained_on_and_what_a_trial_names(
    tmp_path: Path, data: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    for file in data.iterdir():
        (folder / file.name).symlink_to(file)
    table = (data / "utterances.tsv").read_text()
    (folder / "utterances.tsv").unlink()
    more = [("unnamed", "test"), ("spare", "other")]
    rows = "".join(f"{name}\ts0-0.wav\t{name}\t{split}\tm\ttrue\n" for name, split in more)
    (folder / "utterances.tsv").write_text(table + rows)
    code, text, error = demo(capsys, folder, encoder, tmp_path / "out")
    assert code == 0, error
    assert "2 of them are neither for training nor in a trial, and are not embedded" in text
    held = set(EmbeddingStore(tmp_path / "out" / "store").utt_ids)
    assert held == {f"s{speaker}-{take}" for part in SPEAKERS.values() for speaker in part for take in range(TAKES)}
