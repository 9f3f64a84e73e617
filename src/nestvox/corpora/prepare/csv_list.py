"""A list of files with their speakers becomes an utterance table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from nestvox.corpora.delimited import read_delimited
from nestvox.corpora.prepare.folder import Prepared, Skipped, durations, unique_ids
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import AudioError, TableError
from nestvox.progress import Progress, silent

__all__ = ["prepare_csv"]


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
    for it. Files that cannot be opened are skipped and listed.

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
        UtteranceTable(frame, str(path), root, lines)
    else:
        numbered = pl.Series("utt_id", [str(line) for line in lines])
        UtteranceTable(frame.with_columns(numbered), str(path), root, lines)
        _refuse_doubled_paths(frame, path)
        frame = frame.insert_column(0, pl.Series("utt_id", unique_ids(frame["path"].to_list())))
    found = durations([root / file for file in frame["path"]], workers=workers, progress=progress)
    readable = pl.Series([not isinstance(duration, AudioError) for duration in found])
    skipped = tuple(
        Skipped(file, duration.problem)
        for file, duration in zip(frame["path"], found, strict=True)
        if isinstance(duration, AudioError)
    )
    if not readable.any():
        first = skipped[0]
        raise TableError(f"none of {len(found)} files can be read; {first.path}: {first.reason}", source=path)
    if "duration_s" not in frame.columns:
        numbers = [None if isinstance(duration, AudioError) else duration for duration in found]
        start = pl.col("start_s").cast(pl.Float64).fill_null(0.0) if "start_s" in frame.columns else pl.lit(0.0)
        frame = frame.with_columns(pl.Series("duration_s", numbers, pl.Float64) - start)
    frame = frame.filter(readable)
    if corpus is not None:
        frame = frame.with_columns(pl.lit(corpus).alias("corpus"))
    return Prepared(UtteranceTable(frame, str(path), root), skipped)


def _renamed(frame: pl.DataFrame, wanted: Mapping[str, str], path: Path) -> pl.DataFrame:
    for column in wanted.values():
        if column not in frame.columns:
            there = ", ".join(frame.columns)
            raise TableError(f"no such column; the list has {there}", source=path, line=1, column=column)
    changed = {old: new for new, old in wanted.items() if old != new}
    clash = [new for new in changed.values() if new in frame.columns and new not in changed]
    if clash:
        raise TableError(
            f"another column is to be named {clash[0]}, which the list has already",
            source=path,
            line=1,
            column=clash[0],
        )
    return frame.rename(changed)


def _refuse_doubled_paths(frame: pl.DataFrame, path: Path) -> None:
    doubled = frame.filter(frame["path"].is_duplicated())["path"]
    if len(doubled):
        raise TableError(
            f"{doubled[0]!r} stands twice: give parts of one file a column utt_id", source=path, column="path"
        )
