"""`nestvox train`: a recipe becomes a model folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import complain, console, say, tell, whole_table
from nestvox.errors import NestvoxError

if TYPE_CHECKING:
    from nestvox.training.run_log import Watch
    from nestvox.training.train import Trained

_PAGE_EVERY_S = 2.0


_Recipe = Annotated[str | None, typer.Argument(help="Name of a recipe (--list shows them), or a YAML file.")]
_Out = Annotated[Path | None, typer.Option(help="Folder of the run; it gets the model, the log, the recipe.")]
_Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out; it ends as if never interrupted.")
]
_List = Annotated[bool, typer.Option("--list", help="Show those that nestvox brings, and exit.")]


def train(
    recipe: _Recipe = None,
    out: _Out = None,
    set_: options.Overrides = None,
    resume: _Resume = False,
    list_: _List = False,
    show: options.Show = False,
) -> None:
    """Train a nested head, or more, as a recipe says, and keep the best weights by EER on development trials.

    The starting point is a candidate too. Under `torchrun --no-python nestvox train ...` several processes share the
    work.
    """
    _by_recipe(recipe, out, set_, None, resume=resume, list_=list_, show=show)


def distil(
    recipe: _Recipe = None,
    out: _Out = None,
    set_: options.Overrides = None,
    resume: _Resume = False,
    list_: _List = False,
    show: options.Show = False,
) -> None:
    """Train a student on what a teacher says: `train` for recipes of kind distil alone."""
    _by_recipe(recipe, out, set_, "distil", resume=resume, list_=list_, show=show)


def _by_recipe(
    recipe: str | None,
    out: Path | None,
    set_: list[str] | None,
    kind: str | None,
    *,
    resume: bool,
    list_: bool,
    show: bool,
) -> None:
    from nestvox.training.recipe.recipe import load_recipe, parse_recipe

    if list_:
        _show_recipes(kind)
        return
    if recipe is None:
        raise NestvoxError(f"give a recipe: a name of `nestvox {kind or 'train'} --list`, or a YAML file")
    from nestvox.cli.progress import progress_bar
    from nestvox.compat.configurations import data_folder, read_configuration
    from nestvox.extras import require

    plan = read_configuration(recipe)
    first = os.environ.get("RANK", "0") == "0"  # of the processes of torchrun; the others wait for it
    if plan is None:
        resolved = load_recipe(recipe, set_ or [])
    else:
        for note in plan.notes if first else ():
            tell(note)
        made = data_folder(Path("run") if out is None else out)
        resolved = parse_recipe(plan.recipe_of(made), recipe, set_ or [], adapt=True)
    if kind not in (None, resolved.kind):
        raise NestvoxError(f"{recipe} is of kind {resolved.kind}, and no {kind}lation; `nestvox train` runs every kind")
    if show:
        for line in resolved.to_yaml().splitlines():
            say(line)
        return
    if out is None:
        raise NestvoxError("--out is missing: the folder of the run")
    require("torch", extra="torch", purpose="training")
    from nestvox.training.train import refuse_what_is_not_here
    from nestvox.training.train import train as run

    if plan is not None and not (resume and plan.data_there(made)) and first:
        refuse_what_is_not_here(resolved)  # before hours of opening files
        with progress_bar("opening files", "files") as progress:
            plan.prepare_data(made, tell=tell, progress=progress)
    trained = run(resolved, out, resume=resume, bars=progress_bar, watch=_watch(out, resolved.run.name or ""))
    if trained is not None:
        _show(trained)


def _show_recipes(kind: str | None) -> None:
    from nestvox.training.recipe.recipe import load_recipe, shipped_recipes

    for name, about in shipped_recipes().items():
        if kind in (None, load_recipe(name).kind):
            say(f"{name:<14} {about}")


def _watch(out: Path, name: str) -> Watch:
    """Return what tells of a run on standard error, and keeps its page up to date."""
    import time

    from nestvox.report.run_page import write_run_page
    from nestvox.training.run_log import EpochReport, Watch

    class Teller(Watch):
        def warn(self, text: str) -> None:
            complain(text, kind="warning")

        written_at = float("-inf")

        def epoch(self, report: EpochReport) -> None:
            tell(report.words)
            if time.monotonic() - self.written_at > _PAGE_EVERY_S:  # a page holds the whole log
                write_run_page(out, name=name, left_s=report.left_s)
                self.written_at = time.monotonic()

    return Teller()


def _show(trained: Trained) -> None:
    from nestvox.evaluation.results import interval_in_words, percent
    from nestvox.report.run_page import write_run_page

    shown = whole_table(
        numbers=("dim", "EER % cut", "EER % at start", "EER % kept [interval]"),
        title=trained.model.name,
        labels=trained.labels,
    )
    for rate in trained.rates:
        cut = "-" if rate.truncated is None else f"{100 * rate.truncated:.2f}"
        low, high = rate.best.ends
        kept = f"{percent(rate.best.value)} {interval_in_words(100 * low, 100 * high, 2)}"
        shown.add_row(str(rate.dim), cut, f"{100 * rate.start:.2f}", kept)
    console().print(shown)
    say(f"kept: {trained.kept}")
    trials = trained.trials
    say(
        f"{trials.n_target} target and {trials.n_nontarget} non-target trials of {trials.source}, sha256 "
        f"{trials.sha256[:12]}, on which the weights were chosen: report on other speakers. "
        "Intervals: 95 %, over speakers."
    )
    say(f"model: {trained.folder / 'model'}")
    say(f"page: {write_run_page(trained.folder)}")
