"""Vectors in the formats of others, streamed in and out: npy, npz, Parquet, Kaldi ark/scp, and a nestvox store.

| suffix | names | read and written |
|---|---|---|
| `.npy` | none | (N, D) floats, a block at a time |
| `.npz` | `ids` | arrays `vectors` and `ids`, or one array alone |
| `.parquet` | column `utt_id` | a list column, by row groups |
| `.ark`, `.scp` | the keys | float vectors; writing gives both files; an `.scp` may also name one file a line |
| a folder | `utt_id` | an embedding store |

Every reader refuses rows that are not finite or not as long as the first, by file and row (rows count from 0).
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from nestvox.atomic import atomic_path
from nestvox.errors import StoreError
from nestvox.extraction.formats.kaldi_ark import ArkSink, iter_ark, iter_scp
from nestvox.extraction.formats.numpy_files import NpySink, NpzSink, iter_npy, iter_npz, npy_shape, npz_shape
from nestvox.extraction.store.metadata import StoreMetadata, is_store
from nestvox.extraction.store.shard_files import ShardRows
from nestvox.extraction.store.store import EmbeddingStore, StoreWriter, VectorBatch
from nestvox.extras import require
from nestvox.heads.contract import truncate
from nestvox.locking import locked
from nestvox.progress import Progress, silent

_SUFFIXES = (".npy", ".npz", ".parquet", ".ark", ".scp")

NamedBlock = tuple[list[str] | None, NDArray[np.float32]]


def iter_vectors(path: str | Path, batch_rows: int = 65536) -> Iterator[VectorBatch]:
    """Yield the rows of a file or store in order, at most `batch_rows` at a time, in bounded memory.

    Raises:
        StoreError: no such file, unknown format, damaged, ragged or non-finite rows; file and row are named.
    """
    path = Path(path)
    return _checked(path, _reader(path)(path, batch_rows))


def vector_shape(path: str | Path) -> tuple[int | None, int]:
    """Return (N, D) without reading the rows; N is None where only reading all would tell (Kaldi).

    Raises:
        StoreError: as `iter_vectors`; also a Kaldi file without entries.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == "store":
        store = _open_store(path)
        return len(store), store.metadata.dim
    if kind == ".npy":
        return npy_shape(path)
    if kind == ".npz":
        return npz_shape(path)
    first = next(_reader(path)(path, 1), None)
    if kind == ".parquet":
        return _parquet().parquet_rows(path), 0 if first is None else first[1].shape[1]
    if first is None:
        raise StoreError(f"{path}: no vectors in it")
    return None, first[1].shape[1]


def export_store(
    store: EmbeddingStore | str | Path, out: str | Path, *, dim: int | None = None, progress: Progress = silent
) -> int:
    """Write the rows of a store to a file whose suffix names the format.

    Args:
        store: a complete store of the taps nested, embedding or pooled.
        out: `.npy`, `.npz`, `.parquet`, `.ark` or `.scp`.
        dim: keep this many leading numbers, scaled to unit length (the prefix rule of a nested embedding);
            None: the rows as they are stored.
        progress: rows written of all.

    Returns:
        Rows written.

    Raises:
        StoreError: a `dim` that the store's model was not made for, a store of frames, an unknown suffix.
    """
    store = store if isinstance(store, EmbeddingStore) else EmbeddingStore(store)
    metadata = store.metadata
    if dim is not None and dim not in metadata.dims:
        known = f"its dims are {', '.join(map(str, metadata.dims))}" if metadata.dims else "it is not nested"
        raise StoreError(f"{store.path}: no prefix of {dim}: {known} (tap {metadata.tap})")
    written = 0
    measured = any(codes is not None for codes in store.conditions)
    with VectorWriter(out, dim=dim or metadata.dim) as writer:
        for batch in store.iter_batches():
            vectors = batch.vectors if dim is None else np.asarray(truncate(batch.vectors, dim), np.float32)
            # Shards of an older version, in a store that this one completed, have no conditions.
            conditions = (batch.conditions or [None] * len(vectors)) if measured else None
            writer.write(VectorBatch(batch.ids, vectors, conditions))
            written += len(vectors)
            progress(written, len(store))
    return written


class VectorWriter:
    """Streams vectors into a file or store that appears whole or not at all; use it as a context manager.

    Args:
        path: the suffix names the format. Kaldi: `.ark` or `.scp` gives both. A path without one of the suffixes is
            a store, and needs `metadata`.
        dim: D; None: that of the first batch.
        metadata: what a store is to say of itself; `planned_rows` must be the number of rows that will come.

    Raises:
        StoreError: unknown suffix; batches of another D, named and nameless ones mixed, non-finite rows; no room.
    """

    def __init__(self, path: str | Path, *, dim: int | None = None, metadata: StoreMetadata | None = None) -> None:
        self.path = Path(path)
        self.rows = 0
        self._dim = dim if metadata is None else metadata.dim
        self._metadata = metadata
        self._named: bool | None = None
        self._sink: _Sink | None = None
        self._stack = ExitStack()
        if metadata is None and self.path.suffix not in _SUFFIXES:
            raise StoreError(f"{self.path}: unknown suffix; vectors are written as {', '.join(_SUFFIXES)}")
        if metadata is None and self.path.suffix == ".parquet":
            _parquet()  # before anything is computed for it

    def __enter__(self) -> Self:
        return self

    def write(self, batch: VectorBatch) -> None:
        """Append (n, D) rows.

        Raises:
            StoreError: another D than before, names for other rows or not for all, a number that is not finite, or the
                file cannot be written.
        """
        vectors = np.asarray(batch.vectors, np.float32)
        if self._dim is None and vectors.ndim == 2:
            self._dim = vectors.shape[1]
        if vectors.ndim != 2 or vectors.shape[1] != self._dim:
            raise StoreError(f"{self.path}: rows of {self._dim} numbers are being written, got {vectors.shape}")
        if batch.ids is not None and len(batch.ids) != len(vectors):
            raise StoreError(f"{self.path}: {len(batch.ids)} names for {len(vectors)} rows")
        if self._named not in (None, batch.ids is not None):
            raise StoreError(f"{self.path}: some batches have names and some have none")
        self._named = batch.ids is not None
        _refuse_non_finite(self.path, vectors, batch.ids, self.rows)
        try:
            sink: Any = self._open()
            if (
                self._metadata is None and self.path.suffix == ".parquet"
            ):  # the only format with a place for more than names
                sink.write(batch.ids, vectors, batch.conditions)
            else:
                sink.write(batch.ids, vectors)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self.rows += len(vectors)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        try:
            # Closing the sink is the last thing inside the stack: if it fails, the temporaries go.
            with self._stack:
                self._open().close()
        except OSError as failure:
            raise _cannot_write(self.path, failure) from failure

    def _open(self) -> _Sink:
        if self._sink is None:
            if self._dim is None:
                raise StoreError(f"{self.path}: no rows were written and no dim was given")
            self._sink = self._make_sink(self._dim)
        return self._sink

    def _make_sink(self, dim: int) -> _Sink:
        sink: _Sink
        if self._metadata is not None:
            sink = _StoreSink(self.path, self._metadata)
        elif self.path.suffix in (".ark", ".scp"):
            # Entered first, left last: the .scp appears after the archive that it names.
            scp = self._stack.enter_context(atomic_path(self.path.with_suffix(".scp")))
            ark = self._stack.enter_context(atomic_path(self.path.with_suffix(".ark")))
            sink = ArkSink(ark, scp, self.path.with_suffix(".ark"))
        else:
            temporary = self._stack.enter_context(atomic_path(self.path))
            kinds: dict[str, Callable[[Path, int], _Sink]] = {
                ".npy": NpySink,
                ".npz": NpzSink,
            }
            make = _parquet().ParquetSink if self.path.suffix == ".parquet" else kinds[self.path.suffix]
            sink = make(temporary, dim)
        # Called before the temporaries are renamed or removed; after a close it has nothing left to do.
        self._stack.callback(sink.abandon)
        return sink


class _Sink(Protocol):
    def write(self, ids: list[str] | None, vectors: NDArray[np.float32], /) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


class _StoreSink:
    """Shards in a hidden folder that takes the store's name when the last row is in."""

    def __init__(self, path: Path, metadata: StoreMetadata) -> None:
        if path.exists():
            raise StoreError(f"{path} exists: give another name, or delete it")
        self._final = path
        self._lock = ExitStack()
        self._lock.enter_context(locked(path, wait_s=0, folder=False))
        self._folder = path.with_name(f".{path.name}.partial")
        shutil.rmtree(self._folder, ignore_errors=True)  # left by a run that was killed
        self._writer = StoreWriter(self._folder, metadata)
        self._ids: list[str] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._shard = 0

    def write(self, ids: list[str] | None, vectors: NDArray[np.float32]) -> None:
        if ids is None:
            raise StoreError("an embedding store needs a name for every row, and these vectors have none")
        self._ids.extend(ids)
        self._vectors.append(vectors)
        size = self._writer.metadata.shard_rows
        if len(self._ids) < size:
            return
        waiting = np.concatenate(self._vectors)
        full = len(waiting) // size * size
        for start in range(0, full, size):
            self._write_shard(self._ids[start : start + size], waiting[start : start + size])
        # The copy lets go of the rows that are written.
        self._ids, self._vectors = self._ids[full:], [waiting[full:].copy()]

    def _write_shard(self, ids: list[str], vectors: NDArray[np.float32]) -> None:
        self._writer.write_shard(self._shard, ShardRows(ids, vectors))
        self._shard += 1

    def close(self) -> None:
        if self._ids:
            self._write_shard(self._ids, np.concatenate(self._vectors))
        self._writer.finish()
        self._folder.rename(self._final)
        self._lock.close()

    def abandon(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()


def _parquet() -> Any:
    """Return the module that reads and writes Parquet.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    require("pyarrow", extra="parquet", purpose="reading or writing Parquet files")
    return importlib.import_module("nestvox.extraction.formats.parquet_file")


def _kind(path: Path) -> str:
    if path.is_dir():
        if is_store(path):
            return "store"
        raise StoreError(f"{path} is a folder without store.json: no embedding store")
    if not path.exists():
        raise StoreError(f"{path}: no such file")
    if path.suffix not in _SUFFIXES:
        raise StoreError(f"{path}: unknown format; vectors are read from {', '.join(_SUFFIXES)} or a store folder")
    return path.suffix


def _reader(path: Path) -> Callable[[Path, int], Iterator[NamedBlock]]:
    kind = _kind(path)
    if kind == ".parquet":
        found: Callable[[Path, int], Iterator[NamedBlock]] = _parquet().iter_parquet
        return found
    return {
        "store": _iter_store,
        ".npy": iter_npy,
        ".npz": iter_npz,
        ".ark": _iter_kaldi,
        ".scp": _iter_kaldi,
    }[kind]


def _checked(path: Path, blocks: Iterator[NamedBlock]) -> Iterator[VectorBatch]:
    start, dim = 0, None
    for ids, vectors in blocks:
        dim = vectors.shape[1] if dim is None else dim
        if vectors.shape[1] != dim or dim == 0:
            raise StoreError(f"{path}: row {start} has {vectors.shape[1]} numbers, the first row has {dim}")
        _refuse_non_finite(path, vectors, ids, start)
        yield VectorBatch(ids, vectors)
        start += len(vectors)


def _refuse_non_finite(path: Path, vectors: NDArray[np.float32], ids: list[str] | None, start: int) -> None:
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        name = "" if ids is None else f" ({ids[row]})"
        raise StoreError(f"{path}: row {start + row}{name} is not finite; drop or remake such rows first")


def _open_store(path: Path) -> EmbeddingStore:
    store = EmbeddingStore(path)
    if store.metadata.tap == "frames":
        raise StoreError(f"{path} holds frames, whose rows differ in length; vectors are needed here")
    return store


def _iter_store(path: Path, batch_rows: int) -> Iterator[NamedBlock]:
    for batch in _open_store(path).iter_batches(batch_rows):
        yield batch.ids, batch.vectors


def _iter_kaldi(path: Path, batch_rows: int) -> Iterator[NamedBlock]:
    entries = iter_scp(path) if path.suffix == ".scp" else iter_ark(path)
    start, dim = 0, None
    while block := list(islice(entries, batch_rows)):
        dim = len(block[0][1]) if dim is None else dim
        for row, (name, vector) in enumerate(block, start=start):
            if len(vector) != dim:
                raise StoreError(f"{path}: row {row} ({name}) has {len(vector)} numbers, those before have {dim}")
        yield [name for name, _ in block], np.stack([vector for _, vector in block])
        start += len(block)


def _cannot_write(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path}: cannot write ({error.strerror or error}); nothing was left behind: make room first")
