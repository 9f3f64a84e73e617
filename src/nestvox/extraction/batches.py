"""What is decoded and run together: pieces of utterances, bucketed by length, in an order that is always the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_BATCH_S = 320.0
"""Seconds of audio in one batch with its padding: 64 utterances of 5 s. At 16 kHz these are 20 MB of samples."""


@dataclass(frozen=True)
class Piece:
    """A stretch of one utterance that goes through the network at once.

    Attributes:
        row: of the utterance in its table.
        part, n_parts: which stretch; nearly every utterance is one piece.
        start_s: where it begins in the file.
        duration_s: how much of the file is read; None: to its end.
        expected_s: its length as far as it is known before decoding, for bucketing.
    """

    row: int
    part: int
    n_parts: int
    start_s: float
    duration_s: float | None
    expected_s: float


def split_utterance(
    row: int, *, start_s: float, duration_s: float | None, expected_s: float, max_duration_s: float
) -> list[Piece]:
    """Cut an utterance into equal pieces of at most `max_duration_s`; the last reads on to the utterance's end.

    Args:
        row: of the utterance in its table.
        start_s: where it begins in the file.
        duration_s: its length where the table bounds it; None: it goes to the end of the file.
        expected_s: its length.
        max_duration_s: longest piece.
    """
    n_parts = max(1, math.ceil(expected_s / max_duration_s))
    length = expected_s / n_parts
    pieces = []
    for part in range(n_parts):
        last = part == n_parts - 1
        begin = start_s + part * length
        rest = None if duration_s is None else start_s + duration_s - begin
        pieces.append(Piece(row, part, n_parts, begin, rest if last else length, length))
    return pieces


def plan_batches(pieces: Iterable[Piece], *, batch_size: int, max_batch_s: float) -> list[tuple[Piece, ...]]:
    """Group pieces of similar length, so that little is padded.

    The same pieces and limits always give the same batches, which is what makes a resumed run bit-identical.

    Args:
        pieces: in any order.
        batch_size: most pieces of a batch.
        max_batch_s: most seconds of a batch with its padding; a piece that is longer goes alone.

    Returns:
        Batches, longest first: what does not fit into memory shows at once, not after an hour.
    """
    batches: list[tuple[Piece, ...]] = []
    batch: list[Piece] = []
    for piece in _longest_first(pieces):
        # The first piece is the longest, so every other is padded to it.
        if batch and (len(batch) == batch_size or (len(batch) + 1) * batch[0].expected_s > max_batch_s):
            batches.append(tuple(batch))
            batch = []
        batch.append(piece)
    if batch:
        batches.append(tuple(batch))
    return batches


def _longest_first(pieces: Iterable[Piece]) -> Sequence[Piece]:
    return sorted(pieces, key=lambda piece: (-piece.expected_s, piece.row, piece.part))
