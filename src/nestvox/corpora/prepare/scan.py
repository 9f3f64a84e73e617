"""Search a tree of millions of files folder by folder, in threads, so that an interrupted search goes on.

What was found below one top folder (a speaker's, as a rule) is written down when that folder is done, in a journal:
a folder with one JSON file for each, written whole or not at all. A later scan of the same tree with the same journal
takes these as they are. A journal is for a search that broke off, not a cache: what has changed inside a folder that
is in it goes unnoticed, so it is thrown away once the table is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl

from nestvox.atomic import write_text
from nestvox.audio.read import probe
from nestvox.errors import AudioError, NestvoxError
from nestvox.gate import naming, read_json
from nestvox.names import NO_TEXT, is_text
from nestvox.progress import Progress, silent
from nestvox.schema import Count, validated_dataclass
from nestvox.shown import shown

_FORMAT = 1
_SCHEMA = {"path": pl.String, "top": pl.String, "size": pl.Int64, "duration_s": pl.Float64, "problem": pl.String}


@dataclass
class _Found:
    """Files below one top folder, column by column; sorted by path."""

    paths: list[str]
    sizes: list[Count]
    durations: list[float | None]
    problems: list[str | None]


def folders_in(folder: str | Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are passed over, links are followed."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def scan(
    root: str | Path,
    tops: Sequence[str],
    *,
    suffixes: tuple[str, ...],
    durations: bool = False,
    journal: str | Path | None = None,
    workers: int = 8,
    progress: Progress = silent,
) -> pl.DataFrame:
    """List the audio files, by their lower-case endings, below folders of a tree (POSIX paths relative to its root).

    Hidden files and folders are passed over; links to folders are followed one level, so that nothing is walked for
    ever. One of `tops` is the unit of work, of progress and of the journal. Without `durations`, only names and sizes
    are looked at.

    Returns:
        path (relative to root, POSIX), top, size (bytes), duration_s (null unless asked for), problem (null, or why
        the file cannot be used), in the order of `tops` and sorted by path within one.
    """
    root = Path(root)
    notes = None if journal is None else _Notes(Path(journal), root, suffixes, durations=durations)
    found = {} if notes is None else {top: done for top in tops if (done := notes.read(top)) is not None}
    progress(len(found), len(tops))
    waiting = iter([top for top in tops if top not in found])
    with ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="nestvox-scan") as pool:
        # A few at a time, so that an interrupt waits for no more than these.
        running: dict[Future[_Found], str] = {}
        while True:
            for top in islice(waiting, 2 * workers - len(running)):
                running[pool.submit(_look, root, top, suffixes, durations)] = top
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                top = running.pop(future)
                found[top] = future.result()
                if notes is not None:
                    notes.write(top, found[top])
                progress(len(found), len(tops))
    return pl.concat([pl.DataFrame(schema=_SCHEMA), *(_frame(top, found[top]) for top in tops)])


def discard_journal(journal: str | Path) -> None:
    """Remove a journal, once what it was for is written."""
    shutil.rmtree(journal, ignore_errors=True)


def _frame(top: str, found: _Found) -> pl.DataFrame:
    paths = [path if is_text(path) else shown(path) for path in found.paths]
    columns = [paths, [top if is_text(top) else shown(top)] * len(paths), found.sizes, found.durations, found.problems]
    return pl.DataFrame(dict(zip(_SCHEMA, columns, strict=True)), schema=_SCHEMA)


def _look(root: Path, top: str, suffixes: tuple[str, ...], durations: bool) -> _Found:
    entries = sorted(_walk(f"{root}/{top}", top, suffixes, frozenset([os.path.realpath(root / top)])))
    found = _Found([path for path, _ in entries], [size for _, size in entries], [], [])
    for path, size in entries:
        duration, problem = None, "the file is empty (0 bytes)" if size == 0 else None
        if durations and problem is None:
            try:
                duration = round(probe(root / path).duration_s, 4)
            except AudioError as error:
                problem = error.problem
        found.durations.append(duration)
        found.problems.append(problem if is_text(path) else NO_TEXT)
    return found


def _walk(folder: str, shown: str, suffixes: tuple[str, ...], above: frozenset[str]) -> Iterator[tuple[str, int]]:
    """Yield path and size; names are joined as text, because a `Path` for each of a million files takes minutes."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                inside = above
                if entry.is_symlink():
                    real = os.path.realpath(entry.path)
                    if real in above:
                        continue
                    inside = above | {real}
                yield from _walk(entry.path, f"{shown}/{entry.name}", suffixes, inside)
            elif entry.name.lower().endswith(suffixes):
                try:
                    size = entry.stat().st_size
                except OSError:  # a link to nowhere
                    size = 0
                yield f"{shown}/{entry.name}", size


class _Notes:
    """The journal: one file for each top folder, with what it must have been made for."""

    def __init__(self, folder: Path, root: Path, suffixes: tuple[str, ...], *, durations: bool) -> None:
        self.folder = folder
        self.root = root
        self.made_for = {
            "format": _FORMAT,
            "root": str(root.resolve()),
            "suffixes": sorted(suffixes),
            "durations": durations,
        }

    def _file(self, top: str) -> Path:
        return self.folder / f"{hashlib.sha256(os.fsencode(top)).hexdigest()[:24]}.json"

    def _head(self, top: str) -> dict[str, object]:
        return {**self.made_for, "top": top, "changed_ns": (self.root / top).stat().st_mtime_ns}

    def read(self, top: str) -> _Found | None:
        file, error = self._file(top), naming(NestvoxError)
        try:
            content = read_json(file, error)
            if isinstance(content, dict) and content.pop("head", None) == self._head(top):
                found = validated_dataclass(_Found, content, str(file), error)
                if len({len(column) for column in vars(found).values()}) == 1:
                    return found
        except (NestvoxError, OSError):
            pass  # absent, or not ours: the folder is looked at again
        return None

    def write(self, top: str, found: _Found) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self._file(top), json.dumps({"head": self._head(top), **vars(found)}))
