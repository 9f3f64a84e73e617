"""The planner against binomial arithmetic, brute-force correlations and simulated studies."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from nestvox.errors import NestvoxError, ScoresError
from nestvox.metrics import eer, error_curve
from nestvox.metrics.influence import eer_influence, standard_error
from nestvox.metrics.plan import (
    USUAL,
    SpeakerCorrelation,
    difference_error,
    eer_error,
    plan_study,
    speaker_correlation,
    system_correlation,
)

NONE = SpeakerCorrelation(0.0, 0.0, 0.0)


def study(n_speakers: int, n_target: int, n_nontarget: int, seed: int, *, rates=(0.05, 0.08), shared=0.5):
    """Two systems on a new sample of speakers: true EERs are `rates`, three tenths of the variance is the speakers'."""
    generator = np.random.default_rng(seed)
    one = np.repeat(np.arange(n_speakers), n_target)
    other = np.repeat(np.arange(n_speakers), n_nontarget)
    partner = (other + generator.integers(1, n_speakers, len(other))) % n_speakers
    enrol, test = np.concatenate([one, other]), np.concatenate([one, partner])
    targets = np.arange(len(enrol)) < len(one)

    def part():
        # Voices as targets and as impostors are drawn apart: the model leaves their covariance out.
        voice, mask = generator.normal(size=(2, n_speakers))
        effect = np.where(targets, voice[enrol], (mask[enrol] + mask[test]) / math.sqrt(2))
        return math.sqrt(0.3) * effect + math.sqrt(0.7) * generator.normal(size=len(enrol))

    common = part()
    systems = []
    for rate in rates:
        own = part()
        distance = -2 * NormalDist().inv_cdf(rate)
        systems.append(distance * targets + math.sqrt(shared) * common + math.sqrt(1 - shared) * own)
    return *systems, targets, enrol, test


def test_without_clusters_it_is_the_binomial():
    expected = math.sqrt(0.04 * 0.96 * (1 / 300 + 1 / 700)) / 2
    assert eer_error(0.04, 50, 300, 700, NONE) == pytest.approx(expected)
    # As many target trials as speakers: each has a speaker of its own, whatever the correlation is.
    one_each = eer_error(0.04, 300, 300, 700, SpeakerCorrelation(0.5, 0.0, 0.0))
    assert one_each == pytest.approx(expected)
    unpaired = difference_error(0.04, 0.02, 50, 300, 300, correlation=0.0, clusters=NONE)
    assert unpaired == pytest.approx(
        math.hypot(eer_error(0.04, 50, 300, 300, NONE), eer_error(0.06, 50, 300, 300, NONE))
    )


def test_wholly_alike_trials_are_worth_one_a_speaker():
    # Ten trials of each of 30 speakers, all right or all wrong together: 30 trials.
    alike = SpeakerCorrelation(1.0, 0.0, 0.0)
    many = 10**12
    found = eer_error(0.1, 30, 300, many, alike)
    assert found == pytest.approx(math.sqrt(0.09 / 30) / 2, rel=1e-6)


def brute_correlation(scores, targets, enrol, test) -> list[float]:
    threshold = eer(error_curve(scores, targets)).threshold
    found = {"target": [], "one": [], "both": []}
    for kind in (True, False):
        rows = np.flatnonzero(targets == kind)
        wrong = (scores[rows] < threshold) if kind else (scores[rows] >= threshold)
        centred = wrong - wrong.mean()
        variance = (centred**2).mean()
        for i, j in itertools.combinations(range(len(rows)), 2):
            a, b = {enrol[rows[i]], test[rows[i]]}, {enrol[rows[j]], test[rows[j]]}
            value = centred[i] * centred[j] / variance
            if kind and a == b:
                found["target"].append(value)
            elif not kind and len(a & b) == 2:
                found["both"].append(value)
            elif not kind and len(a & b) == 1:
                found["one"].append(value)
    return [max(0.0, float(np.mean(found[key]))) for key in ("target", "one", "both")]


@pytest.mark.parametrize("seed", range(4))
def test_correlations_equal_the_pairwise_definition(seed):
    scores, _, *rest = study(7, 12, 18, seed, rates=(0.25, 0.3))
    assert list(speaker_correlation(scores, *rest)) == pytest.approx(brute_correlation(scores, *rest), abs=1e-9)


def test_one_pilot_given_twice_is_refused():
    scores, targets = np.arange(8.0) % 5, np.arange(8) % 2 == 0
    speakers = np.arange(8) // 2
    with pytest.raises(ScoresError, match="one is a copy of the other"):
        system_correlation(scores, scores, targets, speakers, np.where(targets, speakers, (speakers + 1) % 4))


def test_a_pilot_without_two_trials_of_two_speakers_takes_the_usual_value():
    scores = np.array([1.0, 0.2, 0.9, 0.1, 0.3, 0.8])
    targets = np.array([True, True, True, False, False, False])
    found = speaker_correlation(scores, targets, np.array([0, 0, 1, 0, 1, 0]), np.array([0, 0, 1, 1, 2, 2]))
    assert found.pair == USUAL.pair
    with pytest.raises(NestvoxError, match="no errors"):
        speaker_correlation(np.where(targets, 2.0, 1.0), targets, np.zeros(6, dtype=int), np.zeros(6, dtype=int))


def test_a_plan_is_consistent():
    made = plan_study(0.05, 0.02, 400)
    assert made.pairs < math.inf
    error = difference_error(0.05, 0.02, 400, made.pairs / 2, made.pairs / 2)
    assert 2.8016 * error == pytest.approx(0.02, rel=0.01)  # 1.95996 + 0.84162
    fewer = difference_error(0.05, 0.02, 400, made.pairs / 2 - 2, made.pairs / 2 - 2)
    assert 2.8016 * fewer > 0.02
    again = plan_study(0.05, 0.02, made.speakers_needed)
    assert again.smallest <= 0.02
    assert plan_study(0.05, 0.02, made.speakers_needed - 1).smallest > 0.02
    assert plan_study(0.05, made.smallest, 400).speakers_needed <= 400


def test_few_speakers_are_never_enough_and_it_says_so():
    made = plan_study(0.02, 0.005, 40)
    assert math.isinf(made.pairs)
    assert plan_study(0.02, 0.005, made.least_speakers).pairs < math.inf
    assert math.isinf(plan_study(0.02, 0.005, made.least_speakers - 1).pairs)
    assert math.isnan(plan_study(0.02, -0.005, 5, pairs=10).smallest)


def test_a_smaller_difference_takes_more():
    sizes = [plan_study(0.05, difference, 50).speakers_needed for difference in (0.04, 0.02, 0.01, 0.005)]
    assert sizes == sorted(sizes)
    # The standard error falls with the root of the number of speakers: half the difference, about four times as many.
    assert sizes[3] / sizes[2] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eer": 0.0}, "between 0 and 0.5"),
        ({"difference": 0.0}, "must not be 0"),
        ({"difference": -0.06}, "second system"),
        ({"speakers": 2}, "at least 3 speakers"),
        ({"pairs": 1}, "2 pairs"),
        ({"correlation": 1.0}, "below 1"),
        ({"clusters": SpeakerCorrelation(1.5, 0, 0)}, "correlations of errors"),
        ({"power": 1.0}, "power"),
    ],
)
def test_what_cannot_be_planned(change, words):
    with pytest.raises(NestvoxError, match=words):
        plan_study(**{"eer": 0.05, "difference": 0.01, "speakers": 40, **change})


def pilot(**options) -> tuple[SpeakerCorrelation, float]:
    a, b, *rest = study(1500, 12, 24, 99, **options)
    return speaker_correlation(a, *rest), system_correlation(a, b, *rest)


@pytest.mark.slow
@pytest.mark.parametrize(("n_speakers", "n_target", "n_nontarget"), [(30, 10, 10), (30, 40, 40), (120, 10, 20)])
def test_predicted_errors_are_those_of_simulated_studies(n_speakers, n_target, n_nontarget):
    clusters, correlation = pilot()
    rates = []
    for seed in range(600):
        a, b, targets, *_ = study(n_speakers, n_target, n_nontarget, seed)
        rates.append((eer(error_curve(a, targets)).rate, eer(error_curve(b, targets)).rate))
    first, second = np.array(rates).T
    counts = n_speakers * n_target, n_speakers * n_nontarget
    # The spread of 600 studies is known to 3 %.
    assert eer_error(0.05, n_speakers, *counts, clusters) == pytest.approx(first.std(), rel=0.15)
    predicted = difference_error(0.05, 0.03, n_speakers, *counts, correlation=correlation, clusters=clusters)
    assert predicted == pytest.approx((second - first).std(), rel=0.15)


@pytest.mark.slow
def test_planned_studies_find_the_difference_as_often_as_planned():
    clusters, correlation = pilot()
    made = plan_study(0.05, 0.03, 40, per_speaker=12, correlation=correlation, clusters=clusters)
    found = 0
    for seed in range(400):
        a, b, *rest = study(made.speakers_needed, 12, 12, 5000 + seed)
        difference = eer(error_curve(b, rest[0])).rate - eer(error_curve(a, rest[0])).rate
        error = standard_error(
            eer_influence(error_curve(b, rest[0])) - eer_influence(error_curve(a, rest[0])), *rest[1:]
        )
        found += abs(difference) > 1.96 * error
    # 80 % of 400 has standard deviation 2 %.
    assert found / 400 == pytest.approx(0.8, abs=0.06)
