"""What is written is read back by NumPy, PyArrow and kaldiio, and what they write is read here."""

from __future__ import annotations

import errno
import subprocess
import sys
import zipfile
from pathlib import Path

import kaldiio
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nestvox.errors import StoreError
from nestvox.extraction.formats import numpy_files
from nestvox.extraction.formats.interchange import VectorWriter, export_store, iter_vectors, vector_shape
from nestvox.extraction.store.metadata import StoreMetadata
from nestvox.extraction.store.store import EmbeddingStore, VectorBatch
from nestvox.testing import make_store

NAMES = [f"spk{row}-ütt" for row in range(7)]
VECTORS = np.random.default_rng(5).standard_normal((7, 3)).astype(np.float32)
NAMED = (".npz", ".parquet", ".ark", ".scp")


def write(path: Path, vectors: np.ndarray = VECTORS, ids: list[str] | None = NAMES, step: int = 3) -> Path:
    with VectorWriter(path) as writer:
        for start in range(0, len(vectors), step):
            names = None if ids is None else ids[start : start + step]
            writer.write(VectorBatch(names, vectors[start : start + step]))
    return path


def write_batches(path: Path, batches: list[VectorBatch]) -> None:
    with VectorWriter(path) as writer:
        for batch in batches:
            writer.write(batch)


def read(path: Path, batch_rows: int = 4) -> tuple[list[str] | None, np.ndarray]:
    batches = list(iter_vectors(path, batch_rows))
    assert all(len(batch.vectors) <= batch_rows and batch.vectors.dtype == np.float32 for batch in batches)
    named = batches[0].ids is not None
    ids = [name for batch in batches for name in batch.ids or []] if named else None
    return ids, np.concatenate([batch.vectors for batch in batches])


def test_numpy_reads_our_npy(tmp_path: Path) -> None:
    path = write(tmp_path / "v.npy")
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), VECTORS)


def test_numpy_reads_our_npz(tmp_path: Path) -> None:
    with np.load(write(tmp_path / "v.npz"), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["vectors"], VECTORS)
        assert arrays["ids"].tolist() == NAMES


def test_pyarrow_reads_our_parquet(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path / "v.parquet"))
    assert table["utt_id"].to_pylist() == NAMES
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), VECTORS)


def test_kaldiio_reads_our_ark_and_scp(tmp_path: Path) -> None:
    path = write(tmp_path / "v.ark")
    for entries in (dict(kaldiio.load_ark(str(path))), dict(kaldiio.load_scp(str(tmp_path / "v.scp")))):
        assert list(entries) == NAMES
        np.testing.assert_array_equal(np.stack(list(entries.values())), VECTORS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_files_of_others(tmp_path: Path, dtype: type) -> None:
    vectors = VECTORS.astype(dtype)
    np.save(tmp_path / "v.npy", vectors)
    np.savez(tmp_path / "one.npz", anything=vectors)
    np.savez_compressed(tmp_path / "two.npz", vectors=vectors, ids=np.array(NAMES))
    for name in ("v.npy", "one.npz", "two.npz"):
        assert vector_shape(tmp_path / name) == (7, 3)
        ids, found = read(tmp_path / name)
        assert ids == (NAMES if name == "two.npz" else None)
        np.testing.assert_array_equal(found, vectors.astype(np.float32))


@pytest.mark.parametrize("list_type", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 3)])
def test_parquet_of_others(tmp_path: Path, list_type: pa.DataType) -> None:
    table = pa.table({"embedding": pa.array(VECTORS.tolist(), list_type), "id": NAMES, "other": [[1.0]] * 7})
    pq.write_table(table, tmp_path / "v.parquet", row_group_size=2)
    assert vector_shape(tmp_path / "v.parquet") == (7, 3)
    ids, found = read(tmp_path / "v.parquet")
    assert ids == NAMES
    np.testing.assert_array_equal(found, VECTORS)


@pytest.mark.parametrize("text", [False, True])
def test_kaldi_of_others(tmp_path: Path, text: bool) -> None:
    mode = "ark,t,scp" if text else "ark,scp"
    with kaldiio.WriteHelper(f"{mode}:{tmp_path}/v.ark,{tmp_path}/v.scp") as writer:
        for name, vector in zip(NAMES, VECTORS, strict=True):
            writer(name, vector)
    for suffix in (".ark", ".scp"):
        path = tmp_path / f"v{suffix}"
        assert vector_shape(path) == (None, 3)
        ids, found = read(path)
        assert ids == NAMES
        np.testing.assert_allclose(found, VECTORS, rtol=1e-6)


def test_kaldi_doubles_and_one_row_matrices(tmp_path: Path) -> None:
    kaldiio.save_ark(str(tmp_path / "v.ark"), {"a": VECTORS[0].astype(np.float64), "b": VECTORS[1:2]})
    ids, found = read(tmp_path / "v.ark")
    assert ids == ["a", "b"]
    np.testing.assert_array_equal(found, VECTORS[:2])


def test_moved_scp_finds_the_archive_beside_it(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    write(tmp_path / "here" / "v.scp")
    (tmp_path / "here").rename(tmp_path / "there")
    assert read(tmp_path / "there" / "v.scp")[0] == NAMES


def test_scp_command_is_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "v.scp").write_text(f"a touch {tmp_path}/ran |\n")
    with pytest.raises(StoreError, match=r"v\.scp:1: a command .* never run"):
        list(iter_vectors(tmp_path / "v.scp"))
    assert not (tmp_path / "ran").exists()


def test_pickled_kaldi_entries_and_npy_objects_are_refused(tmp_path: Path) -> None:
    (tmp_path / "v.ark").write_bytes(b"a \0BPKL whatever")
    np.save(tmp_path / "v.npy", np.array([{}, {}], object), allow_pickle=True)
    for name in ("v.ark", "v.npy"):
        with pytest.raises(StoreError, match=name):
            list(iter_vectors(tmp_path / name))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from([".npy", *NAMED]),
    rows=st.integers(1, 20),
    dim=st.integers(1, 9),
    step=st.integers(1, 21),
    batch_rows=st.integers(1, 21),
    seed=st.integers(0, 2**32 - 1),
)
def test_round_trip(tmp_path: Path, suffix: str, rows: int, dim: int, step: int, batch_rows: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    ids = [f"u{row}" for row in range(rows)]
    path = write(tmp_path / f"v{suffix}", vectors, ids, step)
    found_ids, found = read(path, batch_rows)
    assert found_ids == (None if suffix == ".npy" else ids)
    np.testing.assert_array_equal(found, vectors)
    assert vector_shape(path) == (None if suffix in (".ark", ".scp") else rows, dim)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_nameless_round_trip(tmp_path: Path, suffix: str) -> None:
    ids, found = read(write(tmp_path / f"v{suffix}", ids=None))
    assert ids is None
    np.testing.assert_array_equal(found, VECTORS)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".ark"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_file_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    path = write(tmp_path / f"v{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(StoreError, match=rf"v\{suffix}"):
        list(iter_vectors(path))


@pytest.mark.parametrize("compressed", [False, True])
def test_flipped_npz_is_noticed(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "v.npz"
    (np.savez_compressed if compressed else np.savez)(path, vectors=VECTORS)
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len("vectors.npy") + info.compress_size - 1] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"v\.npz"):
        list(iter_vectors(path))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".ark"])
def test_non_finite_row_is_named_in_reading(tmp_path: Path, suffix: str) -> None:
    vectors = VECTORS.copy()
    vectors[5, 1] = np.nan
    path = tmp_path / f"v{suffix}"
    if suffix == ".npy":
        np.save(path, vectors)
    elif suffix == ".npz":
        np.savez(path, vectors=vectors, ids=np.array(NAMES))
    elif suffix == ".parquet":
        pq.write_table(pa.table({"utt_id": NAMES, "vector": vectors.tolist()}), path)
    else:
        kaldiio.save_ark(str(path), dict(zip(NAMES, vectors, strict=True)))
    with pytest.raises(StoreError, match=r"row 5 .*not finite"):
        list(iter_vectors(path, 4))


def test_ragged_rows_are_named(tmp_path: Path) -> None:
    ragged = [[1.0, 2.0], [3.0, 4.0], [5.0], [6.0, 7.0]]
    pq.write_table(pa.table({"utt_id": list("abcd"), "vector": ragged}), tmp_path / "v.parquet")
    kaldiio.save_ark(str(tmp_path / "v.ark"), {k: np.array(v, np.float32) for k, v in zip("abcd", ragged, strict=True)})
    for name in ("v.parquet", "v.ark"):
        for batch_rows in (1, 2, 3):
            with pytest.raises(StoreError, match=r"row 2 .*has 1 numbers"):
                list(iter_vectors(tmp_path / name, batch_rows))


def test_nulls_are_named(tmp_path: Path) -> None:
    for rows, message in (([[1.0], None], "row 1 .* is null"), ([[1.0], [None]], "row 1 .* a null in it")):
        table = pa.table({"vector": pa.array(rows, pa.list_(pa.float32()))})
        pq.write_table(table, tmp_path / "v.parquet")
        with pytest.raises(StoreError, match=message):
            list(iter_vectors(tmp_path / "v.parquet"))


def test_unusable_files_say_what_is_expected(tmp_path: Path) -> None:
    np.savez(tmp_path / "many.npz", a=VECTORS, b=VECTORS)
    np.save(tmp_path / "flat.npy", VECTORS[0])
    np.save(tmp_path / "order.npy", np.asfortranarray(VECTORS))
    (tmp_path / "v.csv").write_text("1,2\n")
    for name, message in {
        "many.npz": "expected `vectors`",
        "flat.npy": "2-D array of floats",
        "order.npy": "Fortran-ordered",
        "v.csv": "unknown format",
        "none.npy": "no such file",
        ".": r"without store\.json",
    }.items():
        with pytest.raises(StoreError, match=message):
            list(iter_vectors(tmp_path / name))


@pytest.mark.parametrize("suffix", [".npy", *NAMED])
def test_failed_write_leaves_nothing_and_keeps_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    path.write_text("what was there")
    spoiled = np.where(np.arange(7)[:, None] == 6, np.nan, VECTORS).astype(np.float32)
    with pytest.raises(StoreError, match="row 6"):
        write(path, spoiled)
    assert path.read_text() == "what was there"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(numpy_files.NpySink, "write", refuse)
    for suffix in (".npy", ".npz"):
        with pytest.raises(StoreError, match=r"No space left on device.*nothing was left behind"):
            write(tmp_path / f"v{suffix}")
    monkeypatch.setattr(pq, "ParquetWriter", refuse)
    with pytest.raises(StoreError, match="No space left on device"):
        write(tmp_path / "v.parquet")
    assert list(tmp_path.iterdir()) == []


def test_writer_refuses_what_readers_would(tmp_path: Path) -> None:
    bad = VECTORS.copy()
    bad[2, 0] = np.inf
    cases = [
        ("v.npy", [VectorBatch(NAMES, bad)], "row 2 .*not finite"),
        ("v.npy", [VectorBatch(None, VECTORS), VectorBatch(None, VECTORS[:, :2])], "rows of 3 numbers"),
        ("v.npz", [VectorBatch(NAMES, VECTORS), VectorBatch(None, VECTORS)], "some have none"),
        ("v.npz", [VectorBatch(NAMES[:2], VECTORS)], "2 names for 7 rows"),
        ("v.ark", [VectorBatch(None, VECTORS)], "needs a name for every row"),
        ("v.ark", [VectorBatch(["a b"], VECTORS[:1])], "white space"),
        ("v.npy", [], "no rows"),
        ("v.csv", [], "unknown suffix"),
    ]
    for name, batches, message in cases:
        with pytest.raises(StoreError, match=message):
            write_batches(tmp_path / name, batches)
    assert list(tmp_path.iterdir()) == []


def metadata(rows: int = 7, **changes: object) -> StoreMetadata:
    values: dict[str, object] = {
        "fingerprint": "0123456789abcdef",
        "model": "toy",
        "tap": "nested",
        "dims": (2, 3),
        "dim": 3,
        "dtype": "float32",
        "planned_rows": rows,
        "shard_rows": 3,
    }
    return StoreMetadata(**{**values, **changes})  # type: ignore[arg-type]


def test_store_in_and_out(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with VectorWriter(path, metadata=metadata()) as writer:
        for row in range(7):
            writer.write(VectorBatch([NAMES[row]], VECTORS[row : row + 1]))
    assert vector_shape(path) == (7, 3)
    assert EmbeddingStore(path).metadata.n_shards == 3
    ids, found = read(path)
    assert ids == NAMES
    np.testing.assert_array_equal(found, VECTORS)


def test_store_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match="1 of 4 shards"),
        VectorWriter(tmp_path / "s", metadata=metadata(10)) as writer,
    ):
        writer.write(VectorBatch([*NAMES[:7], "x", "y"], np.concatenate([VECTORS, VECTORS[:2]])))
    assert list(tmp_path.iterdir()) == []


def test_export(tmp_path: Path) -> None:
    make_store(tmp_path / "s", VECTORS, NAMES, **vars(metadata()))
    seen: list[tuple[int, int | None]] = []
    count = export_store(
        tmp_path / "s", tmp_path / "v.npz", dim=2, progress=lambda done, total: seen.append((done, total))
    )
    assert count == 7
    assert seen[-1] == (7, 7)
    prefix = VECTORS[:, :2].astype(np.float64)
    expected = prefix / np.sqrt((prefix**2).sum(axis=1, keepdims=True))
    with np.load(tmp_path / "v.npz") as arrays:
        np.testing.assert_allclose(arrays["vectors"], expected, atol=1e-6)
        assert arrays["ids"].tolist() == NAMES
    export_store(tmp_path / "s", tmp_path / "v.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), VECTORS)
    with pytest.raises(StoreError, match="no prefix of 1: its dims are 2, 3"):
        export_store(tmp_path / "s", tmp_path / "w.npy", dim=1)


HIDE_PYARROW = """
import sys


class NoPyarrow:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "pyarrow":
            raise ModuleNotFoundError("No module named 'pyarrow'", name=name)


sys.meta_path.insert(0, NoPyarrow())
from nestvox.cli.main import main
main(sys.argv[1:])
"""


def test_without_pyarrow_stores_work_and_parquet_asks_for_its_extra(tmp_path: Path) -> None:
    make_store(tmp_path / "s", VECTORS, NAMES)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", HIDE_PYARROW, *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)

    assert run("export", "s", "--out", "v.npz").returncode == 0
    np.testing.assert_array_equal(read(tmp_path / "v.npz")[1], VECTORS)
    for words in (("export", "s", "--out", "v.parquet"), ("data", "check", "t.parquet")):
        refused = run(*words)
        assert refused.returncode == 2
        assert "[parquet]" in refused.stderr, refused.stderr
    assert not (tmp_path / "v.parquet").exists()
