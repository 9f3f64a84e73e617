"""Trials of profiles are scored with the mean of unit vectors, as it is spelled out here."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from nestvox import evaluate
from nestvox.corpora import Trials, generate_profile_trials
from nestvox.errors import ModelError, ScoresError, TrialsError
from nestvox.evaluation.llr_fit import calibrate
from nestvox.evaluation.set_threshold import threshold, use_thresholds
from nestvox.metrics.thresholds import DecisionRule
from nestvox.scoring.conditions import values_of_sides
from nestvox.scoring.pipeline import score_trials
from nestvox.scoring.profiles import profile_means
from nestvox.scoring.quality import trial_durations_s
from nestvox.scoring.sources import known
from nestvox.testing import World


def by_hand(world: World, name: str) -> np.ndarray:
    row_of = {name: row for row, name in enumerate(world.table.frame["utt_id"])}
    units = [world.vectors[row_of[one]].astype(float) for one in name.split("|")]
    return np.mean([unit / np.linalg.norm(unit) for unit in units], axis=0)


def test_scores_of_a_store(world: World) -> None:
    trials = generate_profile_trials(world.table, profiles=4)
    for given in (world.store(), world.store("again").path):
        system = known(given, trials).score()
        for dim, scores in system.scores.items():
            for (enrol, test, _), score in list(zip(trials.frame.iter_rows(), scores, strict=True))[::17]:
                a, b = by_hand(world, enrol)[:dim], by_hand(world, test)[:dim]
                assert score == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)
    assert system.speakers is not None
    assert all((a == b) == t for a, b, t in zip(*system.speakers, trials.frame["target"], strict=True))


def test_cutting_first_would_be_another_score(world: World) -> None:
    trials = generate_profile_trials(world.table, profiles=4)
    dim = 8
    scores = known(world.store(), trials, dims=[dim]).score().scores[dim]
    row_of = {name: row for row, name in enumerate(world.table.frame["utt_id"])}
    cut = []
    for enrol, test, _ in trials.frame.iter_rows():
        units = [world.vectors[row_of[one], :dim] for one in enrol.split("|")]
        mean, probe = np.mean([u / np.linalg.norm(u) for u in units], axis=0), world.vectors[row_of[test], :dim]
        cut.append(mean @ probe / np.linalg.norm(mean) / np.linalg.norm(probe))
    assert np.abs(np.array(cut) - scores).max() > 1e-3


def test_everything_takes_them(world: World) -> None:
    trials = generate_profile_trials(world.table, profiles=4)
    store = world.store()
    rates = {row.dim: row.eer.value for row in evaluate(store, trials, table=world.table).results}
    pairs = generate_profile_trials(world.table, profiles=1)
    single = {row.dim: row.eer.value for row in evaluate(store, pairs, table=world.table).results}
    assert rates[32] < single[32]
    rule = DecisionRule("far", 0.05)
    made = threshold(store, trials, rule, n_bootstrap=40)
    assert {one.enrol_clips for one in made.thresholds} == {4}
    assert "profiles of 4 recordings" in made.thresholds[0].describe()
    assert {one.enrol_clips for one in threshold(store, pairs, rule, n_bootstrap=40).thresholds} == {1}
    scored = score_trials(known(store, pairs))
    with pytest.raises(ModelError, match="set on profiles of 4 recordings, these trials are pairs"):
        use_thresholds(made.thresholds, scored.system, pairs, scored.speakers, n_bootstrap=40)
    mixed = Trials(pl.concat([trials.frame, pairs.frame]), "mixed")
    with pytest.raises(TrialsError, match="profiles of 1, 4 recordings"):
        threshold(store, mixed, rule, n_bootstrap=40)
    with pytest.raises(TrialsError, match="a calibration is of pairs"):
        calibrate(store, trials)
    strangers = Trials(pl.DataFrame({"enrol": ["u00-0|u01-0"], "test": ["u02-1"], "target": [False]}), "strangers")
    with pytest.raises(TrialsError, match="one speaker, here are s00 and s01"):
        known(store, strangers)


def test_conditions_of_profiles(world: World) -> None:
    frame = world.table.frame.with_row_index("n").with_columns(
        duration_s=pl.col("n").cast(pl.Float64) + 1, room=pl.col("utt_id").str.slice(-1), synthetic=pl.col("n") == 1
    )
    table = type(world.table)(frame.drop("n"), "t", world.folder)
    trials = Trials(
        pl.DataFrame({"enrol": ["u00-0|u00-1", "u00-2"], "test": ["u00-5", "u01-0"], "target": [True, False]}), "t"
    )
    sides = values_of_sides(table, trials, ["corpus", "room", "synthetic"])
    assert sides["corpus"] == (["a", "a"], ["a", "a"])
    assert sides["room"] == (["mixed", "2"], ["5", "0"])
    assert sides["synthetic"] == ([True, False], [False, False])
    assert trial_durations_s(trials, table).tolist() == [3.0, 3.0]  # 1 + 2 against 6; 3 against 7


def test_what_has_no_mean() -> None:
    with pytest.raises(ScoresError, match="no recordings"):
        profile_means(np.eye(3), [[]])
    with pytest.raises(ScoresError, match="cancel"):
        profile_means(np.array([[1.0, 0], [-2, 0]]), [[0, 1]])
    with pytest.raises(ScoresError, match="zero"):
        profile_means(np.zeros((1, 2)), [[0]])
    assert profile_means(np.array([[3.0, 0], [0, 5]]), [[0, 1]]).tolist() == [[0.5, 0.5]]
