"""The mel front end against the formulas, written out in numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.encoders.front_ends.log_mel import (
    MelSpectrogram,
    NormalisedLogMel,
    mel_filters,
    slaney_edges_hz,
)

RATE, N_FFT, HOP, N_MELS = 16_000, 400, 160, 40


def slaney_filters_by_loops() -> np.ndarray:
    """Slaney's filter bank, one bin at a time: 200/3 Hz a mel up to 1 kHz, above it 27 mels for a factor of 6.4."""

    def mel(hz: float) -> float:
        return 3 * hz / 200 if hz <= 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)

    def hz(mel: float) -> float:
        return 200 * mel / 3 if mel <= 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    edges = [hz(m) for m in np.linspace(0, mel(RATE / 2), N_MELS + 2)]
    bank = np.zeros((N_MELS, N_FFT // 2 + 1))
    for m in range(N_MELS):
        low, mid, high = edges[m : m + 3]
        for k in range(N_FFT // 2 + 1):
            f = k * RATE / N_FFT
            if low < f <= mid:
                bank[m, k] = (f - low) / (mid - low)
            elif mid < f < high:
                bank[m, k] = (high - f) / (high - mid)
        bank[m] *= 2 / (high - low)
    return bank


def mel_by_scipy(wave: np.ndarray) -> np.ndarray:
    padded = np.pad(wave.astype(np.float64), N_FFT // 2)
    window = scipy.signal.get_window("hann", N_FFT, fftbins=True)
    frames = [padded[s : s + N_FFT] * window for s in range(0, len(padded) - N_FFT + 1, HOP)]
    return np.abs(scipy.fft.rfft(np.stack(frames))) ** 2 @ slaney_filters_by_loops().T


def front_end() -> MelSpectrogram:
    return MelSpectrogram(sample_rate=RATE, n_fft=N_FFT, hop=HOP, n_mels=N_MELS)


def test_known_points_of_the_mel_scale() -> None:
    # 15 mels are 1 kHz, 42 mels are 6.4 kHz.
    edges = slaney_edges_hz(41, 0.0, 6400.0)
    np.testing.assert_allclose(edges[[0, 3, 15, 42]], [0.0, 200.0, 1000.0, 6400.0], atol=1e-9)


def test_filters_equal_the_definition() -> None:
    edges = slaney_edges_hz(N_MELS, 0.0, RATE / 2)
    filters = mel_filters(edges, sample_rate=RATE, n_fft=N_FFT, area_norm=True).numpy()
    np.testing.assert_allclose(filters, slaney_filters_by_loops(), rtol=0, atol=1e-8)


def test_without_area_norm_triangles_reach_one_at_most() -> None:
    edges = np.array([0.0, 1000.0, 2000.0, 3000.0])  # corners on bins of 40 Hz
    filters = mel_filters(edges, sample_rate=RATE, n_fft=N_FFT, area_norm=False).numpy()
    assert filters.shape == (2, 201)
    assert filters[0, 25] == 1.0
    assert filters[1, 50] == 1.0
    assert filters[0, [0, 50]].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("samples", [1, 399, 400, 16_000, 25_717])
def test_power_mel_equals_the_formula(samples: int) -> None:
    wave = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    expected = mel_by_scipy(wave)
    mel = front_end()(torch.from_numpy(wave)[None], len(expected))[0].numpy()
    assert mel.dtype == np.float32
    np.testing.assert_allclose(mel, expected, rtol=1e-5, atol=1e-7 * expected.max())


def test_long_audio_in_chunks_equals_the_formula() -> None:
    wave = np.random.default_rng(0).standard_normal(5_000 * HOP).astype(np.float32)
    expected = mel_by_scipy(wave)
    mel = front_end()(torch.from_numpy(wave)[None], len(expected))[0].numpy()
    np.testing.assert_allclose(mel, expected, rtol=1e-5, atol=1e-7 * expected.max())


def test_frames_beyond_the_signal_begin_where_no_window_reaches_it() -> None:
    mel = front_end()(torch.ones(1, 1000), 9)[0]
    # Frame 7 covers 920 to 1320 and meets the signal, frame 8 covers 1080 to 1480 and does not.
    assert mel[7].max() > 0
    assert mel[8].max() == 0


def test_float32_under_autocast() -> None:
    wave = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 4_000)).astype(np.float32))
    plain = front_end()(wave, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = front_end()(wave, 20)
    assert cast.dtype == torch.float32
    assert torch.equal(plain, cast)


def test_nothing_of_it_stands_in_a_checkpoint() -> None:
    assert front_end().state_dict() == {}


@settings(max_examples=20, deadline=None)
@given(shift=st.integers(0, 20), seed=st.integers(0, 2**32 - 1))
def test_a_delay_of_whole_hops_delays_the_frames(shift: int, seed: int) -> None:
    wave = torch.from_numpy(np.random.default_rng(seed).standard_normal((1, 3_200)).astype(np.float32))
    delayed = torch.nn.functional.pad(wave, (shift * HOP, 0))
    mel = front_end()
    torch.testing.assert_close(mel(delayed, 22 + shift)[:, shift + 2 :], mel(wave, 22)[:, 2:])


@pytest.mark.parametrize("samples", [257, 400, 16_000, 16_159])
def test_normalised_log_mel_equals_its_description(samples: int) -> None:
    """In float64: windows in the middle of 512 samples, reflected ends, HTK's triangles, instance norm."""
    wave = 0.1 * np.random.default_rng(samples).standard_normal(samples)
    window = np.zeros(512)
    window[56:456] = scipy.signal.get_window("hamming", 400, fftbins=True)
    padded = np.pad(wave, 256, mode="reflect")
    frames = np.stack([padded[160 * t : 160 * t + 512] * window for t in range(1 + samples // 160)])
    power = np.abs(scipy.fft.rfft(frames)) ** 2
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 82) / 2595) - 1)
    hz = np.arange(257) * 31.25
    rise = (hz - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    fall = (corners[2:, None] - hz) / (corners[2:] - corners[1:-1])[:, None]
    bands = np.log(power @ np.clip(np.minimum(rise, fall), 0, None).T + 1e-6)
    expected = (bands - bands.mean(axis=0)) / np.sqrt(bands.var(axis=0) + 1e-5)
    found = NormalisedLogMel()(torch.from_numpy(wave).float()[None])[0].T
    assert found.shape == (1 + samples // 160, 80)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)
