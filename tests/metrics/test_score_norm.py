"""Score normalisation against its definition, trial by trial."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from nestvox.errors import NestvoxError, ScoresError
from nestvox.metrics import eer, error_curve
from nestvox.metrics.score_norm import as_norm, cohort_statistics, s_norm, t_norm, z_norm


def world(n_utterances: int = 40, n_cohort: int = 60, size: int = 24, seed: int = 0):
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(n_utterances, size)).astype(np.float32) + 0.5
    cohort = generator.normal(size=(n_cohort, size)).astype(np.float32) + 0.5
    enrol, test = generator.integers(0, n_utterances, (2, 200))
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return vectors, cohort, enrol, test, np.einsum("ij,ij->i", unit[enrol], unit[test])


def spelled_out(vector, cohort, top_k=None) -> tuple[float, float]:
    """Mean and deviation of one vector's cohort scores, one cosine after the other in float64."""
    vector = vector.astype(np.float64)
    scores = [vector @ other / np.linalg.norm(vector) / np.linalg.norm(other) for other in cohort.astype(np.float64)]
    kept = sorted(scores, reverse=True)[: top_k or len(scores)]
    return float(np.mean(kept)), float(np.std(kept))


@pytest.mark.parametrize("top_k", [None, 2, 10, 60])
def test_statistics_and_norms_equal_the_definition(top_k):
    vectors, cohort, enrol, test, scores = world()
    found = cohort_statistics(vectors, cohort, top_k=top_k)
    expected = [spelled_out(vector, cohort, top_k) for vector in vectors]
    np.testing.assert_allclose(found.mean, [mean for mean, _ in expected], atol=1e-6)
    # Two nearly equal scores differ by what float32 leaves of their difference.
    np.testing.assert_allclose(found.std, [std for _, std in expected], atol=1e-6)
    assert found.n_cohort == (top_k or 60)
    if top_k == 2:
        return
    z = [(score - expected[a][0]) / expected[a][1] for score, a in zip(scores, enrol, strict=True)]
    t = [(score - expected[b][0]) / expected[b][1] for score, b in zip(scores, test, strict=True)]
    np.testing.assert_allclose(z_norm(scores, enrol, found), z, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(t_norm(scores, test, found), t, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(s_norm(scores, enrol, test, found), (np.array(z) + t) / 2, rtol=1e-4, atol=1e-4)
    if top_k is not None:
        np.testing.assert_allclose(
            as_norm(scores, enrol, test, vectors, cohort, top_k=top_k), s_norm(scores, enrol, test, found)
        )


def test_sides_may_change_places_and_be_kept_apart():
    vectors, cohort, enrol, test, scores = world()
    whole = cohort_statistics(vectors, cohort, top_k=20)
    there = s_norm(scores, enrol, test, whole)
    np.testing.assert_array_equal(there, s_norm(scores, test, enrol, whole))
    first, second = np.unique(enrol), np.unique(test)
    apart = s_norm(
        scores,
        np.searchsorted(first, enrol),
        np.searchsorted(second, test),
        cohort_statistics(vectors[first], cohort, top_k=20),
        cohort_statistics(vectors[second], cohort, top_k=20),
    )
    np.testing.assert_allclose(apart, there, rtol=1e-5)


def test_blocks_and_lengths_change_nothing(monkeypatch):
    vectors, cohort, *_ = world()
    whole = cohort_statistics(vectors, cohort, top_k=20)
    monkeypatch.setattr("nestvox.metrics.score_norm._BLOCK", 7 * len(cohort))
    told = []
    parts = cohort_statistics(
        3 * vectors, 0.1 * cohort, top_k=20, progress=lambda done, total: told.append((done, total))
    )
    np.testing.assert_allclose(parts.mean, whole.mean, atol=1e-6)
    np.testing.assert_allclose(parts.std, whole.std, atol=1e-6)
    assert told[0] == (7, 40)
    assert told[-1] == (40, 40)


def test_memory_is_bounded():
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(30_000, 16)).astype(np.float32)
    cohort = generator.normal(size=(2_000, 16)).astype(np.float32)
    tracemalloc.start()
    cohort_statistics(vectors, cohort, top_k=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6, "all scores at once would take 240 MB"


def test_it_repairs_a_shift_of_each_recording():
    # Half of the recordings share a direction (one channel): their scores with each other are too high.
    generator = np.random.default_rng(2)
    voices = np.repeat(generator.normal(size=(60, 48)), 4, axis=0)
    channel = generator.normal(size=48) * 1.2
    noisy = np.arange(240) % 2 == 0
    vectors = (voices + generator.normal(size=(240, 48)) + noisy[:, None] * channel).astype(np.float32)
    cohort = (generator.normal(size=(400, 48)) * np.sqrt(2)).astype(np.float32)
    cohort[::2] += channel.astype(np.float32)
    enrol, test = np.triu_indices(240, 1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores, targets = np.einsum("ij,ij->i", unit[enrol], unit[test]), enrol // 4 == test // 4
    before = eer(error_curve(scores, targets)).rate
    after = eer(error_curve(as_norm(scores, enrol, test, vectors, cohort, top_k=100), targets)).rate
    assert after < 0.9 * before


def test_what_cannot_be_normalised():
    vectors, cohort, enrol, test, scores = world()
    with pytest.raises(ScoresError, match="one width"):
        cohort_statistics(vectors, cohort[:, :5])
    with pytest.raises(NestvoxError, match="top_k is 61, and the cohort has 60"):
        cohort_statistics(vectors, cohort, top_k=61)
    with pytest.raises(NestvoxError, match="got 1"):
        cohort_statistics(vectors, cohort, top_k=1)
    with pytest.raises(ScoresError, match="cohort vector 3"):
        cohort_statistics(vectors, np.where(np.arange(60)[:, None] == 3, 0, cohort))
    with pytest.raises(ScoresError, match="embedding 39"):
        cohort_statistics(np.where(np.arange(40)[:, None] == 39, np.nan, vectors), cohort)
    with pytest.raises(ScoresError, match="same score with the whole cohort"):
        cohort_statistics(np.eye(4, dtype=np.float32)[:2], np.tile(np.eye(4, dtype=np.float32)[3], (5, 1)))
    statistics = cohort_statistics(vectors, cohort)
    with pytest.raises(ScoresError, match="0 to 39"):
        z_norm(scores, enrol + 40, statistics)
    with pytest.raises(ScoresError, match="one length"):
        s_norm(scores, enrol[:-1], test, statistics)
