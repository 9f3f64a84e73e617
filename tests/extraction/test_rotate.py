"""Rotating vectors that somebody already has: streamed as in memory, labels by row or name, nothing lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.trials import Trials
from nestvox.errors import FingerprintError, ModelError, NestvoxError, OverlapError, StoreError, TableError
from nestvox.evaluation.measure import evaluate
from nestvox.extraction import rotate as module
from nestvox.extraction.formats import labels as labels_module
from nestvox.extraction.formats.interchange import VectorWriter, iter_vectors
from nestvox.extraction.formats.labels import read_labels
from nestvox.extraction.rotate import apply_rotation, rotate_store, rotate_vectors
from nestvox.extraction.store.metadata import FailedUtterance, StoreMetadata
from nestvox.extraction.store.shard_files import ShardRows
from nestvox.extraction.store.store import EmbeddingStore, StoreWriter, VectorBatch
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.rotation import Rotation, Scatter, pca, truncation
from nestvox.testing import make_store

SIZE, SPEAKERS, TAKES = 24, 40, 6
ROWS = SPEAKERS * TAKES
NAMES = [f"u{row:03}" for row in range(ROWS)]
SPEAKER_OF = [f"speaker {row // TAKES}" for row in range(ROWS)]
FINGERPRINT = "00000000000000aa"


def world() -> np.ndarray:
    """Speakers in the last coordinates, sessions in the first, so that truncation is the worst order."""
    generator = np.random.default_rng(1)
    vectors = 0.2 * generator.standard_normal((ROWS, SIZE))
    vectors[:, -4:] += generator.standard_normal((SPEAKERS, 4)).repeat(TAKES, axis=0)
    vectors[:, :4] += generator.standard_normal((ROWS, 4))
    return vectors.astype(np.float32)


VECTORS = world()


def write_store(path: Path, *, dtype: str = "float32", shard_rows: int = 70, **changes: object) -> EmbeddingStore:
    metadata = {"fingerprint": FINGERPRINT, "tap": "embedding", "dims": (), "labels": ("synthetic",)} | changes
    paths = [f"{name}.wav" for name in NAMES]
    return make_store(path, VECTORS, NAMES, paths, SPEAKER_OF, dtype=dtype, shard_rows=shard_rows, **metadata)


def write_source(folder: Path, kind: str) -> Path:
    if kind == "store":
        write_store(folder / "store")
        return folder / "store"
    path = folder / f"vectors{kind}"
    with VectorWriter(path) as writer:
        for start in range(0, ROWS, 100):
            names = None if kind == ".npy" else NAMES[start : start + 100]
            writer.write(VectorBatch(names, VECTORS[start : start + 100]))
    return path


def read_back(path: Path) -> tuple[list[str] | None, np.ndarray]:
    batches = list(iter_vectors(path))
    names = None if batches[0].ids is None else [name for batch in batches for name in batch.ids]
    return names, np.concatenate([batch.vectors for batch in batches])


def cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return unit @ unit.T


KINDS = [".npy", ".npz", ".parquet", ".ark", ".scp", "store"]


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_is_in_memory(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_ROWS", 37)
    source = write_source(tmp_path, kind)
    calls: list[tuple[int, int | None]] = []
    report = rotate_vectors(source, dims=(4, 8), progress=lambda done, total: calls.append((done, total)))
    scatter = Scatter(SIZE)
    scatter.add(VECTORS)
    np.testing.assert_allclose(report.rotation.matrix, pca(scatter).matrix, atol=1e-9)
    assert (report.rotation.method, report.rotation.dims, report.rows) == ("pca", (4, 8, SIZE), ROWS)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (ROWS, None if kind in (".ark", ".scp") else ROWS)

    out = tmp_path / ("rotated" if kind == "store" else f"rotated{kind}")
    assert apply_rotation(report.rotation, source, out) == ROWS
    names, rotated = read_back(out)
    assert names == (None if kind == ".npy" else NAMES)
    np.testing.assert_allclose(rotated, VECTORS @ report.rotation.matrix, atol=1e-6)
    assert np.abs(cosines(rotated) - cosines(VECTORS)).max() <= 1e-6


def test_figures_of_an_unlabelled_report(tmp_path: Path) -> None:
    report = rotate_vectors(write_source(tmp_path, ".npy"), dims=(4, 8))
    upper = np.triu_indices(ROWS, k=1)
    full = cosines(VECTORS)[upper]
    turned = VECTORS @ report.rotation.matrix
    for prefix in report.prefixes:
        for found, vectors in ((prefix.kept_before, VECTORS), (prefix.kept_after, turned)):
            expected = np.corrcoef(cosines(vectors[:, : prefix.dim])[upper], full)[0, 1]
            assert found == pytest.approx(expected, abs=1e-5)
        assert (prefix.eer_before, prefix.eer_after) == (None, None)
    assert report.full_difference <= 1e-6
    assert report.speakers == {}
    json = report.to_dict()
    assert (json["rows"], json["method"], json["dims"]) == (ROWS, "pca", [4, 8, SIZE])
    assert [row["dim"] for row in json["prefixes"]] == [4, 8, SIZE]


def test_sample_is_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAMPLE_ROWS", 30)
    counts = np.zeros(200)
    for seed in range(300):
        sample = module._Sample(1, seed)
        for start in range(0, 200, 32):
            sample.add(np.arange(start, min(start + 32, 200), dtype=np.float32)[:, None])
        rows = sample.rows()[:, 0].astype(int)
        assert len(set(rows)) == 30
        counts[rows] += 1
    # Binomial with mean 45 and deviation 6.2; 200 of them stay within five deviations.
    assert np.abs(counts - 45).max() < 5 * np.sqrt(300 * 0.15 * 0.85)


# --- labels


def test_labels_as_lines_and_as_tables(tmp_path: Path) -> None:
    npz, npy = write_source(tmp_path, ".npz"), write_source(tmp_path, ".npy")
    lines = tmp_path / "labels.txt"
    lines.write_text("﻿" + "\r\n".join(["", *SPEAKER_OF[1:]]) + "\r\n", encoding="utf-8")
    expected = [None, *SPEAKER_OF[1:]]
    assert read_labels(lines, npy).to_list() == expected
    frame = pl.DataFrame({"speaker": SPEAKER_OF, "extra": SPEAKER_OF, "utt_id": NAMES})
    shuffled = pl.concat([frame, pl.DataFrame({"speaker": ["x"], "extra": ["y"], "utt_id": ["elsewhere"]})])
    shuffled = shuffled.filter(pl.col("utt_id") != NAMES[0]).sample(fraction=1.0, shuffle=True, seed=1)
    shuffled.write_csv(tmp_path / "t.csv")
    shuffled.write_csv(tmp_path / "t.tsv", separator="\t")
    shuffled.write_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.tsv", "t.parquet"):
        assert read_labels(tmp_path / name, npz).to_list() == expected, name
    with pytest.raises(TableError, match=r"has no names for its rows.*one speaker a line"):
        read_labels(tmp_path / "t.csv", npy)


def test_long_label_files_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "_BATCH_ROWS", 7)
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(SPEAKER_OF))
    assert read_labels(path, tmp_path).to_list() == SPEAKER_OF


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("l.csv", b"utt_id,who\nu000,a\n", "no column speaker"),
        ("l.tsv", b"name\twho\nu000\ta\n", "no column utt_id and speaker"),
        ("l.csv", b"utt_id,speaker\nx,a\n", "no utt_id of the table names a row.*u000"),
        ("l.csv", b"utt_id,speaker\nu000,a\nu000,b\n", "'u000' has several speakers: .*a.*b"),
        ("l.csv", b"utt_id,speaker\nu000,a,b\n", "3 fields"),
        ("l.csv", b"", "no header"),
        ("l.txt", b"\xff\xfe\x00", "UTF-8"),
        ("l.csv", b"utt_id,speaker\n\xff,a\n", "UTF-8"),
        ("l.parquet", b"no parquet", "not a Parquet file"),
    ],
)
def test_labels_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    source = write_source(tmp_path, ".npz")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=what) as caught:
        read_labels(tmp_path / name, source)
    assert str(tmp_path / name) in str(caught.value)


def test_missing_labels(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such file"):
        read_labels(tmp_path / "none.txt", write_source(tmp_path, ".npz"))


def labels(values: list[str | None]) -> pl.Series:
    return pl.Series("speaker", values, pl.String)


@pytest.mark.parametrize("kind", [".npy", ".ark"])
@pytest.mark.parametrize("count", [ROWS - 1, ROWS + 1, 0])
def test_wrong_number_of_labels(tmp_path: Path, kind: str, count: int) -> None:
    source = write_source(tmp_path, kind)
    with pytest.raises(ModelError, match=f"{count} labels for the {ROWS} rows|two vectors or more"):
        rotate_vectors(source, labels=labels((SPEAKER_OF * 2)[:count]))


def test_too_few_speakers(tmp_path: Path) -> None:
    source = write_source(tmp_path, ".npy")
    nine = [name if row < 9 * TAKES else f"alone {row}" for row, name in enumerate(SPEAKER_OF)]
    with pytest.raises(ModelError, match="9 speakers have two vectors or more"):
        rotate_vectors(source, labels=labels(nine))
    with pytest.raises(ModelError, match="0 speakers"):
        rotate_vectors(source, labels=labels([None] * ROWS))
    ten = [name if row < 10 * TAKES else None for row, name in enumerate(SPEAKER_OF)]
    report = rotate_vectors(source, labels=labels(ten), method="discriminant")
    assert {part: n["speakers"] for part, n in report.speakers.items()} == {"fit": 6, "choose": 2, "report": 2}


def test_method_without_labels(tmp_path: Path) -> None:
    for method in ("discriminant", "refined"):
        with pytest.raises(ModelError, match="needs labels"):
            rotate_vectors(write_source(tmp_path, ".npy"), method=method)


def test_dims_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    source = write_source(tmp_path, ".npy")
    calls: list[int] = []
    with pytest.raises(ModelError, match="between 1 and 24"):
        rotate_vectors(source, dims=(512,), progress=lambda done, total: calls.append(done))
    assert calls == []


# --- the division of speakers


def parts_of(names: list[str | None], seed: int = 0) -> dict[str, np.ndarray]:
    return module._divide(labels(names), seed)


def speakers_in(parts: dict[str, np.ndarray], names: list[str | None]) -> dict[str, set[str | None]]:
    return {part: {names[row] for row in rows} for part, rows in parts.items()}


def test_speakers_never_cross_parts_whatever_the_order() -> None:
    names: list[str | None] = [*SPEAKER_OF, None, "alone", None, "also alone"]
    parts = parts_of(names)
    found = speakers_in(parts, names)
    assert list(parts) == ["fit", "choose", "report"]
    assert {part: len(speakers) for part, speakers in found.items()} == {"fit": 28 + 2, "choose": 6, "report": 6}
    assert not found["fit"] & found["choose"] | found["fit"] & found["report"] | found["choose"] & found["report"]
    assert {"alone", "also alone"} <= found["fit"]
    assert None not in set().union(*found.values())
    for rows in parts.values():
        assert (np.diff(rows) > 0).all()
        assert rows.dtype == np.int64
    order = np.random.default_rng(1).permutation(len(names))
    shuffled = [names[row] for row in order]
    assert speakers_in(parts_of(shuffled), shuffled) == found
    assert speakers_in(parts_of(names, seed=1), names) != found
    assert all(np.array_equal(parts[part], rows) for part, rows in parts_of(names).items())


def test_speakers_are_taken_whole_where_there_are_more_than_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows drawn from everybody would leave hardly any two of one speaker."""
    small = {
        "fit": module._Part(0.7, 200, 50),
        "choose": module._Part(0.15, 60, 20),
        "report": module._Part(0.15, 60, 20),
    }
    monkeypatch.setattr(module, "_PARTS", small)
    names: list[str | None] = [f"s{row % 1000}" for row in range(8000)]
    parts = parts_of(names)
    for part, rows in parts.items():
        _, counts = np.unique([names[row] for row in rows], return_counts=True)
        assert len(rows) <= small[part].rows
        assert set(counts) == {5}
    busy: list[str | None] = [f"s{row % 20}" for row in range(8000)]
    for part, rows in parts_of(busy).items():
        _, counts = np.unique([busy[row] for row in rows], return_counts=True)
        assert len(rows) <= small[part].rows
        assert len(set(counts)) == 1, "every speaker counts alike"
        assert counts[0] == min(small[part].per_speaker, small[part].rows // len(counts))


def test_labelled_report(tmp_path: Path) -> None:
    source = write_source(tmp_path, ".npy")
    calls: list[tuple[int, int | None]] = []
    report = rotate_vectors(
        source, labels=labels(SPEAKER_OF), dims=(4, 8), choosing=lambda done, total: calls.append((done, total))
    )
    assert calls
    assert calls[-1][0] == calls[-1][1] == len(calls)
    parts = parts_of([*SPEAKER_OF])
    rows = parts["report"]
    pairs = LabelledPairs.all_of(VECTORS[rows], [SPEAKER_OF[row] for row in rows])
    before, after = pairs.eers(truncation(SIZE, (4, 8))), pairs.eers(report.rotation)
    for prefix in report.prefixes:
        assert prefix.eer_before == pytest.approx(before[prefix.dim], abs=1e-9)
        assert prefix.eer_after == pytest.approx(after[prefix.dim], abs=1e-9)
    by_dim = {prefix.dim: prefix for prefix in report.prefixes}
    assert by_dim[4].eer_after < by_dim[4].eer_before - 0.1
    assert by_dim[SIZE].eer_after == pytest.approx(by_dim[SIZE].eer_before, abs=1e-6)
    assert report.full_difference <= 1e-6
    assert set(report.chosen) == {"truncation", "pca", "discriminant", "refined"}
    assert {part: n["rows"] for part, n in report.speakers.items()} == {p: len(rows) for p, rows in parts.items()}
    trained = {SPEAKER_OF[row] for part in ("fit", "choose") for row in parts[part]}
    assert set(report.training_speakers) == {speaker_key(name) for name in trained}
    again = rotate_vectors(source, labels=labels(SPEAKER_OF), dims=(4, 8))
    assert again.rotation.matrix.tobytes() == report.rotation.matrix.tobytes()


# --- stores


def rotation() -> Rotation:
    matrix = np.linalg.qr(np.random.default_rng(2).standard_normal((SIZE, SIZE)))[0]
    return Rotation(matrix, (4, 8), "pca")


def trials() -> Trials:
    rows = [(NAMES[0], NAMES[k], k < TAKES) for k in range(1, 3 * TAKES)]
    frame = pl.DataFrame(rows, {"enrol": pl.String, "test": pl.String, "target": pl.Boolean}, orient="row")
    return Trials(frame, "trials")


def test_rotated_store_keeps_names_and_takes_a_new_fingerprint(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", training_speakers=("old key",))
    apply_rotation(rotation(), tmp_path / "s", tmp_path / "r", training_speakers=("new key",))
    rotated = EmbeddingStore(tmp_path / "r")
    assert (rotated.utt_ids, rotated.paths, rotated.speakers) == (store.utt_ids, store.paths, store.speakers)
    meta = rotated.metadata
    assert (meta.tap, meta.dims, meta.labels) == ("nested", (4, 8, SIZE), ("synthetic",))
    assert set(meta.training_speakers) == {"old key", "new key"}
    assert meta.fingerprint != FINGERPRINT
    apply_rotation(truncation(SIZE), tmp_path / "s", tmp_path / "other")
    assert EmbeddingStore(tmp_path / "other").metadata.fingerprint not in (meta.fingerprint, FINGERPRINT)
    with pytest.raises(FingerprintError):
        apply_rotation(truncation(SIZE), tmp_path / "s", tmp_path / "r")


def test_half_precision_store_keeps_its_scores(tmp_path: Path) -> None:
    half = write_store(tmp_path / "s", dtype="float16")
    apply_rotation(rotation(), tmp_path / "s", tmp_path / "r")
    rotated = EmbeddingStore(tmp_path / "r")
    assert rotated.metadata.dtype == "float32"
    assert np.abs(cosines(rotated.vectors()) - cosines(half.vectors())).max() <= 1e-6


def test_skipped_utterances_are_remembered(tmp_path: Path) -> None:
    metadata = StoreMetadata(FINGERPRINT, "toy", "embedding", (), SIZE, "float32", planned_rows=3, shard_rows=2)
    writer = StoreWriter(tmp_path / "s", metadata)
    writer.write_shard(0, ShardRows(["a"], VECTORS[:1], failed=(FailedUtterance("b", "b.wav", "silent"),)))
    writer.write_shard(1, ShardRows(["c"], VECTORS[1:2]))
    writer.finish()
    assert apply_rotation(rotation(), tmp_path / "s", tmp_path / "r") == 2
    rotated = EmbeddingStore(tmp_path / "r")
    assert rotated.utt_ids == ["a", "c"]
    with pytest.raises(StoreError, match=r"b \(silent\)"):
        rotated.index_of(["b"])


def test_speakers_that_were_fitted_on_are_refused_in_an_evaluation(tmp_path: Path) -> None:
    write_store(tmp_path / "s")
    report = rotate_vectors(tmp_path / "s", labels=labels(SPEAKER_OF), dims=(4,), method="discriminant")
    apply_rotation(report.rotation, tmp_path / "s", tmp_path / "r", training_speakers=report.training_speakers)
    with pytest.raises(OverlapError, match="were trained on"):
        evaluate(EmbeddingStore(tmp_path / "r"), trials())


def test_interrupted_store_resumes(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s")
    whole = rotate_store(rotation(), store, tmp_path / "whole", fingerprint="b" * 16)

    def stop(done: int, total: int | None, /) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotate_store(rotation(), store, tmp_path / "r", fingerprint="b" * 16, progress=stop)
    assert len(list((tmp_path / "r").glob("shard-*"))) == 1
    with pytest.raises(StoreError, match="not complete"):
        EmbeddingStore(tmp_path / "r")
    calls: list[int] = []
    rotate_store(
        rotation(), store, tmp_path / "r", fingerprint="b" * 16, progress=lambda done, total: calls.append(done)
    )
    assert calls == [140, 210, 240]
    assert {f.name: f.read_bytes() for f in (tmp_path / "r").iterdir()} == {
        f.name: f.read_bytes() for f in whole.path.iterdir()
    }


@pytest.mark.parametrize("kind", [".npy", ".npz", ".parquet", ".ark"])
def test_interrupted_file_leaves_nothing(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_ROWS", 50)
    source = write_source(tmp_path, kind)
    out = tmp_path / "out"

    def stop(done: int, total: int | None, /) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply_rotation(rotation(), source, out / f"r{kind}", progress=stop)
    assert not out.exists() or list(out.iterdir()) == []


def test_store_faults(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s")
    with pytest.raises(StoreError, match="cannot replace"):
        rotate_store(rotation(), store, tmp_path / "s", fingerprint="b" * 16)
    pooled = write_store(tmp_path / "p", tap="pooled")
    with pytest.raises(StoreError, match="tap pooled"):
        rotate_store(rotation(), pooled, tmp_path / "r", fingerprint="b" * 16)
    begun = StoreWriter(tmp_path / "b", replace_planned(store.metadata, 3 * 70))
    begun.write_shard(0, ShardRows(NAMES[:70], VECTORS[:70]))
    partial = EmbeddingStore(tmp_path / "b", allow_partial=True)
    with pytest.raises(StoreError, match="is not complete"):
        rotate_store(rotation(), partial, tmp_path / "r", fingerprint="b" * 16)


def replace_planned(metadata: StoreMetadata, rows: int) -> StoreMetadata:
    from dataclasses import replace

    return replace(metadata, planned_rows=rows)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda d: apply_rotation(rotation(), d / "vectors.npy", d / "vectors.npy"), "cannot replace"),
        (lambda d: apply_rotation(rotation(), d / "vectors.ark", d / "vectors.scp"), "cannot replace"),
        (lambda d: apply_rotation(rotation(), d / "vectors.npy", d / "r.txt"), "unknown suffix"),
        (lambda d: apply_rotation(rotation(), d / "vectors.npy", d / "r"), "unknown suffix"),
        (lambda d: apply_rotation(truncation(8), d / "vectors.npy", d / "r.npy"), "vectors of 24 numbers.*for 8"),
        (lambda d: apply_rotation(rotation(), d / "none.npy", d / "r.npy"), "no such file"),
        (lambda d: rotate_vectors(d / "none.npy"), "no such file"),
        (lambda d: rotate_vectors(d / "one.npy"), "at least two vectors"),
        (lambda d: rotate_vectors(d / "nan.npy"), "row 3 is not finite"),
    ],
)
def test_files_that_cannot_be_rotated(tmp_path: Path, call: Callable[[Path], object], what: str) -> None:
    np.save(tmp_path / "vectors.npy", VECTORS)
    (tmp_path / "vectors.ark").write_bytes(b"")
    np.save(tmp_path / "one.npy", VECTORS[:1])
    wrong = VECTORS.copy()
    wrong[3, 1] = np.nan
    np.save(tmp_path / "nan.npy", wrong)
    before = (tmp_path / "vectors.npy").read_bytes()
    with pytest.raises(NestvoxError, match=what):
        call(tmp_path)
    assert (tmp_path / "vectors.npy").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"vectors.npy", "vectors.ark", "one.npy", "nan.npy"}


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage on this system")
@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    """200,000 x 256 float32 are 205 MB; reading, fitting and writing them may not hold even half of that on top."""
    rows = 200_000
    big = np.lib.format.open_memmap(tmp_path / "big.npy", mode="w+", dtype=np.float32, shape=(rows, 256))
    for start in range(0, rows, 20_000):
        big[start : start + 20_000] = np.random.default_rng(start).standard_normal((20_000, 256), np.float32)
    big.flush()
    del big
    np.save(tmp_path / "small.npy", np.random.default_rng(0).standard_normal((2_000, 256)).astype(np.float32))
    code = (
        "import resource, sys\n"
        "from nestvox.extraction.rotate import apply_rotation, rotate_vectors\n"
        "report = rotate_vectors(sys.argv[1])\n"
        "apply_rotation(report.rotation, sys.argv[1], sys.argv[1] + '.out.npy')\n"
        "print(report.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )

    def peak_bytes(name: str) -> tuple[int, int]:
        child = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True, check=True
        )
        seen, peak = map(int, child.stdout.split())
        return seen, peak * (1 if sys.platform == "darwin" else 1024)

    (small_rows, small), (big_rows, large) = peak_bytes("small.npy"), peak_bytes("big.npy")
    assert (small_rows, big_rows) == (2_000, rows)
    assert large - small < 100e6
