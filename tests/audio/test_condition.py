from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nestvox.audio import Condition, condition, resample
from nestvox.audio.condition import CODES, count_codes
from nestvox.audio.downmix import ChannelStatistics
from nestvox.audio.read import read_recording
from nestvox.corpora import read_utterances


def sine(seconds: float, amplitude: float) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * 100 * np.arange(round(16000 * seconds)) / 16000)).astype(np.float32)


def test_level_of_a_sine_is_three_decibels_below_its_peak() -> None:
    found = condition(sine(3, 0.5), 16000)
    assert found.duration_s == 3
    assert found.rms_dbfs == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=1e-4)
    assert found.peak == pytest.approx(0.5, abs=1e-6)
    assert found.clipped_fraction == 0
    assert found.silent_fraction == 0
    assert found.warnings() == ()


def test_a_sine_clipped_at_half_its_height_stands_two_thirds_of_the_time() -> None:
    """|sin x| >= 1/2 on two thirds of the period."""
    found = condition(np.clip(sine(3, 2.0), -1, 1), 16000)
    assert found.clipped_fraction == pytest.approx(2 / 3, abs=0.01)
    assert found.warnings() == (
        f"The audio is clipped: {found.clipped_fraction:.2%} of its samples stand at full scale.",
    )


def test_a_lone_peak_is_not_clipping() -> None:
    samples = sine(3, 0.3)
    samples[::100] = 1.0
    assert condition(samples, 16000).clipped_fraction == 0


def test_both_signs_side_by_side_are_not_one_run() -> None:
    samples = np.tile(np.array([1.0, -1.0], np.float32), 1000)
    assert condition(samples, 16000).clipped_fraction == 0


def test_silence_is_counted_in_frames() -> None:
    samples = np.concatenate([sine(1, 0.5), np.zeros(48000, np.float32)])
    found = condition(samples, 16000)
    assert found.silent_fraction == 0.75
    assert found.warnings() == ("The audio is mostly silence: 75% of it is below -60 dBFS.",)


def test_short_and_silent() -> None:
    found = condition(np.zeros(8000, np.float32), 16000)
    assert found.rms_dbfs == -math.inf
    assert [w.split(":")[0] for w in found.warnings()] == ["The audio is short", "The audio is silent"]


def test_quiet_and_too_loud_are_said() -> None:
    assert "almost silent" in condition(sine(3, 0.001), 16000).warnings()[0]
    loud = Condition(duration_s=3, rms_dbfs=-3, peak=1.5, clipped_fraction=0, silent_fraction=0)
    assert loud.warnings() == ("The audio reaches beyond full scale: its peak is 1.50.",)


@pytest.mark.parametrize("wrong", [np.zeros(0, np.float32), np.zeros((2, 2), np.float32)])
def test_shapes(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="T > 0"):
        condition(wrong, 16000)


RATE = 16_000


def voice(seconds: float = 4.0, rate: int = RATE, seed: int = 3) -> np.ndarray:
    """Noise with the slope of speech in syllables with pauses: sound up to half the rate, no offset, no flat tops."""
    draw = np.random.default_rng(seed)
    n = round(seconds * rate)
    spectrum = np.fft.rfft(draw.standard_normal(n))
    hz = np.fft.rfftfreq(n, 1 / rate)
    sound = np.fft.irfft(np.where(hz < 60, 0, spectrum / np.maximum(hz, 300) ** 0.7), n)
    time = np.arange(n) / rate
    sound *= np.clip(np.sin(2 * np.pi * 1.7 * time) + 0.6, 0.02, None)
    return (0.4 * sound / np.abs(sound).max()).astype(np.float32)


def telephone(samples: np.ndarray) -> np.ndarray:
    return resample(resample(samples, RATE, 8_000), 8_000, RATE)


def torn(samples: np.ndarray) -> np.ndarray:
    """A buffer of 30 ms is lost where the sound is loud."""
    place = int(np.abs(samples[RATE:-RATE]).argmax()) + RATE
    return np.where(np.abs(np.arange(len(samples)) - place) < 0.015 * RATE, 0, samples).astype(np.float32)


def limited(samples: np.ndarray) -> np.ndarray:
    """Clipped at a quarter of full scale, and quantised: its flat tops are far below full scale."""
    return (np.round(np.clip(samples, -0.25, 0.25) * 32768) / 32768).astype(np.float32)


def low(samples: np.ndarray, edge_hz: float) -> np.ndarray:
    """What lies below an edge."""
    spectrum = np.fft.rfft(samples)
    spectrum[np.fft.rfftfreq(len(samples), 1 / RATE) > edge_hz] = 0
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


def held(samples: np.ndarray, value: float, ms: int = 30) -> np.ndarray:
    """A buffer stands still where the sound is loud."""
    place = int(np.abs(samples[RATE:-RATE]).argmax()) + RATE
    made = samples.copy()
    made[place : place + RATE * ms // 1000] = value
    return made


def coded(samples: np.ndarray, subtype: str) -> np.ndarray:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype=subtype)
    return soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")[0]


def halves(samples: np.ndarray) -> np.ndarray:
    """1 in the first half, -1 in the second."""
    return np.where(np.arange(len(samples)) < len(samples) / 2, 1, -1).astype(np.float32)


MADE = {
    "": lambda x: x,
    "dc-offset": lambda x: x + np.float32(0.05),
    "dc-offset ": lambda x: x - np.float32(0.01),
    "dc-offset  ": lambda x: x + np.float32(0.05) * halves(x),
    "dc-offset   ": lambda x: x + np.linspace(-0.1, 0.1, len(x), dtype=np.float32),
    "dc-offset    ": lambda x: x + 0.1 * np.sin(2 * np.pi * 2 * np.arange(len(x), dtype=np.float32) / RATE),
    "narrow-band": telephone,
    "narrow-band ": lambda x: low(x, 2_000),
    "narrow-band  ": lambda x: low(x, 900),
    "dropouts": torn,
    "dropouts ": lambda x: held(x, 0.03),
    "dropouts  ": lambda x: held(x, -0.01),
    "dropouts   ": lambda x: coded(torn(x), "ALAW"),
    "dropouts dc-offset": lambda x: torn(x) + np.float32(0.1),
    "clipped": lambda x: np.clip(4 * x, -1, 1),
    "clipped ": limited,
    "beyond-full-scale": lambda x: 3 * x,
    "quiet": lambda x: x / 300,
    "short": lambda x: x[: RATE + RATE // 2],
    "silent": lambda x: 0 * x,
    "silent ": lambda x: 0 * x + np.float32(0.2),
    "mostly-silent": lambda x: np.concatenate([x, np.zeros(3 * len(x), np.float32)]),
}


@pytest.mark.parametrize("kind", MADE)
def test_each_condition_is_told_and_no_other(kind: str) -> None:
    found = condition(MADE[kind](voice()), RATE).codes()
    assert set(found) - ({"dc-offset"} if kind == "silent " else set()) == set(kind.split())
    assert set(found) <= set(CODES)


def test_every_code_has_a_sentence() -> None:
    for made in MADE.values():
        found = condition(made(voice()), RATE)
        assert len(found.codes()) == len(found.warnings())


def test_a_part_of_what_was_promised() -> None:
    """A segment of 5 s of which 1.8 s are there."""
    found = condition(voice(1.8), RATE, expected_s=5.0)
    assert found.codes() == ("short", "partial")
    assert "1.80 s of 5.00 s" in found.warnings()[1]
    assert condition(voice(4.95), RATE, expected_s=5.0).codes() == ()


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("cut", [0.25, 0.5])
def test_parts_add_up_to_the_whole(kind: str, cut: float) -> None:
    samples = MADE[kind](voice(8.0))
    place = round(cut * len(samples)) // 512 * 512 // 320 * 320
    averaged = ChannelStatistics.of(np.stack([samples, samples], axis=1), RATE)
    whole = condition(samples, RATE, expected_s=8.0, averaged=averaged)
    parts = [condition(part, RATE, expected_s=4.0, averaged=averaged) for part in (samples[:place], samples[place:])]
    both = parts[0] + parts[1]
    assert both.duration_s == pytest.approx(whole.duration_s)
    assert both.expected_s == 8.0
    assert both.rms_dbfs == pytest.approx(whole.rms_dbfs, abs=1e-6)
    assert both.dc_offset == pytest.approx(whole.dc_offset, abs=1e-9)
    assert both.silent_fraction == pytest.approx(whole.silent_fraction, abs=0.01)
    assert [both.peak, both.averaged.n] == [whole.peak, 2 * averaged.n]
    if kind not in ("clipped ", "short"):  # each part has a peak of its own; only the whole is long enough
        assert both.codes() == whole.codes()


CHANNELS = {
    "": lambda a, b: (a, a),
    " ": lambda a, b: (a, 0.3 * a + 0.01 * b),
    "channels-cancel": lambda a, b: (a, -a),
    "channels-cancel ": lambda a, b: (a, 0.01 * b - 0.8 * a),
    "channels-cancel  ": lambda a, b: (a, 2 * low(a, 1_500) - a),
    "channels-cancel   ": lambda a, b: (a, a - 2 * low(a, 4_000) + 2 * low(a, 1_200)),
    "channels-cancel    ": lambda a, b: (a, np.roll(a, 4)),
    "channels-cancel     ": lambda a, b: (a, -a, 0.2 * a, -0.2 * a),
    "  ": lambda a, b: (a, a, 0.9 * a, a, a, 0.8 * a),
    "channels-differ": lambda a, b: (a, b),
    "channels-differ   ": lambda a, b: (a, b, voice(seed=3), voice(seed=4), voice(seed=5), voice(seed=6)),
    "silent-channel channels-cancel": lambda a, b: (a, -0.95 * a, 0 * a, 0 * a, 0 * a, 0 * a),
    "channels-differ ": lambda a, b: (a, np.roll(a, 40)),
    "silent-channel": lambda a, b: (a, 0 * a),
    "silent-channel ": lambda a, b: (0.001 * b, a),
}


@pytest.mark.parametrize("kind", CHANNELS)
@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_channels_that_were_averaged(kind: str, offset: float) -> None:
    """A constant offset of the channels hides nothing."""
    pair = np.stack(CHANNELS[kind](voice(seed=1), voice(seed=2)), axis=1).astype(np.float32) + np.float32(offset)
    found = condition(voice(), RATE, averaged=ChannelStatistics.of(pair, RATE))
    assert " ".join(found.codes()) == kind.strip()


@pytest.mark.parametrize("subtype", ["PCM_16", "ULAW", "ALAW", "PCM_U8"])
def test_steps_of_a_coding_are_no_gaps(subtype: str) -> None:
    """Quiet sound stands still between the steps of 8 bits, and comes back at once."""
    syllables = np.concatenate([0.1 * voice(0.4, seed=seed) for seed in range(8)])
    assert condition(coded(syllables, subtype), RATE).dropouts == 0
    assert condition(np.repeat(coded(syllables, subtype), 3), 3 * RATE).dropouts == 0


def test_a_clipped_channel_is_told_though_the_mean_hides_it() -> None:
    pair = np.stack([voice(), np.clip(4 * voice(), -1, 1)], axis=1)
    found = condition(pair.mean(axis=1), RATE, averaged=ChannelStatistics.of(pair, RATE))
    assert found.codes() == ("clipped",)
    assert "Channel 1 of those that were averaged" in found.warnings()[0]


def test_the_octave_that_is_lost_is_named() -> None:
    """A delay of 4 samples at 16 kHz takes out 2 kHz, and 6 kHz."""
    pair = np.stack([voice(), np.roll(voice(), 4)], axis=1)
    found = condition(voice(), RATE, averaged=ChannelStatistics.of(pair, RATE))
    assert "The channels cancel at 1.4 to 2.8 kHz" in found.warnings()[0]


def test_flat_tops_are_found_before_the_rate_is_changed(tmp_path: Path) -> None:
    """Resampling bends them."""
    soundfile.write(tmp_path / "a.wav", np.clip(4 * voice(rate=44_100), -1, 1), 44_100)
    assert read_recording(tmp_path / "a.wav").condition().codes() == ("clipped",)


def test_conditions_are_counted() -> None:
    assert count_codes(["short clipped", "", None, "short"]) == {"short": 2, "clipped": 1}


def test_all_is_well_with_real_speech(speech_dir: Path) -> None:
    """Of 60 recordings of five corpora none is doubtful but for being short."""
    table = read_utterances(speech_dir / "utterances.tsv").where(split="dev")
    found = [segment.read().condition().codes() for segment in table.segments()[:: len(table) // 60]]
    assert {code for codes in found for code in codes} <= {"short"}


@pytest.mark.parametrize(("subtype", "suffix"), [("PCM_16", "wav"), ("VORBIS", "ogg")])
def test_a_file_that_was_cut_is_told_by_the_recording(tmp_path: Path, subtype: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(4 * 16_000), 16_000, subtype)
    assert "cut-off" not in read_recording(path).condition().codes()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 5 // 8])
    whole = read_recording(path).condition()
    assert "cut-off" in whole.codes()
    assert any("ends before its own header says" in sentence for sentence in whole.warnings())
    # A part that lies before the cut is none the worse for it; one that reaches it is.
    assert "cut-off" not in read_recording(path, start_s=0.5, duration_s=0.5).condition().codes()
    assert "cut-off" in read_recording(path, start_s=1.0, duration_s=2.9).condition().codes()
