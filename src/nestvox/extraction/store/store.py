"""The embedding store: a folder of Arrow IPC shards and `store.json`, safe against kills and full disks.

Shard k holds the planned rows `k * shard_rows` to `(k + 1) * shard_rows - 1` of one table, in table order, and
appears by atomic rename or not at all. Which rows are done is read off the shards themselves, so that a killed run
resumes with no row lost or doubled. Shards are uncompressed and memory-map. `store.json` is written twice: when the
store is begun (what it is for) and when it is complete (shard sizes and hashes).

Notation: N rows, D vector size, T frames of one utterance, C frame channels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.atomic import atomic_path, names_in, write_text
from nestvox.differences import differences, differences_in_words
from nestvox.errors import FingerprintError, StoreError
from nestvox.extraction.store.mapped_rows import MappedRows
from nestvox.extraction.store.metadata import (
    STORE_FILE,
    FailedUtterance,
    ShardRecord,
    StoreMetadata,
    is_store,
    read_metadata,
)
from nestvox.extraction.store.shard_files import (
    CONDITION,
    Shard,
    ShardRows,
    check_count,
    check_size,
    corrupt,
    record_of,
    sha256_of,
    shard_columns,
    shard_name,
    write_shard_file,
)
from nestvox.locking import held
from nestvox.names import name_key

_SHARED = -1  # a path of several utterances names none of them

FloatVectors = NDArray[np.float32]


@dataclass(frozen=True)
class VectorBatch:
    """Some rows: (n, D) float32 `vectors`, their names, and their conditions (None: the source has none)."""

    ids: list[str] | None
    vectors: FloatVectors
    conditions: list[str | None] | None = None


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
            names_in(self.path)  # what a killed run left goes; its rows are still planned
        self._failed: dict[int, tuple[FailedUtterance, ...]] = {}
        self._rows: dict[int, int] = {}
        for shard in range(self.metadata.n_shards):
            if self._file(shard).exists():
                self._adopt(shard)

    def _begin(self, metadata: StoreMetadata) -> None:
        if self.path.is_dir():
            strangers = names_in(self.path)
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
        return self.path / shard_name(shard)

    def _adopt(self, shard: int) -> None:
        found = Shard(self._file(shard), self.metadata)
        check_count(found.file, self.metadata, shard, found.rows, len(found.failed))
        self._failed[shard], self._rows[shard] = found.failed, found.rows

    @property
    def pending(self) -> tuple[int, ...]:
        """Shards that are not there yet, in order."""
        return tuple(shard for shard in range(self.metadata.n_shards) if shard not in self._rows)

    @property
    def done_rows(self) -> int:
        """Planned rows that are settled: stored, or recorded as failed."""
        failed = sum(len(failed) for failed in self._failed.values())
        return sum(self._rows.values()) + failed * self.metadata.variants

    def write_shard(self, shard: int, rows: ShardRows) -> None:
        """Write one shard whole, or leave no trace of it.

        Raises:
            StoreError: a wrong number of rows, a wrong shape, a non-finite row (named), the disk is full.
        """
        file = self._file(shard)
        metadata = self.metadata
        check_count(file, metadata, shard, len(rows.utt_ids), len(rows.failed))
        columns = shard_columns(rows, metadata)
        with _saying_what_is_safe(self.path), atomic_path(file) as temporary:
            write_shard_file(temporary, columns, metadata, rows.failed)
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
                shards=tuple(record_of(self._file(shard), self._rows[shard]) for shard in order),
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
                f"{self.path} is not complete ({there} of {metadata.n_shards} shards): run the command that makes it "
                "again and it resumes, or open it with allow_partial=True"
            )
        self._shards: list[Shard] = []
        records: list[ShardRecord] = []
        for file, record in files:
            if record is not None:
                check_size(file, record)
            shard = Shard(file, metadata)
            if record is not None and shard.rows != record.rows:
                raise corrupt(file, f"{shard.rows} rows, {STORE_FILE} says {record.rows}")
            self._shards.append(shard)
            records.append(record or ShardRecord(file.name, shard.rows, file.stat().st_size, ""))
        failed = [failure for shard in self._shards for failure in shard.failed]
        self.metadata = replace(metadata, failed=tuple(failed), shards=tuple(records))
        settled = self.metadata.rows + len(failed) * metadata.variants
        if metadata.complete and settled != metadata.planned_rows:
            raise StoreError(
                f"{self.path}: {STORE_FILE} promises {metadata.planned_rows} rows, its shards hold "
                f"or skip {settled}; embed again into a new folder"
            )
        self._starts = np.cumsum([0, *(shard.rows for shard in self._shards)])

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
        """N speakers as names are compared, None where the table has none."""
        return [None if name is None else name_key(name) for name in self._strings("speaker")]

    @cached_property
    def conditions(self) -> list[str | None]:
        """What is wrong with the N recordings: codes of `audio.condition.CODES` with blanks between, or nothing.

        None stands where it was not measured: in stores of older versions, of imported vectors, and for variants.
        """
        return self._strings(CONDITION)

    @cached_property
    def variants(self) -> NDArray[np.int32]:
        """(N,) numbers of the variant; 0, the recording as it is, where every utterance has one row."""
        return np.concatenate([np.empty(0, np.int32), *(shard.variants for shard in self._shards)])

    def _strings(self, column: str) -> list[Any]:
        return [value for shard in self._shards for value in shard.texts(column)]

    def speaker_codes(self) -> tuple[list[str], NDArray[np.int64]]:
        """The speakers, sorted, and the number of each row's among them; a row without one is of the speaker ``""``.

        The texts of one shard at a time are made into objects.

        Returns:
            C names, and (N,) int64.
        """
        spelt: dict[str, int] = {}
        parts = [
            np.array([spelt.setdefault(name or "", len(spelt)) for name in shard.texts("speaker")], np.int64)
            for shard in self._shards
        ]
        keys = [name_key(name) for name in spelt]
        names = sorted(set(keys))
        code = {name: number for number, name in enumerate(names)}
        place = np.array([code[key] for key in keys], np.int64)
        return names, place[np.concatenate([np.empty(0, np.int64), *parts])]

    def vectors(self) -> FloatVectors:
        """All rows, (N, D) float32; read-only and memory-mapped where there is one float32 shard, else a copy.

        Raises:
            StoreError: the tap is ``frames``, whose rows have different lengths (use `iter_frames`).
        """
        parts = [self._matrix(shard) for shard in self._shards]
        if not parts:
            return np.empty((0, self.metadata.dim), np.float32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def mapped(self, column: str = "vector") -> MappedRows:
        """All rows as they lie in the files, not in memory; gathered by number in float32.

        Args:
            column: ``vector``, or one of the store's further `columns`.

        Raises:
            StoreError: no such column, or the tap is ``frames``.
        """
        sizes = {"vector": self.metadata.dim, **self.metadata.columns}
        if column not in sizes:
            raise StoreError(f"{self.path} has the vectors {', '.join(sizes)}, not {column!r}")
        return MappedRows([shard.vectors(column) for shard in self._shards], sizes[column], self.metadata.dtype)

    def _matrix(self, shard: Shard, rows: slice = slice(None)) -> FloatVectors:
        return self._finite(np.asarray(shard.vectors()[rows], np.float32))

    def _finite(self, vectors: FloatVectors) -> FloatVectors:
        # A sum is not finite if any summand is not, and is a tenth of the work of looking at each.
        with np.errstate(invalid="ignore"):
            whole = np.isfinite(vectors.sum(dtype=np.float64))
        if not whole:
            row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
            raise StoreError(
                f"{self.path}: row {row} of a shard is not finite, which none was when the store was written: a file "
                "has changed since; embed again into a new folder"
            )
        return vectors

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
            taken[here] = self._matrix(self._shards[shard])[wanted[here] - self._starts[shard]]
        return taken

    def iter_batches(self, rows: int = 65536) -> Iterator[VectorBatch]:
        """Yield the rows in order, at most `rows` at a time and never across shards, in bounded memory."""
        for record in self.metadata.shards:
            # Opened anew and let go: pages that were read count as memory as long as they are mapped.
            shard = Shard(self.path / record.name, self.metadata)
            ids, conditions = shard.texts("utt_id"), shard.conditions
            for start in range(0, shard.rows, rows):
                here = slice(start, start + rows)
                yield VectorBatch(ids[here], self._matrix(shard, here), conditions and conditions[here])

    def read_shard(self, shard: int) -> ShardRows:
        """Return one shard of a complete store, names and skipped utterances included, in bounded memory."""
        found = Shard(self.path / self.metadata.shards[shard].name, self.metadata)
        return ShardRows(
            found.texts("utt_id"),
            self._matrix(found),
            found.texts("path"),
            found.texts("speaker"),
            found.failed,
            found.variants.tolist() if self.metadata.variants > 1 else None,
            {column: found.vectors(column) for column in self.metadata.columns},
            found.conditions,
        )

    def iter_frames(self) -> Iterator[tuple[str, FloatVectors]]:
        """Yield (utt_id, frames (T, C) float32) in row order.

        Raises:
            StoreError: the tap is not ``frames``.
        """
        if self.metadata.tap != "frames":
            raise StoreError(f"{self.path} holds the tap {self.metadata.tap!r}: read it with vectors()")
        for shard in self._shards:
            for utt_id, frames in zip(shard.texts("utt_id"), shard.frames(self.metadata.dim), strict=True):
                yield utt_id, self._finite(np.asarray(frames, np.float32))

    def index_of(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Row numbers of utterances, by `utt_id`, else by path; of several variants, those of variant 0.

        Raises:
            StoreError: names that the store does not hold (the first few are listed, with the reason if one failed),
                or a path that several utterances share.
        """
        index = self._index
        unknown = list(dict.fromkeys(name for name in names if name not in index))
        if unknown:
            # The same name in another spelling of Unicode, or with blanks that nobody sees.
            index = index | {
                name: found for name in unknown if (found := self._key_index.get(name_key(name))) is not None
            }
            unknown = [name for name in unknown if name not in index]
        if unknown:
            reasons = {failure.utt_id: failure.reason for failure in self.metadata.failed}
            shown = ", ".join(f"{name} ({reasons[name]})" if name in reasons else name for name in unknown[:5])
            raise StoreError(
                f"{self.path} lacks {len(unknown)} of {len(set(names))} utterances, e.g. {shown}; "
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
        clean = np.flatnonzero(self.variants == 0).tolist()
        paths, utt_ids = self.paths, self.utt_ids
        for row in clean:
            path = paths[row]
            if path is not None:
                index[path] = _SHARED if path in index else row
        # A name in `utt_id` wins over the same name as a path.
        index.update((utt_ids[row], row) for row in clean)
        return index

    @cached_property
    def _key_index(self) -> dict[str, int]:
        index: dict[str, int] = {}
        for name, row in self._index.items():
            key = name_key(name)
            # An utterance has its name and its path.
            index[key] = row if index.get(key, row) == row else _SHARED
        return index

    def verify(self) -> None:
        """Read every shard and compare its hash with the one taken when the store was completed.

        Raises:
            StoreError: a shard has changed since; it is named.
        """
        for record in self.metadata.shards:
            file = self.path / record.name
            if record.sha256 and sha256_of(file) != record.sha256:
                raise corrupt(file, "its sha256 is not the one it had when the store was completed")


Store = EmbeddingStore
"""Embeddings on the disk: `nestvox.extraction.EmbeddingStore` under its short name."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Keep every other writer out of a store or cache; readers come and go.

    Raises:
        NestvoxError: another process is writing it.
    """
    path = Path(path)
    # A file is refused by the writer, in its words; a complete store may lie where nothing can be written.
    if (path.exists() and not path.is_dir()) or (is_store(path) and not os.access(path, os.W_OK)):
        yield
        return
    with _saying_what_is_safe(path):
        lock = ExitStack()
        lock.enter_context(held(path))
    with lock:
        yield


def refuse_another_model(path: str | Path, there: StoreMetadata, *, model: str, fingerprint: str) -> None:
    """See to it that a store is gone on with by the model that began it.

    Raises:
        FingerprintError: it was another.
    """
    if there.fingerprint != fingerprint:
        raise FingerprintError(
            f"{path} holds vectors of the model {there.model} ({there.fingerprint}), not of {model} "
            f"({fingerprint}): give another --out, or delete the folder"
        )


def _refuse_another(path: Path, there: StoreMetadata, wanted: StoreMetadata) -> None:
    refuse_another_model(path, there, model=wanted.model, fingerprint=wanted.fingerprint)
    kept = {"fingerprint", "model", "run", "failed", "shards", "complete", "training_speakers"}
    before, now = ({name: value for name, value in asdict(one).items() if name not in kept} for one in (there, wanted))
    if different := differences(before, now):
        raise StoreError(
            f"{path} was begun for something else ({differences_in_words(different)}): "
            "use the same table and options to resume, give another --out, or delete the folder"
        )


@contextmanager
def _saying_what_is_safe(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path}: cannot write ({error.strerror or error}); what is written so far is whole: "
            "make room and run the same command again, it resumes"
        ) from error
