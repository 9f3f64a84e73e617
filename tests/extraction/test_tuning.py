"""The trial finds the faster choice, given a clock that says which one it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from nestvox.extraction.tuning import Choice, Streams, choose

CLIPS = [np.zeros(16_000, np.float32)] * 64


def trial(cost: Callable[[int, int], float], **options: object) -> Choice:
    """Choose on a machine where a batch of `size` with `threads` takes cost(threads, size) seconds."""
    now, threads = 0.0, 0

    def forward(batch: Sequence[np.ndarray]) -> None:
        nonlocal now
        now += cost(threads, len(batch))

    def set_threads(count: int) -> None:
        nonlocal threads
        threads = count

    choice = choose(
        forward,
        CLIPS,
        sample_rate=16_000,
        set_threads=set_threads,
        clock=lambda: now,
        **{"decode_rate": 1000.0, "thread_counts": (2, 1), **options},  # type: ignore[arg-type]
    )
    assert threads == choice.threads
    return choice


def test_no_batching_where_it_only_pads() -> None:
    assert trial(lambda threads, size: 0.01 * size / threads).batch_size == 1


def test_batching_where_calls_cost() -> None:
    assert trial(lambda threads, size: 0.01 + 0.0001 * size).batch_size == 64


def test_middle_size_where_memory_bandwidth_ends() -> None:
    assert trial(lambda threads, size: 0.01 + (0 if size <= 4 else 0.05 * size)).batch_size == 4


@pytest.mark.parametrize(("slower", "expected"), [(1, 2), (2, 1)])
def test_threads(slower: int, expected: int) -> None:
    assert trial(lambda threads, size: 0.01 * size * (5 if threads == slower else 1)).threads == expected


def test_a_tie_keeps_the_preferred() -> None:
    choice = trial(lambda threads, size: 0.01 * size)
    assert (choice.threads, choice.batch_size) == (2, 1)


def test_slow_network_ends_the_trial_early() -> None:
    spent = 0.0

    def cost(threads: int, size: int) -> float:
        nonlocal spent
        spent += 1.0 * size
        return 1.0 * size

    assert trial(cost).batch_size == 1
    assert spent <= 4.0


def test_decoding_keeps_up_with_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    # One second of audio in 10 ms is 100 times real time; a decoder of 30 needs four threads.
    assert trial(lambda threads, size: 0.01 * size, decode_rate=30.0).workers == 4
    assert trial(lambda threads, size: 0.01 * size, decode_rate=1e6).workers == 1
    assert trial(lambda threads, size: 0.01 * size, decode_rate=0.1).workers == 8


def test_long_clips_only_are_tried_one_at_a_time() -> None:
    def forward(batch: Sequence[np.ndarray]) -> None:
        assert len(batch) == 1

    long = [np.zeros(16_000 * 60, np.float32)] * 5
    assert choose(forward, long, sample_rate=16_000, decode_rate=1.0, set_threads=lambda n: None).batch_size == 1


def test_streams_are_taken_where_they_are_faster() -> None:
    # Real time: a stand-in network that waits as a busy core would, and slows down with threads of its own.
    threads = {"count": 2}

    def forward(batch: Sequence[np.ndarray]) -> None:
        time.sleep(0.002 * len(batch))

    choice = choose(
        forward,
        CLIPS,
        sample_rate=16_000,
        decode_rate=1e6,
        set_threads=lambda count: threads.update(count=count),
        thread_counts=(2, 1),
        streams=4,
        budget_s=0.5,
    )
    assert (choice.streams, choice.threads) == (4, 1)


def test_streams_are_left_where_calls_exclude_each_other() -> None:
    now, lock = 0.0, threading.Lock()

    def forward(batch: Sequence[np.ndarray]) -> None:
        nonlocal now
        with lock:
            now += 0.002 * len(batch)

    choice = choose(
        forward,
        CLIPS,
        sample_rate=16_000,
        decode_rate=1e6,
        set_threads=lambda n: None,
        streams=4,
        budget_s=0.5,
        clock=lambda: now,
    )
    assert choice.streams == 1


def test_a_failure_in_a_stream_is_raised() -> None:
    def forward(batch: Sequence[np.ndarray]) -> None:
        raise ValueError("broken")

    with Streams(forward, 2, lambda: None) as streams, pytest.raises(ValueError, match="broken"):
        streams.submit(CLIPS[:1]).result()
