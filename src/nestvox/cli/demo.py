"""`nestvox demo`: a frozen encoder becomes a nested model on real speech, measured, saved and used."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import console, number, say, whole_table
from nestvox.errors import DownloadError, ModelError, NestvoxError, TrialsError

if TYPE_CHECKING:
    from nestvox.corpora.trials import Trials
    from nestvox.corpora.utterances import UtteranceTable
    from nestvox.evaluation import Evaluation
    from nestvox.extraction.store.store import EmbeddingStore
    from nestvox.model.speaker_model import SpeakerModel
    from nestvox.training.tasks.rotation import NestedFit

_MADE_OF = "made-of.txt"
_COUNTED = {"n_vectors": "vectors", "n_speakers": "speakers"}


def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of speaker folders, or with utterances.tsv and perhaps trials_dev.txt and trials_test.txt."
        ),
    ] = None,
    model: Annotated[str | None, options.MODEL] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where model, stores and report go; demo-output, or beside it if that is of other data."),
    ] = None,
    bootstrap: options.Bootstrap = 1000,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    offline: options.Offline = False,
) -> None:
    """Turn a pretrained encoder into a nested one and show what every dimension is worth.

    Without --data it takes LibriSpeech dev-clean (downloaded, 338 MB) and, where that cannot be had, speech synthesised
    by espeak-ng, with every number labelled synthetic. Run again, it reuses what is there.
    Without --model the best encoder at hand is taken, campplus or else ge2e, and named; else the network in the box.
    """
    from nestvox.atomic import write_text
    from nestvox.cli.progress import progress_bar
    from nestvox.extraction.embed import run_embedding
    from nestvox.report.page import write_html, write_json
    from nestvox.training.tasks.rotation import nest_encoder

    began = time.perf_counter()
    encoder = _encoder(model, options.Running(device, backend, weights, offline))
    if encoder.head is not None:
        raise ModelError(f"{model} has a head already; the demo starts from an encoder")
    out, made_of = _place(out, data, model or encoder.name)
    table, trials = _speech(data, out, seed=seed, offline=offline)
    write_text(out / _MADE_OF, made_of)
    parts = {split: table.where(split=split) for split in ("train", "dev", "test")}
    for split, part in parts.items():
        say(f"  {split:5} {part.frame['speaker'].n_unique():5} speakers {len(part):6} utterances")
    say(f"encoder {encoder.name}, fingerprint {encoder.fingerprint}, licence {encoder.card.get('licence')}")

    needed = _needed(table, trials)
    if left_out := len(table) - len(needed):
        say(f"  {left_out} of them are neither for training nor in a trial, and are not embedded")
    with _stage("embed (once; every dimension comes from it)"), progress_bar("embed", "utterances") as bar:
        store, run = run_embedding(encoder, needed, out / "store", tap="embedding", progress=bar)
    if run.rows:
        say(f"  {run.rows} utterances, {run.utterances_per_s:.1f}/s, {run.real_time_factor:.4f} x real time")
    else:
        say(f"  reused {len(store)} embeddings from {out / 'store'}")
    with _stage("fit on train, choose on dev"), progress_bar("fit", "candidates") as bar:
        fit = nest_encoder(encoder, store, parts["train"], parts["dev"], trials["dev"], seed=seed, progress=bar)
    _show_dev(fit)
    with _stage("evaluate on test"):
        found = _evaluate(fit, store, trials["test"], table, out, bootstrap=bootstrap, seed=seed)
    nested = found["nested"]
    _show_test(found)
    for name, evaluation in found.items():
        write_json(evaluation, out / "results" / f"{name}.json")
    baselines = {name: evaluation for name, evaluation in found.items() if name != "nested"}
    write_html(nested, out / "report.html", baselines=baselines, name="nested")
    fit.model.card["results"] = nested.card_rows()
    fit.model.save(out / "model")
    write_text(out / "results" / "table.md", _markdown(found))
    _verify_two(fit.model, table, trials["test"], out)
    say()
    for name, place in {"model": "model", "report": "report.html", "results": "results", "store": "store"}.items():
        say(f"{name:8} {out / place}")
    say(f"done in {time.perf_counter() - began:.0f} s")


@contextmanager
def _stage(title: str) -> Iterator[None]:
    say(title, style="bold")
    began = time.perf_counter()
    yield
    say(f"  {time.perf_counter() - began:.1f} s")


def _encoder(model: str | None, running: options.Running) -> SpeakerModel:
    """The model of this name, else the best encoder that can be had, else the network in the box."""
    from nestvox.model.speaker_model import SpeakerModel
    from nestvox.zoo.box import BOX, box_folder

    try:
        return running.load_encoder(model)
    except DownloadError:
        if model is not None or box_folder() is None:
            raise
    boxed = running.load(BOX)  # without its head, which only cuts
    return SpeakerModel(boxed.encoder, name=boxed.name, training_speakers=boxed.training_speakers)


def _place(out: Path | None, data: Path | None, model: str) -> tuple[Path, str]:
    """The folder of this demo: one that is new, or was made of the same data with the same encoder; and of what."""
    from nestvox.gate import read_text

    what = f"{'LibriSpeech or synthesised speech' if data is None else data.resolve()}, with {model}\n"
    usual = Path("demo-output")
    name = re.sub(r"[^\w.-]+", "-", f"{'' if data is None else data.resolve().name}-{Path(model).name}").strip("-")
    beside = [usual, Path(f"{usual}-{name}"), *(Path(f"{usual}-{name}-{number}") for number in range(2, 100))]
    for folder in beside if out is None else [out]:
        made_of = folder / _MADE_OF
        if not made_of.is_file():
            usable = not (folder / "store").exists()  # else of a version that did not say of what
        else:
            held = read_text(made_of, lambda problem, source: NestvoxError(f"{source}: {problem}"), most_bytes=1 << 16)
            usable = held == what
        if usable:
            if folder not in (usual, out):
                say(f"{usual} is of other data or another encoder; this demo goes to {folder}")
            return folder, what
    raise NestvoxError(
        f"{out or usual} holds a demo of other data or another encoder; choose another folder with --out"
    )


def _own_speech(data: Path, out: Path, *, seed: int) -> UtteranceTable:
    """The user's table, or one made of speaker folders; split by speaker where nobody did."""
    from nestvox.cli.prepare import skipped_in_words
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.prepare.folder import prepare_folder
    from nestvox.corpora.split import split_by_speaker
    from nestvox.corpora.utterances import read_utterances, write_utterances

    if (data / "utterances.tsv").is_file():
        table = read_utterances(data / "utterances.tsv")
    else:
        with progress_bar("opening", "files") as bar:
            prepared = prepare_folder(data, progress=bar)
        for line in skipped_in_words(prepared.skipped):
            say(line)
        table = prepared.table
    if "split" in table.frame.columns:
        return table
    table = split_by_speaker(table, seed=seed)
    write_utterances(table, out / "utterances.tsv")
    say(f"split by speaker (seed {seed}): {out / 'utterances.tsv'}")
    return read_utterances(out / "utterances.tsv")


def _speech(data: Path | None, out: Path, *, seed: int, offline: bool) -> tuple[UtteranceTable, dict[str, Trials]]:
    """The corpus of the demo and its trials: the user's, LibriSpeech dev-clean, or synthesised speech."""
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.generate import generate_trials, usual_counts
    from nestvox.corpora.prepare.librispeech import prepare_librispeech_dev_clean
    from nestvox.corpora.prepare.synthetic import prepare_synthetic
    from nestvox.corpora.trials import read_trials

    if data is not None:
        table = _own_speech(data, out, seed=seed)
        folder = data
    else:
        folder = out / "librispeech-dev-clean"
        spoken = out / "synthetic-speech"
        try:
            if (spoken / "utterances.tsv").is_file():
                raise DownloadError(f"an earlier run used {spoken}; delete it to try again")
            with progress_bar("LibriSpeech dev-clean", "bytes") as bar:
                table = prepare_librispeech_dev_clean(folder, offline=offline, progress=bar)
        except DownloadError as error:
            say(("LibriSpeech dev-clean cannot be had:", "yellow"), f" {error}")
            say("Speaking with espeak-ng instead: every number below is SYNTHETIC", style="bold yellow")
            folder = spoken
            with progress_bar("espeak-ng", "speakers") as bar:
                table = prepare_synthetic(folder, progress=bar)
    loud = f" {', '.join(table.labels).upper()}" if table.labels else ""
    say(("speech", "bold"), f" {table.source}", (loud, "bold red"))
    trials = {}
    for split in ("dev", "test"):
        path = folder / f"trials_{split}.txt"
        if path.is_file():
            trials[split] = read_trials(path)
            continue
        part = table.where(split=split)
        try:
            targets, nontargets = (250, 250) if data is None else usual_counts(part)
            trials[split] = generate_trials(part, n_target=targets, n_nontarget=nontargets, seed=42)
        except TrialsError as error:
            raise TrialsError(f"{error}; list your own trials in {path}") from error
    return table, trials


def _needed(table: UtteranceTable, trials: Mapping[str, Trials]) -> UtteranceTable:
    """The utterances for training, and those that a trial names."""
    import polars as pl

    from nestvox.corpora.utterances import UtteranceTable

    frame = table.frame.with_row_index()
    rows = {
        row for listed in trials.values() for side in ("enrol", "test") for row in table.resolve(listed.frame[side])
    }
    frame = frame.filter((pl.col("split") == "train") | pl.col("index").is_in(sorted(rows)))
    return UtteranceTable(frame=frame.drop("index"), source=table.source, root=table.root)


def _evaluate(
    fit: NestedFit,
    store: EmbeddingStore,
    trials: Trials,
    table: UtteranceTable,
    out: Path,
    *,
    bootstrap: int,
    seed: int,
) -> dict[str, Evaluation]:
    """Every method on the same trials; ``nested`` is the model that is kept."""
    import shutil

    from nestvox.cli.progress import progress_bar
    from nestvox.evaluation.estimates import Settings
    from nestvox.evaluation.measure import evaluate
    from nestvox.extraction.rotate import rotate_store

    found = {}
    conditions = tuple(column for column in ("corpus", "sex", "language") if column in table.frame.columns)
    for name, candidate in fit.candidates.items():
        kept = name == "best"
        title = "nested" if kept else name
        if not kept and candidate.rotation is fit.candidates["best"].rotation:
            continue  # it is the kept one, under its own name
        folder = out / "rotated" / title
        shutil.rmtree(folder, ignore_errors=True)  # made in a second; another run may have chosen otherwise
        fingerprint = fit.model.fingerprint if kept else f"{title}-{store.metadata.fingerprint}"
        rotated = rotate_store(
            candidate.rotation,
            store,
            folder,
            fingerprint=fingerprint,
            model=fit.model.name if kept else f"{store.metadata.model} {title}",
            training_speakers=() if name == "truncation" else fit.speakers,
        )
        found[title] = evaluate(
            rotated,
            trials,
            table=table,
            conditions=conditions[:1] if kept else (),
            settings=Settings(n_bootstrap=bootstrap, seed=seed),
            bars=progress_bar,
        )
    return found


def _show_dev(fit: NestedFit) -> None:

    dims = fit.model.dims
    title = "EER % on the development trials (chosen on them: optimistic)"
    shown = whole_table("head", *(number(str(dim)) for dim in dims), title=title)
    for name, candidate in fit.candidates.items():
        if name != "best":
            shown.add_row(name, *(f"{100 * candidate.eers[dim]:.2f}" for dim in dims))
    console().print(shown)
    kept = fit.candidates["best"].rotation
    counts = (f"{kept.details[key]} {name}" for key, name in _COUNTED.items() if key in kept.details)
    first = kept.details.get("centred_from")
    mean = "no mean" if first is None else "less the mean" + (f" behind {first} dimensions" if first else "")
    say(f"kept: {kept.method}, {mean}, fitted on {' of '.join(counts)}")


def _show_test(found: dict[str, Evaluation]) -> None:

    from nestvox.evaluation.results import percent_interval

    nested = found["nested"]
    title = "EER % on the test trials, reported once"
    shown = whole_table(number("dim"), *map(number, found), title=title, labels=nested.labels)
    for row in nested.overall:
        rates = [evaluation.rates(row.dim) for evaluation in found.values()]
        shown.add_row(str(row.dim), *(percent_interval(rate) for rate in rates))
    console().print(shown)
    head = nested.headline
    for name, words in (("truncation", "plain truncation"), ("centred", "truncation less the mean")):
        pairs = [(row.dim, row.eer.value, found[name].rates(row.dim).eer.value) for row in nested.overall[:-1]]
        if worse := [str(dim) for dim, rate, plain in pairs if rate >= plain > 0]:
            say(f"The rotation does not help at {', '.join(worse)} dimensions: {words} is as good.")
    say(
        f"{head.n_target} target and {head.n_nontarget} non-target trials, sha256 {nested.trials_sha256[:16]}; "
        f"in brackets: {head.interval}"
    )


def _markdown(found: dict[str, Evaluation]) -> str:
    from nestvox.evaluation.results import percent_interval

    nested = found["nested"]
    head = nested.headline
    labels = f" ({', '.join(nested.labels)})" if nested.labels else ""
    lines = [f"| dim | {' | '.join(found)} |", f"|---:|{'---:|' * len(found)}"]
    for row in nested.overall:
        cells = " | ".join(percent_interval(evaluation.rates(row.dim)) for evaluation in found.values())
        lines.append(f"| {row.dim} | {cells} |")
    lines += [
        "",
        f"EER in per cent{labels}, {head.n_target} target and {head.n_nontarget} non-target trials "
        f"(sha256 `{nested.trials_sha256[:16]}`); in brackets: {head.interval}.",
        "",
    ]
    return "\n".join(lines)


def _verify_two(model: SpeakerModel, table: UtteranceTable, trials: Trials, out: Path) -> None:
    """Two files of one speaker and two of different ones, at a quarter of the size, with the commands for it."""
    dim = next(d for d in model.dims if 4 * d >= model.embedding_dim)
    say(f"verify two files by name, {dim} of {model.embedding_dim} dimensions", style="bold")
    paths = table.audio_paths
    for target in (True, False):
        pair = trials.frame.filter(trials.frame["target"] == target).row(0, named=True)
        a, b = (paths[i] for i in table.resolve([pair["enrol"], pair["test"]]))
        answer = model.verify(a, b, dim=dim, marks=table.labels)
        verdict = {True: "same speaker", False: "different speakers", None: "no verdict"}[answer.same]
        if answer.threshold is not None and answer.same != target:
            rate = answer.threshold.p_miss if target else answer.threshold.p_fa
            verdict += f", which is wrong, as about {rate:.0%} of such verdicts are"
        marks = "".join(f" --mark {mark}" for mark in table.labels)
        call = shlex.join(["nestvox", "verify", *map(_typed, (a, b)), "--model", str(out / "model"), "--dim", str(dim)])
        say(f"  {call}{marks}")
        say(
            f"    {verdict} (truth: {'same' if target else 'different'}): score {answer.score:+.4f}, "
            + (f"threshold {answer.threshold.value:+.4f}" if answer.threshold else "")
        )


def _typed(path: Path) -> str:
    """The path without steps up where they lead nowhere else."""
    short = Path(os.path.normpath(path))
    return str(short if short.exists() and short.samefile(path) else path)
