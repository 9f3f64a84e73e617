"""Calibration of a system against scikit-learn, and the cost on speakers that were held out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.trials import read_trials
from nestvox.errors import OverlapError, TrialsError
from nestvox.evaluation import llr_fit
from nestvox.evaluation.llr_fit import fit_llr
from nestvox.metrics import cllr, error_curve
from nestvox.scoring.quality import trial_quality
from nestvox.scoring.sources import known_store, system_of_scores
from nestvox.scoring.speakers import trial_speakers


def parts(world, **changes):
    system = known_store("tiny", world.trials, world.store(**changes)).score()
    return system, world.trials, trial_speakers(world.trials, [system], table=world.table)


def columns_of(columns):
    return columns[:, 0], columns[:, 1:]


@pytest.mark.parametrize("prior", [0.5, 0.05])
def test_equals_logistic_regression_with_weighted_samples(world, prior):
    linear = pytest.importorskip("sklearn.linear_model")
    system, trials, speakers = parts(world)
    quality = trial_quality(["norm"], system, trials, world.table)
    ridge = 1e-2
    found = fit_llr(system, trials, speakers, measures=["norm"], quality=quality, prior=prior, ridge=ridge)
    targets = trials.frame["target"].to_numpy()
    row_of = {name: row for row, name in enumerate(world.table.frame["utt_id"])}
    for dim in (8, 32):
        lengths = np.log(np.linalg.norm(world.vectors[:, :dim].astype(np.float64), axis=1))
        a, b = (np.array([lengths[row_of[name]] for name in trials.frame[side]]) for side in ("enrol", "test"))
        columns = np.column_stack([world.cosines(dim), (a + b) / 2, np.abs(a - b)])
        centred = (columns - columns.mean(axis=0)) / columns.std(axis=0)
        weights = np.where(targets, prior / targets.sum(), (1 - prior) / (~targets).sum())
        oracle = linear.LogisticRegression(C=1 / ridge, solver="newton-cholesky", tol=1e-12, max_iter=1000)
        oracle.fit(centred, targets, sample_weight=weights)
        expected = oracle.decision_function(centred) - math.log(prior / (1 - prior))
        found_llr = found.llr.llr(dim, system.scores[dim], quality[dim])
        np.testing.assert_allclose(found.llr.maps[dim].affine(*columns_of(columns)), expected, atol=2e-4)
        low, high = found.llr.maps[dim].bounds
        inside = (expected > low + 1) & (expected < high - 1)
        assert inside.mean() > 0.5
        np.testing.assert_allclose(found_llr[inside], expected[inside], atol=2e-4)
        assert ((found_llr > low) & (found_llr < high)).all()


def test_costs_are_those_of_the_scores_before_and_after(world):
    system, trials, speakers = parts(world)
    found = fit_llr(system, trials, speakers, p_target=0.3)
    targets = trials.frame["target"].to_numpy()
    assert [cost.dim for cost in found.before] == [8, 16, 32]
    assert found.before[2].cllr == pytest.approx(cllr(error_curve(world.cosines(32), targets)))
    for before, after in zip(found.before, found.after, strict=True):
        assert after.cllr < before.cllr
        assert after.min_cllr == pytest.approx(before.min_cllr)
        assert after.cllr >= after.min_cllr
    assert found.llr.trials_sha256 == trials.sha256
    assert set(found.llr.speakers) == {speaker_key(f"s{speaker:02}") for speaker in range(12)}


def test_nobody_is_held_out_from_a_map_that_knows_them(world, monkeypatch):
    system, trials, speakers = parts(world)
    system = replace(system, scores={32: system.scores[32]})
    row_of = {score: row for row, score in enumerate(system.scores[32])}
    assert len(row_of) == len(trials)
    fit = llr_fit.fit_calibration
    calls = []

    def recorded(scores, targets, columns, **settings):
        made = fit(scores, targets, columns, **settings)
        if len(scores) == len(trials):
            return made
        known = {int(s) for score in scores for s in (speakers.enrol[row_of[score]], speakers.test[row_of[score]])}
        calls.append(known)

        def apply(values, columns=None):
            judged = {int(s) for v in values for s in (speakers.enrol[row_of[v]], speakers.test[row_of[v]])}
            assert not judged & known
            return made(values, columns)

        return apply

    monkeypatch.setattr(llr_fit, "fit_calibration", recorded)
    monkeypatch.setattr(llr_fit.LlrCalibration, "llr", lambda self, dim, scores, quality: np.asarray(scores))
    found = fit_llr(system, trials, speakers)
    assert len(calls) >= 5
    assert (found.held_out[0].n_target, found.held_out[0].n_nontarget) == (trials.n_target, trials.n_nontarget)


def test_held_out_is_close_to_fitted_and_hardly_ever_better(world):
    found = fit_llr(*parts(world))
    for fitted, apart in zip(found.after, found.held_out, strict=True):
        assert apart.cllr == pytest.approx(fitted.cllr, rel=0.2)
        assert apart.cllr > fitted.cllr - 1e-3


def listed(tmp_path, pairs, scores):
    """Trials of speakers by VoxCeleb's names, and their scores."""
    (tmp_path / "t.txt").write_text("".join(f"{int(same)} {a} {b}\n" for same, a, b in pairs))
    trials = read_trials(tmp_path / "t.txt")
    frame = trials.frame.select("enrol", "test").with_columns(score=pl.Series(scores))
    system = system_of_scores("scores", trials, frame)
    return system, trials, trial_speakers(trials, [system])


def two_speakers(n):
    """n target and n non-target trials of two speakers only, far apart."""
    name = "id1000{}/v/{}.wav".format
    pairs = [(True, name(i % 2, i), name(i % 2, i + n)) for i in range(n)]
    pairs += [(False, name(0, i), name(1, i + 1 + 2 * n)) for i in range(n)]
    return pairs, [0.8 + 0.001 * (i % 7) for i in range(n)] + [0.1 + 0.001 * (i % 5) for i in range(n)]


def test_many_trials_of_two_speakers_are_little_evidence(tmp_path):
    system, trials, speakers = listed(tmp_path, *two_speakers(400))
    found = fit_llr(system, trials, speakers)
    low, high = found.llr.maps[None].bounds
    # Endlessly many trials of one pair of speakers, whose errors correlate by 0.7, are worth 1 / 0.7 independent ones.
    assert high == pytest.approx(math.log(1 + 1 / 0.7), abs=0.01)
    assert -math.log(1 + 2 / 0.25) < low < -math.log(1 + 1.8 / 0.25)
    assert any("do not overlap" in note for note in found.notes)
    assert any("worth 8 independent target and 1 non-target" in note for note in found.notes)


def test_too_few_trials_are_refused(tmp_path):
    for n in (2, 9):
        with pytest.raises(TrialsError, match=f"{n} target and {n} non-target trials cannot carry a calibration"):
            fit_llr(*listed(tmp_path, *two_speakers(n)))
    assert fit_llr(*listed(tmp_path, *two_speakers(10))).llr.maps[None].n_target == 10


def test_speakers_that_are_not_known_or_too_few(world):
    system, trials, _ = parts(world)
    unknown = trial_speakers(trials, [replace(system, speakers=None)])
    found = fit_llr(system, trials, unknown)
    assert (found.held_out, found.llr.speakers) == ((), ())
    assert any("cannot refuse" in note for note in found.notes)


def test_training_speakers_are_refused_or_labelled(world):
    system, trials, speakers = parts(world, training_speakers=(speaker_key("s04"),))
    with pytest.raises(OverlapError, match="s04"):
        fit_llr(system, trials, speakers)
    found = fit_llr(system, trials, speakers, allow_overlap=True)
    assert (found.labels, found.llr.labels) == (("leaky",), ("leaky",))


def test_a_measure_that_varies_by_rounding_only_gets_no_weight(world):
    unit = world.vectors / np.linalg.norm(world.vectors, axis=1, keepdims=True)
    system, trials, speakers = parts(replace(world, vectors=unit.astype(np.float32)))
    quality = trial_quality(["norm"], system, trials, world.table)
    sides = np.concatenate(quality[32]["norm"])
    assert 0 < np.ptp(sides) < 1e-6
    found = fit_llr(system, trials, speakers, measures=["norm"], quality=quality)
    assert [weight for _, weight in found.llr.maps[32].quality] == [0.0, 0.0]
    assert all(weight != 0 for _, weight in found.llr.maps[8].quality)


def test_trials_of_one_class_are_refused(world):
    system, trials, speakers = parts(world)
    mask = trials.frame["target"]
    with pytest.raises(TrialsError, match="both classes"):
        fit_llr(system, replace(trials, frame=trials.frame.filter(mask)), speakers)
