"""Generated lists: the rules hold on any table, and a second implementation of the description draws the same."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.corpora import PRESETS, UtteranceTable, generate_trials, read_utterances
from nestvox.errors import TrialsError


def table_of(rows: list[dict]) -> UtteranceTable:
    names = {"utt_id", "path", "speaker", "session", "recording", "sex"}
    frame = pl.DataFrame(rows, schema=dict.fromkeys(sorted(names), pl.String))
    return UtteranceTable(frame, "made", Path())


def even(speakers: int, utterances: int, **more: str) -> UtteranceTable:
    return table_of(
        [
            {"utt_id": f"s{s}-u{u}", "path": f"{s}/{u}.wav", "speaker": f"s{s}", **more}
            for s in range(speakers)
            for u in range(utterances)
        ]
    )


def sample(seed: int, label: str, items: list, count: int) -> list:
    """The first `count` of a Fisher-Yates shuffle driven by SHA-256, as the module describes it."""
    items = list(items)
    for i in range(count):
        digest = hashlib.sha256(f"{seed}\n{label}\n{i}".encode()).hexdigest()
        j = i + int(digest[:16], 16) % (len(items) - i)
        items[i], items[j] = items[j], items[i]
    return items[:count]


def test_a_second_implementation_draws_the_same_list() -> None:
    """Four speakers of one sex, three utterances each: round-robin by hand."""
    seed, n_target, n_nontarget = 42, 7, 9
    speakers = {f"s{s}": [f"s{s}-u{u}" for u in range(3)] for s in range(4)}
    expected = []
    turns = sample(seed, "targets", sorted(speakers), 4)
    for turn in range(n_target):
        name = turns[turn % 4]
        pairs = list(itertools.combinations(speakers[name], 2))
        expected.append((*sample(seed, f"target\n{name}", pairs, turn // 4 + 1)[-1], True))
    ring = sample(seed, "nontargets", sorted(speakers), 4)
    met: Counter[tuple[str, str]] = Counter()
    for turn in range(n_nontarget):
        place, step = turn % 4, turn // 4 % 3 + 1
        mine, other = ring[place], ring[(place + step) % 4]
        low, high = sorted((mine, other))
        met[low, high] += 1
        products = [(a, b) for a in speakers[low] for b in speakers[high]]
        a, b = sample(seed, f"nontarget\n{low}\n{high}", products, met[low, high])[-1]
        expected.append((a, b, False) if mine == low else (b, a, False))
    drawn = generate_trials(even(4, 3, sex="f"), n_target=n_target, n_nontarget=n_nontarget, seed=seed)
    assert drawn.frame.rows() == sorted(expected)


def test_the_order_of_the_table_does_not_matter_and_the_seed_does() -> None:
    table = even(6, 4)
    shuffled = UtteranceTable(table.frame.sample(fraction=1, shuffle=True, seed=1), "made", Path())
    draws = {"n_target": 20, "n_nontarget": 30}
    assert generate_trials(table, seed=1, **draws).frame.equals(generate_trials(shuffled, seed=1, **draws).frame)
    assert generate_trials(table, seed=1, **draws).sha256 != generate_trials(table, seed=2, **draws).sha256


_OPTIONAL = st.sampled_from([None, "1", "2", "3"])


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("ABCDEF"), _OPTIONAL, _OPTIONAL, st.integers(0, 9)), min_size=2, max_size=30
    ),
    sexes=st.fixed_dictionaries({name: st.sampled_from([None, "f", "F", "m", "unknown"]) for name in "ABCDEF"}),
    seed=st.integers(0, 5),
)
def test_the_rules_hold_on_any_table(rows: list, sexes: dict, seed: int) -> None:
    made = [
        {"utt_id": f"u{i}", "path": f"{path}.wav", "speaker": speaker, "session": session, "recording": recording}
        | {"sex": sexes[speaker]}
        for i, (speaker, session, recording, path) in enumerate(rows)
    ]
    row_of = {row["utt_id"]: row for row in made}
    table = table_of(made)

    def may_be_target(a: dict, b: dict) -> bool:
        one_recording = a["path"] == b["path"] or (a["recording"] is not None and a["recording"] == b["recording"])
        return a["speaker"] == b["speaker"] and not one_recording

    def across(a: dict, b: dict) -> bool:
        return None not in (a["session"], b["session"]) and a["session"] != b["session"]

    allowed: Counter[str] = Counter()
    for name in "ABCDEF":
        pairs = [(a, b) for a, b in itertools.combinations(made, 2) if a["speaker"] == name and may_be_target(a, b)]
        allowed[name] = sum(across(a, b) for a, b in pairs) or len(pairs)
    most = sum(allowed.values())
    if most:
        targets = generate_trials(table, n_target=most, n_nontarget=0, seed=seed).frame.rows()
        assert len({frozenset(row[:2]) for row in targets}) == most
        for enrol, test, target in targets:
            assert target
            assert may_be_target(row_of[enrol], row_of[test])
        assert Counter(row_of[row[0]]["speaker"] for row in targets) == +allowed
    with pytest.raises(TrialsError, match=f"asked for {most + 1} targets, the table has {most}"):
        generate_trials(table, n_target=most + 1, n_nontarget=0, seed=seed)

    def sex(speaker: str) -> str:
        return "" if sexes[speaker] in (None, "unknown") else sexes[speaker].lower()

    members = {row["speaker"] for row in made}
    alone = {name for name in members if sum(sex(other) == sex(name) for other in members) == 1}
    possible = {
        frozenset((a["utt_id"], b["utt_id"]))
        for a, b in itertools.combinations(made, 2)
        if a["speaker"] != b["speaker"]
        and (sex(a["speaker"]) == sex(b["speaker"]) or {a["speaker"], b["speaker"]} & alone)
    }
    if possible:
        drawn = generate_trials(table, n_target=0, n_nontarget=len(possible), seed=seed).frame
        assert {frozenset(row[:2]) for row in drawn.rows()} == possible
        assert not drawn["target"].any()
    with pytest.raises(TrialsError, match=f"asked for {len(possible) + 1} non-targets, the table has {len(possible)}"):
        generate_trials(table, n_target=0, n_nontarget=len(possible) + 1, seed=seed)


def test_speakers_take_equal_turns_on_both_sides() -> None:
    trials = generate_trials(even(10, 8, sex="m"), n_target=50, n_nontarget=200, seed=0).frame
    speaker = pl.col("enrol").str.split("-").list.first(), pl.col("test").str.split("-").list.first()
    targets = trials.filter("target").select(speaker[0])["enrol"].value_counts()["count"]
    assert targets.to_list() == [5] * 10
    for side in speaker:
        assert trials.filter(~pl.col("target")).select(side).to_series().value_counts()["count"].to_list() == [20] * 10


def test_few_trials_still_go_to_different_speakers() -> None:
    trials = generate_trials(even(10, 8), n_target=10, n_nontarget=10, seed=3).frame
    for target in (True, False):
        names = trials.filter(pl.col("target") == target)["enrol"].str.split("-").list.first()
        assert names.n_unique() == 10


def test_trials_by_path() -> None:
    table = even(3, 3)
    by_id = generate_trials(table, n_target=5, n_nontarget=5, seed=0)
    by_path = generate_trials(table, n_target=5, n_nontarget=5, seed=0, name_by="path")
    for side in ("enrol", "test"):
        assert sorted(table.resolve(by_id.frame[side])) == sorted(table.resolve(by_path.frame[side]))
    shared = table_of([{"utt_id": name, "path": "x.wav", "speaker": name} for name in "ab"])
    with pytest.raises(TrialsError, match="share a path"):
        generate_trials(shared, n_target=0, n_nontarget=1, seed=0, name_by="path")


@pytest.mark.parametrize(("n_target", "n_nontarget"), [(0, 0), (-1, 5)])
def test_numbers_that_make_no_sense(n_target: int, n_nontarget: int) -> None:
    with pytest.raises(TrialsError, match="0 or more"):
        generate_trials(even(3, 3), n_target=n_target, n_nontarget=n_nontarget, seed=0)


def test_presets_on_real_speech(speech_dir: Path) -> None:
    table = read_utterances(speech_dir / "utterances.tsv").where(split="dev")
    assert [(p.n_target, p.n_nontarget, p.seed) for _, p in sorted(PRESETS.items())] == [(125, 125, 42), (125, 125, 43)]
    hashes = set()
    for preset in PRESETS.values():
        trials = generate_trials(table, n_target=preset.n_target, n_nontarget=preset.n_nontarget, seed=preset.seed)
        hashes.add(trials.sha256)
        assert (trials.n_target, trials.n_nontarget) == (125, 125)
        speaker = table.frame["speaker"].to_numpy()
        enrol, test = (table.resolve(trials.frame[side]) for side in ("enrol", "test"))
        assert ((speaker[enrol] == speaker[test]) == trials.frame["target"].to_numpy()).all()
    assert len(hashes) == 2
