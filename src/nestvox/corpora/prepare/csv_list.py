"""A list of files with their speakers becomes an utterance table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from nestvox.corpora.delimited import read_delimited
from nestvox.corpora.prepare.folder import Prepared, Skipped, durations, prepared, unique_ids
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import AudioError, TableError
from nestvox.progress import Progress, silent


def prepare_csv(
    path: str | Path,
    *,
    path_column: str = "path",
    speaker_column: str = "speaker",
    rename: Mapping[str, str] | None = None,
    root: str | Path | None = None,
    corpus: str | None = None,
    workers: int = 4,
    progress: Progress = silent,
) -> Prepared:
    """Make a table of a CSV (commas) or TSV (tabs) with a header line.

    Every column is kept. Without a column `utt_id`, ids are made of the paths; without `duration_s`, files are opened
    for it. Files that cannot be opened, or end before `start_s`, are skipped and listed.

    Args:
        path: the list; by its suffix ``.tsv`` or ``.txt`` it has tabs, else commas.
        path_column: header of the column with the audio files.
        speaker_column: header of the column with the speakers.
        rename: further headers by the name they get, e.g. ``{"session": "video", "sex": "gender"}``.
        root: folder that relative paths start from; None takes that of the list.
        corpus: value of the `corpus` column; None leaves the list's own.
        workers: threads that open files.
        progress: called with the number of files opened.

    Raises:
        TableError: a column that is not there or would stand twice, what `UtteranceTable` refuses, or a list without
            any readable file.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    frame, lines = read_delimited(path, "\t" if path.suffix.lower() in {".tsv", ".txt"} else ",", TableError)
    frame = _renamed(frame, {"path": path_column, "speaker": speaker_column, **(rename or {})}, path)
    if not frame.height:
        raise TableError("the list has no rows", source=path)
    # Validated once before anything is opened, while rows still have their lines.
    if "utt_id" in frame.columns:
        frame = UtteranceTable(frame, str(path), root, lines).frame
    else:
        numbered = pl.Series("utt_id", [str(line) for line in lines])
        frame = UtteranceTable(frame.with_columns(numbered), str(path), root, lines).frame.drop("utt_id")
        _refuse_doubled_paths(frame, path)
        frame = frame.insert_column(0, pl.Series("utt_id", unique_ids(frame["path"].to_list())))
    found = durations([root / file for file in frame["path"]], workers=workers, progress=progress)
    starts = frame["start_s"].to_list() if "start_s" in frame.columns else [None] * frame.height
    left = [_what_is_left(length, start or 0.0) for length, start in zip(found, starts, strict=True)]
    usable = pl.Series([isinstance(seconds, float) for seconds in left])
    skipped = tuple(
        Skipped(file, seconds) for file, seconds in zip(frame["path"], left, strict=True) if isinstance(seconds, str)
    )
    if not usable.any():
        first = skipped[0]
        raise TableError(f"none of {len(found)} files can be read; {first.path}: {first.reason}", source=path)
    if "duration_s" not in frame.columns:
        numbers = [seconds if isinstance(seconds, float) else None for seconds in left]
        frame = frame.with_columns(pl.Series("duration_s", numbers, pl.Float64))
    return prepared(frame.filter(usable), path, root, skipped, corpus)


def _what_is_left(length: float | AudioError, start_s: float) -> float | str:
    """Seconds of a file from `start_s` on, or why there are none."""
    if isinstance(length, AudioError):
        return length.problem
    return length - start_s if start_s < length else f"start_s is {start_s:g}, and it ends after {length:.3f} s"


def _renamed(frame: pl.DataFrame, wanted: Mapping[str, str], path: Path) -> pl.DataFrame:
    for column in wanted.values():
        if column not in frame.columns:
            there = ", ".join(frame.columns)
            raise TableError(f"no such column; the list has {there}", source=path, line=1, column=column)
    changed = {old: new for new, old in wanted.items() if old != new}
    clash = [new for new in changed.values() if new in frame.columns and new not in changed]
    if clash:
        problem = f"another column is to be named {clash[0]}, which the list has already"
        raise TableError(problem, source=path, line=1, column=clash[0])
    return frame.rename(changed)


def _refuse_doubled_paths(frame: pl.DataFrame, path: Path) -> None:
    doubled = frame.filter(frame["path"].is_duplicated())["path"]
    if len(doubled):
        raise TableError(
            f"{doubled[0]!r} stands twice: give parts of one file a column utt_id", source=path, column="path"
        )
