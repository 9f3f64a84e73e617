"""`nestvox compare`: score files, stores or models on the same trials, and what the difference is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import console, number, say, say_notes, show_score, whole_table
from nestvox.cli.outputs import check_figure_format, write_json, write_pages
from nestvox.errors import NestvoxError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nestvox.corpora.utterances import UtteranceTable
    from nestvox.evaluation import Evaluation
    from nestvox.evaluation.comparison import Comparison
    from nestvox.evaluation.estimates import Settings
    from nestvox.model.speaker_model import SpeakerModel


def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C ...]",
            help="Two or more score files, stores, model folders or catalogue names; the others are held against A.",
        ),
    ],
    *,
    trials: options.Trials,
    table: options.Table = None,
    dims: options.Dims = None,
    select_on: Annotated[
        Path | None,
        typer.Option(
            metavar="TRIALS", help="Choose the best system and dimension on these other trials, put it first."
        ),
    ] = None,
    p_target: options.PTarget = 0.05,
    c_miss: options.CMiss = 1.0,
    c_fa: options.CFa = 1.0,
    n_bootstrap: options.Bootstrap = 1000,
    n_permutations: options.Permutations = 2000,
    seed: options.Seed = 0,
    confidence: options.Confidence = 0.95,
    allow_overlap: options.AllowOverlap = False,
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
    """Say whether one system is better than another on the same trials, or how many trials it would take to say.

    Each system is compared with the first, at every dimension that both have, with paired intervals over speakers, a
    permutation by speaker, McNemar's test at the thresholds, and a correction for the number of comparisons.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.utterances import read_utterances
    from nestvox.evaluation.comparing import compare as run
    from nestvox.evaluation.estimates import Settings
    from nestvox.report.comparison_page import comparison_figures, comparison_tables, write_comparison

    check_figure_format(figure_format)
    settings = Settings(
        p_target=p_target, c_miss=c_miss, c_fa=c_fa, n_bootstrap=n_bootstrap, seed=seed, confidence=confidence
    )
    _check_weights(weights, systems)
    if len(systems) < 2:
        raise NestvoxError(f"a comparison needs two or more systems of different names, got {', '.join(systems)}")
    running = options.Running(device, backend, weights, offline)

    def load(name: str) -> SpeakerModel:  # --weights are of a catalogue name
        return (replace(running, weights=None) if Path(name).exists() else running).load(name)

    utterances = None if table is None else read_utterances(table)
    found = run(
        systems[0],
        systems[1],
        trials,
        more=systems[2:],
        table=utterances,
        names=_names(systems),
        dims=options.parse_dims(dims),
        select_on=select_on,
        allow_overlap=allow_overlap,
        settings=settings,
        n_permutations=n_permutations,
        load=load,
        bars=progress_bar,
    )
    print_comparison(found)
    write_json(json_out, found.to_dict())
    if report is not None or csv is not None or figures is not None:
        alone = _each_alone(found, trials, utterances, settings=settings, allow_overlap=allow_overlap)
        write_pages(
            csv,
            figures,
            figure_format,
            report,
            tables=lambda: comparison_tables(found, alone),
            drawings=lambda: comparison_figures(found, alone),
            page=lambda path: write_comparison(found, alone, path),
        )


def print_comparison(comparison: Comparison) -> None:
    """Print the systems, their differences and the verdicts; rates in per cent."""
    from nestvox.download import readable_size

    cost = f"minDCF({comparison.p_target:g})"
    names = ("dim", "EER %", "at threshold", "accuracy %", cost, "mean norm", "size")
    shown = whole_table("system", *map(number, names), title="systems", labels=comparison.labels)
    for row in comparison.systems:
        values = (
            row.name,
            "-" if row.dim is None else str(row.dim),
            f"{100 * row.eer:.2f}",
            show_score(row.eer_threshold),
            f"{100 * row.accuracy:.2f}",
            f"{row.min_dcf:.4f}",
            "-" if row.mean_norm is None else f"{row.mean_norm:.3f}",
            "-" if row.size_bytes is None else readable_size(row.size_bytes),
        )
        shown.add_row(*values)
    console().print(shown)
    differences = ("dim", "EER points [interval]", "p", "minDCF [interval]", "p", "only A : B right", "McNemar p")
    shown = whole_table("system", *map(number, differences), title="differences", labels=comparison.labels)
    for pair in comparison.rows:
        dim = _dims(pair.dim_a, pair.dim_b)
        if pair.paired is None:
            shown.add_row(pair.b, dim, "identical order")
            continue
        equal, costs, changed = pair.paired.eer, pair.paired.min_dcf, pair.paired.at_eer
        shown.add_row(
            pair.b,
            dim,
            f"{100 * equal.difference:+.2f} [{100 * equal.low:.2f}, {100 * equal.high:.2f}]",
            f"{pair.p_eer:.4f}",
            f"{costs.difference:+.4f} [{costs.low:.4f}, {costs.high:.4f}]",
            f"{pair.p_min_dcf:.4f}",
            f"{changed.only_a} : {changed.only_b}",
            f"{changed.p_mid:.2g}",
        )
    console().print(shown)
    changes = ("dim", "EER relative", "accuracy points", "EER threshold", "mean norm", "size")
    shown = whole_table("system", *map(number, changes), title="changes", labels=comparison.labels)
    for pair in comparison.rows:
        size = pair.size_change_bytes
        shown.add_row(
            pair.b,
            _dims(pair.dim_a, pair.dim_b),
            _relative(pair.relative_change),
            f"{100 * pair.accuracy_change:+.2f}",
            f"{'+' if pair.threshold_change >= 0 else ''}{show_score(pair.threshold_change)}",
            "-" if pair.norm_change is None else f"{pair.norm_change:+.3f}",
            "-" if size is None else f"{'-' if size < 0 else '+'}{readable_size(abs(size))}",
        )
    console().print(shown)
    for mean in comparison.means:
        say(
            f"mean over {', '.join(map(str, mean.dims))} dimensions: EER {100 * mean.eer_a:.2f} % ({mean.a}), "
            f"{100 * mean.eer_b:.2f} % ({mean.b}): {100 * (mean.eer_b - mean.eer_a):+.2f} points, "
            f"{_relative(mean.relative_change)}; minDCF {mean.min_dcf_a:.4f}, {mean.min_dcf_b:.4f}"
        )
    for pair in comparison.rows:
        at = "" if pair.dim_b is None else f" at {pair.dim_b} dimensions"
        say(f"EER{at}: {pair.verdict}.")
        say(f"minDCF{at}: {pair.verdict_min_dcf}.")
    say(
        f"{comparison.n_target} target and {comparison.n_nontarget} non-target trials of "
        f"{comparison.trials_source}, sha256 {comparison.trials_sha256}"
    )
    say(f"Method: {comparison.method}")
    say("McNemar's test takes trials as independent, which trials that share speakers are not.")
    say_notes(comparison.notes)


def _each_alone(
    comparison: Comparison, trials: Path, table: UtteranceTable | None, *, settings: Settings, allow_overlap: bool
) -> dict[str, Evaluation]:
    """What the report shows of every system by itself."""
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.trials import read_trials
    from nestvox.evaluation.measure import measure
    from nestvox.scoring.pipeline import score_trials
    from nestvox.scoring.sources import known_scores

    found, listed = {}, read_trials(trials)
    with progress_bar("measuring", "rows") as progress:
        for system in comparison.scored:
            scored = score_trials(known_scores(system, listed), table=table, allow_overlap=allow_overlap)
            found[system.name] = measure(scored, settings=settings, progress=progress)
    return found


def _relative(change: float | None) -> str:
    return "-" if change is None else f"{100 * change:+.1f} %"


def _dims(dim_a: int | None, dim_b: int | None) -> str:
    a, b = ("-" if dim is None else str(dim) for dim in (dim_a, dim_b))
    return b if a == b else f"{a} : {b}"


def _names(given: Sequence[str]) -> list[str]:
    """Short names: file or folder names, or all of the paths where two of those are the same."""
    short = [Path(text).stem if Path(text).is_file() else Path(text).name or text for text in given]
    return short if len(set(short)) == len(short) else list(given)


def _check_weights(weights: Path | None, systems: Sequence[str]) -> None:
    """A file of weights belongs to one name of the catalogue.

    Raises:
        NestvoxError: none of the systems is one, or several are.
    """
    names = [system for system in systems if not Path(system).exists()]
    if weights is not None and len(names) != 1:
        raise NestvoxError(
            f"--weights is of one catalogue name, and here are {len(names)}; 'nestvox embed --weights' makes a store "
            "of each"
        )
