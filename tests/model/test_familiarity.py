"""What recordings a model knows: distances are Mahalanobis', the limit keeps its rate, strange sounds lie beyond."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nestvox.errors import ModelError
from nestvox.model import Familiarity, SpeakerModel, fit_familiarity, load
from nestvox.model.calibration import ModelCalibration
from nestvox.model.familiarity import MEASURES, measured
from nestvox.zoo.box import box_folder

RATE = 16_000


def voice(seed: int, noise: float = 1e-3, seconds: float = 2.5) -> np.ndarray:
    """Syllables of a buzz, five a second, with pauses between."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * RATE)) / RATE
    saw = 2 * (rng.uniform(90, 220) * time_s % 1) - 1
    buzz = saw - rng.uniform(0, 0.8) * np.roll(saw, 1)
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 3) * time_s + rng.uniform(0, 6)), 0, 1)
    return (0.1 * buzz * syllables + noise * rng.standard_normal(len(time_s))).astype(np.float32)


@cache
def row(seed: int) -> np.ndarray:
    found = measured(voice(seed), RATE)
    assert found is not None
    return found


def rows(first: int, count: int) -> list[np.ndarray]:
    return [row(seed) for seed in range(first, first + count)]


@pytest.fixture(scope="module")
def known() -> Familiarity:
    return fit_familiarity(rows(0, 60), rows(1000, 110), "dev.txt")


def test_distances_are_those_of_mahalanobis(known: Familiarity) -> None:
    spatial = pytest.importorskip("scipy.spatial.distance", reason="scipy is not installed")
    inverse = np.linalg.inv(np.array(known.covariance))
    np.testing.assert_allclose(known.covariance, np.cov(np.array(rows(0, 60)).T) + np.eye(8))
    others = np.array(rows(2000, 5))
    expected = [spatial.mahalanobis(other, known.mean, inverse) for other in others]
    np.testing.assert_allclose(known.distances(others), expected, rtol=1e-8)


def test_one_in_a_hundred_of_the_clean_recordings_lies_beyond(known: Familiarity) -> None:
    beyond = known.distances(rows(1000, 110)) > known.farthest
    assert beyond.sum() == 1
    assert known.false_alarm_rate == pytest.approx(1 / 110)
    assert (known.n_training, known.n_clean, len(known.mean)) == (60, 110, len(MEASURES))


def test_strange_sounds_are_told_and_their_level_does_not_matter(known: Familiarity) -> None:
    rng = np.random.default_rng(5)
    assert known.doubt(voice(3000), RATE) is None
    quiet, loud = (measured(gain * voice(3000), RATE) for gain in (0.05, 1.0))
    np.testing.assert_allclose(quiet, loud, atol=1e-3)
    for strange in (voice(3000, noise=0.1), 0.1 * rng.standard_normal(40_000)):
        said = known.doubt(strange.astype(np.float32), RATE)
        assert said is not None
        assert said.startswith("The audio is unlike what the model was trained on: at a distance of ")
        assert "0.9% of 110 clean recordings of dev.txt" in said


def test_nothing_is_said_of_what_is_too_short_or_silent(known: Familiarity) -> None:
    noise = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    assert known.doubt(noise, RATE) is not None
    assert known.doubt(noise[:-1], RATE) is None
    assert known.doubt(0 * noise, RATE) is None


def test_a_file_gives_it_back_and_refuses_what_is_none(known: Familiarity) -> None:
    whole = ModelCalibration("f" * 16, familiarity=known)
    assert ModelCalibration.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole
    assert whole.with_thresholds([]).familiarity == known
    assert "familiarity" not in ModelCalibration("f" * 16).to_dict()
    said = known.to_dict()
    for damage in (
        {"farthest": -1.0},
        {"mean": [0.0]},
        {"covariance": [[0.0] * 8] * 8},
        {"covariance": [[1.0]] * 8},
        {"further": 1},
        {"farthest": "4"},
    ):
        with pytest.raises(ModelError):
            Familiarity.from_dict({**said, **damage})
    with pytest.raises(ModelError, match="too few"):
        fit_familiarity(rows(0, 3), rows(0, 110), "dev.txt")


@pytest.mark.skipif(box_folder() is None, reason="no model is in the box")
def test_verify_says_it_and_a_folder_keeps_it(known: Familiarity, tmp_path: Path) -> None:
    paths = [tmp_path / "clean.wav", tmp_path / "noisy.wav"]
    for path, noise in zip(paths, (1e-3, 0.1), strict=True):
        soundfile.write(path, voice(3000, noise), RATE)
    model = load("box")
    model.familiarity = replace(known)
    model.save(tmp_path / "model")
    answer = SpeakerModel.from_folder(tmp_path / "model").verify(*paths)
    told = [warning for warning in answer.warnings if "trained on" in warning]
    assert [warning.partition(":")[0] for warning in told] == ["second recording"]
    assert ["unfamiliar" in codes for codes in answer.conditions] == [False, True]
    model.familiarity = None
    assert not any("trained on" in warning for warning in model.verify(*paths).warnings)
