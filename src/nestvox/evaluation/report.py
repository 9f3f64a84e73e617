"""An evaluation as files: JSON for programs, one self-contained HTML page for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import jinja2

from nestvox import __version__
from nestvox.atomic import write_text
from nestvox.errors import TrialsError
from nestvox.evaluation.figures import N_SERIES, SYSTEM_SERIES, det_figure, eer_by_dim_figure, histogram_figure
from nestvox.evaluation.results import ErrorRates, Evaluation, NotComputable

__all__ = ["percent", "percent_interval", "render_html", "write_html", "write_json"]

_MOST_HISTOGRAMS = 8


def percent(rate: float, digits: int = 2) -> str:
    """A fraction in per cent: 0.05177 is ``5.18``."""
    return f"{100 * rate:.{digits}f}"


def percent_interval(row: ErrorRates) -> str:
    """Equal error rate and its interval in per cent: ``5.18 [4.28, 6.06]``."""
    return f"{percent(row.eer)} [{percent(row.eer_low)}, {percent(row.eer_high)}]"


def write_json(evaluation: Evaluation, path: str | Path) -> None:
    """Write `Evaluation.to_json` atomically; rates are fractions."""
    text = json.dumps(evaluation.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_html(
    evaluation: Evaluation,
    path: str | Path,
    *,
    baselines: Mapping[str, Evaluation] | None = None,
    name: str = "this model",
) -> None:
    """Write the report page atomically; see `render_html`."""
    write_text(path, render_html(evaluation, baselines=baselines, name=name))


def render_html(
    evaluation: Evaluation, *, baselines: Mapping[str, Evaluation] | None = None, name: str = "this model"
) -> str:
    """The report as one HTML page: no script, no network, light and dark, printable.

    Args:
        evaluation: what the page is about.
        baselines: other systems on the same trials, e.g. ``{"truncation": ...}``, shown beside it by dimension.
        name: what `evaluation` is called in legends beside the baselines.

    Raises:
        TrialsError: a baseline was measured on other trials.
    """
    systems = {name: evaluation, **(baselines or {})}
    for other, found in systems.items():
        if found.trials_sha256 != evaluation.trials_sha256:
            raise TrialsError(
                f"{other!r} was measured on other trials ({found.trials_source}, sha256 {found.trials_sha256[:16]}) "
                f"than the report is about ({evaluation.trials_source}, sha256 {evaluation.trials_sha256[:16]}); "
                "error rates on different trials cannot stand side by side"
            )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    template = environment.from_string(
        resources.files("nestvox.evaluation").joinpath("report.html.j2").read_text("utf-8")
    )
    overall = evaluation.overall
    by_dim = any(row.dim for row in overall) and (len(overall) > 1 or len(systems) > 1)
    dims = sorted({dim for found in systems.values() for dim in found.dims if dim is not None})
    # The smallest and the largest dimension: bands of all of them would hide each other.
    banded = tuple(dict.fromkeys((overall[0].dim, overall[-1].dim)))
    headline = evaluation.headline
    shown = evaluation.histograms[-_MOST_HISTOGRAMS:]
    return template.render(
        evaluation=evaluation,
        headline=headline,
        overall=overall,
        # A label of any system on the page is a label of the page.
        labels=tuple(sorted({label for found in systems.values() for label in found.labels})),
        systems=systems,
        by_system={other: {row.dim: row for row in found.overall} for other, found in systems.items()},
        table_dims=dims or [None],
        conditions=_by_condition(evaluation),
        n_series=N_SERIES,
        system_series=SYSTEM_SERIES,
        det=det_figure(evaluation.det, banded),
        banded=banded,
        by_dim=eer_by_dim_figure({other: found.overall for other, found in systems.items()}) if by_dim else None,
        histograms=[
            (histogram.dim, histogram_figure(histogram, evaluation.rates(histogram.dim).eer_threshold))
            for histogram in shown
        ],
        version=__version__,
    )


def _by_condition(evaluation: Evaluation) -> list[tuple[str, list[ErrorRates | NotComputable]]]:
    """Each condition, ``all`` first, with its rows, dimensions ascending; empty if the trials were not split."""
    grouped: dict[str, list[ErrorRates | NotComputable]] = {}
    rows: tuple[ErrorRates | NotComputable, ...] = (*evaluation.results, *evaluation.not_computable)
    for row in rows:
        grouped.setdefault(row.condition, []).append(row)
    return list(grouped.items()) if len(grouped) > 1 else []
