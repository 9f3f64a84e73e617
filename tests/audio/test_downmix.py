"""One channel of several, and what averaging does to channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from nestvox.audio import read
from nestvox.audio.downmix import ChannelStatistics
from nestvox.audio.errors import ChannelError, SilentAudioError
from nestvox.audio.read import read_recording

RATE = 8_000


def two_sides(seconds: float = 3.0) -> np.ndarray:
    """(T, 2) of noise: nothing in common."""
    return np.random.default_rng(5).normal(0, 0.1, (round(RATE * seconds), 2))


@pytest.mark.parametrize(
    ("name", "subtype"), [("a.wav", "PCM_16"), ("a.wav", "ULAW"), ("a.flac", "PCM_16"), ("a.w64", "FLOAT")]
)
@pytest.mark.parametrize("channel", [0, 1])
def test_a_channel_is_read_as_if_it_stood_alone(tmp_path: Path, name: str, subtype: str, channel: int) -> None:
    both = two_sides()
    soundfile.write(tmp_path / name, both, RATE, subtype=subtype)
    soundfile.write(tmp_path / f"alone-{name}", both[:, channel], RATE, subtype=subtype)
    for part in ({}, {"start_s": 0.7, "duration_s": 1.1}, {"sample_rate": 16_000, "start_s": 1.0}):
        there, _ = read(tmp_path / name, channel=channel, **part)
        alone, _ = read(tmp_path / f"alone-{name}", **part)
        np.testing.assert_array_equal(there, alone)


@pytest.mark.parametrize("channel", [2, -1, 10**9])
def test_a_channel_that_is_not_there(tmp_path: Path, channel: int) -> None:
    soundfile.write(tmp_path / "a.wav", two_sides(), RATE)
    with pytest.raises(ChannelError, match=f"the channels 0 to 1; asked for channel {channel}"):
        read(tmp_path / "a.wav", channel=channel)


def test_statistics_are_those_of_numpy_and_add_up(tmp_path: Path) -> None:
    both = np.random.default_rng(1).normal(0.2, 0.1, (200_000, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]])
    soundfile.write(tmp_path / "a.wav", both, RATE, subtype="DOUBLE")
    found = read_recording(tmp_path / "a.wav", sample_rate=None, start_s=1.0).averaged
    assert found is not None
    expected = np.cov(both[RATE:].astype(np.float32).astype(np.float64), rowvar=False, bias=True)
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-6, atol=1e-12)
    assert found.lowest_correlation(0.0) == pytest.approx(np.corrcoef(both[RATE:], rowvar=False).min(), abs=1e-6)


@pytest.mark.parametrize(
    ("second", "kept"),
    [(lambda x, _: x, 1.0), (lambda x, _: -x, 0.0), (lambda _, y: y, 0.5), (lambda x, _: 0 * x, 0.5)],
)
def test_how_much_the_mean_keeps(second, kept: float) -> None:
    a, b = np.random.default_rng(2).normal(0, 0.1, (2, 50_000)).astype(np.float32)
    found = ChannelStatistics.of(np.stack([a, second(a, b)], axis=1) + np.float32(0.3), RATE)
    assert found.kept == pytest.approx(kept, abs=0.01)


def test_nothing_is_said_of_one_channel(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mono.wav", two_sides()[:, 0], RATE)
    soundfile.write(tmp_path / "two.wav", two_sides(), RATE)
    assert read_recording(tmp_path / "mono.wav").averaged is None
    assert read_recording(tmp_path / "two.wav", channel=1).averaged is None


def test_channels_that_cancel_altogether_are_not_called_silent(tmp_path: Path) -> None:
    side = two_sides()[:, :1]
    soundfile.write(tmp_path / "a.wav", np.hstack([side, -side]), RATE, subtype="FLOAT")
    with pytest.raises(SilentAudioError, match=r"its channels cancel: .*choose one"):
        read(tmp_path / "a.wav")
    assert read(tmp_path / "a.wav", channel=1)[0].any()
    soundfile.write(tmp_path / "b.wav", np.zeros((RATE, 2)), RATE)
    with pytest.raises(SilentAudioError, match="samples are zero"):
        read(tmp_path / "b.wav")
