"""Stores and files of vectors with numbers that are not true: refused by name, before memory is taken for them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.lib import format as npy

from nestvox.errors import StoreError
from nestvox.extraction.formats.interchange import iter_vectors, vector_shape
from nestvox.extraction.store.metadata import StoreMetadata
from nestvox.extraction.store.shard_files import ShardRows
from nestvox.extraction.store.store import EmbeddingStore, StoreWriter

NAMES = [f"u{row}" for row in range(6)]
VECTORS = np.random.default_rng(4).standard_normal((6, 4)).astype(np.float32)
PLAIN = StoreMetadata("f" * 16, "m", "nested", (2, 4), 4, "float32", 6, 6)


def store(folder: Path, metadata: StoreMetadata = PLAIN) -> Path:
    writer = StoreWriter(folder / "store", metadata)
    frames = [VECTORS[: 1 + row] for row in range(6)]
    rows = ShardRows(NAMES, frames if metadata.tap == "frames" else VECTORS, NAMES, ["a", "b"] * 3)
    if metadata.variants > 1:
        numbers = [row % metadata.variants for row in range(6)]
        rows = replace(rows, variants=numbers, columns={"embedding": VECTORS})
    writer.write_shard(0, rows)
    writer.finish()
    return folder / "store"


def change_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(dim="4"),
        lambda c: c.update(dim=True),
        lambda c: c.update(dim=10**12),
        lambda c: c.update(dims="24"),
        lambda c: c.update(dims=[2.0, 4]),
        lambda c: c.update(planned_rows=6.0),
        lambda c: c.update(labels=[1]),
        lambda c: c.update(training_speakers="anna"),
        lambda c: c.update(columns={"x": "4"}),
        lambda c: c.update(plan=[1]),
        lambda c: c.update(complete="yes"),
        lambda c: c.update(model=None),
        lambda c: c.update(surprise=1),
        lambda c: c.update(failed=[{"utt_id": "a", "path": None, "reason": 5}]),
        lambda c: c["shards"][0].update(name="../../etc/passwd"),
        lambda c: c["shards"][0].update(rows="6"),
        lambda c: c.update(shards={"name": "shard-000000.arrow"}),
    ],
)
def test_a_store_that_says_what_it_cannot(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    folder = store(tmp_path)
    change_json(folder / "store.json", change)
    with pytest.raises(StoreError, match=r"store\.json"):
        EmbeddingStore(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format_version": ' + "1" * 6000 + "}", "\xff", '{"a": 1, "a": 2}'])
def test_a_store_that_is_no_json(tmp_path: Path, text: str) -> None:
    folder = store(tmp_path)
    (folder / "store.json").write_text(text, encoding="latin-1")
    with pytest.raises(StoreError, match=r"store\.json"):
        EmbeddingStore(folder)


def reshard(folder: Path, change: Callable[[pa.Table], pa.Table], compression: str | None = None) -> None:
    """Replace the shard by a changed one that says it belongs here, and let store.json say its size."""
    file = folder / "shard-000000.arrow"
    with pa.ipc.open_file(str(file)) as reader:
        table = reader.read_all()
    changed = change(table).replace_schema_metadata(table.schema.metadata)
    with pa.ipc.new_file(str(file), changed.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(changed)
    change_json(folder / "store.json", lambda c: c["shards"][0].update(size_bytes=file.stat().st_size))


def column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


BAD_SHARDS: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "no vectors": (lambda t: t.drop_columns(["vector"]), "columns"),
    "no speakers": (lambda t: t.drop_columns(["speaker"]), "columns"),
    "a column more": (lambda t: t.append_column("x", pa.nulls(6)), "columns"),
    "other size": (
        lambda t: column(t, "vector", pa.array(VECTORS[:, :3].tolist(), pa.list_(pa.float32(), 3))),
        "vector",
    ),
    "lists": (lambda t: column(t, "vector", pa.array(VECTORS.tolist(), pa.list_(pa.float32()))), "vector holds"),
    "doubles": (lambda t: column(t, "vector", pa.array(VECTORS.tolist(), pa.list_(pa.float64(), 4))), "vector holds"),
    "dictionary": (lambda t: column(t, "speaker", t["speaker"].dictionary_encode()), "compressed|speaker holds"),
    "numbers as names": (lambda t: column(t, "utt_id", pa.array(range(6))), "utt_id holds"),
    "a null name": (lambda t: column(t, "utt_id", pa.array([None, *NAMES[1:]])), "utt_id has nulls"),
    "a null vector": (
        lambda t: column(t, "vector", pa.array([None, *VECTORS.tolist()[1:]], pa.list_(pa.float32(), 4))),
        "vector has nulls",
    ),
    "a null in one": (
        lambda t: column(t, "vector", pa.array([[None, 1, 2, 3], *VECTORS.tolist()[1:]], pa.list_(pa.float32(), 4))),
        "vector has nulls",
    ),
}


@pytest.mark.parametrize("name", BAD_SHARDS)
def test_shards_of_other_columns(tmp_path: Path, name: str) -> None:
    change, words = BAD_SHARDS[name]
    folder = store(tmp_path)
    reshard(folder, change)
    with pytest.raises(StoreError, match=rf"shard-000000\.arrow: corrupt.*({words})"):
        EmbeddingStore(folder)


def test_compressed_shards_are_refused_unopened(tmp_path: Path) -> None:
    folder = store(tmp_path)
    reshard(folder, lambda t: t, compression="zstd")
    with pytest.raises(StoreError, match="compressed"):
        EmbeddingStore(folder)


def test_vectors_that_are_not_finite(tmp_path: Path) -> None:
    folder = store(tmp_path)
    spoilt = np.where(np.arange(24).reshape(6, 4) == 9, np.inf, VECTORS)
    reshard(folder, lambda t: column(t, "vector", pa.array(spoilt.tolist(), pa.list_(pa.float32(), 4))))
    opened = EmbeddingStore(folder)
    for read in (opened.vectors, lambda: list(opened.iter_batches()), lambda: opened.take([2])):
        with pytest.raises(StoreError, match=r"row 2 .*not finite"):
            read()


def test_variants_out_of_order(tmp_path: Path) -> None:
    cache = replace(PLAIN, tap="pooled", dims=(), variants=2, columns={"embedding": 4})
    folder = store(tmp_path, cache)
    reshard(folder, lambda t: column(t, "variant", pa.array([0, 1, 1, 0, 0, 7], pa.int32())))
    with pytest.raises(StoreError, match="2 variants of each utterance"):
        EmbeddingStore(folder)


def test_offsets_beyond_the_texts(tmp_path: Path) -> None:
    folder = store(tmp_path)
    file = folder / "shard-000000.arrow"
    offsets, beyond = (np.array([0, 2, 4, 6, 8, 10, last], np.int32).tobytes() for last in (12, 1 << 30))
    content = file.read_bytes()
    assert content.count(offsets) == 2  # of the names and of the paths
    file.write_bytes(content.replace(offsets, beyond, 1))
    with pytest.raises(StoreError, match=r"shard-000000\.arrow: corrupt"):
        EmbeddingStore(folder)


def test_columns_whose_names_are_no_text(tmp_path: Path) -> None:
    folder = store(tmp_path)
    file = folder / "shard-000000.arrow"
    content = file.read_bytes()
    assert content.count(b"speaker") >= 2  # in the schema and in the footer
    file.write_bytes(content.replace(b"speaker", b"sp\xa0aker"))
    with pytest.raises(StoreError, match=r"shard-000000\.arrow: corrupt"):
        EmbeddingStore(folder)


def test_a_fifo_in_place_of_a_shard(tmp_path: Path) -> None:
    folder = store(tmp_path)
    (folder / "shard-000000.arrow").unlink()
    os.mkfifo(folder / "shard-000000.arrow")
    change_json(folder / "store.json", lambda c: c["shards"][0].update(size_bytes=0))
    with pytest.raises(StoreError, match="a FIFO"):
        EmbeddingStore(folder)


def npy_file(
    shape: str = "(6, 4)", descr: str = "'<f4'", body: bytes = VECTORS.tobytes(), order: str = "False"
) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return npy.MAGIC_PREFIX + b"\x02\x00" + len(header).to_bytes(4, "little") + header + body


def npz_file(packing: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return out.getvalue()


def ids(count: int = 6, descr: str = "'<U2'", body: bytes | None = None) -> bytes:
    return npy_file(f"({count},)", descr, np.array(NAMES).tobytes() if body is None else body)


BAD_FILES: dict[str, bytes] = {
    "ten terabytes.npy": npy_file("(2500000000000, 4)"),
    "endless rows of nothing.npy": npy_file("(10000000000000, 0)"),
    "one endless row.npy": npy_file("(1, 10000000000000)"),
    "negative.npy": npy_file("(-6, 4)"),
    "truth as a size.npy": npy_file("(True, 4)"),
    "huge header.npy": npy.MAGIC_PREFIX + b"\x02\x00" + (1 << 31).to_bytes(4, "little") + b" " * 100,
    "deep header.npy": npy_file("(" * 4000),
    "unary header.npy": npy_file("-" * 9000 + "1"),
    "open header.npy": npy_file("(6, 4"),
    "digits.npy": npy_file(f"({'9' * 6000}, 4)"),
    "structured.npy": npy_file(descr="[('a', '<f4'), ('b', '<f4')]"),
    "complex.npy": npy_file(descr="'<c8'"),
    "objects.npy": npy_file(descr="'|O'"),
    "fortran.npy": npy_file(order="True"),
    "two arrays.npy": npy_file() + npy_file(),
    "zeros.npz": npz_file(zipfile.ZIP_DEFLATED, vectors=npy_file("(20000000, 4)", body=bytes(320_000_000))),
    "ids not text.npz": npz_file(vectors=npy_file(), ids=ids(body=b"\xff" * 48)),
    "ids with surrogates.npz": npz_file(vectors=npy_file(), ids=ids(body=np.array([0xD800] * 12, "<u4").tobytes())),
    "ids of a gigabyte.npz": npz_file(vectors=npy_file(), ids=ids(descr="'<U300000000'")),
    "overflow.npy": npy_file(descr="'<f8'", body=np.full((6, 4), 1e300).tobytes()),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BAD_FILES)
def test_arrays_that_promise_what_is_not_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / name.replace(" ", "-")
    path.write_bytes(BAD_FILES[name])
    with pytest.raises(StoreError, match=path.name):
        list(iter_vectors(path))


def test_whole_ones_are_read(tmp_path: Path) -> None:
    for name, content in {
        "a.npy": npy_file(),
        "b.npz": npz_file(vectors=npy_file(), ids=ids()),
        "half.npy": npy_file(descr="'>f2'", body=VECTORS.astype(">f2").tobytes()),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert vector_shape(tmp_path / name) == (6, 4)
        (batch,) = iter_vectors(tmp_path / name)
        np.testing.assert_allclose(batch.vectors, VECTORS, rtol=1e-3, atol=1e-3)


def test_parquet_that_promises_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    flat = pa.array(np.zeros(20_000_000, np.float32))
    same = pa.FixedSizeListArray.from_arrays(flat, 1_000_000)
    pq.write_table(pa.table({"vector": same}), path, compression="zstd")
    assert path.stat().st_size < 3_000
    with pytest.raises(StoreError, match=r"v\.parquet: .*promise 20,000,000 values"):
        list(iter_vectors(path))
    table = pa.table([VECTORS[:, 0].tolist(), VECTORS.tolist(), VECTORS.tolist()], names=["x", "vector", "vector"])
    pq.write_table(table, path)
    with pytest.raises(StoreError, match="stands twice"):
        list(iter_vectors(path))


def test_archives_that_promise_what_is_not_there(tmp_path: Path) -> None:
    ark, scp = tmp_path / "v.ark", tmp_path / "v.scp"
    ark.write_bytes(b"u0 \0BDV \x04" + (0x7FFFFFF0).to_bytes(4, "little") + b"1234")
    with pytest.raises(StoreError, match=r"v\.ark: .*truncated"):
        list(iter_vectors(ark))
    for line in (f"u0 v.ark:{'9' * 6000}", f"u0 {'x' * 5000}:0", "u0 /dev/zero:0", "u0 a\0b:3"):
        scp.write_text(line)
        with pytest.raises(StoreError, match=r"v\.scp|/dev/zero"):
            list(iter_vectors(scp))
