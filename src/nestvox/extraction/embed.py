"""From an utterance table to a store: one forward pass a piece, every dimension from it, resumable at any moment.

Memory is bounded by the batch and by what is decoded ahead, not by the table or the longest file: an utterance longer
than `max_duration_s` goes through the network in equal pieces whose vectors are averaged (frames: joined), so that a
recording of four hours needs no more than one of five minutes.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from nestvox.corpora.utterances import table_sha256
from nestvox.errors import StoreError
from nestvox.extraction import ray_engine
from nestvox.extraction.decoding import Decoder
from nestvox.extraction.pace import try_out
from nestvox.extraction.settings import EmbeddingSettings
from nestvox.extraction.shard_job import EmbeddingModel, Network, ShardJob, StoreTap, sources_of
from nestvox.extraction.store.metadata import StoreMetadata, default_shard_rows, is_store, read_metadata
from nestvox.extraction.store.store import EmbeddingStore, StoreWriter, refuse_another_model, writing
from nestvox.progress import Progress, silent
from nestvox.threads import torch_threads

if TYPE_CHECKING:
    from nestvox.corpora.utterances import UtteranceTable

Engine = Literal["local", "ray"]
_ENGINES: tuple[Engine, ...] = get_args(Engine)


@dataclass(frozen=True)
class EmbeddingRun:
    """What one run did; seconds are wall-clock.

    Attributes:
        rows: utterances that this run stored.
        resumed_rows: utterances that were settled before it.
        failed: utterances that the whole store lacks.
        audio_s: seconds of audio that it put through the network.
        trial_s: of `wall_s`, spent on setting up the network and on choosing batch size and threads.
        wall_s: the whole run.
        batch_size, streams, threads, workers: as used; 0 threads: torch's own number, or the model is none of torch's.
        engine: ``local`` or ``ray``.
        tasks: shards that could be made side by side; on Ray as many as the cluster has room for.
    """

    rows: int
    resumed_rows: int
    failed: int
    audio_s: float
    trial_s: float
    wall_s: float
    batch_size: int
    streams: int
    threads: int
    workers: int
    engine: Engine = "local"
    tasks: int = 1

    @property
    def utterances_per_s(self) -> float:
        """Utterances stored in a second."""
        return self.rows / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of audio; below 1 is faster than real time."""
        return self.wall_s / self.audio_s if self.audio_s > 0 else 0.0


def embed_table(
    model: EmbeddingModel,
    table: UtteranceTable,
    out: str | Path,
    *,
    tap: StoreTap = "nested",
    batch_size: int | None = None,
    streams: int | None = None,
    threads: int | None = None,
    workers: int | None = None,
    shard_rows: int | None = None,
    dtype: str = "float32",
    max_duration_s: float = 300.0,
    skip_bad: bool = False,
    engine: Engine = "local",
    ray_address: str | None = None,
    progress: Progress = silent,
) -> EmbeddingStore:
    """Embed every utterance of a table into a store, or go on where an earlier run was stopped.

    A row with `start_s` is the segment from there (of `duration_s`, else to the end), and only that is read; a row
    without is the whole file, and its `duration_s` serves for planning only. Lengths that the table lacks are read
    off the files.

    Args:
        model: a `SpeakerModel`, or anything with the same attributes.
        table: utterances; ids are unique.
        out: folder of the store.
        tap: ``nested`` (every prefix is in it), or an encoder's ``embedding``, ``pooled`` or ``frames``.
        batch_size: most utterances in one forward pass; None: a trial of about two seconds on the first utterances
            decides, and a resumed run keeps what was decided. It changes vectors by rounding only.
        streams: forward passes side by side, for which the model must be free of state; None: by the same trial,
            and 1 where `threads` is given or the model runs on a GPU.
        threads: of each forward pass on a CPU; None: by the same trial. Set back afterwards.
        workers: decoding threads; None: by the same trial.
        shard_rows: utterances of a file of the store; None: by the size of the table.
        dtype: ``float32``, or ``float16`` for half the space (about three significant digits).
        max_duration_s: longer utterances go through the network in equal pieces of at most this, and the pieces'
            vectors are averaged by length (frames: joined).
        skip_bad: record audio that is unreadable, silent or too short, and recordings on which the network fails or
            gives no embedding (another size, NaN, zeros), in the store instead of stopping at the first.
        engine: ``local``: this process does it; ``ray``: the tasks of a Ray cluster do, a shard each (extra ``ray``).
            The same choice of batch size and threads gives the same bytes.
        ray_address: of the cluster; None: what ``RAY_ADDRESS`` says, else a cluster of this machine's own for the run.
        progress: utterances done of all.

    Returns:
        The complete store.

    Raises:
        AudioError: a file cannot be used, and `skip_bad` is off.
        EngineError: no such Ray cluster, or its workers fail.
        FingerprintError: `out` holds vectors of another model.
        MissingExtraError: the engine is ``ray``, which is not installed.
        ModelError: a single utterance does not fit into memory.
        StoreError: `out` was begun for something else, or cannot be written.
    """
    settings = EmbeddingSettings(
        batch_size=batch_size,
        streams=streams,
        threads=threads,
        workers=workers,
        shard_rows=shard_rows,
        dtype=dtype,
        max_duration_s=max_duration_s,
        skip_bad=skip_bad,
    )
    return run_embedding(
        model, table, out, settings, tap=tap, engine=engine, ray_address=ray_address, progress=progress
    )[0]


def run_embedding(
    model: EmbeddingModel,
    table: UtteranceTable,
    out: str | Path,
    settings: EmbeddingSettings | None = None,
    *,
    tap: StoreTap = "nested",
    engine: Engine = "local",
    ray_address: str | None = None,
    progress: Progress = silent,
) -> tuple[EmbeddingStore, EmbeddingRun]:
    """Do what `embed_table` does, and also say what it took."""
    began = time.perf_counter()
    settings = settings or EmbeddingSettings()
    settings.check(model)
    _check_engine(engine, ray_address)
    before = read_metadata(out) if is_store(out) else None
    if before is not None:
        refuse_another_model(out, before, model=model.name, fingerprint=model.fingerprint)
    settings = settings.resumed({} if before is None else before.run)
    with writing(out), closing(Decoder(sources_of(table), model, settings)) as decoder:
        # What was begun for another tap is refused by the writer, at once and by name.
        dim = None if before is None else before.dim
        network = Network(model, tap, dim)
        trial_s = 0.0
        if dim is None or not settings.settled:
            with torch_threads() as set_threads:
                dim, settings = try_out(network.each, decoder, settings, set_threads, model=model)
            trial_s = time.perf_counter() - began
        pace: dict[str, Any] = {name: value or int(name != "threads") for name, value in settings.pace.items()}
        settings = replace(settings, **pace)
        metadata = StoreMetadata(
            fingerprint=model.fingerprint,
            model=model.name,
            tap=tap,
            dims=tuple(model.dims) if tap == "nested" else (),
            dim=dim,
            dtype=settings.dtype or "float32",
            planned_rows=len(table),
            shard_rows=settings.shard_rows or (before.shard_rows if before else default_shard_rows(len(table), tap)),
            table_sha256=table_sha256(table.frame),
            plan={"max_duration_s": settings.max_duration_s},
            run=pace,
            labels=table.labels,
            training_speakers=tuple(model.training_speakers),
        )
        writer = StoreWriter(out, metadata)
        resumed = writer.done_rows
        progress(resumed, metadata.planned_rows)
        tasks = 1
        if engine == "ray":
            rows, audio_s, tasks = ray_engine.make_shards(
                model, table, writer, settings, address=ray_address, progress=progress
            )
        else:
            job = ShardJob(network, decoder, table.frame, settings)
            for done in job.run({shard: metadata.planned(shard) for shard in writer.pending}, writer.write_shard):
                progress(resumed + done, metadata.planned_rows)
            rows, audio_s = job.stored_rows, job.audio_s
        store = writer.finish()
    run = EmbeddingRun(
        rows=rows,
        resumed_rows=resumed,
        failed=len(store.metadata.failed),
        audio_s=audio_s,
        trial_s=trial_s,
        wall_s=time.perf_counter() - began,
        **pace,
        engine=engine,
        tasks=tasks,
    )
    return store, run


def _check_engine(engine: Engine, ray_address: str | None) -> None:
    if engine not in _ENGINES:
        raise StoreError(f"unknown engine {engine!r}; known: {', '.join(_ENGINES)}")
    if engine == "ray":
        ray_engine.check(ray_address)
    elif ray_address is not None:
        raise StoreError(
            f"ray_address {ray_address!r} means nothing to the engine {engine!r}: ask for the engine 'ray'"
        )
