"""Ways to spoil a file that know its structure: values, keys, headers, sizes, members, and the bytes below all of it.

Every function takes the content of a whole file and a seeded `random.Random`, and returns the content of a spoilt one.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

__all__ = [
    "Mutation",
    "arrow",
    "binary",
    "chosen",
    "json_lines",
    "json_text",
    "npy",
    "npz",
    "parquet",
    "protobuf",
    "safetensors",
    "table",
    "tar",
    "words",
    "yaml_text",
    "zipped",
]

Mutation = Callable[[bytes, random.Random], bytes]

_RAW = "\ue000raw{}\ue001"  # stands for a token that no JSON writer writes
_TOKENS = (
    "NaN",
    "-Infinity",
    "1e999",
    "1" * 6000,
    "-" + "9" * 30,
    "[" * 100_000,
    "[" * 500 + "]" * 500,
    '{"a":' * 3000,
    "0x10",
    "01",
    "'a'",
    '"\\ud800"',
    '"\\u0000"',
    "1.5.2",
    "",
)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    1 << 31,
    (1 << 53) + 1,
    1 << 63,
    10**9,
    10**13,
    10**19,
    0.5,
    -0.0,
    1e-320,
    1e308,
    "",
    " ",
    "nan",
    "1",
    "true",
    "\u00a0",
    "a\u202eb",
    "[/red]",
    "../../etc/passwd",
    "/dev/zero",
    "x" * 100_000,
    "\x1b[31m",
    [],
    {},
    [None],
    [[[[]]]],
    [1, "a", None],
    {"a": {"b": {}}},
    list(range(3000)),
    {str(n): n for n in range(300)},
)
_NUMBERS = (0, 1, 2, 7, 255, 0x7FFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 10**13, (1 << 63) - 1, (1 << 64) - 1)
_WORDS = (
    "",
    " ",
    "\t",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "-1",
    "0",
    "1.0",
    "true",
    "1" * 6000,
    "\u00a0",
    "\u3000",
    "\ufeff",
    "\u2028",
    "\x00",
    '"',
    "'",
    "a b",
    "x" * 50_000,
    "/dev/zero",
    "..",
    "cat /etc/passwd |",
    "\u0661\u0662",
    "1_0",
    "[red]",
    "\x1b]0;x\x07",
    "\r",
    "::a.wav",
)


def chosen(*mutations: Mutation) -> Mutation:
    """Return a mutation that takes one of several, drawn anew each time."""

    def mutate(content: bytes, draw: random.Random) -> bytes:
        return draw.choice(mutations)(content, draw)

    return mutate


def binary(content: bytes, draw: random.Random) -> bytes:
    """Flip, cut, double, insert and overwrite bytes; put numbers of any size where numbers may stand."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        near = min(len(data), draw.choice((16, 64, 256, 1024, len(data), len(data))))
        place = draw.randrange(max(1, near))
        if draw.random() < 0.2:  # what stands at the end of a file: footers, directories
            place = max(0, len(data) - 1 - place)
        size = draw.choice((1, 2, 4, 8, 16, 64))
        kind = draw.randrange(8)
        if kind == 0:
            data[place : place + 1] = bytes([(data[place] if place < len(data) else 0) ^ (1 << draw.randrange(8))])
        elif kind == 1:
            data = data[:place]
        elif kind == 2:
            del data[place : place + size]
        elif kind == 3:
            data[place:place] = data[place : place + size]
        elif kind == 4:
            data[place:place] = draw.randbytes(size)
        elif kind == 5:
            width = draw.choice((2, 4, 8))
            number = draw.choice(_NUMBERS) & ((1 << 8 * width) - 1)
            data[place : place + width] = number.to_bytes(width, draw.choice(("little", "big")))
        elif kind == 6:
            data[place : place + size] = bytes([draw.choice((0, 255, 0x80))]) * size
        else:
            data += draw.randbytes(size) if draw.random() < 0.5 else data[: 8 * size]
    return bytes(data)


def words(content: bytes, draw: random.Random) -> bytes:
    """Change lines and the words in them, as people and other programs do."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    for _ in range(draw.choice((1, 1, 2, 3))):
        number = draw.randrange(len(lines))
        parts = re.split(r"([ \t,|]+)", lines[number])
        kind = draw.randrange(9)
        if kind <= 3:
            parts[draw.randrange(len(parts))] = draw.choice(_WORDS)
            lines[number] = "".join(parts)
        elif kind == 4:
            lines[number] = "".join(parts[: draw.randrange(len(parts))])
        elif kind == 5:
            lines.insert(number, draw.choice(lines))
        elif kind == 6:
            lines.insert(number, draw.choice(_WORDS))
        elif kind == 7:
            del lines[number:]
            lines = lines or [""]
        else:
            lines[number] = lines[number] + draw.choice((" ", "\t", ",")) + draw.choice(_WORDS)
    return _encoded("\n".join(lines), draw)


def _encoded(text: str, draw: random.Random) -> bytes:
    kind = draw.randrange(12)
    if kind == 0:
        return text.encode("utf-16", "replace")
    if kind == 1:
        return b"\xef\xbb\xbf" + text.encode("utf-8", "surrogateescape")
    if kind == 2:
        return text.replace("\n", "\r\n").encode("utf-8", "surrogateescape")
    raw = text.encode("utf-8", "surrogateescape")
    return binary(raw, draw) if kind == 3 else raw


def table(content: bytes, draw: random.Random) -> bytes:
    """Change the lines of a table, or its header."""
    if draw.random() < 0.3:
        header, _, rest = content.partition(b"\n")
        return words(header, draw) + b"\n" + rest
    return words(content, draw)


class _Raws:
    """Tokens that stand in a JSON text where a value is expected."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    def add(self, token: str) -> str:
        self.tokens.append(token)
        return _RAW.format(len(self.tokens) - 1)

    def written(self, value: Any) -> str:
        text = json.dumps(value, ensure_ascii=False)
        for number, token in enumerate(self.tokens):
            text = text.replace(f'"{_RAW.format(number)}"', token)
        return text


def _spoilt(value: Any, draw: random.Random, raws: _Raws, values: Sequence[Any] = _VALUES) -> Any:
    """A copy of a value of JSON in which one place is another."""
    value = json.loads(json.dumps(value))
    if not isinstance(value, dict | list) or not value:
        return draw.choice(values)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key: Any = draw.choice(keys)
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or draw.random() < 0.25:
            break
        place = inner
    kind = draw.randrange(10)
    if kind <= 4:
        place[key] = draw.choice(values)
    elif kind == 5:
        place[key] = raws.add(draw.choice(_TOKENS))
    elif kind == 6:
        del place[key]
    elif kind == 7 and isinstance(place, dict):
        place[str(draw.choice(_WORDS[:-1])) or "new"] = place.pop(key)
    elif kind == 8 and isinstance(inner, list) and inner:
        place[key] = inner * draw.choice((2, 50)) if draw.random() < 0.5 else inner[:-1]
    else:
        place[key] = [inner] if draw.random() < 0.5 else {"a": inner}
    return value


def _json(value: Any, draw: random.Random) -> str:
    raws = _Raws()
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        value = _spoilt(value, draw, raws)
    text = raws.written(value)
    if draw.random() < 0.05 and isinstance(value, dict) and value:
        name = json.dumps(next(iter(value)))
        text = "{" + f"{name}: 1, " + text[1:]
    return text


def json_text(content: bytes, draw: random.Random) -> bytes:
    """Change values, keys and tokens of a JSON text, or its bytes."""
    if draw.random() < 0.1:
        return words(content, draw)
    return _encoded(_json(json.loads(content), draw), draw)


def json_lines(content: bytes, draw: random.Random) -> bytes:
    """Change one line of JSON among several."""
    lines = content.split(b"\n")
    filled = [number for number, line in enumerate(lines) if line.strip()]
    number = draw.choice(filled)
    lines[number] = json_text(lines[number], draw).replace(b"\n", b" ")
    return b"\n".join(lines)


def yaml_text(content: bytes, draw: random.Random) -> bytes:
    """Change a YAML document as if it were JSON, or with what only YAML has: anchors, tags, merges."""
    import yaml

    kind = draw.randrange(6)
    if kind == 0:
        return words(content, draw)
    if kind > 1:
        return _encoded(_json(yaml.safe_load(content), draw), draw)
    names = "abcdefgh"
    laughs = f"{names[0]}: &{names[0]} [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise(names)
    )
    odd = (
        laughs,
        "a: &a [*a]\n",
        "!!python/object/apply:os.system ['true']\n",
        "? [1, 2]\n: 3\n",
        "x: !!binary aGVsbG8=\n",
        "x: !!set {a, b}\n",
        "x: 2001-99-99\n",
        "x: !!timestamp 2001-01-01\n",
        "<<: {kind: linear}\n",
        "x: .nan\ny: .inf\n",
        "1: 2\nnull: 3\ntrue: 4\n",
        "---\na: 1\n---\nb: 2\n",
        "%YAML 9.9\n---\na: 1\n",
        "\t- a\n",
        "- " * 3000,
        "{" * 5000,
        f"x: {'1' * 6000}\n",
        "x: 1:1:1:1:1:1:1:1:1\n",
    )
    extra = draw.choice(odd).encode()
    return draw.choice((extra, content + b"\n" + extra, extra + content))


def safetensors(content: bytes, draw: random.Random) -> bytes:
    """Change the header of a safetensors file: names, kinds, shapes, places, metadata, its length."""
    if draw.random() < 0.3:
        return binary(content, draw)
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    kind = draw.randrange(4)
    names = [name for name in header if name != "__metadata__"]
    if kind == 0 and "__metadata__" in header:
        texts = header["__metadata__"]
        name = draw.choice(list(texts))
        inner = texts[name].encode()
        texts[name] = (json_text if inner[:1] in b"{[" else words)(inner, draw).decode("utf-8", "replace")
    elif kind == 1:
        kinds = ("F64", "F16", "BF16", "I8", "I64", "U8", "BOOL", "C64", "F8_E4M3", "F4", "F32", "Q4", "")
        header[draw.choice(names)]["dtype"] = draw.choice(kinds)
    elif kind == 2:
        shape = header[draw.choice(names)]["shape"]
        if shape:
            shape[draw.randrange(len(shape))] = draw.choice((*_NUMBERS, -1, 1.5, "3", None))
        shape.extend(draw.choice(([], [1], [0], [10**13])))
    else:
        text = _json(header, draw).encode("utf-8", "surrogatepass")
        return len(text).to_bytes(8, "little") + text + body
    text = json.dumps(header).encode()
    body = {0: body, 1: body[:-1], 2: body + b"\0" * 8, 3: body}[draw.randrange(4)]
    return len(text).to_bytes(8, "little") + text + body


def npy(content: bytes, draw: random.Random) -> bytes:
    """Change what the header of a .npy file says."""
    if draw.random() < 0.3:
        return binary(content, draw)
    wide = content[6] > 1
    length = int.from_bytes(content[8 : 12 if wide else 10], "little")
    start = 12 if wide else 10
    said, body = content[start : start + length].decode("latin-1"), content[start + length :]
    kinds = ("'<f2'", "'>f4'", "'<f8'", "'<c8'", "'|O'", "'<i4'", "'<U7'", "'|V8'", "'|b1'", "[('a', '<f4')]", "'<f16'",
             "'<U500000000'", "'<M8[s]'", "''", "3", "('<f4', (10**6,))", "'" + "f" * 5000 + "'")  # fmt: skip
    shapes = ("()", "(0, 4)", "(7, 0)", "(10000000000000, 0)", "(-1, 4)", "(10000000000000, 4)", "(True, 4)", "(7,)",
              "(7, 1, 4)", "(7.0, 4)", "'x'", "(1, 10000000000)", "(" * 5000, "-" * 9000 + "1",
              "(9" + "9" * 6000 + ", 1)")  # fmt: skip
    kind = draw.randrange(5)
    if kind == 0:
        said = re.sub(r"'descr': ('[^']*'|\[.*?\])", lambda _: f"'descr': {draw.choice(kinds)}", said)
    elif kind == 1:
        said = re.sub(r"'shape': \([^)]*\)", lambda _: f"'shape': {draw.choice(shapes)}", said)
    elif kind == 2:
        said = said.replace("False", draw.choice(("True", "1", "None")))
    elif kind == 3:
        said = words(said.encode("latin-1"), draw).decode("latin-1")
    else:
        return content + draw.choice((b"x", content))
    raw = said.encode("latin-1", "replace")
    if len(raw) > 0xFFFF or draw.random() < 0.2:
        return content[:6] + bytes([draw.choice((2, 3)), 0]) + struct.pack("<I", len(raw)) + raw + body
    return content[:6] + b"\x01\x00" + struct.pack("<H", len(raw)) + raw + body


def zipped(inside: Mutation, *, most: int = 1 << 31) -> Mutation:
    """Return a mutation of an archive: of a member by `inside`, of the directory, or by packing what is too large.

    Args:
        inside: mutation of the content of a member.
        most: bytes that a member of nothing but zeros may unpack to.
    """

    def mutate(content: bytes, draw: random.Random) -> bytes:
        if draw.random() < 0.35:
            return binary(content, draw)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        number = draw.randrange(len(members))
        name, data = members[number]
        kind = draw.randrange(8)
        if kind <= 3:
            members[number] = (name, inside(data, draw))
        elif kind == 4:
            members[number] = (draw.choice(("", "../x", "a/" * 200, "x" * 60_000, "\u00e9", "/abs")), data)
        elif kind == 5:
            del members[number]
        elif kind == 6:
            members.append((name, data))
        else:
            members[number] = (name, data + b"\0" * min(most, draw.choice((1 << 20, 1 << 24))))
        out = io.BytesIO()
        packing = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        with zipfile.ZipFile(out, "w", packing) as archive:
            for name, data in members:
                archive.writestr(zipfile.ZipInfo(name or "x", (1980, 1, 1, 0, 0, 0)), data, compress_type=packing)
        raw = bytearray(out.getvalue())
        if draw.random() < 0.3:  # sizes in the directory that are not those of the members
            directory = raw.find(b"PK\x01\x02")
            field = draw.choice((8, 10, 20, 24, 42))
            raw[directory + field : directory + field + 4] = struct.pack("<I", draw.choice(_NUMBERS) & 0xFFFFFFFF)
        return bytes(raw)

    return mutate


npz = zipped(npy)
"""Mutation of a .npz file."""


def protobuf(content: bytes, draw: random.Random) -> bytes:
    """Change bytes of a protocol buffer, mostly where its numbers and texts begin."""
    if draw.random() < 0.5:
        return binary(content, draw)
    data = bytearray(content)
    texts = [found.span() for found in re.finditer(rb"[A-Za-z_]{3,}", content)]
    if texts and draw.random() < 0.5:
        start, end = draw.choice(texts)
        data[start:end] = draw.choice((b"MatMul", b"If", b"Loop", b"Cast", b"x", b"", draw.randbytes(end - start)))
    else:
        start = draw.randrange(len(data))
        data[start : start + 1] = draw.choice((b"\xff\xff\xff\xff\x0f", b"\x80", b"\x7f", b"\xff" * 9 + b"\x01", b"\0"))
    return bytes(data)


def tar(inside: Mutation) -> Mutation:
    """Return a mutation of a tar file: of headers, with the checksum made right again, or of a member by `inside`."""

    def mutate(content: bytes, draw: random.Random) -> bytes:
        if draw.random() < 0.25:
            return binary(content, draw)
        import tarfile

        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            members = [(info, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
        if draw.random() < 0.5:
            texts = [n for n, (info, _) in enumerate(members) if info.name.endswith(".json")] or [0]
            number = draw.choice(texts)
            members[number] = (members[number][0], inside(members[number][1], draw))
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for info, data in members:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        raw = bytearray(out.getvalue())
        if draw.random() < 0.6:
            start = 512 * draw.randrange(max(1, len(raw) // 512 - 20))
            field, width = draw.choice(((0, 100), (124, 12), (156, 1), (157, 100), (345, 155), (386, 24), (483, 12)))
            value = draw.choice(
                (b"77777777777\0", b"\x80" + b"\xff" * 11, b"S", b"L", b"x", b"1", b"\0" * width, b"a/../b")
            )
            raw[start + field : start + field + width] = value[:width].ljust(width, b"\0")
            raw[start + 148 : start + 156] = b" " * 8
            raw[start + 148 : start + 156] = f"{sum(raw[start : start + 512]):06o}\0 ".encode()
        return bytes(raw)

    return mutate


def _other_columns(table: Any, draw: random.Random) -> Any:
    """A table of Arrow in which a column has another type, or nulls, or is not there."""
    import pyarrow as pa

    name = draw.choice(table.column_names)
    place = table.column_names.index(name)
    column = table[name].combine_chunks()
    n = len(column)
    other: tuple[Callable[[], Any], ...] = (
        lambda: pa.nulls(n, column.type),
        lambda: pa.array(
            [None if row == n // 2 else value for row, value in enumerate(column.to_pylist())], column.type
        ),
        lambda: pa.array(range(n)),
        lambda: pa.array([float(row) for row in range(n)]),
        lambda: pa.array([float("nan")] * n),
        lambda: pa.array([["x"]] * n),
        lambda: pa.array([{"a": row} for row in range(n)]),
        lambda: pa.array([b"\xff\xfe"] * n),
        lambda: pa.array(["same"] * n).dictionary_encode(),
        lambda: pa.array([[float("inf")] * 4] * n, pa.list_(pa.float32(), 4)),
        lambda: pa.array([[1.0] * (row % 5) for row in range(n)], pa.list_(pa.float32())),
        lambda: pa.array([[1.0] * 4] * n, pa.large_list(pa.float64())),
        lambda: pa.array([[1] * 4] * n),
        lambda: pa.nulls(n),
        lambda: pa.array([True] * n),
        lambda: pa.array(["x" * 10_000] * n),
    )
    kind = draw.randrange(10)
    if kind == 0:
        return table.drop_columns([name])
    if kind == 1:
        return table.rename_columns([draw.choice(table.column_names) if n == name else n for n in table.column_names])
    if kind == 2:
        return table.slice(0, draw.randrange(n))
    return table.set_column(place, name, draw.choice(other)())


def arrow(content: bytes, draw: random.Random) -> bytes:
    """Change columns, types, packing and metadata of an Arrow IPC file, or its bytes."""
    import pyarrow as pa

    if draw.random() < 0.5:
        return binary(content, draw)
    found = pa.ipc.open_file(content).read_all()
    metadata = dict(found.schema.metadata)
    packing = draw.choice((None, None, None, "zstd", "lz4"))
    if draw.random() < 0.3:
        key = draw.choice(list(metadata))
        metadata[key] = json_text(metadata[key], draw)
    elif draw.random() < 0.9:
        found = _other_columns(found, draw)
    found = found.replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=packing)
    rows = draw.choice((1 << 20, 3))
    with pa.ipc.new_file(sink, found.schema, options=options) as writer:
        writer.write_table(found, max_chunksize=rows)
    raw = sink.getvalue().to_pybytes()
    return binary(raw, draw) if draw.random() < 0.2 else raw


def parquet(content: bytes, draw: random.Random) -> bytes:
    """Change columns, types and packing of a Parquet file, or its bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if draw.random() < 0.5:
        return binary(content, draw)
    found = _other_columns(pq.read_table(pa.BufferReader(content)), draw)
    sink = pa.BufferOutputStream()
    packing = draw.choice(("none", "snappy", "zstd", "gzip"))
    pq.write_table(found, sink, compression=packing, row_group_size=draw.choice((2, 1 << 20)))
    raw = sink.getvalue().to_pybytes()
    return binary(raw, draw) if draw.random() < 0.2 else raw
