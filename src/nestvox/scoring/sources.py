"""Whatever can give scores to trials, as one thing: a score file, a store, a model, or scores that exist already.

Notation: N trials.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from nestvox.arrays import as_numbers
from nestvox.audio.condition import doubts
from nestvox.corpora.profiles import NamedRecordings, named_recordings, recordings_of_name, with_bars
from nestvox.corpora.scores import read_scores
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import NestvoxError, ScoresError, TrialsError
from nestvox.extraction.store.metadata import is_store
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.heads.contract import cut_in_words
from nestvox.model.threshold import ScoreSpace
from nestvox.names import key_column
from nestvox.progress import Bars, no_bars
from nestvox.scoring.conditions import recordings_in
from nestvox.scoring.profiles import vectors_of_names
from nestvox.scoring.refusals import align_scores, check_scale, refuse_another_model
from nestvox.scoring.speakers import one_speaker
from nestvox.scoring.system import System, TrialVectors, Unscored, prefix_cosines

_SHOWN = 3

Embed = Callable[[UtteranceTable, Path], EmbeddingStore]
Load = Callable[[str], Any]


class NamedModel(Protocol):
    """What scoring needs of a model; `nestvox.SpeakerModel` is one."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    @property
    def dims(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def training_speakers(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def chosen_on(self) -> tuple[str, ...]:
        """Hashes of the trials that its head was chosen or its thresholds were set on."""

    def check_dim(self, dim: int | None, /) -> int:
        """Refuse a dimension that it does not have."""


def known(
    given: Any,
    trials: Trials,
    *,
    name: str | None = None,
    table: UtteranceTable | None = None,
    dims: Sequence[int] | None = None,
    labels: Sequence[str] = (),
    skip_missing: bool = False,
    bars: Bars = no_bars,
    load: Load | None = None,
) -> Unscored:
    """What was given, ready to score the trials: whatever can be refused is refused before it does.

    Args:
        given: a score file, a store or a model, as a path or a catalogue name or opened; a `System` or `Unscored`; or
            scores as `system_of_scores` takes them.
        trials: none twice.
        name: for tables and sentences; None: its own.
        table: utterances that the trials name; a model needs it, to embed them.
        dims: prefix lengths of embeddings; None: those of the store or model.
        labels: what every number has to carry beside its own.
        skip_missing: leave out trials whose utterances are not there, and say so, instead of refusing.
        bars: shows the embedding.
        load: makes a model of a path or a name; None: `nestvox.load`.

    Raises:
        NestvoxError: a model without a table, or dimensions of scores that have none; or as `known_store`,
            `known_model` and `system_of_scores`.
    """
    dims = sorted(set(dims)) if dims else None
    path = Path(given) if isinstance(given, str | Path) else None
    if path is not None and is_store(path):
        given = EmbeddingStore(path)
    if isinstance(given, EmbeddingStore):
        return known_store(
            name or given.metadata.model, trials, given, dims=dims, labels=labels, skip_missing=skip_missing
        )
    if names_a_model(given) or hasattr(given, "check_dim"):
        if table is None:
            raise NestvoxError(
                f"{given if path is not None else given.name} is neither a score file nor a store; as a model "
                "it needs the utterance table that says where the audio of the trials is (--table)"
            )
        options = {"dims": dims, "labels": labels, "skip_missing": skip_missing}
        return _embedding(given, trials, table, name, bars=bars, load=load, **options)
    if dims or skip_missing:
        raise NestvoxError(
            "scores have no dimensions: leave dims out" if dims else "skip_missing means nothing for scores"
        )
    if isinstance(given, Unscored):
        return given
    if not isinstance(given, System):
        source = None if path is None else str(path)
        size = None if path is None else path.stat().st_size
        scores = given if path is None else read_scores(path)
        called = name or ("the scores" if path is None else path.stem)
        given = system_of_scores(called, trials, scores, source=source, size_bytes=size)
    return known_scores(replace(given, labels=tuple(sorted({*given.labels, *labels}))), trials)


def names_a_model(given: Any) -> bool:
    """Whether it is a path or a name of what has to be loaded and to embed, rather than scores or a store."""
    if not isinstance(given, str | Path) or is_store(given):
        return False
    return not Path(given).is_file() or Path(given).suffix.lower() == ".onnx"


def load_model(name: str) -> Any:
    """`nestvox.load`, which imports torch where it has to."""
    from nestvox.model import loading  # noqa: PLC0415

    return loading.load(name)


def _embedding(
    given: Any,
    trials: Trials,
    table: UtteranceTable,
    name: str | None,
    *,
    bars: Bars,
    load: Load | None,
    **options: Any,
) -> Unscored:
    """A model, loaded where it is a path or a name, that embeds with a bar."""
    from nestvox.extraction.embed import embed_table  # noqa: PLC0415  imports torch

    size = None
    if isinstance(given, str | Path):
        if not options["skip_missing"]:  # before anything is loaded, or fetched
            recordings_in(table, trials)
        size = _size_of_model(given)
        given = (load or load_model)(str(given))
    called = name or given.name

    def embed(part: UtteranceTable, folder: Path) -> EmbeddingStore:
        with bars(f"embedding with {called}", "utterances") as progress:
            return embed_table(given, part, folder, progress=progress)

    return known_model(called, trials, given, table, embed, size_bytes=size, **options)


def _size_of_model(path: str | Path) -> int | None:
    """Bytes of a model folder or file; None: it is a name of the catalogue."""
    path = Path(path)
    files = [path] if path.is_file() else path.iterdir() if path.is_dir() else None
    return None if files is None else sum(file.stat().st_size for file in files if file.is_file())


def system_of_scores(
    name: str,
    trials: Trials,
    scores: pl.DataFrame | ArrayLike,
    *,
    dim: int | None = None,
    model: str | None = None,
    fingerprint: str | None = None,
    training_speakers: Sequence[str] = (),
    source: str | None = None,
    size_bytes: int | None = None,
    labels: Sequence[str] = (),
) -> System:
    """A system whose scores exist already.

    Args:
        name: for tables and sentences.
        trials: without duplicates.
        scores: a frame with ``enrol``, ``test``, ``score`` in any order (more than the trials name is ignored and
            counted) and ``fingerprint`` where the scorer wrote it, or (N,) numbers in the order of the trials.
        dim: prefix length that they were made with, if any.
        model: name of the model that made them.
        fingerprint: of that model; None: what the scorer wrote.
        training_speakers: keys of its training speakers, see `corpora.overlap.speaker_key`.
        source: name of the score file, for messages.
        size_bytes: of the file.
        labels: what every number has to carry.

    Raises:
        ScoresError: non-finite or missing scores, listed.
        FingerprintError: scores of several models, or of another than `fingerprint`.
    """
    n_ignored = 0
    if isinstance(scores, pl.DataFrame):
        values, n_ignored = align_scores(trials, scores, source=source)
        if "fingerprint" in scores.columns and len(scores):
            written = str(scores["fingerprint"][0])
            fingerprint = fingerprint or written
            refuse_another_model(written, fingerprint, source or "the scores")
    else:
        values = as_numbers(scores, "scores", error=lambda problem: ScoresError(problem, source=source))
        if values.shape != (len(trials),):
            raise ScoresError(
                f"{len(trials)} trials need {len(trials)} scores, got shape {values.shape}", source=source
            )
        check_scale(values, source=source)
    notes = (f"{n_ignored} scores that no trial names were ignored ({source or name}).",) if n_ignored else ()
    return System(
        name,
        {dim: values},
        trials.sha256,
        source or name,
        fingerprint=fingerprint,
        labels=tuple(labels),
        training_speakers=tuple(training_speakers),
        size_bytes=size_bytes,
        notes=notes,
        model=model,
        space=ScoreSpace("given"),
        n_ignored_scores=n_ignored,
    )


def known_scores(system: System, trials: Trials) -> Unscored:
    """A system that has its scores already, of these trials, where one is wanted that has not."""
    tap = "" if system.embedded is None else system.embedded.tap
    return Unscored(system, trials, system.dims, tap, lambda: system)


def known_store(
    name: str,
    trials: Trials,
    store: EmbeddingStore,
    *,
    dims: Sequence[int] | None = None,
    labels: Sequence[str] = (),
    skip_missing: bool = False,
) -> Unscored:
    """A system that will score by the cosine of stored embeddings.

    Names in the trials are ``utt_id`` or ``path`` of the store; `dims` are those of the store by default, or its full
    size if it has none. All else as `known` takes it.

    Raises:
        StoreError: utterances that the store does not hold.
    """
    left_out: tuple[str, ...] = ()
    if skip_missing:
        there = {*store.utt_ids, *(path for path in store.paths if path is not None)}
        trials, left_out = without_missing(trials, there)
    named = named_recordings(trials, lambda: _barred(store), lambda names: store.index_of(names.to_list()))
    return _known_store(name, trials, store, named, dims, labels, left_out)


def known_model(
    name: str,
    trials: Trials,
    model: NamedModel,
    table: UtteranceTable,
    embed: Embed,
    *,
    dims: Sequence[int] | None = None,
    size_bytes: int | None = None,
    labels: Sequence[str] = (),
    skip_missing: bool = False,
) -> Unscored:
    """A model that will embed the utterances that the trials name, each once, and score them by cosine.

    Names in the trials are ``utt_id`` or ``path`` of the table. `embed` makes a store in an empty folder from a table,
    e.g. `extraction.embed.embed_table` bound to the model; `size_bytes` are those of the model folder. All else as
    `known` takes it.

    Raises:
        TableError: the table lacks utterances of the trials.
        ModelError: a dimension that the model does not have.
        FingerprintError, StoreError, ScoresError, AudioError: when it scores: `embed` used another model, or as the
            steps raise them.
    """
    left_out: tuple[str, ...] = ()
    if skip_missing:
        trials, left_out = without_missing(trials, {*table.frame["utt_id"], *table.frame["path"]})
    named = recordings_in(table, trials)
    wanted = tuple(dims) if dims else model.dims
    for dim in wanted:
        model.check_dim(dim)
    unscored = System(
        name,
        {},
        trials.sha256,
        name,
        fingerprint=model.fingerprint,
        training_speakers=model.training_speakers,
        chosen_on=model.chosen_on,
        size_bytes=size_bytes,
        model=model.name,
    )

    def score() -> System:
        part = UtteranceTable(frame=table.frame[np.unique(named.rows)], source=table.source, root=table.root)
        # The trials may call an utterance by its path, the store knows it by its name in the table.
        names = table.frame["utt_id"].gather(named.rows).to_list()
        with tempfile.TemporaryDirectory(prefix="nestvox-") as folder:
            store = embed(part, Path(folder) / "store")
            refuse_another_model(store.metadata.fingerprint, model.fingerprint, f"the store of {name}")
            there = named.with_rows(store.index_of(names))
            found = _known_store(name, trials, store, there, wanted, labels, left_out).score()
        return replace(
            unscored,
            scores=found.scores,
            labels=found.labels,
            notes=found.notes,
            embedded=found.embedded,
            speakers=found.speakers,
        )

    return Unscored(unscored, trials, wanted, "nested", score)


def _cut_notes(name: str, dims: Sequence[int], made_for: Sequence[int]) -> tuple[str, ...]:
    """A sentence where embeddings are cut of a model that is not nested; it was made for the dimensions `made_for`."""
    cut = [dim for dim in sorted(dims) if cut_in_words(dim, made_for)]
    if not cut:
        return ()
    shown = ", ".join(map(str, cut))
    return (
        f"{name} is not nested: {shown} of {made_for[-1]} dimensions are plain truncation, what a head has to beat.",
    )


def _known_store(
    name: str,
    trials: Trials,
    store: EmbeddingStore,
    named: NamedRecordings,
    dims: Sequence[int] | None,
    labels: Sequence[str],
    notes: tuple[str, ...],
) -> Unscored:
    """`named`: the rows of the store that the two sides of the trials name."""
    metadata = store.metadata
    made_for = metadata.dims or (metadata.dim,)
    wanted = tuple(sorted(set(dims))) if dims else made_for
    stored, conditions = store.speakers, store.conditions
    spoken = [stored[row] for row in named.rows]
    speakers = None if None in spoken else named.of_sides([str(speaker) for speaker in spoken], one_speaker)

    barred = cache(lambda: _barred(store))

    def path_of(name: str) -> str | None:
        first = recordings_of_name(name, barred())[0]
        path = store.paths[int(store.index_of([first])[0])]
        return None if path == name else path

    found = System(
        name,
        {},
        trials.sha256,
        str(store.path),
        fingerprint=metadata.fingerprint,
        labels=tuple(sorted({*labels, *metadata.labels})),
        training_speakers=metadata.training_speakers,
        size_bytes=sum(shard.size_bytes for shard in metadata.shards),
        speakers=speakers,
        notes=(*notes, *_cut_notes(name, wanted, made_for), *doubts(conditions[row] for row in np.unique(named.rows))),
        model=metadata.model,
        path_of=path_of,
    )

    def score() -> System:
        vectors = store.take(named.rows)
        if named.largest > 1:
            vectors = vectors_of_names(vectors, named.members)
        sides = named.enrol, named.test
        scores = prefix_cosines(vectors, *sides, wanted, names=named.names.to_list())
        return replace(found, scores=dict(scores.items()), embedded=TrialVectors(vectors, *sides, metadata.tap))

    return Unscored(found, trials, wanted, metadata.tap, score)


def _barred(store: EmbeddingStore) -> frozenset[str]:
    """Names of recordings of a store that have a bar in them."""
    return with_bars(*(pl.Series(names, dtype=pl.String) for names in (store.utt_ids, store.paths)))


def without_missing(trials: Trials, names: Collection[str]) -> tuple[Trials, tuple[str, ...]]:
    """Leave out the trials that name an utterance which is not there.

    What remains is another list with another hash, and its source says so: a rate on it is not one on the whole list.

    `names` are what the utterances may be called.

    Returns:
        The remaining trials, and a sentence on what was left out; the list itself and nothing where all is there.

    Raises:
        TrialsError: no trial remains.
    """
    frame, pairs = trials.frame, trials.pairs
    given = pl.Series(list(names), dtype=pl.String)
    barred = with_bars(given)
    parts = [recordings_of_name(name, barred) for name in pairs.names]
    is_there = key_column(pl.Series([part for found in parts for part in found], dtype=pl.String)).is_in(
        key_column(given).implode()
    )
    starts = np.cumsum([0, *map(len, parts)])[:-1]
    of_names = np.logical_and.reduceat(is_there.to_numpy(), starts)
    there = {"enrol": pl.Series(of_names[pairs.enrol]), "test": pl.Series(of_names[pairs.test])}
    kept = there["enrol"] & there["test"]
    n_left_out = len(kept) - int(kept.sum())
    if not n_left_out:
        return trials, ()
    absent = pl.concat([frame["enrol"].filter(~there["enrol"]), frame["test"].filter(~there["test"])])
    absent = absent.unique(maintain_order=True)
    examples = ", ".join(absent.head(_SHOWN))
    if n_left_out == len(kept):
        raise TrialsError(
            f"none of {len(kept)} trials has both of its utterances; {len(absent)} are missing, e.g. {examples}",
            source=trials.source,
        )
    counted = f"{n_left_out:,} of {len(kept):,} trials"
    note = (
        f"{counted} were left out because {len(absent):,} utterances are missing, e.g. {examples}: "
        f"these are not the rates of the whole list (sha256 {trials.sha256})."
    )
    return Trials(frame.filter(kept), f"{trials.source} without {counted}"), (note,)
