"""Lhotse manifests become an utterance table.

A manifest is JSON lines, plain or gzipped: recordings (``id``, ``sources``, ``sampling_rate``, ``duration``) and
supervisions (``id``, ``recording_id``, ``start``, ``duration``, ``speaker``, ``gender``, ``language``); see
https://lhotse.readthedocs.io/en/latest/datasets.html. They are read as plain data; lhotse is not needed.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from nestvox.corpora.prepare.folder import Prepared, Skipped
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import TableError

__all__ = ["prepare_lhotse"]

_SEXES = {"f": "f", "female": "f", "m": "m", "male": "m"}
_SCHEMA = {
    **dict.fromkeys(("utt_id", "path", "speaker"), pl.String),
    **dict.fromkeys(("start_s", "duration_s"), pl.Float64),
    **dict.fromkeys(("session", "sex", "language"), pl.String),
}


def prepare_lhotse(
    recordings: str | Path, supervisions: str | Path, *, root: str | Path | None = None, corpus: str | None = None
) -> Prepared:
    """Make a table of a pair of manifests; audio files are not opened.

    A supervision is an utterance, its recording is the session. Where the supervision covers its recording from
    start to end, `start_s` is null: the whole file. Supervisions without a speaker or a recording, recordings that are
    no plain file, and supervisions of one channel of several (as of two sides of a telephone call, which reading would
    mix) are skipped and listed.

    Args:
        recordings: ``.jsonl`` or ``.jsonl.gz``.
        supervisions: ``.jsonl`` or ``.jsonl.gz``.
        root: folder that relative paths start from; None takes the current one, as lhotse does.
        corpus: value of the `corpus` column; None leaves the column out.

    Raises:
        TableError: a manifest that is missing or malformed (with its line), or no usable supervision.
    """
    recordings, supervisions = Path(recordings), Path(supervisions)
    files: dict[str, _Recording] = {}
    for line, item in _items(recordings):
        name = _text(item, "id", recordings, line)
        source, problem = _source(item)
        channels = item["sources"][0].get("channels") if source is not None else None
        files[name] = _Recording(source, _number(item, "duration", recordings, line), problem, _listed(channels))
    rows, skipped = [], []
    for line, item in _items(supervisions):
        name = _text(item, "id", supervisions, line)
        recording = _text(item, "recording_id", supervisions, line)
        file = files.get(recording, _Recording(problem=f"recording {recording} is not in the manifest"))
        speaker = item.get("speaker")
        problem = file.problem or ("" if speaker else "has no speaker") or _one_of_several(item, file)
        if problem:
            skipped.append(Skipped(name, problem))
            continue
        start_s = _number(item, "start", supervisions, line)
        duration_s = _number(item, "duration", supervisions, line)
        whole = start_s == 0 and abs(duration_s - file.length_s) < 1e-3
        rows.append(
            {
                "utt_id": name,
                "path": file.path,
                "speaker": str(speaker),
                "start_s": None if whole else start_s,
                "duration_s": duration_s,
                "session": recording,
                "sex": _SEXES.get(str(item.get("gender") or "").lower()),
                "language": item.get("language"),
            }
        )
    if not rows:
        first = f"; {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise TableError(f"no usable supervision ({len(skipped)} skipped{first})", source=supervisions)
    frame = pl.DataFrame(rows, schema=_SCHEMA)
    frame = frame.select(column for column in frame if column.null_count() < frame.height)
    if corpus is not None:
        frame = frame.with_columns(pl.lit(corpus).alias("corpus"))
    return Prepared(
        UtteranceTable(frame, str(supervisions), Path.cwd() if root is None else Path(root)), tuple(skipped)
    )


@dataclass(frozen=True)
class _Recording:
    """One file of a manifest; `path` is None where there is a `problem`."""

    path: str | None = None
    length_s: float = 0.0
    problem: str = ""
    channels: tuple[Any, ...] = ()


def _listed(channels: Any) -> tuple[Any, ...]:
    if isinstance(channels, list):
        return tuple(channels)
    return () if channels is None else (channels,)


def _one_of_several(item: dict[str, Any], file: _Recording) -> str:
    """Say that a supervision is of fewer channels than its recording has, or nothing."""
    own = _listed(item.get("channel"))
    if len(file.channels) < 2 or set(map(str, own)) >= set(map(str, file.channels)):
        return ""
    return (
        f"is of channel {', '.join(map(str, own)) or '0'} of {len(file.channels)}, and channels are averaged; write "
        "them to files of their own"
    )


def _items(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise TableError("no such file", source=path)
    line = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line, text in enumerate(file, start=1):  # the error below names the line
                if text.strip():
                    item = json.loads(text)
                    if not isinstance(item, dict):
                        raise TableError("expected one JSON object a line", source=path, line=line)
                    yield line, item
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise TableError(f"is not JSON lines: {error}", source=path, line=line or None) from error


def _source(item: dict[str, Any]) -> tuple[str | None, str]:
    """Path of the one file of a recording, or why there is none."""
    sources = item.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        return None, "its recording has not exactly one source"
    kind = sources[0].get("type")
    if kind != "file":
        return None, f"its recording comes from a {kind}, not from a file"
    if item.get("transforms"):
        return None, "its recording is changed by transforms; write the changed audio to files"
    return str(sources[0].get("source")), ""


def _text(item: dict[str, Any], key: str, path: Path, line: int) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value:
        raise TableError(f"{key} is not a text", source=path, line=line, column=key)
    return value


def _number(item: dict[str, Any], key: str, path: Path, line: int) -> float:
    value = item.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TableError(f"{key} is not a number of seconds", source=path, line=line, column=key)
    return float(value)
