"""`.npy` and `.npz` files of vectors, read and written a block at a time; nothing is ever unpickled."""

from __future__ import annotations

import io
import lzma
import os
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from nestvox.content import or_else
from nestvox.errors import StoreError, first_of
from nestvox.gate import naming, open_regular

_BLOCK = 8192
_MOST_DIM = 1 << 20
_MOST_HEADER_BYTES = 1 << 16
_MOST_BLOCK_BYTES = 64 << 20
_LAST_LETTER, _HALVES = 0x10FFFF, (0xD800, 0xDFFF)
_MOST_RATIO = 200  # of an archive unpacked to itself: texts of four bytes a letter compress far, numbers hardly
_ERROR = naming(StoreError)
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# What unpacking a file raises that is none: zipfile says some of it with RuntimeError and NotImplementedError.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
)

NamedBlock = tuple[list[str] | None, NDArray[np.float32]]


class _Array:
    """A C-ordered array in the middle of a byte stream: its header is read at once, its rows on demand.

    Args:
        handle: at the first byte of the array.
        where: its name in messages.
        kinds: of NumPy dtypes: ``f`` floats, ``U`` texts.
        ndim: axes.
        available: bytes of the array and its header in the file.

    Raises:
        StoreError: another kind of array, or more of it promised than is there.
    """

    def __init__(self, handle: IO[bytes], where: str, *, kinds: str, ndim: int, available: int) -> None:
        self.handle, self.where = handle, where
        try:
            header = self._header(handle)
            version = npy.read_magic(header)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            with warnings.catch_warnings(action="ignore"):  # of headers that Python 2 wrote
                self.shape, fortran, self.dtype = read_header(header)
        except Exception as error:  # a header is an expression of Python, which fails in every way there is
            raise StoreError(f"{where}: no NumPy array: {or_else(where, _first_line(error))}") from error
        _refuse_kind(self, fortran=fortran, kinds=kinds, ndim=ndim)
        row_bytes = self.dtype.itemsize * (self.shape[1] if ndim == 2 else 1)
        needed = header.getbuffer().nbytes + self.shape[0] * row_bytes
        if needed > available:
            raise StoreError(
                f"{where}: truncated, or its header is wrong: {self.shape[0]:,} rows need {needed:,} bytes, there are "
                f"{available:,}"
            )
        if needed < available:
            raise StoreError(f"{where}: {available - needed:,} bytes behind the array; save one array a file")
        self.rows_at_once = max(1, _MOST_BLOCK_BYTES // row_bytes)

    @staticmethod
    def _header(handle: IO[bytes]) -> io.BytesIO:
        """Magic, length and header, no more than a header may have."""
        start = handle.read(8)
        if start[:2] in _PICKLES:
            raise ValueError(
                "it is a Python pickle, which is never opened: save the vectors with np.save(file, vectors)"
            )
        if start[:4] == b"PK\x03\x04":
            raise ValueError("it is a ZIP archive, as np.savez (.npz) and torch.save (.pt) write: np.save makes a .npy")
        npy.read_magic(io.BytesIO(start))
        length = handle.read(2 if start[6:7] == b"\x01" else 4)
        size = int.from_bytes(length, "little")
        if size > _MOST_HEADER_BYTES:
            raise ValueError(f"a header of {size:,} bytes")
        return io.BytesIO(start + length + handle.read(size))

    def rows(self, start: int, count: int) -> NDArray[Any]:
        """Return the next `count` rows; `start` is where they begin, for the error."""
        row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        try:
            content = self.handle.read(count * row_bytes)
        except _DAMAGED as error:
            raise StoreError(f"{self.where}: damaged after row {start} ({_first_line(error)})") from error
        if len(content) != count * row_bytes:
            raise StoreError(f"{self.where}: truncated after row {start + len(content) // max(1, row_bytes)}")
        return np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])


def _refuse_kind(array: _Array, *, fortran: bool, kinds: str, ndim: int) -> None:
    """Refuse an array that is none of vectors, or of ids, and say how to save it instead."""
    where, shape, dtype = array.where, array.shape, array.dtype
    if any(isinstance(side, bool) or side < 0 for side in shape):
        raise StoreError(f"{where}: no NumPy array (the shape {str(shape)[:80]})")
    fortran = fortran and sum(side > 1 for side in shape) > 1
    if dtype.kind not in kinds or len(shape) != ndim or fortran:
        what = "floats" if "f" in kinds else "strings"
        order = "Fortran-ordered " if fortran else ""
        raise StoreError(
            f"{where}: expected a C-ordered {ndim}-D array of {what}, got a {order}{len(shape)}-D array of "
            f"{_called(dtype)[:80]}{_shaped(shape)[:80]}; {_advice(shape, dtype, vectors='f' in kinds)}"
        )
    if not dtype.itemsize or not 0 < (shape[-1] if "f" in kinds else 1) <= _MOST_DIM:
        raise StoreError(f"{where}: no vectors ({dtype} {shape}): rows of 1 to {_MOST_DIM:,} numbers are read")


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


def read_npy_vector(handle: BinaryIO, where: str) -> NDArray[np.float32]:
    """Read one vector (D,) of a `.npy` file, which may also have the shape (1, D).

    Raises:
        StoreError: another array, or truncated.
    """
    start = handle.tell()
    available = os.fstat(handle.fileno()).st_size - start
    try:
        found = _Array(handle, where, kinds="f", ndim=1, available=available)
    except StoreError:
        handle.seek(start)
        found = _Array(handle, where, kinds="f", ndim=2, available=available)
        if found.shape[0] != 1:
            raise StoreError(f"{where}: {found.shape[0]} rows where a vector is expected") from None
    with np.errstate(over="ignore"):
        return np.asarray(found.rows(0, found.shape[0]), np.float32).reshape(-1)


def npy_shape(path: Path) -> tuple[int, int]:
    """Return (N, D) of a `.npy` file from its header.

    Raises:
        StoreError: no such file, or more promised than is there.
    """
    with open_regular(path, _ERROR, missing="no such file") as handle:
        rows, dim = _npy(handle, path).shape
    return rows, dim


def iter_npy(path: Path, batch_rows: int) -> Iterator[NamedBlock]:
    """Yield the rows of a `.npy` file, (n, D) float32 at a time.

    Raises:
        StoreError: as `npy_shape`, or the file is damaged.
    """
    with open_regular(path, _ERROR, missing="no such file") as handle:
        yield from _iter_array(_npy(handle, path), None, batch_rows)


def _npy(handle: BinaryIO, path: Path) -> _Array:
    return _Array(handle, str(path), kinds="f", ndim=2, available=os.fstat(handle.fileno()).st_size)


def npz_shape(path: Path) -> tuple[int, int]:
    """Return (N, D) of the vectors in a `.npz` file from their header.

    Raises:
        StoreError: as `iter_npz`.
    """
    with _open_zip(path) as archive:
        vectors, _ = _member_names(archive, path)
        with _open_member(archive, path, vectors) as handle:
            rows, dim = _member(archive, handle, path, vectors, kinds="f", ndim=2).shape
    return rows, dim


def iter_npz(path: Path, batch_rows: int) -> Iterator[NamedBlock]:
    """Yield ids and rows of a `.npz` file that has `vectors` and `ids`, or one array alone.

    Raises:
        StoreError: not such a file, more promised than is there or than can be compressed so far, or other numbers of
            ids and vectors.
    """
    with _open_zip(path) as archive:
        vectors_name, ids_name = _member_names(archive, path)
        with _open_member(archive, path, vectors_name) as handle:
            vectors = _member(archive, handle, path, vectors_name, kinds="f", ndim=2)
            if ids_name is None:
                yield from _iter_array(vectors, None, batch_rows)
                return
            with _open_member(archive, path, ids_name) as ids_handle:
                ids = _member(archive, ids_handle, path, ids_name, kinds="Uiu", ndim=1)
                if ids.shape[0] != vectors.shape[0]:
                    raise StoreError(f"{path}: {vectors.shape[0]} vectors and {ids.shape[0]} ids")
                yield from _iter_array(vectors, ids, batch_rows)


def _iter_array(vectors: _Array, ids: _Array | None, batch_rows: int) -> Iterator[NamedBlock]:
    rows = vectors.shape[0]
    step = min(batch_rows, vectors.rows_at_once, batch_rows if ids is None else ids.rows_at_once)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        names = None if ids is None else _texts(ids, start, count)
        with np.errstate(over="ignore"):  # what is infinite in float32 is refused as any row that is not finite
            yield names, np.asarray(vectors.rows(start, count), np.float32)


def _texts(ids: _Array, start: int, count: int) -> list[str]:
    rows = ids.rows(start, count)
    # Looked at as numbers: NumPy makes a text of those as well that are no characters, or half of one.
    letters = rows.view(np.uint32 if rows.dtype.isnative else np.dtype(np.uint32).newbyteorder())
    if (letters > _LAST_LETTER).any() or ((letters >= _HALVES[0]) & (letters <= _HALVES[1])).any():
        raise StoreError(f"{ids.where}: a name after row {start} is no text")
    return [str(name) for name in rows]


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    with open_regular(path, _ERROR, missing="no such file") as handle:
        try:
            archive = zipfile.ZipFile(handle)
        except _DAMAGED as error:
            raise StoreError(f"{path}: no .npz file, or truncated: {or_else(path, _first_line(error))}") from error
        size = os.fstat(handle.fileno()).st_size
        unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > _MOST_RATIO * size + _MOST_BLOCK_BYTES:
            raise StoreError(f"{path}: {size:,} bytes that unpack to {unpacked:,}: no vectors compress so far")
        yield archive


def _open_member(archive: zipfile.ZipFile, path: Path, name: str) -> IO[bytes]:
    try:
        return archive.open(name)
    except _DAMAGED as error:
        raise StoreError(f"{path}[{name[:80]}]: damaged ({_first_line(error)})") from error


def _member(archive: zipfile.ZipFile, handle: IO[bytes], path: Path, name: str, *, kinds: str, ndim: int) -> _Array:
    return _Array(handle, f"{path}[{name[:80]}]", kinds=kinds, ndim=ndim, available=archive.getinfo(name).file_size)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _member_names(archive: zipfile.ZipFile, path: Path) -> tuple[str, str | None]:
    names = archive.namelist()
    if "vectors.npy" in names:
        return "vectors.npy", "ids.npy" if "ids.npy" in names else None
    if len(names) == 1:
        return names[0], None
    raise StoreError(
        f"{path}: holds {first_of(names) or 'nothing'}; expected `vectors` (and `ids`), or one array alone"
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
