"""m4a, mp4, webm and adts files, encoded by PyAV here and compared with what went in."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.audio import probe, read
from nestvox.audio.containers import container_of
from nestvox.audio.errors import AudioRangeError, EmptyAudioError, TooShortAudioError, UnreadableAudioError
from nestvox.errors import AudioError

av = pytest.importorskip("av", reason="the extra [av] is not installed")

KINDS = {
    "m4a": ("ipod", "aac", "fltp", "MP4", "AAC"),
    "mp4": ("mp4", "aac", "fltp", "MP4", "AAC"),
    "alac.m4a": ("ipod", "alac", "s16p", "MP4", "ALAC"),
    "aac": ("adts", "aac", "fltp", "ADTS", "AAC"),
    "webm": ("webm", "libopus", "s16", "MATROSKA", "OPUS"),
    "mka": ("matroska", "pcm_s24le", "s32", "MATROSKA", "PCM_S24LE"),
    "mkv": ("matroska", "flac", "s16", "MATROSKA", "FLAC"),
}


def chirp(seconds: float, rate: int) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 * time + 250 * time**2))).astype(np.float32)


def encode(
    path: Path, samples: np.ndarray, rate: int, kind: str, *, video: bool = False, faststart: bool = False
) -> Path:
    """Write (T,) or (T, channels) samples with PyAV itself."""
    container, codec, coding, _, _ = KINDS[kind]
    frames = samples if samples.ndim == 2 else samples[:, None]
    layout = {1: "mono", 2: "stereo"}[frames.shape[1]]
    with av.open(str(path), "w", format=container, options={"movflags": "faststart"} if faststart else {}) as file:
        if video:
            picture = file.add_stream("mpeg4", rate=25)
            picture.width = picture.height = 32
            picture.pix_fmt = "yuv420p"
        stream = file.add_stream(codec, rate=rate)
        stream.layout = layout
        if codec in {"aac", "libopus"}:
            stream.bit_rate = 128_000
        if video:
            for number in range(25):
                image = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 10 * number, np.uint8), format="rgb24")
                file.mux(picture.encode(image))
            file.mux(picture.encode(None))
        for start in range(0, len(frames), 1024):
            block = frames[start : start + 1024]
            if coding.startswith("s16"):
                block = np.round(block * 32767).astype(np.int16)
            elif coding.startswith("s32"):
                block = (block.astype(np.float64) * 2**31).clip(-(2**31), 2**31 - 1).astype(np.int32)
            block = block.T if coding.endswith("p") else block.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format=coding, layout=layout)
            frame.sample_rate = rate
            frame.pts = start
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def at(kind: str) -> int:
    return 48_000 if kind == "webm" else 16_000


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_chirp_back(tmp_path: Path, kind: str) -> None:
    rate = at(kind)
    original = chirp(2.0, rate)
    path = encode(tmp_path / f"a.{kind}", original, rate, kind)
    samples, found = read(path, sample_rate=None)
    assert found == rate
    assert samples.dtype == np.float32
    if kind == "aac":  # says neither how much the encoder put before the sound nor where it ends
        assert 0 <= len(samples) - len(original) <= 3 * 1024
        samples = samples[1024 : 1024 + len(original)]
    assert len(samples) == len(original)
    error = samples - original
    worst = 1e-4 if kind in {"alac.m4a", "mka", "mkv"} else 0.1
    assert np.abs(error[2000:-2000]).max() < worst
    signal_to_noise_db = 10 * np.log10(np.mean(original[2000:-2000] ** 2) / np.mean(error[2000:-2000] ** 2))
    assert signal_to_noise_db > 20
    info = probe(path)
    assert (info.format, info.subtype, info.sample_rate, info.channels) == (*KINDS[kind][3:], rate, 1)
    assert info.duration_s == len(read(path, sample_rate=None)[0]) / rate


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("coded")
    return {kind: encode(folder / f"a.{kind}", chirp(3.0, at(kind)), at(kind), kind) for kind in KINDS}


@pytest.mark.parametrize("kind", ["m4a", "aac", "webm"])
@settings(max_examples=12, deadline=None)
@given(start=st.floats(0, 2.9), duration=st.floats(0.02, 4))
def test_a_part_is_a_slice_of_the_whole(coded: dict[str, Path], kind: str, start: float, duration: float) -> None:
    whole, _ = read(coded[kind], sample_rate=None)
    part, rate = read(coded[kind], sample_rate=None, start_s=start, duration_s=duration)
    np.testing.assert_array_equal(part, whole[round(start * rate) : round((start + duration) * rate)])
    resampled, _ = read(coded[kind], sample_rate=8000)
    part, _ = read(coded[kind], sample_rate=8000, start_s=start, duration_s=duration)
    expected = resampled[round(start * 8000) : round((start + duration) * 8000)]
    np.testing.assert_allclose(part, expected, rtol=0, atol=1e-5)


def test_channels_are_averaged_and_pictures_left_out(tmp_path: Path) -> None:
    left = chirp(1.0, 16_000)
    path = encode(tmp_path / "a.mp4", np.stack([left, 0.5 * left], axis=1), 16_000, "mp4", video=True)
    samples, _ = read(path)
    assert probe(path).channels == 2
    assert np.abs(samples[2000:14_000] - 0.75 * left[2000:14_000]).max() < 0.05


def test_errors_are_those_of_other_formats(coded: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(EmptyAudioError, match=r"no samples from 9\.000 s on"):
        read(coded["m4a"], start_s=9.0)
    with pytest.raises(TooShortAudioError):
        read(coded["m4a"], min_duration_s=5.0)
    silent = tmp_path / "pictures.mp4"
    with av.open(str(silent), "w", format="mp4") as file:
        picture = file.add_stream("mpeg4", rate=25)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        file.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        file.mux(picture.encode(None))
    with pytest.raises(UnreadableAudioError, match="holds no audio track"):
        read(silent)
    loud = encode(tmp_path / "loud.mka", np.full(4000, 0.5, np.float32), 16_000, "mka")
    assert read(loud)[0].max() == pytest.approx(0.5)
    assert issubclass(AudioRangeError, AudioError)


def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.m4a", chirp(3.0, 16_000), 16_000, "m4a").read_bytes()
    first = encode(tmp_path / "first.m4a", chirp(3.0, 16_000), 16_000, "m4a", faststart=True).read_bytes()
    cut = tmp_path / "cut.m4a"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableAudioError, match=r"cut\.m4a: "):
        read(cut)
    cut.write_bytes(first[: len(first) * 3 // 4])
    # Its index is there and promises more than the file holds: half a recording is not the recording.
    with pytest.raises(UnreadableAudioError, match=r"cut\.m4a: breaks in the 4\.1 s from 0\.000 s on: "):
        read(cut)


@pytest.mark.parametrize("kind", ["m4a", "webm", "aac"])
def test_damaged_files_give_audio_or_an_error_that_names_them(
    tmp_path: Path, coded: dict[str, Path], kind: str
) -> None:
    content = coded[kind].read_bytes()
    generator = np.random.default_rng(7)
    path = tmp_path / f"damaged.{kind}"
    for _ in range(60):
        damaged = bytearray(content[: generator.integers(1, len(content) + 1)])
        for place in generator.integers(0, len(damaged), generator.integers(0, 20)):
            damaged[place] ^= 1 << generator.integers(0, 8)
        path.write_bytes(bytes(damaged))
        try:
            samples, rate = read(path)
        except AudioError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert rate == 16_000
            assert np.isfinite(samples).all()
            assert len(samples) < 60 * rate


def test_a_playlist_is_not_followed(tmp_path: Path, coded: dict[str, Path]) -> None:
    playlist = tmp_path / "a.m4a"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{coded['aac']}\n#EXT-X-ENDLIST\n")
    with pytest.raises(UnreadableAudioError):
        read(playlist)
    named = tmp_path / "concat:x|y.m4a"
    named.write_bytes(coded["m4a"].read_bytes())
    assert len(read(named)[0]) == 48_000


def test_without_the_extra_the_error_names_it(coded: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UnreadableAudioError, match=r"a\.m4a: .*needs the extra \[av\]: pip install 'nestvox\[av\]'"):
        read(coded["m4a"])


@pytest.mark.parametrize(
    ("head", "container"),
    [
        (b"\0\0\0\x1cftypM4A \0", "MP4"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81", "MATROSKA"),
        (b"\xff\xf1\x60\x40\x01\x7f\xfc\xde\x02\x00\x4c\x61", "ADTS"),
        (b"\xff\xfb\x90\x64\x00\x00\x00\x00\x00\x00\x00\x00", None),  # MP3: layer III
        (b"RIFF\x24\x00\x00\x00WAVE", None),
        (b"", None),
    ],
)
def test_containers_by_their_first_bytes(head: bytes, container: str | None) -> None:
    assert container_of(head) == container


@pytest.mark.parametrize("kind", ["m4a", "alac.m4a", "mp4", "webm", "mka", "mkv", "aac"])
def test_files_put_end_to_end_give_both(tmp_path: Path, kind: str) -> None:
    contents, samples = [], []
    for number, seconds in enumerate((1.5, 0.75)):
        path = encode(tmp_path / f"{number}.{kind}", (1 - 0.5 * number) * chirp(seconds, at(kind)), at(kind), kind)
        contents.append(path.read_bytes())
        samples.append(read(path, sample_rate=None)[0])
    both = tmp_path / f"both.{kind}"
    tag = b"TAG" + b"x" * 125
    for content in (b"".join(contents), contents[0] + bytes(500) + contents[1] + (tag if kind != "aac" else b"")):
        both.write_bytes(content)
        found, rate = read(both, sample_rate=None)
        if kind == "aac":  # one stream of frames: what overlaps at the seam differs
            assert len(found) == sum(map(len, samples))
        else:
            np.testing.assert_array_equal(found, np.concatenate(samples))
        assert probe(both).duration_s == len(found) / rate
    both.write_bytes(contents[0] + np.random.default_rng(0).bytes(5_000))
    with pytest.raises(UnreadableAudioError, match="5,000 bytes stand behind the end of the sound"):
        read(both)


def test_adts_behind_tags(tmp_path: Path, coded: dict[str, Path]) -> None:
    """As players and podcast servers write it."""
    plain, _ = read(coded["aac"])
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x2c" + bytes(range(1, 251)) + bytes(50)
    for number in (1, 2):
        path = tmp_path / "a.aac"
        path.write_bytes(tag * number + coded["aac"].read_bytes() + b"TAG" + b"x" * 125)
        np.testing.assert_array_equal(read(path)[0], plain)
        assert (probe(path).format, probe(path).subtype) == ("ADTS", "AAC")
    path.write_bytes(coded["aac"].read_bytes() + tag + coded["aac"].read_bytes())
    np.testing.assert_array_equal(read(path)[0], np.concatenate([plain, plain]))


def test_fragments_are_all_read_and_counted(tmp_path: Path) -> None:
    original = chirp(2.0, 16_000)
    path = tmp_path / "a.mp4"
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "300000"}
    with av.open(str(path), "w", format="mp4", options=options) as file:
        stream = file.add_stream("flac", rate=16_000)
        stream.layout = "mono"
        for start in range(0, len(original), 1024):
            block = np.round(original[None, start : start + 1024] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert path.read_bytes().count(b"moof") > 2
    samples, _ = read(path)
    np.testing.assert_allclose(samples, original, atol=1e-4)
    assert probe(path).duration_s == 2.0


def test_headers_of_mp4_that_state_less_or_more(coded: dict[str, Path], tmp_path: Path) -> None:
    content = coded["m4a"].read_bytes()
    path = tmp_path / "a.m4a"
    # The duration in its own unit stands 16 bytes behind the name of the box: version, two times and the unit before.
    place = content.index(b"mdhd") + 4 + 16
    assert int.from_bytes(content[place : place + 4], "big") == pytest.approx(48_000, abs=2_048)
    for duration in (4_800, 480_000):
        path.write_bytes(content[:place] + duration.to_bytes(4, "big") + content[place + 4 :])
        samples, _ = read(path)
        assert 48_000 <= len(samples) < 50_000
        assert probe(path).duration_s == len(samples) / 16_000
    place = content.index(b"stsz") + 4 + 8
    path.write_bytes(content[:place] + (4).to_bytes(4, "big") + content[place + 4 :])
    with pytest.raises(UnreadableAudioError, match=r"its index lists [\d,]+ of the [\d,]+ bytes of sound"):
        read(path)


def test_flac_in_ogg(tmp_path: Path) -> None:
    """libsndfile opens that of few programs; chained, it read the first stream only."""
    contents = []
    for number, seconds in enumerate((1.0, 0.5)):
        path = tmp_path / f"{number}.oga"
        samples = np.round((1 - 0.5 * number) * chirp(seconds, 16_000) * 32767).astype(np.int16)
        with av.open(str(path), "w", format="ogg") as file:
            stream = file.add_stream("flac", rate=16_000)
            stream.layout = "mono"
            for start in range(0, len(samples), 1024):
                block = np.ascontiguousarray(samples[None, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
                frame.sample_rate, frame.pts = 16_000, start
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        contents.append((path.read_bytes(), samples / 2**15))
        np.testing.assert_array_equal(read(path)[0], contents[-1][1])
    (one, first), (two, second) = contents
    (tmp_path / "both.oga").write_bytes(one + two)
    np.testing.assert_array_equal(read(tmp_path / "both.oga")[0], np.concatenate([first, second]))
    assert probe(tmp_path / "both.oga").format == "OGG"


@pytest.mark.parametrize("kind", ["matroska", "mp4"])
def test_several_tracks_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w", format=kind) as file:
        tracks = [file.add_stream("flac", rate=16_000, layout="mono") for _ in range(2)]
        for number, track in enumerate(tracks):
            samples = np.round((1 - 0.5 * number) * chirp(0.064, 16_000) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            file.mux(track.encode(frame))
            file.mux(track.encode(None))
    with pytest.raises(UnreadableAudioError, match="holds 2 audio tracks; take out the one that is meant"):
        read(path)
