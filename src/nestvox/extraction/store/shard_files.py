"""One shard of a store: an uncompressed Arrow IPC file that carries what ties it to its store."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nestvox.content import or_else
from nestvox.errors import StoreError, first_of
from nestvox.extraction.store.metadata import STORE_FILE, FailedUtterance, ShardRecord, StoreMetadata
from nestvox.gate import decode, open_regular, parse_json
from nestvox.schema import validated_dataclass

CONDITION = "condition"
"""Column of a shard with what is wrong with the recordings; shards of older stores have none."""

_FAILED_KEY = b"nestvox.failed"
_IDENTITY_KEY = b"nestvox.identity"
_MAGIC = b"ARROW1\0\0"
_MISSING = "the shard is missing; embed again into a new folder"
_HEADER_SLOT = 2  # of Message: version, type of the header, header
_COMPRESSION_SLOT = 3  # of RecordBatch: length, nodes, buffers, compression


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
        conditions: n texts: codes of `audio.condition.CODES` with blanks between, empty where nothing is wrong with
            the recording, None where it was not measured; None: the store has no such column, as older ones.
    """

    utt_ids: Sequence[str]
    vectors: NDArray[np.floating[Any]] | Sequence[NDArray[np.floating[Any]]]
    paths: Sequence[str | None] | None = None
    speakers: Sequence[str | None] | None = None
    failed: Sequence[FailedUtterance] = ()
    variants: Sequence[int] | None = None
    columns: Mapping[str, NDArray[np.floating[Any]]] = field(default_factory=dict)
    conditions: Sequence[str | None] | None = None


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
    if rows.conditions is not None:
        columns[CONDITION] = pa.array(rows.conditions, pa.string())
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


def _refusal(problem: str, source: str) -> StoreError:
    return StoreError(f"{source}: {_MISSING}") if problem == _MISSING else corrupt(Path(source), problem)


def corrupt(file: Path, problem: str) -> StoreError:
    """Return the error that a shard cannot be used, with what to do."""
    return StoreError(
        f"{file}: corrupt shard ({problem}); delete this file and run the command that made the store "
        "again: it makes only this shard"
    )


class OpenShard:
    """A shard that is mapped into memory; its messages are looked at before Arrow makes anything of them.

    Arrow maps uncompressed columns without a copy. Compressed ones it would first allocate at whatever size the file
    claims, and no store has them.

    Args:
        file: of the shard.

    Attributes:
        file: as given.
        schema: of its columns.

    Raises:
        StoreError: it is missing, no regular file, or corrupt.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with open_regular(file, _refusal, missing=_MISSING):
            pass
        with self._reading():
            content = pa.memory_map(str(file), "r").read_buffer()
            pa.ipc.open_file(content)  # its footer is the last thing that is written
            self._stream = content.slice(len(_MAGIC))
            for message in pa.ipc.MessageReader.open_stream(self._stream):
                if message.type == "dictionary" or (message.type == "record batch" and _is_compressed(message)):
                    raise pa.ArrowInvalid("compressed columns, which no store has")
            self.schema: pa.Schema = pa.ipc.open_stream(self._stream).schema
            _ = self.schema.names  # which may be no text

    def table(self) -> pa.Table:
        """Return the rows, without copying them.

        Raises:
            StoreError: it is corrupt: an offset or a text that is none counts as well.
        """
        with self._reading():
            table = pa.ipc.open_stream(self._stream).read_all()
            table.validate(full=True)
        return table

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, MemoryError, OverflowError, UnicodeError, struct.error) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise corrupt(self.file, or_else(self.file, reason)) from error


def _is_compressed(message: pa.ipc.Message) -> bool:
    """Whether the header of a record batch names a compression; see Message.fbs and Flatbuffers' layout of tables."""
    header = message.metadata.to_pybytes()

    def table(place: int) -> tuple[int, list[int]]:
        """Where a table lies, and where its fields are from there; 0: a field is left out."""
        slots = place - int(struct.unpack_from("<i", header, place)[0])
        if slots < 0:
            raise struct.error("a table outside its message")
        length = struct.unpack_from("<H", header, slots)[0]
        return place, list(struct.unpack_from(f"<{max(0, length // 2 - 2)}H", header, slots + 4))

    def inner(place: int) -> int:
        return place + int(struct.unpack_from("<I", header, place)[0])

    place, fields = table(inner(0))
    _, batch = table(inner(place + fields[_HEADER_SLOT]))
    return len(batch) > _COMPRESSION_SLOT and batch[_COMPRESSION_SLOT] != 0


def check_columns(shard: OpenShard, metadata: StoreMetadata) -> None:
    """Refuse a shard whose columns are not those of its store: names, types, sizes.

    Raises:
        StoreError: with the column.
    """
    number = pa.float16() if metadata.dtype == "float16" else pa.float32()
    wanted: dict[str, pa.DataType] = dict.fromkeys(("utt_id", "path", "speaker"), pa.string())
    if metadata.tap == "frames":
        wanted |= {"frames": pa.large_list(number), "n_frames": pa.int32()}
    else:
        wanted["vector"] = pa.list_(number, metadata.dim)
    if metadata.variants > 1:
        wanted["variant"] = pa.int32()
    wanted |= {name: pa.list_(number, dim) for name, dim in metadata.columns.items()}
    if CONDITION in shard.schema.names:  # which shards of older stores do not have
        wanted[CONDITION] = pa.string()
    if sorted(shard.schema.names) != sorted(wanted):
        raise corrupt(shard.file, f"columns {first_of(shard.schema.names)[:200]} where {', '.join(wanted)} belong")
    for name, kind in wanted.items():
        found = shard.schema.field(name).type
        if found != kind:
            raise corrupt(shard.file, f"the column {name} holds {str(found)[:80]}, the store {kind}")


def check_rows(shard: OpenShard, table: pa.Table, metadata: StoreMetadata) -> None:
    """Refuse rows that no writer makes: nulls where a value belongs, frames cut in two, variants out of order.

    Raises:
        StoreError: with the column.
    """
    vectors = ("frames",) if metadata.tap == "frames" else ("vector", *metadata.columns)
    for name in ("utt_id", *vectors, *(("variant",) if metadata.variants > 1 else ())):
        inner = (chunk.flatten() for chunk in table[name].chunks) if name in vectors else ()
        if table[name].null_count or any(values.null_count for values in inner):
            raise corrupt(shard.file, f"the column {name} has nulls")
    if metadata.tap == "frames":
        for chunk in table["frames"].chunks:
            if (np.diff(chunk.offsets.to_numpy()) % metadata.dim).any():
                raise corrupt(shard.file, f"frames that are not of {metadata.dim} numbers each")
    if metadata.variants > 1:
        numbers = table["variant"].to_numpy()
        if len(numbers) % metadata.variants or (numbers != np.arange(len(numbers)) % metadata.variants).any():
            raise corrupt(shard.file, f"its rows are not the {metadata.variants} variants of each utterance")


def skipped_in(file: Path, schema: pa.Schema) -> tuple[FailedUtterance, ...]:
    """Return the utterances of a shard that were skipped, in table order.

    Raises:
        StoreError: the shard does not say.
    """
    where, error = str(file), _refusal
    text = decode((schema.metadata or {}).get(_FAILED_KEY, b""), where, error)
    entries = parse_json(text, where, error)
    if not isinstance(entries, list):
        raise corrupt(file, "its record of skipped utterances is no list")
    return tuple(validated_dataclass(FailedUtterance, entry, where, error) for entry in entries)


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
