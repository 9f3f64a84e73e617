"""What a long command tells while it runs: rate and time left, and what training says, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from nestvox.cli.console import complain, console, tell
from nestvox.progress import Progress as Callback

if TYPE_CHECKING:
    from nestvox.training.run_log import Watch

_LOG_EVERY_S = 10.0


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f} {self.unit}/s" if task.speed else f"- {self.unit}/s")


@contextmanager
def progress_bar(description: str, unit: str) -> Iterator[Callback]:
    """Yield a callback that draws `done` of `total` in `unit` with rate and ETA.

    On a terminal it is a bar, drawn from its first call on; in a log file it is a line every ten seconds, so that a
    batch job can be followed.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield _log_lines(description, unit)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        TextColumn("ETA", markup=False),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console(stderr=True))
    task = bar.add_task(description, total=None)

    def report(done: int, total: int | None, /) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield report
    finally:
        bar.stop()


def _log_lines(description: str, unit: str) -> Callback:
    start = last = time.monotonic()
    first: int | None = None

    def report(done: int, total: int | None, /) -> None:
        nonlocal last, first
        now = time.monotonic()
        if first is None:
            first = done  # a resumed run begins above zero: the rate counts only what this run did
        if now - last < _LOG_EVERY_S:
            return
        last = now
        rate = (done - first) / (now - start)
        eta = f", ETA {(total - done) / rate:.0f} s" if total is not None and rate > 0 else ""
        whole = f"/{total}" if total is not None else ""
        tell(f"{description}: {done}{whole} {unit}, {rate:,.1f} {unit}/s{eta}")

    return report


def told() -> Watch:
    """What tells of a training run on standard error."""
    from nestvox.training.run_log import EpochReport, Watch

    class Teller(Watch):
        def warn(self, text: str) -> None:
            complain(text, kind="warning")

        def epoch(self, report: EpochReport) -> None:
            tell(report.words)

    return Teller()
