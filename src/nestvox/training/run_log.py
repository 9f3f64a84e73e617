"""What a run tells: lines of JSON and TensorBoard's scalars always, Weights & Biases where a project is named."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from nestvox.errors import TrainingError
from nestvox.extras import require
from nestvox.gate import naming, parse_json, read_text
from nestvox.training.tensorboard import EventFile

METRICS_FILE = "metrics.jsonl"
_MOST = 2**53
_EVENTS = "events"


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
        self._events = EventFile(events / f"events.out.tfevents.{int(now)}.nestvox", now)
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
        self._events.add(_scalars(record), int(record["step"]), float(record["time"]))

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
