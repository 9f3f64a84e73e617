"""A kaldi data directory becomes an utterance table.

``wav.scp`` (recording, file) and ``utt2spk`` (utterance, speaker) are needed; ``segments`` (utterance, recording,
start, end in seconds, channel), ``reco2file_and_channel``, ``spk2gender`` and ``utt2dur`` are used where they are. File
formats: https://kaldi-asr.org/doc/data_prep.html. Blanks and tabs divide fields, and nothing else does; names in two
files are compared by `nestvox.names.name_key`. Commands in ``wav.scp`` (entries that end in ``|``) are refused: a table
must not run programs; so are parts of archives (``file.ark:1234``).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from nestvox.audio.read import probe
from nestvox.corpora.delimited import read_text
from nestvox.corpora.prepare.folder import Prepared, Skipped, prepared
from nestvox.errors import AudioError, TableError
from nestvox.names import name_key, split_fields, split_first, split_lines

_TO_THE_END = -1.0  # kaldi's own mark for "until the recording ends"


def prepare_kaldi(
    folder: str | Path, *, root: str | Path | None = None, session: str = "recording", corpus: str | None = None
) -> Prepared:
    """Make a table of a kaldi data directory; audio files are opened only for ``reco2file_and_channel``.

    The column `channel` comes from the fifth field of ``segments`` (0 is the first, as kaldi has it; A is too), else
    from ``reco2file_and_channel`` (A or 1 is the first) where the file of a recording has several channels.
    Without ``segments`` an utterance is a recording. Utterances that ``wav.scp`` or ``utt2spk`` does not know are
    skipped and listed.

    Args:
        folder: with ``wav.scp`` and ``utt2spk``.
        root: folder that relative paths in ``wav.scp`` start from; None takes the current one, as kaldi does.
        session: ``recording`` makes each recording a session where there are segments; ``none`` leaves it out.
        corpus: value of the `corpus` column; None leaves the column out.

    Raises:
        TableError: a file that is missing or malformed (with its line), a command or an archive in ``wav.scp``, or no
            usable utterance.
    """
    folder = Path(folder)
    root = Path.cwd() if root is None else Path(root)
    if session not in {"recording", "none"}:
        raise TableError(f"session is recording or none, not {session!r}")
    wavs = {key: _audio_file(value, folder / "wav.scp", line) for key, _, value, line in _pairs(folder / "wav.scp")}
    speakers = {key: (name, value) for key, name, value, _ in _pairs(folder / "utt2spk")}
    segments = _segments(folder / "segments")
    sides = _sides(folder / "reco2file_and_channel", wavs, root)
    sexes = {key: value.lower() for key, _, value, _ in _optional_pairs(folder / "spk2gender")}
    durations = {
        key: _seconds(value, folder / "utt2dur", line) for key, _, value, line in _optional_pairs(folder / "utt2dur")
    }
    rows, skipped = [], []
    listed = (
        segments
        if segments is not None
        else {key: _Segment(name, name) for key, name, _, _ in _pairs(folder / "wav.scp")}
    )
    for key, one in listed.items():
        _, speaker = speakers.get(key, ("", None))
        path = wavs.get(name_key(one.recording))
        if speaker is None or path is None:
            lacking = "utt2spk" if speaker is None else f"wav.scp (recording {one.recording})"
            skipped.append(Skipped(one.name, f"is not in {lacking}"))
            continue
        known = one.end_s is None or one.start_s is None
        rows.append(
            {
                "utt_id": one.name,
                "path": path,
                "speaker": speaker,
                "start_s": one.start_s,
                "duration_s": durations.get(key) if known else round((one.end_s or 0.0) - (one.start_s or 0.0), 6),
                "channel": sides.get(name_key(one.recording)) if one.channel is None else one.channel,
                "session": one.recording,
                "sex": sexes.get(name_key(speaker)),
            }
        )
    skipped += [
        Skipped(name, f"is not in {'wav.scp' if segments is None else 'segments'}")
        for key, (name, _) in speakers.items()
        if key not in listed
    ]
    if not rows:
        raise TableError(f"no utterance stands in all of its files ({len(skipped)} skipped)", source=folder)
    frame = pl.DataFrame(
        rows,
        schema={
            **dict.fromkeys(("utt_id", "path", "speaker"), pl.String),
            **dict.fromkeys(("start_s", "duration_s"), pl.Float64),
            "channel": pl.Int64,
            **dict.fromkeys(("session", "sex"), pl.String),
        },
    )
    kept = frame.select(
        column for column in frame if column.null_count() < frame.height and (column.name != "session" or segments)
    )
    if session == "none":
        kept = kept.drop("session", strict=False)
    return prepared(kept, folder, root, skipped, corpus)


@dataclass(frozen=True)
class _Segment:
    """An utterance and where it stands in its recording; without times it is the recording."""

    name: str
    recording: str
    start_s: float | None = None
    end_s: float | None = None  # None: to the end
    channel: int | None = None  # None: not said


def _pairs(path: Path) -> list[tuple[str, str, str, int]]:
    """Read key, name, rest of the line, and line number; keys are unique."""
    if not path.exists():
        raise TableError("no such file; a kaldi data directory has wav.scp and utt2spk", source=path)
    pairs: list[tuple[str, str, str, int]] = []
    seen: dict[str, int] = {}
    for line, text in enumerate(split_lines(read_text(path, TableError)), start=1):
        name, value = split_first(text)
        if not name:
            continue
        if not value:
            raise TableError("expected a name and a value", source=path, line=line)
        key = name_key(name)
        if key in seen:
            raise TableError(f"{name!r} stands already on line {seen[key]}", source=path, line=line)
        seen[key] = line
        pairs.append((key, name, value, line))
    return pairs


def _optional_pairs(path: Path) -> list[tuple[str, str, str, int]]:
    return _pairs(path) if path.exists() else []


def _audio_file(value: str, path: Path, line: int) -> str:
    if value.endswith("|") or value.startswith("|"):
        raise TableError(
            f"{value!r} is a command, and a table names files only: run it, keep its output as wav or flac, and name "
            "that file",
            source=path,
            line=line,
        )
    if value == "-" or re.search(r"\.ark:\d+$", value):
        raise TableError(
            f"{value!r} is no audio file but a stream or a place in an archive; unpack it into files "
            "(kaldi's wav-copy does)",
            source=path,
            line=line,
        )
    return value


def _segments(path: Path) -> dict[str, _Segment] | None:
    """Segments by the key of their utterance; None where there is no such file."""
    if not path.exists():
        return None
    segments: dict[str, _Segment] = {}
    sides: dict[str, tuple[str, int]] = {}
    for key, name, value, line in _pairs(path):
        fields = split_fields(value)
        if len(fields) not in {3, 4}:  # a fourth is the channel
            raise TableError("expected: utterance recording start end", source=path, line=line)
        start_s, end_s = (_seconds(field, path, line) for field in fields[1:3])
        if start_s < 0 or (end_s != _TO_THE_END and end_s <= start_s):
            raise TableError(f"a segment from {fields[1]} to {fields[2]} s", source=path, line=line)
        segments[key] = _Segment(name, fields[0], start_s, None if end_s == _TO_THE_END else end_s)
        if len(fields) == 4:
            sides[key] = (fields[3], line)
    numbers = _channels(sides, path, first=0)
    return {key: replace(one, channel=numbers.get(key)) for key, one in segments.items()}


def _sides(path: Path, wavs: Mapping[str, str], root: Path) -> dict[str, int]:
    """Channels by the key of their recording, as ``reco2file_and_channel`` has them for scoring.

    It says which side of a call a recording is, and not whether its file is that side alone. The file is asked, and
    where there is none, whether several recordings share it.
    """
    words: dict[str, tuple[str, int]] = {}
    for key, _, value, line in _optional_pairs(path):
        fields = split_fields(value)
        if len(fields) != 2:
            raise TableError("expected: recording file channel", source=path, line=line)
        words[key] = (fields[1], line)
    numbers = _channels(words, path, first=1)
    sharing = Counter(wavs.values())
    found: dict[str, int] = {}
    for key, number in numbers.items():
        file = wavs.get(key)
        if file is None:
            continue
        try:
            several = probe(root / file).channels > 1
        except AudioError:
            several = sharing[file] > 1
        if several:
            found[key] = number
    return found


def _channels(words: Mapping[str, tuple[str, int]], path: Path, *, first: int) -> dict[str, int]:
    """Numbers from 0 on of channels (with their lines) that a file names by letters, or by numbers from 0 or 1 on.

    `first` is the first channel's where the file does not show it: a 0 is in any case, and where there is a 2, 1 is.
    """
    said = {word for word, _ in words.values()}
    if "0" in said:
        first = 0
    elif "2" in said:
        first = 1
    numbers: dict[str, int] = {}
    for name, (word, line) in words.items():
        if re.fullmatch(r"[A-Za-z]", word):
            numbers[name] = ord(word.upper()) - ord("A")
        elif re.fullmatch(r"[0-9]{1,3}", word) and int(word) >= first:
            numbers[name] = int(word) - first
        else:
            raise TableError(f"{word!r} is no channel: expected A, B or a number", source=path, line=line)
    return numbers


def _seconds(text: str, path: Path, line: int) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise TableError(f"{text!r} is not a number of seconds", source=path, line=line)
    return seconds
