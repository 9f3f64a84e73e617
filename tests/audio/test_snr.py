"""The estimated signal-to-noise ratio against the one that the signal was made with."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvox.audio.read import read
from nestvox.audio.snr import estimate_snr_db

RATE = 16_000


def bursts(snr_db: float, seed: int = 0) -> np.ndarray:
    """Half-second bursts of coloured noise with pauses, in white noise: power over power in the bursts is the SNR."""
    rng = np.random.default_rng(seed)
    speech = np.convolve(rng.standard_normal(RATE * 4), np.ones(8) / 8, mode="same")
    speech /= np.sqrt(np.mean(speech**2))
    talks = np.arange(RATE * 4) % RATE < RATE // 2
    noise = rng.standard_normal(RATE * 4) * 10 ** (-snr_db / 20)
    return (0.05 * (speech * talks + noise)).astype(np.float32)


@pytest.mark.parametrize("snr_db", [0.0, 5.0, 10.0, 20.0, 30.0])
def test_known_ratio(snr_db: float) -> None:
    assert estimate_snr_db(bursts(snr_db), RATE) == pytest.approx(snr_db, abs=1.0)


def test_real_speech_falls_with_added_noise(speech_dir) -> None:
    path = (
        sorted((speech_dir / "audio" / "dev" / "libri").rglob("*.opus"))[:1]
        or sorted((speech_dir / "audio" / "dev").rglob("*.*"))[:1]
    )
    clean, rate = read(path[0])
    rng = np.random.default_rng(0)
    level = math.sqrt(float(np.mean(np.square(clean, dtype=np.float64))))
    noise = rng.standard_normal(len(clean)).astype(np.float32) * level
    found = [estimate_snr_db(clean + noise * 10 ** (-db / 20), rate) for db in (20, 10, 0)]
    assert found[0] > found[1] > found[2]


@given(st.integers(-40, 40))
def test_gain_changes_nothing(gain_db: int) -> None:
    samples = bursts(15.0).astype(np.float64)
    assert estimate_snr_db(samples * 10 ** (gain_db / 20), RATE) == pytest.approx(estimate_snr_db(samples, RATE))


def test_no_answer() -> None:
    assert math.isnan(estimate_snr_db(np.zeros(RATE, np.float32), RATE))
    assert math.isnan(estimate_snr_db(np.ones(100, np.float32), RATE))
    with pytest.raises(ValueError, match="samples"):
        estimate_snr_db(np.zeros((2, RATE), np.float32), RATE)


def test_limits() -> None:
    digital = bursts(200.0)
    digital[np.arange(len(digital)) % RATE >= RATE // 2] = 0
    assert estimate_snr_db(digital, RATE) == 60.0
    assert estimate_snr_db(np.random.default_rng(0).standard_normal(RATE), RATE) < 3
