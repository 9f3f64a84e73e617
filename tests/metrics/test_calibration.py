"""Calibration against scikit-learn's logistic regression and against maps that are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.errors import NestvoxError, ScoresError, TrialsError
from nestvox.metrics import act_dcf, cllr, error_curve, min_cllr, min_dcf
from nestvox.metrics.calibration import (
    Calibration,
    calibrations_from_dict,
    calibrations_to_dict,
    fit_calibration,
    symmetric_quality,
)


def gaussian(n: int, seed: int, *, distance: float = 3.0, share: float = 0.3):
    generator = np.random.default_rng(seed)
    targets = generator.random(n) < share
    return generator.normal(size=n) + distance * targets, targets


def oracle(scores, targets, quality, p_target: float, ridge: float):
    """The same minimum by scikit-learn: its prior is that of the weights, so tau is taken off its intercept."""
    linear = pytest.importorskip("sklearn.linear_model")
    columns = np.column_stack([scores, quality])
    centre, spread = columns.mean(axis=0), columns.std(axis=0)
    weights = np.where(targets, p_target / targets.sum(), (1 - p_target) / (~targets).sum())
    model = linear.LogisticRegression(C=1 / ridge, solver="newton-cholesky", tol=1e-12, max_iter=10_000)
    # Its loss is summed and ours weighted to 1, so C carries the ridge alone.
    model.fit((columns - centre) / spread, targets, sample_weight=weights)
    slopes = model.coef_[0] / spread
    return slopes, model.intercept_[0] - slopes @ centre - math.log(p_target / (1 - p_target))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.05, 0.9]), st.sampled_from([1e-4, 1e-2, 1.0]))
def test_equals_scikit_learn(seed, p_target, ridge):
    scores, targets = gaussian(200, seed, distance=1.5)
    quality = np.random.default_rng(seed + 1).normal(size=(200, 2)) + scores[:, None] * [0.3, 0]
    found = fit_calibration(scores, targets, quality, quality_names=["a", "b"], p_target=p_target, ridge=ridge)
    slopes, offset = oracle(scores, targets, quality, p_target, ridge)
    assert found.scale == pytest.approx(slopes[0], rel=1e-5, abs=1e-6)
    assert [weight for _, weight in found.quality] == pytest.approx(list(slopes[1:]), rel=1e-5, abs=1e-5)
    assert found.offset == pytest.approx(offset, rel=1e-5, abs=1e-5)


def test_known_map_of_two_gaussians():
    # N(0, 1) against N(d, 1): the log likelihood ratio is d * s - d^2 / 2.
    scores, targets = gaussian(200_000, 1)
    found = fit_calibration(scores, targets)
    assert found.scale == pytest.approx(3, rel=0.03)
    assert found.offset == pytest.approx(-4.5, rel=0.03)
    assert (found.n_target, found.n_nontarget) == (targets.sum(), (~targets).sum())
    fresh, labels = gaussian(100_000, 2)
    curve = error_curve(found(fresh), labels)
    assert cllr(curve) == pytest.approx(min_cllr(curve), abs=0.01)
    assert act_dcf(curve, 0.05).value == pytest.approx(min_dcf(curve, 0.05).value, abs=0.02)


def test_the_prior_moves_the_optimum_not_the_meaning():
    # Scores that are no Gaussians: no affine map is right everywhere, and the prior says where it is best.
    scores, targets = gaussian(50_000, 3)
    scores = np.where(scores > 2, scores + (scores - 2) ** 2, scores)
    for p_target in (0.01, 0.5):
        at = {
            p: act_dcf(error_curve(fit_calibration(scores, targets, p_target=p)(scores), targets), p_target).value
            for p in (0.01, 0.5)
        }
        assert at[p_target] <= min(at.values()) + 1e-3


def test_the_scale_of_the_scores_does_not_matter():
    scores, targets = gaussian(2000, 4)
    plain = fit_calibration(scores, targets)(scores)
    for factor, shift in ((1e-3, 0.0), (1e6, -5e6), (1e300, 0.0), (1.0, 1e4)):
        moved = scores * factor + shift
        np.testing.assert_allclose(fit_calibration(moved, targets)(moved), plain, atol=1e-5)


def test_classes_that_do_not_overlap_stay_finite():
    scores = np.array([0.1, 0.2, 0.3, 0.7, 0.8])
    targets = np.array([False, False, False, True, True])
    found = fit_calibration(scores, targets)
    llr = found(scores)
    assert np.isfinite(llr).all()
    assert llr[2] < 0 < llr[3]
    # Two targets and three non-targets support 3 to 1 and 4 to 1, whatever the ridge makes of the slope.
    assert -math.log(3) < llr.min() < llr.max() < math.log(4)
    assert found.affine(scores).max() > 5, "the slope itself is as steep as ever"
    assert fit_calibration(scores, targets, ridge=1.0).scale < found.scale


@pytest.mark.parametrize("n", [2, 20, 100, 5000])
@pytest.mark.parametrize("ridge", [1e-12, 1e-4, 1.0])
def test_no_ratio_is_larger_than_the_trials_support(n, ridge):
    scores, targets = np.concatenate([np.linspace(0, 1, n), np.linspace(3, 4, 2 * n)]), np.arange(3 * n) >= n
    found = fit_calibration(scores, targets, ridge=ridge)
    llr = found(np.concatenate([scores, [-1e9, -50, 50, 1e9]]))
    assert -math.log(2 * n + 1) <= llr.min()
    assert llr.max() <= math.log(n + 1)
    assert (np.diff(found(scores)) > 0).all() or ridge == 1e-12, "the order stays, as long as numbers can tell it"
    few = fit_calibration(scores, targets, ridge=ridge, independent=(8.0, 1.5))
    assert few.bounds == (-math.log(9), math.log(2.5))
    assert few.affine(scores) == pytest.approx(found.affine(scores))


def test_within_its_bounds_the_map_is_affine_and_the_threshold_its_inverse():
    scores, targets = gaussian(5000, 10)
    found = fit_calibration(scores, targets)
    affine, llr = found.offset + found.scale * scores, found(scores)
    inside = (affine > found.bounds[0] + 1) & (affine < found.bounds[1] - 1)
    assert 0.7 < inside.mean() < 1
    np.testing.assert_array_equal(llr[inside], affine[inside])
    for p_target in (0.5, 0.01, 0.001, 0.0004):  # the last one lies where the map bends
        wanted = math.log((1 - p_target) / p_target)
        assert found([found.threshold(p_target)])[0] == pytest.approx(wanted)
    with pytest.raises(NestvoxError, match=r"takes a log likelihood ratio of 13\.82 nats, and the trials .* support"):
        found.threshold(1e-6)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-300, 1e300, -7.7])
def test_equal_scores_are_equal_whatever_their_digits(value):
    targets = np.arange(99) % 2 == 0
    with pytest.raises(ScoresError, match="equal"):
        fit_calibration(np.full(99, value), targets)
    varied = np.arange(99.0) + 50 * targets
    found = fit_calibration(varied, targets, np.full((99, 1), value), quality_names=["q"])
    assert found.quality == (("q", 0.0),)
    assert found.affine([1.0], [[value]]) == pytest.approx(fit_calibration(varied, targets).affine([1.0]))


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-300, 1e300])
def test_scores_at_the_ends_of_the_numbers_give_the_same_map_or_a_reason(scale):
    scores, targets = np.round(8 * gaussian(500, 11)[0]), gaussian(500, 11)[1]
    plain = fit_calibration(scores, targets)(scores)
    if scale < 1e-307:  # nats per unit are beyond the largest number
        with pytest.raises(ScoresError, match="too small"):
            fit_calibration(scores * scale, targets)
        return
    np.testing.assert_allclose(fit_calibration(scores * scale, targets)(scores * scale), plain, atol=1e-4)


def test_more_measures_than_evidence_are_refused():
    scores, targets = gaussian(60, 12, share=0.5)
    noise = np.random.default_rng(13).normal(size=(60, 12))
    names = [f"q{i}" for i in range(12)]
    rarer = min(targets.sum(), (~targets).sum())
    enough = int(rarer // 5)
    assert len(fit_calibration(scores, targets, noise[:, :enough], quality_names=names[:enough]).quality) == enough
    with pytest.raises(ScoresError, match=rf"{5 * (enough + 1)} independent trials of each class.*leave measures out"):
        fit_calibration(scores, targets, noise[:, : enough + 1], quality_names=names[: enough + 1])
    constant = noise * (np.arange(12) < enough)
    assert len(fit_calibration(scores, targets, constant, quality_names=names).quality) == 12, "these weigh nothing"
    with pytest.raises(ScoresError, match="worth 8 target and 2 non-target"):
        fit_calibration(scores, targets, noise[:, :1], quality_names=["q"], independent=(8.0, 1.5))


def test_quality_helps_where_the_spread_depends_on_it():
    # Long recordings score higher whoever speaks; their length takes that away again.
    generator = np.random.default_rng(5)
    scores, targets = gaussian(20_000, 6, distance=2)
    length = generator.normal(size=20_000)
    scores = scores + 1.5 * length
    plain = fit_calibration(scores[:10_000], targets[:10_000])
    better = fit_calibration(scores[:10_000], targets[:10_000], length[:10_000, None], quality_names=["log_duration"])
    assert better.quality[0][0] == "log_duration"
    # Removing 1.5 * length from a score worth 2 nats a unit: -3 nats a unit.
    assert better.quality[0][1] == pytest.approx(-3, rel=0.1)
    without = cllr(error_curve(plain(scores[10_000:]), targets[10_000:]))
    with_it = cllr(error_curve(better(scores[10_000:], length[10_000:, None]), targets[10_000:]))
    assert with_it < 0.8 * without


def test_a_measure_that_never_varies_gets_no_weight():
    scores, targets = gaussian(500, 7)
    found = fit_calibration(scores, targets, np.full((500, 1), 3.0), quality_names=["rate"])
    assert found.quality == (("rate", 0.0),)


def test_symmetric_quality():
    np.testing.assert_allclose(symmetric_quality([1, 4], [3, 2]), [[2, 2], [3, 2]])
    np.testing.assert_array_equal(symmetric_quality([1, 4], [3, 2]), symmetric_quality([3, 2], [1, 4]))
    with pytest.raises(ScoresError, match="one number a side"):
        symmetric_quality([1, 2], [1])


def test_threshold_is_where_the_map_reaches_the_bayes_threshold():
    scores, targets = gaussian(2000, 8)
    found = fit_calibration(scores, targets)
    threshold = found.threshold(0.01, 10, 1)
    assert found([threshold])[0] == pytest.approx(math.log(99 / 10))
    side = symmetric_quality(scores, scores)
    with pytest.raises(NestvoxError, match="trial to trial"):
        fit_calibration(scores, targets, side, quality_names=["m", "d"]).threshold()


def test_saved_as_plain_values_and_read_back():
    scores, targets = gaussian(500, 9)
    side = symmetric_quality(scores, scores[::-1])
    fits = {
        None: fit_calibration(scores, targets, trials_sha256="ab" * 32),
        64: fit_calibration(scores, targets, side, quality_names=["mean", "difference"], p_target=0.05),
    }
    fits[8] = fit_calibration(scores, targets, independent=(30.5, 60.25))
    content = json.loads(json.dumps(calibrations_to_dict(fits), allow_nan=False))
    assert set(content) == {"scores", "64", "8"}
    assert "independent_target" not in content["64"], "files from before hold no such key, and keep their own"
    back = calibrations_from_dict(content)
    assert back == fits
    np.testing.assert_array_equal(back[64](scores, side), fits[64](scores, side))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"scores": np.full(50, 0.5)}, ScoresError, "all scores are equal"),
        ({"targets": np.ones(50, dtype=bool)}, TrialsError, "both classes"),
        ({"p_target": 1.0}, NestvoxError, "p_target"),
        ({"ridge": 0.0}, NestvoxError, "ridge"),
        ({"quality": np.ones((50, 2)), "quality_names": ["one"]}, ScoresError, r"\(50, 1\) numbers, got \(50, 2\)"),
        ({"quality": np.full((50, 1), np.nan), "quality_names": ["snr"]}, ScoresError, "snr of trial 1 is nan"),
    ],
)
def test_what_cannot_be_fitted(change, error, words):
    scores, targets = gaussian(50, 11)
    with pytest.raises(error, match=words):
        fit_calibration(**{"scores": scores, "targets": targets, **change})


def test_scores_too_small_for_a_finite_slope_are_refused():
    scores, targets = gaussian(50, 11)
    with pytest.raises(ScoresError, match="too small"):
        fit_calibration(1e-310 * scores, targets)


def test_scores_of_the_wrong_direction_are_refused():
    scores, targets = gaussian(200, 12)
    with pytest.raises(ScoresError, match="turn the sign"):
        fit_calibration(-scores, targets)


def test_what_cannot_be_mapped_or_read():
    found = fit_calibration(*gaussian(200, 13))
    with pytest.raises(ScoresError, match="finite"):
        found([np.inf])
    with pytest.raises(ScoresError, match="quality"):
        found([0.1], [[1.0]])
    content = found.to_dict()
    with pytest.raises(NestvoxError, match="keys"):
        Calibration.from_dict({"scale": 1.0})
    with pytest.raises(NestvoxError, match="positive scale"):
        Calibration.from_dict({**content, "scale": -1.0})
    with pytest.raises(NestvoxError, match="no dimension"):
        calibrations_from_dict({"full": content})


def test_a_long_list_is_fitted_as_a_short_one(monkeypatch):
    """Begun where a part of the trials ends, the fit still ends where the gradient of all of them is zero."""
    monkeypatch.setattr("nestvox.metrics.calibration._MANY", 1000)
    monkeypatch.setattr("nestvox.metrics.calibration._PART", 300)
    generator = np.random.default_rng(8)
    targets = generator.random(4000) < 0.3
    scores = generator.normal(size=4000) + 2 * targets
    found = fit_calibration(scores, targets)
    weights = np.where(targets, 0.5 / targets.sum(), 0.5 / (~targets).sum())
    wrong = np.where(targets, -1, 1) * weights / (1 + np.exp(np.where(targets, 1, -1) * found.affine(scores)))
    assert wrong.sum() == pytest.approx(0, abs=1e-14)
    unit = (scores - scores.mean()) / scores.std()
    assert wrong @ unit + found.ridge * found.scale * scores.std() == pytest.approx(0, abs=1e-14)
