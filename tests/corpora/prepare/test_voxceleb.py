"""VoxCeleb1 and VoxCeleb2 from generated trees, as published and as people change them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
from typer.testing import CliRunner, Result

from nestvox.cli.data import app
from nestvox.corpora import UtteranceTable, read_trials, read_utterances
from nestvox.corpora.prepare import scan as scanning
from nestvox.corpora.prepare.published import Coverage, Published
from nestvox.corpora.prepare.scan import scan
from nestvox.corpora.prepare.voxceleb import (
    how_to_get,
    mini_voxceleb,
    prepare_voxceleb1,
    prepare_voxceleb2,
)
from nestvox.errors import TableError

WAV = np.random.default_rng(0).normal(0, 0.1, 1600).astype(np.float32)


def put(path: Path, content: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        soundfile.write(path, WAV, 16_000, format="FLAC" if path.suffix == ".flac" else "WAV")
    else:
        path.write_bytes(content)
    return path


def run(*words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize(
    ("dev", "test"),
    [("dev/wav", "test/wav"), ("wav", "wav"), ("", ""), ("vox1_dev_wav/wav", "vox1_test_wav/wav")],
)
def test_layouts_of_voxceleb1_give_the_official_names(tmp_path: Path, dev: str, test: str) -> None:
    put(tmp_path / dev / "id10001/1zcIwhmdeo4/00001.wav")
    put(tmp_path / test / "id10270/x6uYqmx31kE/00001.wav")
    put(tmp_path / test / "id10270/8jEAjG6SegY/00008.wav")
    table = prepare_voxceleb1(tmp_path).table
    rows = {row["utt_id"]: row for row in table.frame.to_dicts()}
    assert set(rows) == {
        "id10001/1zcIwhmdeo4/00001.wav",
        "id10270/x6uYqmx31kE/00001.wav",
        "id10270/8jEAjG6SegY/00008.wav",
    }
    row = rows["id10270/x6uYqmx31kE/00001.wav"]
    assert (row["speaker"], row["session"], row["split"]) == ("id10270", "x6uYqmx31kE", "test")
    assert rows["id10001/1zcIwhmdeo4/00001.wav"]["split"] == "dev"
    assert all(path.is_file() for path in table.audio_paths)


def test_the_test_part_is_the_speakers_of_the_official_list(lists_dir: Path, tmp_path: Path) -> None:
    official = pl.concat(list(read_trials(lists_dir / "veri_test.txt").frame.select("enrol", "test")))
    speakers = sorted(official.str.split("/").list.first().unique())
    for speaker in [*speakers, "id10269", "id10310"]:
        put(tmp_path / f"wav/{speaker}/v/00001.wav", b"RIFF")
    frame = prepare_voxceleb1(tmp_path).table.frame
    assert sorted(frame.filter(split="test")["speaker"]) == speakers
    assert sorted(frame.filter(split="dev")["speaker"]) == ["id10269", "id10310"]


def test_converted_doubled_empty_and_misplaced_files(tmp_path: Path) -> None:
    put(tmp_path / "dev/wav/id10001/v/00001.flac")
    put(tmp_path / "dev/wav/id10001/v/00002.flac")
    put(tmp_path / "dev/wav/id10001/v/00002.wav")
    put(tmp_path / "dev/wav/id10001/v/00003.wav", b"")
    put(tmp_path / "dev/wav/id10001/00004.wav")
    put(tmp_path / "dev/wav/id10001/v/._00005.wav")
    put(tmp_path / "dev/wav/id10001/v/notes.txt", b"x")
    (tmp_path / "dev/wav/id10002").mkdir()
    prepared = prepare_voxceleb1(tmp_path)
    assert dict(prepared.table.frame.select("utt_id", "path").rows()) == {
        "id10001/v/00001.wav": "dev/wav/id10001/v/00001.flac",
        "id10001/v/00002.wav": "dev/wav/id10001/v/00002.wav",
    }
    assert {skipped.path.removeprefix("dev/wav/id10001/"): skipped.reason for skipped in prepared.skipped} == {
        "v/00002.flac": "is there already as dev/wav/id10001/v/00002.wav",
        "v/00003.wav": "the file is empty (0 bytes)",
        "00004.wav": "does not lie in speaker/video/file",
    }
    notes = "\n".join(prepared.notes)
    assert "1,250 published speakers are missing: id10002, id10003" in notes
    assert "1 speakers' folders hold no usable audio: dev/wav/id10002" in notes


def test_parts_of_voxceleb2_by_folder_and_by_the_publishers_list(tmp_path: Path) -> None:
    put(tmp_path / "dev/aac/id00012/v/00001.m4a", b"x")
    put(tmp_path / "test/aac/id00017/v/00001.m4a", b"x")
    prepared = prepare_voxceleb2(tmp_path)
    assert prepared.table.frame.select("utt_id", "split").rows() == [
        ("id00012/v/00001.m4a", "dev"),
        ("id00017/v/00001.m4a", "test"),
    ]
    flat = tmp_path / "flat"
    for speaker in ("id00012", "id00017", "id00018"):
        put(flat / f"aac/{speaker}/v/00001.m4a", b"x")
    without = prepare_voxceleb2(flat)
    assert without.table.frame["split"].null_count() == 3
    assert "put vox2_meta.csv into the root" in "\n".join(without.notes)
    (flat / "vox2_meta.csv").write_text(
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set\nid00012 ,n000012 ,m ,dev\nid00017 ,n000017 ,f ,test\n"
        "id00019 ,n000019 ,f ,dev\n"
    )
    placed = prepare_voxceleb2(flat)
    assert placed.table.frame.select("speaker", "split", "sex").rows() == [
        ("id00012", "dev", "m"),
        ("id00017", "test", "f"),
        ("id00018", None, None),
    ]
    notes = "\n".join(placed.notes)
    assert "1 published speakers are missing: id00019" in notes
    assert "1 speakers are not of VoxCeleb2: id00018" in notes


@pytest.mark.parametrize("below", ["dev", "dev/aac", "test/wav"])
def test_one_part_of_voxceleb2_as_the_root(tmp_path: Path, below: str) -> None:
    put(tmp_path / below / "id00012/21Uxsk56VDQ/00001.m4a", b"m4a")
    prepared = prepare_voxceleb2(tmp_path / below)
    part, _, _ = below.partition("/")
    assert prepared.table.frame["split"].to_list() == [part]
    assert {one.part: one.n_utterances for one in prepared.coverage}[part] == 1


def test_sex_from_the_tabbed_list_of_voxceleb1(tmp_path: Path) -> None:
    put(tmp_path / "wav/id10001/v/00001.wav")
    meta = tmp_path / "vox1_meta.csv"
    meta.write_text("VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10001\tA.J._Buckley\tm\tIreland\tdev\n")
    assert prepare_voxceleb1(tmp_path).table.frame["sex"].to_list() == ["m"]
    meta.write_text("VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10001\tA.J._Buckley\tm\n")
    with pytest.raises(TableError, match=r"vox1_meta\.csv:2: expected 5 fields"):
        prepare_voxceleb1(tmp_path)


def test_nothing_there_says_what_to_request(tmp_path: Path) -> None:
    for prepare, name in ((prepare_voxceleb1, "vox1_dev_wav"), (prepare_voxceleb2, "vox2_dev_aac")):
        with pytest.raises(TableError, match=name):
            prepare(tmp_path / "absent")
        with pytest.raises(TableError, match="given out on request"):
            prepare(tmp_path)
    assert str(tmp_path / "dev") in how_to_get("voxceleb2", tmp_path)


def test_counts_in_words() -> None:
    published = Published(1_211, 148_642)
    assert Coverage("dev", 1_211, 148_642, published).sentence().endswith("complete")
    short = Coverage("dev", 1_210, 148_700, published)
    assert not short.complete
    assert short.sentence() == (
        "dev: 1,210 speakers, 148,700 utterances; published are 1,211 and 148,642: "
        "1 speakers missing, 58 utterances too many"
    )


def test_mini_corpora_are_the_same_everywhere_and_grow(tmp_path: Path) -> None:
    speakers = [f"id{number:05}" for number in range(300)]
    frame = pl.DataFrame(
        {
            "utt_id": [f"{name}/{n}" for name in speakers for n in range(2)],
            "path": "a.wav",
            "speaker": [name for name in speakers for _ in range(2)],
            "split": [part for number in range(300) for part in [("dev", "test")[number % 4 == 0]] * 2],
        }
    )
    table = UtteranceTable(frame, "t", tmp_path)
    small, large = mini_voxceleb(table, n_speakers=50), mini_voxceleb(table, n_speakers=140)
    assert (small.frame["speaker"].n_unique(), len(small)) == (50, 100)
    assert (large.frame["speaker"].n_unique(), len(large)) == (140, 280)
    assert set(small.frame["speaker"]) < set(large.frame["speaker"])
    assert set(large.frame["split"]) == {"dev"}
    shuffled = UtteranceTable(frame.sample(fraction=1, shuffle=True, seed=3), "t", tmp_path)
    assert set(mini_voxceleb(shuffled, n_speakers=50).frame["utt_id"]) == set(small.frame["utt_id"])
    assert set(mini_voxceleb(table, n_speakers=50, seed=43).frame["speaker"]) != set(small.frame["speaker"])
    with pytest.raises(TableError, match="226 speakers wanted of 225"):
        mini_voxceleb(table, n_speakers=226)


def tree(root: Path, speakers: int = 12) -> list[str]:
    for number in range(speakers):
        for take in range(3):
            put(root / f"id{10_001 + number}/v/{take:05}.wav", b"RIFF")
    return sorted(folder.name for folder in root.iterdir())


def test_an_interrupted_scan_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, journal = tmp_path / "tree", tmp_path / "journal"
    tops = tree(root)
    plain = scan(root, tops, suffixes=(".wav",), workers=2)
    looked: list[str] = []
    look = scanning._look

    def failing(root: Path, top: str, suffixes: tuple[str, ...], durations: bool) -> object:
        looked.append(top)
        if len(looked) == 8:
            raise KeyboardInterrupt
        return look(root, top, suffixes, durations)

    monkeypatch.setattr(scanning, "_look", failing)
    with pytest.raises(KeyboardInterrupt):
        scan(root, tops, suffixes=(".wav",), journal=journal, workers=1)
    kept = len(list(journal.glob("*.json")))
    assert 5 <= kept <= 8
    looked.clear()
    reported: list[tuple[int, int | None]] = []
    again = (
        scan(root, tops, suffixes=(".wav",), journal=journal, workers=1, progress=lambda *step: reported.append(step))
        if kept > 4
        else None
    )
    assert again is not None
    assert again.equals(plain)
    assert len(looked) == 12 - kept
    assert reported[0] == (kept, 12)
    assert reported[-1] == (12, 12)


def test_a_journal_of_another_search_or_damaged_is_not_believed(tmp_path: Path) -> None:
    root, journal = tmp_path / "tree", tmp_path / "journal"
    tops = tree(root, 3)
    scan(root, tops, suffixes=(".wav",), journal=journal)
    put(root / "id10001/v/00009.flac", b"fLaC")
    both = scan(root, tops, suffixes=(".flac", ".wav"), journal=journal)
    assert both.height == 10
    for note in journal.glob("*.json"):
        note.write_text(note.read_text()[:40])
    assert scan(root, tops, suffixes=(".flac", ".wav"), journal=journal).equals(both)
    put(root / "id10002/w/00001.wav", b"RIFF")  # changes the folder that the journal names
    assert scan(root, tops, suffixes=(".flac", ".wav"), journal=journal).height == 11


def test_links_in_circles_end(tmp_path: Path) -> None:
    put(tmp_path / "id10001/v/00001.wav", b"RIFF")
    (tmp_path / "id10001/again").symlink_to(tmp_path / "id10001")
    (tmp_path / "id10001/v/nowhere.wav").symlink_to(tmp_path / "absent.wav")
    found = scan(tmp_path, ["id10001"], suffixes=(".wav",))
    assert found.select("path", "size").rows() == [("id10001/v/00001.wav", 4), ("id10001/v/nowhere.wav", 0)]
    assert found["problem"].to_list()[1] == "the file is empty (0 bytes)"


def test_the_command_reports_and_leaves_no_journal(tmp_path: Path) -> None:
    root, out = tmp_path / "vox", tmp_path / "tables/vox1.tsv"
    for number in range(3):
        put(root / f"dev/wav/id{10_001 + number}/v/00001.wav")
    put(root / "dev/wav/id10001/v/00002.wav", b"RIFF but no audio")
    output = run("prepare", "voxceleb1", root, "--out", out, "--durations", "--json", tmp_path / "r.json").output
    assert "skipped dev/wav/id10001/v/00002.wav: cannot be opened" in output
    assert "dev: 3 speakers, 3 utterances; published are 1,211 and 148,642: 1,208 speakers missing" in output
    assert "test: 0 speakers, 0 utterances; published are 40 and 4,874" in output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["complete"] is False
    assert report["coverage"][0]["published"] == {"n_speakers": 1211, "n_utterances": 148642}
    assert read_utterances(out).frame["duration_s"].to_list() == [0.1, 0.1, 0.1]
    assert [path.name for path in out.parent.iterdir()] == ["vox1.tsv"]
    run("prepare", "voxceleb1", root, "--out", out, "--mini", "--speakers", "2")
    assert read_utterances(out).frame["speaker"].n_unique() == 2
