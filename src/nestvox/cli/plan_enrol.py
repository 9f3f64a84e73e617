"""`nestvox plan enrol`: how many enrolment clips, and of what length, are worth having."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
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
    from nestvox.model.speaker_model import SpeakerModel


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
    from dataclasses import replace

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
