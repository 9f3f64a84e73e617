"""Thresholds against trials counted one by one, and their intervals against trials that are copied."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.errors import NestvoxError, TrialsError
from nestvox.metrics.bootstrap import draw_speakers
from nestvox.metrics.curves import error_curve
from nestvox.metrics.thresholds import DecisionRule, fit_threshold, measure_threshold, wilson_interval


def pairs_of(n_speakers: int, seed: int, *, per_speaker: int = 12, spread: float = 0.7):
    """Scores, labels and speakers of trials whose speakers differ: some score higher than others with everybody."""
    generator = np.random.default_rng(seed)
    enrol = np.repeat(np.arange(n_speakers), 2 * per_speaker)
    targets = np.tile(np.repeat([True, False], per_speaker), n_speakers)
    test = np.where(targets, enrol, (enrol + generator.integers(1, n_speakers, len(enrol))) % n_speakers)
    voice = generator.normal(size=n_speakers) * spread
    scores = 2.5 * targets + (voice[enrol] + voice[test]) / 2 + generator.normal(size=len(enrol))
    return scores, targets, enrol, test


def counted(scores, targets, threshold: float) -> tuple[int, int]:
    """Misses and false alarms, trial by trial."""
    misses = sum(1 for s, t in zip(scores, targets, strict=True) if t and not s >= threshold)
    return misses, sum(1 for s, t in zip(scores, targets, strict=True) if not t and s >= threshold)


THIRD = np.arange(120) % 3 == 0
trials = (
    st.integers(0, 10_000)
    .map(np.random.default_rng)
    .map(lambda generator: (np.round(generator.normal(size=120) + 1.5 * THIRD, 1), THIRD))
)


@settings(deadline=None, max_examples=40)
@given(trials, st.sampled_from([0.05, 0.1, 0.3]))
def test_far_has_the_fewest_misses_of_all_thresholds_that_hold_it(made, rate):
    scores, targets = made
    value = DecisionRule("far", rate).threshold(error_curve(scores, targets))
    misses, false_alarms = counted(scores, targets, value)
    allowed = [
        counted(scores, targets, t)[0]
        for t in [*np.unique(scores), math.inf]
        if counted(scores, targets, t)[1] <= rate * (~targets).sum()
    ]
    assert false_alarms <= rate * (~targets).sum()
    assert misses == min(allowed)


@settings(deadline=None, max_examples=40)
@given(trials, st.sampled_from([0.05, 0.1, 0.3]))
def test_frr_has_the_fewest_false_alarms_of_all_thresholds_that_hold_it(made, rate):
    scores, targets = made
    value = DecisionRule("frr", rate).threshold(error_curve(scores, targets))
    misses, false_alarms = counted(scores, targets, value)
    allowed = [
        counted(scores, targets, t)[1]
        for t in np.unique(scores)
        if counted(scores, targets, t)[0] <= rate * targets.sum()
    ]
    assert misses <= rate * targets.sum()
    assert false_alarms == min(allowed)


@settings(deadline=None, max_examples=30)
@given(trials, st.sampled_from([(0.05, 1, 1), (0.5, 1, 1), (0.3, 10, 1)]))
def test_costs_are_the_lowest_of_all_thresholds(made, point):
    scores, targets = made
    p, c_miss, c_fa = point
    n_target, n_nontarget = targets.sum(), (~targets).sum()

    def cost(threshold):
        misses, false_alarms = counted(scores, targets, threshold)
        return c_miss * p * misses / n_target + c_fa * (1 - p) * false_alarms / n_nontarget

    value = DecisionRule("min_dcf", p_target=p, c_miss=c_miss, c_fa=c_fa).threshold(error_curve(scores, targets))
    assert cost(value) == pytest.approx(min(cost(t) for t in [*np.unique(scores), math.inf]), abs=1e-12)


def test_the_threshold_lies_between_the_scores_that_it_separates():
    scores = np.array([0.1, 0.2, 0.4, 0.5, 0.8, 0.9])
    targets = np.array([False, False, False, False, True, True])
    # One of the four non-targets may be accepted: 0.5, but not 0.4.
    assert DecisionRule("far", 0.3).threshold(error_curve(scores, targets)) == pytest.approx(0.45)
    # Neither of the two targets may be rejected.
    assert DecisionRule("frr", 0.3).threshold(error_curve(scores, targets)) == pytest.approx(0.65)
    # Neighbouring floats have nothing between them.
    tight = np.array([0.5, np.nextafter(0.5, 1)])
    value = DecisionRule("far", 0.5).threshold(error_curve(tight, np.array([False, True])))
    assert value == tight[1]


def test_the_stored_number_makes_exactly_the_same_errors():
    scores, targets, enrol, test = pairs_of(30, 1)
    for rule in (DecisionRule("eer"), DecisionRule("far", 0.05), DecisionRule("frr", 0.05), DecisionRule("min_dcf")):
        found = fit_threshold(scores, targets, enrol, test, rule, n_replicates=80)
        again = float(repr(found.point.threshold))  # as JSON writes it
        misses, false_alarms = counted(scores, targets, again)
        assert (found.point.n_miss, found.point.n_false_alarm) == (misses, false_alarms)
        assert found.point.p_miss == misses / targets.sum()
        assert found.point.p_fa == false_alarms / (~targets).sum()
        # A score that comes out differently in its last digits stays on its side.
        assert counted(scores + 1e-12, targets, again) == (misses, false_alarms)
        used = measure_threshold(scores, targets, enrol, test, again, n_replicates=80)
        assert (used.point, used.p_fa, used.p_miss) == (found.point, found.p_fa, found.p_miss)
        assert used.value is None


def test_intervals_are_those_of_trials_copied_as_often_as_their_speakers_were_drawn():
    scores, targets, enrol, test = pairs_of(9, 2, per_speaker=7)
    rule = DecisionRule("far", 0.1)
    found = fit_threshold(scores, targets, enrol, test, rule, n_replicates=80, seed=5, confidence=0.9)
    thresholds, rates = [], []
    generator = np.random.default_rng(5)
    draws = np.concatenate([draw_speakers(generator, 9, size) for size in (64, 16)])
    for draw in draws:
        copied = Counter()
        for row in range(len(scores)):
            one, other = enrol[row], test[row]
            copied[row] = int(draw[one] if one == other else draw[one] * draw[other])
        rows = [row for row, times in copied.items() for _ in range(times)]
        drawn, labels = scores[rows], targets[rows]
        threshold = rule.threshold(error_curve(drawn, labels))
        thresholds.append(threshold)
        misses, false_alarms = counted(drawn, labels, found.point.threshold)
        rates.append((false_alarms / (~labels).sum(), misses / labels.sum()))
    assert found.n_replicates == len(draws)
    ordered = sorted(thresholds)
    assert found.value == (ordered[3], ordered[75])  # the 5th and 95th percentile of 80
    low, high = np.quantile(rates, [0.05, 0.95], axis=0)
    n_fa = found.point.n_false_alarm
    alone = wilson_interval(n_fa, (~targets).sum(), 0.9)
    assert found.p_fa == pytest.approx((min(low[0], alone.low), max(high[0], alone.high)), abs=1e-12)
    assert found.p_miss[1] >= high[1] - 1e-12


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from([0.9, 0.95, 0.99]))
def test_wilson_equals_scipy(n, share, confidence):
    stats = pytest.importorskip("scipy.stats")
    count = round(share * n)
    oracle = stats.binomtest(count, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(count, n, confidence) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


def test_no_error_seen_does_not_mean_none():
    scores, targets, enrol, test = pairs_of(20, 3)
    found = measure_threshold(scores, targets, enrol, test, 100.0, n_replicates=80)
    assert found.point.p_fa == 0
    assert found.p_fa.high == pytest.approx(3.84 / ((~targets).sum() + 3.84), rel=1e-3)


@pytest.mark.parametrize(("rule", "count"), [(DecisionRule("far", 0.001), 240), (DecisionRule("frr", 0.01), 240)])
def test_what_so_few_trials_cannot_say_is_refused_with_the_number_it_takes(rule, count):
    scores, targets, enrol, test = pairs_of(20, 4)
    with pytest.raises(TrialsError, match=f"cannot be said from {count} .*more than {3 / rule.rate:,.0f}"):
        fit_threshold(scores, targets, enrol, test, rule, n_replicates=80)


def test_the_rule_of_three_is_a_strict_border():
    assert DecisionRule("far", 0.01).too_few(10, 300)
    assert not DecisionRule("far", 0.01).too_few(10, 301)
    assert DecisionRule("frr", 0.01).too_few(300, 10)
    assert not DecisionRule("min_dcf").too_few(10, 10)


def test_few_errors_are_named():
    scores, targets, enrol, test = pairs_of(20, 5)
    found = fit_threshold(scores, targets, enrol, test, DecisionRule("far", 0.05), n_replicates=80)
    assert found.point.n_false_alarm == 12
    assert any("false alarms rests on 12 of them; it takes 30" in sentence for sentence in found.warnings())


@pytest.mark.parametrize("scores", [np.zeros(80), np.tile([0.2, 0.8], 40)])
def test_scores_that_decide_nothing_give_no_threshold(scores):
    """All equal, or lower for the same speaker: the EER threshold would be wrong about half of all pairs or more."""
    speakers = np.arange(80) // 2 % 8
    targets = np.arange(80) % 2 == 0
    with pytest.raises(TrialsError, match="no better than chance"):
        fit_threshold(scores, targets, speakers, np.where(targets, speakers, (speakers + 1) % 8), DecisionRule("eer"))


def test_rejecting_everybody_is_no_threshold():
    scores = np.array([0.9, 0.8, *np.linspace(0, 0.5, 40)])
    targets = np.array([False, False, *[True] * 20, *[False] * 20])
    sides = np.arange(42) % 6, (np.arange(42) + 1) % 6
    with pytest.raises(TrialsError, match="rejecting everybody costs least"):
        fit_threshold(scores, targets, *sides, DecisionRule("min_dcf", p_target=0.001), n_replicates=80)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DecisionRule("far"),
        lambda: DecisionRule("eer", 0.1),
        lambda: DecisionRule("far", 0.0),
        lambda: DecisionRule("min_dcf", p_target=1.0),
        lambda: wilson_interval(3, 2),
        lambda: fit_threshold(*pairs_of(5, 6), DecisionRule("eer"), n_replicates=10),
    ],
)
def test_calls_that_mean_nothing(make):
    with pytest.raises(NestvoxError):
        make()


def test_one_speaker_says_nothing_of_others():
    with pytest.raises(TrialsError, match="two speakers"):
        fit_threshold([0.1, 0.9], [False, True], [0, 0], [0, 0], DecisionRule("eer"))


@pytest.mark.slow
def test_the_intervals_hold_the_truth_where_independent_trials_would_not():
    # The truth of each threshold: its error rates over very many other speakers of the same kind.
    other, labels, *_ = pairs_of(4000, 10_000, per_speaker=20)
    targets, impostors = np.sort(other[labels]), np.sort(other[~labels])
    rule = DecisionRule("far", 0.05)
    of_all = rule.threshold(error_curve(other, labels))
    n_studies = 150
    held = np.zeros(4)
    for study in range(n_studies):
        scores, is_target, *sides = pairs_of(60, study, per_speaker=20)
        found = fit_threshold(scores, is_target, *sides, rule, n_replicates=200, seed=study)
        value = found.point.threshold
        p_fa = 1 - np.searchsorted(impostors, value) / len(impostors)
        p_miss = np.searchsorted(targets, value) / len(targets)
        alone = wilson_interval(found.point.n_false_alarm, (~is_target).sum())
        held += [
            found.p_fa.low <= p_fa <= found.p_fa.high,
            found.p_miss.low <= p_miss <= found.p_miss.high,
            found.value.low <= of_all <= found.value.high,
            alone.low <= p_fa <= alone.high,
        ]
    false_alarms, misses, thresholds, independent = held / n_studies
    assert false_alarms >= 0.92
    assert misses >= 0.85
    assert thresholds >= 0.92
    assert independent <= 0.8


@pytest.mark.parametrize("rule", [DecisionRule("eer"), DecisionRule("min_dcf")])
def test_a_handful_of_trials_sets_no_threshold(rule):
    for n in (1, 2, 9):
        scores, targets = np.r_[np.linspace(0, 0.4, n), np.linspace(0.6, 1, n)], np.arange(2 * n) >= n
        sides = np.arange(2 * n) % 2, np.where(targets, np.arange(2 * n) % 2, 1 - np.arange(2 * n) % 2)
        with pytest.raises(TrialsError, match=rf"cannot be said from {n} target and {n} non-target trials"):
            fit_threshold(scores, targets, *sides, rule)
    assert rule.too_few(10, 10) == ""
