"""Augmented copies of a table: what is in them, what the table says, what numbers measured on them carry."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
from typer.testing import CliRunner

from nestvox.audio.augment import Augmentation, Banks
from nestvox.audio.banks import NoiseBank
from nestvox.audio.errors import AugmentationError
from nestvox.audio.read import read
from nestvox.cli.data import app
from nestvox.corpora.augmented import write_augmented
from nestvox.corpora.trials import Trials, read_trials
from nestvox.corpora.utterances import UtteranceTable, read_utterances, write_utterances
from nestvox.errors import AudioError, TableError
from nestvox.scoring.conditions import marks_of

RATE = 16_000
QUIET = {"p_reverb": 0, "p_noise": 0, "p_gain": 0, "p_clip": 0, "p_channel": 0}
ONLY_NOISE = Augmentation(**{**QUIET, "p_noise": 1, "kinds": {"noise": 1}, "snr_noise_db": (7, 7)})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers of two stretches of one file each, as loud as speech, and a folder of noise with splits."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows = []
    for speaker in range(4):
        tone = 0.1 * np.sin(2 * np.pi * (150 + 40 * speaker) * np.arange(4 * RATE) / RATE)
        soundfile.write(folder / f"s{speaker}.wav", tone, RATE, subtype="FLOAT")
        rows += [(f"s{speaker}-{part}", f"s{speaker}.wav", f"s{speaker}", 2.0 * part, 1.5, "test") for part in range(2)]
    columns = ["utt_id", "path", "speaker", "start_s", "duration_s", "split"]
    table = UtteranceTable(pl.DataFrame(rows, schema=columns, orient="row"), "corpus", folder)
    write_utterances(table, folder / "utterances.tsv")
    (folder / "noise").mkdir()
    for split, level in (("train", 0.5), ("test", 0.05)):
        soundfile.write(folder / "noise" / f"{split}.wav", level * rng.standard_normal(6 * RATE), RATE, subtype="FLOAT")
    (folder / "noise" / "noise.tsv").write_text(
        "path\tcategory\tsplit\ntrain.wav\tstreet\ttrain\ntest.wav\tstreet\ttest\n", encoding="utf-8"
    )
    return folder


def _write(corpus: Path, out: Path, **changes: object) -> UtteranceTable:
    banks = Banks(NoiseBank.from_folder(corpus / "noise", split="test"))
    settings = {"augmentation": ONLY_NOISE, "banks": banks, **changes}
    return write_augmented(read_utterances(corpus / "utterances.tsv"), out, **settings)  # type: ignore[arg-type]


def test_copies_hold_the_utterance_and_noise_at_the_ratio_that_the_table_says(corpus: Path, tmp_path: Path) -> None:
    written = _write(corpus, tmp_path / "noisy")
    assert written.frame["utt_id"].to_list() == read_utterances(corpus / "utterances.tsv").frame["utt_id"].to_list()
    assert written.frame["snr_db"].to_list() == [7.0] * 8
    for row in range(8):
        clean, _ = read(corpus / f"s{row // 2}.wav", start_s=2.0 * (row % 2), duration_s=1.5)
        noisy, _ = read(written.audio_path(row))
        assert len(noisy) == len(clean) == 1.5 * RATE
        ratio = 10 * np.log10(0.1**2 / 2 / np.mean((noisy - clean) ** 2))  # a tone of amplitude 0.1 throughout
        assert ratio == pytest.approx(7, abs=0.05)  # 16 bits and a peak that may be turned down


def test_table_tells_what_was_done_and_labels_every_number(corpus: Path, tmp_path: Path) -> None:
    _write(corpus, tmp_path / "noisy")
    table = read_utterances(tmp_path / "noisy" / "utterances.tsv")
    assert table.frame.columns == [
        *("utt_id", "path", "speaker", "split", "duration_s", "noise", "snr_db", "reverb", "codec", "augmented")
    ]
    assert set(table.frame["noise"]) == {"noise"}
    assert table.labels == ("augmented",)
    trials = Trials(pl.DataFrame({"enrol": ["s0-0"], "test": ["s0-1"], "target": [True]}), "list")
    assert marks_of(trials, table) == ("augmented",)
    assert marks_of(trials, read_utterances(corpus / "utterances.tsv")) == ()


def test_same_call_goes_on_with_the_same_bytes_whatever_the_workers(corpus: Path, tmp_path: Path) -> None:
    _write(corpus, tmp_path / "one", workers=1)
    _write(corpus, tmp_path / "three", workers=3)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 10
    broken = tmp_path / "three" / "audio" / "00000003.flac"
    broken.unlink()
    kept = (tmp_path / "three" / "audio" / "00000002.flac").stat().st_mtime_ns
    _write(corpus, tmp_path / "three")
    assert (tmp_path / "three" / "audio" / "00000002.flac").stat().st_mtime_ns == kept
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes(), name


def test_another_seed_table_or_folder_in_use_is_refused(corpus: Path, tmp_path: Path) -> None:
    _write(corpus, tmp_path / "noisy")
    with pytest.raises(TableError, match=r"begun with other settings \(seed 0 there, 1 now\)"):
        _write(corpus, tmp_path / "noisy", seed=1)
    moved = (corpus / "utterances.tsv").read_text(encoding="utf-8").replace("\t2.0\t", "\t1.5\t")
    (corpus / "moved.tsv").write_text(moved, encoding="utf-8")
    banks = Banks(NoiseBank.from_folder(corpus / "noise", split="test"))
    with pytest.raises(TableError, match=r"\(the rows of the table \(sha256 \w{12} there, \w{12} now\)\); give"):
        write_augmented(read_utterances(corpus / "moved.tsv"), tmp_path / "noisy", augmentation=ONLY_NOISE, banks=banks)
    louder = replace(ONLY_NOISE, snr_noise_db=(0.0, 5.0))
    with pytest.raises(TableError, match=r"\(augmentation\.snr_noise_db \[.*\] there, \[0\.0, 5\.0\] now\); give"):
        write_augmented(
            read_utterances(corpus / "utterances.tsv"), tmp_path / "noisy", augmentation=louder, banks=banks
        )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(TableError, match="is not empty"):
        _write(corpus, tmp_path / "full")


def test_settings_that_change_nothing_or_lack_a_bank_are_refused_before_the_work(corpus: Path, tmp_path: Path) -> None:
    nothing = Augmentation(**QUIET)  # type: ignore[arg-type]
    with pytest.raises(TableError, match="nothing would be changed"):
        _write(corpus, tmp_path / "a", augmentation=nothing)
    with pytest.raises(AugmentationError, match="rooms"):
        _write(corpus, tmp_path / "b", augmentation=Augmentation(kinds={"noise": 1}))
    assert not (tmp_path / "b").exists()


def test_a_recording_that_cannot_be_read_leaves_no_table(corpus: Path, tmp_path: Path) -> None:
    table = read_utterances(corpus / "utterances.tsv")
    frame = table.frame.with_columns(pl.Series("path", ["gone.wav", *table.frame["path"].to_list()[1:]]))
    banks = Banks(NoiseBank.from_folder(corpus / "noise", split="test"))
    with pytest.raises(AudioError, match=r"gone\.wav"):
        write_augmented(UtteranceTable(frame, "t", corpus), tmp_path / "x", augmentation=ONLY_NOISE, banks=banks)
    assert not (tmp_path / "x" / "utterances.tsv").exists()
    assert not list((tmp_path / "x").rglob("*.partial*"))


def test_command_takes_the_noise_of_the_test_split_and_renames_the_trials(corpus: Path, tmp_path: Path) -> None:
    # Whole files, named by their paths, as trial lists of VoxCeleb name them.
    rows = [(f"u{speaker}", f"s{speaker}.wav", f"s{speaker}") for speaker in range(4)]
    whole = UtteranceTable(pl.DataFrame(rows, schema=["utt_id", "path", "speaker"], orient="row"), "whole", corpus)
    write_utterances(whole, corpus / "whole.tsv")
    (corpus / "list.txt").write_text("0 s0.wav s1.wav\n0 s2.wav s3.wav\n", encoding="utf-8")
    arguments = ["augment", str(corpus / "whole.tsv"), "--noise", str(corpus / "noise"), "--trials"]
    options = ["--out", str(tmp_path / "noisy"), "--augment", "p_noise=1", "--json", str(tmp_path / "report.json")]
    only = [f"--augment={name}=0" for name in ("p_gain", "p_clip", "p_channel")]
    result = CliRunner().invoke(app, [*arguments, str(corpus / "list.txt"), *options, *only])
    assert result.exit_code == 0, result.output
    trials = read_trials(tmp_path / "noisy" / "trials.txt")
    assert trials.frame["enrol"].to_list() == ["u0", "u2"]
    read_utterances(tmp_path / "noisy" / "utterances.tsv").resolve(trials.frame["test"])
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["n_utterances"] == 4
    assert report["settings"]["p_noise"] == 1
    plan = json.loads((tmp_path / "noisy" / "augmentation.json").read_text(encoding="utf-8"))
    assert plan["banks"]["noise"] == NoiseBank.from_folder(corpus / "noise", split="test").fingerprint

    (corpus / "unknown.txt").write_text("0 s0.wav s9.wav\n", encoding="utf-8")
    result = CliRunner().invoke(app, [*arguments, str(corpus / "unknown.txt"), "--out", str(tmp_path / "other")])
    assert isinstance(result.exception, TableError)
    assert not (tmp_path / "other").exists()
