"""`nestvox calibrate`: a map of scores to log likelihood ratios, fitted on labelled pairs and kept with the model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import console, number, say, say_notes, show_dim, whole_table
from nestvox.cli.outputs import write_json
from nestvox.cli.threshold import keep, keeping_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nestvox.evaluation.llr_fit import LlrCost, LlrFit


def calibrate(
    *,
    trials: options.Trials,
    scores: options.Scores = None,
    store: options.Store = None,
    model: Annotated[str | None, options.MODEL] = None,
    table: options.Table = None,
    dims: options.Dims = None,
    quality: Annotated[
        list[str] | None,
        typer.Option(help="Quality measure: duration, norm, snr, or a column of the table; may be given again."),
    ] = None,
    prior: Annotated[float, typer.Option(help="Of a target trial, around which the map is to be best.")] = 0.5,
    ridge: Annotated[float, typer.Option(help="Penalty that keeps the map finite.")] = 1e-4,
    score_norm: options.ScoreNorm = None,
    cohort: options.Cohort = None,
    top_k: options.TopK = None,
    p_target: options.PTarget = 0.05,
    c_miss: options.CMiss = 1.0,
    c_fa: options.CFa = 1.0,
    allow_overlap: options.AllowOverlap = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    offline: options.Offline = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the calibration here.")] = None,
    json_out: options.Json = None,
) -> None:
    """Fit an affine map to log likelihood ratios in nats at every dimension, and show what it is worth.

    The trials are development trials, never those that are reported. It is stored in the model folder, or with
    --out in a file of its own, and used by `nestvox evaluate --calibration` and `nestvox verify`. It refuses the
    trials and the speakers that it was fitted on.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.evaluation.llr_fit import calibrate as run
    from nestvox.scoring.pipeline import read_steps

    folder = keeping_folder(model, out)
    found = run(
        options.source(scores, store, model, table),
        trials,
        table=table,
        dims=options.parse_dims(dims),
        quality=quality or (),
        prior=prior,
        ridge=ridge,
        steps=read_steps(score_norm=score_norm, cohort=cohort, top_k=top_k),
        p_target=p_target,
        c_miss=c_miss,
        c_fa=c_fa,
        allow_overlap=allow_overlap,
        load=options.Running(device, backend, weights, offline).load,
        bars=progress_bar,
    )
    _print_fit(found)
    keep(folder, out, found.llr.fingerprint, f", calibration {found.llr.key}", llr=found.llr)
    if json_out is not None:
        content = {
            "calibration": found.llr.to_dict(),
            **{name: [asdict(cost) for cost in getattr(found, name)] for name in ("before", "after", "held_out")},
            **{name: getattr(found, name) for name in ("p_target", "c_miss", "c_fa")},
            "labels": list(found.labels),
            "notes": list(found.notes),
        }
        write_json(json_out, content)


def print_costs(
    columns: Mapping[str, Sequence[LlrCost]], *, title: str, p_target: float, labels: Sequence[str]
) -> None:
    """Print Cllr and actDCF of several versions of the same scores, one row a dimension."""
    names = ["dim", *(f"Cllr {name}" for name in columns), "minCllr", *(f"actDCF {name}" for name in columns), "minDCF"]
    shown = whole_table(*map(number, names), title=title, labels=labels)
    for rows in zip(*columns.values(), strict=True):
        figures = [cost.cllr for cost in rows] + [rows[-1].min_cllr]
        figures += [cost.act_dcf for cost in rows] + [rows[-1].min_dcf]
        shown.add_row(show_dim(rows[0].dim), *(f"{figure:.3f}" for figure in figures))
    console().print(shown)
    say(
        f"Cllr in bits, 1 is what knowing nothing costs; detection cost at p_target {p_target:g}; minima of the scores "
        f"{list(columns)[-1]}"
    )


def _print_fit(found: LlrFit) -> None:

    columns = {"before": found.before, "fitted": found.after}
    if found.held_out:
        columns["held out"] = found.held_out
    print_costs(columns, title="calibration", p_target=found.p_target, labels=found.labels)
    say(f"The map: {found.llr.describe()}")
    for dim, calibration in found.llr.maps.items():
        terms = "".join(f" {weight:+.4g} * ({name})" for name, weight in calibration.quality)
        at = "" if dim is None else f"{dim:>5} dimensions: "
        say(f"{at}LLR = {calibration.offset:+.4g} {calibration.scale:+.4g} * score{terms}")
    say("Costs `fitted` are on the trials of the fit, and too good; `held out` by maps of other speakers only.")
    say_notes(found.notes)
