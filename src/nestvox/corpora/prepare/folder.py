"""A tree of speaker folders becomes an utterance table.

The layout is ``speaker/file`` or ``speaker/session/file`` (VoxCeleb, LibriSpeech and most home-made sets): the first
folder names the speaker, those between it and the file the session.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Self

import polars as pl

from nestvox.audio import probe
from nestvox.audio.read import EXTENSIONS
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import AudioError, TableError
from nestvox.names import NO_TEXT, is_text, name_key
from nestvox.progress import Progress, silent

_AT_ONCE = 1024


@dataclass(frozen=True)
class Skipped:
    """A file that is not in the table, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """A table, and the files that were left out of it."""

    table: UtteranceTable
    skipped: tuple[Skipped, ...]

    def marked_synthetic(self) -> Self:
        """Say of every utterance that nobody spoke it, so that every number measured on the table is labelled."""
        frame = self.table.frame.with_columns(pl.lit(value=True).alias("synthetic"))
        return replace(self, table=UtteranceTable(frame, self.table.source, self.table.root))


def prepared(
    frame: pl.DataFrame, source: str | Path, root: Path, skipped: Iterable[Skipped], corpus: str | None
) -> Prepared:
    """Return the table of a frame, with this value of the column `corpus` in every row; None leaves it as it is."""
    if corpus is not None:
        frame = frame.with_columns(pl.lit(corpus).alias("corpus"))
    return Prepared(UtteranceTable(frame, str(source), root), tuple(skipped))


def prepare_folder(
    root: str | Path, *, corpus: str | None = None, workers: int = 4, progress: Progress = silent
) -> Prepared:
    """Make a table of a folder of speaker folders.

    Audio is known by its suffix; hidden files and folders are passed over, links are followed. Rows are sorted by
    path. `utt_id` is the path without suffix, blanks replaced by ``_``; `session` is null where files stand directly
    in a speaker's folder. Files that cannot be opened, and audio that stands outside of any speaker folder, are
    skipped and listed.

    Args:
        root: the folder; paths in the table are relative to it.
        corpus: value of the `corpus` column; None leaves the column out.
        workers: threads that open files.
        progress: called with the number of files opened.

    Raises:
        TableError: no such folder, or no readable audio in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise TableError("no such folder", source=root)
    files = sorted(_audio_files(root))
    found = durations([root / file for file in files], workers=workers, progress=progress)
    skipped = []
    rows: list[dict[str, str | float | None]] = []
    for file, duration in zip(files, found, strict=True):
        parts = PurePosixPath(file).parts
        if len(parts) == 1:
            skipped.append(Skipped(file, "stands outside of the speaker folders"))
        elif not is_text(file):
            skipped.append(Skipped(file, NO_TEXT))
        elif isinstance(duration, AudioError):
            skipped.append(Skipped(file, duration.problem))
        else:
            session = "/".join(parts[1:-1]) or None
            rows.append({"path": file, "speaker": parts[0], "session": session, "duration_s": duration})
    if not rows:
        raise TableError(
            f"no readable audio in speaker folders ({told(skipped) or 'no file'}); the layout is speaker/file or "
            f"speaker/session/file, with the suffixes {' '.join(EXTENSIONS)}",
            source=root,
        )
    ids = unique_ids([str(row["path"]) for row in rows])
    schema = {"path": pl.String, "speaker": pl.String, "session": pl.String, "duration_s": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema).insert_column(0, pl.Series("utt_id", ids))
    return prepared(frame, root, root, skipped, corpus)


def told(skipped: Sequence[Skipped]) -> str:
    """Say how many files are left out, and for which reason most of them; nothing where there are none."""
    if not skipped:
        return ""
    reason = Counter(file.reason for file in skipped).most_common(1)[0][0]
    example = next(file.path for file in skipped if file.reason == reason)
    return f"{len(skipped)} files skipped; {example}: {reason}"


def _audio_files(root: Path) -> Iterator[str]:
    """Yield audio files as POSIX paths relative to `root`."""
    ancestors: dict[str, frozenset[str]] = {str(root): frozenset([os.path.realpath(root)])}
    for folder, folders, files in os.walk(root, followlinks=True):
        above = ancestors.pop(folder)
        kept = []
        for name in folders:
            child = str(Path(folder, name))
            real = os.path.realpath(child)
            # A link to a folder above would be walked for ever.
            if not name.startswith(".") and real not in above:
                kept.append(name)
                ancestors[child] = above | {real}
        folders[:] = kept
        for name in files:
            if not name.startswith(".") and name.lower().endswith(EXTENSIONS):
                yield Path(folder, name).relative_to(root).as_posix()


def unique_ids(paths: Sequence[str]) -> list[str]:
    """Turn distinct paths into distinct utterance ids without blanks.

    An id is the path without suffix, or with it where that would stand twice, or with a number appended where even
    that does (paths that differ in blanks only).
    """

    def clean(text: str) -> str:
        return re.sub(r"\s+", "_", text)

    stems = [clean(PurePosixPath(path).with_suffix("").as_posix()) for path in paths]
    times = Counter(map(name_key, stems))
    ids: list[str] = []
    # Ids that need no change are taken from the start, so that none of the others falls on them.
    used = {key for key, count in times.items() if count == 1}
    for stem, path in zip(stems, paths, strict=True):
        if times[name_key(stem)] == 1:
            ids.append(stem)
            continue
        name, number = clean(path), 2
        while name_key(name) in used:
            name, number = f"{clean(path)}-{number}", number + 1
        used.add(name_key(name))
        ids.append(name)
    return ids


def durations(paths: Sequence[Path], *, workers: int = 4, progress: Progress = silent) -> list[float | AudioError]:
    """Duration in seconds of every file, or the error that it gives, in order."""

    def measure(path: Path) -> float | AudioError:
        try:
            return probe(path).duration_s
        except AudioError as error:
            return error

    found: list[float | AudioError] = []
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        # In portions, so that an interrupt need not wait for a million queued files.
        for start in range(0, len(paths), _AT_ONCE):
            for result in pool.map(measure, paths[start : start + _AT_ONCE]):
                found.append(result)
                progress(len(found), len(paths))
    return found
