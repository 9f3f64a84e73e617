"""Speakers: their errors counted by hand, Kruskal-Wallis against scipy, and names that alike speakers do not get."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nestvox.evaluation.zoo import kruskal_wallis, mid_ranks, speaker_rows, zoo_tests
from nestvox.metrics import eer, error_curve


def study(seed: int, *, speakers: int = 20, takes: int = 6, recording: float = 1.0, odd: dict | None = None):
    """Scores whose recordings differ; `odd`: speaker to (shift of his targets, as enrolled, as test)."""
    generator = np.random.default_rng(seed)
    who = np.repeat(np.arange(speakers), takes)
    effect = recording * generator.normal(size=len(who))
    first, second = np.triu_indices(len(who), 1)
    target = who[first] == who[second]
    kept = target | (generator.random(len(first)) < 0.15)
    turned = generator.random(len(first)) < 0.5
    first, second = np.where(turned, second, first)[kept], np.where(turned, first, second)[kept]
    target = target[kept]
    scores = 3.0 * target + effect[first] + effect[second] + generator.normal(size=len(first))
    for speaker, (of_target, enrolled, tested) in (odd or {}).items():
        scores += of_target * (target & (who[first] == speaker))
        scores += enrolled * (~target & (who[first] == speaker)) + tested * (~target & (who[second] == speaker))
    return scores, target, who[first], who[second], [f"s{i}" for i in range(speakers)], (first, second)


@pytest.mark.parametrize("decimals", [1, 6])
def test_kruskal_wallis_is_that_of_scipy(decimals):
    generator = np.random.default_rng(3)
    groups = generator.integers(0, 7, 200)
    values = np.round(generator.normal(size=200) + 0.1 * groups, decimals)
    k, n, statistic, degrees, p_value, share = kruskal_wallis(values, groups)
    expected = stats.kruskal(*(values[groups == group] for group in range(7)))
    assert (k, n, degrees) == (7, 200, 6)
    assert statistic == pytest.approx(expected.statistic, rel=1e-9)
    assert p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert share == pytest.approx(max(0.0, (expected.statistic - 6) / (200 - 7)), rel=1e-9)


def test_kruskal_wallis_without_groups_or_differences():
    values = np.arange(12.0)
    assert kruskal_wallis(values, np.arange(12))[:3] == (0, 0, None)
    assert kruskal_wallis(values, np.zeros(12, int))[:3] == (1, 12, None)
    assert kruskal_wallis(np.ones(12), np.repeat([0, 1], 6))[2:] == (None, 1, None, None)


def test_mid_ranks_count_ties_half():
    ranks = mid_ranks(np.array([2.0, 1.0, 2.0, 5.0]))
    assert ranks == pytest.approx((stats.rankdata([2.0, 1.0, 2.0, 5.0]) - 0.5) / 4)


def test_rows_count_what_a_loop_counts():
    scores, targets, enrol, test, names, _ = study(1)
    threshold = eer(error_curve(scores, targets)).threshold
    rows = {row.speaker: row for row in speaker_rows(scores, targets, enrol, test, names, threshold)}
    for speaker, name in enumerate(names):
        part = [i for i in range(len(scores)) if speaker in (enrol[i], test[i])]
        row = rows[name]
        assert row.n_target == sum(bool(targets[i]) for i in part)
        assert row.n_nontarget == sum(not targets[i] for i in part)
        assert row.n_miss == sum(targets[i] and scores[i] < threshold for i in part)
        assert row.n_false_alarm == sum(not targets[i] and scores[i] >= threshold for i in part)
        assert row.mean_target == pytest.approx(np.mean([scores[i] for i in part if targets[i]]))
        assert row.mean_nontarget == pytest.approx(np.mean([scores[i] for i in part if not targets[i]]))
    errors = [row.n_errors for row in speaker_rows(scores, targets, enrol, test, names, threshold)]
    assert errors == sorted(errors, reverse=True)


def test_the_change_of_the_eer_is_that_of_doubled_trials():
    """The influence is a derivative: with many speakers it predicts what a larger weight does."""
    scores, targets, enrol, test, names, _ = study(2, speakers=40)
    curve = error_curve(scores, targets)
    rows = speaker_rows(scores, targets, enrol, test, names, eer(curve).threshold)
    extreme = sorted(rows, key=lambda row: row.eer_change)
    for row in (extreme[0], extreme[-1]):
        mine = (enrol == names.index(row.speaker)) | (test == names.index(row.speaker))
        weighted = eer(error_curve(scores, targets, 1.0 + mine)).rate - eer(curve).rate
        assert weighted == pytest.approx(row.eer_change, rel=0.3)


def test_a_speaker_without_targets_has_no_mean():
    rows = speaker_rows(
        np.array([2.0, 1.0, 0.0]), np.array([True, False, False]), np.array([0, 0, 1]), np.array([0, 1, 2]), "abc", 1.5
    )
    found = {row.speaker: row for row in rows}
    assert found["b"].mean_target is None
    assert found["b"].n_nontarget == 2
    assert found["a"].mean_target == 2.0


def test_goats_lambs_and_wolves_are_found_where_they_are():
    odd = {3: (-4.0, 0.0, 0.0), 7: (0.0, 4.0, 0.0), 11: (0.0, 0.0, 4.0)}
    goats, lambs, wolves = zoo_tests(*study(4, takes=10, recording=0.3, odd=odd))
    assert (goats.animal, lambs.animal, wolves.animal) == ("goats", "lambs", "wolves")
    assert goats.speakers == ("s3",)
    assert lambs.speakers[0] == "s7"
    assert wolves.speakers[0] == "s11"
    assert "s3" not in lambs.speakers + wolves.speakers
    assert all(found.p_value < 1e-6 and found.variance_share > 0.02 for found in (goats, lambs, wolves))
    rows = speaker_rows(*study(4, takes=10, recording=0.3, odd=odd)[:5], 1.5, (goats, lambs, wolves))
    assert {row.speaker: row.animals for row in rows}["s3"] == ("goats",)


def test_few_recordings_are_not_judged():
    scores, targets, enrol, test, names, recordings = study(5, takes=2)
    goats, *_ = zoo_tests(scores, targets, enrol, test, names, recordings)
    assert (goats.n_tested, goats.speakers) == (0, ())
    assert goats.statistic is None  # one target trial a speaker


@pytest.mark.slow
def test_speakers_who_are_alike_are_rarely_named_and_kruskal_wallis_errs():
    """Recordings differ, speakers do not: in 200 studies each animal is seen in few, by the plain test in most."""
    named, plain = np.zeros(3), np.zeros(3)
    for seed in range(200):
        for i, found in enumerate(zoo_tests(*study(seed))):
            named[i] += bool(found.speakers)
            plain[i] += found.p_value < 0.05
    assert (named / 200 <= 0.08).all()
    assert (plain / 200 >= 0.95).all()
