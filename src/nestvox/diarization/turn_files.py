"""Files of turns: RTTM, JSON, and the labels of Audacity."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from nestvox.atomic import write_text
from nestvox.diarization.lines import MOST_BYTES, numbered_lines, seconds
from nestvox.diarization.turns import LONGEST_S, Turn, by_file
from nestvox.errors import NestvoxError, TableError
from nestvox.gate import is_folder, naming, read_json
from nestvox.schema import StrictModel, validated

SUFFIXES = (".rttm", ".json", ".txt")
"""Of the files that are read and written: RTTM, JSON, labels of Audacity."""

# Of NIST's "RT-09 evaluation plan", appendix A: lines of these kinds say nothing about who speaks when.
_OTHER_KINDS = frozenset(
    {"A/P", "CB", "EDIT", "FILLER", "IP", "LEXEME", "NON-LEX", "NON-SPEECH", "NOSCORE", "NO_RT_METADATA", "SEGMENT"}
    | {"SPKR-INFO", "SU"}
)
_RTTM_FIELDS = (9, 10)  # older writers leave the last one out
_LABEL_FIELDS = 3
_NONE = "<NA>"


class _TurnRow(StrictModel):
    file: Annotated[str, Field(min_length=1, max_length=1024)]
    start_s: Annotated[float, Field(ge=0, le=LONGEST_S)]
    duration_s: Annotated[float, Field(gt=0, le=LONGEST_S)]
    speaker: Annotated[str, Field(min_length=1, max_length=1024)]


class _TurnRows(StrictModel):
    turns: list[_TurnRow]


def read_turns(path: str | Path, *, file: str | None = None) -> tuple[Turn, ...]:
    """Read who speaks when.

    Args:
        path: a file whose suffix says what it is, ``.rttm``, ``.json`` or ``.txt`` (labels of Audacity), or a folder
            whose ``.rttm`` files count together. A turn of RTTM without duration holds no time and is passed over.
        file: name of the recording, which labels of Audacity do not state; None: that of their file.

    Returns:
        In order of file and begin; empty where nobody speaks.

    Raises:
        TableError: it is malformed, with the line.
    """
    path = Path(path)
    if is_folder(path):
        files = sorted(path.glob("*.rttm"))
        if not files:
            raise TableError("no .rttm file lies in this folder", source=path)
        return tuple(sorted(turn for one in files for turn in _read_rttm(one)))
    readers: dict[str, Callable[[], Iterable[Turn]]] = {
        ".rttm": lambda: _read_rttm(path),
        ".json": lambda: _read_json(path),
        ".txt": lambda: _read_labels(path, file or path.stem),
    }
    return tuple(sorted(readers[_suffix(path)]()))


def write_turns(path: str | Path, turns: Iterable[Turn]) -> None:
    """Write who speaks when, whole or not at all; `read_turns` reads it again, to the millisecond.

    Args:
        path: its suffix says as what, see `read_turns`.
        turns: labels of Audacity hold those of one recording.

    Raises:
        NestvoxError: a name that RTTM cannot hold, or several recordings for one file of labels.
    """
    path = Path(path)
    suffix = _suffix(path)
    ordered = sorted(turns)
    if suffix == ".json":
        rows = [
            {"file": t.file, "start_s": round(t.start_s, 3), "duration_s": round(t.duration_s, 3), "speaker": t.speaker}
            for t in ordered
        ]
        text = json.dumps({"turns": rows}, indent=1) + "\n"
    elif suffix == ".txt":
        text = _labels(path, ordered)
    else:
        text = "".join(map(_rttm_line, ordered))
    write_text(path, text)


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise TableError(f"turns are read from and written to {', '.join(SUFFIXES)} files", source=path)
    return suffix


def _read_rttm(path: Path) -> list[Turn]:
    found = []
    for line, text in numbered_lines(path):
        fields = text.split()
        if fields[0] in _OTHER_KINDS:
            continue
        if fields[0] != "SPEAKER":
            raise TableError(
                f"a line of RTTM begins with SPEAKER, this one with {fields[0][:40]!r}", source=path, line=line
            )
        if len(fields) not in _RTTM_FIELDS:
            raise TableError(
                f"a line of RTTM has {_RTTM_FIELDS[1]} fields, SPEAKER FILE CHANNEL BEGIN DURATION <NA> <NA> NAME <NA> "
                f"<NA>, this one {len(fields)}",
                source=path,
                line=line,
            )
        begin = seconds(fields[3], "the begin", path, line)
        duration = seconds(fields[4], "the duration", path, line)
        if fields[7] == _NONE:
            raise TableError(f"the speaker has no name ({_NONE})", source=path, line=line)
        if duration > 0:
            found.append(_turn(fields[1], begin, duration, fields[7], path, line))
    return found


def _read_labels(path: Path, file: str) -> list[Turn]:
    found = []
    for line, text in numbered_lines(path, comments=False):
        if text.startswith("\\"):  # the range of frequencies of the label above
            continue
        fields = text.split("\t")
        if len(fields) != _LABEL_FIELDS or not fields[2].strip():
            raise TableError("a label has three fields with tabs between, BEGIN END NAME", source=path, line=line)
        begin, end = (seconds(field, "a time", path, line) for field in fields[:2])
        if end < begin:
            raise TableError(f"it ends at {end:g} s, before it begins at {begin:g} s", source=path, line=line)
        if end > begin:
            found.append(_turn(file, begin, end - begin, fields[2].strip(), path, line))
    return found


def _turn(file: str, begin: float, duration: float, speaker: str, path: Path, line: int) -> Turn:
    try:
        return Turn(file, begin, duration, speaker)
    except NestvoxError as error:
        raise TableError(str(error), source=path, line=line) from error


def _read_json(path: Path) -> list[Turn]:
    error = naming(TableError)
    rows = validated(_TurnRows, read_json(path, error, most_bytes=MOST_BYTES), str(path), error).turns
    return [Turn(row.file, row.start_s, row.duration_s, row.speaker) for row in rows]


def _rttm_line(turn: Turn) -> str:
    for what, name in (("file", turn.file), ("speaker", turn.speaker)):
        if len(name.split()) != 1 or name.split()[0] != name:
            raise NestvoxError(f"RTTM holds no {what} called {name!r}: its fields are parted by spaces; rename it")
    fields = (turn.file, 1, f"{turn.start_s:.3f}", f"{turn.duration_s:.3f}", _NONE, _NONE, turn.speaker, _NONE, _NONE)
    return f"SPEAKER {' '.join(map(str, fields))}\n"


def _labels(path: Path, turns: Sequence[Turn]) -> str:
    if len(files := by_file(turns)) > 1:
        raise NestvoxError(f"{path}: labels of Audacity are of one recording, got {len(files)}; write .rttm or .json")
    if strange := next((turn.speaker for turn in turns if {"\t", "\n", "\r"} & set(turn.speaker)), None):
        raise NestvoxError(f"{path}: a label holds no tab and no end of line, got {strange!r}")
    return "".join(f"{turn.start_s:.6f}\t{turn.end_s:.6f}\t{turn.speaker}\n" for turn in turns)
