"""An evaluation as files: JSON and CSV for programs, one self-contained HTML page and its figures for people."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import polars as pl
from markupsafe import Markup

from nestvox import __version__
from nestvox.atomic import write_text
from nestvox.errors import TrialsError
from nestvox.evaluation.results import ALL, ErrorRates, Evaluation, NotComputable, percent, plain_values
from nestvox.metrics import bayes_threshold
from nestvox.report.drawing import PALETTES, Drawing, style_sheet
from nestvox.report.figures import (
    SYSTEM_SERIES,
    BayesLine,
    DetLine,
    bayes_error_figure,
    calibration_figure,
    det_figure,
    eer_by_dim_figure,
    histogram_figure,
)
from nestvox.scoring.conditions import DURATION
from nestvox.scoring.refusals import refuse_copies

_MOST_HISTOGRAMS = 8
_MOST_SPEAKERS = 20
_SAME_RATE = 1e-4

_T = TypeVar("_T")


def write_json(evaluation: Evaluation, path: str | Path) -> None:
    """Write `Evaluation.to_dict` atomically; rates are fractions."""
    text = json.dumps(evaluation.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def evaluation_tables(evaluations: Mapping[str, Evaluation]) -> dict[str, pl.DataFrame]:
    """The tables of one or several evaluations, each row with the name of its system in the column ``system``.

    ``results`` (a row a dimension and condition, those not computable with their reason), ``further``, ``det``,
    ``histograms``, ``calibration`` (the bins), ``calibration_costs``, ``bayes_error``, ``speakers``, ``zoo`` and
    ``worst_trials``.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for system, evaluation in evaluations.items():
        for name, rows in _table_rows(evaluation).items():
            found.setdefault(name, []).extend({"system": system, **row} for row in rows)
    return {name: frame_of(rows) for name, rows in found.items()}


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows of plain values to a table; lists become words between semicolons, infinities null."""
    flat = [
        {
            key: ";".join(map(str, value)) if isinstance(value, list) else value
            for key, value in plain_values(dict(row)).items()
        }
        for row in rows
    ]
    return pl.DataFrame(flat, infer_schema_length=None)


def write_tables(tables: Mapping[str, pl.DataFrame], folder: str | Path) -> tuple[Path, ...]:
    """Write each table as ``<name>.csv``, atomically; a table without rows is left out. Returns the files."""
    written = []
    for name, table in tables.items():
        if len(table):
            path = Path(folder) / f"{name}.csv"
            write_text(path, table.write_csv())
            written.append(path)
    return tuple(written)


def _table_rows(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    rates = [{**row.to_dict(), "reason": None} for row in evaluation.results]
    empty = [{**dict.fromkeys(rates[0]), **asdict(row)} for row in evaluation.not_computable]
    calibration = evaluation.calibration
    bins = ("bin_low", "bin_high", "bin_llr", "bin_target", "bin_nontarget")
    curves = ("bayes_minimum", "bayes_actual", "bayes_affine")
    costs = ("llr", "affine_scale", "affine_offset", "min_cllr", "cllr", "cllr_affine", "act_dcf", "calibration_error")
    worst = (("nontarget", evaluation.highest_nontargets), ("target", evaluation.lowest_targets))
    return {
        "results": rates + empty,
        "det": [
            {"dim": curve.dim, "p_fa": a, "p_miss": b, "p_miss_low": c, "p_miss_high": d}
            for curve in evaluation.det
            for a, b, c, d in zip(curve.p_fa, curve.p_miss, curve.p_miss_low, curve.p_miss_high, strict=True)
        ],
        "further": [figure.to_dict() for figure in evaluation.further],
        "histograms": [
            {"dim": found.dim, "low": low, "high": high, "n_target": target, "n_nontarget": nontarget}
            for found in evaluation.histograms
            for low, high, target, nontarget in zip(
                found.edges[:-1], found.edges[1:], found.n_target, found.n_nontarget, strict=True
            )
        ],
        "calibration": [
            {"dim": found.dim, **dict(zip(bins, values, strict=True))}
            for found in calibration
            for values in zip(*(getattr(found, name) for name in bins), strict=True)
        ],
        "calibration_costs": [
            {"dim": found.dim, **{name: getattr(found, name) for name in costs}} for found in calibration
        ],
        "bayes_error": [
            {
                "dim": found.dim,
                "prior_log_odds": odds,
                **{name: (getattr(found, name) or [None] * len(found.prior_log_odds))[i] for name in curves},
            }
            for found in calibration
            for i, odds in enumerate(found.prior_log_odds)
        ],
        "speakers": [{**asdict(row), "n_errors": row.n_errors} for row in evaluation.speakers],
        "zoo": [asdict(test) for test in evaluation.zoo],
        "worst_trials": [
            {"class": kind, "rank": rank, **asdict(trial)}
            for kind, trials in worst
            for rank, trial in enumerate(trials, start=1)
        ],
    }


def write_html(
    evaluation: Evaluation,
    path: str | Path,
    *,
    baselines: Mapping[str, Evaluation] | None = None,
    name: str = "this model",
) -> None:
    """Write the report page atomically; see `render_html`."""
    write_text(path, render_html(evaluation, baselines=baselines, name=name))


def write_figures(drawings: Mapping[str, Drawing], folder: str | Path, fmt: str) -> tuple[Path, ...]:
    """Write every figure of a report as ``<name>.<fmt>``, atomically; returns the files.

    Raises:
        NestvoxError: a format that is neither ``svg`` nor ``png``.
    """
    return tuple(drawing.write(folder, fmt) for drawing in drawings.values())


def evaluation_figures(
    evaluation: Evaluation, *, baselines: Mapping[str, Evaluation] | None = None, name: str = "this model"
) -> dict[str, Drawing]:
    """The figures of the report by their names.

    ``det`` (one curve a dimension), ``det-systems`` and ``eer-by-dimension`` (where there are several),
    ``bayes-error``, ``calibration`` and one ``scores...`` a dimension.

    Args:
        evaluation: what the figures are of.
        baselines: other systems on the same trials.
        name: what `evaluation` is called beside them.
    """
    systems = {name: evaluation, **(baselines or {})}
    overall, headline = evaluation.overall, evaluation.headline
    drawings = [
        det_figure(
            [
                DetLine(f"{curve.dim} dimensions", curve, number, curve.dim in banded_dims(evaluation))
                for number, curve in enumerate(evaluation.det)
            ]
        )
    ]
    same_dim = {
        other: curve for other, found in systems.items() for curve in found.det if curve.dim == systems_dim(systems)
    }
    if len(same_dim) > 1:
        drawings.append(
            det_figure(
                [
                    DetLine(other, curve, SYSTEM_SERIES[number % len(SYSTEM_SERIES)], number == 0 or len(systems) <= 3)
                    for number, (other, curve) in enumerate(same_dim.items())
                ],
                name="det-systems",
            )
        )
    if any(row.dim for row in overall) and (len(overall) > 1 or len(systems) > 1):
        drawings.append(eer_by_dim_figure({other: found.overall for other, found in systems.items()}))
    calibration = evaluation.calibration[-1]
    lines = [BayesLine("best threshold at each prior", calibration.bayes_minimum, 3)]
    if calibration.llr:
        lines.append(BayesLine("thresholds said by the score", calibration.bayes_actual, 0, "line-dashed"))
    elif calibration.bayes_affine:
        lines.append(BayesLine("through the affine map", calibration.bayes_affine, 0, "line-dashed"))
    point = -bayes_threshold(headline.p_target, headline.c_miss, headline.c_fa)
    inside = calibration.prior_log_odds[0] <= point <= calibration.prior_log_odds[-1]
    drawings.append(bayes_error_figure(calibration.prior_log_odds, lines, at=point if inside else None))
    drawings.append(calibration_figure(calibration))
    for histogram in evaluation.histograms:
        title = "scores" if histogram.dim is None else f"scores-{histogram.dim}"
        drawings.append(histogram_figure(histogram, evaluation.rates(histogram.dim).eer_threshold, name=title))
    return {drawing.name: drawing for drawing in drawings}


def banded_dims(evaluation: Evaluation) -> tuple[int | None, ...]:
    """The smallest and the largest dimension: bands of all of them would hide each other."""
    return tuple(dict.fromkeys((evaluation.overall[0].dim, evaluation.overall[-1].dim)))


def systems_dim(systems: Mapping[str, Evaluation]) -> int | None:
    """The largest dimension of the first system at which the systems differ, else its largest.

    Rotations of one embedding are all the same at its full size.
    """
    first = next(iter(systems.values()))
    for row in reversed(first.overall):
        rates = [other.eer.value for found in systems.values() for other in found.overall if other.dim == row.dim]
        if max(rates) - min(rates) > _SAME_RATE:
            return row.dim
    return first.headline.dim


def render_html(
    evaluation: Evaluation, *, baselines: Mapping[str, Evaluation] | None = None, name: str = "this model"
) -> str:
    """The report as one HTML page: no script, no network, light and dark, printable.

    Arguments as `evaluation_figures` takes them; `baselines`, e.g. ``{"truncation": ...}``, are shown by dimension.

    Raises:
        TrialsError: a baseline was measured on other trials.
        ScoresError: a baseline is a copy of the evaluation or of another.
    """
    systems = {name: evaluation, **(baselines or {})}
    for other, found in systems.items():
        if found.trials_sha256 != evaluation.trials_sha256:
            raise TrialsError(
                f"{other!r} was measured on other trials ({found.trials_source}, sha256 {found.trials_sha256[:16]}) "
                f"than the report is about ({evaluation.trials_source}, sha256 {evaluation.trials_sha256[:16]}); "
                "error rates on different trials cannot stand side by side"
            )
    refuse_copies(systems)
    figures = evaluation_figures(evaluation, baselines=baselines, name=name)
    overall = evaluation.overall
    dims = sorted({dim for found in systems.values() for dim in found.dims if dim is not None})
    shown = [histogram.dim for histogram in evaluation.histograms[-_MOST_HISTOGRAMS:]]
    rows: tuple[ErrorRates | NotComputable, ...] = (*evaluation.results, *evaluation.not_computable)
    conditions = grouped(rows, lambda row: row.condition)
    durations = {key: rows for key, rows in conditions.items() if key.startswith(f"{DURATION}=")}
    others = {key: rows for key, rows in conditions.items() if key not in durations and key != ALL}
    return render_page(
        "evaluation.html.j2",
        None,
        evaluation=evaluation,
        headline=evaluation.headline,
        overall=overall,
        calibration=evaluation.calibration[-1],
        # A label of any system on the page is a label of the page.
        labels=tuple(sorted({label for found in systems.values() for label in found.labels})),
        systems=systems,
        by_system={other: {row.dim: row for row in found.overall} for other, found in systems.items()},
        by_dim=len(overall) > 1 or len(systems) > 1,
        table_dims=dims or [None],
        conditions=[(ALL, conditions[ALL]), *others.items()] if others else [],
        durations=[(key.removeprefix(f"{DURATION}="), rows) for key, rows in durations.items()],
        further=grouped(evaluation.further, lambda figure: figure.name),
        banded=banded_dims(evaluation),
        systems_dim=systems_dim(systems),
        figures={**dict.fromkeys(("det-systems", "eer-by-dimension")), **figures},
        histograms=[(dim, figures["scores" if dim is None else f"scores-{dim}"]) for dim in shown],
        most_speakers=_MOST_SPEAKERS,
        share_speakers=_speakers_of_half(evaluation),
    )


def render_page(template: str, filters: Mapping[str, Callable[[Any], str]] | None = None, /, **values: Any) -> str:
    """Fill one of the package's templates; every value is escaped unless it is a `Markup`.

    `filters` are more than ``percent`` and ``p_value``; `values` is what the template names.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nestvox.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["p_value"] = _p_value
    environment.filters.update(filters or {})
    # The style sheet has no value of the user.
    css = Markup(style_sheet())  # noqa: S704
    page = environment.get_template(template)
    return page.render(palettes=PALETTES, figure_css=css, version=__version__, **values)


def grouped(rows: Iterable[_T], key: Callable[[_T], str]) -> dict[str, list[_T]]:
    """The rows by their keys, both in the order in which they come."""
    found: dict[str, list[_T]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _speakers_of_half(evaluation: Evaluation) -> int:
    """How many speakers, those with most errors first, take part in half of all errors."""
    counts = [row.n_errors for row in evaluation.speakers]
    half = sum(counts) / 2
    return sum(total < half for total in itertools.accumulate(counts)) + 1 if half else 0


def _p_value(p: float) -> str:
    if p == 0 or p < 1e-99:
        return "p < 1e-99"
    return f"p = {p:.3f}" if p >= 0.001 else f"p < 1e{math.ceil(math.log10(p))}"
