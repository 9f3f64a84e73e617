"""From an utterance table to a store: one forward pass a piece, every dimension from it, resumable at any moment.

Memory is bounded by the batch and by what is decoded ahead, not by the table or the longest file: an utterance longer
than `max_duration_s` goes through the network in equal pieces whose vectors are averaged (frames: joined), so that a
recording of four hours needs no more than one of five minutes.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.errors import AudioError, ModelError, StoreError
from nestvox.extraction.batches import Piece, plan_batches
from nestvox.extraction.decoding import DecodedBatch, Decoder, Source
from nestvox.extraction.store import (
    EmbeddingStore,
    FailedUtterance,
    ShardRows,
    StoreMetadata,
    StoreWriter,
    default_shard_rows,
    is_store,
    read_metadata,
)
from nestvox.extraction.tuning import SIZES, Streams, choose
from nestvox.progress import Progress, silent

if TYPE_CHECKING:
    from nestvox.corpora.utterances import UtteranceTable

__all__ = ["DEFAULT_MAX_DURATION_S", "EmbeddingModel", "EmbeddingRun", "StoreTap", "embed_table", "run_embedding"]

DEFAULT_MAX_DURATION_S = 300.0
# Seconds of audio in one batch with its padding: 64 utterances of 5 s. At 16 kHz these are 20 MB of samples.
_MAX_BATCH_S = 320.0
_TRIAL_CLIPS = 64
_TRIAL_DECODING_S = 1.0
_TOO_FEW_TO_TRY = 128

StoreTap = Literal["nested", "embedding", "pooled", "frames"]
Vector = NDArray[np.float32]


class EmbeddingModel(Protocol):
    """What embedding needs of a model; `SpeakerModel` has it."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    @property
    def sample_rate(self) -> int: ...  # noqa: D102

    @property
    def min_duration_s(self) -> float: ...  # noqa: D102

    @property
    def dims(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def training_speakers(self) -> tuple[str, ...]: ...  # noqa: D102

    def forward(self, waveforms: Sequence[NDArray[np.floating[Any]]], *, tap: StoreTap) -> Any:
        """Map B waveforms (S_i,) to (B, D), or for ``frames`` to a list of (T_i, C)."""


@dataclass(frozen=True)
class EmbeddingRun:
    """What one run did; seconds are wall-clock.

    Attributes:
        rows: utterances that this run stored.
        resumed_rows: utterances that were settled before it.
        failed: utterances that the whole store lacks.
        audio_s: seconds of audio that it put through the network.
        trial_s: of `wall_s`, spent on choosing batch size and threads.
        wall_s: the whole run.
        batch_size, streams, threads, workers: as used; 0 threads: the model is none of torch's.
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
    max_duration_s: float = DEFAULT_MAX_DURATION_S,
    skip_bad: bool = False,
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
        skip_bad: record unreadable, silent and too short audio in the store instead of stopping at the first.
        progress: utterances done of all.

    Returns:
        The complete store.

    Raises:
        AudioError: a file cannot be used, and `skip_bad` is off.
        FingerprintError: `out` holds vectors of another model.
        ModelError: a single utterance does not fit into memory.
        StoreError: `out` was begun for something else, or cannot be written.
    """
    return run_embedding(
        model,
        table,
        out,
        tap=tap,
        batch_size=batch_size,
        streams=streams,
        threads=threads,
        workers=workers,
        shard_rows=shard_rows,
        dtype=dtype,
        max_duration_s=max_duration_s,
        skip_bad=skip_bad,
        progress=progress,
    )[0]


def run_embedding(
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
    max_duration_s: float = DEFAULT_MAX_DURATION_S,
    skip_bad: bool = False,
    progress: Progress = silent,
) -> tuple[EmbeddingStore, EmbeddingRun]:
    """Do what `embed_table` does, and also say what it took."""
    began = time.perf_counter()
    _check_options(model, max_duration_s, batch_size=batch_size, streams=streams, threads=threads, workers=workers)
    sources = _sources(table)
    before = read_metadata(out) if is_store(out) else None
    recorded = dict(before.run) if before is not None else {}
    asked = _Choice(
        batch_size or recorded.get("batch_size"),
        streams or recorded.get("streams") or (1 if threads else None),
        threads or recorded.get("threads", 1 if streams else None),
        workers or recorded.get("workers"),
    )
    decoder = Decoder(
        sources,
        sample_rate=model.sample_rate,
        min_duration_s=model.min_duration_s,
        max_duration_s=max_duration_s,
        workers=asked.workers or 2,
        ahead_s=2 * _MAX_BATCH_S,
    )
    network = _Network(model, tap)
    with _torch_threads() as set_threads, closing(decoder):
        # What was begun for another model or tap is refused by the writer, at once and by name.
        dim = None if before is None else before.dim
        trial_s = 0.0
        if dim is None or not asked.settled:
            dim, asked = _try_out(network, decoder, asked, set_threads)
            trial_s = time.perf_counter() - began
        batch_size, workers = asked.batch_size or 1, asked.workers or 1
        streams, threads = asked.streams or 1, asked.threads or 0
        metadata = StoreMetadata(
            fingerprint=model.fingerprint,
            model=model.name,
            tap=tap,
            dims=tuple(model.dims) if tap == "nested" else (),
            dim=dim,
            dtype=dtype,
            planned_rows=len(sources),
            shard_rows=shard_rows or (before.shard_rows if before else default_shard_rows(len(sources), tap)),
            table_sha256=_table_sha256(table.frame),
            plan={"max_duration_s": max_duration_s},
            run={"batch_size": batch_size, "streams": streams, "threads": threads, "workers": workers},
            labels=table.labels,
            training_speakers=tuple(model.training_speakers),
        )
        writer = StoreWriter(out, metadata)
        resumed = writer.done_rows
        job = _Job(network, decoder, writer, table.frame, batch_size, skip_bad=skip_bad, progress=progress)
        with Streams(network, streams, lambda: set_threads(threads)) as running:
            job.run(running, streams)
    store = writer.finish()
    failed = len(store.metadata.failed)
    run = EmbeddingRun(
        rows=job.stored_rows,
        resumed_rows=resumed,
        failed=failed,
        audio_s=job.audio_s,
        trial_s=trial_s,
        wall_s=time.perf_counter() - began,
        batch_size=batch_size,
        streams=streams,
        threads=threads,
        workers=workers,
    )
    return store, run


class _Network:
    """The model at one tap; halves batches that do not fit into memory."""

    def __init__(self, model: EmbeddingModel, tap: StoreTap) -> None:
        self.model = model
        self.tap = tap
        self._fits_s = float("inf")

    def __call__(self, waveforms: Sequence[Vector]) -> list[NDArray[np.floating[Any]]]:
        """Return (D,) vectors, or (T_i, C) frames."""
        padded_s = len(waveforms) * max(len(waveform) for waveform in waveforms) / self.model.sample_rate
        if padded_s < self._fits_s or len(waveforms) == 1:
            try:
                result = list(self.model.forward(waveforms, tap=self.tap))
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if len(waveforms) == 1:
                    raise ModelError(
                        f"{padded_s:.0f} s of audio do not fit into memory in one piece: lower --max-duration-s"
                    ) from error
                self._fits_s = padded_s
            else:
                return result
        half = len(waveforms) // 2
        return self(waveforms[:half]) + self(waveforms[half:])


@dataclass(frozen=True)
class _Choice:
    """Batch size, streams, threads of each and decoding threads; None: not chosen yet."""

    batch_size: int | None
    streams: int | None
    threads: int | None
    workers: int | None

    @property
    def settled(self) -> bool:
        return None not in (self.batch_size, self.streams, self.threads, self.workers)


def _try_out(
    network: _Network, decoder: Decoder, asked: _Choice, set_threads: Callable[[int], None]
) -> tuple[int, _Choice]:
    """Learn the vector size, and choose what was not asked for, from the first utterances that can be read."""
    wanted = 1 if asked.settled or len(decoder.sources) <= _TOO_FEW_TO_TRY else _TRIAL_CLIPS
    clips: list[Vector] = []
    problem: AudioError | None = None
    began = time.perf_counter()
    for row in range(len(decoder.sources)):
        pieces, failed = decoder.pieces([row])
        clip = decoder.decode(pieces[0]) if pieces else failed[row]
        if isinstance(clip, AudioError):
            problem = problem or clip
            continue
        clips.append(clip)
        # Neither slow decoding (a network drive) nor long recordings may make the trial long or large.
        heard_s = sum(len(clip) for clip in clips) / network.model.sample_rate
        if len(clips) == wanted or heard_s > _MAX_BATCH_S or time.perf_counter() - began > _TRIAL_DECODING_S:
            break
    if not clips:
        assert problem is not None
        raise AudioError(problem.path, f"{problem.problem}; nor can any other of the table's files be used")
    decode_rate = sum(len(clip) for clip in clips) / network.model.sample_rate / (time.perf_counter() - began)
    dim = int(network(clips[:1])[0].shape[-1])
    if wanted == 1:
        return dim, asked
    found = choose(
        network,
        clips,
        sample_rate=network.model.sample_rate,
        decode_rate=decode_rate,
        set_threads=set_threads,
        thread_counts=_thread_counts() if asked.threads is None else (asked.threads,),
        streams=_stream_count(network.model) if asked.streams is None else 1,
        sizes=SIZES if asked.batch_size is None else (asked.batch_size,),
    )
    return dim, _Choice(found.batch_size, asked.streams or found.streams, found.threads, asked.workers or found.workers)


def _stream_count(model: EmbeddingModel) -> int:
    """Streams that are worth a try: one for each core, on a CPU."""
    torch = sys.modules.get("torch")
    parameters = getattr(getattr(model, "encoder", None), "parameters", None)
    if torch is None or parameters is None or any(parameter.device.type != "cpu" for parameter in parameters()):
        return 1
    usual: int = torch.get_num_threads()
    return usual


def _thread_counts() -> tuple[int, ...]:
    torch = sys.modules.get("torch")
    if torch is None:
        return (0,)
    usual: int = torch.get_num_threads()
    return tuple(dict.fromkeys((usual, max(1, usual // 2), 1)))


@contextmanager
def _torch_threads() -> Iterator[Callable[[int], None]]:
    """Yield what sets torch's threads, and set them back afterwards; torch is not imported for it."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield lambda count: None  # noqa: ARG005 - a model that is none of torch's has nothing to set
        return
    before: int = torch.get_num_threads()
    try:
        yield lambda count: torch.set_num_threads(count) if count else None
    finally:
        torch.set_num_threads(before)


class _Begun(NamedTuple):
    """A batch that a stream works on; None: nothing of it could be decoded."""

    good: list[tuple[Piece, Vector]]
    future: Future[list[NDArray[np.floating[Any]]]] | None


class _Job:
    """One pass over the pending shards: batches in, shards out."""

    def __init__(
        self,
        network: _Network,
        decoder: Decoder,
        writer: StoreWriter,
        frame: pl.DataFrame,
        batch_size: int,
        *,
        skip_bad: bool,
        progress: Progress,
    ) -> None:
        self.network = network
        self.decoder = decoder
        self.writer = writer
        self.frame = frame
        self.batch_size = batch_size
        self.skip_bad = skip_bad
        self.progress = progress
        self.stored_rows = 0
        self.audio_s = 0.0
        self._open: dict[int, _Shard] = {}

    def run(self, running: Streams, streams: int) -> None:
        total = self.writer.metadata.planned_rows
        self.progress(self.writer.done_rows, total)
        # One batch more than streams is under way, so that none waits for the next.
        begun: deque[_Begun] = deque()
        for batch in self.decoder.batches(self._planned()):
            good = self._good(batch)
            begun.append(_Begun(good, running.submit([audio for _, audio in good]) if good else None))
            if len(begun) > streams:
                self._settle(begun.popleft(), total)
        while begun:
            self._settle(begun.popleft(), total)
        # A shard without a single readable file has no batch that would complete it.
        for shard in list(self._open):
            self._write(shard, self._open.pop(shard))
        self.progress(self.writer.done_rows, total)

    def _settle(self, begun: _Begun, total: int) -> None:
        if begun.future is not None:
            for (piece, audio), result in zip(begun.good, begun.future.result(), strict=True):
                self._shard_of(piece).add(piece, len(audio), result)
                self.audio_s += len(audio) / self.network.model.sample_rate
        for shard in [number for number, state in self._open.items() if state.complete]:
            self._write(shard, self._open.pop(shard))
        self.progress(self.writer.done_rows + sum(state.done for state in self._open.values()), total)

    def _planned(self) -> Iterator[tuple[Piece, ...]]:
        # Batches never cross shards: what is in a shard does not depend on where a run was stopped.
        for shard in self.writer.pending:
            rows = self.writer.metadata.planned(shard)
            pieces, failed = self.decoder.pieces(rows)
            self._open[shard] = _Shard(rows, pieces)
            for row, error in failed.items():
                self._fail(self._open[shard], row, error, had_piece=False)
            yield from plan_batches(pieces, batch_size=self.batch_size, max_batch_s=_MAX_BATCH_S)

    def _shard_of(self, piece: Piece) -> _Shard:
        return self._open[piece.row // self.writer.metadata.shard_rows]

    def _good(self, batch: DecodedBatch) -> list[tuple[Piece, Vector]]:
        """What of a batch could be decoded; the rest is recorded, or raised."""
        good: list[tuple[Piece, Vector]] = []
        for piece, audio in zip(batch.pieces, batch.audio, strict=True):
            if isinstance(audio, AudioError):
                self._fail(self._shard_of(piece), piece.row, audio, had_piece=True)
            else:
                good.append((piece, audio))
        return good

    def _fail(self, state: _Shard, row: int, error: AudioError, *, had_piece: bool) -> None:
        utt_id = self.decoder.sources[row].utt_id
        if not self.skip_bad:
            raise type(error)(
                error.path,
                f"{error.problem} (utterance {utt_id}); mend the table and embed again, or use --skip-bad: "
                "what is stored so far stays",
            ) from error
        state.fail(row, error.problem, had_piece=had_piece)

    def _write(self, shard: int, state: _Shard) -> None:
        rows = [row for row in state.rows if row not in state.failed]
        part = self.frame[rows]
        failed = [
            FailedUtterance(self.frame["utt_id"][row], self.frame["path"][row], state.failed[row])
            for row in sorted(state.failed)
        ]
        vectors = [state.vector(row, joined=self.network.tap == "frames") for row in rows]
        self.writer.write_shard(
            shard,
            ShardRows(
                part["utt_id"].to_list(),
                vectors,
                part["path"].to_list(),
                part["speaker"].to_list() if "speaker" in part.columns else None,
                failed,
            ),
        )
        self.stored_rows += len(rows)


class _Shard:
    """Results of one shard, until all are there."""

    def __init__(self, rows: range, pieces: Sequence[Piece]) -> None:
        self.rows = rows
        self.failed: dict[int, str] = {}
        self.done = 0
        self._parts = {piece.row: piece.n_parts for piece in pieces}
        self._pieces_left = len(pieces)
        self._results: dict[int, dict[int, tuple[int, NDArray[np.floating[Any]]]]] = {}

    def add(self, piece: Piece, n_samples: int, result: NDArray[np.floating[Any]]) -> None:
        results = self._results.setdefault(piece.row, {})
        results[piece.part] = (n_samples, result)
        self._pieces_left -= 1
        self.done += len(results) == piece.n_parts

    def fail(self, row: int, reason: str, *, had_piece: bool) -> None:
        self._pieces_left -= had_piece
        self.done += row not in self.failed
        self.failed.setdefault(row, reason)

    @property
    def complete(self) -> bool:
        return self._pieces_left == 0

    def vector(self, row: int, *, joined: bool) -> NDArray[np.floating[Any]]:
        parts = [self._results[row][part] for part in range(self._parts[row])]
        if joined:
            return np.concatenate([frames for _, frames in parts])
        if len(parts) == 1:
            return parts[0][1]
        weights = np.array([n_samples for n_samples, _ in parts], np.float64)
        return np.average(np.stack([vector for _, vector in parts]).astype(np.float64), axis=0, weights=weights)


def _check_options(model: EmbeddingModel, max_duration_s: float, **counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and value < 1:
            raise StoreError(f"{name} must be at least 1, got {value}")
    if max_duration_s < 2 * model.min_duration_s or max_duration_s <= 0:
        raise StoreError(
            f"max_duration_s must be at least twice the {model.min_duration_s} s that {model.name} needs, "
            f"got {max_duration_s}"
        )


def _sources(table: UtteranceTable) -> list[Source]:
    frame = table.frame
    if not len(frame):
        raise StoreError(f"{table.source}: no utterances to embed")
    nothing = [None] * len(frame)
    starts = frame["start_s"].to_list() if "start_s" in frame.columns else nothing
    durations = frame["duration_s"].to_list() if "duration_s" in frame.columns else nothing
    return [
        Source(row, utt_id, table.root / path, start_s, duration_s)
        for row, (utt_id, path, start_s, duration_s) in enumerate(
            zip(frame["utt_id"], frame["path"], starts, durations, strict=True)
        )
    ]


def _table_sha256(frame: pl.DataFrame) -> str:
    digest = hashlib.sha256()
    columns = [name for name in ("utt_id", "path", "speaker", "start_s", "duration_s") if name in frame.columns]
    digest.update(json.dumps(columns).encode())
    for row in frame.select(columns).iter_rows():
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _out_of_memory(error: BaseException) -> bool:
    # torch says so in the text of a RuntimeError: "CUDA out of memory", "DefaultCPUAllocator: can't allocate memory".
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
