"""Files of vectors that are nearly right: what is read of them, and what the message says to do."""

import io
import os
import pickle
import struct
from pathlib import Path

import kaldiio
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nestvox.errors import StoreError
from nestvox.extraction.formats.interchange import VectorWriter, iter_vectors
from nestvox.extraction.store.store import VectorBatch

ROWS = np.array([[0.5, -1.0, 2.0], [1.0, 0.25, -3.0]], np.float32)


def read(path: Path) -> tuple[list[str] | None, np.ndarray]:
    batches = list(iter_vectors(path))
    ids = [batch.ids for batch in batches]
    return (None if ids[0] is None else [name for part in ids for name in part or []]), np.concatenate(
        [batch.vectors for batch in batches]
    )


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (
            {"a": ROWS[0]},
            r"Python objects; pickled objects are never opened; if it is a dict .*np\.savez\(file, vectors=",
        ),
        (np.array([ROWS[0], ROWS[1], None], object), r"Python objects; .*np\.stack\(list\(vectors\)\)"),
        (ROWS[:, None, :], r"3-D array of float32 \(2, 1, 3\); save vectors\.reshape\(len\(vectors\), -1\)"),
        (ROWS[:, :, None], r"\(2, 3, 1\); save vectors\.reshape\(len\(vectors\), -1\)"),
        (np.zeros((2, 7, 3), np.float32), r"\(2, 7, 3\); one vector a row is needed: average the frames"),
        (ROWS[0], r"2-D array of floats, got a 1-D array of float32; save vector\[None\]"),
        (ROWS.astype(np.int8), r"int8; whole numbers are codes of something"),
        (ROWS.astype(np.complex64), r"complex64; save real numbers"),
        (np.array(["a", "b"]), r"save real numbers"),
        (np.asfortranarray(ROWS), r"Fortran-ordered 2-D array of float32; save np\.ascontiguousarray\(vectors\)"),
        (np.asfortranarray(np.zeros((2, 1, 3), np.float32)), r"reshape"),
    ],
)
def test_arrays_that_are_no_vectors(tmp_path: Path, array: object, words: str) -> None:
    np.save(tmp_path / "v.npy", array, allow_pickle=True)
    with pytest.raises(StoreError, match=words) as caught:
        read(tmp_path / "v.npy")
    assert ("ascontiguousarray" in str(caught.value)) == ("ascontiguousarray" in words)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (
            np.array(["a", "b"], object),
            r"\[ids\.npy\]: .*objects; save the ids as text, np\.array\(list\(ids\), str\)",
        ),
        (np.array([b"a", b"b"]), r"save the ids as text"),
        (np.array([["a"], ["b"]]), r"2-D array of <U1; save the ids as text"),
        (np.array([1.0, 2.0]), r"ids that became numbers with a fraction are lost"),
    ],
)
def test_ids_that_are_no_names(tmp_path: Path, ids: np.ndarray, words: str) -> None:
    np.savez(tmp_path / "v.npz", vectors=ROWS, ids=ids)
    with pytest.raises(StoreError, match=words):
        read(tmp_path / "v.npz")


def test_ids_that_are_whole_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", vectors=ROWS, ids=np.array([7, 12]))
    assert read(tmp_path / "v.npz")[0] == ["7", "12"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array(["a", None]), r"row 1 \[utt_id\] is null"),
        (pa.array(["a", ""]), r"row 1 \[utt_id\] is empty"),
        (pa.array([None, None]), r"row 0 \[utt_id\] is null"),
        (pa.array([1.0, 2.0]), r"\[utt_id\] holds ids as numbers with a fraction, e\.g\. 1\.0"),
        (pa.array([b"a", b"b"]), r"\[utt_id\] is a column of binary"),
        (pa.array([["a"], ["b"]]), r"\[utt_id\] is a column of list"),
        (pa.array([7, 12]), ["7", "12"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    ],
)
def test_ids_of_parquet(tmp_path: Path, ids: pa.Array, expected: object) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), 3)
    pq.write_table(pa.table({"utt_id": ids, "vector": vectors}), tmp_path / "v.parquet")
    if isinstance(expected, list):
        assert read(tmp_path / "v.parquet")[0] == expected
        return
    with pytest.raises(StoreError, match=str(expected)):
        read(tmp_path / "v.parquet")


def test_text_archives_with_matrices_of_one_row(tmp_path: Path) -> None:
    matrices = {"a": ROWS[:1], "b\u00a0c": ROWS[1:]}
    with kaldiio.WriteHelper(f"ark,t:{tmp_path}/m.ark") as writer:
        for name, matrix in matrices.items():
            writer(name, matrix)
    ids, found = read(tmp_path / "m.ark")
    assert ids == list(matrices)
    np.testing.assert_array_equal(found, ROWS)
    # As Kaldi's own copy-matrix writes it.
    (tmp_path / "k.ark").write_bytes(b"\xef\xbb\xbfa  [\n  0.5 -1 2 ]\nb  [\n  1 0.25 -3 ]\n")
    ids, found = read(tmp_path / "k.ark")
    assert ids == ["a", "b"]
    np.testing.assert_array_equal(found, ROWS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a  [\n  0.5 -1 2\n  1 2 3 ]\n", "a matrix of 2 rows"),
        (b"a  [ ]\n", "nothing where a vector"),
        (b"a  [\n 0.5 1\n", "truncated: no `]`"),
        (b"a  [ 1 2 ] 3\n", "more than a vector"),
        (b"a 1 2 3\n", "neither a binary nor a text vector"),
        (b"a \0BFV \x04" + struct.pack("<i", 2**31 - 1) + b"1234", "truncated: 4 of 8589934588 bytes"),
    ],
)
def test_archives_that_hold_something_else(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "v.ark").write_bytes(content)
    with pytest.raises(StoreError, match=words):
        read(tmp_path / "v.ark")


def test_scp_with_one_file_a_line(tmp_path: Path) -> None:
    binary = b"\0BFV \x04" + struct.pack("<i", 3) + ROWS[0].tobytes()
    (tmp_path / "a b.vec").write_bytes(binary)
    (tmp_path / "b.txt").write_text(" [ 1 0.25 -3 ]\n")
    (tmp_path / "c.mat").write_text(" [\n  1 0.25 -3 ]\n")
    np.save(tmp_path / "d.npy", ROWS[0])
    np.save(tmp_path / "e.npy", ROWS[1:].astype(np.float64))
    (tmp_path / "v.scp").write_text(
        "\ufeffu1 a b.vec\nu\u30002\tb.txt\r\nu3 c.mat\n\nu4 d.npy\nu5 e.npy\n", encoding="utf-8"
    )
    ids, found = read(tmp_path / "v.scp")
    assert ids == ["u1", "u\u30002", "u3", "u4", "u5"]
    np.testing.assert_array_equal(found, ROWS[[0, 1, 1, 0, 1]])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a", "expected `name archive:offset` or `name file`"),
        ("a v.ark", r"v\.scp:1: entry 'a' in v\.ark: the file begins with neither .* name the place"),
        ("a two.vec", "the file goes on behind its first vector"),
        ("a v.ark[0:1]", "a range of rows"),
        ("a gone.vec", r"v\.scp:1: no file gone\.vec"),
        ("a cat v.ark |", "a command in place of a file is never run"),
        ("a rows.npy", "2 rows where a vector is expected"),
    ],
)
def test_lines_of_scp_that_do_not_fit(tmp_path: Path, line: str, words: str) -> None:
    kaldiio.save_ark(str(tmp_path / "v.ark"), {"a": ROWS[0], "b": ROWS[1]})
    (tmp_path / "two.vec").write_text("[ 1 2 ]\n[ 1 2 ]\n")
    np.save(tmp_path / "rows.npy", ROWS)
    (tmp_path / "v.scp").write_text(line + "\n")
    with pytest.raises(StoreError, match=words):
        read(tmp_path / "v.scp")


def test_names_with_blanks_of_other_scripts_go_into_archives(tmp_path: Path) -> None:
    with VectorWriter(tmp_path / "v.ark") as writer:
        writer.write(VectorBatch(["a\u3000b", "c\u00a0d"], ROWS))
    for suffix in (".ark", ".scp"):
        assert read(tmp_path / f"v{suffix}")[0] == ["a\u3000b", "c\u00a0d"]


@pytest.mark.parametrize("shape", [(10**13, 3), (3, 10**13), (-1, 3)])
def test_headers_that_promise_more_than_there_is(tmp_path: Path, shape: tuple[int, int]) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    (tmp_path / "v.npy").write_bytes(header.getvalue() + bytes(24))
    with pytest.raises(StoreError, match=r"truncated|no NumPy array|no vectors"):
        read(tmp_path / "v.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".ark", ".scp"])
def test_pipes_are_not_waited_for(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"v{suffix}")
    with pytest.raises(StoreError, match="a FIFO, not a regular file"):
        read(tmp_path / f"v{suffix}")


def test_headers_that_are_no_text(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", ROWS)
    raw = bytearray((tmp_path / "v.npy").read_bytes())
    raw[30] = 0
    (tmp_path / "v.npy").write_bytes(raw)
    with pytest.raises(StoreError, match="no NumPy array"):
        read(tmp_path / "v.npy")


def test_an_scp_whose_lines_would_break_is_not_written(tmp_path: Path) -> None:
    folder = tmp_path / "a\nb"
    folder.mkdir()
    with pytest.raises(StoreError, match="cannot name a path with a line end"), VectorWriter(folder / "v.scp") as sink:
        sink.write(VectorBatch(["a"], np.ones((1, 2), np.float32)))
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("content", "words"), [(pickle.dumps({"a": [1.0]}), "pickle"), (b"PK\x03\x04" + bytes(90), "ZIP")]
)
def test_what_is_called_npy_and_is_none(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "v.npy").write_bytes(content)
    with pytest.raises(StoreError, match=words):
        read(tmp_path / "v.npy")
