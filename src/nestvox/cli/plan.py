"""`nestvox plan`: how many speakers and pairs a study needs, and how many enrolment clips are worth having."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nestvox.cli import options
from nestvox.cli.console import console, number, say, say_notes, whole_table
from nestvox.cli.outputs import write_json
from nestvox.errors import FingerprintError, NestvoxError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nestvox.corpora.utterances import UtteranceTable
    from nestvox.evaluation.enrolment import EnrolmentPlan
    from nestvox.metrics.plan import SpeakerCorrelation, StudyPlan
    from nestvox.model.speaker_model import SpeakerModel

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


@app.command()
def enrol(
    *,
    table: Annotated[Path, options.TABLE],
    store: options.Store = None,
    model: Annotated[str | None, options.MODEL] = None,
    split: options.Split = None,
    dim: options.Dim = None,
    clips: Annotated[str, typer.Option(metavar="1,2,...", help="Numbers of enrolment clips.")] = "1,2,3,5,10",
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,...",
            help="Seconds that clips are cut to and embedded again; without: clips by their duration.",
        ),
    ] = None,
    n_divisions: Annotated[
        int, typer.Option("--divisions", min=1, max=100_000, help="How often each speaker's clips are divided.")
    ] = 10,
    n_impostors: Annotated[
        int, typer.Option("--impostors", min=1, max=1_000_000, help="Clips of others that each division meets.")
    ] = 50,
    seed: options.Seed = 0,
    confidence: options.Confidence = 0.95,
    allow_overlap: options.AllowOverlap = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    offline: options.Offline = False,
    json_out: options.Json = None,
) -> None:
    """Measure the equal error rate against the number and the length of enrolment clips, and advise."""
    import numpy as np

    from nestvox.audio.condition import doubts
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.overlap import refuse_overlap
    from nestvox.evaluation.enrolment import plan_enrolment
    from nestvox.model.threshold import duration_classes
    from nestvox.scoring.quality import durations_s

    if store is None and model is None:
        raise NestvoxError("give --store, or --model that embeds the clips")
    if lengths is not None and model is None:
        raise NestvoxError("--lengths cuts clips and embeds them again: give --model too")
    counts, seconds = [int(number) for number in _numbers("--clips", clips, whole=True)], _numbers("--lengths", lengths)
    utterances = options.read_table(table, split)
    rows = np.arange(len(utterances), dtype=np.int64)
    durations = durations_s(utterances, rows)
    loaded = None
    if model is not None and (store is None or seconds):
        loaded = options.Running(device, backend, weights, offline).load(model)
    vectors, labels, keys, heard = _whole_clips(loaded, store, utterances)
    labels += (*refuse_overlap(set(keys), utterances.frame["speaker"], allow=allow_overlap), *utterances.labels)
    crops = {}
    for length in seconds:
        assert loaded is not None
        if length < loaded.min_duration_s:
            raise NestvoxError(f"--lengths {length:g}: the encoder needs {loaded.min_duration_s:.3f} s")
        inside = rows[durations >= length]
        if len(inside):
            middle = _middles(utterances, inside, durations[inside], length)
            crops[length] = inside, _embed(loaded, middle, f"embedding {length:g} s")[0]
    frame = utterances.frame
    with progress_bar("measuring", "rows") as progress:
        found = plan_enrolment(
            vectors,
            frame["speaker"].to_list(),
            dim=dim,
            counts=counts,
            durations_s=durations,
            sessions=frame["session"].to_list() if "session" in frame.columns else None,
            crops=crops,
            classes=() if seconds else duration_classes(),
            n_divisions=n_divisions,
            n_impostors=n_impostors,
            seed=seed,
            confidence=confidence,
            labels=labels,
            progress=progress,
        )
    found = replace(found, notes=(*found.notes, *doubts(heard)))
    _print(found)
    write_json(json_out, found.to_dict())


def _whole_clips(
    model: SpeakerModel | None, store: Path | None, table: UtteranceTable
) -> tuple[NDArray[Any], tuple[str, ...], tuple[str, ...], list[str | None]]:
    """Embeddings of the table's clips, labels, keys of the training speakers, and the conditions of the clips."""
    from nestvox.extraction.store.store import EmbeddingStore

    if store is None:
        assert model is not None
        vectors, heard = _embed(model, table, "embedding")
        return vectors, (), model.training_speakers, heard
    opened = EmbeddingStore(store)
    metadata = opened.metadata
    if model is not None and model.fingerprint != metadata.fingerprint:
        raise FingerprintError(
            f"{store} is of the model {metadata.fingerprint}, {model.name} is {model.fingerprint}; give the store that "
            "this model made, or none"
        )
    rows = opened.index_of(table.frame["utt_id"].to_list())
    heard = [opened.conditions[row] for row in rows]
    return opened.take(rows), metadata.labels, metadata.training_speakers, heard


def _numbers(option: str, text: str | None, *, whole: bool = False) -> Sequence[float]:
    try:
        found = [float(int(part)) if whole else float(part) for part in (text or "").split(",") if part]
    except ValueError as error:
        raise NestvoxError(f"{option} must be numbers with commas between, like 1,2,5; got {text!r}") from error
    if any(number <= 0 for number in found):
        raise NestvoxError(f"{option} must be above 0, got {text}")
    return found


def _middles(
    table: UtteranceTable, rows: NDArray[np.int64], durations_s: NDArray[np.float64], length: float
) -> UtteranceTable:
    """The middle seconds of these clips as utterances of their own."""
    import polars as pl

    from nestvox.corpora.utterances import UtteranceTable

    frame = table.frame[rows]
    begins = frame["start_s"].fill_null(0.0) if "start_s" in frame.columns else pl.zeros(len(frame), eager=True)
    cut = frame.with_columns(
        pl.Series("start_s", begins.to_numpy() + (durations_s - length) / 2),
        pl.Series("duration_s", [length] * len(frame)),
    )
    return UtteranceTable(frame=cut, source=table.source, root=table.root)


def _embed(model: SpeakerModel, table: UtteranceTable, what: str) -> tuple[NDArray[Any], list[str | None]]:
    from nestvox.cli.progress import progress_bar
    from nestvox.extraction.embed import embed_table

    with tempfile.TemporaryDirectory(prefix="nestvox-") as folder, progress_bar(what, "utterances") as progress:
        store = embed_table(model, table, Path(folder) / "store", progress=progress)
        return store.take(store.index_of(table.frame["utt_id"].to_list())), store.conditions


def _print(found: EnrolmentPlan) -> None:
    from nestvox.evaluation.results import interval_in_words, percent

    names = ("clips", "speakers", "target : non-target", "EER % [interval]", "change in points [interval]")
    title = f"enrolment at {found.dim} dimensions"
    shown = whole_table("clips of", *map(number, names), "against", title=title, labels=found.labels)
    for row in found.rows:
        place = [row.length, str(row.n_clips), str(row.n_speakers)]
        if row.eer is None:
            continue
        change = ""
        if row.change is not None:
            low, high = row.change.ends
            change = f"{100 * row.change.value:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
        low, high = row.eer.ends
        rate = f"{percent(row.eer.value)} {interval_in_words(100 * low, 100 * high, 2)}"
        cells = [*place, f"{row.n_target} : {row.n_nontarget}", rate, change, row.against]
        shown.add_row(*cells)
    console().print(shown)
    for length in dict.fromkeys(row.length for row in found.rows if row.reason):
        first, *more = [row for row in found.rows if row.reason and row.length == length]
        counts = ", ".join(str(row.n_clips) for row in (first, *more))
        say(f"not computable: {length}, {counts} clips: {first.reason}", style="dim")
    for sentence in found.advice:
        say(sentence)
    say(f"Interval: {found.interval}")
    say_notes(found.notes)
