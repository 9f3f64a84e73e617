"""`nestvox threshold`: the score that decides, for a model, a dimension, a domain and an operating point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nestvox.cli import options
from nestvox.cli.console import console, number, say, say_notes, show_dim, show_score, whole_table
from nestvox.cli.outputs import write_json
from nestvox.errors import NestvoxError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nestvox.evaluation.set_threshold import ThresholdsSet, ThresholdUse
    from nestvox.metrics import Estimate
    from nestvox.metrics.thresholds import DecisionRule
    from nestvox.model.threshold import DurationClass, Threshold


def threshold(
    *,
    trials: options.Trials,
    scores: options.Scores = None,
    store: options.Store = None,
    model: Annotated[str | None, options.MODEL] = None,
    table: options.Table = None,
    dims: options.Dims = None,
    far: Annotated[float | None, typer.Option(help="Accept at most this share of the non-targets.")] = None,
    frr: Annotated[float | None, typer.Option(help="Reject at most this share of the targets.")] = None,
    eer: Annotated[bool, typer.Option("--eer", help="Both error rates equal.")] = False,
    p_target: Annotated[float | None, options.P_TARGET] = None,
    c_miss: Annotated[float | None, options.C_MISS] = None,
    c_fa: Annotated[float | None, options.C_FA] = None,
    domain: options.Domain = None,
    default: Annotated[
        bool, typer.Option("--default", help="It decides in `nestvox verify` where nobody asks for another.")
    ] = False,
    by_duration: Annotated[
        bool, typer.Option("--by-duration", help="Also one for each duration of the shorter recording that allows it.")
    ] = False,
    duration_edges: Annotated[
        str | None, typer.Option(metavar="2,4,...", help="Borders of the durations in seconds; default 2,4,8,16.")
    ] = None,
    score_norm: options.ScoreNorm = None,
    cohort: options.Cohort = None,
    top_k: options.TopK = None,
    calibration: options.Calibration = None,
    n_bootstrap: options.Bootstrap = 1000,
    seed: options.Seed = 0,
    confidence: options.Confidence = 0.95,
    allow_overlap: options.AllowOverlap = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    offline: options.Offline = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it here, beside what a calibration file there holds.")
    ] = None,
    json_out: options.Json = None,
) -> None:
    """Set a threshold, say how sure it is, and keep it with the model.

    Exactly one operating point: --far, --frr, --eer, or costs by --p-target (with --c-miss and --c-fa, 1 by
    default), on labelled pairs of your own domain. The model folder keeps it, or with --out a file of its own. It
    is refused where the trials are too few to say it.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.evaluation.set_threshold import threshold as run
    from nestvox.scoring.pipeline import read_steps

    rule = _rule(far=far, frr=frr, eer=eer, p_target=p_target, c_miss=c_miss, c_fa=c_fa)
    classes = _classes(by_duration=by_duration, edges=duration_edges)
    folder = keeping_folder(model, out)
    found = run(
        options.source(scores, store, model, table),
        trials,
        rule,
        table=table,
        dims=options.parse_dims(dims),
        domain=domain or "",
        default=default,
        classes=classes,
        steps=read_steps(score_norm=score_norm, cohort=cohort, top_k=top_k, calibration=calibration),
        n_bootstrap=n_bootstrap,
        seed=seed,
        confidence=confidence,
        allow_overlap=allow_overlap,
        load=options.Running(device, backend, weights, offline).load,
        bars=progress_bar,
    )
    _print(found)
    keep(folder, out, found.thresholds[0].fingerprint, thresholds=found.thresholds)
    write_json(json_out, found.to_dict())


def print_uses(uses: Sequence[ThresholdUse]) -> None:
    """Print what stored thresholds promise and what they do here; rates in per cent."""
    labels = sorted({label for use in uses for label in use.labels})
    names = ("threshold", "FAR %\nthere", "FAR %\nhere", "FRR %\nthere", "FRR %\nhere", "trials\nhere")
    title = "stored thresholds on these trials"
    shown = whole_table(number("dim"), "set at", *map(number, names), title=title, labels=labels)
    for use in uses:
        stored = use.threshold
        shown.add_row(
            show_dim(stored.dim),
            _place(stored),
            show_score(stored.value),
            f"{100 * stored.p_fa:.2f}",
            _percent(use.p_fa),
            f"{100 * stored.p_miss:.2f}",
            _percent(use.p_miss),
            f"{use.n_target} : {use.n_nontarget}",
        )
    console().print(shown)
    if uses:
        say(f"Interval: {uses[0].interval}")


def _print(found: ThresholdsSet) -> None:

    first = found.thresholds[0]
    title = f"{first.operating_point}{f' for {first.domain}' if first.domain else ''}, {first.space}"
    names = ("threshold [interval]", "FAR % [interval]", "FRR % [interval]", "target : non-target")
    shown = whole_table(number("dim"), "recordings", *map(number, names), title=title, labels=found.labels)
    for made in found.thresholds:
        interval = "no upper end" if made.value_interval is None else ", ".join(map(show_score, made.value_interval))
        cells = (
            show_dim(made.dim),
            "any duration" if made.duration_class is None else str(made.duration_class),
            f"{show_score(made.value)} [{interval}]",
            _percent(made.rates[0]),
            _percent(made.rates[1]),
            f"{made.n_target} : {made.n_nontarget}",
        )
        shown.add_row(*cells)
    console().print(shown)
    say(f"Trials {first.trials_source}, sha256 {first.trials_sha256}")
    say(f"Interval: {first.interval}")
    for missing in found.not_set:
        place = f"{show_dim(missing.dim, unit='dimensions')}, recordings of {missing.duration_class}"
        say(("not set:", "yellow"), f" {place}: {missing.reason}")
    for made, sentences in zip(found.thresholds, found.warnings, strict=True):
        for sentence in sentences:
            place = "" if made.duration_class is None else f", recordings of {made.duration_class}"
            say(("unsure:", "yellow"), f" {show_dim(made.dim, unit='dimensions')}{place}: {sentence}")
    say_notes(found.notes)


def _place(stored: Threshold) -> str:
    duration = "" if stored.duration_class is None else str(stored.duration_class)
    parts = [stored.operating_point, stored.domain, duration, *(label.upper() for label in stored.labels)]
    return ", ".join(part for part in parts if part)


def _percent(rate: Estimate) -> str:
    from nestvox.evaluation.results import interval_in_words, percent

    ends = "" if rate.low is None or rate.high is None else f" {interval_in_words(100 * rate.low, 100 * rate.high, 2)}"
    return f"{percent(rate.value)}{ends}"


def _rule(
    *,
    far: float | None,
    frr: float | None,
    eer: bool,
    p_target: float | None,
    c_miss: float | None,
    c_fa: float | None,
) -> DecisionRule:
    from nestvox.metrics.thresholds import DecisionRule

    costs = [value is not None for value in (p_target, c_miss, c_fa)]
    given = [name for name, there in (("--far", far), ("--frr", frr), ("--eer", eer or None)) if there is not None]
    given += ["costs"] if any(costs) else []
    if len(given) != 1:
        raise NestvoxError(
            "give exactly one operating point: --far, --frr, --eer, or costs by --p-target (with --c-miss, --c-fa); "
            f"got {' and '.join(given) or 'none'}"
        )
    if far is not None:
        return DecisionRule("far", far)
    if frr is not None:
        return DecisionRule("frr", frr)
    if eer:
        return DecisionRule("eer")
    if p_target is None:
        raise NestvoxError("costs need --p-target: how often the two recordings are of one speaker")
    return DecisionRule(
        "min_dcf", p_target=p_target, c_miss=1.0 if c_miss is None else c_miss, c_fa=1.0 if c_fa is None else c_fa
    )


def _classes(*, by_duration: bool, edges: str | None) -> tuple[DurationClass, ...]:
    from nestvox.model.threshold import duration_classes

    if edges is None:
        return duration_classes() if by_duration else ()
    try:
        return duration_classes([float(part) for part in edges.split(",")])
    except ValueError as error:
        raise NestvoxError(
            f"--duration-edges must be seconds with commas between, like 2,4,8; got {edges!r}"
        ) from error


def keeping_folder(model: str | None, out: Path | None) -> Path | None:
    """The model folder that keeps what is made, or None where it goes to a file of its own only.

    Raises:
        NestvoxError: there is no place for it, or what is at `out` is no calibration file.
    """
    from nestvox.model.calibration import read_calibration

    if out is not None and out.is_file():
        read_calibration(out)
    folder = Path(model) if model is not None and (Path(model) / "config.json").is_file() else None
    if folder is None and out is None:
        raise NestvoxError("give --out FILE, or a model folder with --model, for what is made to be kept in")
    return folder


def keep(folder: Path | None, out: Path | None, fingerprint: str, told: str = "", **made: Any) -> None:
    """Add what was made to the model or the file, and say where."""
    from nestvox.model.calibration import add_to_file, store_in_model

    if folder is not None:
        store_in_model(folder, **made)
        say(f"Stored in {folder}{told}")
    if out is not None:
        add_to_file(out, fingerprint, **made)
        say(f"Written to {out}{told}")
