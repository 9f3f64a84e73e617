"""`nestvox ablate`: a declared study becomes runs, comparisons and a Pareto front."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import console, number, say, say_notes, tell, text, whole_table
from nestvox.cli.outputs import write_json
from nestvox.errors import NestvoxError

if TYPE_CHECKING:
    from nestvox.ablation import Ablation, Measured
    from nestvox.ablation.spread import MeanDifference
    from nestvox.ablation.study import Plan


def ablate(
    study: Annotated[
        str | None, typer.Argument(help="Name of a study (--list shows them), or a YAML file: base, factors, seeds.")
    ] = None,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; the same call goes on where one was stopped.")
    ] = None,
    set_: options.Overrides = None,
    p_target: options.PTarget = 0.05,
    c_miss: options.CMiss = 1.0,
    c_fa: options.CFa = 1.0,
    n_bootstrap: options.Bootstrap = 1000,
    n_permutations: options.Permutations = 2000,
    seed: options.Seed = 0,
    confidence: options.Confidence = 0.95,
    list_: Annotated[bool, typer.Option("--list", help="Show those that nestvox brings, and exit.")] = False,
    show: options.Show = False,
    json_out: options.Json = None,
) -> None:
    """Train every arm of a study with every seed, and say what each changed setting is worth.

    An arm changes one setting of the base, unless the study declares a factorial. A base with a teacher also gets the
    runs that say what the teacher is worth: without one, with a shuffled and with a random one.
    """
    from nestvox.ablation.study import load_study, shipped_studies
    from nestvox.cli.progress import progress_bar, told
    from nestvox.evaluation.estimates import Settings
    from nestvox.extras import require

    if list_:
        for name, about in shipped_studies().items():
            say(f"{name:<18} {about}")
        return
    if study is None:
        raise NestvoxError("give a study: a name of `nestvox ablate --list`, or a YAML file")
    settings = Settings(
        p_target=p_target, c_miss=c_miss, c_fa=c_fa, n_bootstrap=n_bootstrap, seed=seed, confidence=confidence
    )
    if show:
        _show_plan(load_study(study, set_ or []))
        return
    if out is None:
        raise NestvoxError("--out is missing: the folder of the study")
    require("torch", extra="torch", purpose="training")
    from nestvox.ablation.ablating import PAGE_FILE
    from nestvox.ablation.ablating import ablate as run

    found = run(
        study,
        out,
        set_=set_ or (),
        settings=settings,
        n_permutations=n_permutations,
        bars=progress_bar,
        announce=tell,
        watch=told(),
    )
    write_json(json_out, found.to_dict())
    print_ablation(found)
    say(f"page: {out / PAGE_FILE}")


def _show_plan(plan: Plan) -> None:
    shown = whole_table("arm", "factor", "changes", title=plan.study.name)
    for arm in plan.arms:
        changes = ", ".join(f"{key}={value}" for key, value in arm.changes.items())
        shown.add_row(arm.name, arm.factor, changes or "-")
    console().print(shown)
    seeds = plan.study.seeds
    say(f"{len(plan.arms)} arms with {len(seeds)} seeds each: {len(plan.runs)} runs")


def print_ablation(ablation: Ablation) -> None:
    """Print what the arms cost, their rates and what they are worth against the base."""
    from nestvox.ablation.page import short_number
    from nestvox.download import readable_size

    costs = ("parameters", "MACs of 3 s", "CPU ms of 3 s", "size")
    shown = whole_table("arm", *map(number, costs), title=ablation.name)
    for arm in ablation.arms:
        counted = [short_number(arm.costs[name]) for name in ("parameters", "macs", "cpu_ms")]
        shown.add_row(arm.name, *counted, readable_size(int(arm.costs["size_bytes"] or 0)))
    console().print(shown)
    _print_rates(ablation.dev, "development trials")
    if ablation.report is not None:
        _print_rates(ablation.report, "report")
    say(f"Method: {ablation.dev.method}")
    say_notes(ablation.notes)


def _points(found: MeanDifference) -> str:
    """In points, with its interval."""
    return f"{100 * found.value:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"


def _print_rates(measured: Measured, title: str) -> None:
    columns = ("dim", "EER % [over seeds]", "minDCF", "less the base [interval]", "largest p")
    shown = whole_table("arm", *map(number, columns), text("verdict"), title=title, labels=measured.labels)
    for row in measured.rows:
        paired = [(one.paired.eer, one.p_eer) for one in row.against_base if one is not None and one.paired is not None]
        shown.add_row(
            row.arm,
            str(row.dim),
            f"{100 * row.eer_mean:.2f} [{100 * min(row.eer):.2f} to {100 * max(row.eer):.2f}]",
            f"{row.min_dcf_mean:.4f}",
            "-" if row.difference is None else _points(row.difference),
            f"{max(p for _, p in paired):.4f}" if paired else "-",
            row.verdict or "-",
        )
    console().print(shown)
    for front in measured.fronts:
        if front.names:
            say(f"Pareto front by {front.cost.replace('_', ' ')} at {measured.dim} dimensions: {', '.join(front.kept)}")
    beaten = "; ".join(f"{arm} by {', '.join(others)}" for arm, others in measured.dominated.items())
    say(f"dominated in errors and every cost: {beaten or 'none'}")
    say(
        f"{measured.n_target} target and {measured.n_nontarget} non-target trials of {measured.trials_source}, "
        f"sha256 {measured.trials_sha256[:12]}"
    )
