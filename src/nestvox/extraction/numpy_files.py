"""`.npy` and `.npz` files of vectors, read and written a block at a time; nothing is ever unpickled."""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from nestvox.errors import StoreError
from nestvox.gate import naming, open_regular

__all__ = ["NpySink", "NpzSink", "iter_npy", "iter_npz", "npy_shape", "npz_shape", "read_npy_vector"]

_BLOCK = 8192
_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError)

NamedBlock = tuple[list[str] | None, NDArray[np.float32]]


class _Array:
    """A C-ordered array in the middle of a byte stream: its header is read at once, its rows on demand."""

    def __init__(self, handle: IO[bytes], where: str, *, kinds: str, ndim: int) -> None:
        self.handle, self.where = handle, where
        try:
            version = npy.read_magic(handle)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            self.shape, fortran, self.dtype = read_header(handle)
        except (ValueError, EOFError, SyntaxError, OverflowError, *_DAMAGED) as error:
            raise StoreError(f"{where}: no NumPy array ({str(error).splitlines()[0]})") from error
        if any(side < 0 for side in self.shape):
            raise StoreError(f"{where}: no NumPy array (the shape {self.shape})")
        fortran = fortran and sum(side > 1 for side in self.shape) > 1
        if self.dtype.kind not in kinds or len(self.shape) != ndim or fortran:
            what = "floats" if "f" in kinds else "strings"
            order = "Fortran-ordered " if fortran else ""
            raise StoreError(
                f"{where}: expected a C-ordered {ndim}-D array of {what}, got a {order}{len(self.shape)}-D array of "
                f"{_called(self.dtype)}{_shaped(self.shape)}; {_advice(self.shape, self.dtype, vectors='f' in kinds)}"
            )

    def rows(self, start: int, count: int) -> NDArray[Any]:
        """Return the next `count` rows; `start` is where they begin, for the error."""
        row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        try:
            content = self.handle.read(count * row_bytes)
        except (EOFError, ValueError, *_DAMAGED) as error:
            raise StoreError(f"{self.where}: damaged after row {start} ({error})") from error
        if len(content) != count * row_bytes:
            raise StoreError(f"{self.where}: truncated after row {start + len(content) // max(1, row_bytes)}")
        return np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])


def _called(dtype: np.dtype[Any]) -> str:
    return "Python objects" if dtype.hasobject else str(dtype)


def _shaped(shape: tuple[int, ...]) -> str:
    return f" {shape}" if len(shape) > 2 else ""


def _advice(shape: tuple[int, ...], dtype: np.dtype[Any], *, vectors: bool) -> str:
    """What to save in place of an array that is none of vectors, or of ids, by what it is."""
    pickled = "pickled objects are never opened; "
    cases = (
        (not vectors and dtype.kind == "f", "ids that became numbers with a fraction are lost: take them as text"),
        (not vectors, "save the ids as text, np.array(list(ids), str)"),
        (
            dtype.hasobject and not shape,
            f"{pickled}if it is a dict of vectors, save "
            "np.savez(file, vectors=np.stack(list(d.values())), ids=np.array(list(d)))",
        ),
        (dtype.hasobject, f"{pickled}if all rows are equally long, save np.stack(list(vectors))"),
        (dtype.kind in "iu", "whole numbers are codes of something: save the vectors that they stand for, as float32"),
        (dtype.kind != "f", "save real numbers, as float32"),
        (len(shape) < 2, "save vector[None] if it is one vector"),
        (
            len(shape) > 2 and sum(side > 1 for side in shape[1:]) < 2,
            "save vectors.reshape(len(vectors), -1): axes of length 1 hold nothing",
        ),
        (len(shape) > 2, "one vector a row is needed: average the frames of each recording first"),
    )
    return next((advice for applies, advice in cases if applies), "save np.ascontiguousarray(vectors)")


def read_npy_vector(handle: IO[bytes], where: str) -> NDArray[np.float32]:
    """Read one vector (D,) of a `.npy` file, which may also have the shape (1, D).

    Raises:
        StoreError: another array, or truncated.
    """
    start = handle.tell()
    try:
        found = _Array(handle, where, kinds="f", ndim=1)
    except StoreError:
        handle.seek(start)
        found = _Array(handle, where, kinds="f", ndim=2)
        if found.shape[0] != 1:
            raise StoreError(f"{where}: {found.shape[0]} rows where a vector is expected") from None
    return np.asarray(found.rows(0, found.shape[0]), np.float32).reshape(-1)


def npy_shape(path: Path) -> tuple[int, int]:
    """Return (N, D) of a `.npy` file from its header."""
    with _opened(path) as handle:
        rows, dim = _Array(handle, str(path), kinds="f", ndim=2).shape
    return rows, dim


def _opened(path: Path) -> BinaryIO:
    return open_regular(path, naming(StoreError), missing="no such file")


def iter_npy(path: Path, batch_rows: int) -> Iterator[NamedBlock]:
    """Yield the rows of a `.npy` file, (n, D) float32 at a time."""
    with _opened(path) as handle:
        vectors = _Array(handle, str(path), kinds="f", ndim=2)
        left = os.fstat(handle.fileno()).st_size - handle.tell()
        row_bytes = vectors.shape[1] * vectors.dtype.itemsize
        if vectors.shape[0] * row_bytes > left:  # before room for what a damaged header says is made
            raise StoreError(f"{path}: truncated after row {left // row_bytes}")
        yield from _iter_array(vectors, None, batch_rows)


def npz_shape(path: Path) -> tuple[int, int]:
    """Return (N, D) of the vectors in a `.npz` file from their header."""
    with _open_zip(path) as archive:
        vectors, _ = _member_names(archive, path)
        with archive.open(vectors) as handle:
            rows, dim = _Array(handle, f"{path}[{vectors}]", kinds="f", ndim=2).shape
    return rows, dim


def iter_npz(path: Path, batch_rows: int) -> Iterator[NamedBlock]:
    """Yield ids and rows of a `.npz` file that has `vectors` and `ids`, or one array alone.

    Raises:
        StoreError: not such a file, or other numbers of ids and vectors.
    """
    with _open_zip(path) as archive:
        vectors_name, ids_name = _member_names(archive, path)
        with archive.open(vectors_name) as handle:
            vectors = _Array(handle, f"{path}[{vectors_name}]", kinds="f", ndim=2)
            if ids_name is None:
                yield from _iter_array(vectors, None, batch_rows)
                return
            with archive.open(ids_name) as ids_handle:
                ids = _Array(ids_handle, f"{path}[{ids_name}]", kinds="Uiu", ndim=1)
                if ids.shape[0] != vectors.shape[0]:
                    raise StoreError(f"{path}: {vectors.shape[0]} vectors and {ids.shape[0]} ids")
                yield from _iter_array(vectors, ids, batch_rows)


def _iter_array(vectors: _Array, ids: _Array | None, batch_rows: int) -> Iterator[NamedBlock]:
    rows = vectors.shape[0]
    for start in range(0, rows, batch_rows):
        count = min(batch_rows, rows - start)
        names = None if ids is None else [str(name) for name in ids.rows(start, count)]
        yield names, np.asarray(vectors.rows(start, count), np.float32)


def _open_zip(path: Path) -> zipfile.ZipFile:
    _opened(path).close()
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise StoreError(f"{path}: no .npz file, or truncated ({error})") from error


def _member_names(archive: zipfile.ZipFile, path: Path) -> tuple[str, str | None]:
    names = archive.namelist()
    if "vectors.npy" in names:
        return "vectors.npy", "ids.npy" if "ids.npy" in names else None
    if len(names) == 1:
        return names[0], None
    raise StoreError(
        f"{path}: holds {', '.join(names) or 'nothing'}; expected `vectors` (and `ids`), or one array alone"
    )


class NpySink:
    """Writes a `.npy` file whose number of rows is patched in at the end."""

    def __init__(self, path: Path, dim: int) -> None:
        self._handle = path.open("wb")
        self._dim = dim
        self._rows = 0
        self._header()
        self._start = self._handle.tell()

    def _header(self) -> None:
        # The header reserves room for any number of rows, so that the second one is as long as the first.
        shape = (self._rows, self._dim)
        npy.write_array_header_1_0(self._handle, {"descr": "<f4", "fortran_order": False, "shape": shape})

    def write(self, ids: list[str] | None, vectors: NDArray[np.float32]) -> None:  # noqa: ARG002
        """Append (n, D) rows; the format has no place for names."""
        self._handle.write(np.ascontiguousarray(vectors, "<f4").data)
        self._rows += len(vectors)

    def close(self) -> None:
        """Patch the header and close."""
        with self._handle:
            self._handle.seek(0)
            self._header()
            if self._handle.tell() != self._start:
                raise StoreError(f"the .npy header grew past its room at {self._rows} rows")

    def abandon(self) -> None:
        """Close the file of a write that failed; the owner removes it."""
        with suppress(OSError):  # what is still buffered may not fit on a full disk either
            self._handle.close()


class NpzSink:
    """Writes `vectors` and `ids` into a `.npz` file; the names wait in memory, the vectors beside the file."""

    def __init__(self, path: Path, dim: int) -> None:
        self._path = path
        self._spool = path.with_name(path.name + ".vectors")
        self._vectors = NpySink(self._spool, dim)
        self._ids: list[str] = []
        self._named = True

    def write(self, ids: list[str] | None, vectors: NDArray[np.float32]) -> None:
        """Append (n, D) rows."""
        self._vectors.write(ids, vectors)
        self._named = ids is not None
        self._ids.extend(ids or [])

    def close(self) -> None:
        """Put both arrays into the file."""
        try:
            self._vectors.close()
            with zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED) as archive:
                with archive.open(_dated("vectors.npy"), "w", force_zip64=True) as member, self._spool.open("rb") as f:
                    shutil.copyfileobj(f, member, 1 << 20)
                if self._named:
                    self._write_ids(archive)
        finally:
            self._spool.unlink(missing_ok=True)

    def _write_ids(self, archive: zipfile.ZipFile) -> None:
        dtype = f"<U{max((len(name) for name in self._ids), default=1) or 1}"
        with archive.open(_dated("ids.npy"), "w", force_zip64=True) as member:
            shape = (len(self._ids),)
            npy.write_array_header_1_0(member, {"descr": dtype, "fortran_order": False, "shape": shape})
            for start in range(0, len(self._ids), _BLOCK):
                member.write(np.array(self._ids[start : start + _BLOCK], dtype).tobytes())

    def abandon(self) -> None:
        """Close and remove what a failed write leaves beside the file."""
        self._vectors.abandon()
        self._spool.unlink(missing_ok=True)


def _dated(name: str) -> zipfile.ZipInfo:
    # The zip format demands a date; a fixed one makes equal content equal files.
    return zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
