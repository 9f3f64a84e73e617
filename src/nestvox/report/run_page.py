"""A training run as one page that can be opened while it goes on: curves, what each epoch saw, and what is kept.

It is made of what the run's folder holds, ``metrics.jsonl`` and, once the run is over, ``result.json``; so a run of
yesterday, or one that was killed, has its page too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nestvox.atomic import write_text
from nestvox.errors import NestvoxError
from nestvox.gate import naming, parse_json, read_json, read_text
from nestvox.report.drawing import Drawing, Plot
from nestvox.report.figures import even_ticks
from nestvox.report.page import render_page
from nestvox.schema import Count, Fraction, OpenModel, Size, Word, validated

RUN_PAGE = "training.html"

_MOST_POINTS = 600  # of a curve; more than a page has pixels
_error = naming(NestvoxError)


Epoch = Annotated[float, Field(ge=0, le=1e9)]
Dim = Annotated[str, Field(pattern=r"^[0-9]{1,7}$")]


class _Seen(OpenModel):
    utterances: Count
    of_utterances: Count
    speakers: Count
    of_speakers: Count
    samples: Count


class _Row(OpenModel):
    dim: Size
    truncated: Fraction | None
    start: Fraction
    best: Fraction
    best_low: Fraction
    best_high: Fraction


class _Development(OpenModel):
    trials: Word
    n_target: Count
    n_nontarget: Count
    sha256: Word
    interval: Word = ""
    eer: list[_Row] = Field(default_factory=list)


class _Record(OpenModel):
    epoch: Epoch
    loss: float | None = None
    epoch_loss: float | None = None
    epoch_s: float | None = None
    dev_eer: dict[Dim, Fraction] = Field(default_factory=dict)
    best_epoch: Count = 0
    seen: _Seen | None = None
    repeated_clips: Count = 0
    epochs: Count = 0
    labels: list[Word] = Field(default_factory=list)
    warnings: list[Word] = Field(default_factory=list)
    development: _Development | None = None


class _Result(OpenModel):
    kind: Word
    kept: Word
    fingerprint: Word
    model: Word = ""
    epochs: Count = 0
    labels: list[Word] = Field(default_factory=list)
    warnings: list[Word] = Field(default_factory=list)
    development: _Development


@dataclass(frozen=True)
class _Log:
    """What `metrics.jsonl` says.

    Attributes:
        about: of the run, before its first epoch.
        losses: epoch as a real number, and loss.
        epochs: a record an epoch, the starting point first.
    """

    about: Mapping[str, Any]
    losses: Sequence[tuple[float, float]]
    epochs: Sequence[Mapping[str, Any]]


def write_run_page(folder: str | Path, *, name: str = "", left_s: float | None = None) -> Path:
    """Write ``training.html`` into the folder of a run, atomically.

    Args:
        folder: of a run of `nestvox train`.
        name: of the model that is trained; empty: the folder's.
        left_s: about how many seconds the run will take yet; None: it is over, or nobody knows.

    Returns:
        The page.

    Raises:
        NestvoxError: the folder holds no run, or its files are damaged.
    """
    folder = Path(folder)
    result_file = folder / "result.json"
    result = read_json(result_file, _error) if result_file.is_file() else None
    if result is not None:
        validated(_Result, result, str(result_file), _error, what="none of a run's result")
    log = _log(folder / "metrics.jsonl", needed=result is None)
    development = (result or {}).get("development") or log.about.get("development")
    dims = sorted({int(dim) for record in log.epochs for dim in record.get("dev_eer", {})})
    page = render_page(
        "run.html.j2",
        {"minutes": lambda seconds: f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.0f} s"},
        name=name or (result or {}).get("model") or folder.absolute().name,
        labels=(result or log.about).get("labels", []),
        warnings=(result or log.about).get("warnings", []),
        result=result,
        development=development,
        epochs=log.epochs,
        n_epochs=(result or {}).get("epochs", log.about.get("epochs")),
        best_epoch=next((record["best_epoch"] for record in reversed(log.epochs) if "best_epoch" in record), 0),
        dims=dims,
        left_s=None if result else left_s,
        figures={"loss": loss_figure(log.losses), "rates": rates_figure(log.epochs)},
    )
    path = folder / RUN_PAGE
    write_text(path, page)
    return path


def loss_figure(losses: Sequence[tuple[float, float]]) -> Drawing | None:
    """The loss against the time in epochs; None: there are too few points for a curve."""
    if len(losses) < 2:
        return None
    points = (
        [losses[i * len(losses) // _MOST_POINTS] for i in range(_MOST_POINTS)] if len(losses) > _MOST_POINTS else losses
    )
    drawing = Drawing("loss", 460, 300, "Training loss against the epoch")
    values = [loss for _, loss in points]
    plot = Plot(drawing, (0.0, max(1.0, points[-1][0])), _range(values))
    plot.axes(_epoch_ticks(plot), even_ticks(*plot.y_range), "epoch", "training loss")
    drawing.line(plot.points([at for at, _ in points], values), series=3, clipped=True)
    return drawing


def rates_figure(epochs: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """The EER on the development trials at each dimension, in per cent; None: it was measured once at the most."""
    measured = [record for record in epochs if "dev_eer" in record]
    if len(measured) < 2:
        return None
    dims = sorted({int(dim) for record in measured for dim in record["dev_eer"]})
    rates = {
        dim: [(r["epoch"], 100 * r["dev_eer"][str(dim)]) for r in measured if str(dim) in r["dev_eer"]] for dim in dims
    }
    drawing = Drawing("rates", 460, 300, "Equal error rate on the development trials against the epoch")
    plot = Plot(
        drawing, (0.0, max(1.0, measured[-1]["epoch"])), _range([rate for found in rates.values() for _, rate in found])
    )
    plot.axes(_epoch_ticks(plot), even_ticks(*plot.y_range), "epoch", "development EER, %")
    best = measured[-1].get("best_epoch", 0)
    drawing.line([(plot.x(best), drawing.height - plot.bottom), (plot.x(best), plot.top)], "threshold")
    for number, found in enumerate(rates.values()):
        drawing.line(plot.points(*zip(*found, strict=True)), series=number, clipped=True)
    plot.key([("line", str(dim), number) for number, dim in enumerate(rates)] + [("threshold", "kept", None)])
    return drawing


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Room for a curve, and for the key above it."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    return max(0.0, low - 0.05 * span) if low >= 0 else low - 0.05 * span, high + 0.15 * span


def _epoch_ticks(plot: Plot) -> list[tuple[float, str]]:
    return [(at, text) for at, text in even_ticks(*plot.x_range) if at == round(at)]


def _log(path: Path, *, needed: bool) -> _Log:
    if not path.is_file() and not needed:
        return _Log({}, [], [])
    about: Mapping[str, Any] = {}
    losses, epochs = [], []
    for number, line in enumerate(
        read_text(path, _error, missing="no log: is this the folder of a run?").splitlines(), 1
    ):
        record = parse_json(line, f"{path} line {number}", _error)
        _check_record(record, f"{path} line {number}")
        if "loss" in record:
            losses.append((float(record["epoch"]), float(record["loss"])))
            continue
        epochs.append(record)
        about = about or record
    return _Log(about, losses, epochs)


def _check_record(content: Any, where: str) -> None:
    """Refuse a line of the log that no run writes."""
    found = validated(_Record, content, where, _error, what="none of a run's log")
    for name in ("loss", "epoch_loss", "epoch_s", "seen", "development"):
        if name in found.model_fields_set and getattr(found, name) is None:
            raise _error(f"none of a run's log: {name} is null", where)
    if found.seen is not None and found.epoch_s is None:
        raise _error("none of a run's log: lacks 'epoch_s'", where)
