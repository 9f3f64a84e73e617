"""Damaged files: audio or a typed error, in bounded time and memory, whatever the bytes."""

from __future__ import annotations

import importlib.util
import json
import random
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nestvox.audio import probe, read
from nestvox.audio.archives import members_in
from nestvox.audio.errors import NonFiniteAudioError
from nestvox.audio.opening import truncation
from nestvox.errors import AudioError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def _material() -> ModuleType:
    # A script's neighbour, not a package: loaded by its path.
    spec = importlib.util.spec_from_file_location("damaged_files", BENCHMARKS / "_damaged_files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


material = _material()


def fuzz(folder: Path, *options: str) -> tuple[int, list[dict]]:
    """Run the command as a user does; a decoder that crashes takes its own process with it, not this one."""
    report = folder / "report.json"
    command = [sys.executable, str(BENCHMARKS / "fuzz_decode.py"), "--json", str(report), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert report.is_file(), done.stderr[-2000:]
    return done.returncode, json.loads(report.read_text())["formats"]


def test_damaged_files_of_every_format(tmp_path: Path) -> None:
    code, formats = fuzz(tmp_path, "--files", "4", "--seed", "20240607")
    assert code == 0, [row["bad"] for row in formats]
    expected = set(material.FORMATS) if material.has_av() else {row["format"] for row in formats}
    assert {row["format"] for row in formats} == expected
    assert len(formats) >= 30
    audio = sum(row["outcomes"].get("audio", 0) for row in formats)
    assert 0.2 * 4 * len(formats) < audio < 0.9 * 4 * len(formats)
    assert max(row["peak_mib"] for row in formats) < 100
    assert max(row["slowest_s"] for row in formats) < 5


@pytest.mark.parametrize("outcome", ["crash", "hang", "exception", "memory", "not finite"])
def test_the_command_notices_what_is_bad(tmp_path: Path, outcome: str) -> None:
    limit_s = "2" if outcome == "hang" else "60"
    options = ("--format", "wav pcm16", "--files", "1", "--limit-s", limit_s, "--pretend", outcome)
    code, (row,) = fuzz(tmp_path, *options, "--keep", str(tmp_path / "bad"))
    assert code == 1
    assert row["outcomes"] == {outcome: 1}
    kept = (tmp_path / "bad/wav-pcm16-0.wav").read_bytes()
    assert kept == material.damage(material.original("wav pcm16", 0, tmp_path), random.Random("1/wav pcm16/0"))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    folder = tmp_path_factory.mktemp("originals")
    made = {
        name: [material.original(name, n, folder) for n in range(material.N_ORIGINALS)] for name in material.FORMATS
    }
    return {name: contents for name, contents in made.items() if contents[0] is not None}


def test_the_files_are_the_same_every_time(tmp_path: Path, originals: dict[str, list[bytes]]) -> None:
    for name in ("wav float", "ogg opus", "ogg vorbis", "webm opus", "mkv flac"):  # random numbers, and the time
        if name in originals:
            assert material.original(name, 0, tmp_path) == originals[name][0], name
    peak = originals["wav float"][0].index(b"PEAK")
    assert originals["wav float"][0][peak + 12 : peak + 16] == bytes(4)


def test_undamaged_files_are_read(tmp_path: Path, originals: dict[str, list[bytes]]) -> None:
    for name, contents in originals.items():
        for content in contents:
            path = tmp_path / f"whole.{material.FORMATS[name]}"
            path.write_bytes(content)
            samples, _ = read(material.path_of(name, path))
            # Encoders put up to three frames of 2048 samples around the sound where the format cannot say so.
            assert 0 <= len(samples) / 16_000 - material.SECONDS < 0.5, name


@settings(max_examples=75, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(material.FORMATS)), seed=st.integers(0, 2**32), start_s=st.floats(0, 2))
def test_audio_or_a_typed_error(
    tmp_path: Path, originals: dict[str, list[bytes]], name: str, seed: int, start_s: float
) -> None:
    if name not in originals:  # needs the extra [av]
        return
    path = tmp_path / f"damaged.{material.FORMATS[name]}"
    path.write_bytes(material.damage(originals[name][seed % 2], random.Random(seed)))
    path = material.path_of(name, path)
    for sample_rate, part in ((16_000, {}), (None, {"start_s": start_s, "duration_s": 0.25})):
        try:
            samples, rate = read(path, sample_rate=sample_rate, **part)
        except AudioError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert samples.dtype == np.float32
            assert samples.ndim == 1
            assert len(samples)
            assert np.isfinite(samples).all()
            # Both ends of a part are rounded to the file's own samples.
            most = round((start_s + 0.25) * rate) - round(start_s * rate)
            assert len(samples) <= (most if part else 16 * 2 * 48_000 * material.SECONDS)
    try:
        assert probe(path).duration_s > 0
    except AudioError as error:
        assert str(path) in str(error)  # noqa: PT017


def test_infinities_of_both_signs_in_two_channels(tmp_path: Path) -> None:
    samples = np.full((1000, 2), 0.1, np.float32)
    samples[500] = (np.inf, -np.inf)  # their mean is NaN, about which NumPy warns
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(NonFiniteAudioError, match="1 of 1000 samples"):
        read(tmp_path / "a.wav")


def test_a_file_that_was_cut_is_refused_or_noticed(tmp_path: Path, originals: dict[str, list[bytes]]) -> None:
    for name, contents in originals.items():
        if name == "wav of open length":  # what it should hold stands nowhere
            continue
        for number, content in enumerate(contents):
            file = tmp_path / f"cut.{material.FORMATS[name]}"
            path = material.path_of(name, file)
            file.write_bytes(content)
            whole, _ = read(path, sample_rate=None)
            assert truncation(path) is None, name
            for lost in (1, 100, len(content) // 10, 3 * len(content) // 4)[number::2]:
                file.write_bytes(content[:-lost])
                try:
                    samples, _ = read(path, sample_rate=None)
                except AudioError:
                    continue
                assert truncation(path) or len(samples) == len(whole), (name, lost)


def test_flac_that_was_cut_between_two_frames(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(0).uniform(-1, 1, 30_000), 16_000)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[: content.rindex(b"\xff\xf8")])
    samples, _ = read(tmp_path / "a.flac")  # the decoder has nothing to complain of
    assert truncation(tmp_path / "a.flac") == f"{len(samples):,} of 30,000 samples are there"
    assert len(samples) < 30_000


@pytest.mark.parametrize(
    ("mark", "size", "length", "lack"),
    [
        ("<4s", 8, 8, None),
        ("<4s", 6, 8, "6 of 8 bytes of samples are there"),
        ("<4s", 7, 7, None),  # without the byte that makes it even
        (">4s", 6, 8, "6 of 8 bytes of samples are there"),
        ("<4s", 6, 0xFFFF_FFFF, None),  # written into a pipe, by ffmpeg
        ("<4s", 6, 0x7FFF_F024, None),  # by sox
    ],
)
def test_wav_by_hand(tmp_path: Path, mark: str, size: int, length: int, lack: str | None) -> None:
    riff = b"RIFX" if mark[0] == ">" else b"RIFF"
    pcm16 = struct.pack(f"{mark[0]}4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    odd = struct.pack(f"{mark}I", b"LIST", 5) + b"INFO.\0"
    body = b"WAVE" + pcm16 + odd + struct.pack(f"{mark}I", b"data", length) + b"\1" * size
    content = struct.pack(f"{mark}I", riff, len(body)) + body
    (tmp_path / "a.wav").write_bytes(content)
    assert truncation(tmp_path / "a.wav") == lack
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.wav", "a.wav")
    (member,) = members_in(tmp_path / "a.tar")
    assert truncation(member.path) == lack


def test_what_cannot_be_opened_has_no_end(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such file"):
        truncation(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("hello")
    assert truncation(tmp_path / "text.wav") is None
