"""Augmentation: what a recording might have sounded like in another room, through another telephone, beside others.

Settings are one frozen object with a key. What is done to an utterance is drawn first (`Augmentation.draw`) and depends
on a random generator alone, which `utterance_rng` seeds by utterance and variant: the same recording gets the same
treatment whatever worker reads it, in whatever order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

import numpy as np

from nestvox.audio.banks import NoiseBank, RoomBank, SpeechBank
from nestvox.audio.channel import CHANNELS, change_gain, change_speed, clip, through_channel
from nestvox.audio.errors import AugmentationError
from nestvox.audio.mixing import Waveform, mix_at_snr
from nestvox.audio.read import SAMPLE_RATE
from nestvox.audio.reverb import reverberate
from nestvox.gate import naming
from nestvox.schema import validated_dataclass

NoiseType = Literal["noise", "music", "babble", "white"]

_KINDS: tuple[NoiseType, ...] = ("noise", "music", "babble", "white")
_REDRAWS = 64

Range = tuple[float, float]


@dataclass(frozen=True)
class Banks:
    """Where noise, rooms and other voices come from; None: there are none.

    Attributes:
        noise: noise and music.
        rooms: impulse responses.
        voices: utterances of the training table, for babble.
    """

    noise: NoiseBank | None = None
    rooms: RoomBank | None = None
    voices: SpeechBank | None = None

    def check_rate(self, sample_rate: int) -> None:
        """Refuse banks at another rate than the audio has.

        Raises:
            AugmentationError: naming the bank.
        """
        for name in ("noise", "rooms", "voices"):
            bank = getattr(self, name)
            if bank is not None and bank.sample_rate != sample_rate:
                raise AugmentationError(
                    f"the audio has {sample_rate} Hz, the bank of {name} {bank.sample_rate}: open it with sample_rate="
                )

    def config(self) -> dict[str, Any]:
        """Return what identifies the contents; the voices are those of the table that is augmented."""
        return {
            "noise": None if self.noise is None else self.noise.fingerprint,
            "rooms": None if self.rooms is None else self.rooms.fingerprint,
        }


@dataclass(frozen=True)
class Treatment:
    """What is done to one variant of one utterance; the defaults do nothing."""

    speed: float = 1.0
    reverb: bool = False  # put into a room
    kind: NoiseType | None = None  # of the noise that is added
    snr_db: float = 0.0  # of that noise
    voices: int = 0  # of babble
    gain_db: float = 0.0
    clip_fraction: float = 0.0
    channel: str | None = None  # codec
    seed: int = 0  # draws room, noise and place

    @property
    def suffix(self) -> str:
        """What is appended to the speaker's name: another speed is another speaker; else empty."""
        return "" if self.speed == 1 else f"#speed{self.speed:g}"

    @property
    def changes(self) -> bool:
        """Whether anything is done that an encoder could hear."""
        return (
            self.speed != 1
            or self.reverb
            or self.kind is not None
            or self.clip_fraction > 0
            or self.channel is not None
        )


@dataclass(frozen=True)
class Augmentation:
    """How often what is done; probabilities are from 0 to 1, ranges are drawn from evenly.

    The steps come in the order in which they happen outside: speed, room, noise, gain, clipping, channel.

    Attributes:
        p_speed: another speed, one of `speeds`, which makes another speaker.
        speeds: factors; pitch changes with tempo.
        p_reverb: a room.
        p_noise: something is added: noise, music, babble or white noise.
        kinds: weights of these four; the last needs no bank.
        snr_noise_db, snr_music_db, snr_babble_db: active speech over what is added, for white noise the first. The
            defaults are those of Kaldi's recipes (Snyder et al., "X-vectors", ICASSP 2018).
        voices: least and most voices of babble.
        p_gain: another level.
        gain_db: of it.
        p_clip: clipping.
        clip_fraction: share of samples at the limit.
        p_channel: a codec, one of `channels`.
        channels: names of `channel.CHANNELS`. Opus is not among the defaults: coding takes longer than most networks.

    Raises:
        AugmentationError: a value that makes no sense; it is named.
    """

    p_speed: float = 0.0
    speeds: tuple[float, ...] = (0.9, 1.1)
    p_reverb: float = 0.3
    p_noise: float = 0.5
    kinds: Mapping[str, float] = field(default_factory=lambda: {"noise": 2.0, "music": 1.0, "babble": 1.0})
    snr_noise_db: Range = (0.0, 15.0)
    snr_music_db: Range = (5.0, 15.0)
    snr_babble_db: Range = (13.0, 20.0)
    voices: tuple[int, int] = (3, 7)
    p_gain: float = 0.3
    gain_db: Range = (-10.0, 6.0)
    p_clip: float = 0.05
    clip_fraction: Range = (0.001, 0.02)
    p_channel: float = 0.1
    channels: tuple[str, ...] = ("telephone-mulaw", "telephone-alaw", "telephone-gsm", "mp3")

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name.startswith("p_"):
                _check(0 <= value <= 1, item.name, value, "a probability from 0 to 1")
            elif item.name.endswith(("_db", "_fraction")) or item.name == "voices":
                _check(len(value) == 2 and value[0] <= value[1], item.name, value, "lowest and highest")
        _check(all(0.5 <= speed <= 2 and speed != 1 for speed in self.speeds), "speeds", self.speeds, "0.5 to 2, not 1")
        _check(self.voices[0] >= 1, "voices", self.voices, "at least one voice")
        _check(self.clip_fraction[0] >= 0 and self.clip_fraction[1] <= 1, "clip_fraction", self.clip_fraction, "0 to 1")
        unknown = sorted(set(self.kinds) - set(_KINDS))
        _check(not unknown, "kinds", unknown, f"of {', '.join(_KINDS)}")
        _check(all(weight >= 0 for weight in self.kinds.values()), "kinds", dict(self.kinds), "weights from 0 on")
        unknown = sorted(set(self.channels) - set(CHANNELS))
        _check(not unknown, "channels", unknown, f"of {', '.join(CHANNELS)}")
        for probability, name in (("p_speed", "speeds"), ("p_channel", "channels")):
            _check(not getattr(self, probability) or bool(getattr(self, name)), name, (), f"some, or {probability} 0")
        _check(not self.p_noise or sum(self.kinds.values()) > 0, "kinds", dict(self.kinds), "a weight, or p_noise 0")

    @classmethod
    def for_banks(cls, banks: Banks, **changes: Any) -> Self:
        """Return the defaults as far as the banks allow: no rooms, no reverberation; no music, no music mixed in.

        Args:
            banks: what there is.
            changes: settings that are not the default.

        Raises:
            AugmentationError: an unknown setting, or a value that makes no sense.
        """
        kinds = {
            "noise": 2.0 if banks.noise is not None and "noise" in banks.noise.kinds else 0.0,
            "music": 1.0 if banks.noise is not None and "music" in banks.noise.kinds else 0.0,
            "babble": 1.0 if banks.voices is not None and banks.voices.speakers > cls.voices[1] else 0.0,
        }
        possible: dict[str, Any] = {"kinds": kinds}
        if not any(kinds.values()):
            possible["p_noise"] = 0.0
        if banks.rooms is None:
            possible["p_reverb"] = 0.0
        return cls.from_config({**possible, **changes})

    def config(self) -> dict[str, Any]:
        """Return the settings for JSON; `from_config` reads them."""
        config: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the settings that `config` gave.

        Raises:
            AugmentationError: an unknown setting, or a value that makes no sense.
        """
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(config) - known)
        if unknown:
            raise AugmentationError(f"augmentation has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}")
        what = "a value of the wrong kind"
        return validated_dataclass(cls, dict(config), "augmentation", naming(AugmentationError), what=what)

    @property
    def key(self) -> str:
        """16 hex digits over all settings."""
        return hashlib.sha256(json.dumps(self.config(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def nothing(self) -> bool:
        """Whether no treatment would ever change anything."""
        return not (self.p_speed or self.p_reverb or self.p_noise or self.p_clip or self.p_channel)

    def check_banks(self, banks: Banks) -> None:
        """Refuse settings that ask for what the banks do not hold.

        Raises:
            AugmentationError: naming the setting and the bank.
        """
        if self.p_reverb and banks.rooms is None:
            raise AugmentationError("p_reverb asks for rooms, and there is no bank of them: give one, or set it to 0")
        wanted = [kind for kind in _KINDS if self.p_noise and self.kinds.get(kind)]
        for kind in wanted:
            if kind == "babble":
                there = banks.voices is not None and banks.voices.speakers > self.voices[1]
            else:
                there = kind == "white" or (banks.noise is not None and kind in banks.noise.kinds)
            if not there:
                what = f"more than {self.voices[1]} speakers" if kind == "babble" else f"a noise bank that holds {kind}"
                raise AugmentationError(f"kinds asks for {kind}, which needs {what}: give it, or set its weight to 0")

    def draw(self, rng: np.random.Generator) -> Treatment:
        """Draw what is done to one utterance; when anything can be changed at all, something audible is.

        Args:
            rng: of `utterance_rng`.
        """
        for _ in range(_REDRAWS):
            treatment = self._draw(rng)
            if treatment.changes or self.nothing:
                break
        return treatment

    def _draw(self, rng: np.random.Generator) -> Treatment:
        # Every number is drawn whether it is used or not, so that one setting does not shift the others.
        chance = rng.random(6)
        place = rng.random(7)
        seed = int(rng.integers(1 << 62))
        weights = np.array([self.kinds.get(kind, 0.0) for kind in _KINDS])
        kind: NoiseType | None = None
        if chance[2] < self.p_noise:
            kind = _KINDS[int(np.searchsorted(np.cumsum(weights), place[2] * weights.sum(), side="right"))]
        snr = {
            "noise": self.snr_noise_db,
            "music": self.snr_music_db,
            "babble": self.snr_babble_db,
            "white": self.snr_noise_db,
        }
        least, most = self.voices
        return Treatment(
            speed=self.speeds[int(place[0] * len(self.speeds))] if chance[0] < self.p_speed else 1.0,
            reverb=bool(chance[1] < self.p_reverb),
            kind=kind,
            snr_db=_within(snr[kind], place[3]) if kind else 0.0,
            voices=least + int(place[1] * (most - least + 1)) if kind == "babble" else 0,
            gain_db=_within(self.gain_db, place[4]) if chance[3] < self.p_gain else 0.0,
            clip_fraction=_within(self.clip_fraction, place[6]) if chance[4] < self.p_clip else 0.0,
            channel=self.channels[int(place[5] * len(self.channels))] if chance[5] < self.p_channel else None,
            seed=seed,
        )


def _check(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise AugmentationError(f"augmentation: {name} must be {wanted}, got {value}")


def _within(bounds: Range, place: float) -> float:
    return float(bounds[0] + (bounds[1] - bounds[0]) * place)


def utterance_rng(seed: int, utt_id: str, variant: int) -> np.random.Generator:
    """Return the random generator of one variant (or epoch) of one utterance in a run, whoever asks and when."""
    digest = hashlib.sha256(f"{seed}\0{utt_id}\0{variant}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def augment(
    samples: Waveform,
    treatment: Treatment,
    banks: Banks,
    *,
    sample_rate: int = SAMPLE_RATE,
    speaker: str | None = None,
) -> Waveform:
    """Do to a recording (T,), T > 0, of a speaker, who must not be heard in its babble, what `Augmentation.draw` drew.

    Returns:
        (T,) float32, or (about T / speed,). Where the peak would exceed full scale and the recording's own, everything
        is turned down to the larger of the two.

    Raises:
        AudioError: a file of a bank cannot be read.
        AugmentationError: the banks lack what the treatment needs.
        MissingExtraError: a codec needs an extra.
    """
    rng = np.random.default_rng(treatment.seed)
    highest = max(1.0, float(np.abs(samples).max()))
    result = change_speed(samples, treatment.speed)
    if treatment.reverb:
        if banks.rooms is None:
            raise AugmentationError("the treatment puts the recording into a room, and there is no bank of rooms")
        result = reverberate(result, banks.rooms.draw(rng), sample_rate)
    if treatment.kind is not None:
        noise = _noise(treatment, len(result), banks, rng, speaker)
        result = mix_at_snr(result, noise, treatment.snr_db, sample_rate)
    result = change_gain(result, treatment.gain_db) if treatment.gain_db else result
    result = clip(result, treatment.clip_fraction)
    if treatment.channel is not None:
        result = through_channel(result, treatment.channel, sample_rate)
    peak = float(np.abs(result).max())
    return np.asarray(result * (highest / peak), np.float32) if peak > highest else result


def _noise(treatment: Treatment, length: int, banks: Banks, rng: np.random.Generator, speaker: str | None) -> Waveform:
    if treatment.kind == "babble":
        if banks.voices is None:
            raise AugmentationError("the treatment adds babble, and there is no bank of voices")
        return banks.voices.draw(treatment.voices, length, rng, speaker=speaker)
    if treatment.kind == "white":
        return rng.standard_normal(length).astype(np.float32)
    if banks.noise is None or treatment.kind is None:
        raise AugmentationError(f"the treatment adds {treatment.kind}, and there is no bank of noise")
    return banks.noise.draw(treatment.kind, length, rng)
