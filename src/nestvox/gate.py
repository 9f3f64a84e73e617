"""The one gate for files from outside: what they are, how large, and JSON and YAML that cannot harm.

Whatever nestvox reads and did not make in this process comes through here: a file must be a regular file (no FIFO, no
device, socket or folder) of at most so many bytes, and text that a parser turns into values is refused where it is
nested beyond reason, names a key twice, or holds numbers that are none. The caller says which error it is; every
message names the file.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from nestvox.content import HEAD_BYTES, stand_in
from nestvox.errors import NestvoxError

ErrorMaker = Callable[[str, str], NestvoxError]
"""Makes the error of a reader from what is wrong and the name of the file."""

MOST_JSON_BYTES = 256 << 20
MOST_YAML_BYTES = 4 << 20
MOST_TEXT_BYTES = 4 << 30
MOST_DEPTH = 64
_MOST_DIGITS = 40
_MOST_NODES = 200_000  # of a YAML document with its aliases written out
_CHUNK = 1 << 20
_UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")

_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NO_BRACKET = re.compile(r"[^\[\]{}]+")
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}
_RISKY_ESCAPE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")


def naming(kind: type[NestvoxError]) -> ErrorMaker:
    """Make errors of a class that begin with the name of the file, whichever arguments the class takes."""

    def make(problem: str, source: str) -> NestvoxError:
        return kind(f"{source}: {problem}")

    return make


def open_regular(path: str | Path, error: ErrorMaker, *, missing: str = "not there", text: bool = False) -> BinaryIO:
    """Open a regular file for reading; a FIFO or a device is refused and never waited for.

    Args:
        path: of the file; links are followed.
        error: makes the error.
        missing: what the error says where no file is.
        text: it should be a text, see `refuse_stand_in`.

    Raises:
        NestvoxError: of `error`: not there, no regular file, what stands in for a text, or not to be opened.
    """
    source = os.fspath(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(source, flags)
    except (FileNotFoundError, NotADirectoryError) as why:
        raise error(missing, source) from why
    except OSError as why:
        raise error(f"it cannot be opened: {why.strerror or why}", source) from why
    except ValueError as why:  # a name with a NUL, or one that the file system cannot encode
        raise error(f"this cannot be the name of a file: {why}", ascii(source)) from why
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise error(f"{_kind(mode)}, not a regular file; copy what it gives into a file first", source)
        if text:
            refuse_stand_in(os.read(descriptor, HEAD_BYTES), source, error)
            os.lseek(descriptor, 0, os.SEEK_SET)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def is_file(path: str | Path) -> bool:
    """Whether a regular file is there; a name that no file can have (too long, with a NUL) names none."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there; a name that no folder can have names none."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def read_bytes(path: str | Path, error: ErrorMaker, *, most_bytes: int, missing: str = "not there") -> bytes:
    """Read a whole regular file of at most `most_bytes`; checked before and while it is read.

    Raises:
        NestvoxError: of `error`: no regular file, larger, or not to be read.
    """
    with open_regular(path, error, missing=missing) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise error(_too_large(most_bytes), str(path))
        return read_limited(file, str(path), error, most_bytes=most_bytes, at_once=size + 1)


def read_limited(file: BinaryIO, source: str, error: ErrorMaker, *, most_bytes: int, at_once: int = _CHUNK) -> bytes:
    """Read the rest of an open file, of at most `most_bytes`.

    Args:
        file: as `open_regular` gives it, or a decompressor of one.
        source: its name in messages.
        error: makes the error.
        most_bytes: that it may hold.
        at_once: bytes to ask for: all of them, where their number is known, are not copied.

    Raises:
        NestvoxError: of `error`: larger, or not to be read.
    """
    try:
        parts, left = [], most_bytes + 1
        while left and (part := file.read(min(left, at_once))):
            parts.append(part)
            left -= len(part)
    except (OSError, EOFError) as why:
        raise error(f"it cannot be read: {why}", source) from why
    if not left:
        raise error(_too_large(most_bytes), source)
    return b"".join(parts)


def decode(raw: bytes, source: str, error: ErrorMaker) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises:
        NestvoxError: of `error`: another encoding, with the line, or what `refuse_stand_in` refuses.
    """
    refuse_stand_in(raw, source, error)
    if raw.startswith(_OTHER_MARKS):
        raise error("the text is UTF-16 or UTF-32; save it as UTF-8", source)
    raw = raw.removeprefix(_UTF8_MARK)
    try:
        return raw.decode()
    except UnicodeDecodeError as why:
        line = raw[: why.start].count(b"\n") + 1
        raise error(f"the text is not UTF-8 (line {line}); save it as UTF-8", source) from why


def refuse_stand_in(raw: bytes, source: str, error: ErrorMaker) -> None:
    """Refuse what stands in for a text: the pointer of a repository that keeps it elsewhere, or a web page.

    Args:
        raw: the text, or its first `content.HEAD_BYTES` bytes.
        source: name of the file.
        error: makes the error.

    Raises:
        NestvoxError: of `error`, with what to do.
    """
    if instead := stand_in(raw[:HEAD_BYTES]):
        raise error(f"it is {instead}", source)


def read_text(
    path: str | Path, error: ErrorMaker, *, most_bytes: int = MOST_TEXT_BYTES, missing: str = "not there"
) -> str:
    """Read a regular file as UTF-8, with or without a byte order mark; line ends as they are.

    Raises:
        NestvoxError: of `error`: no regular file, too large, or not UTF-8.
    """
    return decode(read_bytes(path, error, most_bytes=most_bytes, missing=missing), str(path), error)


def read_json(
    path: str | Path,
    error: ErrorMaker,
    *,
    most_bytes: int = MOST_JSON_BYTES,
    most_depth: int = MOST_DEPTH,
    missing: str = "not there",
) -> Any:
    """Read a JSON file strictly; see `parse_json`.

    Raises:
        NestvoxError: of `error`: no regular file, too large, or not such JSON.
    """
    raw = read_bytes(path, error, most_bytes=most_bytes, missing=missing)
    text = decode(raw, str(path), lambda problem, source: error(f"not JSON: {problem}", source))
    return parse_json(text, str(path), error, most_depth=most_depth)


def parse_json(text: str, where: str, error: ErrorMaker, *, most_depth: int = MOST_DEPTH) -> Any:
    """Parse JSON as the standard has it, and no more.

    Refused are NaN and Infinity, numbers that overflow, integers of more than 40 digits, keys named twice, characters
    that are none (a NUL, half a surrogate pair), and nesting beyond `most_depth`, which is counted before parsing.

    Args:
        text: one JSON value.
        where: name of the file, with the line where there are several values.
        error: makes the error.
        most_depth: of lists and objects in each other.

    Raises:
        NestvoxError: of `error`.
    """

    def whole(digits: str) -> int:
        if len(digits) > _MOST_DIGITS:
            raise ValueError(f"an integer of {len(digits):,} digits")
        return int(digits)

    def real(digits: str) -> float:
        value = float(digits)
        if value - value != 0:
            raise ValueError(f"the number {_shortened(digits)} overflows")
        return value

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no number of JSON")

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"the key {_shortened(next(n for n in names if names.count(n) > 1))!r} stands twice")
        return found

    if _depth(text) > most_depth:
        raise error(f"not usable JSON: nested more than {most_depth} deep", where)
    try:
        value = json.loads(text, parse_int=whole, parse_float=real, parse_constant=constant, object_pairs_hook=mapping)
        if _RISKY_ESCAPE.search(text):
            _refuse_characters(value)
    except json.JSONDecodeError as why:
        raise error(f"not JSON: {why}", where) from why
    except (ValueError, RecursionError) as why:
        raise error(f"not usable JSON: {why}", where) from why
    return value


def read_yaml(
    path: str | Path, error: ErrorMaker, *, most_bytes: int = MOST_YAML_BYTES, missing: str = "not there"
) -> Any:
    """Read a YAML file strictly; see `parse_yaml`.

    Raises:
        NestvoxError: of `error`: no regular file, too large, or not such YAML.
    """
    return parse_yaml(read_text(path, error, most_bytes=most_bytes, missing=missing), str(path), error)


def parse_yaml(text: str, where: str, error: ErrorMaker, *, most_depth: int = MOST_DEPTH) -> Any:
    """Parse one YAML document to plain values: mappings, lists, text, finite numbers, booleans and None.

    Anchors and aliases are followed as long as the document with all of them written out stays small. Dates stay text.
    Refused are tags of other kinds, keys named twice, `.nan` and `.inf`, integers of more than 40 digits, and nesting
    beyond `most_depth`, which is counted before anything is built.

    Args:
        text: of the document.
        where: name of the file.
        error: makes the error.
        most_depth: of lists and mappings in each other.

    Raises:
        NestvoxError: of `error`.
    """
    try:
        _check_events(text, most_depth)
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  a subclass of the safe loader
        _refuse_characters(value)
    except yaml.YAMLError as why:
        raise error(f"not YAML: {' '.join(str(why).split())}", where) from why
    except (ValueError, ArithmeticError, TypeError, AttributeError, LookupError, RecursionError) as why:
        raise error(f"not usable YAML: {why}", where) from why
    return value


def _kind(mode: int) -> str:
    names = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return names.get(stat.S_IFMT(mode), "a device")


def _too_large(most_bytes: int) -> str:
    return f"larger than the {most_bytes:,} bytes that such a file may have"


def _shortened(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _depth(text: str) -> int:
    """How deep lists and objects stand in each other, at the most."""
    brackets = _NO_BRACKET.sub("", _STRING.sub("", text))
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)


def _refuse_characters(value: Any) -> None:
    """Refuse text that no file name, table or terminal can carry, and values of other kinds than JSON has."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            if "\0" in item:
                raise ValueError("the text holds a NUL")
            if not item.isascii():
                try:
                    item.encode()
                except UnicodeEncodeError as why:
                    raise ValueError("the text holds half a surrogate pair") from why
        elif isinstance(item, dict):
            left += item.keys()
            left += item.values()
        elif isinstance(item, list):
            left += item
        elif not isinstance(item, int | float | None):
            raise ValueError(f"a value of the kind {type(item).__name__}; mappings, lists, text and numbers are read")


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc]
    """The safe loader without dates, endless integers, infinite numbers and keys named twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012  as the base class declares it
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in _SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
                if name is not None and name in seen:
                    raise yaml.constructor.ConstructorError(
                        "while reading a mapping",
                        node.start_mark,
                        f"the key {_shortened(key.value)!r} stands twice",
                        key.start_mark,
                    )
                seen.add(name)
        return dict(super().construct_mapping(node, deep=deep))

    def whole(self, node: Any) -> int:
        digits = self.construct_scalar(node)
        if len(digits) > _MOST_DIGITS:
            raise ValueError(f"an integer of {len(digits):,} digits")
        try:
            return int(self.construct_yaml_int(node))
        except LookupError as why:  # nothing but underscores
            raise ValueError(f"{digits!r} is no integer") from why

    def real(self, node: Any) -> float:
        value = float(self.construct_yaml_float(node))
        if value - value != 0:
            raise ValueError(f"{_shortened(self.construct_scalar(node))} is no finite number")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.real)


def _check_events(text: str, most_depth: int) -> None:
    """Count nesting and the nodes of a document with its aliases written out, without building either."""
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = [(None, 0)]  # anchor and nodes so far of what is not closed yet

    def add(nodes: int) -> None:
        anchor, before = open_[-1]
        if before + nodes > _MOST_NODES:
            raise ValueError(f"more than {_MOST_NODES:,} values with its aliases written out")
        open_[-1] = (anchor, before + nodes)

    for event in _events(text):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in {anchor for anchor, _ in open_[1:]}:
                raise ValueError(f"the alias {event.anchor!r} stands within itself")
            add(sizes.get(event.anchor or "", 1))
        elif isinstance(event, yaml.ScalarEvent):
            add(1)
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, 1))
            if len(open_) - 1 > most_depth:
                raise ValueError(f"nested more than {most_depth} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, nodes = open_.pop()
            if anchor:
                sizes[anchor] = nodes
            add(nodes)


def _events(text: str) -> Iterator[Any]:
    return iter(yaml.parse(text, Loader=_SafeLoader))
