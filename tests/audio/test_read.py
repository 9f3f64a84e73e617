"""Decoding: known samples of every coding, parts, resampling, and errors that name the file."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.audio import SAMPLE_RATE, probe, read, resample
from nestvox.audio.errors import (
    AudioRangeError,
    EmptyAudioError,
    NonFiniteAudioError,
    SampleRateError,
    SilentAudioError,
    TooShortAudioError,
    UnreadableAudioError,
)
from nestvox.errors import AudioError

EXACT = [("WAV", s) for s in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW", "IMA_ADPCM")]
EXACT += [("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]
CODINGS = [*EXACT, ("OGG", "OPUS")]
SUFFIX = {"WAV": ".wav", "FLAC": ".flac", "OGG": ".ogg", "MP3": ".mp3"}


def tone(seconds: float, rate: int, hz: float = 440.0, amplitude: float = 0.4) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def riff(tag: int, bits: int, rate: int, data: bytes, channels: int = 1) -> bytes:
    """A wav file written by hand, so that no library decides what its samples mean."""
    block = channels * bits // 8
    fmt = struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits)
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def a_law(code: int) -> float:
    """Expand one A-law byte, from the segments of ITU-T G.711, to a fraction of full scale (4096 = 1.0)."""
    code ^= 0x55
    segment, step = (code >> 4) & 7, code & 15
    magnitude = 2 * step + 1 if segment == 0 else (2 * step + 33) << (segment - 1)
    return (magnitude if code & 0x80 else -magnitude) / 4096


def u_law(code: int) -> float:
    """Expand one u-law byte, from the segments of ITU-T G.711, to a fraction of full scale (8192 = 1.0)."""
    code = ~code & 0xFF
    magnitude = (((2 * (code & 15)) + 33) << ((code >> 4) & 7)) - 33
    return (-magnitude if code & 0x80 else magnitude) / 8192


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Four seconds of chirp with noise in every coding, long enough for several Ogg pages."""
    folder = tmp_path_factory.mktemp("coded")
    time = np.arange(4 * SAMPLE_RATE + 77) / SAMPLE_RATE
    noise = np.random.default_rng(7).standard_normal(len(time))
    samples = (0.3 * np.sin(2 * np.pi * (200 * time + 300 * time**2)) + 0.05 * noise).astype(np.float32)
    paths = {}
    for container, subtype in CODINGS:
        paths[container, subtype] = folder / f"{subtype}{SUFFIX[container]}"
        soundfile.write(paths[container, subtype], samples, SAMPLE_RATE, format=container, subtype=subtype)
    return paths


def test_sixteen_bit_samples_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes(struct.pack("<5h", 0, 16384, -32768, 32767, -1))
    samples, rate = read(path)
    assert rate == 16000
    assert samples.dtype == np.float32
    assert samples.tolist() == [0.0, 0.5, -1.0, 32767 / 32768, -1 / 32768]


@pytest.mark.parametrize(
    ("tag", "bits", "data", "expected"),
    [
        (1, 8, bytes([0, 64, 128, 192]), [-1.0, -0.5, 0.0, 0.5]),
        (1, 24, b"\x00\x00\x40\x00\x00\x80", [0.5, -1.0]),
        (1, 32, struct.pack("<2i", 1 << 30, -(1 << 31)), [0.5, -1.0]),
        (3, 32, struct.pack("<3f", 0.25, -1.0, 1.5), [0.25, -1.0, 1.5]),
        (3, 64, struct.pack("<2d", 0.125, -0.75), [0.125, -0.75]),
    ],
)
def test_other_widths_by_hand(tmp_path: Path, tag: int, bits: int, data: bytes, expected: list[float]) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(tag, bits, 16000, data))
    assert read(path)[0].tolist() == expected


@pytest.mark.parametrize(("tag", "law", "name"), [(6, a_law, "ALAW"), (7, u_law, "ULAW")])
def test_every_g711_code(tmp_path: Path, tag: int, law, name: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(tag, 8, 8000, bytes(range(256))))
    samples, _ = read(path, sample_rate=None)
    np.testing.assert_array_equal(samples, np.array([law(code) for code in range(256)], np.float32))
    assert probe(path).subtype == name


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(1, 16, 16000, struct.pack("<6h", 16384, 0, 8192, -8192, -16384, -16384), channels=2))
    assert read(path)[0].tolist() == [0.25, 0.0, -0.5]
    assert probe(path).channels == 2


def test_many_channels_in_small_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    frames = np.random.default_rng(0).uniform(-0.5, 0.5, (3000, 40)).astype(np.float32)
    soundfile.write(path, frames, 16000, subtype="FLOAT")
    np.testing.assert_allclose(read(path)[0], frames.mean(1), atol=1e-7)


def test_levels_beyond_full_scale_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.array([2.0, -3.0, 0.5], np.float32), 16000, subtype="FLOAT")
    assert read(path)[0].tolist() == [2.0, -3.0, 0.5]


def test_integers_stored_as_floats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.array([20000.0, -3.0], np.float32), 16000, subtype="FLOAT")
    with pytest.raises(AudioRangeError, match=r"a\.wav: .*2e\+04 times full scale"):
        read(path)


@pytest.mark.parametrize("coding", CODINGS)
def test_every_coding_gives_the_tone_back(tmp_path: Path, coding: tuple[str, str]) -> None:
    container, subtype = coding
    path = tmp_path / f"a{SUFFIX[container]}"
    original = tone(2.0, SAMPLE_RATE)
    soundfile.write(path, original, SAMPLE_RATE, format=container, subtype=subtype)
    samples, _ = read(path)
    middle = samples[8000:24000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) == 440  # one second: bins are 1 Hz apart
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.4, rel=0.03)
    info = probe(path)
    assert (info.format, info.subtype, info.sample_rate, info.channels) == (container, subtype, SAMPLE_RATE, 1)
    assert info.duration_s == pytest.approx(2.0, abs=0.06)
    assert info.duration_s == len(samples) / SAMPLE_RATE


@pytest.mark.parametrize("coding", CODINGS)
@settings(max_examples=12, deadline=None)
@given(start=st.floats(0, 3.9), duration=st.floats(0.05, 5))
def test_a_part_is_a_slice_of_the_whole(coded, coding: tuple[str, str], start: float, duration: float) -> None:
    whole, _ = read(coded[coding])
    part, _ = read(coded[coding], start_s=start, duration_s=duration)
    expected = whole[round(start * SAMPLE_RATE) : round((start + duration) * SAMPLE_RATE)]
    assert part.shape == expected.shape
    np.testing.assert_allclose(part, expected, rtol=0, atol=0.02 if coding[1] == "OPUS" else 0)


@pytest.mark.parametrize(
    ("from_hz", "to_hz"), [(44100, 16000), (8000, 16000), (16000, 24000), (22050, 16000), (11127, 16000)]
)
@settings(max_examples=12, deadline=None)
@given(start=st.floats(0, 2.5), duration=st.floats(0.01, 3))
def test_a_resampled_part_is_a_slice_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, from_hz: int, to_hz: int, start: float, duration: float
) -> None:
    path = tmp_path_factory.getbasetemp() / f"noise{from_hz}.wav"
    if not path.exists():
        noise = np.random.default_rng(from_hz).uniform(-0.9, 0.9, from_hz * 3 + 11)
        soundfile.write(path, noise, from_hz, subtype="PCM_24")
    whole, rate = read(path, sample_rate=to_hz)
    part, _ = read(path, sample_rate=to_hz, start_s=start, duration_s=duration)
    expected = whole[round(start * to_hz) : round((start + duration) * to_hz)]
    assert rate == to_hz
    assert part.shape == expected.shape
    np.testing.assert_allclose(part, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44100, 16000), (48000, 16000), (8000, 16000), (16000, 24000)])
def test_resampling_keeps_frequency_amplitude_and_phase(from_hz: int, to_hz: int) -> None:
    out = resample(tone(1.0, from_hz, hz=1000.0), from_hz, to_hz)
    assert len(out) == to_hz
    expected = tone(1.0, to_hz, hz=1000.0)
    edge = to_hz // 10
    np.testing.assert_allclose(out[edge:-edge], expected[edge:-edge], atol=1e-4)


def test_resampling_removes_what_would_fold(tmp_path: Path) -> None:
    out = resample(tone(1.0, 48000, hz=12000.0), 48000, 16000)
    assert np.abs(out[1600:-1600]).max() < 1e-4


def test_mp3_without_its_info_frame_still_gives_all_audio(tmp_path: Path) -> None:
    """The Xing/Info frame is where MP3 claims a length; encoders of streams write none, or a wrong one."""
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(3.0, 16000), 16000, format="MP3")
    raw = path.read_bytes()
    at = max(raw.find(b"Xing"), raw.find(b"Info"))
    assert at > 0, "the encoder wrote no info frame: the test needs another file"
    path.write_bytes(raw.replace(raw[at : at + 4], b"\0\0\0\0", 1))
    samples, _ = read(path)
    assert len(samples) / 16000 == pytest.approx(3.0, abs=0.15)
    assert probe(path).duration_s == len(samples) / 16000


def test_mp3_files_put_end_to_end_give_both(tmp_path: Path) -> None:
    """The first one's info frame claims only its own length."""
    one, both = tmp_path / "one.mp3", tmp_path / "both.mp3"
    soundfile.write(one, tone(3.0, 16000), 16000, format="MP3")
    both.write_bytes(one.read_bytes() + b"TAG" + b" " * 125 + one.read_bytes())
    samples, _ = read(both)
    assert len(samples) / 16000 == pytest.approx(6.0, abs=0.3)
    assert np.abs(samples[-20000:-10000]).max() == pytest.approx(0.4, rel=0.1)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_after_a_tag_and_without_a_claim(tmp_path: Path, rate: int, channels: int) -> None:
    """MPEG 1, 2 and 2.5 frames differ in size; an ID3v2 tag of 300 bytes stands before them."""
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.stack([tone(2.0, rate)] * channels, axis=1), rate, format="MP3", bitrate_mode="VARIABLE")
    raw = path.read_bytes()
    at = max(raw.find(b"Xing"), raw.find(b"Info"))
    path.write_bytes(b"ID3\x04\x00\x00\x00\x00\x02\x2c" + bytes(300) + raw.replace(raw[at : at + 4], b"\0\0\0\0", 1))
    samples, _ = read(path, sample_rate=None)
    assert len(samples) / rate == pytest.approx(2.0, abs=0.2)


def test_mp3_that_claims_a_thousand_times_its_length(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(3.0, 16000), 16000, format="MP3")
    raw = bytearray(path.read_bytes())
    at = max(raw.find(b"Xing"), raw.find(b"Info"))
    (frames,) = struct.unpack(">I", raw[at + 8 : at + 12])  # after the tag and its flags
    assert 70 < frames < 100  # 48000 samples in frames of 576
    raw[at + 8 : at + 12] = struct.pack(">I", 1000 * frames)
    path.write_bytes(raw)
    samples, _ = read(path)
    assert len(samples) / 16000 == pytest.approx(3.0, abs=0.15)
    assert probe(path).duration_s == len(samples) / 16000


def test_wav_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    raw = bytearray(riff(1, 16, 16000, tone(0.5, 16000).astype("<i2").tobytes() + b"\x01\x00" * 100))
    raw[40:44] = struct.pack("<I", 0x7FFFFFF0)
    path.write_bytes(raw)
    assert len(read(path)[0]) == 8100


def test_errors_name_the_file_and_the_reason(tmp_path: Path) -> None:
    def write(name: str, samples: list[float] | np.ndarray, rate: int = 16000) -> Path:
        soundfile.write(tmp_path / name, np.asarray(samples, np.float32), rate, subtype="FLOAT")
        return tmp_path / name

    (tmp_path / "zero.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("this is no audio\n" * 50)
    (tmp_path / "folder.wav").mkdir()
    cases = [
        (tmp_path / "absent.wav", UnreadableAudioError, "no such file"),
        (tmp_path / "folder.wav", UnreadableAudioError, "not a regular file"),
        (tmp_path / "text.wav", UnreadableAudioError, "cannot be opened as audio"),
        (tmp_path / "zero.wav", EmptyAudioError, "0 bytes"),
        (write("none.wav", []), EmptyAudioError, "no samples"),
        (write("nan.wav", [0.1, np.nan, np.inf]), NonFiniteAudioError, "2 of 3 samples"),
        (write("silent.wav", [0.0] * 10), SilentAudioError, "all 10 samples are zero"),
        (write("slow.wav", [0.1] * 10, 100), SampleRateError, "100 Hz"),
        (write("fast.wav", [0.1] * 10, 2_000_000), SampleRateError, "2000000 Hz"),
    ]
    for path, kind, words in cases:
        with pytest.raises(kind) as caught:
            read(path)
        assert isinstance(caught.value, AudioError)
        assert str(caught.value).startswith(f"{path}: ")
        assert words in str(caught.value)
        assert caught.value.path == str(path)


def test_limits_that_the_caller_sets(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0, 16000), 16000)
    with pytest.raises(TooShortAudioError, match=r"1\.000 s of audio, at least 1\.001 s"):
        read(path, min_duration_s=1.001)
    assert len(read(path, min_duration_s=1.0)[0]) == 16000
    with pytest.raises(EmptyAudioError, match=r"no samples from 1\.000 s on"):
        read(path, start_s=1.0)
    with pytest.raises(EmptyAudioError, match="no samples from"):
        read(path, start_s=1e6)
    assert len(read(path, start_s=0.75, duration_s=9)[0]) == 4000
    soundfile.write(path, np.zeros(100), 16000)
    assert not read(path, allow_silent=True)[0].any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"start_s": -1.0},
        {"start_s": float("nan")},
        {"duration_s": 0.0},
        {"duration_s": float("inf")},
        {"sample_rate": 0},
    ],
)
def test_arguments_that_make_no_sense(tmp_path: Path, wrong: dict) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0, 16000), 16000)
    with pytest.raises(AudioError, match=r"a\.wav"):
        read(path, **wrong)


def test_formats_that_are_not_read_say_what_is(tmp_path: Path) -> None:
    path = tmp_path / "a.voc"
    soundfile.write(path, tone(0.2, 16000), 16000, format="VOC")
    with pytest.raises(UnreadableAudioError, match="format VOC is not read; convert it to one of wav"):
        read(path)


def test_resample_refuses_rates_of_zero() -> None:
    with pytest.raises(ValueError, match="positive"):
        resample(np.zeros(4, np.float32), 0, 16000)
