"""Banks read what they are asked for, respect splits, and never let a speaker babble at themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from nestvox.audio.banks import NoiseBank, RoomBank, SpeechBank, Voice
from nestvox.audio.errors import AugmentationError
from nestvox.errors import AudioError

RATE = 16_000


def tone(path: Path, frequency_hz: float, seconds: float = 1.0, amplitude: float = 0.3, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, amplitude * np.sin(2 * np.pi * frequency_hz * time), rate, subtype="FLOAT")
    return path


def pitches(samples: np.ndarray, count: int = 1) -> list[float]:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    found: list[float] = []
    while len(found) < count:
        peak = int(np.argmax(spectrum))
        found.append(round(peak * RATE / len(samples) / 100) * 100.0)
        spectrum[max(0, peak - 20) : peak + 20] = 0
    return sorted(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tone(tmp_path / "music" / "a.wav", 500)
    tone(tmp_path / "street" / "b.wav", 1000)
    tone(tmp_path / "street" / "deep" / "c.flac.wav", 1500, rate=8_000)
    tone(tmp_path / "speech" / "d.wav", 2000)
    (tmp_path / "readme.txt").write_text("not audio")
    return tmp_path


def test_folders_are_categories_and_clear_speech_is_no_noise(folder: Path) -> None:
    bank = NoiseBank.from_folder(folder)
    assert [file.path.name for file in bank.files] == ["a.wav", "b.wav", "c.flac.wav"]
    assert bank.kinds == ("music", "noise")
    rng = np.random.default_rng(0)
    assert {pitches(bank.draw("music", RATE // 2, rng))[0] for _ in range(5)} == {500}
    assert {pitches(bank.draw("noise", RATE // 2, rng))[0] for _ in range(20)} == {1000, 1500}


def test_only_the_training_part_is_drawn(folder: Path) -> None:
    (folder / "noise.tsv").write_text(
        "path\tcategory\tsplit\nmusic/a.wav\tmusic\ttrain\nstreet/b.wav\tstreet\ttest\nspeech/d.wav\tnature\ttrain\n"
    )
    bank = NoiseBank.from_folder(folder)
    assert [(file.path.name, file.category) for file in bank.files] == [("a.wav", "music"), ("d.wav", "nature")]
    assert [file.path.name for file in NoiseBank.from_folder(folder, split="test").files] == ["b.wav"]
    with pytest.raises(AugmentationError, match="no noise files"):
        NoiseBank.from_folder(folder, split="dev")


def test_a_mark_before_a_table_hides_no_column(folder: Path) -> None:
    (folder / "noise.tsv").write_text(
        "\ufeffpath\tsplit\r\nmusic/a.wav\ttrain\r\nstreet/b.wav\ttest\r\n", encoding="utf-8"
    )
    assert [file.path.name for file in NoiseBank.from_folder(folder).files] == ["a.wav"]
    (folder / "noise.tsv").write_text("split\tpath\ntrain\tmusic/a.wav\ntrain\n")
    with pytest.raises(AugmentationError, match=r"noise\.tsv:3: names no file"):
        NoiseBank.from_folder(folder)


def test_a_table_without_splits_gives_all_and_its_files_must_be_there(folder: Path) -> None:
    (folder / "noise.tsv").write_text("path\tcategory\nmusic/a.wav\tmusic\nstreet/gone.wav\tstreet\n")
    with pytest.raises(AugmentationError, match=r"1 files that are not there.*gone\.wav"):
        NoiseBank.from_folder(folder)
    (folder / "noise.tsv").write_text("path\nmusic/a.wav\nstreet/b.wav\n")
    assert [file.category for file in NoiseBank.from_folder(folder).files] == ["music", "street"]
    (folder / "other.tsv").write_text("path\n")
    with pytest.raises(AugmentationError, match="2 tables"):
        NoiseBank.from_folder(folder)


def test_draws_follow_the_generator_and_repeat_short_files(folder: Path) -> None:
    bank = NoiseBank.from_folder(folder)
    first, second = (bank.draw("noise", 3 * RATE, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(first) == 3 * RATE
    again = NoiseBank.from_folder(folder)
    for seed in range(4):  # what was read before does not matter
        again.draw("noise", 100, np.random.default_rng(seed))
    np.testing.assert_array_equal(again.draw("noise", 3 * RATE, np.random.default_rng(5)), first)


def test_of_a_long_file_only_a_stretch_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nestvox.audio.banks as module

    tone(tmp_path / "long.wav", 440, seconds=70)
    asked: list[float | None] = []
    real = module.read

    def read(path: Path, **options: object) -> object:
        asked.append(options["duration_s"])  # type: ignore[arg-type]
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "read", read)
    bank = NoiseBank.from_folder(tmp_path)
    drawn = bank.draw("noise", RATE, np.random.default_rng(0))
    assert pitches(drawn) == [400]
    assert asked == [pytest.approx(1.1)]


def test_silent_stretches_are_drawn_again_and_broken_files_are_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    bank = NoiseBank.from_folder(tmp_path)
    with pytest.raises(AugmentationError, match="silent"):
        bank.draw("noise", 100, np.random.default_rng(0))
    tone(tmp_path / "loud.wav", 700)
    bank = NoiseBank.from_folder(tmp_path)
    assert all(np.any(bank.draw("noise", 100, np.random.default_rng(seed))) for seed in range(8))
    (tmp_path / "loud.wav").write_bytes(b"RIFF nonsense")
    (tmp_path / "silent.wav").unlink()
    with pytest.raises(AudioError, match=r"loud\.wav"):
        NoiseBank.from_folder(tmp_path).draw("noise", 100, np.random.default_rng(0))
    with pytest.raises(AugmentationError, match="holds no music; it has noise"):
        bank.draw("music", 100, np.random.default_rng(0))
    with pytest.raises(AugmentationError, match="no such folder"):
        RoomBank.from_folder(tmp_path / "nowhere")


def test_fingerprint_follows_the_files(folder: Path) -> None:
    before = NoiseBank.from_folder(folder).fingerprint
    assert NoiseBank.from_folder(folder).fingerprint == before
    tone(folder / "street" / "e.wav", 300)
    assert NoiseBank.from_folder(folder).fingerprint != before


def test_babble_is_of_others(tmp_path: Path) -> None:
    """Every speaker is one pitch; who speaks is not heard, and nobody twice."""
    voices = [Voice(tone(tmp_path / f"{n}.wav", 500.0 * (n + 1)), f"s{n}") for n in range(6)]
    voices += [Voice(tone(tmp_path / f"{n}b.wav", 500.0 * (n + 1)), f"s{n}") for n in range(6)]
    bank = SpeechBank(voices)
    assert bank.speakers == 6
    for seed in range(10):
        found = pitches(bank.draw(4, RATE, np.random.default_rng(seed), speaker="s2"), 4)
        assert len(set(found)) == 4
        assert 1500 not in found
    with pytest.raises(AugmentationError, match="more than 6 speakers"):
        bank.draw(6, RATE, np.random.default_rng(0))


def test_babble_passes_over_unreadable_files(tmp_path: Path) -> None:
    voices = [Voice(tone(tmp_path / f"{n}.wav", 500.0), f"s{n}") for n in range(4)]
    (tmp_path / "broken.wav").write_bytes(b"nothing")
    bank = SpeechBank([*voices, Voice(tmp_path / "broken.wav", "bad")])
    assert np.any(bank.draw(3, RATE, np.random.default_rng(1)))
    bank = SpeechBank([Voice(tmp_path / "broken.wav", f"s{n}") for n in range(5)])
    with pytest.raises(AugmentationError, match="cannot be read"):
        bank.draw(3, RATE, np.random.default_rng(1))


def test_a_segment_is_read_for_babble(tmp_path: Path) -> None:
    samples = np.concatenate([np.zeros(RATE), 0.3 * np.sin(2 * np.pi * 800 * np.arange(RATE) / RATE), np.zeros(RATE)])
    soundfile.write(tmp_path / "x.wav", samples, RATE, subtype="FLOAT")
    bank = SpeechBank([Voice(tmp_path / "x.wav", f"s{n}", 1.0, 1.0) for n in range(2)])
    drawn = bank.draw(1, RATE // 2, np.random.default_rng(0))
    assert np.sqrt(np.mean(drawn**2)) == pytest.approx(1, rel=1e-2)  # at unit power all along: no silence is in it
