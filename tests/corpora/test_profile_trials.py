"""Trials of profiles: who meets whom, and what a name with bars stands for."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvox.corpora import Trials, UtteranceTable, check_corpus, generate_profile_trials, read_trials, write_trials
from nestvox.corpora.profiles import profile_name, profile_sizes, recordings_of_name
from nestvox.errors import TrialsError


def table_of(counts: dict[str, int], sessions: dict[str, list[str]] | None = None) -> UtteranceTable:
    rows = [(f"{who}-{n}", f"{who}/{n}.wav", who) for who, count in counts.items() for n in range(count)]
    frame = pl.DataFrame(rows, schema=["utt_id", "path", "speaker"], orient="row")
    if sessions is not None:
        frame = frame.with_columns(pl.Series("session", [one for who in counts for one in sessions[who]]))
    return UtteranceTable(frame, "made", Path())


def test_everybody_meets_what_is_in_no_profile() -> None:
    table = table_of({"a": 5, "b": 4, "c": 3, "d": 1})
    trials = generate_profile_trials(table, profiles=3)
    profiles = {name.split("-")[0]: name.split("|") for name in trials.frame["enrol"].unique()}
    assert {who: len(names) for who, names in profiles.items()} == {"a": 3, "b": 3, "c": 3}
    used = {name for names in profiles.values() for name in names}
    left = set(table.frame["utt_id"]) - used
    assert {name.split("-")[0] for name in used} == {"a", "b", "c"}
    expected = {
        ("|".join(sorted(names)), test, who == test.split("-")[0]) for who, names in profiles.items() for test in left
    }
    assert set(trials.frame.rows()) == expected
    assert (trials.n_target, trials.n_nontarget) == (3, 3 * 4 - 3)
    again = generate_profile_trials(
        UtteranceTable(table.frame.sample(fraction=1, shuffle=True), "made", Path()), profiles=3
    )
    assert again.sha256 == trials.sha256
    assert generate_profile_trials(table, profiles=3, seed=1).sha256 != trials.sha256
    some = generate_profile_trials(table, profiles=3, n_target=2, n_nontarget=5)
    assert (some.n_target, some.n_nontarget) == (2, 5)
    assert set(some.frame.rows()) <= expected


def test_whole_sessions_are_left_to_test_with() -> None:
    table = table_of({"a": 6, "b": 6}, {"a": ["x", "y"] * 3, "b": ["x"] * 6})
    trials = generate_profile_trials(table, profiles=3)
    session = dict(zip(table.frame["utt_id"], table.frame["session"], strict=True))
    targets = trials.frame.filter(pl.col("target"))
    for enrol, test, _ in targets.filter(pl.col("enrol").str.starts_with("a")).iter_rows():
        assert session[test] not in {session[name] for name in enrol.split("|")}
    assert len(targets) == 6  # b has no other session


def test_what_shares_a_file_with_the_profile_is_no_target() -> None:
    table = table_of({"a": 4, "b": 4})
    table = UtteranceTable(table.frame.with_columns(path=pl.col("speaker") + ".wav"), "made", Path())
    with pytest.raises(TrialsError, match="no trials for targets"):
        generate_profile_trials(table, profiles=2)


@pytest.mark.parametrize(
    ("counts", "asked", "said"),
    [
        ({"a": 3, "b": 3}, {"profiles": 3}, "no speaker has 4 recordings"),
        ({"a": 3}, {"profiles": 2}, "nobody else speaks"),
        ({"a": 3, "b": 3}, {"profiles": 0}, "1 recording or more"),
        ({"a": 3, "b": 3}, {"profiles": 2, "n_target": 3}, "the table has 2"),
        ({"a|x": 3, "b": 3}, {"profiles": 2}, "which parts the recordings"),
    ],
)
def test_what_cannot_be_drawn(counts: dict[str, int], asked: dict[str, int], said: str) -> None:
    with pytest.raises(TrialsError, match=said):
        generate_profile_trials(table_of(counts), **asked)


@given(
    st.lists(
        st.text(st.characters(exclude_characters="|\t\r\n ", exclude_categories=["C", "Z"]), min_size=1),
        min_size=1,
        max_size=5,
        unique=True,
    )
)
def test_names_come_back(names: list[str]) -> None:
    assert sorted(recordings_of_name(profile_name(names))) == sorted(names)


@pytest.mark.parametrize("name", ["|", "a|", "|a", "a||b", "a|a", "a| |b"])
def test_no_profiles(name: str) -> None:
    with pytest.raises(TrialsError, match="is no profile"):
        recordings_of_name(name)
    assert recordings_of_name(name, {name}) == [name]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".txt"])
def test_every_format_holds_them(tmp_path: Path, suffix: str) -> None:
    trials = generate_profile_trials(table_of({"a": 5, "b": 4}), profiles=3)
    write_trials(trials, tmp_path / f"list{suffix}")
    read = read_trials(tmp_path / f"list{suffix}")
    assert read.sha256 == trials.sha256
    assert profile_sizes(read).tolist() == [3] * len(read)


def test_the_check_knows_profiles() -> None:
    table = table_of({"a": 5, "b": 4})
    good = generate_profile_trials(table, profiles=3)
    found = {one.kind: one.examples for one in check_corpus([table], [good], audio=False).findings}
    assert not {kind for kind in found if kind.startswith(("trial", "profile"))}
    rows = [("a-0|b-0", "a-1", True), ("a-0|a-9", "a-1", True), ("a-0|a-1", "a-1", True), ("a-0|a-1", "b-1", True)]
    bad = Trials(pl.DataFrame(rows, schema=["enrol", "test", "target"], orient="row"), "bad")
    found = {one.kind: one.examples for one in check_corpus([table], [bad], audio=False).findings}
    assert found["trial-name-unknown"] == ("a-9",)
    assert found["profile-of-several"] == ("a-0|b-0",)
    assert found["trial-with-itself"] == ("a-1",)
    assert "a-0|a-1 b-1" in found["trial-label-wrong"][0]
