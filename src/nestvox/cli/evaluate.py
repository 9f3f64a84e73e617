"""`nestvox evaluate`: error rates of scores, a store or a model on a list of trials."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import console, number, say, say_notes, show_dim, show_score, whole_table
from nestvox.cli.outputs import check_figure_format, write_json, write_pages
from nestvox.errors import NestvoxError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nestvox.corpora.utterances import UtteranceTable
    from nestvox.evaluation import Evaluation


_Conditions = Annotated[
    list[str] | None,
    typer.Option("--condition", help="Column of the table to split by, or duration; may be given again."),
]
_Baseline = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Another model (with --table), or NAME=STORE, beside this one; log-mel: no network; may be given again.",
    ),
]
_Llr = Annotated[
    bool, typer.Option("--llr", help="The scores are log likelihood ratios in nats: judge their calibration.")
]
_Interval = Annotated[str, typer.Option(help="studentised (nothing is resampled), or percentile of the replicates.")]
_DetailDim = Annotated[
    int | None,
    typer.Option(max=1_000_000, help="Prefix length whose speakers and worst trials are analysed; default: largest."),
]
_SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="Leave out trials whose utterances are not there, and say so.")
]
_Thresholds = Annotated[
    Path | None, typer.Option(help="Count the errors of the thresholds of this model folder or calibration file.")
]
_Corner = Annotated[
    bool, typer.Option("--eer-at-corner", help="Beside the exact EER, max(FPR, FNR) as voxceleb_trainer counts it.")
]
_ScoresOut = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the scores of the largest dimension, .csv, .parquet or .txt.")
]


def evaluate(
    *,
    trials: options.Trials,
    scores: options.Scores = None,
    store: options.Store = None,
    model: Annotated[str | None, options.MODEL] = None,
    table: options.Table = None,
    dims: options.Dims = None,
    conditions: _Conditions = None,
    baseline: _Baseline = None,
    p_target: options.PTarget = 0.05,
    c_miss: options.CMiss = 1.0,
    c_fa: options.CFa = 1.0,
    llr: _Llr = False,
    interval: _Interval = "studentised",
    n_bootstrap: options.Bootstrap = 1000,
    seed: options.Seed = 0,
    detail_dim: _DetailDim = None,
    eer_at_corner: _Corner = False,
    allow_overlap: options.AllowOverlap = False,
    skip_missing: _SkipMissing = False,
    score_norm: options.ScoreNorm = None,
    cohort: options.Cohort = None,
    top_k: options.TopK = None,
    calibration: options.Calibration = None,
    thresholds: _Thresholds = None,
    scores_out: _ScoresOut = None,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    offline: options.Offline = False,
    json_out: options.Json = None,
    report: options.Report = None,
    csv: options.Csv = None,
    figures: options.Figures = None,
    figure_format: options.FigureFormat = "svg",
) -> None:
    """Measure EER and minDCF with intervals, at every dimension and under every condition.

    The scores come from exactly one of --scores, --store and --model. Rates are per cent on the screen and fractions in
    the JSON and CSV files. With --report and a table that has duration_s, the trials are split by duration too.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.trials import read_trials
    from nestvox.corpora.utterances import read_utterances
    from nestvox.evaluation.estimates import Settings
    from nestvox.evaluation.measure import evaluate as run
    from nestvox.extraction.store.store import EmbeddingStore
    from nestvox.scoring.pipeline import read_steps
    from nestvox.scoring.refusals import check_trials, refuse_copies

    check_figure_format(figure_format)
    _check_call(scores, store, model, dims, baseline, skip_missing=skip_missing, llr=llr, calibration=calibration)
    system = options.source(scores, store, model, table)
    listed = read_trials(trials)
    utterances = None if table is None else read_utterances(table)
    settings = Settings(
        p_target=p_target,
        c_miss=c_miss,
        c_fa=c_fa,
        n_bootstrap=n_bootstrap,
        seed=seed,
        interval=interval,
        detail_dim=detail_dim,
        eer_at_corner=eer_at_corner,
    )
    check_trials(listed)
    steps = read_steps(
        score_norm=score_norm, cohort=cohort, top_k=top_k, calibration=calibration, thresholds=thresholds
    )
    evaluated = functools.partial(
        run,
        trials=listed,
        table=utterances,
        dims=options.parse_dims(dims),
        skip_missing=skip_missing,
        settings=settings,
        allow_overlap=allow_overlap,
    )
    split_by = _conditions(conditions or (), utterances, with_durations=report is not None)
    running = options.Running(device, backend, None, offline)
    beside = _baselines(baseline, utterances)
    # Stores before a model that embeds: what is wrong with one is known at once.
    others = {name: evaluated(EmbeddingStore(folder), conditions=split_by) for name, folder in beside.items() if folder}
    found = evaluated(
        system,
        llr=llr,
        conditions=split_by,
        steps=steps,
        scores_out=scores_out,
        load=replace(running, weights=weights).load,
        bars=progress_bar,
    )
    others |= {
        name: evaluated(name, conditions=split_by, load=running.load, bars=progress_bar)
        for name, folder in beside.items()
        if not folder
    }
    name = found.model or "scores"
    refuse_copies({name: found, **others})
    print_evaluation(found)
    _print_steps(found, calibration=calibration)
    if scores_out is not None:
        say(f"Scores ({found.score}): {scores_out}")
    for title, other in others.items():
        print_evaluation(other, title=title)
    baselines = {"baselines": {title: other.to_dict() for title, other in others.items()}} if others else {}
    write_json(json_out, found.to_dict() | baselines)
    _write_report(found, others, name, csv, figures, figure_format, report)


def _write_report(
    found: Evaluation,
    others: Mapping[str, Evaluation],
    name: str,
    csv: Path | None,
    figures: Path | None,
    figure_format: str,
    report: Path | None,
) -> None:
    """Write the tables, the figures and the page that are asked for."""
    from nestvox.report.page import evaluation_figures, evaluation_tables, write_html

    write_pages(
        csv,
        figures,
        figure_format,
        report,
        tables=lambda: evaluation_tables({name: found, **others}),
        drawings=lambda: evaluation_figures(found, baselines=others, name=name),
        page=lambda path: write_html(found, path, baselines=others, name=name),
    )


def print_evaluation(evaluation: Evaluation, *, title: str | None = None) -> None:
    """Print the rows as a table in per cent, with counts, hash, interval and notes below it."""
    from nestvox.evaluation.results import further_in_words, interval_in_words, percent, percent_interval

    headline = evaluation.headline
    # Over all trials only, the counts stand below the table once.
    conditions = len(evaluation.results) > len(evaluation.overall) or bool(evaluation.not_computable)
    by = ("condition", number("target"), number("non-target")) if conditions else ()
    rates = map(number, ("EER % [interval]", "at threshold", "hull EER %", "minDCF [interval]"))
    heading = title or evaluation.model or "scores"
    shown = whole_table(number("dim"), *by, *rates, title=heading, labels=evaluation.labels)
    for row in evaluation.results:
        cost = f"{row.min_dcf.value:.4f} {interval_in_words(*row.min_dcf.ends, 4)}"
        place = [row.condition, str(row.n_target), str(row.n_nontarget)] if conditions else []
        equal = [percent_interval(row), show_score(row.eer_threshold), percent(row.eer_rocch)]
        values = ["-" if row.dim is None else str(row.dim), *place, *equal, cost]
        shown.add_row(*values, style="bold" if row is headline else "")
    for empty in evaluation.not_computable:
        place = ["-" if empty.dim is None else str(empty.dim), empty.condition]
        counts = [str(empty.n_target), str(empty.n_nontarget)]
        shown.add_row(*place, *counts, "not computable", "", "", "", style="dim")
    console().print(shown)
    for reason in dict.fromkeys(empty.reason for empty in evaluation.not_computable):
        places = dict.fromkeys(empty.condition for empty in evaluation.not_computable if empty.reason == reason)
        say(f"not computable: {', '.join(places)}: {reason}", style="dim")
    say(
        f"Headline: EER {percent(headline.eer.value, 3)} %, {headline.min_dcf.name} {headline.min_dcf.value:.4f}; "
        "the EER by linear interpolation, ties merged, largest dimension, all trials."
    )
    say(
        f"{headline.n_target} target and {headline.n_nontarget} non-target trials of "
        f"{evaluation.trials_source}, sha256 {evaluation.trials_sha256}"
    )
    say(f"Interval: {headline.interval}")
    further = ", ".join(map(further_in_words, [row for row in evaluation.further if row.dim == headline.dim]))
    say(f"Also, with intervals: {further}")
    say_notes(evaluation.notes)


def _print_steps(found: Evaluation, *, calibration: Path | None) -> None:
    """Costs before and after the calibration, and what stored thresholds do here."""
    from nestvox.cli.calibrate import print_costs
    from nestvox.cli.threshold import print_uses

    if found.calibrated_by is not None:
        print_costs(
            {"before": found.llr_cost_before, "after": found.llr_cost_after},
            title=f"calibrated by {calibration}",
            p_target=found.headline.p_target,
            labels=found.labels,
        )
        for row in found.overall:
            say(f"{show_dim(row.dim, unit='dimensions')}: EER at an LLR of {row.eer_threshold:+.3f} nats", style="dim")
    if found.thresholds:
        print_uses(found.thresholds)


def _conditions(wanted: Sequence[str], table: UtteranceTable | None, *, with_durations: bool) -> tuple[str, ...]:
    """What to split by; a report has a table by duration wherever the durations are known."""
    from nestvox.scoring.conditions import DURATION

    known = table is not None and "duration_s" in table.frame.columns
    return tuple(dict.fromkeys([*wanted, *([DURATION] if with_durations and known else [])]))


def _check_call(
    scores: Path | None,
    store: Path | None,
    model: str | None,
    dims: str | None,
    baseline: list[str] | None,
    *,
    skip_missing: bool,
    llr: bool,
    calibration: Path | None,
) -> None:
    given = [name for name, value in (("--scores", scores), ("--store", store), ("--model", model)) if value]
    if len(given) != 1:
        raise NestvoxError(f"give exactly one of --scores, --store and --model, got {' and '.join(given) or 'none'}")
    if scores is not None and (dims or baseline):
        raise NestvoxError(
            f"{'--dims' if dims else '--baseline'} means nothing with --scores: scores have no dimensions"
        )
    if scores is not None and skip_missing:
        raise NestvoxError("--skip-missing means nothing with --scores: evaluate the list that was scored")
    if scores is None and llr:
        raise NestvoxError("--llr is about --scores: a store or a model is scored by cosine")
    if llr and calibration is not None:
        raise NestvoxError("--llr says that the scores are calibrated already: leave out --calibration")


def _baselines(given: list[str] | None, table: UtteranceTable | None) -> dict[str, Path | None]:
    """The systems beside, by name: a store, or None for a model of that name."""
    found: dict[str, Path | None] = {}
    for text in given or []:
        name, stored, folder = text.partition("=")
        if not name or (stored and not folder):
            raise NestvoxError(f"--baseline must be the name of a model or NAME=STORE, got {text!r}")
        if not stored and table is None:
            raise NestvoxError(
                f"--baseline {text}: a model needs --table, which says where the audio is, and a store is NAME=STORE"
            )
        if name in found:
            raise NestvoxError(f"--baseline {name} is given twice")
        found[name] = Path(folder) if stored else None
    return found
