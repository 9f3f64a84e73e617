"""Lists of files and speakers become tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from nestvox.corpora.prepare.csv_list import prepare_csv
from nestvox.errors import TableError


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    for name, seconds in (("a", 0.5), ("b", 1.0)):
        samples = 0.1 * np.random.default_rng(0).standard_normal(round(8000 * seconds))
        soundfile.write(tmp_path / f"{name}.wav", samples, 8000)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_columns_are_mapped_and_the_others_kept(audio: Path) -> None:
    path = write(audio / "l.csv", "client_id,file,gender,age\ns1,a.wav,f,30\ns2,b.wav,,\n")
    prepared = prepare_csv(path, path_column="file", speaker_column="client_id", rename={"sex": "gender"}, corpus="c")
    assert prepared.skipped == ()
    assert prepared.table.frame.to_dicts() == [
        {"utt_id": "a", "speaker": "s1", "path": "a.wav", "sex": "f", "age": "30", "duration_s": 0.5, "corpus": "c"},
        {"utt_id": "b", "speaker": "s2", "path": "b.wav", "sex": None, "age": None, "duration_s": 1.0, "corpus": "c"},
    ]


def test_ids_and_durations_of_the_list_are_kept(audio: Path) -> None:
    lists = audio / "lists"
    lists.mkdir()
    path = write(
        lists / "l.tsv", "utt_id\tpath\tspeaker\tstart_s\tduration_s\nx\ta.wav\ts\t0.1\t0.2\ny\ta.wav\ts\t0.3\t0.2\n"
    )
    table = prepare_csv(path, root=audio).table
    assert table.frame.select("utt_id", "start_s", "duration_s").rows() == [("x", 0.1, 0.2), ("y", 0.3, 0.2)]
    assert all(path.is_file() for path in table.audio_paths)


def test_a_start_shortens_the_duration(audio: Path) -> None:
    table = prepare_csv(write(audio / "l.csv", "path,speaker,start_s\nb.wav,s,0.25\na.wav,s,\n")).table
    assert table.frame["duration_s"].to_list() == [0.75, 0.5]


def test_a_start_behind_the_end_is_skipped(audio: Path) -> None:
    prepared = prepare_csv(write(audio / "l.csv", "path,speaker,start_s\nb.wav,s, 0.25 \na.wav,s,0.5\n"))
    assert prepared.table.frame.select("path", "start_s", "duration_s").rows() == [("b.wav", 0.25, 0.75)]
    assert [(skipped.path, skipped.reason) for skipped in prepared.skipped] == [
        ("a.wav", "start_s is 0.5, and it ends after 0.500 s")
    ]


def test_files_that_are_not_there_are_skipped(audio: Path) -> None:
    prepared = prepare_csv(write(audio / "l.csv", "path,speaker\na.wav,s\nno.wav,s\n"))
    assert prepared.table.frame["utt_id"].to_list() == ["a"]
    assert [(skipped.path, skipped.reason) for skipped in prepared.skipped] == [("no.wav", "no such file")]
    with pytest.raises(TableError, match=r"none of 1 files can be read; no\.wav: no such file"):
        prepare_csv(write(audio / "l.csv", "path,speaker\nno.wav,s\n"))


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("path,spk\na.wav,s\n", 1, "speaker", "no such column; the list has path, spk"),
        ("path,speaker\n", None, None, "no rows"),
        ("path,speaker\na.wav,s\n\nb.wav,\n", 4, "speaker", "speaker is empty"),
        ("path,speaker\na.wav,s\nb.wav\n", 3, None, "1 fields"),
        ("utt_id,path,speaker\nx,a.wav,s\nx,b.wav,s\n", 3, "utt_id", "stands already on line 2"),
        ("path,speaker\na.wav,s\na.wav,s\n", None, "path", "'a.wav' stands twice"),
    ],
)
def test_errors_have_their_place(audio: Path, text: str, line: int | None, column: str | None, words: str) -> None:
    with pytest.raises(TableError, match=words) as caught:
        prepare_csv(write(audio / "l.csv", text))
    assert (caught.value.line, caught.value.column) == (line, column)


def test_a_name_that_is_taken(audio: Path) -> None:
    path = write(audio / "l.csv", "path,file,speaker\na.wav,b.wav,s\n")
    with pytest.raises(TableError, match="another column is to be named path"):
        prepare_csv(path, path_column="file")
