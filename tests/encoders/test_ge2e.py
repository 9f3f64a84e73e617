"""What is particular to GE2E: windows, level, configuration. Parity has a file of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nestvox.encoders.ge2e import GE2E
from nestvox.errors import ModelError


@pytest.fixture(scope="module")
def encoder() -> GE2E:
    torch.manual_seed(5)
    encoder = GE2E().eval()
    # As initialised it hardly hears its input.
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(3.0)
    return encoder


def noise(samples: int, rms: float, seed: int = 0) -> torch.Tensor:
    wave = np.random.default_rng(seed).standard_normal(samples)
    return torch.from_numpy((wave * rms / np.sqrt(np.mean(wave**2))).astype(np.float32))


@settings(max_examples=100, deadline=None)
@given(samples=st.integers(1_600, 10_000_000), rate=st.floats(0.63, 20), coverage=st.floats(0.01, 1))
@example(samples=40_640, rate=19.0, coverage=1.0)
def test_windows_cover_the_utterance(samples: int, rate: float, coverage: float) -> None:
    with torch.device("meta"):  # counting windows needs no weights
        encoder = GE2E(partials_per_s=rate, min_coverage=coverage)
    count = int(encoder.n_windows(torch.tensor([samples])))
    step = encoder.step * 160
    last_begin = (count - 1) * step
    if count > 1:
        # One window is dropped at most; the one before it ends with the last frame, which may reach a hop beyond.
        assert samples - last_begin >= min(coverage * 25_600, 25_600 - 160) - 1e-6
    # One window more would be too empty, or begin where all of the signal has been seen.
    assert samples - (last_begin + step) < coverage * 25_600 or last_begin + 25_600 >= samples


def test_frame_rate_is_that_of_the_windows() -> None:
    encoder = GE2E()
    assert encoder.step == 77  # 16000 / 1.3 / 160 = 76.92
    assert encoder.frame_rate_hz == pytest.approx(100 / 77)


def test_a_quiet_clip_gives_the_embedding_of_the_same_clip_at_minus_30_dbfs(encoder: GE2E) -> None:
    level = 10 ** (-30 / 20)
    with torch.inference_mode():
        reference = encoder(noise(30_000, level)[None]).embedding
        for rms in (level / 3, 1e-3, 1e-6):
            torch.testing.assert_close(encoder(noise(30_000, rms)[None]).embedding, reference, rtol=0, atol=1e-6)
        louder = encoder(noise(30_000, 3 * level)[None]).embedding
    assert (louder - reference).abs().max() > 1e-4  # a loud clip is not lowered


def test_the_level_is_measured_on_the_real_samples_only(encoder: GE2E) -> None:
    wave = noise(40_000, 0.02)  # raised by 1.6; measured over the padding as well it would be raised by 2.7
    padded = torch.nn.functional.pad(wave, (0, 80_000))
    with torch.inference_mode():
        # The first window is all signal in each of the three.
        alone = encoder(wave[None]).frames[:, :, 0]
        within = encoder(padded[None], torch.tensor([40_000])).frames[:, :, 0]
        as_signal = encoder(padded[None]).frames[:, :, 0]
    torch.testing.assert_close(alone, within, rtol=0, atol=1e-6)
    assert (alone - as_signal).abs().max() > 1e-4


def test_digital_silence_is_finite_and_has_finite_gradients(encoder: GE2E) -> None:
    audio = torch.zeros(1, 16_000, requires_grad=True)
    taps = encoder(audio)
    taps.embedding.sum().backward()
    assert taps.embedding.isfinite().all()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()


@pytest.mark.parametrize("value", [0.6, 0.0, -1.0, 500.0, math.inf])
def test_impossible_window_rates_are_refused(value: float) -> None:
    with pytest.raises(ModelError, match="partials_per_s"):
        GE2E(partials_per_s=value)


@pytest.mark.parametrize("value", [0.0, 1.5, math.nan])
def test_impossible_coverage_is_refused(value: float) -> None:
    with pytest.raises(ModelError, match="min_coverage"):
        GE2E(min_coverage=value)


def test_many_windows_in_several_calls_equal_each_alone(encoder: GE2E) -> None:
    wave = noise(150 * 12_320 + 25_600, 0.1)
    with torch.inference_mode():
        taps = encoder(wave[None])
        assert taps.frames.shape == (1, 256, 151)
        # Window 140 by itself: its samples with their neighbours, so that the frames at its ends see the same.
        begin = 140 * 77 * 160
        mel = encoder.mel(wave[None, begin - 1_600 : begin + 25_600 + 1_600], 180)[:, 10:170]
        _, (hidden, _) = encoder.lstm(mel)
        alone = torch.nn.functional.normalize(encoder.linear(hidden[-1]).relu())
    torch.testing.assert_close(taps.frames[0, :, 140], alone[0], rtol=0, atol=1e-6)
