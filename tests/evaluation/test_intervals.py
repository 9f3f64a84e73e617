"""Which interval is shown, and that its statement is true."""

from __future__ import annotations

import numpy as np
import pytest

from nestvox.errors import NestvoxError
from nestvox.evaluation import Settings, evaluate
from nestvox.metrics import eer, error_curve, speaker_bootstrap
from nestvox.metrics.influence import Clusters, eer_influence, logit_interval

FEW = {"settings": Settings(n_bootstrap=60)}


def direct(world, dim: int = 32):
    who = [[int(name[1:3]) for name in world.trials.frame[side]] for side in ("enrol", "test")]
    targets = world.trials.frame["target"].to_numpy()
    sides = [np.array(side) for side in who]
    curve, clusters = error_curve(world.cosines(dim), targets), Clusters(*sides)
    error = clusters.standard_error(eer_influence(curve))
    student = logit_interval(eer(curve).rate, error, clusters.size)
    return speaker_bootstrap(world.cosines(dim), targets, *sides, n_replicates=60), student, error


@pytest.mark.parametrize("interval", ["studentised", "percentile"])
def test_the_interval_that_was_asked_for(world, interval):
    row = evaluate(
        world.store(), world.trials, table=world.table, dims=[32], settings=Settings(n_bootstrap=60, interval=interval)
    ).headline
    spread, student, error = direct(world)
    expected = {"studentised": student, "percentile": spread.eer}[interval]
    assert row.eer.ends == pytest.approx(tuple(expected), abs=1e-9)
    assert (row.eer.interval, row.min_dcf.interval) == (interval, interval)
    assert row.eer.error == pytest.approx(error)
    words = {
        "studentised": ("Student's t with 11 degrees of freedom", "12 speakers (the speaker column of world.tsv)"),
        "percentile": ("60 bootstrap replicates (seed 0)", "drawn with replacement on both sides"),
    }
    assert all(word in row.interval for word in words[interval])
    assert ("nothing is resampled" in row.interval) == (interval == "studentised")


def test_studentised_is_the_usual_one(world):
    evaluation = evaluate(world.store(), world.trials, table=world.table, **FEW)
    assert evaluation.interval == "studentised"
    assert {row.eer.interval for row in evaluation.results} == {"studentised"}
    assert evaluation.to_dict()["eer_interval"] == "studentised"


def test_without_errors_there_is_no_studentised_interval_and_it_says_so(world):
    targets = world.trials.frame["target"].to_numpy()
    row = evaluate(targets.astype(float), world.trials, table=world.table, **FEW).headline
    assert (row.eer.value, row.eer.interval, row.min_dcf.interval) == (0.0, "percentile", "percentile")
    assert "60 bootstrap replicates" in row.interval
    assert "no studentised interval" in row.interval


def test_one_figure_with_and_one_without(world):
    """Half of the trials told apart by chance: the cost is 1 (accept nothing), the EER is one half and varies."""
    scores = np.random.default_rng(0).normal(size=len(world.trials))
    row = evaluate(scores, world.trials, table=world.table, settings=Settings(n_bootstrap=60, p_target=1e-6)).headline
    assert (row.min_dcf.value, row.min_dcf.interval, row.eer.interval) == (1.0, "percentile", "studentised")
    assert row.interval.index("EER: 95 % studentised") < row.interval.index("minDCF: 95 % percentile")
    assert "this minDCF has no studentised interval" in row.interval


def test_an_unknown_kind_is_refused(world):
    with pytest.raises(NestvoxError, match="studentised, percentile"):
        evaluate(world.store(), world.trials, settings=Settings(interval="normal"))
