"""Scalars in the event files that TensorBoard shows, written without TensorBoard.

An event file is a row of records: length (uint64), its masked CRC-32C, the content, its masked CRC-32C. The content is
a protocol buffer `Event`: wall_time = 1 (double), step = 2 (int64), file_version = 3 (string), summary = 5, which
repeats value = 1 with tag = 1 (string) and simple_value = 2 (float). Source: tensorflow/core/util/event.proto,
tensorflow/core/framework/summary.proto and tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Self

_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected


_LARGEST = 3.4028234663852886e38  # of IEEE's single precision


def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 3720) of `data`."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _bytes_field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _single(value: float) -> float:
    """What is too large for a float of four bytes is infinite in one."""
    return value if not math.isfinite(value) or abs(value) <= _LARGEST else math.copysign(math.inf, value)


class EventFile:
    """One event file, begun anew; every call of `add` reaches the disk.

    Args:
        path: its name must hold ``tfevents`` for TensorBoard to find it.
        wall_time: of the beginning, seconds since 1970.
    """

    def __init__(self, path: str | Path, wall_time: float) -> None:
        self._file = Path(path).open("wb")  # noqa: SIM115  closed by close()
        self._write(struct.pack("<Bd", 1 << 3 | 1, wall_time) + _bytes_field(3, b"brain.Event:2"))

    def add(self, scalars: Mapping[str, float], step: int, wall_time: float) -> None:
        """Write some scalars of one step."""
        values = b"".join(
            _bytes_field(1, _bytes_field(1, tag.encode()) + struct.pack("<Bf", 2 << 3 | 5, _single(value)))
            for tag, value in scalars.items()
        )
        head = struct.pack("<Bd", 1 << 3 | 1, wall_time) + _varint(2 << 3) + _varint(step)
        self._write(head + _bytes_field(5, values))

    def _write(self, content: bytes) -> None:
        length = struct.pack("<Q", len(content))
        self._file.write(length + _masked(length) + content + _masked(content))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
