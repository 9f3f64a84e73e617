"""What a run tells: warnings, a report of every epoch, lines of JSON and the scalars that TensorBoard shows.

The event files are written by hand, as TensorBoard's and tensorboardX's writers come with protobuf and a thread. Such a
file is a row of records: length (uint64), its masked CRC-32C, the content, its masked CRC-32C. The content is a
protocol buffer `Event`: wall_time = 1 (double), step = 2 (int64), file_version = 3 (string), summary = 5, which repeats
value = 1 with tag = 1 (string) and simple_value = 2 (float). Source: tensorflow/core/util/event.proto,
tensorflow/core/framework/summary.proto and tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

import json
import math
import struct
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nestvox.errors import TrainingError
from nestvox.extras import require
from nestvox.gate import naming, parse_json, read_text
from nestvox.training.data.batches import Seen

METRICS_FILE = "metrics.jsonl"
_EVENTS = "events"
_MOST = 2**53
_LARGEST = 3.4028234663852886e38  # of IEEE's single precision
_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected


@dataclass(frozen=True)
class EpochReport:
    """One epoch, over all processes.

    Attributes:
        epoch: how many are done; 0: the starting point was measured.
        epochs: that there will be at the most.
        loss: mean over the samples of the epoch; None: there were none.
        eers: EER on the development trials at each dimension, fractions; empty where this epoch is not validated.
        labels: what the rates must be shown with.
        best_epoch: with the lowest mean EER so far; 0: the starting point.
        seen: how much of the training data was in it; None: of the starting point.
        n_repeated: clips that were shorter than the crop, and were repeated to fill it.
        seconds: that it took, validation included.
        left_s: about how many seconds the others will take; None: there is none to judge by.
    """

    epoch: int
    epochs: int
    loss: float | None = None
    eers: Mapping[int, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    best_epoch: int = 0
    seen: Seen | None = None
    n_repeated: int = 0
    seconds: float = 0.0
    left_s: float | None = None

    @property
    def words(self) -> str:
        """In one line."""
        parts = [f"epoch {self.epoch} of {self.epochs}" if self.epoch else "start"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.eers:
            rates = ", ".join(f"{dim}: {100 * rate:.2f}" for dim, rate in self.eers.items())
            loud = "".join(f" {label.upper()}" for label in self.labels)
            parts.append(
                f"dev EER %{loud} {rates}{' (best so far)' if self.epoch and self.best_epoch == self.epoch else ''}"
            )
        if self.seen is not None:
            parts.append(f"saw {self.seen.words}")
        if self.n_repeated and self.seen is not None:
            parts.append(f"{self.n_repeated:,} of {self.seen.samples:,} clips are shorter than the crop, repeated")
        if self.left_s is not None and self.epoch < self.epochs:
            parts.append(f"{duration_in_words(self.left_s)} left")
        return "; ".join(parts)


class Watch:
    """Told what happens in a run, in the first process only. This one makes warnings Python's, and is silent else."""

    def warn(self, text: str) -> None:
        """Something about the data or the settings that nobody should miss, in one sentence."""
        warnings.warn(text, stacklevel=2)

    def epoch(self, report: EpochReport) -> None:
        """An epoch is over, or the starting point was measured; its line is in the log already."""


def duration_in_words(seconds: float) -> str:
    """A time to wait, as people say it: ``45 s``, ``12 min``, ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


class RunLog:
    """The log of one run; only the first process has one.

    `metrics.jsonl` is cut to what a checkpoint vouches for, and the event file is written anew from it, so that no step
    of a resumed run is told twice.

    Args:
        folder: of the run.
        keep_bytes: of `metrics.jsonl`; 0 begins anew.
        wandb: project; None: none.
        run_id: under which Weights & Biases finds a resumed run again.
        settings: of the run, for Weights & Biases.

    Raises:
        MissingExtraError: `wandb` is given and the extra is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        keep_bytes: int = 0,
        *,
        wandb: str | None = None,
        run_id: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._online: Any = None
        if wandb is not None:
            module = require("wandb", extra="wandb", purpose="logging to Weights & Biases")
            self._online = module.init(project=wandb, id=run_id, resume="allow", config=dict(settings or {}))
        path = Path(folder) / METRICS_FILE
        path.touch()
        with path.open("rb+") as file:
            file.truncate(min(keep_bytes, path.stat().st_size))
        self._lines = path.open("ab")
        events = Path(folder) / _EVENTS
        events.mkdir(exist_ok=True)
        for old in events.glob("*tfevents*"):
            old.unlink()
        now = time.time()
        self._events = (events / f"events.out.tfevents.{int(now)}.nestvox").open("wb")
        self._events.write(_event(_bytes_field(3, b"brain.Event:2"), now))
        for number, line in enumerate(read_text(path, naming(TrainingError)).splitlines(), 1):
            self._show(_record(line, f"{path}:{number}"))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Tell some values of one step.

        Args:
            step: of the optimizer, since the beginning.
            values: numbers, or what JSON holds.
        """
        record = {"step": step, "time": round(time.time(), 3), **values}
        self._lines.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._lines.flush()
        self._show(record)
        if self._online is not None:
            self._online.log(_scalars(record), step=step)

    @property
    def n_bytes(self) -> int:
        """Length of `metrics.jsonl`."""
        return self._lines.tell()

    def _show(self, record: Mapping[str, Any]) -> None:
        self._events.write(_event(_summary(_scalars(record), int(record["step"])), float(record["time"])))
        self._events.flush()

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        self._events.close()
        if self._online is not None:
            self._online.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _record(line: str, where: str) -> Mapping[str, Any]:
    record = parse_json(line, where, naming(TrainingError))
    known = isinstance(record, dict) and all(type(record.get(name)) in (int, float) for name in ("step", "time"))
    if not known or not all(0 <= record[name] < _MOST for name in ("step", "time")):
        raise TrainingError(f"{where}: no line of a run's log; give another --out, or delete the folder and train anew")
    numbers: Mapping[str, Any] = record
    return numbers


def _scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a record; those of an inner mapping as ``outer/inner``."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat |= (
            {f"{name}/{inner}": one for inner, one in value.items()} if isinstance(value, Mapping) else {name: value}
        )
    return {
        name: float(value)
        for name, value in flat.items()
        if name not in ("step", "time") and isinstance(value, int | float) and not isinstance(value, bool)
    }


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


def _event(content: bytes, wall_time: float) -> bytes:
    """One record of an event file."""
    event = struct.pack("<Bd", 1 << 3 | 1, wall_time) + content
    length = struct.pack("<Q", len(event))
    return length + _masked(length) + event + _masked(event)


def _summary(scalars: Mapping[str, float], step: int) -> bytes:
    """Content of the event of one step."""
    values = b"".join(
        _bytes_field(1, _bytes_field(1, tag.encode()) + struct.pack("<Bf", 2 << 3 | 5, _single(value)))
        for tag, value in scalars.items()
    )
    return _varint(2 << 3) + _varint(step) + _bytes_field(5, values)
