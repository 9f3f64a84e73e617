"""Orders: everything once, the same whenever it is asked, shares that add up."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.errors import TrainingError
from nestvox.training.sampling import (
    BalancedOrder,
    ShuffledOrder,
    WindowedOrder,
    generator,
    parts_of,
    share_of,
    times_before,
)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 300), size=st.integers(1, 60), epoch=st.integers(0, 5))
def test_every_row_once_an_epoch(n: int, size: int, epoch: int) -> None:
    order = ShuffledOrder(n, size, 3)
    batches = order.batches(epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert len(batches) == order.steps(epoch)
    assert all(len(batch) == size for batch in batches[:-1])
    # What is left is at least a quarter of a batch, or joins the last.
    assert len(batches) == 1 or size / 4 <= len(batches[-1]) < size * 1.25


def test_epochs_and_seeds_differ_and_repeat() -> None:
    first = ShuffledOrder(50, 50, 0).batches(0)[0].tolist()
    assert ShuffledOrder(50, 50, 0).batches(0)[0].tolist() == first
    assert ShuffledOrder(50, 50, 0).batches(1)[0].tolist() != first
    assert ShuffledOrder(50, 50, 1).batches(0)[0].tolist() != first
    assert generator(0, "order", 1).random() != generator(0, "variant", 1).random()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    at_once=st.integers(1, 14),
    size=st.integers(1, 20),
    epoch=st.integers(0, 3),
)
def test_a_few_shards_at_a_time(sizes: list[int], at_once: int, size: int, epoch: int) -> None:
    shard_of = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    order = WindowedOrder(len(shard_of), size, 3, shard_of=shard_of, open_shards=at_once)
    rows = np.concatenate(order.batches(epoch))
    assert sorted(rows.tolist()) == list(range(len(shard_of)))
    left = Counter(shard_of.tolist())
    opened: set[int] = set()
    for shard in shard_of[rows].tolist():
        opened.add(shard)
        left[shard] -= 1
        if all(left[one] == 0 for one in opened):
            opened.clear()  # the window is read
        assert len(opened) <= at_once
    assert [batch.tolist() for batch in order.batches(epoch)] == [batch.tolist() for batch in order.batches(epoch)]


def test_windows_are_shuffled_and_are_others_in_every_epoch() -> None:
    shard_of = np.repeat(np.arange(8), 50)
    order = WindowedOrder(400, 400, 0, shard_of=shard_of, open_shards=2)
    windows = [{frozenset(part.tolist()) for part in np.split(shard_of[order.batches(e)[0]], 4)} for e in range(3)]
    assert all(len(window) == 2 for epoch in windows for window in epoch)
    assert len({frozenset(epoch) for epoch in windows}) > 1
    first = order.batches(0)[0][:100]
    assert 30 < np.count_nonzero(np.diff(shard_of[first])) < 70, "the two take turns at random"


@settings(max_examples=60, deadline=None)
@given(n=st.integers(3, 60), size=st.integers(3, 20))
def test_a_batch_has_as_many_rows_as_it_needs(n: int, size: int) -> None:
    batches = ShuffledOrder(n, size, 3, fewest=3).batches(0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert min(map(len, batches)) >= 3


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 70), size=st.none() | st.integers(1, 20))
def test_parts_of_a_share_are_alike(n: int, size: int | None) -> None:
    parts = parts_of(np.arange(n), size)
    assert [row for part in parts for row in part.tolist()] == list(range(n))
    assert all(1 <= len(part) <= (size or n) for part in parts)
    assert size in (1, 2) or n <= 1 or min(map(len, parts)) > 1, "one row alone cannot be normalised"


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.integers(0, 5), max_size=20))
def test_how_often_a_row_was_there_before(rows: list[int]) -> None:
    found = times_before(np.array(rows, np.int64)).tolist()
    assert found == [rows[:place].count(row) for place, row in enumerate(rows)]


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 70), world=st.integers(1, 9))
def test_shares_add_up(n: int, world: int) -> None:
    shares = [share_of(np.arange(n), rank, world) for rank in range(world)]
    assert np.concatenate(shares).tolist() == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=4, max_size=20),
    utterances=st.integers(2, 4),
    epoch=st.integers(0, 3),
)
def test_a_batch_has_every_speaker_once(counts: list[int], utterances: int, epoch: int) -> None:
    codes = np.repeat(np.arange(len(counts)), counts)
    order = BalancedOrder(codes, 4, utterances, 1)
    batches = order.batches(epoch)
    assert batches
    assert len(batches) == order.steps(epoch)
    used: Counter[int] = Counter()
    for batch in batches:
        assert len(batch) == 4 * utterances
        groups = codes[batch].reshape(4, utterances)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0].tolist())) == 4
        used.update(batch.tolist())
    for row, times in used.items():
        assert times == 1 or counts[codes[row]] < utterances, "only who has too few is heard twice"
    again = BalancedOrder(codes, 4, utterances, 1).batches(epoch)
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in batches]


def test_too_few_speakers() -> None:
    with pytest.raises(TrainingError, match=r"training\.balanced\.speakers is 5, but there are 3"):
        BalancedOrder(np.array([0, 1, 2]), 5, 2, 0)
