"""Whether an ONNX file can be opened at all: its tensors held against its bytes, and a trial in another process."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from nestvox.content import HEAD_BYTES, content_instead
from nestvox.encoders.foreign import onnx_trial
from nestvox.errors import ModelError
from nestvox.extras import require
from nestvox.shown import shown

MOST_ONNX_BYTES = 2 << 30
"""A file of protocol buffers is not larger, and neither is one that runs without weights beside it."""

_MOST_NODES = 100_000
_MOST_SIZE = 1 << 31
_TRIAL_S = 120.0
_MEMORY_BYTES = 4 << 30
# Bytes of a number by its type in ONNX; types of less than a byte are rounded up.
_WIDTHS = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}


def check_onnx(content: bytes, source: str, *, n_mels: int) -> None:
    """Refuse a file that lies about its tensors, keeps them elsewhere, or brings the runtime down.

    A content is tried once a process.

    Args:
        content: of the file.
        source: its name, for messages.
        n_mels: bands of the features that it is to be tried with.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: says what is wrong.
    """
    if problem := _problem(_Content(content), n_mels):
        raise ModelError(f"{source}: {problem}")


class _Content:
    """Bytes that are told apart by their hash, so that the cache of trials holds no files."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._digest = hashlib.sha256(content).digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Content) and self._digest == other._digest


@lru_cache(maxsize=16)
def _problem(held: _Content, n_mels: int) -> str:
    content, held.content = held.content, b""
    require("onnxruntime", extra="onnx", purpose="running an ONNX file")
    if importlib.util.find_spec("onnx") is None:  # the trial sees what a lie about a tensor does
        return _trial_problem(content, n_mels)
    return _static_problem(content) or _trial_problem(content, n_mels)


def _static_problem(content: bytes) -> str:
    onnx: Any = require("onnx", extra="onnx", purpose="reading an ONNX file")
    if instead := content_instead(content[:HEAD_BYTES]):
        return f"not an ONNX network: it is {instead}"
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # noqa: BLE001  of protocol buffers, which it does not share
        return f"not an ONNX network: {_first_line(error)}"
    if not model.graph.node:
        return "not an ONNX network: it has no operators"
    nodes = 0
    for graph in _graphs(model):
        nodes += len(graph.node)
        if nodes > _MOST_NODES:
            return f"more than {_MOST_NODES:,} operators, which no speaker network needs"
        for tensor in _tensors(graph):
            if problem := _tensor_problem(tensor):
                return problem
    return ""


def _graphs(model: Any) -> Iterator[Any]:
    """The graph, those inside its operators, and the bodies of its functions."""
    left = [model.graph, *model.functions]
    while left:
        graph = left.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    left.append(attribute.g)
                left.extend(attribute.graphs)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _tensor_problem(tensor: Any) -> str:
    name = shown(tensor.name)[:80]
    if tensor.data_location == 1 or tensor.external_data:
        return (
            "keeps weights in a file beside it, which no fingerprint would cover: "
            "save it with everything in one file (onnx.save without save_as_external_data)"
        )
    if any(size < 0 or size > _MOST_SIZE for size in tensor.dims) or len(tensor.dims) > 32:
        return f"the tensor {name!r} has a size that is none"
    count = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        width = _WIDTHS.get(tensor.data_type)
        if width is not None and len(tensor.raw_data) != count * width:
            return (
                f"the tensor {name!r} is to have {count:,} numbers of {width} bytes, and {len(tensor.raw_data):,} "
                "bytes are there"
            )
        return ""
    parts = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    there = max(len(tensor.string_data), *(len(part) for part in parts))
    # Complex numbers take two places, the narrowest types share one.
    if not count <= there * 8 or there > 2 * max(count, 1):
        return f"the tensor {name!r} is to have {count:,} numbers, and {there:,} are there"
    return ""


def _trial_problem(content: bytes, n_mels: int) -> str:
    memory = _MEMORY_BYTES + 6 * len(content)
    command = [sys.executable, "-I", onnx_trial.__file__, str(n_mels), "16000", str(memory)]
    try:
        tried = subprocess.run(command, input=content, capture_output=True, timeout=_TRIAL_S, check=False)
    except subprocess.TimeoutExpired:
        return f"does not end within {_TRIAL_S:.0f} s for a second of audio"
    except OSError:
        return ""  # no second process can be had here; the runtime refuses what it can
    if tried.returncode < 0:
        return (
            f"brings ONNX Runtime down (signal {-tried.returncode}: it crashes, or takes more time or memory than a "
            "speaker network needs for a few seconds of audio), so it is not opened here"
        )
    try:
        found = json.loads(tried.stdout)
    except ValueError:
        last = shown(" ".join(tried.stderr.decode(errors="replace").strip().splitlines()[-1:]))[:300]
        return f"cannot be tried in a process of its own: {last}"
    if "error" in found and ("opened" not in found or "bad_alloc" in found["error"] or "allocate" in found["error"]):
        where = "fails on noise" if "opened" in found else "not an ONNX network that runs here"
        return f"{where}: {_first_line(found['error'])}"
    return ""


def _first_line(error: object) -> str:
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0])[:300]
