"""Batches hold every piece once, within the limits, whatever the table."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.extraction.batches import Piece, plan_batches, split_utterance

SECONDS = st.lists(st.floats(0.05, 400.0), max_size=60)


def pieces_of(seconds: list[float]) -> list[Piece]:
    return [Piece(row, 0, 1, 0.0, None, length) for row, length in enumerate(seconds)]


@given(seconds=SECONDS, batch_size=st.integers(1, 20), max_batch_s=st.floats(1.0, 300.0))
def test_every_piece_once_and_within_limits(seconds: list[float], batch_size: int, max_batch_s: float) -> None:
    batches = plan_batches(pieces_of(seconds), batch_size=batch_size, max_batch_s=max_batch_s)
    assert sorted(piece.row for batch in batches for piece in batch) == list(range(len(seconds)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        padded_s = len(batch) * max(piece.expected_s for piece in batch)
        assert len(batch) == 1 or padded_s <= max_batch_s


@given(seconds=SECONDS, order=st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(seconds: list[float], order: object) -> None:
    shuffled = pieces_of(seconds)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    limits = {"batch_size": 4, "max_batch_s": 100.0}
    assert plan_batches(shuffled, **limits) == plan_batches(pieces_of(seconds), **limits)


def test_neighbours_in_length_go_together() -> None:
    batches = plan_batches(pieces_of([1.0, 9.0, 1.1, 8.0]), batch_size=2, max_batch_s=100.0)
    assert [[piece.row for piece in batch] for batch in batches] == [[1, 3], [2, 0]]


@settings(deadline=None)
@given(expected_s=st.floats(0.01, 2_000.0), start_s=st.floats(0.0, 1000.0), limit=st.floats(0.5, 400.0))
def test_pieces_cover_the_utterance(expected_s: float, start_s: float, limit: float) -> None:
    pieces = split_utterance(3, start_s=start_s, duration_s=expected_s, expected_s=expected_s, max_duration_s=limit)
    assert {piece.n_parts for piece in pieces} == {len(pieces)}
    position = start_s
    for part, piece in enumerate(pieces):
        assert piece.part == part
        assert piece.start_s == pytest.approx(position, abs=1e-6)
        assert piece.duration_s is not None
        assert piece.duration_s <= limit * (1 + 1e-9) + 1e-6
        position += piece.duration_s
    assert position == pytest.approx(start_s + expected_s, abs=1e-4)


def test_whole_file_is_read_to_its_end() -> None:
    pieces = split_utterance(0, start_s=0.0, duration_s=None, expected_s=25.0, max_duration_s=10.0)
    assert [piece.duration_s for piece in pieces] == [pytest.approx(25 / 3), pytest.approx(25 / 3), None]
