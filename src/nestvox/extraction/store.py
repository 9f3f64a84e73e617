"""The embedding store: a folder of Arrow IPC shards and `store.json`, safe against kills and full disks.

Shard k holds the planned rows `k * shard_rows` to `(k + 1) * shard_rows - 1` of one table, in table order, and
appears by atomic rename or not at all. Which rows are done is read off the shards themselves, so that a killed run
resumes with no row lost or doubled. Shards are uncompressed and memory-map. `store.json` is written twice: when the
store is begun (what it is for) and when it is complete (shard sizes and hashes).

Notation: N rows, D vector size, T frames of one utterance, C frame channels.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nestvox.atomic import atomic_path, write_text
from nestvox.errors import FingerprintError, StoreError

__all__ = [
    "FORMAT_VERSION",
    "STORE_FILE",
    "EmbeddingStore",
    "FailedUtterance",
    "ShardRecord",
    "ShardRows",
    "StoreMetadata",
    "StoreWriter",
    "VectorBatch",
    "default_shard_rows",
    "is_store",
    "read_metadata",
]

FORMAT_VERSION = 1
STORE_FILE = "store.json"
_PARTIAL = ".*.partial*"
_FAILED_KEY = b"nestvox.failed"
_IDENTITY_KEY = b"nestvox.identity"
_SHARED = -1  # a path of several utterances names none of them

FloatVectors = NDArray[np.float32]


@dataclass(frozen=True)
class VectorBatch:
    """Some rows: (n, D) float32 `vectors`, and their names (None: the source has none)."""

    ids: list[str] | None
    vectors: FloatVectors


@dataclass(frozen=True)
class FailedUtterance:
    """An utterance of the table that has no row, and why."""

    utt_id: str
    path: str | None
    reason: str


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard as `store.json` lists it; `sha256` is of the file."""

    name: str
    rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class StoreMetadata:
    """What a store is for, and what stands in it.

    Attributes:
        fingerprint: of the model that made the vectors; rows of two fingerprints never meet.
        model: its name.
        tap: ``nested``, ``embedding``, ``pooled`` or ``frames``.
        dims: prefix lengths that are embeddings by themselves; empty for taps that are not nested.
        dim: D (C for ``frames``).
        dtype: ``float32`` or ``float16``, on disk; reading gives float32.
        planned_rows: rows of the table.
        shard_rows: planned rows of a shard (the last may have fewer).
        table_sha256: of the rows that were planned (ids, paths, segments).
        plan: other options that decide what a row holds; a resumed run must have the same.
        run: choices that do not (batch size, threads), kept so that a resumed run makes the same batches.
        labels: what every number from this store must carry, e.g. ``synthetic``.
        training_speakers: keys of the speakers that the model was trained on.
        failed: utterances that were skipped, with reasons.
        shards: the shards that are there, in order.
        complete: every planned row is a row or listed in `failed`.
    """

    fingerprint: str
    model: str
    tap: str
    dims: tuple[int, ...]
    dim: int
    dtype: str
    planned_rows: int
    shard_rows: int
    table_sha256: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    training_speakers: tuple[str, ...] = ()
    failed: tuple[FailedUtterance, ...] = ()
    shards: tuple[ShardRecord, ...] = ()
    complete: bool = False
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float16"):
            raise StoreError(f"dtype must be float32 or float16, got {self.dtype!r}")
        if self.dim < 1 or self.shard_rows < 1 or self.planned_rows < 0:
            raise StoreError(
                f"a store needs dim >= 1, shard_rows >= 1 and planned_rows >= 0, got dim={self.dim}, "
                f"shard_rows={self.shard_rows}, planned_rows={self.planned_rows}"
            )
        if any(not 0 < dim <= self.dim for dim in self.dims):
            raise StoreError(f"dims {self.dims} must lie in 1 to {self.dim}")

    @property
    def rows(self) -> int:
        """Rows that are in the shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def n_shards(self) -> int:
        """Shards that the complete store has."""
        return -(-self.planned_rows // self.shard_rows)

    def planned(self, shard: int) -> range:
        """Planned rows (indices into the table) of one shard."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.planned_rows))


@dataclass(frozen=True)
class ShardRows:
    """The content of one shard, in table order.

    Attributes:
        utt_ids: n names.
        vectors: (n, D); for the tap ``frames`` a sequence of n arrays (T_i, C).
        paths, speakers: n values or None where the table has none.
        failed: planned rows of this shard that have no vector.
    """

    utt_ids: Sequence[str]
    vectors: NDArray[np.floating[Any]] | Sequence[NDArray[np.floating[Any]]]
    paths: Sequence[str | None] | None = None
    speakers: Sequence[str | None] | None = None
    failed: Sequence[FailedUtterance] = ()


def default_shard_rows(rows: int, tap: str = "nested") -> int:
    """Rows of a shard for a table of `rows`: about 64 shards, so that a kill costs a sixty-fourth of the work.

    It depends on the table alone, never on a measurement: the same table always makes the same files.
    """
    smallest, largest = (16, 128) if tap == "frames" else (64, 8192)
    return max(smallest, min(largest, -(-rows // 64)))


def is_store(path: str | Path) -> bool:
    """Whether `path` is a folder with a `store.json`, complete or not."""
    return (Path(path) / STORE_FILE).is_file()


def read_metadata(path: str | Path) -> StoreMetadata:
    """Read `store.json` of a store folder, complete or not.

    Raises:
        StoreError: no store there, malformed, or written by a newer nestvox.
    """
    file = Path(path) / STORE_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path} is no embedding store: it has no {STORE_FILE}") from error
    except NotADirectoryError as error:
        raise StoreError(f"{path} is a file, not the folder of an embedding store") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{file}: not JSON ({error}); embed again into a new folder") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{file}: format version {version!r}, this nestvox reads {FORMAT_VERSION}; "
            "use the nestvox that wrote it, or embed again"
        )
    try:
        return StoreMetadata(
            **{
                **content,
                "dims": tuple(content["dims"]),
                "labels": tuple(content["labels"]),
                "training_speakers": tuple(content["training_speakers"]),
                "failed": tuple(FailedUtterance(**entry) for entry in content["failed"]),
                "shards": tuple(ShardRecord(**entry) for entry in content["shards"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise StoreError(f"{file}: malformed ({error}); embed again into a new folder") from error


class StoreWriter:
    """Begin a store, or resume one; one process writes a store at a time.

    Args:
        path: folder of the store; created when missing.
        metadata: what the store is to be; `failed`, `shards` and `complete` are kept by the writer.

    Raises:
        FingerprintError: the folder holds vectors of another model.
        StoreError: the folder holds something else, a store for another table or other options, or a corrupt shard.
    """

    def __init__(self, path: str | Path, metadata: StoreMetadata) -> None:
        self.path = Path(path)
        fresh = replace(metadata, failed=(), shards=(), complete=False)
        if is_store(self.path):
            self.metadata = read_metadata(self.path)
            _refuse_another(self.path, self.metadata, fresh)
        else:
            self._begin(fresh)
        if not all(self._file(shard).exists() for shard in range(self.metadata.n_shards)):
            # A corrupt shard of a complete store can be deleted and made again.
            self.metadata = replace(self.metadata, failed=(), shards=(), complete=False)
        if not self.metadata.complete:
            # Left by a run that was killed while it wrote; their rows are still planned.
            for partial in self.path.glob(_PARTIAL):
                partial.unlink(missing_ok=True)
        self._failed: dict[int, tuple[FailedUtterance, ...]] = {}
        self._rows: dict[int, int] = {}
        for shard in range(self.metadata.n_shards):
            if self._file(shard).exists():
                self._adopt(shard)

    def _begin(self, metadata: StoreMetadata) -> None:
        if self.path.is_dir():
            strangers = [file.name for file in self.path.iterdir() if not file.match(_PARTIAL)]
            if strangers:
                raise StoreError(
                    f"{self.path} is no embedding store but holds {sorted(strangers)[0]!r}; give an empty or new folder"
                )
        elif self.path.exists():
            raise StoreError(f"{self.path} is a file; an embedding store is a folder: give another path")
        self.metadata = metadata
        self._write_metadata(metadata)

    def _write_metadata(self, metadata: StoreMetadata) -> None:
        text = json.dumps(asdict(metadata), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        with _saying_what_is_safe(self.path):
            write_text(self.path / STORE_FILE, text)

    def _file(self, shard: int) -> Path:
        return self.path / _shard_name(shard)

    def _adopt(self, shard: int) -> None:
        reader = _open_shard(self._file(shard))
        _check_identity(self._file(shard), reader.schema, self.metadata)
        self._failed[shard] = _failures(self._file(shard), reader.schema)
        self._rows[shard] = _count_rows(reader)
        _check_shard_count(self._file(shard), self.metadata, shard, self._rows[shard], len(self._failed[shard]))

    @property
    def pending(self) -> tuple[int, ...]:
        """Shards that are not there yet, in order."""
        return tuple(shard for shard in range(self.metadata.n_shards) if shard not in self._rows)

    @property
    def done_rows(self) -> int:
        """Planned rows that are settled: stored, or recorded as failed."""
        return sum(self._rows.values()) + sum(len(failed) for failed in self._failed.values())

    def write_shard(self, shard: int, rows: ShardRows) -> None:
        """Write one shard whole, or leave no trace of it.

        Raises:
            StoreError: a wrong number of rows, a wrong shape, a non-finite row (named), the disk is full.
        """
        file = self._file(shard)
        metadata = self.metadata
        _check_shard_count(file, metadata, shard, len(rows.utt_ids), len(rows.failed))
        vectors = _frames_columns(rows, metadata) if metadata.tap == "frames" else _vector_column(rows, metadata)
        nothing = [None] * len(rows.utt_ids)
        columns = {
            "utt_id": pa.array(rows.utt_ids, pa.string()),
            "path": pa.array(nothing if rows.paths is None else rows.paths, pa.string()),
            "speaker": pa.array(nothing if rows.speakers is None else rows.speakers, pa.string()),
            **vectors,
        }
        table = pa.table(columns).replace_schema_metadata(
            {
                _IDENTITY_KEY: _identity(metadata),
                _FAILED_KEY: json.dumps([asdict(failure) for failure in rows.failed], ensure_ascii=False).encode(),
            }
        )
        with _saying_what_is_safe(self.path), atomic_path(file) as temporary:
            _write_table(temporary, table)
        self._failed[shard] = tuple(rows.failed)
        self._rows[shard] = len(rows.utt_ids)

    def finish(self) -> EmbeddingStore:
        """Hash the shards, mark the store complete, and open it; a store that is complete is left as it is.

        Raises:
            StoreError: shards are missing.
        """
        if self.pending:
            raise StoreError(f"{self.path}: {len(self.pending)} of {self.metadata.n_shards} shards are not written")
        if not self.metadata.complete:
            order = range(self.metadata.n_shards)
            self.metadata = replace(
                self.metadata,
                failed=tuple(failure for shard in order for failure in self._failed[shard]),
                shards=tuple(_record(self._file(shard), self._rows[shard]) for shard in order),
                complete=True,
            )
            self._write_metadata(self.metadata)
        return EmbeddingStore(self.path)


class EmbeddingStore:
    """A store opened for reading; rows come in the order of the table that it was made from.

    Args:
        path: folder of the store.
        allow_partial: read what a run that has not finished has written so far.

    Attributes:
        path: the folder.
        metadata: what the store holds.

    Raises:
        StoreError: no store, not complete, or a shard that is missing, truncated or another's; the shard is named.
    """

    def __init__(self, path: str | Path, *, allow_partial: bool = False) -> None:
        self.path = Path(path)
        metadata = read_metadata(self.path)
        files: list[tuple[Path, ShardRecord | None]]
        if metadata.complete:
            files = [(self.path / shard.name, shard) for shard in metadata.shards]
        elif allow_partial:
            files = [(file, None) for file in sorted(self.path.glob("shard-*.arrow"))]
        else:
            there = len(list(self.path.glob("shard-*.arrow")))
            raise StoreError(
                f"{self.path} is not complete ({there} of {metadata.n_shards} shards): run the same `nestvox embed` "
                "again and it resumes, or open it with allow_partial=True"
            )
        self._tables: list[pa.Table] = []
        failed: list[FailedUtterance] = []
        records: list[ShardRecord] = []
        for file, record in files:
            if record is not None:
                _check_size(file, record)
            reader = _open_shard(file)
            _check_identity(file, reader.schema, metadata)
            table = _read_all(file, reader)
            if record is not None and table.num_rows != record.rows:
                raise _corrupt(file, f"{table.num_rows} rows, {STORE_FILE} says {record.rows}")
            self._tables.append(table)
            failed.extend(_failures(file, reader.schema))
            if record is None:
                record = ShardRecord(file.name, table.num_rows, file.stat().st_size, "")  # noqa: PLW2901
            records.append(record)
        self.metadata = replace(metadata, failed=tuple(failed), shards=tuple(records))
        self._starts = np.cumsum([0, *(table.num_rows for table in self._tables)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        meta = self.metadata
        return f"EmbeddingStore({str(self.path)!r}, {len(self)} rows, {meta.tap} {meta.dim}, {meta.fingerprint})"

    @cached_property
    def utt_ids(self) -> list[str]:
        """N utterance names, in row order."""
        return self._strings("utt_id")

    @cached_property
    def paths(self) -> list[str | None]:
        """N audio paths as the table gives them."""
        return self._strings("path")

    @cached_property
    def speakers(self) -> list[str | None]:
        """N speakers, None where the table has none."""
        return self._strings("speaker")

    def _strings(self, column: str) -> list[Any]:
        return [value for table in self._tables for value in table[column].to_pylist()]

    def vectors(self) -> FloatVectors:
        """All rows, (N, D) float32; read-only and memory-mapped where there is one float32 shard, else a copy.

        Raises:
            StoreError: the tap is ``frames``, whose rows have different lengths (use `iter_frames`).
        """
        parts = [self._matrix(table) for table in self._tables]
        if not parts:
            return np.empty((0, self.metadata.dim), np.float32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _matrix(self, table: pa.Table) -> FloatVectors:
        if self.metadata.tap == "frames":
            raise StoreError(f"{self.path} holds frames, whose rows differ in length: read them with iter_frames()")
        chunks = [
            chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, self.metadata.dim)
            for chunk in table["vector"].chunks
        ]
        matrix = np.concatenate(chunks) if len(chunks) != 1 else chunks[0]
        return np.asarray(matrix, np.float32)

    def take(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> FloatVectors:
        """Rows by number, (n, D) float32, in the order asked; reads only the shards that hold them.

        Raises:
            StoreError: a number outside 0 to N - 1.
        """
        wanted = np.asarray(indices, np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise StoreError(f"{self.path} has rows 0 to {len(self) - 1}, asked for {wanted.min()} to {wanted.max()}")
        taken = np.empty((len(wanted), self.metadata.dim), np.float32)
        shard_of = np.searchsorted(self._starts, wanted, side="right") - 1
        for shard in np.unique(shard_of):
            here = shard_of == shard
            taken[here] = self._matrix(self._tables[shard])[wanted[here] - self._starts[shard]]
        return taken

    def iter_batches(self, rows: int = 65536) -> Iterator[VectorBatch]:
        """Yield the rows in order, at most `rows` at a time and never across shards, in bounded memory."""
        for shard in self.metadata.shards:
            # Opened anew and let go: pages that were read count as memory as long as they are mapped.
            file = self.path / shard.name
            table = _read_all(file, _open_shard(file))
            for start in range(0, table.num_rows, rows):
                part = table.slice(start, rows)
                yield VectorBatch(part["utt_id"].to_pylist(), self._matrix(part))

    def iter_frames(self) -> Iterator[tuple[str, FloatVectors]]:
        """Yield (utt_id, frames (T, C) float32) in row order.

        Raises:
            StoreError: the tap is not ``frames``.
        """
        if self.metadata.tap != "frames":
            raise StoreError(f"{self.path} holds the tap {self.metadata.tap!r}: read it with vectors()")
        for table in self._tables:
            ids = table["utt_id"].to_pylist()
            position = 0
            for chunk in table["frames"].chunks:
                values = chunk.values.to_numpy(zero_copy_only=True)
                offsets = chunk.offsets.to_numpy()
                for first, last in itertools.pairwise(offsets):
                    frames = values[first:last].reshape(-1, self.metadata.dim)
                    yield ids[position], np.asarray(frames, np.float32)
                    position += 1

    def index_of(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Row numbers of utterances, by `utt_id`, else by path.

        Raises:
            StoreError: names that the store does not hold (the first few are listed, with the reason if one failed),
                or a path that several utterances share.
        """
        index = self._index
        unknown = [name for name in names if name not in index]
        if unknown:
            reasons = {failure.utt_id: failure.reason for failure in self.metadata.failed}
            shown = ", ".join(f"{name} ({reasons[name]})" if name in reasons else name for name in unknown[:5])
            raise StoreError(
                f"{self.path} lacks {len(unknown)} of {len(names)} utterances, e.g. {shown}; "
                "embed a table that has them"
            )
        rows = np.fromiter((index[name] for name in names), np.int64, count=len(names))
        if (rows == _SHARED).any():
            shared = names[int(np.argmax(rows == _SHARED))]
            raise StoreError(f"{self.path}: several utterances have the path {shared}: name them by utt_id")
        return rows

    @cached_property
    def _index(self) -> dict[str, int]:
        index: dict[str, int] = {}
        for row, path in enumerate(self.paths):
            if path is not None:
                index[path] = _SHARED if path in index else row
        # A name in `utt_id` wins over the same name as a path.
        index.update((utt_id, row) for row, utt_id in enumerate(self.utt_ids))
        return index

    def verify(self) -> None:
        """Read every shard and compare its hash with the one taken when the store was completed.

        Raises:
            StoreError: a shard has changed since; it is named.
        """
        for record in self.metadata.shards:
            file = self.path / record.name
            if record.sha256 and _sha256(file) != record.sha256:
                raise _corrupt(file, "its sha256 is not the one it had when the store was completed")


def _shard_name(shard: int) -> str:
    return f"shard-{shard:06d}.arrow"


def _identity(metadata: StoreMetadata) -> bytes:
    """Return what ties a shard to its store, so that a file copied from another store is noticed."""
    same = (metadata.fingerprint, metadata.tap, metadata.dim, metadata.dtype, metadata.table_sha256)
    return json.dumps(same).encode()


def _refuse_another(path: Path, there: StoreMetadata, wanted: StoreMetadata) -> None:
    if there.fingerprint != wanted.fingerprint:
        raise FingerprintError(
            f"{path} holds vectors of the model {there.model} ({there.fingerprint}), not of {wanted.model} "
            f"({wanted.fingerprint}): give another --out, or delete the folder"
        )
    kept = {"fingerprint", "model", "run", "failed", "shards", "complete", "training_speakers"}
    before, now = asdict(there), asdict(wanted)
    different = [
        f"{item.name} {_brief(before[item.name])} there, {_brief(now[item.name])} now"
        for item in fields(StoreMetadata)
        if item.name not in kept and before[item.name] != now[item.name]
    ]
    if different:
        raise StoreError(
            f"{path} was begun for something else ({'; '.join(different)}): "
            "use the same table and options to resume, give another --out, or delete the folder"
        )


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _vector_column(rows: ShardRows, metadata: StoreMetadata) -> dict[str, pa.Array]:
    vectors = np.asarray(rows.vectors, np.float32) if len(rows.utt_ids) else np.empty((0, metadata.dim), np.float32)
    if vectors.shape != (len(rows.utt_ids), metadata.dim):
        raise StoreError(
            f"the store holds vectors of {metadata.dim} numbers, got {vectors.shape} for {len(rows.utt_ids)} rows"
        )
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(vectors, metadata.dtype)
    _refuse_non_finite(np.isfinite(stored).all(axis=1), rows.utt_ids, metadata)
    flat = pa.array(stored.reshape(-1))
    return {"vector": pa.FixedSizeListArray.from_arrays(flat, metadata.dim)}


def _frames_columns(rows: ShardRows, metadata: StoreMetadata) -> dict[str, pa.Array]:
    with np.errstate(over="ignore"):
        stored = [np.ascontiguousarray(frames, metadata.dtype) for frames in rows.vectors]
    for utt_id, frames in zip(rows.utt_ids, stored, strict=True):
        if frames.ndim != 2 or frames.shape[1] != metadata.dim:
            raise StoreError(f"{utt_id}: frames must be (T, {metadata.dim}), got {frames.shape}")
    _refuse_non_finite(np.array([np.isfinite(frames).all() for frames in stored], bool), rows.utt_ids, metadata)
    offsets = np.cumsum([0, *(frames.size for frames in stored)], dtype=np.int64)
    flat = np.concatenate([frames.reshape(-1) for frames in stored]) if stored else np.empty(0, metadata.dtype)
    return {
        "frames": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat)),
        "n_frames": pa.array([len(frames) for frames in stored], pa.int32()),
    }


def _refuse_non_finite(finite: NDArray[np.bool_], utt_ids: Sequence[str], metadata: StoreMetadata) -> None:
    if not finite.all():
        first = utt_ids[int(np.argmin(finite))]
        hint = ", or too large for float16: use --dtype float32" if metadata.dtype == "float16" else ""
        raise StoreError(
            f"{first}: its vector is not finite{hint} ({int((~finite).sum())} such rows); "
            "check the audio and the model before these are stored"
        )


def _write_table(file: Path, table: pa.Table) -> None:
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        # One record batch, so that a column of the shard is one piece of memory.
        writer.write_table(table.combine_chunks(), max_chunksize=max(1, table.num_rows))


@contextmanager
def _saying_what_is_safe(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path}: cannot write ({error.strerror or error}); what is written so far is whole: "
            "make room and run the same command again, it resumes"
        ) from error


def _corrupt(file: Path, problem: str) -> StoreError:
    return StoreError(
        f"{file}: corrupt shard ({problem}); delete this file and run the same `nestvox embed` again: "
        "it makes only this shard"
    )


def _open_shard(file: Path) -> pa.ipc.RecordBatchFileReader:
    try:
        return pa.ipc.open_file(pa.memory_map(str(file), "r"))
    except FileNotFoundError as error:
        raise StoreError(f"{file}: the shard is missing; embed again into a new folder") from error
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(file, str(error).splitlines()[0]) from error


def _read_all(file: Path, reader: pa.ipc.RecordBatchFileReader) -> pa.Table:
    try:
        table = reader.read_all()
        table.validate()
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(file, str(error).splitlines()[0]) from error
    return table


def _count_rows(reader: pa.ipc.RecordBatchFileReader) -> int:
    return sum(reader.get_batch(batch).num_rows for batch in range(reader.num_record_batches))


def _failures(file: Path, schema: pa.Schema) -> tuple[FailedUtterance, ...]:
    try:
        return tuple(FailedUtterance(**entry) for entry in json.loads((schema.metadata or {})[_FAILED_KEY]))
    except (KeyError, TypeError, ValueError) as error:
        raise _corrupt(file, f"no record of skipped utterances: {error}") from error


def _check_identity(file: Path, schema: pa.Schema, metadata: StoreMetadata) -> None:
    if (schema.metadata or {}).get(_IDENTITY_KEY) != _identity(metadata):
        raise _corrupt(file, "it belongs to another store")


def _check_shard_count(file: Path, metadata: StoreMetadata, shard: int, rows: int, failed: int) -> None:
    planned = len(metadata.planned(shard))
    if rows + failed != planned:
        raise StoreError(f"{file}: {rows} rows and {failed} skipped, the plan has {planned}")


def _check_size(file: Path, record: ShardRecord) -> None:
    try:
        size = file.stat().st_size
    except FileNotFoundError as error:
        raise StoreError(f"{file}: the shard is missing; embed again into a new folder") from error
    if size != record.size_bytes:
        raise _corrupt(file, f"{size} bytes, {STORE_FILE} says {record.size_bytes}")


def _record(file: Path, rows: int) -> ShardRecord:
    return ShardRecord(file.name, rows, file.stat().st_size, _sha256(file))


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
