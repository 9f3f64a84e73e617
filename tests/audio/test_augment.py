"""What is drawn follows from seed, name and variant; what is done to a recording is what was drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nestvox.audio.augment import Augmentation, Banks, Treatment, augment, utterance_rng
from nestvox.audio.banks import NoiseBank, RoomBank, SpeechBank, Voice
from nestvox.audio.errors import AugmentationError

RATE = 16_000


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Banks:
    """Hiss, a chord, two rooms and nine voices."""
    folder = tmp_path_factory.mktemp("banks")
    rng = np.random.default_rng(0)
    time = np.arange(RATE) / RATE
    for name in ("noise/music", "noise/hiss", "rooms", "voices"):
        (folder / name).mkdir(parents=True)
    soundfile.write(folder / "noise/hiss/h.wav", 0.1 * rng.standard_normal(2 * RATE), RATE, subtype="FLOAT")
    soundfile.write(folder / "noise/music/m.wav", 0.2 * np.sin(2 * np.pi * 440 * time), RATE, subtype="FLOAT")
    for number, decay in enumerate((0.05, 0.2)):
        tail = rng.standard_normal(4000) * np.exp(-np.arange(4000) / RATE / decay) * 0.2
        soundfile.write(folder / f"rooms/{number}.wav", np.concatenate([[0.0, 1.0], tail]) / 2, RATE, subtype="FLOAT")
    voices = []
    for number in range(9):
        path = folder / f"voices/{number}.wav"
        soundfile.write(path, 0.1 * np.sin(2 * np.pi * (100 + 30 * number) * time), RATE, subtype="FLOAT")
        voices.append(Voice(path, f"s{number}"))
    return Banks(NoiseBank.from_folder(folder / "noise"), RoomBank.from_folder(folder / "rooms"), SpeechBank(voices))


def speech(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.2 * np.sin(2 * np.pi * 150 * time) + 0.01 * rng.standard_normal(len(time))).astype(np.float32)


def test_treatment_depends_on_seed_name_and_variant_only() -> None:
    settings_ = Augmentation()
    drawn = {
        (seed, name, variant): settings_.draw(utterance_rng(seed, name, variant))
        for seed in (0, 1)
        for name in ("a", "b", "ab")
        for variant in (1, 2)
    }
    for key, treatment in reversed(list(drawn.items())):
        assert settings_.draw(utterance_rng(*key)) == treatment
    assert len(set(drawn.values())) == len(drawn)


def test_chances_are_what_is_asked_for(banks: Banks) -> None:
    """Over 4000 utterances every share is within four standard deviations of its probability."""
    settings_ = Augmentation(p_speed=1.0, p_reverb=0.3, p_noise=0.5, kinds={"noise": 3, "babble": 1}, p_channel=0.1)
    drawn = [settings_.draw(utterance_rng(0, f"u{n}", 1)) for n in range(4000)]

    def share(test: Any) -> float:
        return float(np.mean([bool(test(treatment)) for treatment in drawn]))

    for found, wanted in (
        (share(lambda t: t.speed == 0.9), 0.5),
        (share(lambda t: t.reverb), 0.3),
        (share(lambda t: t.kind == "noise"), 0.375),
        (share(lambda t: t.kind == "babble"), 0.125),
        (share(lambda t: t.channel == "mp3"), 0.025),
        (share(lambda t: t.gain_db != 0), 0.3),
    ):
        assert found == pytest.approx(wanted, abs=4 * math.sqrt(wanted * (1 - wanted) / 4000))
    assert share(lambda t: t.kind == "music") == 0
    assert {t.voices for t in drawn if t.kind == "babble"} == {3, 4, 5, 6, 7}
    levels = [t.snr_db for t in drawn if t.kind == "noise"]
    assert 0 <= min(levels) < 0.5
    assert 14.5 < max(levels) <= 15


def test_one_setting_does_not_shift_the_others() -> None:
    """With everything certain, other loudness gives the same rooms, codecs and places."""
    certain = Augmentation(p_reverb=1, p_noise=1, p_channel=1)
    for number in range(20):
        one = certain.draw(utterance_rng(0, str(number), 1))
        two = replace(certain, p_gain=1.0, snr_noise_db=(3.0, 4.0)).draw(utterance_rng(0, str(number), 1))
        assert (one.kind, one.channel, one.seed) == (two.kind, two.channel, two.seed)


def test_something_is_always_heard() -> None:
    rare = Augmentation(p_reverb=0.02, p_noise=0.05, p_channel=0.0, p_clip=0.0)
    assert all(rare.draw(utterance_rng(0, str(number), 1)).changes for number in range(200))
    nothing = Augmentation(p_reverb=0, p_noise=0, p_channel=0, p_clip=0, p_gain=0)
    assert nothing.nothing
    assert not nothing.draw(utterance_rng(0, "u", 1)).changes


@pytest.mark.parametrize("kind", ["noise", "music", "babble", "white"])
@pytest.mark.parametrize("snr_db", [-3.0, 0.0, 12.0])
def test_measured_ratio_of_a_treatment(banks: Banks, kind: Any, snr_db: float) -> None:
    """What is left when the speech is taken away has the power that the ratio says; the tone is active throughout."""
    clean = speech(2.0) * 0.3
    found = augment(clean, Treatment(kind=kind, snr_db=snr_db, voices=3, seed=4), banks)
    added = found.astype(np.float64) - clean
    measured = 10 * math.log10(np.mean(clean.astype(np.float64) ** 2) / np.mean(added**2))
    assert measured == pytest.approx(snr_db, abs=0.05)


def test_speed_is_another_speaker_and_nothing_else_is(banks: Banks) -> None:
    assert Treatment(speed=0.9).suffix == "#speed0.9"
    assert Treatment(speed=1.1, reverb=True).suffix == "#speed1.1"
    assert Treatment(reverb=True, kind="noise", channel="mp3", gain_db=3).suffix == ""
    assert len(augment(speech(), Treatment(speed=1.1), banks)) == pytest.approx(RATE / 1.1, abs=2)


TREATMENTS = st.builds(
    Treatment,
    speed=st.sampled_from([1.0, 0.9, 1.1]),
    reverb=st.booleans(),
    kind=st.sampled_from([None, "noise", "music", "babble"]),
    snr_db=st.floats(-10, 30),
    voices=st.integers(3, 7),
    gain_db=st.floats(-30, 30),
    clip_fraction=st.sampled_from([0.0, 0.01, 0.3]),
    channel=st.sampled_from([None, None, "telephone-mulaw", "telephone-gsm"]),
    seed=st.integers(0, 2**62 - 1),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(treatment=TREATMENTS, seconds=st.floats(0.02, 0.6), level=st.sampled_from([0.0, 1e-6, 0.5, 1.0, 4.0]))
def test_whatever_is_done_the_result_is_audio(banks: Banks, treatment: Treatment, seconds: float, level: float) -> None:
    samples = (speech(seconds) * level).astype(np.float32)
    before = samples.copy()
    found = augment(samples, treatment, banks, speaker="s1")
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert abs(len(found) - len(samples) / treatment.speed) <= 1
    assert np.abs(found).max() <= max(1.0, np.abs(samples).max()) * (1 + 1e-6)
    np.testing.assert_array_equal(samples, before)
    np.testing.assert_array_equal(found, augment(samples, treatment, banks, speaker="s1"))


def test_settings_survive_json_and_have_a_key() -> None:
    settings_ = Augmentation(p_speed=0.2, channels=("opus",), kinds={"noise": 1.0})
    again = Augmentation.from_config(settings_.config())
    assert again == settings_
    assert again.key == settings_.key
    assert replace(settings_, p_clip=0.5).key != settings_.key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p_reverb": 1.5}, "p_reverb must be a probability"),
        ({"snr_noise_db": (10, 5)}, "snr_noise_db must be lowest and highest"),
        ({"speeds": (1.0,)}, "speeds"),
        ({"p_speed": 0.5, "speeds": ()}, "p_speed 0"),
        ({"channels": ("morse",)}, "morse"),
        ({"kinds": {"laughter": 1}}, "laughter"),
        ({"kinds": {"noise": 0}}, "p_noise 0"),
        ({"voices": (0, 3)}, "at least one voice"),
        ({"clip_fraction": (0.1, 2)}, "clip_fraction"),
        ({"p_noise": "often"}, "wrong kind"),
        ({"p_nose": 0.5}, "no setting 'p_nose'"),
    ],
)
def test_settings_that_make_no_sense_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AugmentationError, match=message):
        Augmentation.from_config(change)


def test_settings_and_banks_must_meet(banks: Banks) -> None:
    assert Augmentation.for_banks(banks) == Augmentation()
    bare = Augmentation.for_banks(Banks())
    assert (bare.p_reverb, bare.p_noise) == (0, 0)
    bare.check_banks(Banks())
    Augmentation(kinds={"white": 1}, p_reverb=0).check_banks(Banks())  # needs no bank
    only_voices = Augmentation.for_banks(Banks(voices=banks.voices), p_clip=0.2)
    assert only_voices.p_clip == 0.2
    assert {kind for kind, weight in only_voices.kinds.items() if weight} == {"babble"}
    only_voices.check_banks(Banks(voices=banks.voices))
    with pytest.raises(AugmentationError, match="rooms"):
        Augmentation().check_banks(Banks(noise=banks.noise, voices=banks.voices))
    with pytest.raises(AugmentationError, match="asks for noise"):
        Augmentation().check_banks(Banks(rooms=banks.rooms))
    with pytest.raises(AugmentationError, match="more than 9 speakers"):
        Augmentation(voices=(3, 9)).check_banks(banks)
    for treatment in (Treatment(reverb=True), Treatment(kind="music"), Treatment(kind="babble", voices=3)):
        with pytest.raises(AugmentationError, match="no bank of"):
            augment(speech(), treatment, Banks())
    with pytest.raises(AugmentationError, match="24000 Hz, the bank of noise 16000"):
        banks.check_rate(24_000)


def test_real_banks(speech_dir: Path) -> None:
    """The corpus's own noise and rooms: every file of both is decoded and does what it should."""
    noise, rooms = NoiseBank.from_folder(speech_dir / "noise"), RoomBank.from_folder(speech_dir / "rir")
    assert noise.kinds == ("music", "noise")
    clean = speech(1.0) * 0.3
    for number in range(40):
        kind: Any = ("noise", "music")[number % 2]
        found = augment(clean, Treatment(kind=kind, snr_db=10, seed=number), Banks(noise, rooms))
        added = found.astype(np.float64) - clean
        assert 10 * math.log10(np.mean(clean.astype(np.float64) ** 2) / np.mean(added**2)) == pytest.approx(
            10, abs=0.05
        )
