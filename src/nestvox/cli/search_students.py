"""`nestvox search-students`: mixers within a limit of parameters and of time, distilled and compared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import console, number, say, say_notes, tell, text, whole_table
from nestvox.cli.outputs import write_json

if TYPE_CHECKING:
    from nestvox.ablation import StudentSearch


def search_students(
    recipe: Annotated[str, typer.Argument(help="Recipe of kind distil, short: its name, or a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder of the search; the same call goes on where one was stopped.")],
    n_students: Annotated[int, typer.Option("--students", min=1, max=100_000, help="So many are trained.")] = 20,
    max_parameters: Annotated[
        int, typer.Option(min=1, max=1_000_000_000, help="What has more is not trained.")
    ] = 2_000_000,
    max_ms: Annotated[float, typer.Option(help="Nor is what takes longer for 3 s on one thread.")] = 5.0,
    seed: options.Seed = 0,
    set_: options.Overrides = None,
    json_out: options.Json = None,
) -> None:
    """Search the sizes of a mixer for the student that learns the most within a limit of parameters and of time.

    Optuna draws the sizes; what is over a limit is measured and never trained. The teacher is heard once for all.
    """
    from nestvox.ablation import search_students as run
    from nestvox.cli.progress import progress_bar, told

    found = run(
        recipe,
        out,
        n_students=n_students,
        max_parameters=max_parameters,
        max_ms=max_ms,
        seed=seed,
        set_=set_ or (),
        bars=progress_bar,
        announce=tell,
        watch=told(),
    )
    write_json(json_out, found.to_dict())
    _print(found)


def _print(found: StudentSearch) -> None:
    from nestvox.ablation.searching import SPACE
    from nestvox.evaluation.results import interval_in_words, percent

    dims = [rate["dim"] for rate in found.trained[0].rates]
    columns = ("number", "parameters", "CPU ms", "EER % mean", f"EER % at {dims[-1]} [interval]")
    shown = whole_table(
        *map(number, columns), text("size"), title=f"students of {found.teacher}, the best first", labels=found.labels
    )
    for one in found.trained:
        last = one.rates[-1]
        assert one.eer_mean is not None
        interval = interval_in_words(100 * last["eer_low"], 100 * last["eer_high"], 2)
        size = " ".join(f"{key}={one.model[key]}" for key in SPACE)
        shown.add_row(
            str(one.number),
            f"{one.parameters:,}",
            "-" if one.cpu_ms is None else f"{one.cpu_ms:.2f}",
            percent(one.eer_mean),
            f"{percent(last['eer'])} {interval}",
            size,
        )
    console().print(shown)
    outcomes = Counter(one.outcome for one in found.drawn)
    say(f"{len(found.drawn):,} sizes: " + ", ".join(f"{count:,} {name}" for name, count in outcomes.items()))
    say(
        f"{found.trials['n_target']} target and {found.trials['n_nontarget']} non-target trials of "
        f"{found.trials['source']}, sha256 {str(found.trials['sha256'])[:12]}"
    )
    say_notes(found.notes)
