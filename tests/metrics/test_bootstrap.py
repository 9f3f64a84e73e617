"""The clustered bootstrap against explicit copying of trials, and against the spread it has to show."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.errors import NestvoxError, TrialsError
from nestvox.metrics import SpeakerBootstrap, eer, error_curve, min_dcf, speaker_bootstrap
from nestvox.metrics.influence import Clusters, eer_influence, logit_interval, min_dcf_influence

GRID = np.array([0.0, 0.01, 0.1, 0.37, 0.5, 0.9])


def trials_of(n_speakers: int, n_trials: int, seed: int, *, decimals: int = 1):
    """Random trials over speakers, ties included: scores, targets, enrol, test."""
    generator = np.random.default_rng(seed)
    enrol = generator.integers(0, n_speakers, n_trials)
    targets = generator.random(n_trials) < 0.4
    targets[:2] = True, False
    other = (enrol + generator.integers(1, n_speakers, n_trials)) % n_speakers
    test = np.where(targets, enrol, other)
    enrol[2 : 2 + n_speakers] = test[2 : 2 + n_speakers] = np.arange(n_speakers)  # every speaker occurs
    targets[2 : 2 + n_speakers] = True
    scores = np.round(generator.normal(size=n_trials) + 1.5 * targets, decimals)
    return scores, targets, enrol, test


def copied(scores, targets, enrol, test, drawn):
    """The replicate spelled out: every pair of drawn copies of two speakers repeats the trial between them."""
    new_scores, new_targets = [], []
    copies = [[(speaker, copy) for copy in range(count)] for speaker, count in enumerate(drawn)]
    for score, target, a, b in zip(scores, targets, enrol, test, strict=True):
        # Within one cluster the trial exists once in each copy, never between two copies.
        repeats = len(copies[a]) if a == b else sum(1 for _ in copies[a] for _ in copies[b])
        new_scores += [score] * repeats
        new_targets += [target] * repeats
    return np.array(new_scores), np.array(new_targets, dtype=bool)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_a_replicate_equals_the_trials_copied_out(seed, n_speakers):
    trials = trials_of(n_speakers, 40, seed)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(n_speakers, np.full(n_speakers, 1 / n_speakers), size=4)
    counted = SpeakerBootstrap(*trials).replicates(drawn, p_target=0.1, c_miss=2, c_fa=1, p_fa=GRID)
    for row, multiplicities in enumerate(drawn):
        scores, targets = copied(*trials, multiplicities)
        if not (targets.any() and (~targets).any()):
            assert not counted.valid[row]
            continue
        curve = error_curve(scores, targets)
        assert counted.valid[row]
        assert counted.eer[row] == pytest.approx(eer(curve).rate, abs=1e-12)
        assert counted.min_dcf[row] == pytest.approx(min_dcf(curve, 0.1, 2, 1).value, abs=1e-12)
        np.testing.assert_allclose(counted.p_miss[row], curve.p_miss_at(GRID), atol=1e-9)


def test_clusters_that_are_not_speakers_weigh_targets_on_both_sides():
    # Targets between two utterances (clusters 0 and 1), as when speakers are unknown.
    scores, targets = np.array([0.9, 0.3, 0.5, 0.1]), np.array([True, True, False, False])
    enrol, test = np.array([0, 2, 0, 1]), np.array([1, 3, 2, 3])
    drawn = np.array([[2, 1, 1, 0], [1, 1, 1, 1]])
    counted = SpeakerBootstrap(scores, targets, enrol, test).replicates(drawn)
    first = error_curve(scores, targets, [2, 0, 2, 0])
    assert counted.eer[0] == pytest.approx(eer(first).rate)
    assert counted.eer[1] == pytest.approx(eer(error_curve(scores, targets)).rate)


def test_once_each_is_the_point_estimate():
    trials = trials_of(8, 300, 3)
    counted = SpeakerBootstrap(*trials).replicates(np.ones((1, 8)), p_fa=GRID)
    curve = error_curve(trials[0], trials[1])
    assert counted.eer[0] == pytest.approx(eer(curve).rate)
    assert counted.min_dcf[0] == pytest.approx(min_dcf(curve).value)


def test_seeded_and_ordered():
    trials = trials_of(12, 500, 5)
    one, same, other = (speaker_bootstrap(*trials, p_fa=GRID, n_replicates=200, seed=seed) for seed in (1, 1, 2))
    assert (one.eer, one.min_dcf) == (same.eer, same.min_dcf)
    assert one.eer != other.eer
    curve = error_curve(trials[0], trials[1])
    assert one.eer.low < eer(curve).rate < one.eer.high
    assert one.min_dcf.low <= min_dcf(curve).value <= one.min_dcf.high
    assert (one.p_miss_low <= one.p_miss_high).all()
    assert one.n_clusters == 12
    assert one.n_replicates == 200


def test_the_draws_do_not_depend_on_the_scores():
    scores, targets, enrol, test = trials_of(10, 300, 6)
    before = speaker_bootstrap(scores, targets, enrol, test, n_replicates=100)
    after = speaker_bootstrap(np.exp(scores), targets, enrol, test, n_replicates=100)
    assert before.eer == pytest.approx(after.eer, abs=1e-12)


def test_blocks_do_not_change_the_result(monkeypatch):
    trials = trials_of(10, 300, 7)
    whole = speaker_bootstrap(*trials, p_fa=GRID, n_replicates=120)
    monkeypatch.setattr("nestvox.metrics.bootstrap._BLOCK", 1)
    single = speaker_bootstrap(*trials, p_fa=GRID, n_replicates=120)
    assert whole.eer == single.eer
    np.testing.assert_array_equal(whole.p_miss_high, single.p_miss_high)


def test_few_speakers_redraw_what_has_no_class_and_count_it():
    # With two speakers every draw of one of them twice has no non-target trial: half of all draws.
    trials = trials_of(2, 60, 8)
    result = speaker_bootstrap(*trials, n_replicates=400, seed=4)
    assert result.n_replicates == 400
    assert 280 < result.n_redrawn < 540  # mean 400, standard deviation 28


def test_shared_speakers_make_it_wider_than_independent_trials():
    generator = np.random.default_rng(9)
    n_speakers, per_speaker = 20, 100
    enrol = np.repeat(np.arange(n_speakers), per_speaker)
    targets = np.tile(np.arange(per_speaker) % 2 == 0, n_speakers)
    test = np.where(targets, enrol, (enrol + generator.integers(1, n_speakers, len(enrol))) % n_speakers)
    scores = generator.normal(size=len(enrol)) + targets * (2 + generator.normal(size=n_speakers)[enrol])
    clustered = speaker_bootstrap(scores, targets, enrol, test, n_replicates=300)
    rates = []
    for _ in range(300):
        rows = generator.integers(0, len(scores), len(scores))
        rates.append(eer(error_curve(scores[rows], targets[rows])).rate)
    low, high = np.quantile(rates, [0.025, 0.975])
    assert clustered.eer.high - clustered.eer.low > 1.5 * (high - low)


def test_coverage_of_the_interval_is_near_its_name():
    # True EER of N(0, 2) against N(2, 2) is Phi(-1 / sqrt(2)) = 0.2398; the speaker shares half of the variance.
    truth, inside = 0.23975, 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        n_speakers = 50
        enrol = np.repeat(np.arange(n_speakers), 40)
        targets = np.tile(np.arange(40) % 2 == 0, n_speakers)
        test = np.where(targets, enrol, (enrol + generator.integers(1, n_speakers, len(enrol))) % n_speakers)
        voice = generator.normal(size=n_speakers)
        shared = np.where(targets, voice[enrol], (voice[enrol] + voice[test]) / np.sqrt(2))
        scores = 2 * targets + shared + generator.normal(size=len(enrol))
        interval = speaker_bootstrap(scores, targets, enrol, test, n_replicates=100, seed=seed).eer
        inside += interval.low <= truth <= interval.high
    assert inside >= 49  # 95 % of 60 is 57; below 49 has probability 1e-4


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"n_replicates": 10}, NestvoxError, "it takes 40"),
        ({"confidence": 1.0}, NestvoxError, "confidence"),
        ({"p_target": 0.0}, NestvoxError, "p_target"),
    ],
)
def test_what_cannot_be_asked(change, error, words):
    with pytest.raises(error, match=words):
        speaker_bootstrap(*trials_of(5, 50, 1), **change)


def test_clusters_must_fit():
    scores, targets, enrol, test = trials_of(5, 50, 1)
    with pytest.raises(TrialsError, match="whole numbers"):
        speaker_bootstrap(scores, targets, enrol[:-1], test)
    with pytest.raises(TrialsError, match="gaps"):
        speaker_bootstrap(scores, targets, enrol + 1, test + 1)
    with pytest.raises(TrialsError, match="two speakers"):
        speaker_bootstrap(scores, targets, np.zeros(50, dtype=int), np.zeros(50, dtype=int))


def test_a_thousand_replicates_of_a_usual_list_are_quick():
    trials = trials_of(60, 14_000, 2, decimals=9)
    begin = time.process_time()
    speaker_bootstrap(*trials, n_replicates=1000)
    assert time.process_time() - begin < 3.0


def test_many_trials_are_counted_in_blocks_and_equal_the_weighted_curve():
    # More distinct scores than blocks, so that every figure is found by a bound first and by counting then.
    scores, targets, enrol, test = trials_of(30, 6000, 12, decimals=6)
    drawn = np.random.default_rng(1).multinomial(30, np.full(30, 1 / 30), size=6)
    counted = SpeakerBootstrap(scores, targets, enrol, test).replicates(drawn, p_target=0.01, c_miss=10, p_fa=GRID)
    for row, multiplicity in enumerate(drawn):
        weights = np.where(enrol == test, multiplicity[enrol], multiplicity[enrol] * multiplicity[test])
        curve = error_curve(scores, targets, weights)
        assert counted.eer[row] == pytest.approx(eer(curve).rate, abs=1e-12)
        assert counted.min_dcf[row] == pytest.approx(min_dcf(curve, 0.01, 10, 1).value, abs=1e-12)
        np.testing.assert_allclose(counted.p_miss[row], curve.p_miss_at(GRID), atol=1e-9)


def test_studentised_intervals_hold_the_estimate_and_agree_with_the_spread_of_the_replicates():
    trials = trials_of(60, 6000, 13, decimals=6)
    drawn = speaker_bootstrap(*trials, n_replicates=400)
    curve = error_curve(*trials[:2])
    clusters = Clusters(*trials[2:])
    errors = [clusters.standard_error(influence) for influence in (eer_influence(curve), min_dcf_influence(curve))]
    low, high = logit_interval(eer(curve).rate, errors[0], clusters.size)
    assert low < eer(curve).rate < high
    ends = logit_interval(min_dcf(curve).value, errors[1], clusters.size)
    assert ends[0] < min_dcf(curve).value < ends[1]
    # Percentiles of the bootstrap are up to root 2 wider where trials make most of the noise.
    assert 0.8 < (drawn.eer.high - drawn.eer.low) / (high - low) < 1.6
    assert high - low == pytest.approx(4.0 * errors[0], rel=0.05)
