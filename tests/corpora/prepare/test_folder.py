"""Trees of speaker folders become tables."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from nestvox.audio.read import read_recording
from nestvox.corpora import read_utterances, write_utterances
from nestvox.corpora.prepare.folder import Skipped, prepare_folder, told, unique_ids
from nestvox.corpora.prepare.scan import scan
from nestvox.corpora.shards import prepare_shards
from nestvox.errors import TableError
from nestvox.names import NO_TEXT


def speak(path: Path, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(0).standard_normal(round(8000 * seconds))
    kinds = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
    soundfile.write(path, samples, 8000, format=kinds[path.suffix.lower()])
    return path


def test_speakers_sessions_and_durations(tmp_path: Path) -> None:
    speak(tmp_path / "bob/a.wav", 1.0)
    speak(tmp_path / "bob/b.FLAC", 0.25)
    speak(tmp_path / "anna/monday/x.ogg", 0.5)
    speak(tmp_path / "anna/monday/late/y.wav", 0.5)
    (tmp_path / "anna/notes.txt").write_text("no audio")
    speak(tmp_path / "anna/.hidden.wav")
    speak(tmp_path / ".trash/z.wav")
    prepared = prepare_folder(tmp_path, corpus="home", workers=2)
    assert prepared.skipped == ()
    assert prepared.table.root == tmp_path
    assert prepared.table.frame.rows() == [
        ("anna/monday/late/y", "anna/monday/late/y.wav", "anna", "monday/late", 0.5, "home"),
        ("anna/monday/x", "anna/monday/x.ogg", "anna", "monday", 0.5, "home"),
        ("bob/a", "bob/a.wav", "bob", None, 1.0, "home"),
        ("bob/b", "bob/b.FLAC", "bob", None, 0.25, "home"),
    ]
    assert all(path.is_file() for path in prepared.table.audio_paths)


def test_what_cannot_be_read_is_skipped_and_listed(tmp_path: Path) -> None:
    speak(tmp_path / "bob/good.wav")
    (tmp_path / "bob/empty.wav").write_bytes(b"")
    (tmp_path / "bob/text.mp3").write_text("hello" * 100)
    speak(tmp_path / "lonely.wav")
    seen = []
    prepared = prepare_folder(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert prepared.table.frame["utt_id"].to_list() == ["bob/good"]
    assert [skipped.path for skipped in prepared.skipped] == ["bob/empty.wav", "bob/text.mp3", "lonely.wav"]
    assert "0 bytes" in prepared.skipped[0].reason
    assert "outside of the speaker folders" in prepared.skipped[2].reason
    assert seen == [(done, 4) for done in range(1, 5)]


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    speak(tmp_path / "store/s/a.wav")
    (tmp_path / "root/bob").mkdir(parents=True)
    (tmp_path / "root/anna").symlink_to(tmp_path / "store/s")
    (tmp_path / "root/bob/again").symlink_to(tmp_path / "root")
    speak(tmp_path / "root/bob/b.wav")
    assert prepare_folder(tmp_path / "root").table.frame["utt_id"].to_list() == ["anna/a", "bob/b"]


def test_the_table_written_elsewhere_still_finds_its_audio(tmp_path: Path) -> None:
    speak(tmp_path / "audio/bob/a.wav")
    write_utterances(prepare_folder(tmp_path / "audio").table, tmp_path / "tables/t.tsv")
    (path,) = read_utterances(tmp_path / "tables/t.tsv").audio_paths
    assert path.is_file()


def test_nothing_to_prepare(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such folder"):
        prepare_folder(tmp_path / "absent")
    speak(tmp_path / "a.wav")
    outside = r"\(1 files skipped; a\.wav: stands outside of the speaker folders\)"
    with pytest.raises(TableError, match=f"no readable audio .*{outside}; the layout is speaker/file"):
        prepare_folder(tmp_path)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(TableError, match=r"\(no file\)"):
        prepare_folder(tmp_path)


def test_the_reason_of_most_is_told() -> None:
    files = [Skipped("a.wav", "is empty"), Skipped("b.m4a", "needs [av]"), Skipped("c.m4a", "needs [av]")]
    assert told(files) == "3 files skipped; b.m4a: needs [av]"
    assert told([]) == ""


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VoxCeleb2 is m4a: whoever has no extra [av] must hear of it, and not that there is no audio."""
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "id1").mkdir()
    (tmp_path / "id1" / "a.m4a").write_bytes(b"\0\0\0\x18ftypM4A \0\0\0\0" + bytes(64))
    with pytest.raises(TableError, match=r"1 files skipped; id1/a\.m4a: .*reading m4a.*extra \[av\]: pip install"):
        prepare_folder(tmp_path)


def test_ids_that_would_stand_twice() -> None:
    assert unique_ids(["s/a.wav", "s/b.wav"]) == ["s/a", "s/b"]
    assert unique_ids(["s/a.flac", "s/a.wav"]) == ["s/a.flac", "s/a.wav"]
    assert unique_ids(["s/a b.wav", "s/a_b.wav"]) == ["s/a_b.wav", "s/a_b.wav-2"]


@given(st.lists(st.text("ab ._/", min_size=1).map(lambda text: f"s/{text.strip('/.') or 'x'}.wav"), unique=True))
def test_ids_are_always_distinct_and_without_blanks(paths: list[str]) -> None:
    ids = unique_ids(paths)
    assert len(set(ids)) == len(paths)
    assert not any(" " in name for name in ids)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep names as text")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Such a file is read, but no table can name it."""
    folder = tmp_path / "speakers" / "anna"
    folder.mkdir(parents=True)
    names = [b"a.wav", b"b\xff.wav", b"\xe9.flac", b"c\xfe.ogg"]
    samples = 0.1 * np.random.default_rng(0).standard_normal(8_000)
    for name in names:
        soundfile.write(os.fsencode(folder) + b"/" + name, samples, 16_000)
        read = read_recording(folder / os.fsdecode(name))
        assert len(read.samples) == 8_000
    prepared = prepare_folder(tmp_path / "speakers")
    assert prepared.table.frame["path"].to_list() == ["anna/a.wav"]
    assert {one.path for one in prepared.skipped} == {f"anna/{os.fsdecode(name)}" for name in names[1:]}
    assert {one.reason for one in prepared.skipped} == {NO_TEXT}
    found = scan(tmp_path, ["speakers"], suffixes=(".wav", ".flac", ".ogg"), durations=True, journal=tmp_path / "notes")
    assert found["problem"].to_list().count(NO_TEXT) == 3
    assert found["path"][0] == "speakers/anna/a.wav"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in names[:2]:
            for suffix in (b".wav", b".cls"):
                info = tarfile.TarInfo(os.fsdecode(name[:-4] + suffix))
                content = (folder / os.fsdecode(name)).read_bytes() if suffix == b".wav" else b"7"
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    shards = prepare_shards([tmp_path / "a.tar"], speaker=".cls")
    assert [one.reason for one in shards.skipped] == [NO_TEXT]
    assert shards.table.frame["utt_id"].to_list() == ["a"]
