from __future__ import annotations

import math

import numpy as np
import pytest

from nestvox.audio import Condition, condition


def sine(seconds: float, amplitude: float) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * 100 * np.arange(round(16000 * seconds)) / 16000)).astype(np.float32)


def test_level_of_a_sine_is_three_decibels_below_its_peak() -> None:
    found = condition(sine(3, 0.5), 16000)
    assert found.duration_s == 3
    assert found.rms_dbfs == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=1e-4)
    assert found.peak == pytest.approx(0.5, abs=1e-6)
    assert found.clipped_fraction == 0
    assert found.silent_fraction == 0
    assert found.warnings() == ()


def test_a_sine_clipped_at_half_its_height_stands_two_thirds_of_the_time() -> None:
    """|sin x| >= 1/2 on two thirds of the period."""
    found = condition(np.clip(sine(3, 2.0), -1, 1), 16000)
    assert found.clipped_fraction == pytest.approx(2 / 3, abs=0.01)
    assert found.warnings() == (
        f"The audio is clipped: {found.clipped_fraction:.2%} of its samples stand at full scale.",
    )


def test_a_lone_peak_is_not_clipping() -> None:
    samples = sine(3, 0.3)
    samples[::100] = 1.0
    assert condition(samples, 16000).clipped_fraction == 0


def test_both_signs_side_by_side_are_not_one_run() -> None:
    samples = np.tile(np.array([1.0, -1.0], np.float32), 1000)
    assert condition(samples, 16000).clipped_fraction == 0


def test_silence_is_counted_in_frames() -> None:
    samples = np.concatenate([sine(1, 0.5), np.zeros(48000, np.float32)])
    found = condition(samples, 16000)
    assert found.silent_fraction == 0.75
    assert found.warnings() == ("The audio is mostly silence: 75% of it is below -60 dBFS.",)


def test_short_and_silent() -> None:
    found = condition(np.zeros(8000, np.float32), 16000)
    assert found.rms_dbfs == -math.inf
    assert [w.split(":")[0] for w in found.warnings()] == ["The audio is short", "The audio is silent"]


def test_quiet_and_too_loud_are_said() -> None:
    assert "almost silent" in condition(sine(3, 0.001), 16000).warnings()[0]
    loud = Condition(duration_s=3, rms_dbfs=-3, peak=1.5, clipped_fraction=0, silent_fraction=0)
    assert loud.warnings() == ("The audio reaches beyond full scale: its peak is 1.50.",)


@pytest.mark.parametrize("wrong", [np.zeros(0, np.float32), np.zeros((2, 2), np.float32)])
def test_shapes(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="T > 0"):
        condition(wrong, 16000)
