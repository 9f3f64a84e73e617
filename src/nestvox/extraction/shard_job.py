"""One shard after another through the network: the work that every engine does, in the same batches.

What a shard holds follows from the model, the rows of the table and the settled `EmbeddingSettings`; the machine, the
shards before it and whoever else works at the same time have no part in it.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.audio.condition import Condition
from nestvox.audio.errors import SilentAudioError
from nestvox.errors import AudioError, FingerprintError, MissingExtraError, ModelError, NestvoxError, StoreError
from nestvox.extraction.batches import MAX_BATCH_S, Piece, plan_batches
from nestvox.extraction.decoding import DecodedBatch, Decoder, Source
from nestvox.extraction.settings import EmbeddingSettings
from nestvox.extraction.store.metadata import FailedUtterance
from nestvox.extraction.store.shard_files import ShardRows
from nestvox.extraction.tuning import Streams
from nestvox.shown import shown
from nestvox.threads import torch_threads

if TYPE_CHECKING:
    from nestvox.corpora.utterances import UtteranceTable

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
class NetworkFailure:
    """What a network said of one recording in place of a result.

    Attributes:
        problem: in words.
        error: what it raised; None: what it gave is no embedding.
    """

    problem: str
    error: Exception | None = None


class Network:
    """The model at one tap; halves batches that do not fit into memory.

    Attributes:
        dim: size of a result's last axis; None: nothing has come out yet.
    """

    def __init__(self, model: EmbeddingModel, tap: StoreTap, dim: int | None = None) -> None:
        self.model = model
        self.tap = tap
        self.dim = dim
        # What is decoded here is at the model's rate; a model that can be told so need not look for doubts.
        told = "sample_rate" in inspect.signature(model.forward).parameters
        rate: dict[str, Any] = {"sample_rate": model.sample_rate} if told else {}
        self._forward: Callable[..., Any] = partial(cast("Callable[..., Any]", model.forward), **rate)
        self._fits_s = float("inf")

    def __call__(self, waveforms: Sequence[Vector]) -> list[NDArray[np.floating[Any]]]:
        """Return (D,) vectors, or (T_i, C) frames."""
        padded_s = len(waveforms) * max(len(waveform) for waveform in waveforms) / self.model.sample_rate
        if padded_s < self._fits_s or len(waveforms) == 1:
            try:
                result = list(self._forward(waveforms, tap=self.tap))
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if len(waveforms) == 1:
                    raise OutOfMemoryError(
                        f"{padded_s:.0f} s of audio do not fit into memory in one piece: lower --max-duration-s"
                    ) from error
                self._fits_s = padded_s
            else:
                return result
        half = len(waveforms) // 2
        return self(waveforms[:half]) + self(waveforms[half:])

    def each(self, waveforms: Sequence[Vector]) -> list[NDArray[np.floating[Any]] | NetworkFailure]:
        """Return the same, and a failure in the place of each recording that the network cannot take.

        Raises:
            NestvoxError: what is no matter of a recording: an extra is missing, or memory for one of them.
        """
        try:
            results = self(waveforms)
        except (MissingExtraError, FingerprintError, OutOfMemoryError):
            raise
        except Exception as error:  # noqa: BLE001  somebody else's network fails in every way there is
            if len(waveforms) == 1:
                said = str(error) if isinstance(error, NestvoxError) else f"{type(error).__name__}: {error}"
                return [NetworkFailure(f"the network {self.model.name} fails on it: {_line(said)}", error)]
            half = len(waveforms) // 2
            return self.each(waveforms[:half]) + self.each(waveforms[half:])
        if len(results) != len(waveforms):
            return [
                NetworkFailure(f"the network {self.model.name} gave {len(results)} results for {len(waveforms)}")
            ] * (len(waveforms))
        return [self._checked(np.asarray(result)) for result in results]

    def _checked(self, result: NDArray[Any]) -> NDArray[np.floating[Any]] | NetworkFailure:
        name, wanted = self.model.name, 2 if self.tap == "frames" else 1
        if result.ndim != wanted or not np.issubdtype(result.dtype, np.floating) or not result.size:
            return NetworkFailure(f"the network {name} gave a result of shape {result.shape} and type {result.dtype}")
        if self.dim is None:
            self.dim = result.shape[-1]
        if result.shape[-1] != self.dim:
            return NetworkFailure(f"the network {name} gave {result.shape[-1]} numbers, and {self.dim} for others")
        if not np.isfinite(result).all():
            return NetworkFailure(f"the network {name} gave values that are not finite")
        if wanted == 1 and not result.any():
            return NetworkFailure(f"the network {name} gave nothing but zeros, which have no direction")
        return result


class _Begun(NamedTuple):
    """A batch that a stream works on; None: nothing of it could be decoded."""

    good: list[tuple[Piece, Vector]]
    future: Future[list[NDArray[np.floating[Any]] | NetworkFailure]] | None


class ShardJob:
    """One pass over shards: batches in, shards out.

    Args:
        network: the model at its tap.
        decoder: of the table's audio, by row.
        frame: the table's rows.
        settings: how, with a settled pace.

    Attributes:
        stored_rows: utterances in the shards that were written.
        audio_s: seconds of audio that went through the network.
    """

    def __init__(self, network: Network, decoder: Decoder, frame: pl.DataFrame, settings: EmbeddingSettings) -> None:
        self.network = network
        self.decoder = decoder
        self.frame = frame
        self.settings = settings
        self.streams = settings.streams or 1
        self.stored_rows = 0
        self.audio_s = 0.0
        self._settled_rows = 0
        self._open: dict[int, _Shard] = {}

    def run(self, shards: Mapping[int, range], write: Callable[[int, ShardRows], None]) -> Iterator[int]:
        """Make shards, in order, while whoever iterates follows.

        Args:
            shards: rows of the table by number of the shard.
            write: takes each shard when it is whole.

        Yields:
            Utterances that are through, or recorded as unusable; the last stands for all.

        Raises:
            AudioError: a file cannot be used, and the settings do not skip such.
            ModelError: a single utterance does not fit into memory.
        """
        with (
            torch_threads() as set_threads,
            Streams(self.network.each, self.streams, lambda: set_threads(self.settings.threads or 0)) as running,
        ):
            # One batch more than streams is under way, so that none waits for the next.
            begun: deque[_Begun] = deque()
            for batch in self.decoder.batches(self._planned(shards)):
                good = self._good(batch)
                begun.append(_Begun(good, running.submit([audio for _, audio in good]) if good else None))
                if len(begun) > self.streams:
                    yield self._settle(begun.popleft(), write)
            while begun:
                yield self._settle(begun.popleft(), write)
        # A shard without a single readable file has no batch that would complete it.
        for shard in list(self._open):
            self._write(shard, write)
        yield self._settled_rows

    def _settle(self, begun: _Begun, write: Callable[[int, ShardRows], None]) -> int:
        if begun.future is not None:
            for (piece, audio), result in zip(begun.good, begun.future.result(), strict=True):
                if isinstance(result, NetworkFailure):
                    path = self.decoder.sources[piece.row].segment.path
                    self._fail(self._shard_of(piece), piece.row, AudioError(path, result.problem), had_piece=True)
                    continue
                self._shard_of(piece).add(piece, len(audio), result)
                self.audio_s += len(audio) / self.network.model.sample_rate
        for shard in [number for number, state in self._open.items() if state.complete]:
            self._write(shard, write)
        return self._settled_rows + sum(state.done for state in self._open.values())

    def _planned(self, shards: Mapping[int, range]) -> Iterator[tuple[Piece, ...]]:
        # Batches never cross shards: what is in a shard does not depend on where a run was stopped, or on who makes it.
        for shard, rows in shards.items():
            pieces, failed = self.decoder.pieces(rows)
            self._open[shard] = _Shard(rows, pieces)
            for row, error in failed.items():
                self._fail(self._open[shard], row, error, had_piece=False)
            yield from plan_batches(pieces, batch_size=self.settings.batch_size or 1, max_batch_s=MAX_BATCH_S)

    def _shard_of(self, piece: Piece) -> _Shard:
        return next(state for state in self._open.values() if piece.row in state.rows)

    def _good(self, batch: DecodedBatch) -> list[tuple[Piece, Vector]]:
        """What of a batch could be decoded; the rest is recorded, or raised."""
        good: list[tuple[Piece, Vector]] = []
        for piece, audio, found in zip(batch.pieces, batch.audio, batch.conditions, strict=True):
            if found is not None:
                self._shard_of(piece).heard(piece, found)
            if isinstance(audio, SilentAudioError) and self._leave_out(piece):
                continue
            if isinstance(audio, AudioError):
                self._fail(self._shard_of(piece), piece.row, audio, had_piece=True)
            else:
                good.append((piece, audio))
        return good

    def _leave_out(self, piece: Piece) -> bool:
        """Pass over digital silence in a part of a long recording, if another part may have sound; frames have gaps."""
        return self.network.tap != "frames" and self._shard_of(piece).leave_out(piece)

    def _fail(self, state: _Shard, row: int, error: AudioError, *, had_piece: bool) -> None:
        utt_id = self.decoder.sources[row].utt_id
        if not self.settings.skip_bad:
            raise type(error)(
                error.path,
                f"{error.problem} (utterance {utt_id}); mend the table and begin again, or leave such audio "
                "out (--skip-bad; data.skip_bad of a recipe): what is stored so far stays",
            ) from error
        state.fail(row, error.problem, had_piece=had_piece)

    def _write(self, shard: int, write: Callable[[int, ShardRows], None]) -> None:
        state = self._open.pop(shard)
        rows = [row for row in state.rows if row not in state.failed]
        part = self.frame[rows]
        failed = [
            FailedUtterance(self.frame["utt_id"][row], self.frame["path"][row], state.failed[row])
            for row in sorted(state.failed)
        ]
        vectors = [state.vector(row, joined=self.network.tap == "frames") for row in rows]
        speakers = part["speaker"].to_list() if "speaker" in part.columns else None
        conditions = [state.condition(row, self.decoder.sources[row].segment.duration_s) for row in rows]
        names, paths = part["utt_id"].to_list(), part["path"].to_list()
        write(shard, ShardRows(names, vectors, paths, speakers, failed, conditions=conditions))
        self.stored_rows += len(rows)
        self._settled_rows += len(state.rows)


class _Shard:
    """Results of one shard, until all are there."""

    def __init__(self, rows: range, pieces: Sequence[Piece]) -> None:
        self.rows = rows
        self.failed: dict[int, str] = {}
        self.done = 0
        self._parts = {piece.row: piece.n_parts for piece in pieces}
        self._pieces_left = len(pieces)
        self._results: dict[int, dict[int, tuple[int, NDArray[np.floating[Any]]]]] = {}
        self._left_out: dict[int, int] = {}
        self._conditions: dict[int, dict[int, Condition]] = {}

    def heard(self, piece: Piece, found: Condition) -> None:
        """Keep the condition of a piece."""
        self._conditions.setdefault(piece.row, {})[piece.part] = found

    def condition(self, row: int, stated_s: float | None) -> str | None:
        """Codes of an utterance, with blanks between; None where not all of it was measured."""
        found = self._conditions.get(row, {})
        if len(found) != self._parts.get(row):
            return None
        parts = [found[part] for part in sorted(found)]
        whole = sum(parts[1:], start=parts[0])
        return " ".join((whole if stated_s is None else replace(whole, expected_s=stated_s)).codes())

    def leave_out(self, piece: Piece) -> bool:
        """Do without a piece; False: it is the last, and the others are left out already."""
        left_out = self._left_out.get(piece.row, 0) + 1
        if left_out == piece.n_parts:
            return False
        self._left_out[piece.row] = left_out
        self._pieces_left -= 1
        self._count(piece)
        return True

    def _count(self, piece: Piece) -> None:
        there = len(self._results.get(piece.row, ())) + self._left_out.get(piece.row, 0)
        self.done += there == piece.n_parts and piece.row not in self.failed

    def add(self, piece: Piece, n_samples: int, result: NDArray[np.floating[Any]]) -> None:
        results = self._results.setdefault(piece.row, {})
        results[piece.part] = (n_samples, result)
        self._pieces_left -= 1
        self._count(piece)

    def fail(self, row: int, reason: str, *, had_piece: bool) -> None:
        self._pieces_left -= had_piece
        self.done += row not in self.failed
        self.failed.setdefault(row, reason)

    @property
    def complete(self) -> bool:
        return self._pieces_left == 0

    def vector(self, row: int, *, joined: bool) -> NDArray[np.floating[Any]]:
        parts = [self._results[row][part] for part in range(self._parts[row]) if part in self._results[row]]
        if joined:
            return np.concatenate([frames for _, frames in parts])
        if len(parts) == 1:
            return parts[0][1]
        weights = np.array([n_samples for n_samples, _ in parts], np.float64)
        return np.average(np.stack([vector for _, vector in parts]).astype(np.float64), axis=0, weights=weights)


def sources_of(table: UtteranceTable) -> list[Source]:
    """Return where the utterances of a table are found, in its order.

    Raises:
        StoreError: the table has no rows.
    """
    if not len(table):
        raise StoreError(f"{table.source}: no utterances to embed")
    names = table.frame["utt_id"].to_list()
    return [Source(row, *both) for row, both in enumerate(zip(names, table.segments(), strict=True))]


class OutOfMemoryError(ModelError):
    """A single utterance is too long for the memory of the machine: a matter of the run's settings."""


def _line(text: str) -> str:
    line = " ".join(shown(text, keep="\n").split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def _out_of_memory(error: BaseException) -> bool:
    # torch says so in the text of a RuntimeError: "CUDA out of memory", "DefaultCPUAllocator: can't allocate memory".
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
