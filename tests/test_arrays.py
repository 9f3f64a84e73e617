"""The same values in any type give the same answer, or are refused by name: every public function that takes arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nestvox import metrics
from nestvox.arrays import as_clusters, as_count, as_rows, as_vectors, fit_to_square
from nestvox.errors import NestvoxError
from nestvox.evaluation.search import nearest
from nestvox.heads.contract import normalise, truncate
from nestvox.heads.moments import Moments
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.refine import Refinement, refine
from nestvox.heads.rotation import Scatter, discriminant, truncation
from nestvox.metrics.compare import rank_identically
from nestvox.metrics.curves import check_scores
from nestvox.metrics.influence import Clusters, auc_influence, cllr_influence, eer_influence, standard_error
from nestvox.metrics.replicates import SpeakerBootstrap
from nestvox.metrics.thresholds import DecisionRule, fit_threshold
from nestvox.scoring.system import prefix_cosines

GENERATOR = np.random.default_rng(3)
N, S = 240, 16
ENROL = GENERATOR.integers(0, S, N)
TEST = np.where(np.arange(N) % 2 == 0, ENROL, (ENROL + 1 + GENERATOR.integers(0, S - 1, N)) % S)
TARGETS = ENROL == TEST
SCORES = np.clip(GENERATOR.integers(0, 60, N) + 40 * TARGETS, 0, 120)  # of every type down to 8 bits
OTHER = np.clip(GENERATOR.integers(0, 60, N) + 30 * TARGETS, 0, 120)
VECTORS = GENERATOR.integers(1, 100, (24, 6))
SPEAKERS = [f"s{i // 3}" for i in range(24)]
STATISTICS = metrics.cohort_statistics(VECTORS.astype(np.float64), VECTORS[::-1].astype(np.float64) + np.eye(24, 6))
CURVE = metrics.error_curve(SCORES, TARGETS)
DRAWS = {"n_replicates": 40, "seed": 1}


def added(values: Any) -> Moments:
    moments = Moments(6)
    moments.add(values)
    return moments


def scattered(values: Any) -> Scatter:
    scatter = Scatter(6)
    scatter.add(values, SPEAKERS)
    return scatter


REAL: dict[str, tuple[Callable[[Any], Any], np.ndarray]] = {
    "check_scores": (lambda x: check_scores(x, TARGETS)[0], SCORES),
    "error_curve": (lambda x: metrics.eer(metrics.error_curve(x, TARGETS)), SCORES),
    "error_curve of weights": (lambda x: metrics.eer(metrics.error_curve(SCORES, TARGETS, x)), OTHER),
    "speaker_bootstrap": (lambda x: metrics.speaker_bootstrap(x, TARGETS, ENROL, TEST, **DRAWS).eer, SCORES),
    "compare_scores": (
        lambda x: metrics.compare_scores(x, OTHER, TARGETS, ENROL, TEST, n_permutations=20, **DRAWS).eer,
        SCORES,
    ),
    "rank_identically": (lambda x: rank_identically(x, OTHER), SCORES),
    "fit_calibration": (lambda x: metrics.fit_calibration(x, TARGETS)([1.0]), SCORES),
    "fit_calibration of quality": (
        lambda x: metrics.fit_calibration(SCORES, TARGETS, x, quality_names=["q"]).quality[0][1],
        OTHER[:, None],
    ),
    "Calibration": (metrics.fit_calibration(SCORES, TARGETS), OTHER),
    "bayes_error_curve": (lambda x: metrics.bayes_error_curve(CURVE, x).actual, OTHER[:9] // 20),
    "holm": (metrics.holm, np.array([0, 1, 1, 0])),
    "p_miss_at": (CURVE.p_miss_at, np.array([0, 1, 0])),
    "fit_threshold": (lambda x: fit_threshold(x, TARGETS, ENROL, TEST, DecisionRule("eer"), **DRAWS).point, SCORES),
    "eer_influence": (lambda x: eer_influence(metrics.error_curve(x, TARGETS)), SCORES),
    "auc_influence": (lambda x: auc_influence(metrics.error_curve(x, TARGETS)), SCORES),
    "cllr_influence": (lambda x: cllr_influence(metrics.error_curve(x, TARGETS)), SCORES),
    "standard_error": (lambda x: standard_error(x, ENROL, TEST), SCORES),
    "speaker_correlation": (lambda x: metrics.speaker_correlation(x, TARGETS, ENROL, TEST), SCORES),
    "system_correlation": (lambda x: metrics.system_correlation(x, OTHER, TARGETS, ENROL, TEST), SCORES),
    "cohort_statistics": (lambda x: metrics.cohort_statistics(x, VECTORS).mean, VECTORS),
    "cohort": (lambda x: metrics.cohort_statistics(VECTORS, x, top_k=5).std, VECTORS),
    "z_norm": (lambda x: metrics.z_norm(x, ENROL % 24, STATISTICS), SCORES),
    "t_norm": (lambda x: metrics.t_norm(x, ENROL % 24, STATISTICS), SCORES),
    "s_norm": (lambda x: metrics.s_norm(x, ENROL % 24, TEST % 24, STATISTICS), SCORES),
    "as_norm": (lambda x: metrics.as_norm(SCORES, ENROL, TEST, x, VECTORS), VECTORS),
    "multiplicities": (
        lambda x: SpeakerBootstrap(SCORES, TARGETS, ENROL, TEST).replicates(x).eer,
        GENERATOR.integers(1, 3, (4, S)),
    ),
    "nearest": (lambda x: nearest(x, VECTORS, 3)[0], VECTORS),
    "nearest-of-gallery": (lambda x: nearest(VECTORS, x, 3)[0], VECTORS),
    "prefix_cosines": (lambda x: prefix_cosines(x, ENROL, TEST, [2, 6])[2], VECTORS),
    "normalise": (lambda x: normalise(x).astype(np.float16), VECTORS),
    "truncate": (lambda x: truncate(x, 3).astype(np.float16), VECTORS),
    "Moments": (lambda x: added(x).covariance, VECTORS),
    "Scatter": (lambda x: np.abs(discriminant(scattered(x)).matrix).round(6), VECTORS),
    "LabelledPairs": (
        lambda x: LabelledPairs.all_of(x, SPEAKERS).vectors.sum(),
        VECTORS,
    ),
    "refine": (
        lambda x: refine(
            truncation(6), x, SPEAKERS, Refinement(checkpoints=(2,), shortest=2, speakers_per_step=4)
        ).matrix.round(5),
        VECTORS,
    ),
}
# Without weights each trial counts once, without priors the usual ones are taken; of nothing comes nothing.
MAY_BE_EMPTY = [
    *("Calibration", "bayes_error_curve", "holm", "p_miss_at", "nearest", "nearest-of-gallery", "normalise"),
    *("truncate", "cohort_statistics", "multiplicities", "Moments", "rank_identically"),
]
FINE = {("error_curve of weights", 8), ("bayes_error_curve", 8), *((name, 12) for name in MAY_BE_EMPTY)}
TYPES = ["int8", "uint8", "int16", "uint16", "int32", "int64", "uint64", "float16", "float32", "float64", "longdouble"]


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float64), np.asarray(wanted, np.float64), rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("name", REAL)
def test_the_type_does_not_change_the_answer(name: str) -> None:
    function, values = REAL[name]
    wanted = function(values.astype(np.float64))
    for kind in TYPES:
        same(function(values.astype(kind)), wanted)
    same(function(values.tolist()), wanted)
    apart = np.repeat(values.astype(np.float64), 2, axis=0)[::2]
    apart.flags.writeable = False
    same(function(apart), wanted)
    same(function(np.asfortranarray(values, np.float32)), wanted)


@pytest.mark.parametrize("name", REAL)
def test_what_would_change_on_the_way_is_refused(name: str) -> None:
    function, values = REAL[name]
    numbers = values.astype(np.float64)
    infinite, missing = numbers.copy(), numbers.copy()
    infinite[-1:, ...].flat[0], missing.flat[0] = np.inf, np.nan
    masked = np.ma.masked_array(numbers, mask=numbers == numbers.flat[0])
    endless = values.astype(object)
    endless.flat[0] = 10**6000
    wrong = [numbers + 1j, values.astype(object), values.astype(str), infinite, missing, masked, endless, 3.0, None]
    wrong += [[[1.0, 2.0], [3.0]], values.astype(np.int64) + 2**60, numbers[None], np.empty((0, *numbers.shape[1:]))]
    for number, given in enumerate(wrong):
        if (name, number) in FINE:
            continue
        with pytest.raises(NestvoxError):
            function(given)


def test_every_public_function_of_arrays_is_here() -> None:
    """Those of `nestvox.metrics`; what takes a curve or a settled result takes no arrays."""
    takers = {
        name
        for name in metrics.__all__
        if inspect.isfunction(function := getattr(metrics, name))
        and any("ArrayLike" in str(p.annotation) for p in inspect.signature(function).parameters.values())
    }
    assert takers - {"mcnemar"} <= REAL.keys()  # decisions are booleans, see below


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "int64", "uint64"])
def test_clusters_of_any_whole_type(kind: str) -> None:
    wanted = metrics.speaker_correlation(SCORES, TARGETS, ENROL, TEST)
    # In 8 bits the product of two numbers of speakers overflows.
    wide = np.arange(N) % 120
    sides = wide.astype(kind), np.where(TARGETS, wide, (wide + 1) % 120).astype(kind)
    plain = tuple(side.astype(np.int64) for side in sides)
    assert metrics.speaker_correlation(SCORES, TARGETS, *sides) == metrics.speaker_correlation(SCORES, TARGETS, *plain)
    assert metrics.speaker_correlation(SCORES, TARGETS, ENROL.astype(kind), TEST.astype(kind)) == wanted
    assert standard_error(SCORES, *sides) == standard_error(SCORES, *plain)


@pytest.mark.parametrize("huge", [10**12, 2**63 + 5, -1, 10**30])
@pytest.mark.parametrize(
    "function",
    [
        lambda e, t: metrics.speaker_bootstrap(SCORES, TARGETS, e, t, **DRAWS),
        lambda e, t: fit_threshold(SCORES, TARGETS, e, t, DecisionRule("eer"), **DRAWS),
        lambda e, t: metrics.compare_scores(SCORES, OTHER, TARGETS, e, t, **DRAWS),
        lambda e, t: metrics.speaker_correlation(SCORES, TARGETS, e, t),
        lambda e, t: Clusters(e, t).by_cluster(SCORES),
        lambda e, t: standard_error(SCORES, e, t),
    ],
)
def test_huge_names_are_no_numbers_of_speakers(function: Callable[[Any, Any], Any], huge: int) -> None:
    named = [huge if cluster == 3 else int(cluster) for cluster in ENROL]
    with pytest.raises(NestvoxError):
        function(named, TEST)
    with pytest.raises(NestvoxError):
        function(ENROL, np.where(TEST == 3, 2.5, TEST))


@pytest.mark.parametrize(
    "labels", [TARGETS.astype(int), TARGETS.astype(object), TARGETS.astype(str), [], TARGETS[None]]
)
def test_labels_are_booleans(labels: Any) -> None:
    for function in (metrics.error_curve, metrics.fit_calibration):
        with pytest.raises(NestvoxError, match="booleans"):
            function(SCORES, labels)
    with pytest.raises(NestvoxError, match="booleans"):
        metrics.mcnemar(labels, labels)


def test_eight_bits_find_the_same_neighbours_as_the_definition() -> None:
    generator = np.random.default_rng(0)
    gallery = generator.integers(-128, 128, (40, 300)).astype(np.int8)
    scores = [[sum(int(a) * int(b) for a, b in zip(q, g, strict=True)) for g in gallery] for q in gallery[:3]]
    wanted = [sorted(range(40), key=lambda row, s=row_scores: (-s[row], row))[:4] for row_scores in scores]
    rows, found = nearest(gallery[:3], gallery, 4)
    assert rows.tolist() == wanted
    assert found.tolist() == [[s[row] for row in best] for s, best in zip(scores, wanted, strict=True)]


def test_large_whole_numbers_are_multiplied_exactly() -> None:
    gallery = np.array([[2**20, 1], [2**20, 2], [2**20, 0]], np.int32)
    assert nearest(np.array([[2**20, 1]], np.int32), gallery, 3)[0].tolist() == [[1, 0, 2]]  # float32 ties all three
    with pytest.raises(NestvoxError, match="overflow"):
        nearest(np.full((1, 2), 1e300), np.full((2, 2), 1e300), 1)
    with pytest.raises(NestvoxError, match="overflow"):
        nearest(np.full((1, 2), 1e30, np.float32), np.full((2, 2), 1e30, np.float32), 1)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-30, 1e30, 1e200])
def test_the_scale_of_a_vector_changes_no_cosine(scale: float) -> None:
    vectors = np.array([[3.0, 4.0, 12.0], [4.0, 3.0, 0.0]])
    wanted = {2: 24 / 25, 3: 24 / 65}
    for dim, cosine in prefix_cosines(vectors * scale, [0], [1], [2, 3]).items():
        assert cosine[0] == pytest.approx(wanted[dim], rel=1e-12)
    for kind in (np.float64, np.float32):
        with np.errstate(over="ignore", under="ignore"):
            scaled = (vectors * scale).astype(kind)
        if np.isfinite(scaled).all() and scaled.any():
            np.testing.assert_allclose(truncate(scaled, 2)[0], [0.6, 0.8], rtol=1e-6)


def test_rows_do_not_count_from_the_end() -> None:
    for rows in ([-1], [24], [0.0], [True], [[0]], ["0"], [None]):
        with pytest.raises(NestvoxError):
            prefix_cosines(VECTORS, rows, [0], [2])
        with pytest.raises(NestvoxError):
            metrics.z_norm([0.1], rows, STATISTICS)
        with pytest.raises(NestvoxError):
            LabelledPairs(VECTORS, np.array([0, 1]), rows, np.array([True, False]))
    assert as_rows([], "rows", length=3).dtype == np.int64


def test_a_row_that_is_not_finite_is_no_zero_vector() -> None:
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(NestvoxError, match="row 1"):
            truncate(np.array([[1.0, 2.0], [value, 1.0]], np.float32), None)


@pytest.mark.parametrize("missing", [None, np.nan, 1.5, True, b"a"])
def test_a_missing_speaker_is_no_speaker(missing: Any) -> None:
    names = [*SPEAKERS[:-1], missing]
    for function in (lambda: Scatter(6).add(VECTORS, names), lambda: LabelledPairs.all_of(VECTORS, names)):
        with pytest.raises(NestvoxError, match="row 23"):
            function()
    with pytest.raises(NestvoxError, match="row 23"):
        refine(truncation(6), VECTORS, names)


def test_numbers_name_the_same_speakers_in_any_type() -> None:
    wanted = discriminant(scattered(VECTORS)).matrix
    for kind in ("int8", "int64", "float32", "float64", "object"):
        scatter = Scatter(6)
        scatter.add(VECTORS, (np.arange(24) // 3).astype(kind))
        np.testing.assert_array_equal(discriminant(scatter).matrix, wanted)


def test_counts_and_tables() -> None:
    assert as_count(np.int8(3), "n") == 3
    for value in (2.0, True, None, "3", 0):
        with pytest.raises(NestvoxError, match="whole number of at least 1"):
            as_count(value, "n")
    assert as_vectors(np.ones((2, 2), np.float16), "v").dtype == np.float32
    assert as_vectors(np.ones((2, 2), bool), "v").dtype == np.float64
    assert as_clusters(np.array([0, 1], np.uint8), 2).dtype == np.int64
    ordinary = np.array([[1.0, 2.0]])
    assert fit_to_square(ordinary) is ordinary
