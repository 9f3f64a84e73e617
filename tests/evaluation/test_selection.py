"""A choice is made on other trials than those that are reported, or not at all."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from nestvox.corpora.trials import Trials
from nestvox.errors import NestvoxError, TrialsError
from nestvox.evaluation.comparing import compare_systems
from nestvox.evaluation.comparison import select_system
from nestvox.evaluation.estimates import Settings
from nestvox.scoring.refusals import refuse_shared_trials
from nestvox.scoring.sources import known_store, system_of_scores

FEW = {"settings": Settings(n_bootstrap=100), "n_permutations": 100}


@pytest.fixture
def halves(world) -> tuple[Trials, Trials]:
    """Trials of the first six speakers, and of the last six."""
    number = pl.col("enrol").str.slice(1, 2).cast(int), pl.col("test").str.slice(1, 2).cast(int)
    frame = world.trials.frame
    return (
        Trials(frame.filter((number[0] < 6) & (number[1] < 6)), "dev.txt"),
        Trials(frame.filter((number[0] >= 6) & (number[1] >= 6)), "test.txt"),
    )


def systems_on(trials: Trials):
    """Three systems of which ``fine`` is the best by far."""
    found = []
    for name, noise in (("poor", 2.0), ("fine", 0.3), ("fair", 0.8)):
        generator = np.random.default_rng(len(name) + ord(name[1]))
        scores = trials.frame["target"].to_numpy() + noise * generator.normal(size=len(trials))
        frame = trials.frame.select("enrol", "test").with_columns(pl.Series("score", scores))
        found.append(system_of_scores(name, trials, frame))
    return found


def test_the_best_on_other_trials_is_put_first_and_said(halves):
    dev, test = halves
    selection = select_system(dev, systems_on(dev), reported=test)
    assert selection.name == "fine"
    assert [found.eer for found in selection.candidates] == sorted(found.eer for found in selection.candidates)
    assert (selection.n_target, selection.n_nontarget, selection.trials_sha256) == (
        dev.n_target,
        dev.n_nontarget,
        dev.sha256,
    )
    found = compare_systems(test, systems_on(test), selection=selection, **FEW)
    assert [row.name for row in found.systems] == ["fine", "poor", "fair"]
    assert {row.a for row in found.rows} == {"fine"}
    assert any("fine was chosen of 3" in note and "dev.txt" in note for note in found.notes)
    assert not any("looks better than it is" in note for note in found.notes)
    assert found.to_dict()["selection"]["trials_sha256"] == dev.sha256


def test_every_dimension_is_a_candidate_and_of_equals_the_smaller(world, halves):
    dev, test = halves
    store = world.store()
    selection = select_system(dev, [known_store("a", dev, store).score()], reported=test)
    assert {found.dim for found in selection.candidates} == {8, 16, 32}
    rates = {found.dim: found.eer for found in selection.candidates}
    assert selection.dim == min(dim for dim, rate in rates.items() if rate == min(rates.values()))


def test_the_trials_that_are_reported_are_refused(halves):
    dev, test = halves
    with pytest.raises(TrialsError, match="the same trials"):
        select_system(test, systems_on(test), reported=test)
    # The same list in another order and under another name is the same list.
    shuffled = Trials(test.frame.sample(fraction=1.0, shuffle=True, seed=1), "copy.txt")
    with pytest.raises(TrialsError, match="same trials"):
        refuse_shared_trials(shuffled, test)
    # Two of them slipped in, with their sides turned.
    turned = test.frame.head(2).select(pl.col("test").alias("enrol"), pl.col("enrol").alias("test"), "target")
    with pytest.raises(TrialsError, match=rf"2 of {len(test)} trials of test\.txt stand in mixed\.txt"):
        refuse_shared_trials(Trials(pl.concat([dev.frame, turned]), "mixed.txt"), test)
    refuse_shared_trials(dev, test)


def test_a_choice_that_does_not_fit_the_comparison_is_refused(halves):
    dev, test = halves
    selection = select_system(dev, systems_on(dev), reported=test)
    with pytest.raises(TrialsError, match="other trials"):
        compare_systems(dev, systems_on(dev), selection=selection, **FEW)
    with pytest.raises(TrialsError, match="one of the systems"):
        compare_systems(test, [s for s in systems_on(test) if s.name != "fine"], selection=selection, **FEW)
    with pytest.raises(NestvoxError, match="no system"):
        select_system(dev, [], reported=test)
