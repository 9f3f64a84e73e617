"""Splitting by speaker, and lists whose size nobody gave."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from nestvox.corpora.generate import generate_trials, usual_counts
from nestvox.corpora.split import split_by_speaker
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import TableError, TrialsError


def table_of(counts: dict[str, int], **columns: list[str]) -> UtteranceTable:
    rows = [(f"{name}-{i}", f"{name}/{i}.wav", name) for name, count in counts.items() for i in range(count)]
    frame = pl.DataFrame(rows, schema=["utt_id", "path", "speaker"], orient="row")
    return UtteranceTable(frame.with_columns(**{k: pl.Series(v) for k, v in columns.items()}), "t.tsv", Path())


FIFTY = {f"s{i}": 1 + i % 4 for i in range(50)}  # 37 with two or more


def test_every_speaker_is_in_one_part_and_who_has_one_recording_is_trained_on() -> None:
    frame = split_by_speaker(table_of(FIFTY)).frame
    assert frame.group_by("speaker").agg(pl.col("split").n_unique())["split"].max() == 1
    sizes = dict(frame.group_by("split").agg(pl.col("speaker").n_unique()).iter_rows())
    assert sizes == {"test": 7, "dev": 7, "train": 36}
    single = [name for name, count in FIFTY.items() if count == 1]
    assert set(frame.filter(pl.col("speaker").is_in(single))["split"]) == {"train"}


def test_the_order_of_rows_changes_nothing_and_the_seed_does() -> None:
    table = table_of(FIFTY)
    mixed = UtteranceTable(table.frame.sample(fraction=1, shuffle=True, seed=3), "t.tsv", Path())
    parts = [
        dict(split_by_speaker(each, seed=seed).frame.select("speaker", "split").iter_rows())
        for each, seed in ((table, 0), (mixed, 0), (table, 1))
    ]
    assert parts[0] == parts[1]
    assert parts[0] != parts[2]


def test_the_draw_is_the_documented_one() -> None:
    import hashlib

    order = sorted("abcdefghij", key=lambda name: hashlib.sha256(f"5\nsplit\n{name}".encode()).digest())
    frame = split_by_speaker(table_of(dict.fromkeys("abcdefghij", 2)), seed=5).frame
    assert set(frame.filter(pl.col("split") == "test")["speaker"]) == set(order[:2])
    assert set(frame.filter(pl.col("split") == "dev")["speaker"]) == set(order[2:4])


def test_two_spellings_of_one_name_stay_together() -> None:
    names = [spelt for i in range(12) for spelt in (f"Jos\u00e9{i}", f"Jose\u0301{i}")]
    rows = [(f"u{i}", f"{i}.wav", name) for i, name in enumerate(names)]
    frame = pl.DataFrame(rows, schema=["utt_id", "path", "speaker"], orient="row")
    split = split_by_speaker(UtteranceTable(frame, "t.tsv", Path())).frame["split"].to_list()
    assert split[::2] == split[1::2]
    assert set(split) == {"train", "dev", "test"}


@pytest.mark.parametrize(
    ("counts", "options", "words"),
    [
        (dict.fromkeys("abcde", 3), {}, "5 speakers have two recordings or more; 6 are needed"),
        (dict.fromkeys("abcdefgh", 1), {}, "0 speakers"),
        (FIFTY, {"dev": 0.6, "test": 0.5}, "together below 1"),
        (FIFTY, {"dev": -0.1}, "above 0"),
        (FIFTY, {"dev": float("nan")}, "above 0"),
        (FIFTY, {"dev": 0, "test": 0}, "above 0"),
    ],
)
def test_what_cannot_be_split_is_refused(counts: dict[str, int], options: dict[str, float], words: str) -> None:
    with pytest.raises(TableError, match=words):
        split_by_speaker(table_of(counts), **options)


def test_a_split_is_not_replaced() -> None:
    table = split_by_speaker(table_of(FIFTY))
    with pytest.raises(TableError, match="split already"):
        split_by_speaker(table)


def test_the_usual_lists_are_what_there_is_up_to_a_bound() -> None:
    # 1 + 3 + 6 targets, 2 * 3 + 2 * 4 + 3 * 4 = 26 non-targets.
    small = table_of({"a": 2, "b": 3, "c": 4})
    assert usual_counts(small) == (10, 26)
    assert len(generate_trials(small, n_target=10, n_nontarget=26, seed=0)) == 36
    large = table_of(dict.fromkeys("abcdef", 20))
    assert usual_counts(large) == (180, 540)
    # Women meet women, men meet men: 4 + 4.
    sexes = table_of(dict.fromkeys("abcd", 2), sex=["f"] * 4 + ["m"] * 4)
    assert usual_counts(sexes) == (4, 8)
    assert len(generate_trials(sexes, n_target=4, n_nontarget=8, seed=0)) == 12


@pytest.mark.parametrize(("counts", "words"), [({"a": 9}, "one speaker"), ({"a": 1, "b": 1}, "two recordings")])
def test_no_list_without_both_kinds(counts: dict[str, int], words: str) -> None:
    with pytest.raises(TrialsError, match=words):
        usual_counts(table_of(counts))
