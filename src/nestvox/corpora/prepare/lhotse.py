"""Lhotse manifests become an utterance table.

A manifest is JSON lines, plain or gzipped: recordings (``id``, ``sources``, ``sampling_rate``, ``duration``) and
supervisions (``id``, ``recording_id``, ``start``, ``duration``, ``speaker``, ``gender``, ``language``), or cuts, which
hold both; see https://lhotse.readthedocs.io/en/latest/datasets.html. They are read as plain data; lhotse is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from nestvox.corpora.prepare.folder import Prepared, Skipped, prepared
from nestvox.corpora.prepare.manifest import json_lines, name_in, seconds_in, text_in
from nestvox.errors import TableError
from nestvox.names import name_key

_SEXES = {"f": "f", "female": "f", "m": "m", "male": "m"}
_SCHEMA = {
    **dict.fromkeys(("utt_id", "path", "speaker"), pl.String),
    **dict.fromkeys(("start_s", "duration_s"), pl.Float64),
    "channel": pl.Int64,
    **dict.fromkeys(("session", "sex", "language"), pl.String),
}


def prepare_lhotse(
    recordings: str | Path,
    supervisions: str | Path | None = None,
    *,
    root: str | Path | None = None,
    corpus: str | None = None,
) -> Prepared:
    """Make a table of a pair of manifests, or of one of cuts; audio files are not opened.

    A supervision is an utterance, its recording is the session. Where the supervision covers its recording from
    start to end, `start_s` is null: the whole file. Of a cut, the part that its supervision covers is an utterance of
    the cut's name; of a cut with several supervisions, each. Supervisions without a speaker or a recording, recordings
    that are no plain file, cuts that are mixed of others, and supervisions of a part of several channels are skipped
    and listed. A supervision of one channel of several (as of one side of a telephone call) has it in the column
    `channel`, counted from 0 in the file.

    Args:
        recordings: ``.jsonl`` or ``.jsonl.gz``; of cuts where `supervisions` is None.
        supervisions: ``.jsonl`` or ``.jsonl.gz``.
        root: folder that relative paths start from; None takes the current one, as lhotse does.
        corpus: value of the `corpus` column; None leaves the column out.

    Raises:
        TableError: a manifest that is missing or malformed (with its line), or no usable supervision.
    """
    recordings = Path(recordings)
    source = recordings if supervisions is None else Path(supervisions)
    spoken = _of_cuts(recordings) if supervisions is None else _of_pair(recordings, source)
    rows, skipped = [], []
    for one in spoken:
        problem = one.problem or one.file.problem or ("" if one.speaker else "has no speaker")
        channel, one_of_several = _channel_of(one.channel, one.file)
        problem = problem or one_of_several
        if problem:
            skipped.append(Skipped(one.name, problem))
            continue
        whole = one.start_s == 0 and abs(one.duration_s - one.file.length_s) < 1e-3
        rows.append(
            {
                "utt_id": one.name,
                "path": one.file.path,
                "speaker": one.speaker,
                "start_s": None if whole else one.start_s,
                "duration_s": one.duration_s,
                "channel": channel,
                "session": one.file.name,
                "sex": _SEXES.get(str(one.item.get("gender") or "").lower()),
                "language": language if isinstance(language := one.item.get("language"), str) else None,
            }
        )
    if not rows:
        first = f"; {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise TableError(f"no usable supervision ({len(skipped)} skipped{first})", source=source)
    frame = pl.DataFrame(rows, schema=_SCHEMA)
    frame = frame.select(column for column in frame if column.null_count() < frame.height)
    return prepared(frame, source, Path.cwd() if root is None else Path(root), skipped, corpus)


@dataclass(frozen=True)
class _Spoken:
    """A stretch of a recording and what is said of it."""

    name: str
    file: _Recording
    item: dict[str, Any]
    speaker: str | None = None
    start_s: float = 0.0
    duration_s: float = 0.0
    channel: Any = None
    problem: str = ""


def _of_pair(recordings: Path, supervisions: Path) -> Iterator[_Spoken]:
    files: dict[str, _Recording] = {}
    for line, item in json_lines(recordings):
        if "supervisions" in item:
            raise TableError("is a manifest of cuts; give it alone", source=recordings, line=line)
        file = _recording(item, recordings, line)
        if files.setdefault(name_key(file.name), file) != file:
            raise TableError(
                f"the recording {file.name!r} stands there already, with another file", source=recordings, line=line
            )
    for line, item in json_lines(supervisions):
        name = text_in(item, "id", supervisions, line)
        recording = text_in(item, "recording_id", supervisions, line)
        lost = _Recording(problem=f"recording {recording} is not in the manifest")
        speaker = name_in(item, "speaker", supervisions, line)
        times = [seconds_in(item, key, supervisions, line) for key in ("start", "duration") if speaker or key in item]
        start_s, duration_s = times if len(times) == 2 else (0.0, 0.0)
        yield _Spoken(
            name, files.get(name_key(recording), lost), item, speaker, start_s, duration_s, item.get("channel")
        )


def _of_cuts(cuts: Path) -> Iterator[_Spoken]:
    for line, item in json_lines(cuts):
        name = text_in(item, "id", cuts, line)
        if "sources" in item or "recording_id" in item:
            what = "recordings" if "sources" in item else "supervisions"
            raise TableError(
                f"is a manifest of {what}: give that of recordings and that of supervisions, or one of cuts alone",
                source=cuts,
                line=line,
            )
        if not isinstance(item.get("recording"), dict):
            kind = item.get("type", "a cut without a recording")
            mixed = "is mixed of other cuts" if "tracks" in item else f"has no recording ({kind})"
            yield _Spoken(name, _Recording(), item, problem=f"{mixed}; write its audio to a file")
            continue
        file = _recording(item["recording"], cuts, line)
        found = item.get("supervisions")
        spoken = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        if not spoken:
            yield _Spoken(name, file, item, problem="has no supervision, so that nobody says who speaks")
        for one in spoken:
            speaker = name_in(one, "speaker", cuts, line)
            length_s = seconds_in(item, "duration", cuts, line)
            # Of a supervision that reaches out of its cut, the part within; its times count from the cut's start.
            begin_s = max(0.0, seconds_in(one, "start", cuts, line) if "start" in one else 0.0)
            end_s = length_s
            if "start" in one and "duration" in one:
                end_s = min(length_s, seconds_in(one, "start", cuts, line) + seconds_in(one, "duration", cuts, line))
            yield _Spoken(
                name if len(spoken) == 1 else f"{name}/{text_in(one, 'id', cuts, line)}",
                file,
                one,
                speaker,
                round(seconds_in(item, "start", cuts, line) + begin_s, 9),
                round(end_s - begin_s, 9),
                one.get("channel", item.get("channel")),
                "" if end_s > begin_s else "lies outside of its cut",
            )


@dataclass(frozen=True)
class _Recording:
    """One file of a manifest; `path` is None where there is a `problem`."""

    name: str = ""
    path: str | None = None
    length_s: float = 0.0
    problem: str = ""
    channels: tuple[Any, ...] = ()


def _listed(channels: Any) -> tuple[Any, ...]:
    if isinstance(channels, list):
        return tuple(channels)
    return () if channels is None else (channels,)


def _channel_of(channel: Any, file: _Recording) -> tuple[int | None, str]:
    """Place in its file of the one channel that a supervision is of, None: all are; and why it is of no use."""
    own = tuple(map(str, _listed(channel) or (0,)))  # lhotse's own default
    there = tuple(map(str, file.channels))
    if len(there) < 2 or set(own) >= set(there):
        return None, ""
    unknown = [name for name in own if name not in there]
    if unknown:
        return None, f"is of channel {unknown[0]}, and its recording has {', '.join(there)}"
    if len(own) > 1:
        return None, (
            f"is of channels {', '.join(own)} of {len(there)}, and a table knows one or all; write them to a file"
        )
    return there.index(own[0]), ""


def _recording(item: dict[str, Any], path: Path, line: int) -> _Recording:
    name = text_in(item, "id", path, line)
    source, problem = _source(item)
    channels = item["sources"][0].get("channels") if source is not None else None
    return _Recording(name, source, seconds_in(item, "duration", path, line), problem, _listed(channels))


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
    path = sources[0].get("source")
    return (path, "") if isinstance(path, str) and path else (None, "its recording names no file")
