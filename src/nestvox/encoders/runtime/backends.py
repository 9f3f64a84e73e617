"""The names of the ways to run a network, and what of them this machine has. Knows no torch."""

from __future__ import annotations

import importlib.util
import platform
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from nestvox.errors import ModelError

Backend = Literal["auto", "eager", "fused", "onnx"]
"""``eager``: as the network is written; ``fused``: arranged for torch; ``onnx``: by ONNX Runtime; ``auto``: what is
fastest where it runs."""

Precision = Literal["float32", "auto", "bfloat16", "float16"]
"""Of everything behind the front end; ``auto``: bfloat16 where the machine computes it and scores stay."""

_CPUINFO = Path("/proc/cpuinfo")
# What a processor calls arithmetic in this precision; without it every number is converted back and forth.
_FLAGS = {
    "bfloat16": {"amx_bf16", "avx512_bf16", "bf16"},
    "float16": {"amx_fp16", "avx512_fp16", "asimdhp"},
}


def check_way(backend: str, precision: str) -> None:
    """Refuse what is not among the names.

    Raises:
        ModelError: it names those that there are.
    """
    for name, value, known in (("backend", backend, get_args(Backend)), ("precision", precision, get_args(Precision))):
        if value not in known:
            raise ModelError(f"unknown {name} {value!r}; known: {', '.join(known)}")


def onnx_is_installed() -> bool:
    """Whether the extra ``onnx`` is there, without importing it."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def cpu_computes(precision: Precision) -> bool:
    """Whether the processor computes in this precision itself, as far as the system says (Linux does)."""
    return precision == "float32" or bool(_FLAGS.get(precision, set()) & _cpu_flags())


@cache
def _cpu_flags() -> frozenset[str]:
    if platform.system() != "Linux" or not _CPUINFO.exists():
        return frozenset()
    words: set[str] = set()
    for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:  # as x86 and ARM call them
            words |= set(value.split())
    return frozenset(words)
