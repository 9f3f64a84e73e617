"""What a file of `torch.save` says of itself, held against its bytes before torch opens it. Knows no torch.

`torch.load(weights_only=True)` runs no code either, but it believes numbers: a storage that is longer than its bytes is
read beyond their end, a tensor that lies outside its storage makes the storage grow, and a shape of 10^13 numbers is
allocated. Here the pickle is gone through with every class and function in it replaced by its name, so nothing runs.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, Never

from nestvox.content import HEAD_BYTES, content_instead
from nestvox.errors import WeightsError, first_of
from nestvox.shown import shown
from nestvox.zoo.archive import open_archive

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MOST_PICKLE_BYTES = 64 << 20
_MOST_DIMENSIONS = 16
_SMALL_BYTES = 16 << 20  # that a tensor may repeat the numbers of a shorter storage to
_BYTES_OF = {
    "BFloat16": 2,
    "Bool": 1,
    "Byte": 1,
    "Char": 1,
    "ComplexDouble": 16,
    "ComplexFloat": 8,
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "Int": 4,
    "Long": 8,
    "Short": 2,
    "Untyped": 1,
}
_TENSORS = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}
# Kinds of tensors that no network here has, and what makes ordinary ones of them.
_OTHER_KINDS = {
    "_rebuild_sparse_tensor": "a sparse tensor; make it dense (to_dense) before it is saved",
    "_rebuild_sparse_csr_tensor": "a sparse tensor; make it dense (to_dense) before it is saved",
    "_rebuild_qtensor": "a quantised tensor; save the network before it is quantised, or dequantize it",
    "_rebuild_meta_tensor_no_storage": "a tensor on the device meta, which has a shape and no numbers",
    "_rebuild_nested_tensor": "a nested tensor; save its parts as ordinary ones",
    "_rebuild_wrapper_subclass": "a tensor of a class of its own; save ordinary ones",
    "_rebuild_device_tensor_from_numpy": "a tensor of another device; move it to the CPU before it is saved",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of another device; move it to the CPU before it is saved",
}
_PLAIN_CALLS = {
    "Size",
    "_get_layout",
    "_rebuild_from_type_v2",
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
    "device",
}
# What plain checkpoints name beside tensors; every other name is of something that may run code.
_HARMLESS = re.compile(
    r"torch\.\w+|torch\.(?:_utils|storage|_tensor|serialization|nn\.parameter)\.\w+|_codecs\.encode|"
    r"collections\.(?:OrderedDict|Counter|defaultdict)|(?:builtins|__builtin__)\.(?:set|bytearray|complex|int|float|str|"
    r"bool|list|dict|tuple|bytes)|numpy\.dtype|numpy\.dtypes\.\w+|numpy\._?core\.multiarray\.scalar"
)
_KEYS = str | int | float | bytes | None


def check_torch_file(file: BinaryIO, size: int, source: str) -> None:
    """Refuse a file of which torch would believe what is not so.

    Args:
        file: open at its beginning; left somewhere.
        size: of the file, in bytes.
        source: its name, for messages.

    Raises:
        WeightsError: it is not of `torch.save`, or of a kind that is no plain checkpoint, or says what its bytes do not
            hold; what it is instead is named where it is known.
    """
    _described(file, size, source)


def named_objects(file: BinaryIO, size: int, source: str) -> tuple[str, ...]:
    """Names of all classes and functions in the file, sorted.

    Raises:
        WeightsError: as `check_torch_file`.
    """
    return tuple(sorted(_described(file, size, source).names))


def foreign_objects(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `named_objects` that are neither torch's own for tensors nor of plain Python."""
    return tuple(name for name in names if not _HARMLESS.fullmatch(name))


def _described(file: BinaryIO, size: int, source: str) -> _Reader:
    head = file.read(HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        return _zip_file(file, size, source)
    if head[:1] == b"\x80":
        return _legacy_file(file, size, source)
    if instead := content_instead(head):
        raise WeightsError(f"{source}: not a readable checkpoint: it is {instead}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        raise WeightsError(f"{source}: this is a safetensors file; give it the suffix .safetensors")
    if head[257:262] == b"ustar":
        raise WeightsError(
            f"{source}: not a readable checkpoint: a tar archive, as torch wrote them before 2017 or as some "
            "toolkits pack models; unpack it, or save the tensors again with a torch that is not older than 1.6"
        )
    raise WeightsError(f"{source}: not a readable checkpoint: it does not begin as a file of torch.save does")


# The two forms of the file


def _zip_file(file: BinaryIO, size: int, source: str) -> _Reader:
    with open_archive(file, size, _error, source) as archive:
        names = archive.namelist()
        root = names[0].split("/", maxsplit=1)[0] if names else ""
        if f"{root}/data.pkl" not in names or f"{root}/constants.pkl" in names:
            raise WeightsError(f"{source}: {_other_archive(names, root, source)}")
        info = archive.getinfo(f"{root}/data.pkl")
        if info.file_size > _MOST_PICKLE_BYTES:
            raise WeightsError(f"{source}: not a readable checkpoint: {info.filename} has {info.file_size:,} bytes")
        content = _attempt(lambda: archive.read(info), source)
        members = {name: archive.getinfo(name).file_size for name in names}
    prefix = f"{root}/data/"
    places = {name.removeprefix(prefix): count for name, count in members.items() if name.startswith(prefix)}
    reader = _Reader(io.BytesIO(content), source)
    _attempt(reader.load, source)
    reader.check(places)
    return reader


def _other_archive(names: list[str], root: str, source: str) -> str:
    if f"{root}/constants.pkl" in names or any(name.startswith(f"{root}/code/") for name in names):
        return (
            "a TorchScript archive, which is a program with its weights, and no program in a file is run. Where you "
            f"trust it, take the weights out with torch alone: torch.save(torch.jit.load({source!r}).state_dict(), "
            "'weights.pt'); or use it as it is, with nestvox.encoders.foreign.adapters.from_callable"
        )
    if any(name.rsplit("/", 1)[-1] in {"archive_format", "serialized_exported_program.json"} for name in names):
        return (
            "an archive of torch.export, which is a program with its weights; save the network's state_dict() with "
            "torch.save instead"
        )
    if any(name.endswith("extern_modules") for name in names):
        return "an archive of torch.package, which holds code; save the network's state_dict() with torch.save instead"
    held = first_of([shown(name) for name in names], 3) or "nothing"
    return f"not a readable checkpoint: a ZIP archive of something else, which holds {held}"


def _legacy_file(file: BinaryIO, size: int, source: str) -> _Reader:
    file.seek(0)
    limited: Any = _Limited(file, min(size, _MOST_PICKLE_BYTES))
    if _attempt(_Reader(limited, source).load, source) != _LEGACY_MAGIC:
        # One pickle, and not torch's.
        raise WeightsError(
            f"{source}: not a readable checkpoint: a pickle that torch.save did not write, which may run code when it "
            "is opened; open it where you trust it, and save the tensors with torch.save or as safetensors"
        )
    for _ in range(2):  # version and machine
        _attempt(_Reader(limited, source).load, source)
    reader = _Reader(limited, source)
    _attempt(reader.load, source)
    keys = _attempt(_Reader(limited, source).load, source)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise WeightsError(f"{source}: not a readable checkpoint: its list of storages is none")
    places, at = {}, file.tell()
    for key in keys:
        file.seek(at)
        count = int.from_bytes(file.read(8), "little", signed=True)
        width = next((s.width for s in reader.storages if s.key == key), 1)
        at += 8 + count * width
        if count < 0 or at > size:
            raise WeightsError(f"{source}: not a readable checkpoint: it ends within the storage {shown(key)!r}")
        places[key] = count * width
    reader.check(places)
    return reader


class _Limited:
    """The first bytes of a file: a pickle is not read on for ever."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file = file
        self._most = most

    def read(self, count: int) -> bytes:
        return self._file.read(max(0, min(count, self._most - self._file.tell())))

    def readline(self) -> bytes:
        return self._file.readline(max(0, self._most - self._file.tell()))


# The pickle, with names in place of all that it could call


@dataclass(frozen=True)
class _Storage:
    key: str
    width: int
    numbers: int
    kind: str


class _Made:
    """What a call in the pickle would make; takes whatever the pickle puts into it."""

    def __init__(self, function: str, arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments

    def __setitem__(self, key: Any, value: Any) -> None:
        _plain_key(key)

    def __setstate__(self, state: Any) -> None:
        if self.function.startswith("torch.") and self.function.endswith("Tensor"):
            raise pickle.UnpicklingError("a tensor as torch wrote them before 2017; save it again")

    def __call__(self, *arguments: Any) -> _Made:  # noqa: ARG002
        raise pickle.UnpicklingError(f"a call of what {self.function} gives")

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: list[Any]) -> None:
        pass

    add = append


class _Name(_Made):
    """A class or a function that the pickle names; every call is noted, whatever becomes of its result."""

    def __init__(self, function: str, calls: list[_Made]) -> None:
        super().__init__(function, ())
        self._calls = calls

    def __call__(self, *arguments: Any) -> _Made:
        made = _Made(self.function, arguments)
        self._calls.append(made)
        return made


class _Reader(pickle._Unpickler):  # the one in Python: the other makes room for whatever number a pickle names
    def __init__(self, file: Any, source: str) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self.source = source
        self.names: set[str] = set()
        self.storages: list[_Storage] = []
        self.calls: list[_Made] = []

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        self.names.add(f"{module_name}.{global_name}")
        return _Name(f"{module_name}.{global_name}", self.calls)

    def get_extension(self, code: int) -> Never:
        raise pickle.UnpicklingError(f"extension {code} of a registry")

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module":  # a class with its source code
            return pid[1]
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] not in ("storage", b"storage"):
            raise pickle.UnpicklingError("a reference that is no storage")
        _, kind, key, _, numbers = pid[:5]
        name = kind.function if isinstance(kind, _Name) else ""
        short = name.rsplit(".", 1)[-1].removesuffix("Storage")
        if not name.startswith("torch.") or short not in _BYTES_OF:
            quantised = short.startswith(("QInt", "QUInt"))
            self._refuse(
                "a quantised tensor; save the network before it is quantised, or dequantize it"
                if quantised
                else f"a storage of the kind {name or type(kind).__name__}, which is not known"
            )
        if type(numbers) is not int or numbers < 0 or not isinstance(key, str):
            self._refuse("a storage whose key or size is none")
        storage = _Storage(key, _BYTES_OF[short], numbers, short)
        if len(pid) > 5 and pid[5] is not None:
            self._refuse("a storage that is a part of another one; save the tensors again with a newer torch")
        self.storages.append(storage)
        return storage

    def check(self, places: Mapping[str, int]) -> None:
        """Hold every storage against its bytes, and every tensor against its storage."""
        for storage in self.storages:
            there = places.get(storage.key)
            if there != storage.numbers * storage.width:
                held = "nothing" if there is None else f"{there:,} bytes"
                self._refuse(
                    f"storage {shown(storage.key)!r} is to have {storage.numbers * storage.width:,} bytes, and the "
                    f"file has {held} of it"
                )
        for made in self.calls:
            module, _, name = made.function.rpartition(".")
            if module.startswith("torch") and name in _TENSORS:
                self._check_tensor(made)
            elif module.startswith("torch") and name not in _PLAIN_CALLS:
                self._refuse(
                    _OTHER_KINDS.get(name, f"a call of {shown(made.function)}, which plain tensors do not need")
                )
            elif name == "bytearray" and any(isinstance(argument, int) for argument in made.arguments):
                self._refuse("room for bytes that it does not have")

    def _check_tensor(self, made: _Made) -> None:
        storage, offset, shape, strides = (*made.arguments, None, None, None, None)[:4]
        width = storage.width if isinstance(storage, _Storage) else 1
        if made.function.endswith("_v3") and len(made.arguments) > 6:
            width = _width_of(made.arguments[6])
        whole = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
        numbers = [offset, *(shape or ()), *(strides or ())] if whole else [None]
        if (
            not isinstance(storage, _Storage)
            or not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)
            or len(numbers) > 2 * _MOST_DIMENSIONS + 1
        ):
            self._refuse("a tensor whose place or shape is none")
        there = storage.numbers * storage.width // width
        count = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if count else 0
        if count and last >= there:
            self._refuse(f"a tensor {shape} at {offset} reaches beyond the {there:,} numbers of its storage")
        if count > there and count * width > _SMALL_BYTES:
            self._refuse(f"a tensor {shape} is to be made of {there:,} numbers by repeating them")

    def _refuse(self, problem: str) -> Never:
        raise WeightsError(f"{self.source}: not a readable checkpoint: it holds {problem}")

    # torch's pickles have plain keys. A tuple of tuples of tuples as one would be hashed for ever.
    def _set_items(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        target = self.stack[-1]  # type: ignore[attr-defined]
        for key, value in zip(items[::2], items[1::2], strict=True):
            _plain_key(key)
            target[key] = value

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()  # type: ignore[attr-defined]
        _plain_key(key)
        self.stack[-1][key] = value  # type: ignore[attr-defined]

    def _make_dict(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        for key in items[::2]:
            _plain_key(key)
        self.append(dict(zip(items[::2], items[1::2], strict=True)))  # type: ignore[attr-defined]

    def _add_items(self) -> None:
        for item in self.pop_mark():  # type: ignore[attr-defined]
            _plain_key(item)
            self.stack[-1].add(item)  # type: ignore[attr-defined]

    def _make_frozenset(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        for item in items:
            _plain_key(item)
        self.append(frozenset(items))  # type: ignore[attr-defined]

    def _make_object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()  # type: ignore[attr-defined]
        self.append(kind(*arguments))  # type: ignore[attr-defined]

    def _make_object_with_keywords(self) -> None:
        keywords, arguments, kind = (self.stack.pop() for _ in range(3))  # type: ignore[attr-defined]
        self.append(kind(*arguments, keywords))  # type: ignore[attr-defined]

    dispatch: ClassVar[Any] = {
        **pickle._Unpickler.dispatch,
        pickle.SETITEMS[0]: _set_items,
        pickle.SETITEM[0]: _set_item,
        pickle.DICT[0]: _make_dict,
        pickle.ADDITEMS[0]: _add_items,
        pickle.FROZENSET[0]: _make_frozenset,
        pickle.NEWOBJ[0]: _make_object,
        pickle.NEWOBJ_EX[0]: _make_object_with_keywords,
    }


def _plain_key(key: Any) -> None:
    if not isinstance(key, _KEYS):
        raise pickle.UnpicklingError(f"a dictionary with a {type(key).__name__} as its key")


def _width_of(dtype: Any) -> int:
    """Bytes of a number of ``torch.bfloat16``, ``torch.complex64``, ...; 1 where none or fewer bits are named."""
    bits = re.search(r"[a-z](\d{1,3})", dtype.function) if isinstance(dtype, _Name) else None
    return max(1, int(bits[1]) // 8) if bits else 1


def _attempt(action: Callable[[], Any], source: str) -> Any:
    try:
        return action()
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle fails in every way there is
        words = shown(f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0].removesuffix(": "))[:200]
        raise WeightsError(f"{source}: not a readable checkpoint: {words}") from error


def _error(problem: str, source: str) -> WeightsError:
    return WeightsError(f"{source}: not a readable checkpoint: {problem}")
