"""`nestvox data` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from nestvox.cli.data import app
from nestvox.corpora import read_trials, read_utterances
from nestvox.errors import TableError, TrialsError


def run(*words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Four speakers with two sessions of two clips."""
    for number in range(16):
        path = tmp_path / f"audio/s{number // 4}/m{number // 2 % 2}/{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(8000), 8000)
    return tmp_path


def test_from_a_folder_to_a_checked_list(corpus: Path) -> None:
    (corpus / "audio/s0/m0/broken.wav").write_bytes(b"RIFF")
    table, listed = corpus / "table.tsv", corpus / "trials.txt"
    output = run("prepare", "folder", corpus / "audio", "--out", table, "--json", corpus / "p.json").output
    assert "skipped s0/m0/broken.wav: cannot be opened" in output
    prepared = json.loads((corpus / "p.json").read_text())
    assert (prepared["n_utterances"], prepared["n_speakers"], len(prepared["skipped"])) == (16, 4, 1)
    assert len(read_utterances(table)) == 16

    run("trials", table, "--targets", "8", "--nontargets", "12", "--out", listed, "--json", corpus / "t.json")
    drawn = json.loads((corpus / "t.json").read_text())
    trials = read_trials(listed)
    assert (drawn["n_target"], drawn["n_nontarget"], drawn["seed"]) == (8, 12, 0)
    assert drawn["trials_sha256"] == trials.sha256
    assert all(enrol.split("/")[1] != test.split("/")[1] for enrol, test, same in trials.frame.rows() if same)

    output = run("check", table, "--trials", listed, "--workers", "2", "--json", corpus / "c.json").output
    assert "fit for use" in output
    assert "16 decoded" in output
    assert json.loads((corpus / "c.json").read_text())["ok"] is True


def test_check_exits_1_when_something_is_wrong(corpus: Path) -> None:
    table = corpus / "table.csv"
    run("prepare", "folder", corpus / "audio", "--out", table)
    listed = corpus / "trials.txt"
    listed.write_text("1 s0/m0/0 s1/m0/4\n")
    result = run("check", table, "--no-audio", "--trials", listed, "--json", corpus / "c.json", code=1)
    assert "trial-label-wrong" in result.output
    assert "1 kinds of error, 0 of warning: something is wrong" in result.output
    report = json.loads((corpus / "c.json").read_text())
    assert report["ok"] is False
    assert report["findings"][0]["examples"] == ["s0/m0/0 s1/m0/4: target, but s0 and s1"]


def test_check_against_a_training_table(corpus: Path) -> None:
    table, training = corpus / "table.tsv", corpus / "training.tsv"
    run("prepare", "folder", corpus / "audio", "--out", table)
    lines = table.read_text().splitlines(keepends=True)
    training.write_text("".join(lines[:5]))  # s0
    table.write_text(lines[0] + "".join(lines[5:]))
    run("trials", table, "--targets", "2", "--nontargets", "2", "--out", corpus / "t.txt")
    run("check", table, "--training", training, "--no-audio", "--trials", corpus / "t.txt")
    (corpus / "t.txt").write_text("1 s0/m0/0 s0/m1/2\n")
    output = run("check", table, "--training", training, "--no-audio", "--trials", corpus / "t.txt", code=1).output
    assert "speaker-trained-and-tested" in output


def test_from_a_list(corpus: Path) -> None:
    (corpus / "list.csv").write_text("file,who,when\ns0/m0/0.wav,anna,monday\ns0/m0/none.wav,anna,monday\n")
    words = ["prepare", "csv", corpus / "list.csv", "--out", corpus / "t.parquet", "--root", corpus / "audio"]
    output = run(*words, "--path-column", "file", "--speaker-column", "who", "--rename", "session=when").output
    assert "skipped s0/m0/none.wav: no such file" in output
    table = read_utterances(corpus / "t.parquet")
    assert table.frame.select("utt_id", "speaker", "session", "duration_s").rows() == [
        ("s0/m0/0", "anna", "monday", 1.0)
    ]
    assert all(path.is_file() for path in table.audio_paths)
    result = run(*words, "--rename", "session", code=1)
    assert isinstance(result.exception, TableError)
    assert "--rename takes NEW=OLD" in str(result.exception)


def test_where_no_table_can_be_written_nothing_is_opened(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("an hour of work, for nothing")

    monkeypatch.setattr("nestvox.corpora.prepare.folder.prepare_folder", opened)
    file = next((corpus / "audio").rglob("*.wav"))
    for out, problem in (
        ("table.json", "are written as .tsv, .csv or .parquet, not .json"),
        ("table", "not without suffix"),
        (file / "new/table.tsv", f"{file} is no folder"),
    ):
        result = run("prepare", "folder", corpus / "audio", "--out", corpus / out, code=1)
        assert isinstance(result.exception, TableError)
        assert problem in str(result.exception)
    (corpus / "folder.tsv").mkdir()
    result = run("prepare", "folder", corpus / "audio", "--out", corpus / "folder.tsv", code=1)
    assert "is a folder" in str(result.exception)


def test_preset_split_and_format(speech_dir: Path, tmp_path: Path) -> None:
    words = ["trials", speech_dir / "utterances.tsv", "--preset", "pairs-250-seed42", "--split", "dev"]
    output = run(*words, "--out", tmp_path / "a.txt").output
    run(*words, "--out", tmp_path / "b.csv", "--format", "csv", "--name-by", "path")
    trials = read_trials(tmp_path / "a.txt")
    assert (trials.n_target, trials.n_nontarget) == (125, 125), "250 pairs, as the name says"
    assert trials.sha256 in output
    assert read_trials(tmp_path / "b.csv").frame["enrol"].str.starts_with("audio/dev/").all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "pairs-1"], "there are pairs-250-seed42, pairs-250-seed43"),
        (["--preset", "pairs-250-seed42", "--seed", "1"], "leave out --targets, --nontargets, --profiles and --seed"),
    ],
)
def test_calls_that_make_no_sense(tmp_path: Path, words: list[str], message: str) -> None:
    result = run("trials", tmp_path / "t.tsv", "--out", tmp_path / "o.txt", *words, code=1)
    assert isinstance(result.exception, TrialsError)
    assert message in str(result.exception)


def test_the_voxceleb1_o_lists_count_as_published(lists_dir: Path, tmp_path: Path) -> None:
    lists = [lists_dir / "veri_test.txt", lists_dir / "veri_test2.txt"]
    output = run("describe", *lists, "--json", tmp_path / "d.json").output
    assert "37,720" in output
    assert "37,611" in output
    described = json.loads((tmp_path / "d.json").read_text())
    counted = [[described[str(path)][name] for name in ("n_trials", "n_target", "n_names")] for path in lists]
    assert counted == [[37720, 18860, 4715], [37611, 18802, 4708]]


def test_a_download_that_is_none_says_what_there_is(tmp_path: Path) -> None:
    result = run("fetch", "voxceleb1-x", tmp_path, "--offline", code=1)
    assert "librispeech-test-clean, librispeech-train-clean-100, voxceleb1-e" in str(result.exception)


def test_from_a_table_to_splits_and_lists_without_a_number(tmp_path: Path) -> None:
    rows = [f"{name}-{i}\t{name}/{i}.wav\t{name}" for name in "abcdefghijkl" for i in range(3)]
    (tmp_path / "t.tsv").write_text("\n".join(["utt_id\tpath\tspeaker", *rows]) + "\n")
    result = run("split", tmp_path / "t.tsv", "--out", tmp_path / "s.tsv", "--json", tmp_path / "s.json")
    assert "train" in result.output
    assert json.loads((tmp_path / "s.json").read_text())["test"] == "2 speakers, 6 utterances"
    run("trials", tmp_path / "s.tsv", "--split", "test", "--out", tmp_path / "test.txt")
    lines = (tmp_path / "test.txt").read_text().splitlines()
    # Two speakers with three recordings: 3 + 3 pairs of one, 3 * 3 of both.
    assert [line[0] for line in lines].count("1") == 6
    assert [line[0] for line in lines].count("0") == 9
    assert run("split", tmp_path / "s.tsv", "--out", tmp_path / "u.tsv", code=1).exception is not None
