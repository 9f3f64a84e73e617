"""Channels keep length and alignment, cut what they should cut, and are real codecs."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.audio.channel import CHANNELS, change_gain, change_speed, clip, telephone_band, through_channel
from nestvox.audio.errors import AugmentationError
from nestvox.errors import MissingExtraError

RATE = 16_000
HAVE_AV = importlib.util.find_spec("av") is not None


def voice(seconds: float = 1.0, pitch_hz: float = 140.0) -> np.ndarray:
    """A buzz with a formant or two and a syllable rhythm: enough like a voice for codecs that model one."""
    time = np.arange(round(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * pitch_hz * k * time) / (1 + abs(k * pitch_hz - 600) / 400) for k in range(1, 24))
    return (0.08 * buzz * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * time))).astype(np.float32)


def tone_db(frequency_hz: float, process) -> float:
    """Gain in dB at one frequency, measured in the middle of a second of sine."""
    time = np.arange(RATE) / RATE
    sine = (0.5 * np.sin(2 * np.pi * frequency_hz * time)).astype(np.float32)
    middle = slice(RATE // 4, 3 * RATE // 4)
    return float(20 * np.log10(np.std(process(sine)[middle]) / np.std(sine[middle]) + 1e-12))


def lag_of(original: np.ndarray, changed: np.ndarray, within: int) -> int:
    size = 2 * len(original)
    product = np.fft.rfft(changed, size) * np.conj(np.fft.rfft(original, size))
    near = np.roll(np.fft.irfft(product, size), within)[: 2 * within + 1]
    return int(np.argmax(near)) - within


@pytest.mark.parametrize("name", sorted(CHANNELS))
def test_round_trip_keeps_length_and_alignment(name: str) -> None:
    if CHANNELS[name].av and not HAVE_AV:
        pytest.skip("needs the extra [av]")
    sent = voice(1.3)[:20_001]  # no multiple of any codec's frame
    # Noise makes the correlation's peak sharp.
    sent = sent + 0.02 * np.random.default_rng(0).standard_normal(len(sent)).astype(np.float32)
    received = through_channel(sent, name, RATE)
    assert received.shape == sent.shape
    assert received.dtype == np.float32
    assert np.isfinite(received).all()
    reference = telephone_band(sent, RATE) if CHANNELS[name].telephone else sent
    assert abs(lag_of(reference, received, within=RATE // 280)) <= 2  # within half a pitch period
    assert np.corrcoef(reference, received)[0, 1] > 0.8
    assert np.abs(reference - received).max() > 1e-4  # something was coded


def test_telephone_band() -> None:
    for rate in (8_000, RATE):
        assert len(telephone_band(np.zeros(7, np.float32), rate)) == 7
    assert tone_db(1_000, lambda x: telephone_band(x, RATE)) == pytest.approx(0, abs=0.1)
    assert tone_db(300, lambda x: telephone_band(x, RATE)) == pytest.approx(-6, abs=0.5)
    assert tone_db(3_400, lambda x: telephone_band(x, RATE)) == pytest.approx(-6, abs=0.5)
    for outside in (100, 150, 3_600, 5_000, 7_000):
        assert tone_db(outside, lambda x: telephone_band(x, RATE)) < -40
    impulse = np.zeros(1001, np.float32)
    impulse[500] = 1
    assert int(np.argmax(np.abs(telephone_band(impulse, RATE)))) == 500
    with pytest.raises(AugmentationError, match="6800"):
        telephone_band(impulse, 6_000)


def test_mu_law_has_its_known_noise() -> None:
    """G.711 has about 38 dB signal-to-noise for a loud tone; the 80 dB of 13 uniform bits are far above that."""
    time = np.arange(RATE) / RATE
    sine = (0.5 * np.sin(2 * np.pi * 1_000.3 * time)).astype(np.float32)
    for name in ("telephone-mulaw", "telephone-alaw"):
        middle = slice(2000, -2000)
        error = (through_channel(sine, name, RATE) - telephone_band(sine, RATE))[middle]
        ratio = 20 * np.log10(np.std(sine[middle]) / np.std(error))
        assert 33 < ratio < 45, name


def test_loud_input_comes_back_loud() -> None:
    sent = 3 * voice() / np.abs(voice()).max()
    received = through_channel(sent, "vorbis", RATE)
    assert np.std(received) == pytest.approx(np.std(sent), rel=0.1)


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_speed_moves_pitch_and_tempo_together(speed: float) -> None:
    time = np.arange(2 * RATE) / RATE
    sine = np.sin(2 * np.pi * 400 * time).astype(np.float32)
    played = change_speed(sine, speed)
    assert len(played) == pytest.approx(len(sine) / speed, abs=2)
    spectrum = np.abs(np.fft.rfft(played * np.hanning(len(played))))
    assert np.argmax(spectrum) * RATE / len(played) == pytest.approx(400 * speed, abs=1)


def test_speed_of_one_changes_nothing_and_wild_speeds_are_refused() -> None:
    sent = voice()
    assert change_speed(sent, 1.0) is sent
    for speed in (0.4, 2.5, float("nan")):
        with pytest.raises(AugmentationError, match="speed"):
            change_speed(sent, speed)


@given(fraction=st.floats(0.0005, 0.5), seed=st.integers(0, 99))
def test_the_share_that_is_clipped(fraction: float, seed: int) -> None:
    samples = np.random.default_rng(seed).standard_normal(4000).astype(np.float32)
    clipped = clip(samples, fraction)
    at_limit = np.mean(np.abs(clipped) >= np.abs(clipped).max() * (1 - 1e-6))
    assert at_limit == pytest.approx(fraction, abs=1.5 / 4000)
    assert (np.sign(clipped) == np.sign(samples)).all()


@settings(max_examples=30)
@given(
    length=st.integers(1, 3000),
    scale=st.floats(1e-4, 10),
    seed=st.integers(0, 99),
    name=st.sampled_from(["telephone-mulaw", "telephone-alaw", "telephone-gsm", "telephone-g721", "mp3"]),
)
def test_any_length_and_level(length: int, scale: float, seed: int, name: str) -> None:
    sent = (scale * np.random.default_rng(seed).standard_normal(length)).astype(np.float32)
    received = through_channel(sent, name, RATE)
    assert received.shape == sent.shape
    assert np.isfinite(received).all()


def test_silence_names_and_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = np.zeros(100, np.float32)
    np.testing.assert_array_equal(through_channel(quiet, "mp3", RATE), quiet)
    with pytest.raises(AugmentationError, match="no channel 'morse'; there are g722, mp3"):
        through_channel(voice(), "morse", RATE)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"\[av\]"):
        through_channel(voice(), "g722", RATE)


def test_gain() -> None:
    assert np.std(change_gain(voice(), -20)) == pytest.approx(0.1 * np.std(voice()), rel=1e-5)
