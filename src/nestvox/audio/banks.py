"""Recordings that augmentation draws from: noise, rooms and other voices, read when they are wanted.

A noise or room folder is searched for audio files. Where it holds a table (``noise.tsv``, ``rir.tsv``, or any one other
.tsv with a column `path`), that says which files there are, their `category`, and, if it has a column `split`, which
are for training; only those are drawn.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np

from nestvox.audio.errors import AugmentationError, SilentAudioError
from nestvox.audio.mixing import Waveform, fit_length, sum_of_voices
from nestvox.audio.read import EXTENSIONS, SAMPLE_RATE, probe, read
from nestvox.errors import AudioError
from nestvox.gate import is_file, naming, read_text
from nestvox.names import split_lines

NoiseKind = Literal["noise", "music"]

_KEPT_BYTES = 64 << 20
_WHOLE_S = 60.0  # of longer files only a stretch is read
_TRIES = 20
_VOICE_S = 12.0


@dataclass(frozen=True)
class BankFile:
    """One file of a bank: `path`, and `category` as its table or its first folder says (``music``, ``street``...)."""

    path: Path
    category: str


@dataclass(frozen=True)
class Voice:
    """An utterance for babble; `start_s`, `duration_s` and `channel` as in an utterance table."""

    path: Path
    speaker: str
    start_s: float | None = None
    duration_s: float | None = None
    channel: int | None = None


class _Kept:
    """The waveforms that were read last, up to a number of bytes; safe for several threads."""

    def __init__(self, sample_rate: int, most_bytes: int = _KEPT_BYTES) -> None:
        self.sample_rate = sample_rate
        self.most_bytes = most_bytes
        self._there: OrderedDict[tuple[Path, float, float | None, int | None], Waveform] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def read(
        self, path: Path, start_s: float = 0.0, duration_s: float | None = None, channel: int | None = None
    ) -> Waveform:
        key = (path, start_s, duration_s, channel)
        with self._lock:
            if key in self._there:
                self._there.move_to_end(key)
                return self._there[key]
        samples, _ = read(path, sample_rate=self.sample_rate, start_s=start_s, duration_s=duration_s, channel=channel)
        samples.setflags(write=False)
        with self._lock:
            if key not in self._there:
                self._there[key] = samples
                self._bytes += samples.nbytes
            while self._bytes > self.most_bytes and len(self._there) > 1:
                self._bytes -= self._there.popitem(last=False)[1].nbytes
        return samples


class NoiseBank:
    """Noise and music.

    Files of the category ``music`` are music, those of ``speech`` are left out (one clear voice is no noise; babble is
    made from several), everything else is noise.

    Args:
        files: at least one.
        sample_rate: of what is drawn, in Hz.
        root: folder that the names in the fingerprint start from.

    Attributes:
        files: in the order given, without speech.
        fingerprint: 16 hex digits over names, sizes and categories.

    Raises:
        AugmentationError: no files.
    """

    def __init__(self, files: Iterable[BankFile], *, sample_rate: int = SAMPLE_RATE, root: Path | None = None) -> None:
        self.files = tuple(file for file in files if file.category != "speech")
        if not self.files:
            raise AugmentationError(f"{root or 'the noise bank'}: no noise files; name a folder that holds some")
        self.fingerprint = _fingerprint(self.files, root)
        self.sample_rate = sample_rate
        self._kept = _Kept(sample_rate)
        self._durations: dict[Path, float] = {}
        self._of_kind: dict[NoiseKind, list[BankFile]] = {
            "music": [file for file in self.files if file.category == "music"],
            "noise": [file for file in self.files if file.category != "music"],
        }

    @classmethod
    def from_folder(cls, folder: str | Path, *, split: str = "train", sample_rate: int = SAMPLE_RATE) -> Self:
        """Find the files of a folder; nothing is decoded yet.

        Args:
            folder: with a table or with folders by category, as MUSAN has them.
            split: of the table's column `split`, where it has one.
            sample_rate: of what is drawn, in Hz.

        Raises:
            AugmentationError: no such folder, no noise in it, or its table names files that are not there.
        """
        return cls(_files_in(Path(folder), split), sample_rate=sample_rate, root=Path(folder))

    @property
    def kinds(self) -> tuple[NoiseKind, ...]:
        """Of ``music`` and ``noise`` those that the bank holds."""
        return tuple(kind for kind in sorted(self._of_kind) if self._of_kind[kind])

    def draw(self, kind: NoiseKind, length: int, rng: np.random.Generator) -> Waveform:
        """Draw a stretch of a random file; what is too short is repeated, what is silent is drawn again.

        Args:
            kind: ``noise`` or ``music``.
            length: T samples.
            rng: draws file and place.

        Returns:
            (T,) float32, not silent.

        Raises:
            AudioError: a file of the bank cannot be read.
            AugmentationError: the bank has no such files, or they are silent.
        """
        files = self._of_kind[kind]
        if not files:
            raise AugmentationError(f"the noise bank holds no {kind}; it has {', '.join(self.kinds)}")
        for _ in range(_TRIES):
            file = files[int(rng.integers(len(files)))]
            place = float(rng.random())
            try:
                samples = fit_length(self._stretch(file.path, place, length), length, rng)
            except SilentAudioError:  # no fault of a noise file, only of no use here
                continue
            if np.any(samples):
                return samples
        raise AugmentationError(f"{_TRIES} stretches of {kind} in a row are silent; take such files out of the bank")

    def _stretch(self, path: Path, place: float, length: int) -> Waveform:
        duration_s = self._durations.get(path)
        if duration_s is None:
            duration_s = self._durations[path] = probe(path).duration_s
        wanted_s = length / self.sample_rate + 0.1
        if duration_s <= max(_WHOLE_S, wanted_s):
            return self._kept.read(path)
        return self._kept.read(path, round(place * (duration_s - wanted_s), 3), wanted_s)


class RoomBank:
    """Room impulse responses.

    Args:
        files: at least one.
        sample_rate: of what is drawn, in Hz.
        root: folder that the names in the fingerprint start from.

    Attributes:
        files: in the order given.
        fingerprint: 16 hex digits over names and sizes.

    Raises:
        AugmentationError: no files.
    """

    def __init__(self, files: Iterable[BankFile], *, sample_rate: int = SAMPLE_RATE, root: Path | None = None) -> None:
        self.files = tuple(files)
        if not self.files:
            raise AugmentationError(f"{root or 'the room bank'}: no room responses; name a folder that holds some")
        self.fingerprint = _fingerprint(self.files, root)
        self.sample_rate = sample_rate
        self._kept = _Kept(sample_rate)

    @classmethod
    def from_folder(cls, folder: str | Path, *, split: str = "train", sample_rate: int = SAMPLE_RATE) -> Self:
        """Find the files of a folder, as `NoiseBank.from_folder` does."""
        return cls(_files_in(Path(folder), split), sample_rate=sample_rate, root=Path(folder))

    def draw(self, rng: np.random.Generator) -> Waveform:
        """Draw a response, (R,) float32.

        Raises:
            AudioError: a file of the bank cannot be read.
        """
        return self._kept.read(self.files[int(rng.integers(len(self.files)))].path)


class SpeechBank:
    """Utterances of the training table, for babble.

    Args:
        voices: of several speakers.
        sample_rate: of what is drawn, in Hz.
    """

    def __init__(self, voices: Sequence[Voice], *, sample_rate: int = SAMPLE_RATE) -> None:
        self.voices = voices
        self.speakers = len({voice.speaker for voice in voices})
        self.sample_rate = sample_rate
        self._kept = _Kept(sample_rate)

    def draw(self, count: int, length: int, rng: np.random.Generator, *, speaker: str | None = None) -> Waveform:
        """Draw babble of `count` voices, none of them `speaker`, no two of one speaker.

        Files that cannot be read are passed over: whoever embeds the table reports them.

        Args:
            count: of voices.
            length: T samples.
            rng: draws voices and places.
            speaker: who must not be among them.

        Returns:
            (T,) float32, not silent.

        Raises:
            AugmentationError: there are not so many other speakers, or hardly any of their files can be read.
        """
        if self.speakers <= count:
            raise AugmentationError(
                f"babble of {count} voices needs more than {count} speakers in the table, it has {self.speakers}"
            )
        drawn: dict[str, Waveform] = {}
        for _ in range(count * _TRIES):
            voice = self.voices[int(rng.integers(len(self.voices)))]
            if voice.speaker == speaker or voice.speaker in drawn:
                continue
            longest_s = _VOICE_S if voice.start_s is None or voice.duration_s is None else voice.duration_s
            try:
                samples = self._kept.read(voice.path, voice.start_s or 0.0, min(longest_s, _VOICE_S), voice.channel)
            except AudioError:
                continue
            drawn[voice.speaker] = samples
            if len(drawn) == count:
                return sum_of_voices(list(drawn.values()), length, rng, self.sample_rate)
        raise AugmentationError(
            f"no {count} other speakers found in {count * _TRIES} draws: one speaker has nearly all utterances, "
            "or most files cannot be read; ask for less babble"
        )


def _files_in(folder: Path, split: str) -> list[BankFile]:
    if not folder.is_dir():
        raise AugmentationError(f"{folder}: no such folder")
    table = _table_of(folder)
    if table is not None:
        return _listed(table, split)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    return [BankFile(path, _first_folder(path.relative_to(folder))) for path in found]


def _first_folder(path: Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else ""


def _table_of(folder: Path) -> Path | None:
    tables = [file for file in sorted(folder.glob("*.tsv")) if "path" in _records(file)[0]]
    if len(tables) > 1:
        raise AugmentationError(f"{folder} holds {len(tables)} tables with a column path; leave one")
    return tables[0] if tables else None


def _records(table: Path) -> list[list[str]]:
    """Fields of every line that is not empty, the header first."""
    lines = split_lines(read_text(table, naming(AugmentationError)))
    return [line.rstrip("\r").split("\t") for line in lines if line.strip()] or [[]]


def _listed(table: Path, split: str) -> list[BankFile]:
    header, *records = _records(table)
    rows = [dict(zip(header, fields, strict=False)) for fields in records]
    if short := next((number for number, row in enumerate(rows, 2) if not row.get("path")), None):
        raise AugmentationError(f"{table}:{short}: names no file in the column path")
    files = [
        BankFile(table.parent / row["path"], row.get("category") or _first_folder(Path(row["path"])))
        for row in rows
        if row.get("split") in (None, split)
    ]
    missing = [file.path for file in files if not is_file(file.path)]
    if missing:
        first = str(missing[0])[:300]
        raise AugmentationError(f"{table} names {len(missing)} files that are not there, the first is {first}")
    return files


def _fingerprint(files: Sequence[BankFile], root: Path | None) -> str:
    digest = hashlib.sha256()
    for file in files:
        name = file.path.relative_to(root).as_posix() if root is not None else file.path.name
        digest.update(f"{name}\t{file.path.stat().st_size}\t{file.category}\n".encode())
    return digest.hexdigest()[:16]
