"""Curve, EER and minDCF against a brute-force reference, scikit-learn and published figures."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.errors import NestvoxError, ScoresError, TrialsError
from nestvox.metrics import eer, eer_rocch, error_curve, min_dcf


@st.composite
def labelled_scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Whole-number scores of both classes: ties are frequent, monotone maps of them exact."""
    size = draw(st.integers(2, 40))
    scores = draw(st.lists(st.integers(-12, 12), min_size=size, max_size=size))
    targets = draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(lambda t: 0 < sum(t) < len(t)))
    return np.array(scores, dtype=np.float64), np.array(targets)


def brute_points(scores, targets) -> list[tuple[float, float]]:
    """(p_fa, p_miss) by comparing every trial with every threshold: O(N^2), no sorting of trials."""
    points = []
    for threshold in [*sorted(set(scores.tolist())), float("inf")]:
        misses = sum(1 for s, t in zip(scores, targets, strict=True) if t and not s >= threshold)
        alarms = sum(1 for s, t in zip(scores, targets, strict=True) if not t and s >= threshold)
        points.append((alarms / int((~targets).sum()), misses / int(targets.sum())))
    return points


def cut_with_diagonal(a, b) -> float:
    """Where the segment between points a and b (on both sides of the diagonal) has p_fa = p_miss."""
    gap_a, gap_b = a[0] - a[1], b[1] - b[0]
    if gap_a + gap_b == 0:
        return min(a[1], b[1])
    return a[1] + gap_a / (gap_a + gap_b) * (b[1] - a[1])


def brute_eer(points) -> float:
    for a, b in itertools.pairwise(points):
        if a[0] >= a[1] and b[0] <= b[1]:
            return cut_with_diagonal(a, b)
    raise AssertionError("the curve does not cross the diagonal")


def brute_rocch(points) -> float:
    """Every pair of points spans a reachable segment; the hull is the lowest of all."""
    return min(cut_with_diagonal(a, b) for a in points for b in points if a[0] >= a[1] and b[0] <= b[1])


@settings(deadline=None)
@given(labelled_scores())
def test_everything_equals_the_brute_force_reference(data):
    scores, targets = data
    curve = error_curve(scores, targets)
    points = brute_points(scores, targets)
    np.testing.assert_allclose(np.stack([curve.p_fa, curve.p_miss], axis=1), points, atol=1e-15)
    assert eer(curve).rate == pytest.approx(brute_eer(points), abs=1e-12)
    assert eer_rocch(curve) == pytest.approx(brute_rocch(points), abs=1e-12)
    for p_target, c_miss, c_fa in ((0.05, 1, 1), (0.01, 10, 1), (0.6, 1, 2)):
        worst = min(c_miss * p_target, c_fa * (1 - p_target))
        expected = min(c_miss * p_target * miss + c_fa * (1 - p_target) * fa for fa, miss in points) / worst
        assert min_dcf(curve, p_target, c_miss, c_fa).value == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(labelled_scores())
def test_equals_scikit_learn(data):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, targets = data
    fpr, tpr, _ = metrics.roc_curve(targets, scores, drop_intermediate=False)
    curve = error_curve(scores, targets)
    np.testing.assert_allclose(curve.p_fa[::-1], fpr, atol=1e-12)
    np.testing.assert_allclose(curve.p_miss[::-1], 1 - tpr, atol=1e-12)


@settings(deadline=None)
@given(labelled_scores(), st.sampled_from([lambda x: 3 * x + 7, np.exp, lambda x: x**3]))
def test_a_rising_map_of_the_scores_changes_nothing(data, rising):
    scores, targets = data
    before, after = error_curve(scores, targets), error_curve(rising(scores), targets)
    np.testing.assert_array_equal(before.n_miss, after.n_miss)
    np.testing.assert_array_equal(before.n_false_alarm, after.n_false_alarm)
    assert eer(before).rate == eer(after).rate
    assert eer_rocch(before) == eer_rocch(after)
    assert min_dcf(before).value == min_dcf(after).value


@settings(deadline=None)
@given(labelled_scores())
def test_flipping_labels_and_scores_swaps_the_errors(data):
    scores, targets = data
    before, after = error_curve(scores, targets), error_curve(-scores, ~targets)
    np.testing.assert_array_equal(before.n_miss, after.n_false_alarm[::-1])
    assert eer(before).rate == pytest.approx(eer(after).rate, abs=1e-12)
    assert eer_rocch(before) == pytest.approx(eer_rocch(after), abs=1e-12)
    assert min_dcf(before, 0.2, 3, 1).value == pytest.approx(min_dcf(after, 0.8, 1, 3).value, abs=1e-12)


@settings(deadline=None)
@given(labelled_scores(), st.randoms(use_true_random=False))
def test_the_order_of_trials_does_not_matter(data, random):
    scores, targets = data
    order = list(range(len(scores)))
    random.shuffle(order)
    before, after = error_curve(scores, targets), error_curve(scores[order], targets[order])
    np.testing.assert_array_equal(before.n_miss, after.n_miss)
    assert eer(before) == eer(after)


@settings(deadline=None)
@given(labelled_scores())
def test_the_threshold_of_the_minimum_cost_reaches_it(data):
    scores, targets = data
    cost = min_dcf(error_curve(scores, targets), 0.1, 2, 1)
    p_miss = np.mean(scores[targets] < cost.threshold)
    p_fa = np.mean(scores[~targets] >= cost.threshold)
    assert (0.2 * p_miss + 0.9 * p_fa) / 0.2 == pytest.approx(cost.value, abs=1e-12)


@settings(deadline=None)
@given(labelled_scores())
def test_hull_is_never_above_the_curve_and_never_above_a_half(data):
    curve = error_curve(*data)
    assert eer_rocch(curve) <= min(eer(curve).rate, 0.5) + 1e-12


@settings(deadline=None)
@given(labelled_scores(), st.data())
def test_weights_are_copies(data, more):
    scores, targets = data
    weights = np.array(more.draw(st.lists(st.integers(0, 3), min_size=len(scores), max_size=len(scores))))
    if not (weights[targets].sum() and weights[~targets].sum()):
        return
    weighted = error_curve(scores, targets, weights)
    copied = error_curve(np.repeat(scores, weights), np.repeat(targets, weights))
    assert eer(weighted).rate == pytest.approx(eer(copied).rate, abs=1e-12)
    assert min_dcf(weighted).value == pytest.approx(min_dcf(copied).value, abs=1e-12)
    assert (weighted.n_target, weighted.n_nontarget) == (copied.n_target, copied.n_nontarget)


def test_separable_scores_have_no_errors_and_say_where():
    curve = error_curve([0.1, 0.2, 0.8, 0.9], np.array([False, False, True, True]))
    assert eer(curve) == (0.0, 0.8)
    assert min_dcf(curve) == (0.0, 0.8)


def test_all_scores_equal_is_chance_whatever_the_order():
    targets = np.array([True, True, True, False])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        curve = error_curve(np.full(4, 0.25), targets[order])
        assert eer(curve) == (0.5, 0.25)
        assert min_dcf(curve).value == 1.0


def test_interpolation_by_hand():
    # targets 1, 3; non-targets 0, 2, 2: at 2 miss 1/2, fa 2/3; at 3 miss 1/2, fa 0: crossing at one half
    curve = error_curve([1, 3, 0, 2, 2], np.array([True, True, False, False, False]))
    assert eer(curve).rate == pytest.approx(0.5)
    assert eer(curve).threshold == pytest.approx(2.25)
    # the hull joins (fa 2/3, miss 0) and (0, 1/2): 2/3 (1 - x) = x / 2 at x = 4/7, rate 2/7
    assert eer_rocch(curve) == pytest.approx(2 / 7)


def test_miss_rate_at_given_false_alarm_rates():
    curve = error_curve([1, 3, 0, 2, 2], np.array([True, True, False, False, False]))
    # points (fa, miss): (1, 0) (2/3, 0) (2/3, 1/2) (0, 1/2) (0, 1)
    np.testing.assert_allclose(curve.p_miss_at([0.9, 2 / 3, 1 / 3, 0.0]), [0, 0, 0.5, 0.5], atol=1e-12)


@pytest.mark.parametrize(
    ("scores", "targets", "error", "words"),
    [
        ([0.1, 0.2], [True, True], TrialsError, "2 target and 0 non-target"),
        ([0.1, 0.2], [False, False], TrialsError, "0 target and 2 non-target"),
        ([], np.zeros(0, dtype=bool), TrialsError, "both classes"),
        ([0.1, np.nan, np.inf], [True, False, True], ScoresError, r"2 of 3 .* number 2"),
        ([0.1, 0.2], [True, False, True], ScoresError, "one length"),
        ([0.1, 0.2], [1, 0], TrialsError, "booleans"),
    ],
)
def test_what_cannot_be_measured_is_refused(scores, targets, error, words):
    with pytest.raises(error, match=words):
        error_curve(scores, np.asarray(targets))


@pytest.mark.parametrize(
    "point",
    [
        (0.0, 1, 1),
        (1.0, 1, 1),
        (0.5, 0, 1),
        (0.5, 1, -1),
        (0.5, float("inf"), 1),
        (1e-300, 1e-300, 1),  # their product is 0
        (0.5, 1e308, 1e308),  # their sum is infinite
    ],
)
def test_impossible_operating_points_are_refused(point):
    curve = error_curve([0.1, 0.2], np.array([False, True]))
    with pytest.raises(NestvoxError):
        min_dcf(curve, *point)


def test_weights_without_a_class_are_refused():
    with pytest.raises(TrialsError, match="no weight"):
        error_curve([0.1, 0.2], np.array([False, True]), [1, 0])
    with pytest.raises(ScoresError, match="at least 0"):
        error_curve([0.1, 0.2], np.array([False, True]), [1, -1])


def test_voxsrc_2023_figures(lists_dir: Path):
    label, score = np.loadtxt(lists_dir / "voxsrc2023_val_label_score.txt").T
    curve = error_curve(score, label == 1)
    assert (curve.n_target, curve.n_nontarget) == (25_645, 24_342)
    assert 100 * eer(curve).rate == pytest.approx(4.0948, abs=5e-5)
    assert min_dcf(curve, 0.05).value == pytest.approx(0.214243, abs=5e-7)


def cost_with_ties_in_file_order(scores, targets, p_target: float) -> float:
    """What the organisers' script computes: every trial is a threshold, equal scores as they come in the file."""
    targets = targets[np.argsort(scores, kind="stable")]
    p_miss = np.concatenate(([0], np.cumsum(targets))) / targets.sum()
    p_fa = 1 - np.concatenate(([0], np.cumsum(~targets))) / (~targets).sum()
    return float(np.min(p_target * p_miss + (1 - p_target) * p_fa) / p_target)


def test_voxsrc_2021_figures_and_what_the_order_of_ties_is_worth(lists_dir: Path):
    targets = np.loadtxt(lists_dir / "voxsrc2021_val_trials.txt", usecols=0) == 1
    scores = np.loadtxt(lists_dir / "voxsrc2021_val_scores.txt", usecols=0)
    curve = error_curve(scores, targets)
    assert len(curve.thresholds) == 451 + 1
    assert 100 * eer(curve).rate == pytest.approx(5.1765, abs=5e-5)
    assert min_dcf(curve, 0.05).value == pytest.approx(0.292829, abs=5e-7)
    assert cost_with_ties_in_file_order(scores, targets, 0.05) == pytest.approx(0.291899, abs=5e-7)
