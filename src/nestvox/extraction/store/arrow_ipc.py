"""Arrow IPC files with the columns of a store, written whole and read as views of a memory map.

By hand, because polars reads such files into memory and drops the metadata of their schema, and pyarrow, which does
both, has 170 MB. A file holds one record batch of uncompressed columns; see Schema.fbs, Message.fbs and File.fbs of
Apache Arrow, and Flatbuffers' layout of tables. No size that a file claims is believed: a column is a view of bytes
that are there, and memory is taken for texts alone.

Notation: n rows, D numbers of a vector.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"ARROW1"
_CONTINUES = b"\xff\xff\xff\xff"
_VERSION = 4  # MetadataVersion.V5
_SCHEMA, _BATCH = 1, 3  # members of the union MessageHeader
_INT, _FLOAT, _TEXT, _FIXED_LIST, _LARGE_LIST = 2, 3, 5, 16, 21  # of the union Type
_FLOATS = {"float16": 0, "float32": 1}  # of the enum Precision


class ArrowError(ValueError):
    """A file is no Arrow IPC file, or one of another kind than stores have."""


@dataclass(frozen=True)
class Texts:
    """n texts in UTF-8.

    Attributes:
        offsets: (n + 1,) int32, where each text begins in `data`, and the end.
        data: bytes of all texts.
        nulls: (n,) where there is none; None: everywhere is one.
    """

    offsets: NDArray[np.int32]
    data: NDArray[np.uint8]
    nulls: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> Self:
        """Make a column of strings.

        Raises:
            ArrowError: more than 2 GiB of them.
        """
        raw = [b"" if text is None else text.encode() for text in texts]
        offsets = np.cumsum([0, *map(len, raw)], dtype=np.int64)
        if offsets[-1] >= 1 << 31:
            raise ArrowError("more than 2 GiB of text in one column")
        nulls = np.array([text is None for text in texts], bool)
        return cls(offsets.astype(np.int32), np.frombuffer(b"".join(raw), np.uint8), nulls if nulls.any() else None)

    def to_list(self) -> list[str | None]:
        """Return n strings, None where there is none.

        Raises:
            UnicodeDecodeError: a text is not UTF-8.
        """
        raw = self.data.tobytes()
        bounds = pairwise(self.offsets.tolist())
        if raw.isascii():
            together = raw.decode()
            found: list[str | None] = [together[first:last] for first, last in bounds]
        else:
            found = [raw[first:last].decode() for first, last in bounds]
        if self.nulls is not None:
            for row in np.flatnonzero(self.nulls).tolist():
                found[row] = None
        return found


@dataclass(frozen=True)
class Lists:
    """n lists of different lengths: list i is ``values[offsets[i]:offsets[i + 1]]``."""

    offsets: NDArray[np.int64]
    values: NDArray[np.floating[Any]]


Column = Texts | Lists | NDArray[Any]
"""Texts; (n,) int32; (n, D) float16 or float32; or lists of such floats."""


# Flatbuffers. A table is a vtable (its size, the size of the table, where each field lies) and the fields; what has no
# fixed size is a reference forward. Every block begins and ends at a multiple of 8 bytes.


class _Block(NamedTuple):
    data: bytes
    entry: int  # where a reference to it points


def _table(*fields: tuple[str, int] | _Block | None) -> _Block:
    """Lay out a table of scalars (format, value), references, and None for fields that are left out."""
    places, scalars, size = [], [], 4
    for item in fields:
        form, value = ("I", 0) if isinstance(item, _Block) else item or ("", 0)
        width = struct.calcsize(form)
        size += -size % max(1, width)
        places.append(size if width else 0)
        scalars.append((form, value))
        size += width
    vtable = struct.pack(f"<{2 + len(places)}H", 4 + 2 * len(places), size, *places)
    start = len(_padded(vtable))
    data = bytearray(_padded(_padded(vtable) + bytes(size)))
    struct.pack_into("<i", data, start, start)
    for place, (form, value) in zip(places, scalars, strict=True):
        if place:
            struct.pack_into(f"<{form}", data, start + place, value)
    children = zip(places, fields, strict=True)
    return _Block(_linked(data, [(start + place, item) for place, item in children if isinstance(item, _Block)]), start)


def _vector(items: bytes, count: int) -> _Block:
    return _Block(_padded(struct.pack("<4xI", count) + items), 4)


def _text(text: bytes) -> _Block:
    return _vector(text + b"\0", len(text))


def _tables(items: Sequence[_Block]) -> _Block:
    head = bytearray(_vector(bytes(4 * len(items)), len(items)).data)
    return _Block(_linked(head, [(8 + 4 * number, item) for number, item in enumerate(items)]), 4)


def _root(table: _Block) -> bytes:
    return _linked(bytearray(8), [(0, table)])


def _linked(data: bytearray, children: Iterable[tuple[int, _Block]]) -> bytes:
    for place, child in children:
        struct.pack_into("<I", data, place, len(data) + child.entry - place)
        data += child.data
    return bytes(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


class _Table:
    """A table of a buffer; a place outside it raises struct.error."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data = data
        self._place = place
        slots = place - int(self._unpack("i", place))
        length = int(self._unpack("H", slots))
        self._fields = struct.unpack_from(f"<{max(0, length // 2 - 2)}H", data, slots + 4)

    @classmethod
    def root(cls, data: bytes) -> Self:
        return cls(data, int(struct.unpack_from("<I", data)[0]))

    def _unpack(self, form: str, place: int) -> int:
        if place < 0:  # which Python would count from the end
            raise struct.error("a place outside the buffer")
        return int(struct.unpack_from(f"<{form}", self._data, place)[0])

    def _at(self, slot: int) -> int:
        here = self._fields[slot] if slot < len(self._fields) else 0
        return self._place + here if here else 0

    def has(self, slot: int) -> bool:
        return self._at(slot) != 0

    def number(self, slot: int, form: str = "i") -> int:
        place = self._at(slot)
        return self._unpack(form, place) if place else 0

    def _reference(self, slot: int) -> int:
        place = self._at(slot)
        if not place:
            raise ArrowError(f"field {slot} of a table is missing")
        return place + self._unpack("I", place)

    def table(self, slot: int) -> _Table:
        return _Table(self._data, self._reference(slot))

    def text(self, slot: int) -> bytes:
        if not self.has(slot):
            return b""
        place = self._reference(slot)
        return self._slice(place + 4, self._unpack("I", place))

    def tables(self, slot: int) -> list[_Table]:
        if not self.has(slot):
            return []
        place = self._reference(slot)
        count = len(self._slice(place + 4, 4 * self._unpack("I", place))) // 4
        places = [place + 4 + 4 * number for number in range(count)]
        return [_Table(self._data, here + self._unpack("I", here)) for here in places]

    def structs(self, slot: int, form: str) -> list[tuple[int, ...]]:
        """Entries of a vector of structs."""
        if not self.has(slot):
            return []
        place = self._reference(slot)
        entries = self._slice(place + 4, struct.calcsize(f"<{form}") * self._unpack("I", place))
        return list(struct.iter_unpack(f"<{form}", entries))

    def _slice(self, first: int, length: int) -> bytes:
        if first + length > len(self._data):
            raise ArrowError("a text or vector ends outside its buffer")
        return self._data[first : first + length]


def _field(name: str, kind: int, of: _Block, children: Sequence[_Block] = ()) -> _Block:
    return _table(_text(name.encode()), ("B", 1), ("B", kind), of, None, _tables(children))


def _float_field(name: str, dtype: np.dtype[Any]) -> _Block:
    return _field(name, _FLOAT, _table(("h", _FLOATS[dtype.name])))


def _laid_out(name: str, column: Column) -> tuple[_Block, list[tuple[int, int]], list[NDArray[Any]]]:
    """Return the field of a column, its nodes (rows, nulls), and its buffers."""
    none = np.empty(0, np.uint8)
    if isinstance(column, Texts):
        nulls = none if column.nulls is None else np.packbits(~column.nulls, bitorder="little")
        count = 0 if column.nulls is None else int(column.nulls.sum())
        nodes = [(len(column.offsets) - 1, count)]
        return _field(name, _TEXT, _table()), nodes, [nulls, column.offsets, column.data]
    if isinstance(column, Lists):
        field = _field(name, _LARGE_LIST, _table(), [_float_field("item", column.values.dtype)])
        nodes = [(len(column.offsets) - 1, 0), (len(column.values), 0)]
        return field, nodes, [none, column.offsets, none, column.values]
    if column.ndim == 1:
        return _field(name, _INT, _table(("i", 32), ("B", 1))), [(len(column), 0)], [none, column]
    of, item = _table(("i", column.shape[1])), _float_field("item", column.dtype)
    return _field(name, _FIXED_LIST, of, [item]), [(len(column), 0), (column.size, 0)], [none, none, column]


def write_arrow(file: Path, columns: Mapping[str, Column], metadata: Mapping[str, bytes]) -> None:
    """Write columns of n rows each as one record batch, uncompressed.

    Args:
        file: to write.
        columns: by name, in order.
        metadata: of the schema.
    """
    laid_out = [_laid_out(name, column) for name, column in columns.items()]
    fields = _tables([field for field, _, _ in laid_out])
    notes = _tables([_table(_text(key.encode()), _text(value)) for key, value in metadata.items()])
    schema = _table(("h", 0), fields, notes)
    nodes = [node for _, found, _ in laid_out for node in found]
    buffers = [np.ascontiguousarray(buffer) for _, _, found in laid_out for buffer in found]
    places, end = [], 0
    for buffer in buffers:
        places.append((end, buffer.nbytes))
        end += buffer.nbytes + -buffer.nbytes % 8
    batch = _table(
        ("q", nodes[0][0]),
        _vector(b"".join(struct.pack("<2q", *node) for node in nodes), len(nodes)),
        _vector(b"".join(struct.pack("<2q", *place) for place in places), len(places)),
    )
    with file.open("wb") as out:
        out.write(_padded(_MAGIC))
        _write_message(out, _SCHEMA, schema, 0)
        start = out.tell()
        _write_message(out, _BATCH, batch, end)
        block = struct.pack("<qi4xq", start, out.tell() - start, end)
        for buffer in buffers:
            out.write(buffer.reshape(-1).view(np.uint8).data)
            out.write(bytes(-buffer.nbytes % 8))
        out.write(_CONTINUES + bytes(4))
        footer = _root(_table(("h", _VERSION), schema, _vector(b"", 0), _vector(block, 1)))
        out.write(footer + struct.pack("<i", len(footer)) + _MAGIC)


def _write_message(out: BinaryIO, kind: int, header: _Block, body: int) -> None:
    message = _root(_table(("h", _VERSION), ("B", kind), header, ("q", body)))
    out.write(_CONTINUES + struct.pack("<i", len(message)) + message)


class _Batch(NamedTuple):
    rows: int
    nodes: Sequence[tuple[int, ...]]  # rows and nulls
    buffers: Sequence[tuple[int, ...]]  # where in the file, and bytes


class ArrowFile:
    """A file mapped into memory; its columns are looked at when they are asked for.

    Args:
        file: a regular file.

    Attributes:
        kinds: what each column holds: ``text``, ``int32``, ``float32 x 4``, ``lists of float32``, or what else.
        metadata: of the schema.

    Raises:
        ArrowError, struct.error, UnicodeDecodeError: no such file, compressed, or damaged.
        OSError: it cannot be read.
    """

    def __init__(self, file: Path) -> None:
        with file.open("rb") as handle:
            if handle.seek(0, 2) < 2 * len(_padded(_MAGIC)):
                raise ArrowError("not an Arrow IPC file, or truncated")
            self._map = _mapped(handle)
        tail = len(self._map) - len(_MAGIC)
        length = int.from_bytes(self._map[tail - 4 : tail], "little")
        if self._map[: len(_MAGIC)] != _MAGIC or self._map[tail:] != _MAGIC or length > tail - 4 - len(_MAGIC):
            raise ArrowError("not an Arrow IPC file, or truncated")
        footer = _Table.root(self._map[tail - 4 - length : tail - 4])
        schema, batches = footer.table(1), footer.structs(3, "qi4xq")
        if schema.number(0, "h") or len(batches) > 1:
            raise ArrowError("big-endian numbers or several record batches, which no store has")
        self.metadata = {note.text(0).decode(): note.text(1) for note in schema.tables(2)}
        self.kinds: dict[str, str] = {}
        self._first: dict[str, tuple[int, int]] = {}  # node and buffer of each column
        node = buffer = 0
        for field in schema.tables(1):
            name, kind = field.text(0).decode(), _kind_of(field)
            if name in self.kinds:
                raise ArrowError(f"the column {name[:80]!r} stands twice")
            self.kinds[name], self._first[name] = kind, (node, buffer)
            nodes, buffers = {"text": (1, 3), "int32": (1, 2)}.get(kind, (2, 4 if kind.startswith("lists") else 3))
            node, buffer = node + nodes, buffer + buffers
        self._claimed = (node, buffer)
        self._batches = batches

    @cached_property
    def _batch(self) -> _Batch:
        if not self._batches:
            return _Batch(0, [(0, 0)] * self._claimed[0], [(0, 0)] * self._claimed[1])
        start, head, body = self._batches[0]
        if min(start, head - 8, body) < 0 or start + head + body > len(self._map):
            raise ArrowError("a record batch that ends outside the file")
        message = _Table.root(self._map[start + 8 : start + head])
        if message.number(1, "B") != _BATCH:
            raise ArrowError("no record batch where the footer says")
        batch = message.table(2)
        if batch.has(3):
            raise ArrowError("compressed columns, which no store has")
        rows, nodes, buffers = batch.number(0, "q"), batch.structs(1, "2q"), batch.structs(2, "2q")
        if rows < 0 or (len(nodes), len(buffers)) != self._claimed:
            raise ArrowError("a record batch that does not fit its schema")
        if any(min(place, length) < 0 or place % 8 or place + length > body for place, length in buffers):
            raise ArrowError("a column that ends outside its record batch")
        return _Batch(rows, nodes, [(start + head + place, length) for place, length in buffers])

    @property
    def rows(self) -> int:
        """The number n of rows; 0 where there is no record batch."""
        return self._batch.rows

    def _view(self, number: int, dtype: Any, count: int) -> NDArray[Any]:
        place, length = self._batch.buffers[number]
        if count < 0 or count * np.dtype(dtype).itemsize > length:
            raise ArrowError(f"a buffer of {length} bytes, which has to hold {count} numbers")
        return np.frombuffer(self._map, dtype, count, place) if count else np.empty(0, dtype)

    def _nulls(self, node: int, buffer: int, rows: int) -> NDArray[np.bool_] | None:
        """Where a column of so many rows has nulls; None: nowhere."""
        claimed, nulls = self._batch.nodes[node]
        if claimed != rows:
            raise ArrowError(f"a column of {claimed} rows, which has to have {rows}")
        if not nulls and not self._batch.buffers[buffer][1]:
            return None
        bits = np.unpackbits(self._view(buffer, np.uint8, -(-rows // 8)), count=rows, bitorder="little")
        found: NDArray[np.bool_] = bits == 0
        return found if found.any() else None

    def texts(self, name: str) -> Texts:
        """Return a column of texts.

        Raises:
            ArrowError, UnicodeDecodeError: it is damaged, or its texts are not UTF-8.
        """
        node, buffer = self._first[name]
        nulls = self._nulls(node, buffer, self.rows)
        if not self.rows:
            return Texts.of([])
        offsets = _rising(self._view(buffer + 1, np.int32, self.rows + 1))
        found = Texts(offsets, self._view(buffer + 2, np.uint8, int(offsets[-1])), nulls)
        if len(found.data) and (found.data & 0x80).any():
            found.data.tobytes().decode()
            begins = offsets[:-1][np.diff(offsets) > 0]
            if ((found.data[begins] & 0xC0) == 0x80).any():
                raise ArrowError(f"a text of the column {name} begins inside a letter")
        return found

    def numbers(self, name: str) -> NDArray[Any]:
        """Return a view: (n,) int32, or (n, D) floats of a column of fixed lists.

        Raises:
            ArrowError: it is damaged, or a number is missing.
        """
        node, buffer = self._first[name]
        missing = self._nulls(node, buffer, self.rows)
        if self.kinds[name] == "int32":
            found = self._view(buffer + 1, np.int32, self.rows)
        else:
            dtype, size = self.kinds[name].split(" x ")
            flat = self._floats(node + 1, buffer + 1, dtype, self.rows * int(size), name)
            found = flat.reshape(self.rows, int(size))
        if missing is not None:
            raise ArrowError(f"the column {name} has nulls")
        return found

    def lists(self, name: str) -> Lists:
        """Return a column of lists of floats.

        Raises:
            ArrowError: it is damaged, or a list or a number is missing.
        """
        node, buffer = self._first[name]
        if self._nulls(node, buffer, self.rows) is not None:
            raise ArrowError(f"the column {name} has nulls")
        offsets = _rising(self._view(buffer + 1, np.int64, self.rows + 1)) if self.rows else np.zeros(1, np.int64)
        count, dtype = self._batch.nodes[node + 1][0], self.kinds[name].removeprefix("lists of ")
        if offsets[-1] > count:
            raise ArrowError(f"lists of the column {name} end outside it")
        return Lists(offsets, self._floats(node + 1, buffer + 2, dtype, count, name))

    def _floats(self, node: int, buffer: int, dtype: str, count: int, name: str) -> NDArray[np.floating[Any]]:
        if self._nulls(node, buffer, count) is not None:
            raise ArrowError(f"the column {name} has nulls")
        return self._view(buffer + 1, dtype, count)


def _kind_of(field: _Table) -> str:
    number, children = field.number(2, "B"), field.tables(5)
    if field.has(4):
        return "a dictionary"
    if number == _TEXT:
        return "text"
    if number == _INT and field.table(3).number(0) == 32 and field.table(3).number(1, "B"):
        return "int32"
    if number in (_FIXED_LIST, _LARGE_LIST) and len(children) == 1 and children[0].number(2, "B") == _FLOAT:
        precision = children[0].table(3).number(0, "h")
        dtype = next((name for name, value in _FLOATS.items() if value == precision), f"float of kind {precision}")
        return f"lists of {dtype}" if number == _LARGE_LIST else f"{dtype} x {field.table(3).number(0)}"
    return f"what Arrow numbers {number}"


def _rising(offsets: NDArray[Any]) -> NDArray[Any]:
    if offsets[0] < 0 or (np.diff(offsets) < 0).any():
        raise ArrowError("offsets that go back")
    return offsets


def _mapped(handle: BinaryIO) -> mmap.mmap:
    """Map a file. A map keeps a descriptor, and large stores have thousands of shards: the process may have more."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(handle.fileno())
        os.close(free)
        if 0 < soft < 2 * free and soft != hard:
            with suppress(ValueError, OSError):  # macOS allows fewer than it says
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
