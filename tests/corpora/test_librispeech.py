"""LibriSpeech dev-clean, from a tiny archive of the same layout behind a server on this machine."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from nestvox.corpora.prepare import librispeech
from nestvox.errors import DownloadError, TableError

# Eight of either sex, two chapters each, two utterances a chapter.
SPEAKERS = {str(100 + number): "FM"[number % 2] for number in range(16)}


def speakers_txt() -> str:
    lines = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    lines += [f"{number:<5}| {sex} | dev-clean        | 8.05  | Somebody | Else" for number, sex in SPEAKERS.items()]
    return "\n".join(lines) + "\n"


def flac(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).normal(0.0, 0.1, 8000).astype(np.float32)
    soundfile.write(buffer, noise, 16_000, format="FLAC")
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def archive_of(path: Path, extra: tarfile.TarInfo | None = None) -> None:
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "LibriSpeech/SPEAKERS.TXT", speakers_txt().encode())
        for speaker in SPEAKERS:
            for chapter in ("7", "8"):
                for number in range(2):
                    name = f"{speaker}-{chapter}-{number:04d}"
                    seed = int(speaker) * 100 + int(chapter) * 10 + number
                    add(tar, f"LibriSpeech/dev-clean/{speaker}/{chapter}/{name}.flac", flac(seed))
        if extra is not None:
            tar.addfile(extra)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    root = tmp_path / "served"
    root.mkdir()
    archive = root / "dev-clean.tar.gz"
    archive_of(archive)
    published = (hashlib.sha256(archive.read_bytes()).hexdigest(), archive.stat().st_size)
    monkeypatch.setitem(librispeech.ARCHIVES, "dev-clean", published)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Stay off the terminal."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/dev-clean.tar.gz"
    server.shutdown()
    server.server_close()
    thread.join()


def prepare(folder: Path, url: str, **options: object) -> tuple[object, list[str]]:
    said: list[str] = []
    table = librispeech.prepare_librispeech_dev_clean(
        folder, url=url, announce=said.append, n_target=8, n_nontarget=8, **options
    )
    return table, said


def test_table_says_who_speaks_where_and_under_which_licence(served: str, tmp_path: Path) -> None:
    table, said = prepare(tmp_path / "corpus", served)
    frame = table.frame
    assert frame.height == 16 * 2 * 2
    assert set(frame["language"]) == {"en"}
    assert set(frame["licence"]) == {"CC-BY-4.0"}
    row = frame.row(by_predicate=pl.col("utt_id") == "101-8-0001", named=True)
    assert row["speaker"] == "libri_101"
    assert row["session"] == "libri_101-8"
    assert row["sex"] == "m"
    assert row["duration_s"] == 0.5
    assert (tmp_path / "corpus" / row["path"]).is_file()
    announced = " ".join(said)
    assert "LibriSpeech dev-clean" in announced
    assert "CC-BY-4.0" in announced


def test_splits_halve_each_sex_by_speaker(served: str, tmp_path: Path) -> None:
    table, _ = prepare(tmp_path / "corpus", served)
    people = table.frame.select("speaker", "sex", "split").unique()
    assert people.height == 16  # no speaker in two splits
    counts = Counter(zip(people["sex"], people["split"], strict=True))
    for sex in "fm":
        assert {split: counts[sex, split] for split in ("train", "dev", "test")} == {"train": 4, "dev": 2, "test": 2}


def test_real_proportions_are_twenty_ten_ten() -> None:
    sexes = {str(number): "fm"[number % 2] for number in range(1000, 1040)}
    assert Counter(librispeech._splits(sexes).values()) == {"train": 20, "dev": 10, "test": 10}


def test_trials_stay_inside_their_split(served: str, tmp_path: Path) -> None:
    table, _ = prepare(tmp_path / "corpus", served)
    split_of = dict(zip(table.frame["utt_id"], table.frame["split"], strict=True))
    for split in ("dev", "test"):
        lines = (tmp_path / "corpus" / f"trials_{split}.txt").read_text().splitlines()
        labels = Counter(line.split()[0] for line in lines)
        assert labels == {"1": 8, "0": 8}
        names = [name for line in lines for name in line.split()[1:]]
        assert {split_of[Path(name).stem] for name in names} == {split}


def test_second_call_needs_neither_network_nor_archive(served: str, tmp_path: Path) -> None:
    first, _ = prepare(tmp_path / "corpus", served)
    assert not (tmp_path / "corpus" / "dev-clean.tar.gz").exists()
    second, said = prepare(tmp_path / "corpus", "http://127.0.0.1:9/gone", offline=True)
    assert second.frame.equals(first.frame)
    assert said == []


def test_offline_without_the_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        prepare(tmp_path / "corpus", "http://127.0.0.1:9/dev-clean.tar.gz", offline=True)


def test_another_archive_is_refused(served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(librispeech.ARCHIVES, "dev-clean", ("0" * 64, librispeech.ARCHIVES["dev-clean"][1]))
    with pytest.raises(DownloadError):
        prepare(tmp_path / "corpus", served)
    assert not (tmp_path / "corpus" / "LibriSpeech").exists()


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member


@pytest.mark.parametrize(
    "extra",
    [
        tarfile.TarInfo("LibriSpeech/../../escaped.txt"),
        tarfile.TarInfo("/absolute.txt"),
        tarfile.TarInfo("elsewhere.txt"),
        link("LibriSpeech/link", tarfile.SYMTYPE, "/etc/passwd"),
        link("LibriSpeech/hard", tarfile.LNKTYPE, "../outside"),
        link("LibriSpeech/device", tarfile.CHRTYPE, ""),
    ],
    ids=lambda member: member.name,
)
def test_archive_that_reaches_outside_is_refused_whole(tmp_path: Path, extra: tarfile.TarInfo) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    archive = folder / "dev-clean.tar.gz"
    archive_of(archive, extra)
    with pytest.raises(DownloadError, match="refuses to unpack"):
        librispeech._unpack(archive, folder)
    assert [path.name for path in folder.iterdir()] == ["dev-clean.tar.gz"]
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.parametrize("kept", [0, 10, 3000])
def test_truncated_archive_leaves_nothing(tmp_path: Path, kept: int) -> None:
    archive = tmp_path / "dev-clean.tar.gz"
    archive_of(archive)
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(DownloadError, match="is no readable archive"):
        librispeech._unpack(archive, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dev-clean.tar.gz"]


def test_malformed_speaker_list_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "SPEAKERS.TXT"
    path.write_text(";comment\n14 | F | dev-clean | 8.0 | A Name\n15 | X | dev-clean | 8.0 | B Name\n")
    with pytest.raises(TableError, match=r"SPEAKERS\.TXT:3"):
        librispeech.read_speakers(path)
    with pytest.raises(TableError, match="is missing"):
        librispeech.read_speakers(tmp_path / "absent")
