"""`nestvox plan`: how many speakers and pairs a study needs."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nestvox.cli import options
from nestvox.cli.console import say
from nestvox.cli.outputs import write_json
from nestvox.cli.plan_enrol import enrol
from nestvox.errors import NestvoxError

if TYPE_CHECKING:
    from nestvox.metrics.plan import SpeakerCorrelation, StudyPlan

_ANY = 1000  # speakers: how many a study needs does not depend on how many it has

app = typer.Typer(
    help="How many speakers and pairs a study needs; `plan enrol`: how many enrolment clips are worth having.",
    invoke_without_command=True,
)


@app.callback()
def plan(
    context: typer.Context,
    *,
    eer: Annotated[
        float | None, typer.Option(help="Expected equal error rate of the first system, a fraction.  [required]")
    ] = None,
    difference: Annotated[
        float | None,
        typer.Option(help="Difference to be found, a fraction; below 0: the second is better.  [required]"),
    ] = None,
    speakers: Annotated[
        int | None,
        typer.Option(max=1_000_000_000, help="Speakers that the study can have; default: as many as it needs."),
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option(
            max=1_000_000_000_000, help="Trials that it can have, half of them targets; default: by --per-speaker."
        ),
    ] = None,
    per_speaker: Annotated[
        int, typer.Option(max=1_000_000, help="Target trials a speaker, and as many non-target trials.")
    ] = 20,
    correlation: Annotated[
        float | None, typer.Option(help="Of the two systems' errors; default: of the pilot, else 0.5.")
    ] = None,
    clusters: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET,NONTARGET,PAIR",
            help="Correlation of errors that share a speaker; default: of the pilot, else usual values.",
        ),
    ] = None,
    pilot_trials: Annotated[Path | None, typer.Option(help="Labelled trials of a pilot study.")] = None,
    pilot_scores: Annotated[
        list[Path] | None,
        typer.Option(
            help="Score file or store of the pilot, at its largest dimension; a second gives the systems' correlation."
        ),
    ] = None,
    pilot_table: Annotated[Path | None, typer.Option(help="Utterance table with the pilot's speakers.")] = None,
    power: Annotated[float, typer.Option(help="Probability of finding the difference.")] = 0.8,
    confidence: options.Confidence = 0.95,
    json_out: options.Json = None,
) -> None:
    """Say how many speakers and pairs it takes to find a difference between two systems.

    Trials that share a speaker are not independent; how alike their errors are is assumed from published scores unless
    a pilot study (--pilot-trials and --pilot-scores) or --clusters says it.
    """
    from nestvox.metrics.plan import USUAL, plan_study

    if context.invoked_subcommand is not None:
        return
    if eer is None or difference is None:
        missing = [name for name, value in (("eer", eer), ("difference", difference)) if value is None]
        raise typer.BadParameter(f"missing: {', '.join(f'--{name}' for name in missing)}", context)
    found_clusters, found_correlation, origin = USUAL, 0.5, "usual values; a pilot study would say better"
    if pilot_trials is not None or pilot_scores:
        if pilot_trials is None or not pilot_scores:
            raise NestvoxError("a pilot needs both --pilot-trials and --pilot-scores")
        found_clusters, measured = _pilot(pilot_trials, pilot_scores, pilot_table)
        found_correlation = 0.5 if measured is None else measured
        origin = f"measured on {pilot_trials}"
    if clusters is not None:
        found_clusters, origin = _clusters(clusters), "as given"
    asked: dict[str, Any] = {
        "per_speaker": per_speaker,
        "correlation": found_correlation if correlation is None else correlation,
        "clusters": found_clusters,
        "power": power,
        "confidence": confidence,
    }
    if speakers is None:
        needed = plan_study(eer, difference, _ANY, **asked)
        enough = needed.speakers_needed if pairs is None else max(needed.least_speakers, 3)
        made = plan_study(eer, difference, max(3, enough), pairs=pairs, **asked)
    else:
        made = plan_study(eer, difference, speakers, pairs=pairs, **asked)
    for line in _lines(made, origin):
        say(line)
    write_json(json_out, {**asdict(made), "clusters": made.clusters._asdict()})


app.command("enrol")(enrol)


def _lines(made: StudyPlan, origin: str) -> list[str]:
    from nestvox.metrics.wording import count_in_words

    goal = (
        f"EER {100 * made.eer:g} % against {100 * (made.eer + made.difference):g} %, to be found with probability "
        f"{made.power:g} at {100 * made.confidence:g} % confidence"
    )
    if math.isinf(made.pairs):
        with_these = (
            f"{made.speakers:,} speakers: no number of pairs is enough; it takes at least "
            f"{made.least_speakers:,} speakers, however many pairs"
        )
    else:
        with_these = f"{made.speakers:,} speakers: {count_in_words(made.pairs)} pairs, half of them targets"
    needed = (
        f"{made.per_speaker} target and {made.per_speaker} non-target trials a speaker: "
        f"{count_in_words(made.speakers_needed)} speakers "
        f"({count_in_words(2 * made.speakers_needed * made.per_speaker)} pairs)"
    )
    seen = (
        f"no difference up to an EER of {50 if made.difference > 0 else 0} % would be found"
        if math.isnan(made.smallest)
        else f"the smallest difference found is {100 * made.smallest:.2g} points"
    )
    small = (
        f"{made.speakers:,} speakers and {made.pairs_given:,} pairs: {seen}; standard error of the difference asked "
        f"{100 * made.standard_error:.2g} points"
    )
    effects = (
        f"design effect there: {made.design_effect[0]:.1f} for targets, {made.design_effect[1]:.1f} for non-targets "
        f"(that many times more trials than independent ones)"
    )
    target, nontarget, pair = made.clusters
    assumed = (
        f"correlation of errors: {target:.2f} of targets of one speaker, {nontarget:.3f} of non-targets that share "
        f"one, {pair:.2f} of the same two ({origin}); {made.correlation:.2f} between the two systems"
    )
    return [goal, with_these, needed, small, effects, assumed]


def _clusters(text: str) -> SpeakerCorrelation:
    from nestvox.metrics.plan import SpeakerCorrelation

    try:
        target, nontarget, pair = (float(part) for part in text.split(","))
    except ValueError as error:
        raise NestvoxError(f"--clusters must be three numbers like 0.25,0.05,0.7; got {text!r}") from error
    return SpeakerCorrelation(target, nontarget, pair)


def _pilot(trials: Path, scores: list[Path], table: Path | None) -> tuple[SpeakerCorrelation, float | None]:
    from nestvox.corpora.trials import read_trials
    from nestvox.corpora.utterances import read_utterances
    from nestvox.metrics.plan import SpeakerCorrelation, speaker_correlation, system_correlation
    from nestvox.scoring.refusals import check_trials
    from nestvox.scoring.sources import known
    from nestvox.scoring.speakers import trial_speakers

    if len(scores) > 2:
        raise NestvoxError(f"a pilot has one or two score files or stores, got {len(scores)}")
    listed = read_trials(trials)
    targets = check_trials(listed)
    for path in scores:
        if not path.exists():
            raise NestvoxError(f"{path} is not there: give score files or stores")
    systems = [known(path, listed, name=str(path)).score() for path in scores]
    speakers = trial_speakers(listed, systems, table=None if table is None else read_utterances(table))
    if not speakers.known:
        raise NestvoxError("the pilot's trials do not say who speaks: give --pilot-table with a speaker column")
    sides = speakers.enrol, speakers.test
    first, *second = [list(system.scores.values())[-1] for system in systems]
    # Errors of a worse system are more alike; of two systems the mean predicts their difference best.
    each = [speaker_correlation(values, targets, *sides) for values in (first, *second)]
    return (
        SpeakerCorrelation(*(sum(values) / len(each) for values in zip(*each, strict=True))),
        system_correlation(first, second[0], targets, *sides) if second else None,
    )
