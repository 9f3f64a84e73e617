"""Worker threads that decode ahead of the network, never more than a fixed number of seconds of audio."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.read import probe, read
from nestvox.errors import AudioError
from nestvox.extraction.batches import Piece, split_utterance

__all__ = ["DecodedBatch", "Decoder", "Source"]


@dataclass(frozen=True)
class Source:
    """Where an utterance of the table is found.

    Attributes:
        row: in the table.
        utt_id: its name.
        path: the file.
        start_s: None: the utterance is the whole file; else the segment that begins here.
        duration_s: the table's; None where it says none.
    """

    row: int
    utt_id: str
    path: Path
    start_s: float | None
    duration_s: float | None


@dataclass(frozen=True)
class DecodedBatch:
    """A batch with, for each piece, its waveform (S,) float32 or the reason why there is none."""

    pieces: tuple[Piece, ...]
    audio: tuple[NDArray[np.float32] | AudioError, ...]


class Decoder:
    """Decodes at the model's rate, in threads (libsndfile and soxr run without the interpreter's lock).

    Args:
        sources: utterances by row.
        sample_rate: in Hz, of the result.
        min_duration_s: shorter audio is an error.
        max_duration_s: longer utterances come in pieces.
        workers: threads.
        ahead_s: seconds of audio that may be decoded and waiting (one batch more may be under way).
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        sample_rate: int,
        min_duration_s: float,
        max_duration_s: float,
        workers: int,
        ahead_s: float,
    ) -> None:
        self.sources = sources
        self.sample_rate = sample_rate
        self.min_duration_s = min_duration_s
        self.max_duration_s = max_duration_s
        self.ahead_s = ahead_s
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="nestvox-decode")

    def close(self) -> None:
        """Stop the threads; what has not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def pieces(self, rows: Iterable[int]) -> tuple[list[Piece], dict[int, AudioError]]:
        """Return the pieces of these rows, and the rows whose length is nowhere to be had, with the reason.

        Lengths that the table lacks are read off the files, in the threads.
        """
        pieces: list[Piece] = []
        failed: dict[int, AudioError] = {}
        rows = list(rows)
        for row, found in zip(rows, self._pool.map(self._split, rows), strict=True):
            if isinstance(found, AudioError):
                failed[row] = found
            else:
                pieces.extend(found)
        return pieces, failed

    def _split(self, row: int) -> list[Piece] | AudioError:
        source = self.sources[row]
        start_s = source.start_s or 0.0
        try:
            expected_s = source.duration_s or probe(source.path).duration_s - start_s
        except AudioError as error:
            return error
        # Without start_s a duration is what somebody measured once, rounded: the file is read to its end.
        bounded = source.duration_s if source.start_s is not None else None
        return split_utterance(
            row,
            start_s=start_s,
            duration_s=bounded,
            expected_s=max(expected_s, 1e-3),
            max_duration_s=self.max_duration_s,
        )

    def decode(self, piece: Piece) -> NDArray[np.float32] | AudioError:
        """Read one piece, (S,) float32; an error is returned, so that the others of the batch go on."""
        source = self.sources[piece.row]
        # A table that says 5 s of a file of 4 hours must not fill the memory.
        longest_s = 1.5 * self.max_duration_s
        duration_s = longest_s if piece.duration_s is None else piece.duration_s
        try:
            samples, _ = read(
                source.path,
                sample_rate=self.sample_rate,
                start_s=piece.start_s,
                duration_s=duration_s,
                min_duration_s=self.min_duration_s,
            )
        except AudioError as error:
            return error
        if piece.duration_s is None and len(samples) >= int(longest_s * self.sample_rate):
            return AudioError(
                source.path, f"longer than the {piece.expected_s * piece.n_parts:.1f} s that its table says; correct it"
            )
        return samples

    def batches(self, planned: Iterable[tuple[Piece, ...]]) -> Iterator[DecodedBatch]:
        """Yield the batches in order, decoded; at most `ahead_s` of audio waits."""
        waiting: deque[tuple[tuple[Piece, ...], list[Future[NDArray[np.float32] | AudioError]]]] = deque()
        waiting_s = 0.0
        for pieces in planned:
            waiting.append((pieces, [self._pool.submit(self.decode, piece) for piece in pieces]))
            waiting_s += _seconds(pieces)
            while waiting and waiting_s > self.ahead_s:
                batch = _collect(*waiting.popleft())
                waiting_s -= _seconds(batch.pieces)
                yield batch
        while waiting:
            yield _collect(*waiting.popleft())


def _collect(pieces: tuple[Piece, ...], futures: list[Future[NDArray[np.float32] | AudioError]]) -> DecodedBatch:
    return DecodedBatch(pieces, tuple(future.result() for future in futures))


def _seconds(pieces: tuple[Piece, ...]) -> float:
    return sum(piece.expected_s for piece in pieces)
