"""Lists that name more than is there: refused, or measured on what remains, with a note and another hash."""

from __future__ import annotations

import hashlib

import polars as pl
import pytest

from nestvox.corpora.trials import Trials
from nestvox.errors import TrialsError
from nestvox.scoring.sources import without_missing

PAIRS = [("a1", "a2", True), ("a1", "b1", False), ("b1", "b2", True), ("b2", "a3", False), ("a3", "a1", True)]


@pytest.fixture
def trials() -> Trials:
    return Trials(pl.DataFrame(PAIRS, schema=["enrol", "test", "target"], orient="row"), "list.txt")


def test_what_remains_is_another_list(trials: Trials) -> None:
    there = {"a1", "a2", "b1", "b2"}
    kept, notes = without_missing(trials, there)
    assert kept.frame.rows() == PAIRS[:3]
    lines = sorted(f"{enrol}\t{test}\t{int(target)}\n" for enrol, test, target in PAIRS[:3])
    assert kept.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert kept.source == "list.txt without 2 of 5 trials"
    assert notes == (
        "2 of 5 trials were left out because 1 utterances are missing, e.g. a3: "
        f"these are not the rates of the whole list (sha256 {trials.sha256}).",
    )


def test_all_there_and_none_there(trials: Trials) -> None:
    names = {name for pair in PAIRS for name in pair[:2]}
    assert without_missing(trials, names) == (trials, ())
    with pytest.raises(TrialsError, match=r"list\.txt: none of 5 trials has both .*4 are missing, e\.g\. a1, "):
        without_missing(trials, {"a2"})
