"""The ratio that was asked for is the ratio that is there, measured on what was added."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvox.audio.errors import AugmentationError
from nestvox.audio.mixing import active_power, fit_length, mix_at_snr, sum_of_voices

RATE = 16_000


def bursts(seed: int = 0) -> np.ndarray:
    """Four seconds, of which the 2nd and 4th are a tone of amplitude 0.4 and the others are silent."""
    tone = 0.4 * np.sin(2 * np.pi * 200 * np.arange(RATE) / RATE)
    return np.concatenate([np.zeros(RATE), tone, np.zeros(RATE), tone]).astype(np.float32)


def test_pauses_do_not_count_as_speech() -> None:
    """A sine has half the square of its amplitude as its power, however long one waits between."""
    assert active_power(bursts(), RATE) == pytest.approx(0.4**2 / 2, rel=1e-6)
    assert active_power(np.zeros(RATE, np.float32), RATE) == 0
    assert active_power(np.full(7, 0.5, np.float32), RATE) == pytest.approx(0.25)


@given(
    snr_db=st.floats(-20, 40),
    speech_db=st.floats(-40, 0),
    noise_db=st.floats(-60, 20),
    seed=st.integers(0, 2**32),
)
def test_the_ratio_is_true(snr_db: float, speech_db: float, noise_db: float, seed: int) -> None:
    speech = (bursts() * 10 ** (speech_db / 20)).astype(np.float32)
    noise = np.random.default_rng(seed).standard_normal(len(speech)).astype(np.float32) * 10 ** (noise_db / 20)
    added = mix_at_snr(speech, noise.astype(np.float32), snr_db, RATE).astype(np.float64) - speech
    tone = speech.astype(np.float64)[RATE : 2 * RATE]  # the active part, known without asking anybody
    measured = 10 * math.log10(np.mean(tone**2) / np.mean(added**2))
    assert measured == pytest.approx(snr_db, abs=0.05)
    assert np.corrcoef(added, noise)[0, 1] > 0.999


def test_silence_and_silent_noise() -> None:
    noise = np.ones(100, np.float32)
    np.testing.assert_array_equal(mix_at_snr(np.zeros(100, np.float32), noise, 10, RATE), np.zeros(100))
    with pytest.raises(AugmentationError, match="silent"):
        mix_at_snr(noise, np.zeros(100, np.float32), 10, RATE)
    with pytest.raises(AugmentationError, match="one length"):
        mix_at_snr(noise, noise[:50], 10, RATE)


@given(have=st.integers(1, 50), want=st.integers(1, 200), seed=st.integers(0, 99))
def test_a_fitted_stretch_is_the_recording_going_round(have: int, want: int, seed: int) -> None:
    ramp = np.arange(have, dtype=np.float32)
    found = fit_length(ramp, want, np.random.default_rng(seed))
    assert len(found) == want
    steps = np.diff(found)
    assert set(steps.tolist()) <= {1.0, 1.0 - have}
    if have >= want:
        assert (steps == 1).all()


def test_voices_of_babble_are_equally_loud() -> None:
    """Two tones of very different level have the same power in the sum."""
    time = np.arange(RATE) / RATE
    quiet = (0.01 * np.sin(2 * np.pi * 500 * time)).astype(np.float32)
    loud = (0.9 * np.sin(2 * np.pi * 1500 * time)).astype(np.float32)
    spectrum = np.abs(
        np.fft.rfft(sum_of_voices([quiet, loud, np.zeros(50, np.float32)], RATE, np.random.default_rng(0), RATE))
    )
    assert spectrum[500] == pytest.approx(spectrum[1500], rel=1e-3)
    assert sorted(np.argsort(spectrum)[-2:].tolist()) == [500, 1500]
