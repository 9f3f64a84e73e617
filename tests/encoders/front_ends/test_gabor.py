"""The front end that learns its band-passes: what it hears of tones, its rate, its gain, its gradients."""

from __future__ import annotations

import math

import pytest
import torch

from keyed_weights import keyed_weights
from nestvox.encoders import MLPMixer, build
from nestvox.encoders.front_ends.gabor import GaborBands

RATE = 16_000


def tone(hz: float, seconds: float = 1.0) -> torch.Tensor:
    time = torch.arange(int(seconds * RATE), dtype=torch.float64) / RATE
    return math.sqrt(2) * torch.sin(2 * math.pi * hz * time + 0.3)[None].float()  # power 1


@pytest.mark.parametrize("hz", [200.0, 440.0, 1000.0, 3000.0, 6500.0])
def test_a_tone_is_loudest_in_the_band_around_it(hz: float) -> None:
    bands = GaborBands()
    with torch.inference_mode():
        energies = bands.energies(tone(hz))[0, :, 10:90]
    loudest = int(energies.mean(dim=1).argmax())
    assert loudest == int((bands.centre_hz - hz).abs().argmin())
    assert float(energies[loudest].std() / energies[loudest].mean()) < 0.05


@pytest.mark.parametrize("band", [30, 50, 70])
def test_energy_is_power_at_the_centre_and_half_of_it_at_half_a_width(band: int) -> None:
    bands = GaborBands()
    centre, width = bands.centre_hz[band].item(), bands.width_hz[band].item()
    with torch.inference_mode():
        at, beside = (float(bands.energies(tone(hz))[0, band, 20:80].mean()) for hz in (centre, centre + width / 2))
    assert at == pytest.approx(1.0, abs=0.01)
    # Shorter than the Gaussian's tails, a filter is a little wider.
    assert beside / at == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(("samples", "frames"), [(400, 3), (16_000, 100), (16_001, 101), (48_000, 300)])
def test_frames_are_ten_milliseconds_apart(samples: int, frames: int) -> None:
    bands = GaborBands()
    assert bands(torch.randn(2, samples)).shape == (2, 80, frames)


def test_a_click_is_loudest_where_it_is() -> None:
    audio = torch.zeros(1, RATE)
    audio[0, 4_800] = 1.0
    with torch.inference_mode():
        assert (GaborBands().energies(audio)[0].argmax(dim=1) == 30).all()


def test_gain_does_not_matter_where_the_floor_does_not() -> None:
    audio = 5 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    bands = GaborBands()
    with torch.inference_mode():
        torch.testing.assert_close(bands(4 * audio), bands(audio), rtol=0, atol=0.02)


def test_gradients_reach_every_filter_and_autocast_does_not() -> None:
    bands = GaborBands()
    audio = 0.1 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    plain = bands(audio)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bands(audio), plain)
    (plain[:, :, ::3].square() * torch.rand(plain[:, :, ::3].shape)).sum().backward()
    for parameter in bands.parameters():
        assert parameter.grad is not None
        assert (parameter.grad != 0).all()


def test_a_mixer_with_it_is_rebuilt_from_its_config() -> None:
    encoder = MLPMixer(
        width=16, depth=1, expansion=2, groups=2, kernels=[3], chunk=0, embedding_dim=8, front_end="gabor"
    ).eval()
    encoder.load_state_dict(keyed_weights(encoder.state_dict()))
    assert sum(parameter.numel() for parameter in encoder.features.parameters()) == 3 * 80
    again = build({"architecture": "mixer", **encoder.config()}).eval()
    again.load_state_dict(encoder.state_dict())
    audio = 0.1 * torch.randn(1, 8_000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again(audio).embedding, encoder(audio).embedding)
