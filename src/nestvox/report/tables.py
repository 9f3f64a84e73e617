"""Every number of a report as tables, for spreadsheets and scripts: rates are fractions, an infinity an empty cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from nestvox.atomic import write_text
from nestvox.evaluation.results import Evaluation, plain_values


def evaluation_tables(evaluations: Mapping[str, Evaluation]) -> dict[str, pl.DataFrame]:
    """The tables of one or several evaluations, each row with the name of its system in the column ``system``.

    ``results`` (a row a dimension and condition, those not computable with their reason), ``further``, ``det``,
    ``histograms``, ``calibration`` (the bins), ``calibration_costs``, ``bayes_error``, ``speakers``, ``zoo`` and
    ``worst_trials``.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for system, evaluation in evaluations.items():
        for name, rows in _rows(evaluation).items():
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


def _rows(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
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
