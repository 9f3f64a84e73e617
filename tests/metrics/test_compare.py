"""Comparison of two systems: bootstrap and permutation spelled out, tests against scipy, refusals, words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.errors import NestvoxError, ScoresError, TrialsError
from nestvox.metrics import auc, cllr, dcf_at, eer, error_curve, min_dcf
from nestvox.metrics.compare import PairedFigure, compare_scores, mcnemar, pairs_needed
from nestvox.metrics.influence import (
    Clusters,
    auc_influence,
    cllr_influence,
    dcf_influence,
    det_band,
    eer_influence,
    holm,
    logit_interval,
    min_dcf_influence,
    standard_error,
    student_quantile,
)
from nestvox.metrics.wording import count_in_words, difference_in_words, p_in_words

FEW = {"n_replicates": 200, "n_permutations": 300}


def two_systems(n_speakers: int, seed: int, *, worse: float = 0.0, n_target: int = 10, n_nontarget: int = 20):
    """Two systems with speaker effects of their own; the second separates the classes by `worse` less."""
    generator = np.random.default_rng(seed)
    one = np.repeat(np.arange(n_speakers), n_target)
    other = np.repeat(np.arange(n_speakers), n_nontarget)
    partner = (other + generator.integers(1, n_speakers, len(other))) % n_speakers
    enrol, test = np.concatenate([one, other]), np.concatenate([one, partner])
    targets = np.arange(len(enrol)) < len(one)
    shared = generator.normal(size=len(enrol))
    scores = []
    for distance in (3.3, 3.3 - worse):
        voice = generator.normal(size=n_speakers)
        effect = np.where(targets, voice[enrol], (voice[enrol] + voice[test]) / math.sqrt(2))
        noise = (shared + generator.normal(size=len(enrol))) / math.sqrt(2)
        scores.append(distance * targets + math.sqrt(0.3) * effect + math.sqrt(0.7) * noise)
    return *scores, targets, enrol, test


def test_figures_are_those_of_each_system_and_draws_are_shared():
    a, b, targets, enrol, test = two_systems(15, 1, worse=0.8)
    found = compare_scores(a, b, targets, enrol, test, p_target=0.1, **FEW)
    curves = error_curve(a, targets), error_curve(b, targets)
    assert (found.eer.a, found.eer.b) == tuple(eer(curve).rate for curve in curves)
    assert (found.min_dcf.a, found.min_dcf.b) == tuple(min_dcf(curve, 0.1).value for curve in curves)
    assert found.eer.difference == found.eer.b - found.eer.a
    assert found.eer.low < found.eer.difference < found.eer.high
    # Each replicate copied out by hand, the same speakers for both systems.
    generator, differences = np.random.default_rng(0), []
    for _ in range(200):
        drawn = np.bincount(generator.integers(0, 15, 15), minlength=15)
        weights = np.where(enrol == test, drawn[enrol], drawn[enrol] * drawn[test])
        rates = [eer(error_curve(scores, targets, weights)).rate for scores in (a, b)]
        differences.append(rates[1] - rates[0])
    assert (found.eer.low, found.eer.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])), abs=1e-12)
    accuracy = np.mean((a >= found.threshold_a) == targets)
    assert found.accuracy_a == pytest.approx(accuracy)
    assert found.at_eer.only_a - found.at_eer.only_b == round((found.accuracy_a - found.accuracy_b) * len(a))


def test_swapping_the_systems_turns_the_signs():
    a, b, *rest = two_systems(12, 2, worse=0.5)
    forth, back = compare_scores(a, b, *rest, **FEW), compare_scores(b, a, *rest, **FEW)
    assert back.eer.difference == -forth.eer.difference
    assert (back.eer.low, back.eer.high) == pytest.approx((-forth.eer.high, -forth.eer.low), abs=1e-12)
    assert back.eer.p_value == forth.eer.p_value
    assert (back.at_eer.only_a, back.at_eer.only_b) == (forth.at_eer.only_b, forth.at_eer.only_a)


def test_a_rising_map_of_one_system_changes_nothing():
    a, b, *rest = two_systems(12, 3, worse=0.5)
    before, after = compare_scores(a, b, *rest, **FEW), compare_scores(a, np.exp(b / 2) - 40, *rest, **FEW)
    assert after.eer[:5] == pytest.approx(before.eer[:5], abs=1e-12)
    assert after.eer.p_value == before.eer.p_value
    assert after.min_dcf == pytest.approx(before.min_dcf, abs=1e-12)


def test_permutation_over_all_coins_by_hand():
    # Four speakers: sixteen rounds, each spelled out trial by trial; many random rounds approach their share.
    a, b, targets, enrol, test = two_systems(4, 5, worse=1.2, n_target=6, n_nontarget=9)
    found = compare_scores(a, b, targets, enrol, test, n_replicates=200, n_permutations=4000)
    share = [(np.searchsorted(np.sort(s), s) + 0.5) / len(s) for s in (a, b)]
    observed, as_large, rounds = found.eer.difference, 0, 0
    for number in range(16):
        coin = np.array([(number >> speaker) & 1 for speaker in range(4)])
        there = coin[enrol] == coin[test]
        if targets[there].all() or not targets[there].any():
            continue
        exchanged = coin[enrol][there] == 1
        first = np.where(exchanged, share[1][there], share[0][there])
        second = np.where(exchanged, share[0][there], share[1][there])
        rates = [eer(error_curve(s, targets[there])).rate for s in (first, second)]
        as_large += abs(rates[1] - rates[0]) >= abs(observed) - 1e-12
        rounds += 1
    # Standard deviation of a share of 4000 rounds is at most 0.008.
    assert found.eer.p_value == pytest.approx(as_large / rounds, abs=0.035)


def test_a_large_difference_is_found_and_a_small_one_is_not():
    found = compare_scores(*two_systems(40, 6, worse=1.5), **FEW)
    assert found.eer.low > 0
    assert found.eer.p_value == pytest.approx(1 / 301)
    nothing = compare_scores(*two_systems(40, 7), **FEW)
    assert nothing.eer.low < 0 < nothing.eer.high
    assert nothing.eer.p_value > 0.05


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tests_and_intervals_err_as_often_as_they_say():
    """Two equal systems, each with speaker effects of its own: 5 % of the verdicts may be wrong."""
    wrong = np.zeros(4)
    for seed in range(400):
        found = compare_scores(*two_systems(40, 10_000 + seed), n_replicates=200, n_permutations=200, seed=seed)
        figure = found.eer
        wrong += (
            figure.p_value <= 0.05,
            not figure.low <= 0 <= figure.high,
            not figure.studentised_low <= 0 <= figure.studentised_high,
            found.at_eer.p_exact <= 0.05,
        )
    permutation, percentile, studentised, independent = wrong / 400
    # 5 % of 400 have standard deviation 1.1 %.
    assert permutation <= 0.08
    assert percentile <= 0.085
    assert studentised <= 0.085
    assert independent >= 0.12, "trials taken as independent should fail here; else the model shows nothing"


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_mcnemar_equals_scipy(decisions):
    stats = pytest.importorskip("scipy.stats")
    a, b = (np.array(side, dtype=bool) for side in zip(*decisions, strict=True))
    found = mcnemar(a, b)
    n = found.only_a + found.only_b
    assert n == int((a != b).sum())
    if n == 0:
        assert (found.p_exact, found.p_mid) == (1.0, 1.0)
        return
    assert found.p_exact == pytest.approx(stats.binomtest(found.only_a, n).pvalue, abs=1e-9)
    fewer = min(found.only_a, found.only_b)
    mid = 1.0 if found.only_a == found.only_b else 2 * stats.binom.cdf(fewer, n, 0.5) - stats.binom.pmf(fewer, n, 0.5)
    assert found.p_mid == pytest.approx(mid, abs=1e-9)


def test_mcnemar_of_many_trials():
    stats = pytest.importorskip("scipy.stats")
    a = np.arange(40_000) < 20_500
    found = mcnemar(a, ~a)
    assert found.p_exact == pytest.approx(stats.binomtest(20_500, 40_000).pvalue, rel=1e-6)


def test_mcnemar_refuses_what_are_no_decisions():
    with pytest.raises(ScoresError, match="booleans"):
        mcnemar([1, 0], [True, False])
    with pytest.raises(ScoresError, match="one length"):
        mcnemar(np.array([True]), np.array([True, False]))


def test_holm_by_hand():
    # Holm's own rule: the smallest times 4, the next times 3, ...; never below the one before, never above 1.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    assert holm([]).shape == (0,)
    with pytest.raises(NestvoxError, match="between 0 and 1"):
        holm([1.2])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_rejects_what_the_steps_reject(p_values):
    adjusted, level = holm(p_values), 0.05
    rejected, remaining = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
    for step, i in enumerate(remaining):
        if p_values[i] * (len(p_values) - step) > level:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(adjusted) if p <= level} == rejected


@pytest.mark.parametrize(
    ("figure", "influence_of"),
    [
        (lambda curve: min_dcf(curve, 0.2).value, lambda curve: min_dcf_influence(curve, p_target=0.2)),
        (lambda curve: dcf_at(curve, 0.7, 0.2), lambda curve: dcf_influence(curve, 0.7, p_target=0.2)),
        (auc, auc_influence),
        (cllr, cllr_influence),
    ],
)
def test_influence_is_the_derivative(figure, influence_of):
    a, _, targets, enrol, test = two_systems(9, 4)
    a = a.round(1)  # ties
    of_trial = influence_of(error_curve(a, targets))
    assert of_trial.sum() == pytest.approx(0, abs=1e-12)
    influence = Clusters(enrol, test).by_cluster(of_trial)
    for speaker in range(9):
        found = []
        for change in (-1e-6, 1e-6):
            weight = np.ones(9)
            weight[speaker] += change
            weights = np.where(enrol == test, weight[enrol], weight[enrol] * weight[test])
            found.append(figure(error_curve(a, targets, weights)))
        assert influence[speaker] == pytest.approx((found[1] - found[0]) / 2e-6, abs=1e-6)


def test_standard_error_sums_over_all_two_trials_that_share_a_speaker():
    generator = np.random.default_rng(3)
    enrol, test = generator.integers(0, 6, (2, 40))
    voice = generator.normal(size=6)
    influence = generator.normal(size=40) + voice[enrol] + voice[test]
    total = 0.0
    for i in range(40):
        for j in range(40):
            if {enrol[i], test[i]} & {enrol[j], test[j]}:
                total += influence[i] * influence[j]
    assert total > 0
    assert standard_error(influence, enrol, test) == pytest.approx(6 / 5 * math.sqrt(total))
    # Speakers whose trials cancel: not less than if pairs of speakers were independent.
    assert standard_error([1.0, -1.0, 1.0, -1.0], [0, 0, 1, 1], [2, 3, 3, 2]) == pytest.approx(4 / 3 * 2)


def test_standard_errors_are_the_spread_over_samples_of_speakers():
    rates, errors, cost_errors, costs, areas, area_errors, misses, bands = [], [], [], [], [], [], [], []
    for seed in range(150):
        a, _, targets, *sides = two_systems(60, 500 + seed, n_target=15, n_nontarget=40)
        curve = error_curve(a, targets)
        rates.append(eer(curve).rate)
        errors.append(standard_error(eer_influence(curve), *sides))
        areas.append(auc(curve))
        area_errors.append(standard_error(auc_influence(curve), *sides))
        costs.append(min_dcf(curve, 0.3).value)
        cost_errors.append(standard_error(min_dcf_influence(curve, p_target=0.3), *sides))
        missed, low, high = det_band(curve, Clusters(*sides), [0.02, 0.05], 0.95)
        misses.append(missed)
        logits = np.log(high / (1 - high)) - np.log(low / (1 - low))
        bands.append(logits / 2 / student_quantile(0.975, 59) * missed * (1 - missed))
    # The spread of 150 samples is known to 6 %.
    assert np.mean(errors) == pytest.approx(np.std(rates), rel=0.2)
    assert np.mean(cost_errors) == pytest.approx(np.std(costs), rel=0.2)
    assert np.mean(area_errors) == pytest.approx(np.std(areas), rel=0.2)
    np.testing.assert_allclose(np.mean(bands, axis=0), np.std(misses, axis=0), rtol=0.2)


@pytest.mark.parametrize("few", [1, 3, 1000])
def test_the_band_counts_what_its_influences_say(monkeypatch, few):
    """Trials counted by speaker and threshold, small groups and large, against one trial after the other."""
    monkeypatch.setattr("nestvox.metrics.influence._FEW", few)
    monkeypatch.setattr("nestvox.metrics.influence._CELLS", 40)
    scores, _, targets, enrol, test = two_systems(9, 4)
    curve = error_curve(scores.round(1), targets)
    grid = np.array([0.4, 0.02, 0.2])
    missed, low, high = det_band(curve, Clusters(enrol, test), grid)
    np.testing.assert_allclose(missed, curve.p_miss_at(grid))
    for rate, miss, *ends in zip(grid, missed, low, high, strict=True):
        threshold = min(t for t, fa in zip(curve.thresholds, curve.p_fa, strict=True) if fa <= rate)
        above, below = curve.p_miss_at([1.5 * rate, 0.5 * rate])
        accepted = curve.scores >= threshold
        of_miss = np.where(targets, ~accepted - np.mean(~accepted[targets]), 0) / targets.sum()
        of_fa = np.where(targets, 0, accepted - np.mean(accepted[~targets])) / (~targets).sum()
        error = standard_error(of_miss + (below - above) / rate * of_fa, enrol, test)
        np.testing.assert_allclose(ends, logit_interval(miss, error, 9))


def test_student_quantiles_are_those_of_printed_tables():
    # R. A. Fisher and F. Yates, "Statistical tables", table III, and the normal distribution.
    for p, df, expected in ((0.975, 1, 12.706), (0.975, 10, 2.228), (0.995, 30, 2.750), (0.025, 5, -2.571)):
        assert student_quantile(p, df) == pytest.approx(expected, abs=5e-4)
    assert student_quantile(0.975, 10**6) == pytest.approx(1.959964, abs=1e-5)
    with pytest.raises(NestvoxError, match="degree"):
        student_quantile(0.5, 0)


def test_logit_interval():
    low, high = logit_interval(0.02, 0.005, 40)
    assert 0 < low < 0.02 < high
    assert high - 0.02 > 0.02 - low
    assert logit_interval(0.0, 0.0, 40) == (0.0, 0.0)
    assert logit_interval(1e-9, 1.0, 3)[1] == pytest.approx(1)
    with pytest.raises(TrialsError, match="two speakers"):
        standard_error([0.1], [0], [0])
    with pytest.raises(TrialsError, match="whole numbers a side"):
        standard_error([0.1, 0.2], [0, 1], [0])
    with pytest.raises(TrialsError, match="at least 0"):
        standard_error([0.1, 0.2], [0, 1], [-1, 1])


def test_one_system_twice_is_refused():
    a, _, *rest = two_systems(6, 1)
    with pytest.raises(ScoresError, match="copy"):
        compare_scores(a, a.copy(), *rest, **FEW)
    with pytest.raises(ScoresError, match="same order"):
        compare_scores(a, 3 * a + 1, *rest, **FEW)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"n_replicates": 10}, NestvoxError, "takes 40"),
        ({"n_permutations": 0}, NestvoxError, "one permutation"),
        ({"confidence": 1.5}, NestvoxError, "confidence"),
        ({"c_fa": -1.0}, NestvoxError, "c_fa"),
    ],
)
def test_what_cannot_be_asked(change, error, words):
    with pytest.raises(error, match=words):
        compare_scores(*two_systems(6, 1), **{**FEW, **change})


def test_unusable_trials_are_refused():
    a, b, targets, enrol, test = two_systems(6, 1)
    with pytest.raises(ScoresError, match="not finite"):
        compare_scores(np.where(targets, np.nan, a), b, targets, enrol, test, **FEW)
    with pytest.raises(TrialsError, match="both classes"):
        compare_scores(a, b, np.ones_like(targets), enrol, test, **FEW)
    with pytest.raises(TrialsError, match="without gaps"):
        compare_scores(a, b, targets, enrol + 1, test + 1, **FEW)
    with pytest.raises(TrialsError, match="two speakers"):
        compare_scores(a, b, targets, enrol * 0, test * 0, **FEW)


def test_words():
    worse = PairedFigure(0.056, 0.076, 0.02, 0.004, 0.037, 0.003, 0.037, 0.008, 0.012)
    sentence = difference_in_words("A", "B", worse, n_trials=500, n_clusters=40)
    assert sentence == "B is worse than A by 2.0 points (95 % interval 0.4 to 3.7), p = 0.012"
    better = difference_in_words(
        "A", "B", worse._replace(difference=-0.02, low=-0.037, high=-0.004), n_trials=500, n_clusters=40
    )
    assert better == "B is better than A by 2.0 points (95 % interval 0.4 to 3.7), p = 0.012"
    unclear = worse._replace(low=-0.006, high=0.046, standard_error=0.0135, p_value=0.21)
    sentence = difference_in_words("A", "B", unclear, n_trials=500, n_clusters=40)
    # (1.960 + 0.842)^2 * (0.0135 / 0.02)^2 * 500 = 1788 pairs
    assert sentence == (
        "these 500 pairs of 40 speakers cannot tell A and B apart (difference +2.0 points, 95 % interval -0.6 to 4.6, "
        "p = 0.21); about 1,800 pairs of 150 speakers would, if it is what it seems"
    )
    assert pairs_needed(unclear, 500) == pytest.approx(1788, abs=1)
    assert "would" not in difference_in_words("A", "B", unclear._replace(difference=0.0), n_trials=500, n_clusters=40)
    cost = difference_in_words("A", "B", worse, n_trials=500, n_clusters=40, percent=False, p_value=0.0004)
    assert cost == "B is worse than A by 0.0200 (95 % interval 0.0040 to 0.0370), p < 0.001"
    assert (count_in_words(12_001), count_in_words(7), count_in_words(math.inf)) == ("13,000", "7", "endlessly many")
    assert p_in_words(0.04321) == "p = 0.043"
