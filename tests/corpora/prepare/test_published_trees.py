"""CN-Celeb and LibriSpeech trees, and what can be downloaded, from a server on this machine."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nestvox.cli.data import app
from nestvox.corpora import read_trials, read_utterances
from nestvox.corpora.prepare import librispeech, voxceleb_lists
from nestvox.corpora.prepare.cnceleb import prepare_cnceleb
from nestvox.corpora.prepare.librispeech import fetch_librispeech, prepare_librispeech
from nestvox.corpora.prepare.voxceleb_lists import TRIAL_LISTS, fetch_trial_list
from nestvox.errors import DownloadError, TableError, TrialsError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"fLaC")


@pytest.fixture
def cnceleb(tmp_path: Path) -> Path:
    root = tmp_path / "CN-Celeb_flac"
    touch(root, "data/id00000/singing-01-002.flac", "data/id00000/live_broadcast-02-001.flac", "data/id00000/odd.flac")
    touch(root, "data/id00800/singing-01-002.flac")
    touch(root, "eval/enroll/id00800-enroll.flac", "eval/test/id00800-singing-01-002.flac")
    touch(root, "eval/test/id00801-vlog-03-004.flac", "data/notes/readme.flac")
    (root / "dev").mkdir()
    (root / "dev/dev.lst").write_text("id00000\n")
    (root / "eval/lists").mkdir()
    (root / "eval/lists/trials.lst").write_text(
        "id00800-enroll test/id00800-singing-01-002.wav 1\nid00800-enroll test/id00801-vlog-03-004.wav 0\n"
    )
    return root


def test_cnceleb_has_the_names_of_its_list(cnceleb: Path, tmp_path: Path) -> None:
    out, trials_out = tmp_path / "t.tsv", tmp_path / "trials.txt"
    words = ["prepare", "cnceleb", str(cnceleb), "--out", str(out), "--trials-out", str(trials_out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    table, trials = read_utterances(out), read_trials(trials_out)
    assert (trials.n_target, trials.n_nontarget) == (1, 1)
    assert len(table.resolve(trials.frame["enrol"])) == len(table.resolve(trials.frame["test"])) == 2
    columns = ("utt_id", "speaker", "session", "genre", "split")
    assert table.frame.select(columns).rows() == [
        ("id00000/live_broadcast-02-001", "id00000", "live_broadcast-02", "live_broadcast", "dev"),
        ("id00000/singing-01-002", "id00000", "singing-01", "singing", "dev"),
        ("id00800-enroll", "id00800", None, None, "test"),
        ("test/id00800-singing-01-002.wav", "id00800", "singing-01", "singing", "test"),
        ("test/id00801-vlog-03-004.wav", "id00801", "vlog-03", "vlog", "test"),
    ]
    skipped = {item.path: item.reason for item in prepare_cnceleb(cnceleb).skipped}
    assert skipped == {
        "data/id00000/odd.flac": "is not named as in CN-Celeb",
        "data/id00800/singing-01-002.flac": "its speaker is one of the evaluation",
    }


def test_cnceleb_that_is_none(cnceleb: Path, tmp_path: Path) -> None:
    (cnceleb / "eval/lists/trials.lst").write_text("id00800-enroll test/id00800-singing-01-002.wav\n")
    with pytest.raises(TrialsError, match=r"trials\.lst:1: expected: enrolment test 0\|1"):
        prepare_cnceleb(cnceleb)
    with pytest.raises(TableError, match="openslr"):
        prepare_cnceleb(tmp_path / "absent")


def test_any_subsets_of_librispeech(tmp_path: Path) -> None:
    root = tmp_path / "LibriSpeech"
    touch(root, "test-clean/61/70968/61-70968-0000.flac", "train-clean-100/103/1240/103-1240-0000.flac")
    touch(root, "train-clean-100/103/stray.flac", "my-own/1/2/1-2-3.flac")
    (root / "SPEAKERS.TXT").write_text("61 | M | test-clean | 8.0 | A\n103 | F | train-clean-100 | 25.0 | B\n")
    prepared = prepare_librispeech(tmp_path)
    columns = ("utt_id", "path", "speaker", "session", "split", "sex")
    assert prepared.table.frame.select(columns).rows() == [
        (
            "103-1240-0000",
            "train-clean-100/103/1240/103-1240-0000.flac",
            "libri_103",
            "libri_103-1240",
            "train-clean-100",
            "f",
        ),
        ("61-70968-0000", "test-clean/61/70968/61-70968-0000.flac", "libri_61", "libri_61-70968", "test-clean", "m"),
    ]
    assert [item.path for item in prepared.skipped] == ["train-clean-100/103/stray.flac"]
    assert (
        prepared.coverage[0].sentence().startswith("test-clean: 1 speakers, 1 utterances; published are 40 and 2,620")
    )
    only = prepare_librispeech(root, subsets=["test-clean"])
    assert len(only.table) == 1
    with pytest.raises(TableError, match="lacks dev-clean"):
        prepare_librispeech(root, subsets=["dev-clean"])
    with pytest.raises(TableError, match="lacks any subset"):
        prepare_librispeech(root / "my-own")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_second_subset_goes_beside_the_first(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = served
    archive = folder / "test-clean.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in (("SPEAKERS.TXT", "new"), ("test-clean/61/1/61-1-0.flac", "fLaC")):
            member = tarfile.TarInfo(f"LibriSpeech/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    raw = archive.read_bytes()
    monkeypatch.setitem(librispeech.ARCHIVES, "test-clean", (hashlib.sha256(raw).hexdigest(), len(raw)))
    home = tmp_path / "home"
    touch(home, "LibriSpeech/dev-clean/1/2/1-2-3.flac")
    (home / "LibriSpeech/SPEAKERS.TXT").write_text("old")
    for _ in range(2):  # the second time nothing is asked for
        fetch_librispeech("test-clean", home, url=f"{url}/test-clean.tar.gz", announce=lambda _: None)
        archive.unlink(missing_ok=True)
    assert (home / "LibriSpeech/test-clean/61/1/61-1-0.flac").read_bytes() == b"fLaC"
    assert (home / "LibriSpeech/dev-clean/1/2/1-2-3.flac").is_file()
    assert (home / "LibriSpeech/SPEAKERS.TXT").read_text() == "old"
    assert [path.name for path in home.iterdir()] == ["LibriSpeech"]
    with pytest.raises(DownloadError, match="the others are at"):
        fetch_librispeech("train-other-500", home)


def test_trial_lists_with_a_known_hash(served: tuple[Path, str], tmp_path: Path, lists_dir: Path) -> None:
    folder, url = served
    for name in ("voxceleb1-o", "voxceleb1-o-cleaned"):
        file = TRIAL_LISTS[name].file
        (folder / file).write_bytes((lists_dir / file).read_bytes())
        path = fetch_trial_list(name, tmp_path / "lists", url=url, announce=lambda _: None)
        assert path.read_bytes() == (lists_dir / file).read_bytes()
    assert read_trials(path).n_target == 18_802
    (folder / "veri_test.txt").write_text("1 a b\n")
    with pytest.raises(DownloadError, match="expected 303b2b65"):
        fetch_trial_list("voxceleb1-o", tmp_path / "elsewhere", url=url, announce=lambda _: None)
    with pytest.raises(DownloadError, match="offline"):
        fetch_trial_list("voxceleb1-o", tmp_path / "elsewhere", url=url, offline=True)


def test_an_unknown_hash_is_that_of_the_first_download(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    (folder / "list_test_hard.txt").write_text("1 a b\n0 a c\n")
    path = fetch_trial_list("voxceleb1-h", tmp_path, url=url, announce=lambda _: None)
    assert (tmp_path / "list_test_hard.txt.sha256").read_text().split()[0] == hashlib.sha256(
        path.read_bytes()
    ).hexdigest()
    path.unlink()
    (folder / "list_test_hard.txt").write_text("1 a b\n1 a c\n")
    with pytest.raises(DownloadError, match="has changed or was tampered with"):
        fetch_trial_list("voxceleb1-h", tmp_path, url=url, announce=lambda _: None)
    assert not path.exists()


def test_the_command_says_what_to_request_for_voxceleb(tmp_path: Path) -> None:
    for name in ("voxceleb1", "voxceleb2"):
        result = CliRunner().invoke(app, ["fetch", name, str(tmp_path)])
        assert isinstance(result.exception, DownloadError)
        assert "given out on request" in str(result.exception)
    unknown = CliRunner().invoke(app, ["fetch", "musan", str(tmp_path)])
    assert "no download 'musan'" in str(unknown.exception)
    assert voxceleb_lists.URL.startswith("https://www.robots.ox.ac.uk/")
