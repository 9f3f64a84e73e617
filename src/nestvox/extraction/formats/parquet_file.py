"""Vectors in Parquet files, by row groups; imported where such a file is read or written, as pyarrow is an extra.

pyarrow does it, and not polars: polars has no writer that is given rows batch by batch, and ends the process over some
damaged files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nestvox.content import or_else
from nestvox.errors import StoreError, first_of
from nestvox.extraction.store.shard_files import CONDITION
from nestvox.gate import naming, open_regular

_MOST_RATIO = 1000  # values of a Parquet file to its bytes: a column of one value compresses far
_MOST_VALUES = 1 << 24
_NO_PARQUET = (pa.ArrowException, OSError, MemoryError, OverflowError, ValueError)
_ID_COLUMNS = ("utt_id", "id", "ids", "name")
_VECTOR_COLUMNS = ("vector", "vectors", "embedding", "embeddings")


@contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    with open_regular(path, naming(StoreError), missing="no such file") as handle:
        try:
            file = pq.ParquetFile(pa.OSFile(str(path)))  # a file, whatever its name looks like
            metadata, size = file.metadata, os.fstat(handle.fileno()).st_size
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            values = sum(group.column(number).num_values for group in groups for number in range(group.num_columns))
            _ = file.schema_arrow.names  # which may be no text
        except _NO_PARQUET as error:
            raise StoreError(f"{path}: no Parquet file, or truncated: {or_else(path, _first_line(error))}") from error
        if values > _MOST_RATIO * size + _MOST_VALUES:
            raise StoreError(f"{path}: {size:,} bytes that promise {values:,} values: no vectors compress so far")
        with file:
            yield file


def parquet_rows(path: Path) -> int:
    """Return the number of rows that the footer tells.

    Raises:
        StoreError: no Parquet file, or one that promises what cannot be in it.
    """
    with _open_parquet(path) as file:
        return int(file.metadata.num_rows)


def iter_parquet(path: Path, batch_rows: int) -> Iterator[tuple[list[str] | None, NDArray[np.float32]]]:
    """Yield names, where there are some, and vectors of at most so many rows at a time.

    Raises:
        StoreError: damaged, no column of vectors, or a row that is null or not as long as the first.
    """
    with _open_parquet(path) as file:
        vector_column, id_column = _parquet_columns(file.schema_arrow, path)
        columns = [vector_column] if id_column is None else [id_column, vector_column]
        start, dim = 0, None
        try:
            # In this thread: an error in one of Arrow's own ends the process.
            for batch in file.iter_batches(batch_rows, columns=columns, use_threads=False):
                batch.validate(full=True)
                vectors = _list_rows(batch.column(vector_column), dim, path, vector_column, start)
                dim = vectors.shape[1]
                yield None if id_column is None else _names(batch.column(id_column), path, id_column, start), vectors
                start += len(vectors)
        except _NO_PARQUET as error:
            raise StoreError(f"{path}: damaged after row {start} ({_first_line(error)})") from error


def _names(column: pa.Array, path: Path, name: str, start: int) -> list[str]:
    """Ids of a batch as text; whole numbers are written without a point."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        first = next((value for value in column.to_pylist() if value is not None), "none")
        raise StoreError(
            f"{path}: [{name}] holds ids as numbers with a fraction, e.g. {first}: 1001 became 1001.0, and 0012 became "
            "12.0; read them as text before they are stored (pandas: dtype=str)"
        )
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (text or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise StoreError(f"{path}: [{name}] is a column of {kind}, and ids are text")
    found = column.to_pylist()
    for row, value in enumerate(found, start=start):
        if value is None or value == "":
            raise StoreError(
                f"{path}: row {row} [{name}] is {'null' if value is None else 'empty'}; every row has an id"
            )
    return list(map(str, found))


def _parquet_columns(schema: pa.Schema, path: Path) -> tuple[str, str | None]:
    doubled = [name for name in schema.names if schema.names.count(name) > 1]
    if doubled:
        raise StoreError(f"{path}: the column {doubled[0][:80]!r} stands twice")
    lists = [
        item.name
        for item in schema
        if (pa.types.is_list(item.type) or pa.types.is_large_list(item.type) or pa.types.is_fixed_size_list(item.type))
        and pa.types.is_floating(item.type.value_type)
    ]
    named = [name for name in _VECTOR_COLUMNS if name in lists] or (lists if len(lists) == 1 else [])
    if not named:
        raise StoreError(
            f"{path}: columns {first_of(schema.names)[:400]}; expected one that holds lists of floats, called "
            f"{' or '.join(_VECTOR_COLUMNS)} where there are several"
        )
    return named[0], next((name for name in _ID_COLUMNS if name in schema.names), None)


def _list_rows(column: pa.Array, dim: int | None, path: Path, name: str, start: int) -> NDArray[np.float32]:
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise StoreError(f"{path}: row {start + row} [{name}] is null")
    lengths = column.value_lengths().to_numpy(zero_copy_only=False) if len(column) else np.zeros(0, np.int64)
    dim = int(lengths[0]) if dim is None and len(lengths) else dim
    if (lengths != dim).any():
        row = int(np.argmax(lengths != dim))
        raise StoreError(f"{path}: row {start + row} [{name}] has {lengths[row]} numbers, those before have {dim}")
    values = column.flatten()
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))) // int(lengths[0])
        raise StoreError(f"{path}: row {start + row} [{name}] has a null in it")
    with np.errstate(over="ignore"):  # what is infinite in float32 is refused as any row that is not finite
        flat: NDArray[np.float32] = np.asarray(values.to_numpy(zero_copy_only=False), np.float32)
    return flat.reshape(len(column), dim or 0)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class ParquetSink:
    """Writes the columns `utt_id`, where rows have names, `vector`, and `condition`, where it was measured."""

    def __init__(self, path: Path, dim: int) -> None:
        self._path = path
        self._type = pa.list_(pa.float32(), dim)
        self._writer: pq.ParquetWriter | None = None

    def write(
        self, ids: list[str] | None, vectors: NDArray[np.float32], conditions: list[str | None] | None = None
    ) -> None:
        """Append (n, D) rows."""
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        columns = {"vector": pa.FixedSizeListArray.from_arrays(flat, type=self._type)}
        if ids is not None:
            columns = {"utt_id": pa.array(ids, pa.string()), **columns}
        if conditions is not None:
            columns[CONDITION] = pa.array(conditions, pa.string())
        table = pa.table(columns)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        """End the file; one without rows is whole, too."""
        if self._writer is None:
            schema = pa.schema({"utt_id": pa.string(), "vector": self._type})
            self._writer = pq.ParquetWriter(self._path, schema)
        self._writer.close()

    def abandon(self) -> None:
        """Let go of a file that is thrown away."""
        # The file is thrown away: that its footer does not fit on a full disk is no news.
        with suppress(OSError):
            if self._writer is not None:
                self._writer.close()
