"""Enrolment plans on worlds whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nestvox.errors import NestvoxError, ScoresError, TrialsError
from nestvox.evaluation.enrolment import WHOLE, plan_enrolment
from nestvox.model.threshold import DurationClass


def voices(n_speakers: int, per_speaker: int, *, noise: float, seed: int = 0, dim: int = 24):
    generator = np.random.default_rng(seed)
    centres = np.repeat(generator.normal(size=(n_speakers, dim)), per_speaker, axis=0)
    vectors = (centres + noise * generator.normal(size=centres.shape)).astype(np.float32)
    return vectors, [f"s{speaker:03}" for speaker in np.repeat(np.arange(n_speakers), per_speaker)]


def test_more_clips_help_as_far_as_their_noise_averages_out():
    vectors, speakers = voices(80, 12, noise=1.5)
    found = plan_enrolment(vectors, speakers, counts=(1, 2, 4, 10))
    rates = [row.eer.value for row in found.rows]
    assert rates == sorted(rates, reverse=True)
    assert all(row.n_speakers == 80 for row in found.rows)
    first, second, *_ = found.rows
    assert (first.against, second.against) == ("", "1 clip")
    assert second.better
    assert second.change.value == pytest.approx(second.eer.value - first.eer.value, abs=1e-12)
    assert found.advice[0].startswith("Enrol ")
    # Four clips of noise 1.5 are one clip of noise 0.75 on the enrolment side.
    generator = np.random.default_rng(7)
    centres = generator.normal(size=(80, 24))
    clean = centres[:, None] + 0.75 * generator.normal(size=(80, 60, 24))
    tests = centres[:, None] + 1.5 * generator.normal(size=(80, 60, 24))
    scores, targets = [], []
    for speaker in range(80):
        for take in range(60):
            for other in (speaker, (speaker + 1 + take) % 80):
                a, b = clean[speaker, take], tests[other, take]
                scores.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
                targets.append(other == speaker)
    targets = np.array(targets)
    thresholds = np.sort(scores)
    miss = [np.mean(np.array(scores)[targets] < t) for t in thresholds[::40]]
    accepted = [np.mean(np.array(scores)[~targets] >= t) for t in thresholds[::40]]
    expected = min(max(pair) for pair in zip(miss, accepted, strict=True))
    four = next(row for row in found.rows if row.n_clips == 4)
    assert four.eer.low - 0.01 <= expected <= four.eer.high + 0.01


def test_where_clips_are_copies_more_bring_nothing():
    vectors, speakers = voices(30, 6, noise=0.0)
    vectors += np.repeat(np.random.default_rng(1).normal(size=(30, 24)).astype(np.float32), 6, axis=0) * 2
    found = plan_enrolment(vectors, speakers, counts=(1, 3, 5))
    assert [row.change.value for row in found.rows[1:]] == [0.0, 0.0]
    assert "More than 1 clip brings nothing" in found.advice[0]


def test_enrolment_and_test_are_of_different_sessions_where_there_are_two():
    # Two sessions a speaker; within one, all clips are alike, across them they have nothing in common.
    generator = np.random.default_rng(2)
    vectors = np.repeat(generator.normal(size=(80, 24)), 4, axis=0).astype(np.float32)
    speakers = [f"s{row // 8:02}" for row in range(320)]
    sessions = [f"{row % 8 // 4}" for row in range(320)]
    known = plan_enrolment(vectors, speakers, counts=(1,), sessions=sessions)
    assert known.rows[0].eer.value > 0.4
    assert known.notes == ()
    unknown = plan_enrolment(vectors, speakers, counts=(1,))
    assert unknown.rows[0].eer.value < known.rows[0].eer.value - 0.05
    assert "Sessions are not known" in unknown.notes[0]
    for blank in ("", "  ", None):
        empty = plan_enrolment(vectors, speakers, counts=(1,), sessions=[blank] * 320)
        assert empty == unknown, "a column that is there and empty says nothing"
    one = plan_enrolment(vectors, speakers, counts=(1,), sessions=["a"] * 320)
    assert "40 speakers have one session only" in one.notes[0]


def test_a_crop_is_measured_against_the_same_clip_whole():
    vectors, speakers = voices(40, 6, noise=0.9)
    long = np.arange(0, 240, 2)
    worse = vectors[long] + 2.0 * np.random.default_rng(3).normal(size=(120, 24)).astype(np.float32)
    found = plan_enrolment(vectors, speakers, counts=(1,), crops={1.0: (long, worse), 5.0: (long, vectors[long])})
    whole, short, same = found.rows
    assert (whole.length, short.length, same.length) == (WHOLE, "1 s", "5 s")
    assert short.change.low > 0
    assert (same.change.value, *same.change.ends) == (0, 0, 0)
    assert "From 5 s on, cutting the clip costs nothing" in found.advice[-1]
    costly = plan_enrolment(vectors, speakers, counts=(1,), crops={1.0: (long, worse)})
    assert "clips longer than 1 s are worth having" in costly.advice[-1]


def test_by_the_duration_of_whole_clips():
    vectors, speakers = voices(30, 8, noise=0.5)
    noisy = np.arange(240) % 2 == 0
    vectors[noisy] += 2.0 * np.random.default_rng(4).normal(size=(120, 24)).astype(np.float32)
    durations = np.where(noisy, 1.0, 6.0)
    classes = (DurationClass(0, 2), DurationClass(2, 8), DurationClass(8, None))
    found = plan_enrolment(vectors, speakers, counts=(1, 4), durations_s=durations, classes=classes)
    rows = {(row.length, row.n_clips): row for row in found.rows}
    assert rows["0 to 2 s", 1].eer.value > rows["2 to 8 s", 1].eer.value
    assert rows["8 s and more", 1].reason == "0 speakers have 2 such clips: it takes 5"
    assert any(sentence.startswith("One clip by its duration") for sentence in found.advice)


def test_counts_that_nobody_has_are_said():
    vectors, speakers = voices(10, 4, noise=1.0)
    found = plan_enrolment(vectors, speakers, counts=(1, 3, 10))
    assert found.rows[2].eer is None
    assert found.rows[2].reason == "0 speakers have 11 such clips: it takes 5"
    assert found.advice[-1].startswith("10 clips and more cannot be said")
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [row["n_clips"] for row in content["rows"]] == [1, 3, 10]


def test_no_error_does_not_mean_none_for_other_speakers():
    vectors, speakers = voices(12, 4, noise=0.01)
    row = plan_enrolment(vectors, speakers, counts=(1,)).rows[0]
    assert row.eer.value == 0
    assert row.eer.high == pytest.approx(3.84 / (12 + 3.84), rel=1e-3)


def test_same_seed_same_plan():
    vectors, speakers = voices(12, 5, noise=1.0)
    plans = [plan_enrolment(vectors, speakers, counts=(1, 2), seed=seed) for seed in (3, 3, 4)]
    assert plans[0] == plans[1]
    assert plans[0].rows != plans[2].rows


def test_a_prefix_is_what_is_planned_for():
    vectors, speakers = voices(20, 4, noise=1.0)
    at_8 = plan_enrolment(vectors, speakers, dim=8, counts=(1,))
    cut = plan_enrolment(vectors[:, :8], speakers, counts=(1,))
    assert (at_8.rows, at_8.dim) == (cut.rows, 8)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"dim": 25}, NestvoxError, "1 to 24"),
        ({"counts": (0, 1)}, NestvoxError, "at least 1"),
        ({"counts": ()}, NestvoxError, "none"),
        ({"sessions": ["a"]}, NestvoxError, "sessions"),
        ({"classes": (DurationClass(0, 2),)}, NestvoxError, "how long"),
    ],
)
def test_calls_that_mean_nothing(changes, error, words):
    vectors, speakers = voices(8, 4, noise=1.0)
    with pytest.raises(error, match=words):
        plan_enrolment(vectors, speakers, **changes)


def test_material_that_says_nothing():
    vectors, speakers = voices(8, 1, noise=1.0)
    with pytest.raises(TrialsError, match="0 of 8 speakers have two clips"):
        plan_enrolment(vectors, speakers)
    vectors, speakers = voices(8, 4, noise=1.0)
    vectors[3] = 0
    with pytest.raises(ScoresError, match="the first is row 3"):
        plan_enrolment(vectors, speakers)
