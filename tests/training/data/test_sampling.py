"""Orders: everything once, the same whenever it is asked, shares that add up."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.errors import TrainingError
from nestvox.training.data.batches import (
    BalancedOrder,
    ShuffledOrder,
    WindowedOrder,
    generator,
    parts_of,
    seen_in,
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
        for row, times in Counter(batch.tolist()).items():
            assert times == 1 or counts[codes[row]] < utterances, "only who has too few is in a batch twice"
        used.update(batch.tolist())
    places = [-(-count // utterances) for count in counts]
    if max(places) <= len(batches):
        assert len(used) == sum(counts), "an epoch covers the data"
    else:
        assert len(batches) == 2 * sum(places) // 4, "as long as it may be"
    again = BalancedOrder(codes, 4, utterances, 1).batches(epoch)
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in batches]


@pytest.mark.parametrize(
    ("counts", "speakers", "utterances", "most"),
    [
        pytest.param([100] * 63 + [2], 64, 2, 6_400, id="one speaker of two utterances"),
        pytest.param([50] * 40 + [1] * 3, 43, 2, 4_000, id="speakers of one utterance"),
        pytest.param([5] * 32, 32, 4, 256, id="one more than a place takes"),
        pytest.param([300] + [40] * 60, 8, 2, 2_712, id="one speaker of many"),
        pytest.param([7] * 33, 32, 2, 384, id="one speaker more than a batch"),
        pytest.param([3, 60, 8, 41, 17, 2, 29], 4, 3, 240, id="all unequal"),
    ],
)
def test_an_epoch_by_speaker_covers_the_data(counts: list[int], speakers: int, utterances: int, most: int) -> None:
    codes = np.repeat(np.arange(len(counts)), counts)
    order = BalancedOrder(codes, speakers, utterances, 0)
    for epoch in range(2):
        batches = order.batches(epoch)
        found = seen_in(batches, codes, len(codes), len(counts))
        assert (found.utterances, found.speakers) == (sum(counts), len(counts))
        assert found.samples == sum(map(len, batches)) <= most
        assert found.words == f"all {sum(counts):,} utterances, all {len(counts)} speakers"
    assert not any("leaves out" in note for note in order.notes())


def test_what_an_epoch_cannot_cover_without_repeating_the_rest_is_said() -> None:
    counts = [2] * 31 + [10_000]
    codes = np.repeat(np.arange(32), counts)
    order = BalancedOrder(codes, 32, 2, 0)
    found = seen_in(order.batches(0), codes, len(codes), 32)
    # 31 + 5,000 places are needed, and an epoch has twice as many at the most: 314 batches, all with the one speaker.
    assert found.utterances == 31 * 2 + 314 * 2
    assert found.words == "690 of 10,062 utterances (6.9%), all 32 speakers"
    assert "an epoch leaves out 9,372 of 10,062 utterances, others each time: 1 of 32 speakers" in order.notes()[0]
    other = seen_in([*order.batches(0), *order.batches(1)], codes, len(codes), 32)
    assert other.utterances > found.utterances + 500, "others each time"


def test_who_has_too_few_utterances_is_said() -> None:
    order = BalancedOrder(np.repeat(np.arange(4), [1, 2, 3, 4]), 4, 3, 0)
    assert order.notes() == [
        "training.balanced: 2 of 4 speakers have fewer than 3 utterances; theirs are heard several times in a batch, "
        "in other clips or variants"
    ]
    assert order.notes(variants=1)[0].endswith("and compared with themselves: there is 1 variant")


def test_too_few_speakers() -> None:
    with pytest.raises(TrainingError, match=r"training\.balanced\.speakers is 5, but there are 3"):
        BalancedOrder(np.array([0, 1, 2]), 5, 2, 0)
