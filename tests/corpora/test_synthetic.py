"""Speech of espeak-ng: it is audible, the voices differ, and the same call makes the same bytes."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nestvox.corpora.prepare import synthetic
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import MissingExtraError, TableError

needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="the extra [demo] is not installed"
)
SMALL = {"speakers": 16, "sessions": 2, "utterances": 1, "languages": ("de", "es"), "n_target": 4, "n_nontarget": 8}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> UtteranceTable:
    if importlib.util.find_spec("espeakng_loader") is None:
        pytest.skip("the extra [demo] is not installed")
    return synthetic.prepare_synthetic(tmp_path_factory.mktemp("synthetic"), **SMALL)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def spectrum(path: Path) -> np.ndarray:
    """Mean power in 40 bands up to 5 kHz, in dB about its mean: the colour of a voice without its level."""
    samples, rate = soundfile.read(path)
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::512] * np.hanning(1024)
    power = (np.abs(np.fft.rfft(frames)) ** 2).mean(axis=0)
    bins = np.array_split(power[: int(5000 / rate * 1024)], 40)
    decibel = 10.0 * np.log10([band.mean() for band in bins])
    return decibel - decibel.mean()


def test_every_row_says_that_it_is_synthetic(corpus: UtteranceTable) -> None:
    frame = corpus.frame
    assert frame.height == 16 * 2
    assert frame["synthetic"].to_list() == [True] * 32
    assert set(frame["corpus"]) == {"espeak-ng"}
    assert set(frame["language"]) == {"de", "es"}
    assert frame["session"].n_unique() == 32
    people = frame.select("speaker", "sex", "split").unique()
    counts = Counter(zip(people["sex"], people["split"], strict=True))
    assert counts == {(sex, split): 4 if split == "train" else 2 for sex in "fm" for split in ("train", "dev", "test")}


def test_audio_is_as_long_as_told_and_audible(corpus: UtteranceTable) -> None:
    for path, duration_s in zip(corpus.frame["path"], corpus.frame["duration_s"], strict=True):
        samples, rate = soundfile.read(corpus.root / path)
        assert samples.ndim == 1
        assert len(samples) / rate == pytest.approx(duration_s, abs=1e-3)
        assert 2.0 < duration_s < 8.0
        assert -45.0 < 20.0 * np.log10(np.sqrt(np.mean(samples**2))) < -8.0
        assert np.mean(np.abs(samples) >= 32_767 / 32_768) < 1e-3  # not clipped


def test_a_voice_is_nearer_to_itself_than_to_others(corpus: UtteranceTable) -> None:
    colours = np.array([spectrum(corpus.root / path) for path in corpus.frame["path"]])
    speakers = corpus.frame["speaker"].to_numpy()
    distance = np.linalg.norm(colours[:, None] - colours[None, :], axis=-1)
    same = speakers[:, None] == speakers[None, :]
    np.fill_diagonal(distance, np.nan)
    assert np.nanmean(distance[same]) < 0.6 * np.nanmean(distance[~same])


def test_trials_stay_inside_their_split(corpus: UtteranceTable) -> None:
    split_of = dict(zip(corpus.frame["path"], corpus.frame["split"], strict=True))
    split_of |= dict(zip(corpus.frame["utt_id"], corpus.frame["split"], strict=True))
    for split in ("dev", "test"):
        lines = (corpus.root / f"trials_{split}.txt").read_text().splitlines()
        assert Counter(line.split()[0] for line in lines) == {"1": 4, "0": 8}
        assert {split_of[name] for line in lines for name in line.split()[1:]} == {split}


def test_same_call_makes_the_same_bytes_also_after_an_interruption(corpus: UtteranceTable, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop_after_five(done: int, total: int | None, /) -> None:
        if done == 5:
            raise StopError

    with pytest.raises(StopError):
        synthetic.prepare_synthetic(tmp_path / "again", **SMALL, progress=stop_after_five)
    half = tmp_path / "again" / "audio" / "espeak003" / "s1-u0.wav"
    half.unlink()  # a speaker who was killed halfway: the state of the synthesiser makes order matter
    cut = tmp_path / "again" / "audio" / "espeak001" / "s0-u0.wav"
    cut.write_bytes(cut.read_bytes()[:5_000])  # as a machine that lost its power may leave it
    synthetic.prepare_synthetic(tmp_path / "again", **SMALL)
    assert digests(tmp_path / "again") == digests(corpus.root)


def test_another_seed_makes_other_voices() -> None:
    recipes = [synthetic._Recipe(seed, 16, 2, 1, ("de",)) for seed in (0, 0, 1)]
    first, same, other = (synthetic._voice(recipe, 0) for recipe in recipes)
    assert first == same
    assert first != other


def test_finished_folder_is_only_read(corpus: UtteranceTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "_speak", lambda *_: pytest.fail("spoke again"))
    assert synthetic.prepare_synthetic(corpus.root, **SMALL).frame.equals(corpus.frame)


def test_other_arguments_in_the_same_folder_are_refused(corpus: UtteranceTable) -> None:
    with pytest.raises(TableError, match="other arguments"):
        synthetic.prepare_synthetic(corpus.root, **{**SMALL, "seed": 1})


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(TableError, match="is not empty"):
        synthetic.prepare_synthetic(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"speakers": 15}, "at least 16"), ({"languages": ("tlh",)}, "tlh"), ({"sessions": 0}, "one")],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    with pytest.raises(TableError, match=reason):
        synthetic.prepare_synthetic(tmp_path / "corpus", **{**SMALL, **change})
    assert not (tmp_path / "corpus").exists()


def test_missing_wheel_is_named_by_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingExtraError, match=r"\[demo\]"):
        synthetic.prepare_synthetic(tmp_path / "corpus", **SMALL)


@needs_espeak
@pytest.mark.parametrize("text", ["", " . "])
def test_sentence_without_sound_is_an_error_of_ours(text: str, tmp_path: Path) -> None:
    sentence = {"text": text, "path": str(tmp_path / "x.wav"), "words_per_minute": 170, "pitch": 50, "intonation": 50}
    job = {"voice": "language de\n", "sentences": [{**sentence, "gain_db": 0.0}]}
    with pytest.raises(TableError, match="espeak-ng could not speak"):
        synthetic._speak(job, tmp_path)
    assert not (tmp_path / "x.wav").exists()
