"""The front ends of ReDimNet against their formulas, written out in numpy and scipy in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.encoders.front_ends.log_mel import (
    Float32Module,
    MelSpectrogram,
    htk_edges_hz,
    mel_filters_in_mels,
    power_frames,
)
from nestvox.encoders.redimnet.front_end import FrontEnd, FrontEndSettings, mask_bands

BANDS = 24


def front_end(kind: str, *, hop: int = 160, n_bands: int = BANDS, **settings: Any) -> FrontEnd:
    return FrontEnd(kind, n_bands=n_bands, hop=hop, settings=FrontEndSettings.of(settings)).eval()


def speechlike(samples: int, seed: int = 0) -> np.ndarray:
    """Noise that falls off with frequency, as speech does, at 0.1."""
    white = np.random.default_rng(seed).standard_normal(samples + 1)
    wave = np.convolve(white, 0.9 ** np.arange(50))[:samples]
    return (0.1 * wave / wave.std()).astype(np.float32)


def mel(hz: Any) -> Any:
    return 2595 * np.log10(1 + np.asarray(hz) / 700)


def hz_of(m: Any) -> Any:
    return 700 * (10 ** (np.asarray(m) / 2595) - 1)


def triangle(x: float, low: float, mid: float, high: float) -> float:
    return max(0.0, min((x - low) / (mid - low), (high - x) / (high - mid)))


def preemphasis(wave: np.ndarray) -> np.ndarray:
    return np.array([wave[n] - 0.97 * wave[n - 1 if n else 1] for n in range(len(wave))])


def pt_by_formula(wave: np.ndarray, hop: int, *, norm_signal: bool = False, spec_norm: str = "mn") -> np.ndarray:
    """One 512-point frame centred on every multiple of the hop, reflected at the ends."""
    x = wave.astype(np.float64)
    if norm_signal:
        x = (x - x.mean()) / (x.std() + 1e-6)
    x = np.pad(preemphasis(x), 256, mode="reflect")
    window = np.zeros(512)
    window[56:456] = [0.54 - 0.46 * np.cos(2 * np.pi * k / 400) for k in range(400)]
    frames = np.stack([x[t * hop : t * hop + 512] * window for t in range(1 + len(wave) // hop)])
    power = np.abs(scipy.fft.rfft(frames)) ** 2
    edges = hz_of(np.linspace(mel(20), mel(7600), BANDS + 2))
    bank = [[triangle(k * 8000 / 256, *edges[m : m + 3]) for k in range(257)] for m in range(BANDS)]
    log_mel = np.log(power @ np.array(bank).T + 1e-6).T
    log_mel -= log_mel.mean(axis=1, keepdims=True)
    return log_mel / (log_mel.std(axis=1, ddof=1, keepdims=True) + 1e-8) if spec_norm == "mvn" else log_mel


def tf_power_by_formula(wave: np.ndarray, hop: int, *, norm_signal: bool = False) -> np.ndarray:
    """The convolution with 256 cosines and sines that the original is written as."""
    x = wave.astype(np.float64)
    if norm_signal:
        x = (x - x.mean()) / (x.std() + 1e-8)
    x = np.pad(preemphasis(x), hop // 2)
    n, k = np.arange(400), np.arange(256)[:, None]
    frames = np.stack([x[s : s + 400] for s in range(0, len(x) - 399, hop)])
    real = frames @ (np.hamming(400) * np.cos(2 * np.pi * n * k / 512)).T
    imaginary = frames @ (np.hamming(400) * np.sin(2 * np.pi * n * k / 512)).T
    return np.clip(real**2 + imaginary**2, 1e-8, 1e8)


def tf_by_formula(wave: np.ndarray, hop: int, *, norm_signal: bool = False) -> np.ndarray:
    points = np.linspace(mel(20), mel(7600), BANDS + 2)
    bank = [[triangle(mel(k * 8000 / 255), *points[m : m + 3]) if k else 0 for k in range(256)] for m in range(BANDS)]
    bands = np.clip(tf_power_by_formula(wave, hop, norm_signal=norm_signal) @ np.array(bank).T, 1e-8, 1e8)
    log_mel = np.log(bands + 1e-8).T
    return log_mel - log_mel.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("samples", [257, 4_800, 16_000, 20_801])
@pytest.mark.parametrize("hop", [160, 240])
@pytest.mark.parametrize("settings", [{}, {"norm_signal": True}, {"spec_norm": "mvn"}], ids=["mn", "norm", "mvn"])
def test_pt_equals_the_formula(samples: int, hop: int, settings: dict[str, Any]) -> None:
    wave = speechlike(samples)
    features = front_end("pt", hop=hop, **settings)(torch.from_numpy(wave)[None])[0].numpy()
    np.testing.assert_allclose(features, pt_by_formula(wave, hop, **settings), rtol=0, atol=1e-3)


@pytest.mark.parametrize("samples", [400, 4_800, 16_000, 20_801])
@pytest.mark.parametrize("hop", [160, 240])
@pytest.mark.parametrize("norm_signal", [False, True])
def test_tf_equals_the_formula(samples: int, hop: int, norm_signal: bool) -> None:
    wave = speechlike(samples, seed=1)
    features = front_end("tf", hop=hop, norm_signal=norm_signal)(torch.from_numpy(wave)[None])[0].numpy()
    np.testing.assert_allclose(features, tf_by_formula(wave, hop, norm_signal=norm_signal), rtol=0, atol=1e-3)


def test_tf_spec_equals_the_formula() -> None:
    wave = speechlike(8_000, seed=2)
    expected = np.log(tf_power_by_formula(wave, 160) + 1e-8).T
    expected -= expected.mean(axis=1, keepdims=True)
    features = front_end("tf_spec", n_bands=128)(torch.from_numpy(wave)[None])[0].numpy()
    np.testing.assert_allclose(features, expected.reshape(128, 2, -1).mean(axis=1), rtol=0, atol=1e-3)


def test_tf_without_preemphasis_has_no_buffer_for_it() -> None:
    assert "torchfbank.1.flipped_filter" not in front_end("tf", do_preemph=False).state_dict()
    assert "torchfbank.1.flipped_filter" in front_end("tf").state_dict()


def test_kernels_that_checkpoints_hold_are_the_transform_in_use() -> None:
    fbank = front_end("tf").torchfbank[2]
    wave = torch.from_numpy(speechlike(8_000))
    convolved = [
        torch.nn.functional.conv1d(wave.double()[None, None], kernel.double(), stride=160)[0]
        for kernel in (fbank.real_kernel_pt, fbank.image_kernel_pt)
    ]
    power = power_frames(wave[None], fbank.window, hop=160, n_fft=512)[0, :, :256].double()
    expected = (convolved[0] ** 2 + convolved[1] ** 2).T
    torch.testing.assert_close(power, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


def test_learnt_statistics_of_bands() -> None:
    bands = front_end("pt", spec_norm="bn")
    assert {key for key in bands.state_dict() if key.startswith("spec_norm.")} == {
        f"spec_norm.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    with torch.no_grad():
        bands.spec_norm.running_mean.fill_(3.0)
        bands.spec_norm.running_var.fill_(4.0 - 1e-5)
    wave = torch.from_numpy(speechlike(8_000))[None]
    plain = torch.log(bands.torchfbank(wave) + 1e-6).transpose(1, 2)
    torch.testing.assert_close(bands(wave), (plain - 3) / 2)


@pytest.mark.parametrize(("kind", "bands"), [("pt", BANDS), ("tf", BANDS), ("tf_spec", 128)])
def test_min_samples_give_the_frames_and_one_less_does_not(kind: str, bands: int) -> None:
    for hop in (160,) if kind == "tf_spec" else (160, 240):
        for frames in (2, 4, 8):
            front = front_end(kind, hop=hop, n_bands=bands)
            least = front.min_samples(frames)
            assert front(torch.zeros(1, least)).shape[2] == max(frames, 1 + 257 // hop if kind == "pt" else 0)
            if least > 257:
                assert front(torch.zeros(1, least - 1)).shape[2] == frames - 1


def test_float32_under_autocast_and_after_casts() -> None:
    wave = torch.from_numpy(speechlike(8_000))[None]
    for kind in ("pt", "tf"):
        front = front_end(kind)
        plain = front(wave)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(front(wave), plain)
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            assert torch.equal(front.to(dtype)(wave), plain)


def test_the_other_front_end_keeps_its_precision_too() -> None:
    spectrogram = MelSpectrogram(sample_rate=16_000, n_fft=400, hop=160, n_mels=40)
    filters = spectrogram.filters.clone()
    assert isinstance(spectrogram, Float32Module)
    assert torch.equal(spectrogram.half().filters, filters)


def test_silence_is_finite() -> None:
    for kind in ("pt", "tf"):
        for norm_signal in (False, True):
            for level in (0.0, 1e-30, 1e-10, 1.0, 1e6):
                features = front_end(kind, norm_signal=norm_signal)(torch.full((1, 4_000), level))
                assert features.isfinite().all()


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(0.01, 100.0), seed=st.integers(0, 2**32 - 1))
def test_level_does_not_matter_where_the_signal_is_normalised(gain: float, seed: int) -> None:
    wave = torch.from_numpy(speechlike(4_000, seed))[None]
    for kind in ("pt", "tf"):
        front = front_end(kind, norm_signal=True)
        torch.testing.assert_close(front(wave * gain), front(wave), rtol=0, atol=5e-3)


def test_known_points_of_htks_scale() -> None:
    # The scale is made so that 1 kHz is 1000 mels; 500 mels are then 391 Hz.
    assert htk_edges_hz(1, 0.0, 1000.0).tolist() == pytest.approx([0.0, 390.8, 1000.0], abs=0.1)
    edges = htk_edges_hz(9, 100.0, 7000.0)
    np.testing.assert_allclose(np.diff(mel(edges)), np.diff(mel(edges)).mean())


def test_filters_in_mels_leave_out_the_bin_at_zero() -> None:
    filters = mel_filters_in_mels(3, 0.0, 8000.0, bins_hz=np.array([0.0, 10.0, 8000.0]))
    assert filters[:, 0].tolist() == [0.0, 0.0, 0.0]
    assert filters[0, 1] > 0


# SpecAugment


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    axis=st.sampled_from([1, 2]),
    low=st.integers(0, 4),
    extra=st.integers(1, 6),
    first=st.integers(0, 30),
    size=st.integers(1, 25),
)
def test_one_band_of_a_drawn_width_is_blanked(
    seed: int, axis: int, low: int, extra: int, first: int, size: int
) -> None:
    torch.manual_seed(seed)
    shape = (6, size, 4) if axis == 1 else (6, 4, size)
    blanked = mask_bands(torch.ones(shape), axis=axis, width=(low, low + extra), first=first) == 0
    along = blanked.all(dim=3 - axis)
    assert torch.equal(blanked.any(dim=3 - axis), along)  # whole rows, or none of them
    for row in along:
        places = row.nonzero()[:, 0]
        assert len(places) < low + extra
        if len(places):
            assert int(places[0]) >= first
            assert torch.equal(places, torch.arange(int(places[0]), int(places[0]) + len(places)))
            assert len(places) >= min(low, size - int(places[0]))


def test_bands_are_drawn_for_each_utterance_by_itself() -> None:
    torch.manual_seed(0)
    blanked = mask_bands(torch.ones(50, 40, 5), axis=1, width=(0, 8)) == 0
    widths = blanked[:, :, 0].sum(dim=1)
    assert set(widths.tolist()) == set(range(8))
    assert len({tuple(row.nonzero()[:1, 0].tolist()) for row in blanked[:, :, 0]}) > 10
