"""`nestvox probe`: what the frames of an encoder know about the speaker, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import console, number, say, say_notes, text, whole_table
from nestvox.cli.outputs import write_json

if TYPE_CHECKING:
    from nestvox.probing import Ladder


def probe(
    model: Annotated[str, typer.Argument(help="Encoder: model folder, or a name that `nestvox models list` shows.")],
    table: Annotated[Path, typer.Argument(help="Utterance table with speakers and the column split.")],
    trials: Annotated[Path, typer.Option(help="Labelled trials; none of their speakers is fitted or chosen on.")],
    out: Annotated[Path, typer.Option(help="Folder of frames, steps, probe.json and figures; a run goes on there.")],
    layers: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Layers of the steps without a network; default: all.")
    ] = None,
    adapt: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Layers that networks are trained on; default: the best.")
    ] = None,
    rungs: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Of mean, centred, mean+std, whitened, lda, plda, linear, weighted, attentive, transformer, ecapa, "
            "nested, distilled; default: all.",
        ),
    ] = None,
    controls: Annotated[
        str | None,
        typer.Option(
            "--control", metavar="A,B,...", help="Held beside it: log-mel, random-lyra, random-mimi, or models."
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Whose embeddings the step distilled learns, e.g. campplus.")
    ] = None,
    leaky: Annotated[
        bool, typer.Option("--leaky", help="Also fit the linear probe on the trials' utterances, labelled leaky.")
    ] = False,
    fit_split: Annotated[str, typer.Option(metavar="SPLIT", help="Of the speakers that all is fitted on.")] = "train",
    choice_split: Annotated[
        str | None,
        typer.Option(metavar="SPLIT", help="Of those that choices are made on; default: dev, else a tenth."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Of every network.")] = 12,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    offline: options.Offline = False,
    json_out: options.Json = None,
) -> None:
    """Measure what frozen frames know about the speaker: a ladder of probes, each with its interval.

    Frames are computed once and kept; every step that is done is kept too, and a run that was stopped goes on. The
    verdict is that of the step that is best on the speakers of choice: below 15 % an adapter is straightforward, below
    20 % viable, above 30 % a dedicated speaker encoder is needed, and about 50 % know nothing.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.probing.controls import control
    from nestvox.probing.ladder import Probing
    from nestvox.probing.ladder import probe as run
    from nestvox.probing.learning import Budget
    from nestvox.report.ladder_figure import write_ladder

    asked = Probing(
        layers=_names(layers),
        adapt=_names(adapt),
        rungs=_names(rungs),
        leaky=leaky,
        fit_split=fit_split,
        choice_split=choice_split,
        budget=Budget(epochs=epochs, seed=seed),
    )
    load = options.Running(device, backend, None, offline).load
    own = options.Running(device, backend, weights, offline).load
    found = run(
        control(model, load=own),
        options.read_table(table),
        trials,
        out,
        probing=asked,
        controls=[control(name, load=load) for name in _names(controls) or ()],
        teacher=None if teacher is None else load(teacher),
        bars=progress_bar,
    )
    _print(found)
    write_ladder(found, out)
    write_json(json_out, found.to_dict())


def _names(given: str | None) -> list[str] | None:
    return None if given is None else [name.strip() for name in given.split(",") if name.strip()]


def _print(found: Ladder) -> None:
    from nestvox.evaluation.results import interval_in_words, percent

    columns = ("dim", "EER % [interval]", "gap", "choice EER %", "accuracy %", "parameters")
    shown = whole_table(text("frames"), text("rung"), *map(number, columns), title=f"ladder of {found.source}")
    for rung in found.rungs:
        low, high = rung.eer.ends
        shown.add_row(
            f"{rung.source} {rung.layer}",
            rung.title,
            "-" if rung.dim is None else str(rung.dim),
            f"{percent(rung.eer.value)} {interval_in_words(100 * low, 100 * high, 2)}",
            f"{rung.mean_target - rung.mean_nontarget:.3f}",
            "-" if rung.choice_eer is None else percent(rung.choice_eer),
            "-" if rung.accuracy is None else f"{100 * rung.accuracy:.1f}",
            f"{rung.parameters:,}",
        )
    console().print(shown)
    first = found.rungs[0].eer.trials
    say(
        f"{first.n_target} target and {first.n_nontarget} non-target trials of {found.trials_source}, "
        f"sha256 {found.trials_sha256}; fitted on {found.fit_on}; chosen on {found.chosen_on}"
    )
    say("gap: mean target less mean non-target score; leaky: fitted on the speakers of the trials, no result")
    say(found.verdict)
    say_notes(found.notes)
