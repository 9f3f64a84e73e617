"""One shard of a store: an uncompressed Arrow IPC file that carries what ties it to its store."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.content import or_else
from nestvox.errors import StoreError, first_of
from nestvox.extraction.store.arrow_ipc import ArrowFile, Column, Lists, Texts, write_arrow
from nestvox.extraction.store.metadata import STORE_FILE, FailedUtterance, ShardRecord, StoreMetadata
from nestvox.gate import decode, open_regular, parse_json
from nestvox.schema import validated_dataclass

CONDITION = "condition"
"""Column of a shard with what is wrong with the recordings; shards of older stores have none."""

_FAILED_KEY = "nestvox.failed"
_IDENTITY_KEY = "nestvox.identity"
_MISSING = "the shard is missing; embed again into a new folder"


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


def shard_columns(rows: ShardRows, metadata: StoreMetadata) -> dict[str, Column]:
    """Return the columns of a shard by name.

    Raises:
        StoreError: a wrong shape, or a row that is not finite (in the store's dtype); the utterance is named.
    """
    vectors: dict[str, Column] = (
        _frames_columns(rows, metadata)
        if metadata.tap == "frames"
        else {"vector": _vector_column(rows.vectors, metadata.dim, rows.utt_ids, metadata)}
    )
    if rows.columns.keys() != metadata.columns.keys() or (rows.variants is None) != (metadata.variants == 1):
        raise StoreError(
            f"the store has {metadata.variants} variants and the further vectors {sorted(metadata.columns)}, got "
            f"{'none' if rows.variants is None else 'some'} and {sorted(rows.columns)}"
        )
    if rows.variants is not None:
        vectors["variant"] = np.asarray(rows.variants, np.int32)
    for name, dim in metadata.columns.items():
        vectors[name] = _vector_column(rows.columns[name], dim, rows.utt_ids, metadata)
    nothing = [None] * len(rows.utt_ids)
    columns = {
        "utt_id": Texts.of(rows.utt_ids),
        "path": Texts.of(nothing if rows.paths is None else rows.paths),
        "speaker": Texts.of(nothing if rows.speakers is None else rows.speakers),
        **vectors,
    }
    return columns if rows.conditions is None else {**columns, CONDITION: Texts.of(rows.conditions)}


def _vector_column(given: Any, dim: int, utt_ids: Sequence[str], metadata: StoreMetadata) -> NDArray[Any]:
    vectors = np.asarray(given, np.float32) if len(utt_ids) else np.empty((0, dim), np.float32)
    if vectors.shape != (len(utt_ids), dim):
        raise StoreError(f"the store holds vectors of {dim} numbers, got {vectors.shape} for {len(utt_ids)} rows")
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(vectors, metadata.dtype)
    _refuse_non_finite(np.isfinite(stored).all(axis=1), utt_ids, metadata)
    return stored


def _frames_columns(rows: ShardRows, metadata: StoreMetadata) -> dict[str, Column]:
    with np.errstate(over="ignore"):
        stored = [np.ascontiguousarray(frames, metadata.dtype) for frames in rows.vectors]
    for utt_id, frames in zip(rows.utt_ids, stored, strict=True):
        if frames.ndim != 2 or frames.shape[1] != metadata.dim:
            raise StoreError(f"{utt_id}: frames must be (T, {metadata.dim}), got {frames.shape}")
    _refuse_non_finite(np.array([np.isfinite(frames).all() for frames in stored], bool), rows.utt_ids, metadata)
    offsets = np.cumsum([0, *(frames.size for frames in stored)], dtype=np.int64)
    flat = np.concatenate([frames.reshape(-1) for frames in stored]) if stored else np.empty(0, metadata.dtype)
    return {"frames": Lists(offsets, flat), "n_frames": np.array([len(frames) for frames in stored], np.int32)}


def _refuse_non_finite(finite: NDArray[np.bool_], utt_ids: Sequence[str], metadata: StoreMetadata) -> None:
    if not finite.all():
        first = utt_ids[int(np.argmin(finite))]
        hint = ", or too large for float16: use --dtype float32" if metadata.dtype == "float16" else ""
        raise StoreError(
            f"{first}: its vector is not finite{hint} ({int((~finite).sum())} such rows); "
            "check the audio and the model before these are stored"
        )


def write_shard_file(
    file: Path, columns: Mapping[str, Column], metadata: StoreMetadata, failed: Sequence[FailedUtterance]
) -> None:
    """Write a shard, with what ties it to its store and the utterances that were skipped."""
    skipped = json.dumps([asdict(failure) for failure in failed], ensure_ascii=False).encode()
    write_arrow(file, columns, {_IDENTITY_KEY: _identity(metadata), _FAILED_KEY: skipped})


def _refusal(problem: str, source: str) -> StoreError:
    return StoreError(f"{source}: {_MISSING}") if problem == _MISSING else corrupt(Path(source), problem)


def corrupt(file: Path, problem: str) -> StoreError:
    """Return the error that a shard cannot be used, with what to do."""
    return StoreError(
        f"{file}: corrupt shard ({problem}); delete this file and run the command that made the store "
        "again: it makes only this shard"
    )


class Shard:
    """One shard of a store, mapped into memory and checked in full.

    Args:
        file: of the shard.
        metadata: of its store.

    Attributes:
        file: as given.
        rows: n.
        failed: the utterances that were skipped, in table order.
        variants: (n,) int32, see `ShardRows`.

    Raises:
        StoreError: it is missing, no regular file, of another store, or corrupt: its columns are not those of the
            store, or no writer makes such rows.
    """

    def __init__(self, file: Path, metadata: StoreMetadata) -> None:
        self.file = file
        with open_regular(file, _refusal, missing=_MISSING):
            pass
        try:
            arrow = ArrowFile(file)
            if arrow.metadata.get(_IDENTITY_KEY) != _identity(metadata):
                raise corrupt(file, "it belongs to another store")
            _check_columns(file, arrow.kinds, metadata)
            self.rows = arrow.rows
            self._texts = {name: arrow.texts(name) for name, kind in arrow.kinds.items() if kind == "text"}
            numbers = {name: arrow.numbers(name) for name, kind in arrow.kinds.items() if " x " in kind}
            self._vectors: dict[str, NDArray[np.floating[Any]]] = numbers
            self._frames = arrow.lists("frames") if metadata.tap == "frames" else None
            self.variants = np.zeros(self.rows, np.int32) if metadata.variants == 1 else arrow.numbers("variant")
        except OSError as error:
            raise StoreError(f"{file}: cannot be read ({error.strerror or error})") from error
        except (ValueError, MemoryError, OverflowError, struct.error) as error:
            raise corrupt(file, or_else(file, str(error)[:200] or type(error).__name__)) from error
        self.failed = _skipped(file, arrow.metadata.get(_FAILED_KEY, b""))
        self._check_rows(metadata)

    def texts(self, name: str) -> list[Any]:
        """Return a column of n texts, None where there is none; a column that older shards lack is all None."""
        return self._texts[name].to_list() if name in self._texts else [None] * self.rows

    @property
    def conditions(self) -> list[str | None] | None:
        """See `ShardRows`."""
        return self.texts(CONDITION) if CONDITION in self._texts else None

    def vectors(self, column: str = "vector") -> NDArray[np.floating[Any]]:
        """Return a view of (n, D) numbers in the store's own dtype.

        Raises:
            StoreError: the tap is ``frames``.
        """
        if self._frames is not None:
            raise StoreError(
                f"{self.file.parent} holds frames, whose rows differ in length: read them with iter_frames()"
            )
        return self._vectors[column]

    def frames(self, channels: int) -> Iterator[NDArray[np.floating[Any]]]:
        """Yield n views of (T, C) numbers; none where the tap is another."""
        if self._frames is not None:
            for first, last in pairwise(self._frames.offsets.tolist()):
                yield self._frames.values[first:last].reshape(-1, channels)

    def _check_rows(self, metadata: StoreMetadata) -> None:
        if self._texts["utt_id"].nulls is not None:
            raise corrupt(self.file, "the column utt_id has nulls")
        if self._frames is not None and (np.diff(self._frames.offsets) % metadata.dim).any():
            raise corrupt(self.file, f"frames that are not of {metadata.dim} numbers each")
        each = metadata.variants
        if len(self.variants) % each or (self.variants != np.arange(len(self.variants)) % each).any():
            raise corrupt(self.file, f"its rows are not the {each} variants of each utterance")


def _check_columns(file: Path, found: Mapping[str, str], metadata: StoreMetadata) -> None:
    """Refuse a shard whose columns are not those of its store: names, types, sizes."""
    wanted = dict.fromkeys(("utt_id", "path", "speaker"), "text")
    if metadata.tap == "frames":
        wanted |= {"frames": f"lists of {metadata.dtype}", "n_frames": "int32"}
    else:
        wanted["vector"] = f"{metadata.dtype} x {metadata.dim}"
    if metadata.variants > 1:
        wanted["variant"] = "int32"
    wanted |= {name: f"{metadata.dtype} x {dim}" for name, dim in metadata.columns.items()}
    if CONDITION in found:  # which shards of older stores do not have
        wanted[CONDITION] = "text"
    if found.keys() != wanted.keys():
        raise corrupt(file, f"columns {first_of(list(found))[:200]} where {', '.join(wanted)} belong")
    for name, kind in wanted.items():
        if found[name] != kind:
            raise corrupt(file, f"the column {name} holds {found[name][:80]}, the store {kind}")


def _skipped(file: Path, text: bytes) -> tuple[FailedUtterance, ...]:
    where, error = str(file), _refusal
    entries = parse_json(decode(text, where, error), where, error)
    if not isinstance(entries, list):
        raise corrupt(file, "its record of skipped utterances is no list")
    return tuple(validated_dataclass(FailedUtterance, entry, where, error) for entry in entries)


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
