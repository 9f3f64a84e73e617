"""One shard of a store: an uncompressed Arrow IPC file that carries what ties it to its store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nestvox.errors import StoreError
from nestvox.extraction.store_metadata import STORE_FILE, FailedUtterance, ShardRecord, StoreMetadata

__all__ = [
    "ShardRows",
    "check_count",
    "check_identity",
    "check_size",
    "corrupt",
    "count_rows",
    "open_shard",
    "read_all",
    "record_of",
    "sha256_of",
    "shard_name",
    "shard_table",
    "skipped_in",
    "write_table",
]

_FAILED_KEY = b"nestvox.failed"
_IDENTITY_KEY = b"nestvox.identity"


@dataclass(frozen=True)
class ShardRows:
    """The content of one shard, in table order.

    Attributes:
        utt_ids: n names.
        vectors: (n, D); for the tap ``frames`` a sequence of n arrays (T_i, C).
        paths, speakers: n values or None where the table has none.
        failed: planned rows of this shard that have no vector.
        variants: n numbers of the variant, 0 is the recording as it is; None where every utterance has one row.
        columns: further vectors by name, (n, size) each, as the store's `columns` say.
    """

    utt_ids: Sequence[str]
    vectors: NDArray[np.floating[Any]] | Sequence[NDArray[np.floating[Any]]]
    paths: Sequence[str | None] | None = None
    speakers: Sequence[str | None] | None = None
    failed: Sequence[FailedUtterance] = ()
    variants: Sequence[int] | None = None
    columns: Mapping[str, NDArray[np.floating[Any]]] = field(default_factory=dict)


def shard_name(shard: int) -> str:
    """Return the file name of shard number `shard`."""
    return f"shard-{shard:06d}.arrow"


def _identity(metadata: StoreMetadata) -> bytes:
    """Return what ties a shard to its store, so that a file copied from another store is noticed."""
    same: list[Any] = [metadata.fingerprint, metadata.tap, metadata.dim, metadata.dtype, metadata.table_sha256]
    if metadata.variants > 1 or metadata.columns:
        same += [metadata.variants, dict(metadata.columns), dict(metadata.plan)]
    return json.dumps(same, sort_keys=True).encode()


def shard_table(rows: ShardRows, metadata: StoreMetadata) -> pa.Table:
    """Return the rows as an Arrow table.

    Raises:
        StoreError: a wrong shape, or a row that is not finite (in the store's dtype); the utterance is named.
    """
    if metadata.tap == "frames":
        vectors = _frames_columns(rows, metadata)
    else:
        vectors = {"vector": _vector_column(rows.vectors, metadata.dim, rows.utt_ids, metadata)}
    if rows.columns.keys() != metadata.columns.keys() or (rows.variants is None) != (metadata.variants == 1):
        raise StoreError(
            f"the store has {metadata.variants} variants and the further vectors {sorted(metadata.columns)}, got "
            f"{'none' if rows.variants is None else 'some'} and {sorted(rows.columns)}"
        )
    if rows.variants is not None:
        vectors["variant"] = pa.array(rows.variants, pa.int32())
    for name, dim in metadata.columns.items():
        vectors[name] = _vector_column(rows.columns[name], dim, rows.utt_ids, metadata)
    nothing = [None] * len(rows.utt_ids)
    columns = {
        "utt_id": pa.array(rows.utt_ids, pa.string()),
        "path": pa.array(nothing if rows.paths is None else rows.paths, pa.string()),
        "speaker": pa.array(nothing if rows.speakers is None else rows.speakers, pa.string()),
        **vectors,
    }
    skipped = json.dumps([asdict(failure) for failure in rows.failed], ensure_ascii=False).encode()
    return pa.table(columns).replace_schema_metadata({_IDENTITY_KEY: _identity(metadata), _FAILED_KEY: skipped})


def _vector_column(given: Any, dim: int, utt_ids: Sequence[str], metadata: StoreMetadata) -> pa.Array:
    vectors = np.asarray(given, np.float32) if len(utt_ids) else np.empty((0, dim), np.float32)
    if vectors.shape != (len(utt_ids), dim):
        raise StoreError(f"the store holds vectors of {dim} numbers, got {vectors.shape} for {len(utt_ids)} rows")
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(vectors, metadata.dtype)
    _refuse_non_finite(np.isfinite(stored).all(axis=1), utt_ids, metadata)
    return pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), dim)


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


def write_table(file: Path, table: pa.Table) -> None:
    """Write an Arrow IPC file, uncompressed."""
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        # One record batch, so that a column of the shard is one piece of memory.
        writer.write_table(table.combine_chunks(), max_chunksize=max(1, table.num_rows))


def corrupt(file: Path, problem: str) -> StoreError:
    """Return the error that a shard cannot be used, with what to do."""
    return StoreError(
        f"{file}: corrupt shard ({problem}); delete this file and run the command that made the store "
        "again: it makes only this shard"
    )


def open_shard(file: Path) -> pa.ipc.RecordBatchFileReader:
    """Map a shard into memory and read its footer.

    Raises:
        StoreError: it is missing or corrupt.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(file), "r"))
    except FileNotFoundError as error:
        raise StoreError(f"{file}: the shard is missing; embed again into a new folder") from error
    except (pa.ArrowException, OSError) as error:
        raise corrupt(file, str(error).splitlines()[0]) from error


def read_all(file: Path, reader: pa.ipc.RecordBatchFileReader) -> pa.Table:
    """Return the rows of an open shard, without copying them.

    Raises:
        StoreError: it is corrupt.
    """
    try:
        table = reader.read_all()
        table.validate()
    except (pa.ArrowException, OSError) as error:
        raise corrupt(file, str(error).splitlines()[0]) from error
    return table


def count_rows(reader: pa.ipc.RecordBatchFileReader) -> int:
    """Return the number of rows of an open shard."""
    return sum(reader.get_batch(batch).num_rows for batch in range(reader.num_record_batches))


def skipped_in(file: Path, schema: pa.Schema) -> tuple[FailedUtterance, ...]:
    """Return the utterances of a shard that were skipped, in table order.

    Raises:
        StoreError: the shard does not say.
    """
    try:
        return tuple(FailedUtterance(**entry) for entry in json.loads((schema.metadata or {})[_FAILED_KEY]))
    except (KeyError, TypeError, ValueError) as error:
        raise corrupt(file, f"no record of skipped utterances: {error}") from error


def check_identity(file: Path, schema: pa.Schema, metadata: StoreMetadata) -> None:
    """Refuse a shard that was written for another store.

    Raises:
        StoreError: with what to do.
    """
    if (schema.metadata or {}).get(_IDENTITY_KEY) != _identity(metadata):
        raise corrupt(file, "it belongs to another store")


def check_count(file: Path, metadata: StoreMetadata, shard: int, rows: int, failed: int) -> None:
    """Refuse a shard whose stored and skipped rows are not those that were planned.

    Raises:
        StoreError: with both counts.
    """
    planned = len(metadata.planned(shard))
    # What failed is listed once, whatever number of rows it would have had.
    if rows + failed * metadata.variants != planned:
        raise StoreError(f"{file}: {rows} rows and {failed * metadata.variants} skipped, the plan has {planned}")


def check_size(file: Path, record: ShardRecord) -> None:
    """Refuse a shard that is missing or has another size than when the store was completed.

    Raises:
        StoreError: with what to do.
    """
    try:
        size = file.stat().st_size
    except FileNotFoundError as error:
        raise StoreError(f"{file}: the shard is missing; embed again into a new folder") from error
    if size != record.size_bytes:
        raise corrupt(file, f"{size} bytes, {STORE_FILE} says {record.size_bytes}")


def record_of(file: Path, rows: int) -> ShardRecord:
    """Return how `store.json` lists a finished shard."""
    return ShardRecord(file.name, rows, file.stat().st_size, sha256_of(file))


def sha256_of(file: Path) -> str:
    """Return the hash of a file."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
