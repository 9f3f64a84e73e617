"""A room neither delays nor raises what is said in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvox.audio.errors import AugmentationError
from nestvox.audio.read import read
from nestvox.audio.reverb import direct_path, reverberate

RATE = 16_000


def lag_of(original: np.ndarray, changed: np.ndarray) -> int:
    """Samples by which `changed` comes later, from the whole cross-correlation."""
    size = 2 * len(original)
    product = np.fft.rfft(changed, size) * np.conj(np.fft.rfft(original, size))
    peak = int(np.argmax(np.fft.irfft(product, size)))
    return peak if peak < size // 2 else peak - size


def test_direct_sound_comes_before_a_louder_reflection() -> None:
    response = np.zeros(2000, np.float32)
    response[[40, 200, 900]] = 0.6, -1.0, 0.3
    assert direct_path(response, RATE) == 40
    response[[41, 42]] = 0.7, 0.65  # the direct sound has a width
    assert direct_path(response, RATE) == 41


def test_an_echo_stands_where_it_should() -> None:
    """One click in a room of one echo: two clicks, the first where it was, the second 100 samples later."""
    click = np.zeros(1000, np.float32)
    click[300] = 0.5
    response = np.zeros(400, np.float32)
    response[[30, 130]] = 1.0, 0.5
    wet = reverberate(click, response, RATE)
    assert np.flatnonzero(np.abs(wet) > 1e-6).tolist() == [300, 400]
    assert wet[400] / wet[300] == pytest.approx(0.5, rel=1e-5)
    assert np.sum(wet.astype(np.float64) ** 2) == pytest.approx(0.25, rel=1e-5)


@given(seed=st.integers(0, 2**32), onset=st.integers(0, 300), decay=st.floats(0.01, 0.2), gain=st.floats(0.01, 100))
def test_level_length_and_alignment_are_kept(seed: int, onset: int, decay: float, gain: float) -> None:
    rng = np.random.default_rng(seed)
    dry = (0.1 * rng.standard_normal(RATE // 2)).astype(np.float32)
    tail = 0.2 * rng.standard_normal(4000) * np.exp(-np.arange(4000) / RATE / decay)
    response = np.concatenate([np.zeros(onset), [2.0], tail]) * gain
    wet = reverberate(dry, response.astype(np.float32), RATE)
    assert wet.shape == dry.shape
    assert np.isfinite(wet).all()
    assert np.sum(wet.astype(np.float64) ** 2) == pytest.approx(np.sum(dry.astype(np.float64) ** 2), rel=1e-4)
    assert lag_of(dry, wet) == 0


def test_direct_sound_of_measured_rooms(speech_dir: Path) -> None:
    """They are cut so that it comes about 2 ms after the start; in some the loudest sound is a later reflection."""
    rooms = [read(room)[0] for room in sorted((speech_dir / "rir").glob("*.flac"))]
    assert any(np.argmax(np.abs(room)) > 0.005 * RATE for room in rooms)
    assert all(direct_path(room, RATE) <= 0.003 * RATE for room in rooms)


def test_what_is_no_response_is_refused() -> None:
    dry = np.ones(10, np.float32)
    for response in (np.zeros(5), np.zeros(0), np.array([1.0, np.nan]), np.array([1.0, np.inf])):
        with pytest.raises(AugmentationError, match="room response"):
            reverberate(dry, response, RATE)
    np.testing.assert_array_equal(reverberate(np.zeros(10, np.float32), np.ones(3), RATE), np.zeros(10))
