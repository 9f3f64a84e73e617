"""A disk that fills up while something is written: an error of ours, no partial file, and a good second try."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from nestvox.audio.augment import Augmentation, Banks
from nestvox.audio.write import write_audio
from nestvox.cli.main import main
from nestvox.corpora import Trials, UtteranceTable, read_utterances, write_trials, write_utterances
from nestvox.corpora.augmented import write_augmented
from nestvox.corpora.shards import write_shards
from nestvox.errors import AudioError, NestvoxError
from nestvox.extraction.formats.interchange import export_store
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.report.drawing import Drawing
from nestvox.testing import make_noises, make_store

resource = pytest.importorskip("resource", reason="limits the size of files, on Unix only")

RATE = 16_000
NOISY = Augmentation(p_reverb=0, kinds={"white": 1.0}, p_noise=1.0)


@contextmanager
def small_files(most: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes: the system then refuses to write as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def table(tmp_path: Path) -> UtteranceTable:
    """Four recordings of 2 s; copies of them take some 50 kB each."""
    return make_noises(tmp_path / "audio", [2.0] * 4, ["x", "x", "y", "y"])


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("suffix", ["flac", "wav"])
@pytest.mark.parametrize("most", [0, 1, 4_096, 20_000])
def test_audio_is_whole_or_not_there(tmp_path: Path, suffix: str, most: int) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, RATE)
    with small_files(most), pytest.raises(AudioError, match="cannot be written: File too large; make room"):
        write_audio(tmp_path / f"a.{suffix}", samples, RATE)
    assert list(tmp_path.iterdir()) == []
    write_audio(tmp_path / f"a.{suffix}", samples, RATE)
    there, _ = soundfile.read(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(there, samples, atol=2**-15)


@pytest.mark.parametrize(
    "wrong", [(np.zeros(10), 0, "PCM_16"), (np.zeros(10), RATE, "NONSENSE"), (np.zeros((10, 99)), RATE, "PCM_16")]
)
def test_what_libsndfile_refuses_is_an_error_of_ours(tmp_path: Path, wrong: tuple) -> None:
    samples, rate, subtype = wrong
    with pytest.raises(AudioError, match="cannot be encoded"):
        write_audio(tmp_path / "a.flac", samples, rate, subtype=subtype)
    assert list(tmp_path.iterdir()) == []


def augmented(table: UtteranceTable, out: Path) -> UtteranceTable:
    return write_augmented(table, out, augmentation=NOISY, banks=Banks(), workers=1)


@pytest.mark.parametrize(("write", "most"), [(augmented, 20_000), (write_shards, 30_000), (write_shards, 100_000)])
def test_a_folder_is_made_whole_by_the_next_call(
    table: UtteranceTable, tmp_path: Path, write: Callable[[UtteranceTable, Path], UtteranceTable], most: int
) -> None:
    write(table, tmp_path / "whole")
    with small_files(most), pytest.raises((NestvoxError, OSError)):
        write(table, tmp_path / "cut")
    left = {name for name in bytes_in(tmp_path / "cut") if not name.endswith(".lock")}
    assert left <= {"augmentation.json", ".begun.json"}, left
    write(table, tmp_path / "cut")
    assert bytes_in(tmp_path / "cut") == bytes_in(tmp_path / "whole")


def test_a_copy_that_is_not_whole_is_made_again(table: UtteranceTable, tmp_path: Path) -> None:
    """Whoever left it there: half a file, one of another length, one that says nothing of its length, none at all."""
    out = tmp_path / "out"
    augmented(table, out)
    whole = bytes_in(out)
    (out / "utterances.tsv").unlink()
    files = sorted((out / "audio").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:20_000])
    soundfile.write(files[1], np.zeros(RATE), RATE)
    content = bytearray(files[2].read_bytes()[:20_000])
    content[21] &= 0xF0  # of the 36 bits with the number of samples; 0 means that it is not known
    content[22:26] = bytes(4)
    files[2].write_bytes(content)
    files[3].write_bytes(b"")
    augmented(table, out)
    assert bytes_in(out) == whole
    assert read_utterances(out / "utterances.tsv").frame["duration_s"].to_list() == [2.0] * 4


def test_the_command_ends_with_2_and_in_one_line(
    table: UtteranceTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_utterances(table, tmp_path / "audio" / "t.tsv")
    arguments = ["data", "augment", str(tmp_path / "audio" / "t.tsv"), "--out", str(tmp_path / "out")]
    with small_files(20_000), pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "cannot be written: File too large" in error
    assert "Traceback" not in error
    assert not list((tmp_path / "out").rglob("*.flac"))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert read_utterances(tmp_path / "out" / "utterances.tsv").frame["duration_s"].to_list() == [2.0] * 4


def a_store(folder: Path) -> EmbeddingStore:
    vectors = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    return make_store(folder, vectors, conditions=["short", None, *[""] * 198])


def drawing() -> Drawing:
    made = Drawing("x", 400, 300, "a line")
    made.line([(float(n % 400), float(n * 37 % 300)) for n in range(1000)], "line", series=0)
    return made


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "npy": lambda store, out: export_store(store, out / "x.npy"),
    "npz": lambda store, out: export_store(store, out / "x.npz"),
    "parquet": lambda store, out: export_store(store, out / "x.parquet"),
    "ark": lambda store, out: export_store(store, out / "x.ark"),
    "arrow": lambda _, out: a_store(out / "store"),
    "svg": lambda _, out: drawing().write(out, "svg"),
    "png": lambda _, out: drawing().write(out, "png"),
    "trials": lambda _, out: write_trials(many_trials(), out / "t.txt", "voxceleb"),
    "trials.csv": lambda _, out: write_trials(many_trials(), out / "t.csv", "csv"),
    "trials.parquet": lambda _, out: write_trials(many_trials(), out / "t.parquet", "parquet"),
    "table.tsv": lambda _, out: write_utterances(many_utterances(out), out / "t.tsv"),
    "table.csv": lambda _, out: write_utterances(many_utterances(out), out / "t.csv"),
    "table.parquet": lambda _, out: write_utterances(many_utterances(out), out / "t.parquet"),
}


def many_utterances(root: Path) -> UtteranceTable:
    names = [f"{hash(str(n)) & 0xFFFFFFFF:08x}-{n}" for n in range(2000)]
    return UtteranceTable(pl.DataFrame({"utt_id": names, "path": names, "speaker": names}), "t", root)


def many_trials() -> Trials:
    names = [f"u{n * 7919 % 4001}" for n in range(4000)]
    frame = {"enrol": names, "test": names[::-1], "target": [n % 3 == 0 for n in range(4000)]}
    return Trials(pl.DataFrame(frame), "t")


@pytest.mark.parametrize("kind", WRITERS)
def test_every_writer_leaves_all_or_nothing(tmp_path: Path, kind: str) -> None:
    store = tmp_path / "source"
    a_store(store)
    out = tmp_path / "out"
    out.mkdir()
    with small_files(3_000), pytest.raises((NestvoxError, OSError), match=r"(?i)too large") as failed:
        WRITERS[kind](store, out)
    assert isinstance(failed.value, NestvoxError) or failed.value.filename
    left = {name for name in bytes_in(out) if Path(name).name not in {"store.json", ".lock"}}
    assert left == set()
    WRITERS[kind](store, out)
    assert any(len(content) > 3_000 for content in bytes_in(out).values())
