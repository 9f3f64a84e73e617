"""The calibration plot's numbers against scikit-learn's isotonic regression, formulas spelled out, and known maps."""

from __future__ import annotations

import numpy as np
import pytest

from nestvox.evaluation.calibration import calibration_curve
from nestvox.metrics import cllr, error_curve


@pytest.fixture
def calibrated() -> tuple[np.ndarray, np.ndarray]:
    """Log likelihood ratios that are right: two normal distributions of variance 1 and distance 3."""
    generator = np.random.default_rng(0)
    targets = np.repeat([True, False], [2000, 3000])
    x = generator.normal(size=5000) + 3.0 * targets
    return 3.0 * x - 4.5, targets


def test_bins_are_those_of_isotonic_regression(calibrated):
    isotonic = pytest.importorskip("sklearn.isotonic")
    scores, targets = calibrated
    found = calibration_curve(None, error_curve(scores, targets), llr=True)
    fitted = isotonic.isotonic_regression(targets[np.argsort(scores)].astype(float))
    of_bin = np.array(found.bin_target) / (np.array(found.bin_target) + np.array(found.bin_nontarget))
    counts = np.array(found.bin_target) + np.array(found.bin_nontarget)
    np.testing.assert_allclose(np.repeat(of_bin, counts), fitted, atol=1e-9)
    assert sum(found.bin_target) == 2000
    assert sum(found.bin_nontarget) == 3000
    assert (np.array(found.bin_low[1:]) > np.array(found.bin_high[:-1])).all()
    for low, high, target, nontarget in zip(
        found.bin_low, found.bin_high, found.bin_target, found.bin_nontarget, strict=True
    ):
        inside = (scores >= low) & (scores <= high)
        assert (int(targets[inside].sum()), int((~targets[inside]).sum())) == (target, nontarget)


def test_right_llrs_have_a_small_loss_and_scaled_ones_a_large_one(calibrated):
    scores, targets = calibrated
    right = calibration_curve(None, error_curve(scores, targets), llr=True)
    assert right.cllr == cllr(error_curve(scores, targets))
    assert right.min_cllr <= right.cllr_affine <= right.cllr < right.min_cllr + 0.02
    assert right.affine_scale == pytest.approx(1, abs=0.1)
    assert right.affine_offset == pytest.approx(0, abs=0.2)
    bold = calibration_curve(None, error_curve(4 * scores, targets), llr=True)
    assert bold.cllr > right.cllr + 0.1
    assert bold.calibration_error > 3 * right.calibration_error
    # Order and the affine fit do not care for the scale.
    assert bold.min_cllr == pytest.approx(right.min_cllr)
    assert bold.cllr_affine == pytest.approx(right.cllr_affine, abs=1e-4)
    assert bold.bayes_minimum == pytest.approx(right.bayes_minimum)


def test_the_calibration_error_spelled_out():
    scores, targets = np.array([-1.0, 0.0, 1.0, 2.0]), np.array([False, True, False, True])
    found = calibration_curve(None, error_curve(scores, targets), llr=True)
    # Bins: {-1} without targets, {0, 1} with one of each, {2} without non-targets.
    assert found.bin_llr == (-np.inf, 0.0, np.inf)

    def probability(llr):
        return 1 / (1 + np.exp(-llr))

    of_target = [abs(probability(0) - 0.5), abs(probability(2) - 1)]
    of_nontarget = [abs(probability(-1) - 0), abs(probability(1) - 0.5)]
    assert found.calibration_error == pytest.approx((np.mean(of_target) + np.mean(of_nontarget)) / 2)


def test_a_cosine_is_not_judged_as_a_llr(calibrated):
    scores, targets = calibrated
    found = calibration_curve(64, error_curve(scores / 20, targets), llr=False)
    assert found.cllr is None
    assert found.act_dcf is None
    assert found.bayes_actual == ()
    assert found.affine_scale == pytest.approx(20, rel=0.1)
    assert (np.array(found.bayes_affine) >= np.array(found.bayes_minimum) - 1e-12).all()


@pytest.mark.parametrize("turned", [True, False])
def test_scores_without_a_map(turned):
    targets = np.repeat([True, False], 50)
    scores = -targets.astype(float) + np.tile([0.0, 0.1], 50) if turned else np.zeros(100)
    found = calibration_curve(None, error_curve(scores, targets), llr=False)
    assert (found.affine_scale, found.cllr_affine, found.calibration_error, found.bayes_affine) == (
        None,
        None,
        None,
        (),
    )
    assert found.min_cllr == pytest.approx(1)
