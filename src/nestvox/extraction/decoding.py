"""Worker threads that decode ahead of the network, never more than a fixed number of seconds of audio."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.condition import Condition
from nestvox.audio.errors import SilentAudioError
from nestvox.audio.segment import Segment
from nestvox.errors import AudioError
from nestvox.extraction.batches import MAX_BATCH_S, Piece, split_utterance
from nestvox.extraction.settings import EmbeddingSettings

if TYPE_CHECKING:
    from nestvox.extraction.shard_job import EmbeddingModel

_Heard = tuple[NDArray[np.float32] | AudioError, Condition | None]


@dataclass(frozen=True)
class Source:
    """Where an utterance of the table is found.

    Attributes:
        row: in the table.
        utt_id: its name.
        segment: what it is as audio.
    """

    row: int
    utt_id: str
    segment: Segment


@dataclass(frozen=True)
class DecodedBatch:
    """A batch with, for each piece, its waveform (S,) float32 or the reason why there is none; and its condition."""

    pieces: tuple[Piece, ...]
    audio: tuple[NDArray[np.float32] | AudioError, ...]
    conditions: tuple[Condition | None, ...]


class Decoder:
    """Decodes at the model's rate, in threads (libsndfile and soxr run without the interpreter's lock).

    Args:
        sources: utterances by row.
        model: at its rate, and as long as it needs, is the result.
        settings: longest pieces, and threads; 2 where they are not chosen yet.
    """

    def __init__(self, sources: Sequence[Source], model: EmbeddingModel, settings: EmbeddingSettings) -> None:
        self.sources = sources
        self.sample_rate = model.sample_rate
        self.min_duration_s = model.min_duration_s
        self.max_duration_s = settings.max_duration_s
        self._pool = ThreadPoolExecutor(settings.workers or 2, thread_name_prefix="nestvox-decode")

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
        segment = self.sources[row].segment
        try:
            expected_s = segment.length_s()
            if segment.duration_s is not None and expected_s > self.max_duration_s:
                # What a table claims must not decide how many pieces are looked for in a file that has fewer.
                expected_s = min(expected_s, segment.left_s())
        except AudioError as error:
            return error
        return split_utterance(
            row,
            start_s=segment.begin_s,
            duration_s=segment.limit_s,
            expected_s=max(expected_s, 1e-3),
            max_duration_s=self.max_duration_s,
        )

    def decode(self, piece: Piece) -> NDArray[np.float32] | AudioError:
        """Read one piece, (S,) float32; an error is returned, so that the others of the batch go on."""
        return self.hear(piece)[0]

    def hear(self, piece: Piece) -> tuple[NDArray[np.float32] | AudioError, Condition | None]:
        """Read one piece as `decode` does, and measure its condition, which digital silence has too."""
        segment = self.sources[piece.row].segment
        # A table that says 5 s of a file of 4 hours must not fill the memory.
        longest_s = 1.5 * self.max_duration_s
        duration_s = longest_s if piece.duration_s is None else piece.duration_s
        try:
            heard = segment.within(piece.start_s, duration_s).read(
                sample_rate=self.sample_rate, min_duration_s=self.min_duration_s, allow_silent=True
            )
        except AudioError as error:
            return error, None
        samples = heard.samples
        if piece.duration_s is None and len(samples) >= int(longest_s * self.sample_rate):
            expected_s = piece.expected_s * piece.n_parts
            return AudioError(segment.path, f"longer than the {expected_s:.1f} s that its table says; correct it"), None
        found = heard.condition(expected_s=piece.expected_s)
        if found.peak == 0:
            cancelled = heard.averaged is not None and heard.averaged.audible
            return SilentAudioError.of(segment.path, len(samples), cancelled=cancelled), found
        return samples, found

    def batches(self, planned: Iterable[tuple[Piece, ...]]) -> Iterator[DecodedBatch]:
        """Yield the batches in order, decoded; at most two full batches of audio wait."""
        waiting: deque[tuple[tuple[Piece, ...], list[Future[_Heard]]]] = deque()
        waiting_s = 0.0
        for pieces in planned:
            waiting.append((pieces, [self._pool.submit(self.hear, piece) for piece in pieces]))
            waiting_s += _seconds(pieces)
            while waiting and waiting_s > 2 * MAX_BATCH_S:
                batch = _collect(*waiting.popleft())
                waiting_s -= _seconds(batch.pieces)
                yield batch
        while waiting:
            yield _collect(*waiting.popleft())


def _collect(pieces: tuple[Piece, ...], futures: list[Future[_Heard]]) -> DecodedBatch:
    heard = [future.result() for future in futures]
    return DecodedBatch(pieces, tuple(audio for audio, _ in heard), tuple(found for _, found in heard))


def _seconds(pieces: tuple[Piece, ...]) -> float:
    return sum(piece.expected_s for piece in pieces)
