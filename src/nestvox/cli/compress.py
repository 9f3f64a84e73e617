"""`nestvox compress`: a model in smaller forms, measured beside the original."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import console, number, say, say_notes, whole_table
from nestvox.cli.outputs import write_json

if TYPE_CHECKING:
    from nestvox.compression import Compression, FormRates


def compress(
    model: Annotated[str, typer.Argument(help="Model folder, or a name that `nestvox models list` shows.")],
    out: Annotated[Path, typer.Option(help="Folder in which every form becomes a model folder.")],
    forms: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Of float16, int4, int8-dynamic, int8-static, sparse, pruned; default: all that the model has.",
        ),
    ] = None,
    trials: Annotated[
        Path | None, typer.Option(help="Labelled trials to measure error rates on; needs --table.")
    ] = None,
    table: options.Table = None,
    calibrate_on: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE",
            help="What int8-static is calibrated on; default: rows of --table in train.",
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="MODEL|STORE", help="Show how far each form is from this one.")
    ] = None,
    dims: options.Dims = None,
    p_target: options.PTarget = 0.05,
    c_miss: options.CMiss = 1.0,
    c_fa: options.CFa = 1.0,
    n_bootstrap: options.Bootstrap = 1000,
    n_permutations: Annotated[
        int, typer.Option("--permutations", max=1_000_000, help="Rounds of the permutation, by speaker.")
    ] = 2000,
    seed: options.Seed = 0,
    allow_overlap: options.AllowOverlap = False,
    redistil: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Of kind distil: sparse and pruned learn again from the model."),
    ] = None,
    set_: options.Overrides = None,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    offline: options.Offline = False,
    json_out: options.Json = None,
) -> None:
    """Write a model in fewer bits or with fewer weights, and measure what each form is worth.

    Every form is a model folder that loads, embeds and verifies like any other. With trials, each has its EER with an
    interval, its paired difference to the original and, with --teacher, the gap to that; and one is recommended for a
    phone, a browser and a server, by rules that are printed.
    """
    from nestvox.cli.progress import progress_bar, told
    from nestvox.compression.compressing import compress as run
    from nestvox.evaluation.estimates import Settings

    asked = options.parse_dims(dims)
    settings = Settings(p_target=p_target, c_miss=c_miss, c_fa=c_fa, n_bootstrap=n_bootstrap, seed=seed)
    running = options.Running(device, backend, weights, offline)
    found = run(
        running.load(model),
        out,
        forms=None if forms is None else [name.strip() for name in forms.split(",")],
        trials=trials,
        table=table,
        calibrate_on=calibrate_on,
        teacher=teacher,
        dims=asked,
        settings=settings,
        n_permutations=n_permutations,
        allow_overlap=allow_overlap,
        redistil=redistil,
        set_=set_ or (),
        load=options.Running(device, backend, None, offline).load,
        bars=progress_bar,
        watch=None if redistil is None else told(),
    )
    _print(found)
    write_json(json_out, found.to_dict())


def _print(found: Compression) -> None:
    from nestvox.compression.table import KEEPS
    from nestvox.download import readable_size

    say((found.model, "bold"), f"  {found.machine}")
    columns = ("weights", "not zero %", "on disk", "smaller", "zipped", "smaller", "ms a clip")
    shown = whole_table("form", *map(number, columns), title=f"forms; clips of {found.clip_s:g} s, one thread")
    for row in found.forms:
        share = "-" if not row.parameters or row.nonzero is None else f"{100 * row.nonzero / row.parameters:.1f}"
        shown.add_row(
            row.form,
            "-" if row.parameters is None else f"{row.parameters:,}",
            share,
            readable_size(row.size_bytes),
            f"{row.ratio:.2f} x",
            readable_size(row.zipped_bytes),
            f"{row.zipped_ratio:.2f} x",
            f"{row.clip_ms:.1f}",
        )
    console().print(shown)
    for row in found.forms[1:]:
        say(f"  {row.form:16} {row.what}")
    for name, reason in found.left_out.items():
        say(f"not made: {name}: {reason}")
    if found.recommendations:
        _print_rates(found)
        say(f"Rules: {KEEPS}.")
        for one in found.recommendations:
            say((f"{one.platform:8}", "bold"), f" {one.form}: {one.why}. Rule: {one.rule}.")
    else:
        say("no error rates, and so no recommendation: give --trials and --table")
    say_notes(found.notes)


def _print_rates(found: Compression) -> None:
    columns = ["dim", "EER % [interval]", "difference, points [interval]", "p"]
    if found.teacher is not None:
        columns.append(f"gap to {found.teacher}")
    shown = whole_table("form", *map(number, columns), "keeps", title="error rates", labels=found.labels)
    for row in found.forms:
        for rates in row.rates:
            cells = _cells(rates, original=row is found.forms[0])
            gap = [] if rates.gap is None else [f"{100 * rates.gap:+.2f}"]
            last = rates is row.rates[-1] and row is not found.forms[0]
            shown.add_row(row.form, str(rates.dim), *cells, *gap, ("yes" if row.keeps else "no") if last else "")
    console().print(shown)
    first = found.forms[0].rates[0]
    say(f"{first.n_target} target and {first.n_nontarget} non-target trials, sha256 {first.trials_sha256}")


def _cells(rates: FormRates, *, original: bool) -> tuple[str, str, str]:
    from nestvox.evaluation.results import interval_in_words, percent

    eer = f"{percent(rates.eer)} {interval_in_words(100 * rates.eer_low, 100 * rates.eer_high, 2)}"
    if original:
        return eer, "", ""
    interval = interval_in_words(100 * rates.difference_low, 100 * rates.difference_high, 2)
    return eer, f"{100 * rates.difference:+.2f} {interval}", f"{rates.p_value:.4f}"
