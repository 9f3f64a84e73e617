"""Tables in tar files: written, read by everything that reads tables, and made of archives of others."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
from typer.testing import CliRunner

from nestvox.audio.archives import file_of, members_in
from nestvox.audio.errors import UnreadableAudioError
from nestvox.audio.read import read
from nestvox.cli.data import app
from nestvox.corpora.check import check_corpus
from nestvox.corpora.shards import prepare_shards, write_shards
from nestvox.corpora.utterances import UtteranceTable, read_utterances, write_utterances
from nestvox.errors import TableError


@pytest.fixture
def table(tmp_path: Path) -> UtteranceTable:
    """Five files of 32 kB of three speakers, the last of which holds two utterances; ids and names of any kind."""
    rows = []
    for number, speaker in enumerate(["ann", "ann", "ben", "ben", "Ö d'e"]):
        path = tmp_path / f"audio/{speaker}/take.{number} .wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(16_000), 16_000)
        rows.append((f"{speaker}.{number}", f"audio/{speaker}/{path.name}", speaker, None, None, number % 2 == 0))
    rows[-1] = (rows[-1][0], rows[-1][1], rows[-1][2], 0.0, 0.4, True)
    rows.append(("cut", rows[-1][1], rows[-1][2], 0.4, 0.6, True))
    schema = ["utt_id", "path", "speaker", "start_s", "duration_s", "synthetic"]
    return UtteranceTable(pl.DataFrame(rows, schema=schema, orient="row"), "made", tmp_path)


def samples(table: UtteranceTable) -> list[np.ndarray]:
    starts = table.frame["start_s"].fill_null(0.0)
    return [
        read(path, start_s=start, duration_s=duration)[0]
        for path, start, duration in zip(table.audio_paths, starts, table.frame["duration_s"], strict=True)
    ]


def test_a_table_in_shards_is_the_same_table(table: UtteranceTable, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    write_shards(table, tmp_path / "out/shards", progress=lambda done, total: seen.append((done, total)))
    written = read_utterances(tmp_path / "out/shards/utterances.tsv")
    assert written.frame.drop("path").equals(table.frame.drop("path"))
    for found, expected in zip(samples(written), samples(table), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert seen == [(1, 6), (2, 6), (3, 6), (4, 6), (6, 6)]
    assert all(file_of(path).is_file() for path in written.audio_paths)
    report = check_corpus([written])
    assert (report.n_decoded, [finding for finding in report.findings if finding.severity == "error"]) == (6, [])
    # A table that is moved still finds its audio.
    write_utterances(written, tmp_path / "elsewhere/deep/t.csv")
    moved = read_utterances(tmp_path / "elsewhere/deep/t.csv")
    np.testing.assert_array_equal(samples(moved)[5], samples(table)[5])


def test_shards_are_full_and_the_same_every_time(table: UtteranceTable, tmp_path: Path) -> None:
    whole_table = large(table, 20)
    for out in ("one", "two"):
        write_shards(whole_table, tmp_path / out, shard_mib=1)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    # 32,044 bytes of wav and less than 512 of JSON, each behind a header and filled up to blocks of 512, are 33,792:
    # 31 samples leave 1,024 bytes of a MiB, so the 32nd still goes in.
    assert files == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar", "utterances.tsv"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    whole = sorted((tmp_path / "one").glob("*.tar"))
    assert [len(list(members_in(path))) for path in whole] == [64, 64, 32]
    again = prepare_shards(whole, root=tmp_path / "one").table
    assert again.frame["path"].equals(read_utterances(tmp_path / "one/utterances.tsv").frame["path"])


def test_what_was_written_can_be_prepared_again(table: UtteranceTable, tmp_path: Path) -> None:
    written = write_shards(table, tmp_path / "shards")
    found = prepare_shards([tmp_path / "shards/shard-000000.tar"], root=tmp_path / "shards")
    assert found.skipped == ()
    assert found.table.frame.select(written.frame.columns).equals(written.frame)


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def wav() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(8_000, 0.5), 16_000, format="WAV")
    return buffer.getvalue()


def test_archives_of_others(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a.tar",
        {
            "x/1.wav": wav(),
            "x/1.json": json.dumps({"spk": 7, "language": "en", "nested": {"a": 1}}).encode(),
            "x/2.json": json.dumps({"spk": "8"}).encode(),
            "x/2.mono.wav": wav(),
            "x/3.json": b"{}",
            "x/3.wav": wav(),
            "x/4.json": b'{"spk": "9"}',
            "x/5.wav": wav(),
            "x/5.json": b"{",
            "x/6.wav": wav(),
            "x/6.flac": wav(),
        },
    )
    found = prepare_shards([path], speaker="spk", root=tmp_path, corpus="theirs")
    frame = found.table.frame
    assert frame.columns == ["utt_id", "path", "speaker", "language", "corpus"]
    assert frame.select("utt_id", "speaker", "language").rows() == [("x/1", "7", "en"), ("x/2", "8", None)]
    assert len(read(found.table.audio_path(1))[0]) == 8_000
    reasons = {skipped.path.rpartition("::")[2]: skipped.reason for skipped in found.skipped}
    assert set(reasons) == {"x/3", "x/4", "x/5", "x/6"}
    assert reasons["x/3"] == "has no speaker in spk"
    assert reasons["x/4"] == "no audio files under one key"
    assert reasons["x/5"].startswith("its JSON cannot be read")
    assert reasons["x/6"] == "2 audio files under one key"


def test_a_speaker_in_a_member_of_its_own(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {"1.wav": wav(), "1.spk": b"ann\n", "2.wav": wav()})
    found = prepare_shards([path], speaker=".spk", root=tmp_path)
    assert found.table.frame.rows() == [("1", "a.tar::0::1.wav", "ann")]
    assert [skipped.reason for skipped in found.skipped] == ["has no member .spk with its speaker"]


def test_the_archives_of_wespeaker(tmp_path: Path) -> None:
    """Their keys are the names of wav.scp, endings and all; the tar has the speaker's name before the audio."""
    members = {}
    for name in ("id10270/a-b/00001.wav", "id10270/a-b/00002.wav", "spk1.utt1", "spk1.utt2", "plain"):
        members |= {f"{name}.spk": name[:7].encode(), f"{name}.{'flac' if name == 'plain' else 'wav'}": wav()}
    del members["spk1.utt2.spk"]
    path = archive(tmp_path / "shards_000000000.tar", members)
    found = prepare_shards([path], speaker=".spk", root=tmp_path)
    names = ["id10270/a-b/00001.wav", "id10270/a-b/00002.wav", "spk1.utt1", "plain"]
    assert found.table.frame["utt_id"].to_list() == names  # those of the official lists
    assert found.table.frame["speaker"].to_list() == [name[:7] for name in names]
    assert found.table.frame["path"][0].endswith("::id10270/a-b/00001.wav.wav")
    assert [(skipped.path[-9:], skipped.reason) for skipped in found.skipped] == [
        ("spk1.utt2", "has no member .spk with its speaker")
    ]


def test_a_damaged_archive_gives_what_stands_before(table: UtteranceTable, tmp_path: Path) -> None:
    write_shards(table, tmp_path / "shards")
    path = tmp_path / "shards/shard-000000.tar"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = prepare_shards([path])
    assert 0 < len(found.table) < len(table)
    assert [(skipped.path, "truncated" in skipped.reason) for skipped in found.skipped] == [(str(path), True)]
    with pytest.raises(UnreadableAudioError, match=r"truncated|no member begins"):
        read(read_utterances(tmp_path / "shards/utterances.tsv").audio_path(5))


def test_nothing_usable(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no usable sample in 1 archives"):
        prepare_shards([archive(tmp_path / "a.tar", {"a.txt": b"x"})])
    (tmp_path / "b.tar").write_bytes(b"RIFF")
    with pytest.raises(TableError, match="damaged"):
        prepare_shards([tmp_path / "b.tar"])


def large(table: UtteranceTable, copies: int) -> UtteranceTable:
    rows = pl.concat([table.frame[:4].with_columns(utt_id=pl.col("utt_id") + str(i)) for i in range(copies)])
    names = pl.Series("path", [f"copy/{i}.wav" for i in range(len(rows))])
    (table.root / "copy").mkdir()
    for old, new in zip(rows["path"], names, strict=True):
        (table.root / new).write_bytes((table.root / old).read_bytes())
    return UtteranceTable(rows.with_columns(names), "large", table.root)


@pytest.mark.parametrize("moment", [0, 20, 40, 79])
def test_an_interrupted_copy_goes_on(table: UtteranceTable, tmp_path: Path, moment: int) -> None:
    whole = large(table, 20)

    def interrupt(done: int, total: int | None) -> None:
        if done > moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(whole, tmp_path / "one", shard_mib=1, progress=interrupt)
    (tmp_path / "one" / ".shard-000001-x.partial.tar").write_bytes(b"of a kill")
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").glob("shard-*.tar")}
    assert len(there) == moment // 32
    if there:
        with pytest.raises(TableError, match=r"was begun with other settings \(shard_mib 1 there, 2 now\)"):
            write_shards(whole, tmp_path / "one", shard_mib=2)
        fewer = replace(whole, frame=whole.frame[1:], _lines=None)
        with pytest.raises(
            TableError, match=rf"\(rows {len(whole)} there, {len(whole) - 1} now; the rows of the table "
        ):
            write_shards(fewer, tmp_path / "one", shard_mib=1)
    written = write_shards(whole, tmp_path / "one", shard_mib=1)
    assert all(path.stat().st_mtime_ns == changed for path, changed in there.items())
    expected = write_shards(whole, tmp_path / "two", shard_mib=1)
    assert written.frame.equals(expected.frame)
    names = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_folder_with_something_in_it_is_left_alone(table: UtteranceTable, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="is not empty"):
        write_shards(table, tmp_path)


@pytest.mark.parametrize("content", [None, b""])
def test_audio_that_is_not_there(table: UtteranceTable, tmp_path: Path, content: bytes | None) -> None:
    table.audio_path(2).unlink()
    if content is not None:
        table.audio_path(2).write_bytes(content)
    with pytest.raises(UnreadableAudioError, match=r"take.2 .wav"):
        write_shards(table, tmp_path / "shards")
    # Nothing is begun: the table may be mended, or the file.
    write_shards(UtteranceTable(table.frame[:2], "shorter", tmp_path), tmp_path / "shards")
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["shard-000000.tar", "utterances.tsv"]


def test_as_it_is_typed(table: UtteranceTable, tmp_path: Path) -> None:
    write_utterances(table, tmp_path / "t.tsv")
    for words in (
        ["shards", tmp_path / "t.tsv", "--out", tmp_path / "shards", "--json", tmp_path / "s.json"],
        ["prepare", "webdataset", tmp_path / "shards/shard-000000.tar", "--out", tmp_path / "again.tsv"],
        ["check", tmp_path / "again.tsv"],
    ):
        result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["n_utterances"], summary["n_shards"]) == (6, 1)
    assert read_utterances(tmp_path / "again.tsv").frame["speaker"].equals(table.frame["speaker"])
