"""Samples in every form that people hand over: the same recording gives the same waveform."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nestvox.audio.errors import (
    AudioRangeError,
    EmptyAudioError,
    NonFiniteAudioError,
    SampleRateError,
    SilentAudioError,
    TooShortAudioError,
)
from nestvox.audio.given import heard, recordings_of
from nestvox.errors import AudioError

RATE = 16_000
RNG = np.random.default_rng(3)
NOISE = (0.2 * RNG.standard_normal(RATE)).clip(-1, 1).astype(np.float32)
SHORTS = np.round(NOISE * 32767).astype(np.int16)


def tone(hz, rate, seconds=1.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(SHORTS, id="int16"),
        pytest.param((SHORTS.astype(np.int32) << 16), id="int32"),
        pytest.param(SHORTS / 32768, id="float64"),
        pytest.param(np.stack([SHORTS, SHORTS], axis=1), id="frames by channels"),
        pytest.param(np.stack([SHORTS, SHORTS]), id="channels by frames"),
        pytest.param((SHORTS / 32768)[None], id="one channel first"),
        pytest.param((SHORTS / 32768)[:, None], id="one channel last"),
        pytest.param((SHORTS, RATE), id="samples and rate"),
        pytest.param((RATE, SHORTS), id="rate and samples"),
        pytest.param((SHORTS, float(RATE)), id="a rate with a point"),
        pytest.param({"array": SHORTS, "sampling_rate": RATE, "path": None}, id="of a data set"),
        pytest.param(np.repeat(SHORTS, 2)[::2], id="not contiguous"),
    ],
)
def test_one_recording_in_every_form(samples):
    assert recordings_of(samples)[1]
    recording, doubts = heard(samples, to_hz=RATE)
    waveform = recording.samples
    assert recording.sample_rate == RATE
    assert waveform.dtype == np.float32
    assert waveform.flags.c_contiguous
    assert doubts == ()
    np.testing.assert_allclose(waveform, SHORTS / 32768, atol=1e-7)


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "int16"])
def test_tensors(kind):
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(SHORTS) if kind == "int16" else torch.tensor(SHORTS / 32768).to(getattr(torch, kind))
    tensor = tensor[None].requires_grad_() if kind == "float32" else tensor
    waveform = heard(tensor, to_hz=RATE)[0].samples
    np.testing.assert_allclose(waveform, SHORTS / 32768, atol=4e-3 if kind == "bfloat16" else 1e-7)


def test_unsigned_bytes_have_their_zero_in_the_middle():
    waveform = heard(np.array([0, 128, 255] * 400, np.uint8), to_hz=RATE)[0].samples
    np.testing.assert_allclose(waveform[:3], [-1, 0, 127 / 128])


def test_channels_are_averaged():
    both = np.stack([np.full(900, 0.5), np.full(900, -0.25)], axis=1)
    np.testing.assert_allclose(heard((both, RATE), to_hz=RATE)[0].samples, 0.125)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("how", ["pair", "argument"])
def test_the_rate_that_is_given_is_honoured(rate, how):
    given = tone(440, rate)
    recording, doubts = (
        heard((given, rate), to_hz=RATE) if how == "pair" else heard(given, to_hz=RATE, sample_rate=rate)
    )
    waveform = recording.samples
    assert doubts == ()
    assert len(waveform) == RATE
    # The filter rings at both ends.
    np.testing.assert_allclose(waveform[800:-800], tone(440, RATE)[800:-800], atol=1e-3)


def test_samples_and_their_file_are_the_same(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([tone(300, 44_100), tone(200, 44_100)], axis=1), 44_100, "FLOAT")
    from_array = heard(soundfile.read(tmp_path / "a.wav"), to_hz=RATE)[0]
    from_file = heard(tmp_path / "a.wav", to_hz=RATE)[0]
    np.testing.assert_allclose(from_array.samples, from_file.samples, atol=1e-6)
    assert from_array.averaged.kept == pytest.approx(from_file.averaged.kept, abs=1e-6)


def test_a_signal_that_contradicts_the_rate_is_told():
    low = sum(tone(hz, RATE) for hz in (200, 900, 2_400)) / 3
    (doubt,) = heard(low, to_hz=RATE)[1]
    assert "nothing above 4 kHz" in doubt
    assert "sample_rate=" in doubt
    assert heard(low, to_hz=RATE, sample_rate=RATE)[1] == ()
    assert heard(low + 0.01 * NOISE, to_hz=RATE)[1] == ()
    assert heard(low, to_hz=8_000)[1] == ()  # a model for telephones has nothing there


@pytest.mark.parametrize(
    ("audio", "options", "error", "words"),
    [
        (NOISE, {"sample_rate": 0}, SampleRateError, "sample rate 0"),
        (NOISE, {"sample_rate": 16_000.5}, SampleRateError, "whole number"),
        (NOISE, {"sample_rate": float("nan")}, SampleRateError, "nan"),
        ((NOISE, 10**9), {}, SampleRateError, "768000"),
        ((NOISE, 8_000), {"sample_rate": 16_000}, AudioError, "give one"),
        (SHORTS.astype(np.float32), {}, AudioRangeError, "32768"),
        (SHORTS.astype(np.int64), {}, AudioError, "int64"),
        (NOISE > 0, {}, AudioError, "bool"),
        (NOISE.astype(np.complex64), {}, AudioError, "complex64"),
        (NOISE.astype(object), {}, AudioError, "object"),
        (np.zeros((2, 3, 4)), {}, AudioError, r"\(2, 3, 4\)"),
        (np.zeros((100, 100)), {}, AudioError, "which axis"),
        (np.float32(0.5), {}, AudioError, r"shape \(\)"),
        (np.zeros(0, np.float32), {}, EmptyAudioError, "no samples"),
        (np.zeros((0, 2), np.float32), {}, EmptyAudioError, "no samples"),
        (np.array([0.1, np.nan] * 900), {}, NonFiniteAudioError, "not finite"),
        (np.array([1e300] * 900), {}, AudioRangeError, "1e"),
        (NOISE[:100], {"min_duration_s": 0.1}, TooShortAudioError, "sample_rate="),
        ([0.1, 0.2], {}, AudioError, "np.asarray"),
        (None, {}, AudioError, "NoneType"),
        ({"array": NOISE}, {}, AudioError, "sampling_rate"),
        (("a.wav", "b.wav"), {}, AudioError, "no pair"),
        ("a.wav", {"sample_rate": 8_000}, AudioError, "its own rate"),
    ],
)
def test_what_is_no_audio_is_refused_in_words(audio, options, error, words):
    with pytest.raises(error, match=words):
        heard(audio, to_hz=RATE, **options)


@pytest.mark.parametrize(
    ("audio", "error", "words"),
    [
        ((np.zeros(RATE), RATE), SilentAudioError, "all 16000 samples are zero"),
        (np.zeros(RATE, np.int16), SilentAudioError, "all 16000 samples are zero"),
        ((np.full(RATE, 128, np.uint8), RATE), SilentAudioError, "all 16000 samples are zero"),
        ((np.stack([NOISE, -NOISE], 1), RATE), SilentAudioError, "its channels cancel"),
        ((np.ma.array(NOISE, mask=NOISE > 0), RATE), AudioError, "is masked"),
    ],
)
def test_samples_are_refused_as_their_files_are(audio, error, words):
    with pytest.raises(error, match=words):
        heard(audio, to_hz=RATE)


@pytest.mark.parametrize("nothing", [None, 5, 2.5, True, b"RIFF", bytearray(4), object()])
def test_what_holds_no_recordings_is_told_by_its_kind(nothing):
    with pytest.raises(AudioError, match=f"is {type(nothing).__name__.replace('bytearray', 'bytes')}"):
        recordings_of(nothing)


@pytest.mark.parametrize("several", [[NOISE, NOISE], (NOISE, NOISE), ("a.wav", "b.wav"), [(NOISE, RATE), "b.wav"]])
def test_several_recordings_are_not_one(several):
    assert recordings_of(several) == (list(several), False)


@pytest.mark.parametrize("one", ["a.wav", Path("a.wav"), (NOISE, RATE), io.BytesIO(b"")])
def test_one_recording_is_not_several(one):
    assert recordings_of(one) == ([one], True)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_open_files_are_what_their_paths_are(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.stack([tone(300, 22_050), tone(500, 22_050)], axis=1), 22_050)
    expected = heard(path, to_hz=RATE)[0].samples
    with path.open("rb") as file:
        file.read(7)  # wherever it stands
        np.testing.assert_array_equal(heard(file, to_hz=RATE)[0].samples, expected)
    np.testing.assert_array_equal(heard(io.BytesIO(path.read_bytes()), to_hz=RATE)[0].samples, expected)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (io.BytesIO(b""), "0 bytes"),
        (io.BytesIO(b"no audio at all, but text"), "the open file: "),
        (io.StringIO("text"), "mode 'rb'"),
    ],
)
def test_open_files_without_audio_are_refused(file, words):
    with pytest.raises(AudioError, match=words):
        heard(file, to_hz=RATE)
