"""`nestvox plan enrol` as a user types it, beside the `nestvox plan` that was there before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nestvox.cli.main import main
from nestvox.corpora.overlap import speaker_key
from nestvox.testing import make_store


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty speakers with six clips each, half of them short; a store of them, and one of a model trained on s03."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    vectors = np.repeat(generator.normal(size=(20, 16)), 6, axis=0) + 0.9 * generator.normal(size=(120, 16))
    names = [f"u{row:03}" for row in range(120)]
    speakers = [f"s{row // 6:02}" for row in range(120)]
    for name, keys in (("store", ()), ("leaky", (speaker_key("s03"),))):
        metadata = {"fingerprint": "ab" * 8, "dims": (16,), "training_speakers": keys}
        make_store(tmp_path / name, vectors, names, names, speakers, **metadata)
    rows = [f"u{row:03}\ta/u{row:03}.wav\ts{row // 6:02}\t{1.0 + row % 2 * 2}\n" for row in range(120)]
    (tmp_path / "table.tsv").write_text("utt_id\tpath\tspeaker\tduration_s\n" + "".join(rows))
    return tmp_path


def test_table_and_advice(files: Path, capsys) -> None:
    call = ["plan", "enrol", "--table", "table.tsv", "--store", "store", "--clips", "1,2,5", "--json", "p.json"]
    code, text, error = run(capsys, *call)
    assert code == 0, error
    for words in ("enrolment at 16 dimensions", "whole clips", "0 to 2 s", "2 to 4 s", "1 clip", "over speakers"):
        assert words in text
    assert "not computable: 16 s and more, 1, 2, 5 clips: 0 speakers have 2 such clips: it takes 5" in text
    content = json.loads(Path("p.json").read_text())
    whole = [row for row in content["rows"] if row["length"] == "whole clips"]
    assert [row["n_clips"] for row in whole] == [1, 2, 5]
    assert whole[0]["eer"] > whole[2]["eer"]
    assert all(row["eer_low"] <= row["eer"] <= row["eer_high"] for row in whole)
    assert content["advice"]


def test_crops_are_embedded_again(files: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from nestvox.extraction.store.store import EmbeddingStore

    asked = []

    class Model:
        name, fingerprint, min_duration_s, training_speakers = "tiny", "ab" * 8, 0.5, ()

    def embed_table(model, table, out, *, progress):
        asked.append(table.frame)
        ids = table.frame["utt_id"].to_list()
        whole = EmbeddingStore(files / "store")
        noise = 2.0 * np.random.default_rng(1).normal(size=(len(ids), 16))
        metadata = {"fingerprint": model.fingerprint, "dims": (16,)}
        vectors = whole.take(whole.index_of(ids)) + noise
        return make_store(out, vectors, ids, ids, table.frame["speaker"].to_list(), **metadata)

    monkeypatch.setattr("nestvox.model.loading.load", lambda *_, **__: Model())
    monkeypatch.setattr("nestvox.extraction.embed.embed_table", embed_table)
    call = ["plan", "enrol", "--table", "table.tsv", "--store", "store", "--model", "tiny", "--clips", "1"]
    code, text, error = run(capsys, *call, "--lengths", "2")
    assert code == 0, error
    # Only the clips of 3 s hold 2 s, and their middle begins at half a second.
    assert len(asked) == 1
    assert len(asked[0]) == 60
    assert set(asked[0]["start_s"]) == {0.5}
    assert set(asked[0]["duration_s"]) == {2.0}
    assert "A clip of 2 s instead of the same clip whole: EER +" in text
    code, _, error = run(capsys, *call, "--lengths", "0.2")
    assert code == 2
    assert "the encoder needs 0.500 s" in error


def test_training_speakers_are_refused_or_labelled(files: Path, capsys) -> None:
    call = ["plan", "enrol", "--table", "table.tsv", "--store", "leaky", "--clips", "1,2"]
    code, _, error = run(capsys, *call)
    assert code == 2
    assert "s03" in error
    code, text, _ = run(capsys, *call, "--allow-overlap")
    assert code == 0
    assert "LEAKY" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --store, or --model"),
        (["--store", "store", "--lengths", "2"], "give --model too"),
        (["--store", "store", "--clips", "one"], "--clips must be numbers"),
        (["--store", "store", "--clips", "0"], "above 0"),
        (["--store", "store", "--dim", "17"], "1 to 16"),
        (["--store", "none"], "none"),
        (["--store", "store", "--split", "dev"], "split"),
    ],
)
def test_calls_that_mean_nothing(files: Path, capsys, arguments: list[str], words: str) -> None:
    code, text, error = run(capsys, "plan", "enrol", "--table", "table.tsv", *arguments)
    assert code == 2
    assert words in error
    assert "Traceback" not in text + error


def test_audio_without_durations_in_the_table_is_looked_at(files: Path, capsys) -> None:
    lines = [line.rsplit("\t", 1)[0] for line in (files / "table.tsv").read_text().splitlines()]
    (files / "table.tsv").write_text("\n".join(lines) + "\n")
    (files / "a").mkdir()
    for row in range(120):
        soundfile.write(files / "a" / f"u{row:03}.wav", np.zeros(16_000 * (1 + row % 2 * 2)), 16_000)
    code, text, error = run(capsys, "plan", "enrol", "--table", "table.tsv", "--store", "store", "--clips", "1")
    assert code == 0, error
    assert "2 to 4 s" in text


def test_the_plan_of_a_study_is_as_it_was(files: Path, capsys) -> None:
    code, text, error = run(capsys, "plan", "--eer", 0.02, "--difference", 0.005, "--speakers", 40)
    assert code == 0, error
    assert text.startswith("EER 2 % against 2.5 %")
    code, _, error = run(capsys, "plan", "--eer", 0.02)
    assert code == 2
    assert "--difference" in error
    code, text, _ = run(capsys, "plan", "--help")
    assert code == 0
    assert "enrol" in text
    assert "--difference" in text
