"""A comparison as files: one self-contained HTML page with its figures for people, tables for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import polars as pl

from nestvox.atomic import write_text
from nestvox.download import readable_size
from nestvox.evaluation.comparison import Comparison, ComparisonRow, DisputedTrial
from nestvox.evaluation.results import Evaluation
from nestvox.metrics import bayes_threshold
from nestvox.report.drawing import Drawing
from nestvox.report.figures import (
    SYSTEM_SERIES,
    BayesLine,
    DetLine,
    Difference,
    bayes_error_figure,
    det_figure,
    difference_figure,
    eer_by_dim_figure,
    histogram_figure,
)
from nestvox.report.page import evaluation_tables, frame_of, grouped, render_page

_MOST_SPEAKERS = 15
_MOST_VERDICTS = 6


class _OfDim(Protocol):
    @property
    def dim(self) -> int | None: ...


_T = TypeVar("_T", bound=_OfDim)


@dataclass(frozen=True)
class _SpeakerErrors:
    """Errors of one speaker under each system."""

    speaker: str
    n_trials: int
    errors: tuple[int, ...]


def write_comparison(comparison: Comparison, evaluations: Mapping[str, Evaluation], path: str | Path) -> None:
    """Write the page atomically; see `render_comparison`."""
    write_text(path, render_comparison(comparison, evaluations))


def render_comparison(comparison: Comparison, evaluations: Mapping[str, Evaluation]) -> str:
    """The comparison as one HTML page: no script, no network, light and dark, printable.

    `evaluations`: name of each of its systems to its results on the same trials.
    """
    names = _names(comparison)
    figures = comparison_figures(comparison, evaluations)
    return render_page(
        "comparison.html.j2",
        {"size": readable_size},
        comparison=comparison,
        evaluations=evaluations,
        names=names,
        labels=comparison.labels,
        unit="speakers" if evaluations[names[0]].speakers else "utterances",
        series=_series(names),
        shown_dims=_shown_dims(comparison),
        verdicts=_verdicts(comparison),
        figures={**dict.fromkeys(("differences", "eer-by-dimension")), **figures},
        speakers=_changed_speakers(names, evaluations),
        disputed=list(grouped(comparison.disputed, _who_is_right).items()),
    )


def comparison_figures(comparison: Comparison, evaluations: Mapping[str, Evaluation]) -> dict[str, Drawing]:
    """The figures of the page by their names.

    ``differences`` and ``eer-by-dimension`` (where there are any), ``det-systems``, ``bayes-error`` and
    ``scores-1``, ``scores-2``... in the order of the systems.
    """
    names = _names(comparison)
    series, dims = _series(names), _shown_dims(comparison)
    drawings = []
    rows = [row for row in comparison.rows if row.paired is not None]
    if rows:
        drawings.append(difference_figure([_difference(row, series[row.b], len(names) > 2) for row in rows]))
    by_dim = {name: [row for row in evaluations[name].overall if row.dim] for name in names}
    if all(by_dim.values()) and any(len(found) > 1 for found in by_dim.values()):
        drawings.append(eer_by_dim_figure(by_dim))
    drawings.append(
        det_figure(
            [
                DetLine(name, _at(evaluations[name].det, dims[name]), series[name], number == 0 or len(names) <= 3)
                for number, name in enumerate(names)
            ],
            name="det-systems",
        )
    )
    calibrations = {name: _at(evaluations[name].calibration, dims[name]) for name in names}
    odds = calibrations[names[0]].prior_log_odds
    point = -bayes_threshold(comparison.p_target, comparison.c_miss, comparison.c_fa)
    drawings.append(
        bayes_error_figure(
            odds,
            [BayesLine(name, found.bayes_minimum, series[name]) for name, found in calibrations.items()],
            at=point if odds[0] <= point <= odds[-1] else None,
        )
    )
    for number, name in enumerate(names, start=1):
        found = evaluations[name]
        threshold = found.rates(dims[name]).eer_threshold
        drawings.append(histogram_figure(_at(found.histograms, dims[name]), threshold, name=f"scores-{number}"))
    return {drawing.name: drawing for drawing in drawings}


def comparison_tables(comparison: Comparison, evaluations: Mapping[str, Evaluation]) -> dict[str, pl.DataFrame]:
    """Every number of the page as tables.

    ``systems``, ``differences``, ``disputed_trials``, ``selection``, and those of each system alone (see
    `tables.evaluation_tables`).
    """
    differences = []
    for row in comparison.rows:
        plain = {key: value for key, value in asdict(row).items() if key != "paired"}
        if row.paired is not None:
            for figure in ("eer", "min_dcf", "at_eer", "at_min_dcf"):
                plain |= {f"{figure}_{key}": value for key, value in getattr(row.paired, figure)._asdict().items()}
        differences.append(plain)
    selection = comparison.selection
    return {
        "systems": frame_of([asdict(row) for row in comparison.systems]),
        "differences": frame_of(differences),
        "disputed_trials": frame_of([asdict(trial) for trial in comparison.disputed]),
        "selection": frame_of([] if selection is None else [asdict(found) for found in selection.candidates]),
        **evaluation_tables(evaluations),
    }


def _who_is_right(trial: DisputedTrial) -> str:
    return f"{trial.right} is right, {trial.b if trial.right == trial.a else trial.a} is wrong"


def _names(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(row.name for row in comparison.systems))


def _series(names: list[str]) -> dict[str, int]:
    return {name: SYSTEM_SERIES[number % len(SYSTEM_SERIES)] for number, name in enumerate(names)}


def _shown_dims(comparison: Comparison) -> dict[str, int | None]:
    """The largest dimension of each system at which it differs from the first, else its largest."""
    dims = {row.name: row.dim for row in comparison.systems}
    for row in comparison.rows:
        if row.paired is not None:
            dims |= {row.a: row.dim_a, row.b: row.dim_b}
    return dims


def _verdicts(comparison: Comparison) -> list[ComparisonRow]:
    """Rows whose verdict is shown in full: all, or of many the smallest and the largest dimension of each system."""
    rows = [row for row in comparison.rows if row.paired is not None]
    if len(rows) <= _MOST_VERDICTS:
        return rows
    ends = grouped(rows, lambda row: row.b).values()
    return [row for found in ends for row in ([found[0], found[-1]] if len(found) > 1 else found)]


def _at(found: Sequence[_T], dim: int | None) -> _T:
    return next(one for one in found if one.dim == dim)


def _difference(row: ComparisonRow, series: int, several: bool) -> Difference:
    paired = row.paired
    assert paired is not None
    at = "" if row.dim_b is None else f"{row.dim_b}"
    name = f"{row.b} {at}".strip() if several or not at else f"{at} dimensions"
    figure = paired.eer
    return Difference(name, 100 * figure.difference, 100 * figure.low, 100 * figure.high, series)


def _changed_speakers(names: list[str], evaluations: Mapping[str, Evaluation]) -> list[_SpeakerErrors]:
    """The speakers whose errors differ most between any other system and the first."""
    tables = [{row.speaker: row for row in evaluations[name].speakers} for name in names]
    found = [
        _SpeakerErrors(speaker, row.n_target + row.n_nontarget, tuple(table[speaker].n_errors for table in tables))
        for speaker, row in tables[0].items()
    ]
    changed = [row for row in found if max(row.errors) > min(row.errors)]
    changed.sort(key=lambda row: (-max(abs(count - row.errors[0]) for count in row.errors), row.speaker))
    return changed[:_MOST_SPEAKERS]
