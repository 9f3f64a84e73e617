"""A store gives back what was written, survives faults, and says what is wrong with it."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nestvox.atomic import atomic_path
from nestvox.errors import FingerprintError, NestvoxError, StoreError
from nestvox.extraction.store import store as store_module
from nestvox.extraction.store.metadata import FailedUtterance, StoreMetadata, default_shard_rows, is_store
from nestvox.extraction.store.shard_files import ShardRows
from nestvox.extraction.store.store import EmbeddingStore, StoreWriter, writing

METADATA = StoreMetadata(
    fingerprint="0123456789abcdef",
    model="toy",
    tap="nested",
    dims=(2, 3),
    dim=3,
    dtype="float32",
    planned_rows=7,
    shard_rows=3,
    table_sha256="t",
    labels=("synthetic",),
    training_speakers=("k1", "k2"),
)
NAMES = [f"u{row}" for row in range(7)]
VECTORS = np.random.default_rng(2).standard_normal((7, 3)).astype(np.float32)


def shard_rows(metadata: StoreMetadata, shard: int, vectors: np.ndarray = VECTORS) -> ShardRows:
    rows = list(metadata.planned(shard))
    names = [f"u{row}" for row in rows]
    return ShardRows(names, vectors[rows], [f"{name}.wav" for name in names], [f"s{row % 2}" for row in rows])


def write(path: Path, metadata: StoreMetadata = METADATA, vectors: np.ndarray = VECTORS) -> EmbeddingStore:
    writer = StoreWriter(path, metadata)
    for shard in writer.pending:
        writer.write_shard(shard, shard_rows(metadata, shard, vectors))
    return writer.finish()


def test_round_trip(tmp_path: Path) -> None:
    write(tmp_path / "s")
    store = EmbeddingStore(tmp_path / "s")
    assert len(store) == store.metadata.rows == 7
    assert store.utt_ids == NAMES
    assert store.paths == [f"{name}.wav" for name in NAMES]
    assert store.speakers == ["s0", "s1", "s0", "s1", "s0", "s1", "s0"]
    np.testing.assert_array_equal(store.vectors(), VECTORS)
    np.testing.assert_array_equal(store.take([6, 0, 3, 3]), VECTORS[[6, 0, 3, 3]])
    assert replace(store.metadata, shards=(), complete=False) == METADATA
    store.verify()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(0, 25),
    per_shard=st.integers(1, 30),
    dim=st.integers(1, 6),
    dtype=st.sampled_from(["float32", "float16"]),
    batch_rows=st.integers(1, 30),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_round_trips(tmp_path_factory: pytest.TempPathFactory, **drawn: int | str) -> None:
    rows, dim, dtype = int(drawn["rows"]), int(drawn["dim"]), str(drawn["dtype"])
    draw = np.random.default_rng(int(drawn["seed"]))
    vectors = draw.standard_normal((rows, dim)).astype(np.float32)
    metadata = replace(
        METADATA, dims=(dim,), dim=dim, dtype=dtype, planned_rows=rows, shard_rows=int(drawn["per_shard"])
    )
    store = write(tmp_path_factory.mktemp("any") / "s", metadata, vectors)
    expected = vectors.astype(dtype).astype(np.float32)
    assert store.vectors().dtype == np.float32
    np.testing.assert_array_equal(store.vectors(), expected)
    batches = list(store.iter_batches(int(drawn["batch_rows"])))
    assert [name for batch in batches for name in batch.ids or []] == [f"u{row}" for row in range(rows)]
    if batches:
        np.testing.assert_array_equal(np.concatenate([batch.vectors for batch in batches]), expected)
    picked = draw.integers(0, rows, 5) if rows else np.zeros(0, np.int64)
    np.testing.assert_array_equal(store.take(picked), expected[picked])


def test_one_float32_shard_is_not_copied(tmp_path: Path) -> None:
    vectors = write(tmp_path / "s", replace(METADATA, shard_rows=7)).vectors()
    assert not vectors.flags.owndata
    assert not vectors.flags.writeable


def test_shards_are_plain_arrow_files(tmp_path: Path) -> None:
    write(tmp_path / "s")
    with pa.ipc.open_file(tmp_path / "s" / "shard-000000.arrow") as reader:
        table = reader.read_all()
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 3)
    assert table["utt_id"].to_pylist() == NAMES[:3]
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), VECTORS[:3])


def test_frames_round_trip(tmp_path: Path) -> None:
    metadata = replace(METADATA, tap="frames", dims=(), planned_rows=4, shard_rows=3)
    draw = np.random.default_rng(8)
    frames = [draw.standard_normal((length, 3)).astype(np.float32) for length in (5, 1, 9, 2)]
    writer = StoreWriter(tmp_path / "s", metadata)
    writer.write_shard(0, ShardRows(NAMES[:3], frames[:3]))
    writer.write_shard(1, ShardRows(NAMES[3:4], frames[3:]))
    store = writer.finish()
    found = list(store.iter_frames())
    assert [name for name, _ in found] == NAMES[:4]
    for (_, one), other in zip(found, frames, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(StoreError, match="iter_frames"):
        store.vectors()


def test_resumed_store_is_byte_identical(tmp_path: Path) -> None:
    write(tmp_path / "whole")
    for order in ([0], [1, 2], []):
        writer = StoreWriter(tmp_path / "parts", METADATA)
        for shard in order:
            assert shard in writer.pending
            writer.write_shard(shard, shard_rows(METADATA, shard))
    assert writer.pending == ()
    assert writer.done_rows == 7
    (tmp_path / "parts" / ".shard-000002-x1.partial.arrow").write_bytes(b"left by a kill")
    StoreWriter(tmp_path / "parts", METADATA).finish()
    whole, parts = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("whole", "parts"))
    assert whole == parts


def test_skipped_utterances_survive_resumption(tmp_path: Path) -> None:
    bad = FailedUtterance("u1", "u1.wav", "all samples are zero")
    writer = StoreWriter(tmp_path / "s", METADATA)
    writer.write_shard(0, ShardRows(["u0", "u2"], VECTORS[[0, 2]], failed=[bad]))
    store = write(tmp_path / "s")
    assert store.metadata.failed == (bad,)
    assert store.utt_ids == ["u0", "u2", "u3", "u4", "u5", "u6"]
    with pytest.raises(StoreError, match=r"lacks 1 of 2 utterances, e\.g\. u1 \(all samples are zero\)"):
        store.index_of(["u0", "u1", "u1", "u0"])  # each is counted once


def test_index_by_id_then_path(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s", replace(METADATA, planned_rows=4, shard_rows=4))
    writer.write_shard(0, ShardRows(["a", "b", "c", "d"], VECTORS[:4], ["b", "b.wav", "both.wav", "both.wav"]))
    store = writer.finish()
    assert store.index_of(["b.wav", "a", "b", "d"]).tolist() == [1, 0, 1, 3]
    with pytest.raises(StoreError, match=r"several utterances have the path both\.wav"):
        store.index_of(["both.wav"])
    with pytest.raises(StoreError, match="rows 0 to 3"):
        store.take([4])


def test_names_and_speakers_in_two_spellings(tmp_path: Path) -> None:
    composed, apart = "Jos\u00e9", "Jose\u0301"
    writer = StoreWriter(tmp_path / "s", replace(METADATA, planned_rows=3, shard_rows=3))
    speakers = [apart, composed, "ben "]  # as stores hold them that were made before names had one form
    writer.write_shard(0, ShardRows([apart, "b", "c"], VECTORS[:3], ["x.wav", f"{composed}.wav", "z.wav"], speakers))
    store = writer.finish()
    assert store.index_of([composed, apart, f"{apart}.wav", "\ufeffc", "b "]).tolist() == [0, 0, 1, 2, 1]
    assert store.speakers == [composed, composed, "ben"]
    names, codes = store.speaker_codes()
    assert [names[code] for code in codes] == [composed, composed, "ben"]
    with pytest.raises(StoreError, match="lacks 1 of 1 utterances"):
        store.index_of(["B"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fingerprint": "f" * 16}, FingerprintError, "0123456789abcdef.*, not of toy .ffff"),
        ({"tap": "pooled"}, StoreError, "tap .nested. there, .pooled. now"),
        ({"dtype": "float16"}, StoreError, "dtype .float32. there, .float16. now"),
        ({"table_sha256": "other"}, StoreError, "the rows of the table .sha256 t there, other now"),
        ({"plan": {"max_duration_s": 3.0}}, StoreError, r"\(plan\.max_duration_s nothing there, 3\.0 now\)"),
        ({"shard_rows": 2}, StoreError, "shard_rows 3 there, 2 now"),
    ],
)
def test_another_run_is_refused_by_name(tmp_path: Path, change: dict, error: type, message: str) -> None:
    StoreWriter(tmp_path / "s", METADATA)
    with pytest.raises(error, match=message):
        StoreWriter(tmp_path / "s", replace(METADATA, **change))


def test_how_it_was_run_does_not_matter(tmp_path: Path) -> None:
    StoreWriter(tmp_path / "s", replace(METADATA, run={"batch_size": 4}))
    writer = StoreWriter(tmp_path / "s", replace(METADATA, run={"batch_size": 1}))
    assert writer.metadata.run == {"batch_size": 4}


def test_incomplete_store_is_refused_unless_asked_for(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s", METADATA)
    writer.write_shard(1, shard_rows(METADATA, 1))
    with pytest.raises(StoreError, match=r"not complete \(1 of 3 shards\)"):
        EmbeddingStore(tmp_path / "s")
    with pytest.raises(StoreError, match="2 of 3 shards are not written"):
        writer.finish()
    partial = EmbeddingStore(tmp_path / "s", allow_partial=True)
    assert partial.utt_ids == NAMES[3:6]
    np.testing.assert_array_equal(partial.vectors(), VECTORS[3:6])
    assert not partial.metadata.complete


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.97])
def test_truncated_shard_is_named(tmp_path: Path, kept: float) -> None:
    write(tmp_path / "s")
    shard = tmp_path / "s" / "shard-000001.arrow"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(kept if kept > 1 else len(content) * kept)])
    with pytest.raises(StoreError, match=r"shard-000001\.arrow: corrupt"):
        EmbeddingStore(tmp_path / "s")
    with pytest.raises(StoreError, match=r"shard-000001\.arrow: corrupt"):
        StoreWriter(tmp_path / "s", METADATA)


def test_every_flipped_byte_is_noticed_by_verify(tmp_path: Path) -> None:
    write(tmp_path / "s")
    shard = tmp_path / "s" / "shard-000002.arrow"
    content = shard.read_bytes()
    for place in range(0, len(content), 7):
        shard.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        with pytest.raises(StoreError, match=r"shard-000002\.arrow"):
            EmbeddingStore(tmp_path / "s").verify()


def test_deleted_shard_is_made_again(tmp_path: Path) -> None:
    write(tmp_path / "s")
    before = (tmp_path / "s" / "store.json").read_bytes()
    (tmp_path / "s" / "shard-000001.arrow").unlink()
    with pytest.raises(StoreError, match=r"shard-000001\.arrow: the shard is missing"):
        EmbeddingStore(tmp_path / "s")
    writer = StoreWriter(tmp_path / "s", METADATA)
    assert writer.pending == (1,)
    np.testing.assert_array_equal(write(tmp_path / "s").vectors(), VECTORS)
    assert (tmp_path / "s" / "store.json").read_bytes() == before


def test_shard_of_another_store_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "s")
    write(tmp_path / "t", replace(METADATA, fingerprint="f" * 16))
    shard = "shard-000001.arrow"
    (tmp_path / "s" / shard).write_bytes((tmp_path / "t" / shard).read_bytes())
    with pytest.raises(StoreError, match="belongs to another store"):
        EmbeddingStore(tmp_path / "s")


def test_full_disk_leaves_no_partial_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = StoreWriter(tmp_path / "s", METADATA)
    writer.write_shard(0, shard_rows(METADATA, 0))
    before = sorted(file.name for file in (tmp_path / "s").iterdir())

    def half_a_shard(file: Path, *_: object) -> None:
        file.write_bytes(b"ARROW1 and then")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_shard_file", half_a_shard)
        with pytest.raises(StoreError, match=r"s: cannot write \(No space left on device\).*make room.*resumes"):
            writer.write_shard(1, shard_rows(METADATA, 1))
    assert sorted(file.name for file in (tmp_path / "s").iterdir()) == before
    assert writer.pending == (1, 2)
    np.testing.assert_array_equal(write(tmp_path / "s").vectors(), VECTORS)


def test_bad_rows_are_refused(tmp_path: Path) -> None:
    vectors = VECTORS.copy()
    vectors[4, 2] = np.nan
    with pytest.raises(StoreError, match=r"u4: its vector is not finite"):
        write(tmp_path / "nan", METADATA, vectors)
    vectors[4, 2] = 1e6
    with pytest.raises(StoreError, match="too large for float16"):
        write(tmp_path / "half", replace(METADATA, dtype="float16"), vectors)
    writer = StoreWriter(tmp_path / "s", METADATA)
    with pytest.raises(StoreError, match="2 rows and 0 skipped, the plan has 3"):
        writer.write_shard(0, ShardRows(NAMES[:2], VECTORS[:2]))
    with pytest.raises(StoreError, match=r"vectors of 3 numbers, got \(3, 2\) for 3 rows"):
        writer.write_shard(0, ShardRows(NAMES[:3], VECTORS[:3, :2]))
    assert writer.pending == (0, 1, 2)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    assert not is_store(tmp_path / "full")
    with pytest.raises(StoreError, match=r"holds 'thesis\.txt'"):
        StoreWriter(tmp_path / "full", METADATA)
    with pytest.raises(StoreError, match="is a file"):
        StoreWriter(tmp_path / "file", METADATA)
    for name, message in (("full", r"no store\.json"), ("nowhere", r"no store\.json"), ("file", "not the folder")):
        with pytest.raises(StoreError, match=message):
            EmbeddingStore(tmp_path / name)


@pytest.mark.parametrize("change", ["not json", '{"format_version": 99}', '{"format_version": 1}', "[]"])
def test_bad_store_json_is_named(tmp_path: Path, change: str) -> None:
    write(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text(change)
    with pytest.raises(StoreError, match=r"store\.json: (not JSON|not a JSON object|format version|malformed)"):
        EmbeddingStore(tmp_path / "s")


def test_store_json_says_what_it_is(tmp_path: Path) -> None:
    write(tmp_path / "s")
    content = json.loads((tmp_path / "s" / "store.json").read_text())
    assert content["complete"] is True
    assert [shard["rows"] for shard in content["shards"]] == [3, 3, 1]
    assert content["labels"] == ["synthetic"]


def test_default_shards_depend_on_the_table_alone() -> None:
    assert [default_shard_rows(rows) for rows in (1, 4096, 64_000, 10_000_000)] == [64, 64, 1000, 8192]
    assert default_shard_rows(10_000_000, "frames") == 128


def test_store_needs_no_torch() -> None:
    rooms = "nestvox.extraction.store.store, nestvox.extraction.formats.interchange"
    code = f"import sys, {rooms}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_writes_a_store_and_others_read(tmp_path: Path) -> None:
    """A second writer is refused before it touches anything; a temporary file of the first stays."""
    path = tmp_path / "store"
    with writing(path):
        writer = StoreWriter(path, METADATA)
        with atomic_path(path / "shard-000009.arrow") as temporary:
            with pytest.raises(NestvoxError, match="another process"), writing(path):
                pass
            StoreWriter(path, METADATA)  # e.g. of an older version, which knows no lock
            EmbeddingStore(path, allow_partial=True)
            assert temporary.exists()
        assert writer.pending
    assert not (path / ".lock").exists()


def test_what_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), writing(tmp_path / "new"):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []


GOLDEN = Path(__file__).parent / "golden_stores"
NUMBERS = (np.arange(28, dtype=np.float32).reshape(7, 4) - 9) / 8


def test_stores_that_pyarrow_wrote_are_read() -> None:
    """The first versions wrote their shards with pyarrow."""
    plain = EmbeddingStore(GOLDEN / "plain")
    assert plain.utt_ids == ["a", "Jos\u00e9", "c", "g", "h", "\u65e5\u672c\u8a9e"]
    assert plain.paths == ["a.wav", None, "c/\u00fc.wav", None, None, None]
    assert plain.speakers == ["s", "s", None, None, None, None]
    assert plain.conditions == ["", "clipped short", None, None, None, None]
    assert [failure.utt_id for failure in plain.metadata.failed] == ["x0", "x1", "x2"]
    names, codes = plain.speaker_codes()
    assert (names, codes.tolist()) == (["", "s"], [1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(plain.vectors(), NUMBERS[:6])
    plain.verify()
    cache = EmbeddingStore(GOLDEN / "cache")
    assert cache.variants.tolist() == [0, 1] * 3
    np.testing.assert_array_equal(cache.vectors(), NUMBERS[:6])
    np.testing.assert_array_equal(cache.mapped("embedding").take(range(6)), NUMBERS[:6, 2:] * 2)
    frames = list(EmbeddingStore(GOLDEN / "frames").iter_frames())
    assert [name for name, _ in frames] == ["a", "b", "c"]
    for (_, found), expected in zip(frames, (NUMBERS[:1], NUMBERS[1:1], NUMBERS[1:5]), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["plain", "cache", "frames"])
def test_pyarrow_reads_the_same_from_a_store_that_is_written_again(tmp_path: Path, kind: str) -> None:
    old = EmbeddingStore(GOLDEN / kind)
    writer = StoreWriter(tmp_path / kind, old.metadata)
    for number, shard in enumerate(old.metadata.shards):
        before = pa.ipc.open_file(str(GOLDEN / kind / shard.name)).read_all()
        if kind == "frames":
            vectors = [np.array(row, np.float32).reshape(-1, 4) for row in before["frames"].to_pylist()]
            rows = ShardRows(before["utt_id"].to_pylist(), vectors, ["a.wav"] * 3, ["s"] * 3)
        else:
            rows = old.read_shard(number)
        writer.write_shard(number, rows)
        after = pa.ipc.open_file(str(tmp_path / kind / shard.name)).read_all()
        after.validate(full=True)
        assert after.schema.equals(before.schema, check_metadata=True)
        assert after.equals(before)
    writer.finish()


def test_a_store_has_more_shards_than_a_process_may_have_files(tmp_path: Path) -> None:
    metadata = replace(METADATA, planned_rows=120, shard_rows=1)
    writer = StoreWriter(tmp_path / "s", metadata)
    for shard in writer.pending:
        writer.write_shard(shard, ShardRows([f"u{shard}"], VECTORS[:1]))
    writer.finish()
    code = (
        "import resource, sys; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "from nestvox.extraction.store.store import EmbeddingStore\n"
        "print(EmbeddingStore(sys.argv[1]).vectors().shape)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, check=False
    )
    assert found.stdout.startswith("(120, 3)"), found.stderr
