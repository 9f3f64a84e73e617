"""Every figure of an error curve against independent implementations, on ties and extremes.

The oracles are scikit-learn and llreval (a fork of PYLLR, the authors' own port of BOSARIS); where one of them has
another convention, e.g. for ties, the definition is spelled out here.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.errors import NestvoxError, ScoresError, TrialsError
from nestvox.metrics import (
    act_dcf,
    auc,
    bayes_error_curve,
    bayes_threshold,
    cllr,
    dcf_at,
    eer,
    eer_at_corner,
    eer_rocch,
    error_curve,
    far_at_frr,
    frr_at_far,
    min_cllr,
    min_dcf,
    rates_at,
)

TIED = st.integers(-6, 6).map(float)
MODERATE = st.floats(-50, 50, allow_nan=False)
EXTREME = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([1e308, -1e308, 5e-324, 0.0, -0.0])
)


@st.composite
def labelled(draw: st.DrawFn, kind: st.SearchStrategy[float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores of both classes; the kind of numbers is drawn too unless given."""
    values = kind if kind is not None else draw(st.sampled_from([TIED, MODERATE, st.one_of(TIED, EXTREME)]))
    size = draw(st.integers(2, 60))
    scores = draw(st.lists(values, min_size=size, max_size=size))
    targets = draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(lambda t: 0 < sum(t) < len(t)))
    return np.array(scores, dtype=np.float64), np.array(targets)


LLRS = labelled(st.one_of(TIED, MODERATE))


def ranks(scores: np.ndarray) -> np.ndarray:
    """The same order with numbers that an oracle can subtract without overflow."""
    return np.unique(scores, return_inverse=True)[1].astype(np.float64)


@settings(deadline=None)
@given(labelled())
def test_auc_and_curve_equal_scikit_learn(data):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, targets = data
    curve = error_curve(scores, targets)
    assert auc(curve) == pytest.approx(metrics.roc_auc_score(targets, ranks(scores)), abs=1e-9)
    fpr, tpr, thresholds = metrics.roc_curve(targets, ranks(scores), drop_intermediate=False)
    np.testing.assert_allclose(curve.p_fa[::-1], fpr, atol=1e-9)
    np.testing.assert_allclose(curve.p_miss[::-1], 1 - tpr, atol=1e-9)
    np.testing.assert_array_equal(curve.thresholds, np.append(np.unique(scores), np.inf))
    assert len(thresholds) == len(curve.thresholds)


@settings(deadline=None)
@given(LLRS)
def test_cllr_min_cllr_and_hull_equal_llreval(data):
    pav_rocch, costs = pytest.importorskip("llreval.pav_rocch"), pytest.importorskip("llreval.cllr")
    scores, targets = data
    curve = error_curve(scores, targets)
    assert cllr(curve) == pytest.approx(costs.cllr(scores[targets], scores[~targets]), abs=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # its logit of 0 and 1
        pooled = pav_rocch.PAV(scores, targets.astype(int))
        expected = costs.min_cllr(pooled)
    assert min_cllr(curve) == pytest.approx(expected, abs=1e-9)
    # Its equal error rate is a numerical maximum, good to about 1e-6.
    assert eer_rocch(curve) == pytest.approx(pav_rocch.ROCCH(pooled).EER(), abs=2e-6)


@settings(deadline=None)
@given(labelled())
def test_bins_equal_scikit_learns_isotonic_regression(data):
    isotonic = pytest.importorskip("sklearn.isotonic")
    scores, targets = data
    bins = error_curve(scores, targets).isotonic
    expected = isotonic.IsotonicRegression().fit_transform(ranks(scores), targets.astype(float))
    fractions = bins.n_target / (bins.n_target + bins.n_nontarget)
    of_trial = np.searchsorted(bins.lowest, scores, side="right") - 1
    np.testing.assert_allclose(fractions[of_trial], expected, atol=1e-9)
    assert bins.n_target.sum() == targets.sum()
    assert bins.n_nontarget.sum() == (~targets).sum()
    assert (np.diff(bins.llr) > 0).all()


@settings(deadline=None)
@given(LLRS, st.sets(st.integers(-80, 80), min_size=1, max_size=7).map(lambda p: np.array(sorted(p)) / 8 + 1 / 1024))
def test_bayes_error_equals_llreval(data, odds):
    # Thresholds lie between the scores: llreval accepts a score above the threshold, nestvox also one at it.
    rates, pav_rocch = pytest.importorskip("llreval.bayes_error_rate"), pytest.importorskip("llreval.pav_rocch")
    scores, targets = data
    scores = np.round(scores * 8) / 8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        actual = rates.fast_Bayes_error_rate(scores, targets.astype(int), odds)
        minimum = pav_rocch.ROCCH(pav_rocch.PAV(scores, targets.astype(int))).Bayes_error_rate(odds)
    default = rates.default_error_rate(odds)
    found = bayes_error_curve(error_curve(scores, targets), odds)
    np.testing.assert_allclose(found.actual, actual / default, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.minimum, minimum / default, rtol=1e-9, atol=1e-9)


def by_counting(scores, targets, threshold) -> tuple[float, float]:
    """Miss and false-alarm rate, trial by trial."""
    accepted = [score >= threshold for score in scores]
    misses = sum(1 for a, t in zip(accepted, targets, strict=True) if t and not a)
    alarms = sum(1 for a, t in zip(accepted, targets, strict=True) if a and not t)
    return misses / int(targets.sum()), alarms / int((~targets).sum())


POINTS = st.tuples(st.sampled_from([0.01, 0.05, 0.3, 0.5, 0.9]), st.sampled_from([1, 2, 10]), st.sampled_from([1, 5]))


@settings(deadline=None)
@given(labelled(), POINTS)
def test_actual_cost_is_the_cost_of_deciding_at_the_bayes_threshold(data, point):
    scores, targets = data
    p, c_miss, c_fa = point
    curve = error_curve(scores, targets)
    found = act_dcf(curve, *point)
    miss, fa = by_counting(scores, targets, math.log(c_fa * (1 - p) / (c_miss * p)))
    best = min(c_miss * p, c_fa * (1 - p))
    assert found.value == pytest.approx((c_miss * p * miss + c_fa * (1 - p) * fa) / best, abs=1e-9)
    assert found.value >= min_dcf(curve, *point).value - 1e-12


@settings(deadline=None)
@given(labelled(), POINTS, st.sampled_from([0.0, 0.01, 0.1, 0.25, 1 / 3, 0.5, 1.0]))
def test_a_stored_threshold_has_the_rates_it_was_stored_with(data, point, rate):
    scores, targets = data
    curve = error_curve(scores, targets)
    for found in (frr_at_far(curve, rate), far_at_frr(curve, rate)):
        # Through text and back, as calibration files keep it.
        assert by_counting(scores, targets, float(repr(found.threshold))) == (found.p_miss, found.p_fa)
        assert rates_at(curve, found.threshold) == found
    cost = min_dcf(curve, *point)
    assert dcf_at(curve, float(repr(cost.threshold)), *point) == pytest.approx(cost.value, abs=1e-12)
    equal = eer(curve)
    miss, fa = by_counting(scores, targets, float(repr(equal.threshold)))
    at = rates_at(curve, equal.threshold)
    assert (at.p_miss, at.p_fa) == (miss, fa)
    # The rates that can be had lie at one end of the step that the interpolated rate lies in.
    assert min(miss, fa) - 1e-12 <= equal.rate <= max(miss, fa) + 1e-12


@settings(deadline=None)
@given(labelled(), st.sampled_from([0.0, 0.01, 0.1, 0.25, 1 / 3, 0.5, 1.0]))
def test_rates_held_are_the_best_of_all_thresholds(data, rate):
    scores, targets = data
    curve = error_curve(scores, targets)
    points = [by_counting(scores, targets, t) for t in [*sorted(set(scores.tolist())), math.inf]]
    far = frr_at_far(curve, rate)
    assert (far.p_miss, far.p_fa <= rate) == (min(miss for miss, fa in points if fa <= rate), True)
    frr = far_at_frr(curve, rate)
    assert (frr.p_fa, frr.p_miss <= rate) == (min(fa for miss, fa in points if miss <= rate), True)


def test_min_cllr_of_many_trials_equals_scikit_learn():
    # More corners than the plain loop takes at once, so that the passes before it are tried too.
    isotonic = pytest.importorskip("sklearn.isotonic")
    generator = np.random.default_rng(4)
    targets = generator.random(60_000) < 0.3
    scores = generator.normal(size=60_000) + 2 * targets
    p = isotonic.IsotonicRegression().fit_transform(scores, targets.astype(float))
    prior = targets.mean()
    with np.errstate(divide="ignore"):
        llr = np.log(p) - np.log1p(-p) - np.log(prior / (1 - prior))
    expected = (np.logaddexp(0, -llr[targets]).mean() + np.logaddexp(0, llr[~targets]).mean()) / 2 / np.log(2)
    curve = error_curve(scores, targets)
    assert min_cllr(curve) == pytest.approx(expected, abs=1e-9)
    assert len(curve.isotonic.llr) == len(np.unique(p))


@settings(deadline=None)
@given(labelled(), st.sampled_from([lambda x: 2 * x, np.arctan, lambda x: np.sign(x) * np.log1p(abs(x))]))
def test_ranking_figures_do_not_see_a_rising_map(data, rising):
    scores, targets = data
    if len(np.unique(rising(scores / 4))) < len(np.unique(scores)):
        return  # the map is not strict in floating point
    before, after = error_curve(scores, targets), error_curve(rising(scores / 4), targets)
    assert auc(before) == auc(after)
    assert min_cllr(before) == min_cllr(after)


def test_weights_are_copies():
    generator = np.random.default_rng(1)
    scores, targets = generator.integers(-4, 5, 200) / 2, generator.random(200) < 0.4
    weights = generator.integers(0, 4, 200)
    weighted = error_curve(scores, targets, weights)
    copied = error_curve(np.repeat(scores, weights), np.repeat(targets, weights))
    for figure in (auc, cllr, min_cllr, eer_rocch, lambda c: act_dcf(c).value, lambda c: frr_at_far(c, 0.1).p_miss):
        assert figure(weighted) == pytest.approx(figure(copied), abs=1e-12)


def test_known_values():
    # Log likelihood ratios of 0 say nothing: one bit, and the cost of the prior.
    silent = error_curve([0.0, 0.0, 0.0], np.array([True, False, False]))
    assert cllr(silent) == pytest.approx(1)
    assert min_cllr(silent) == pytest.approx(1)
    assert act_dcf(silent, 0.05).value == 1
    # Certain and wrong: each trial costs log2(1 + e^10) bits.
    wrong = error_curve([-10.0, 10.0], np.array([True, False]))
    assert cllr(wrong) == pytest.approx(math.log2(1 + math.exp(10)))
    assert min_cllr(wrong) == pytest.approx(1)
    assert auc(wrong) == 0
    right = error_curve([10.0, -10.0], np.array([True, False]))
    assert (min_cllr(right), auc(right), act_dcf(right, 0.05).value) == (0, 1, 0)
    assert bayes_threshold(0.05) == pytest.approx(math.log(19))
    assert bayes_threshold(0.01, 10, 1) == pytest.approx(math.log(9.9))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: rates_at(c, math.nan), "not a number"),
        (lambda c: dcf_at(c, math.nan), "not a number"),
        (lambda c: frr_at_far(c, 1.5), "p_fa"),
        (lambda c: far_at_frr(c, -0.1), "p_miss"),
        (lambda c: act_dcf(c, 1.0), "p_target"),
        (lambda c: bayes_error_curve(c, [0.0, math.inf]), "finite"),
    ],
)
def test_what_cannot_be_asked(call, words):
    with pytest.raises(NestvoxError, match=words):
        call(error_curve([0.1, 0.2], np.array([False, True])))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_and_one_class_never_get_a_curve(bad):
    with pytest.raises(ScoresError, match="not finite"):
        error_curve([0.1, bad], np.array([True, False]))
    with pytest.raises(TrialsError, match="both classes"):
        error_curve([0.1, 0.2], np.array([True, True]))


@settings(deadline=None)
@given(trials=labelled())
def test_eer_at_corner_is_that_of_voxceleb_trainer(trials: tuple[np.ndarray, np.ndarray]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, targets = trials
    fpr, tpr, _ = metrics.roc_curve(targets, ranks(scores))
    fnr = 1 - tpr
    nearest = np.argmin(np.abs(fnr - fpr))
    assert eer_at_corner(error_curve(scores, targets)) == pytest.approx(max(fpr[nearest], fnr[nearest]), abs=1e-12)


def test_eer_at_corner_passes_by_the_middle_of_a_run() -> None:
    """From the top 4 targets, 2 others, 6 targets, 3 others: within the third run both rates are 2 / 5."""
    targets = np.array([1] * 4 + [0] * 2 + [1] * 6 + [0] * 3, dtype=bool)
    curve = error_curve(np.arange(15.0)[::-1], targets)
    assert eer(curve).rate == pytest.approx(0.4)
    assert eer_at_corner(curve) == pytest.approx(0.6)  # |0.6 - 0.4| is less than |0 - 0.4| at the other end
