"""Data sets whose audio stands inside Parquet files, as Hugging Face keeps them, become files and an utterance table.

A cell is a structure of ``bytes`` and ``path``, or bytes alone. Files are read batch by batch with pyarrow; the library
`datasets` is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from nestvox.atomic import write_bytes
from nestvox.corpora.prepare.folder import Prepared, Skipped, durations, prepared
from nestvox.errors import AudioError, TableError
from nestvox.extras import require
from nestvox.progress import Progress, silent

_ROWS = 32  # held at once
_STRANGE = re.compile(r"[^\w.-]+")
_KINDS = ((b"RIFF", ".wav"), (b"fLaC", ".flac"), (b"OggS", ".ogg"), (b"ID3", ".mp3"), (b"\xff\xfb", ".mp3"))


def prepare_parquet(
    paths: Sequence[str | Path],
    audio_out: str | Path,
    *,
    audio_column: str = "audio",
    speaker_column: str = "speaker",
    id_column: str | None = None,
    corpus: str | None = None,
    workers: int = 4,
    progress: Progress = silent,
) -> Prepared:
    """Write the audio of Parquet files to a folder, and make a table of it.

    A file is named after its id, else after the path in its cell, else after its row; ``+`` and ``/`` part folders, so
    that ``id10270+5r0dWxy17C8+00001`` lies where VoxCeleb's lists expect it. A file that is there with as many bytes is
    left, so that a run that was stopped goes on. Rows without audio, and audio that cannot be opened, are skipped and
    listed.

    Args:
        paths: the Parquet files, in order.
        audio_out: folder that the audio is written to.
        audio_column: of the cells.
        speaker_column: of the speakers; where there is none, the first part of the id is the speaker.
        id_column: of the ids; None: ``id`` where there is one.
        corpus: value of the `corpus` column; None leaves the column out.
        workers: threads that open the files written.
        progress: rows done of all.

    Raises:
        MissingExtraError: pyarrow is not installed.
        TableError: no Parquet file, a column that is not there, neither speakers nor ids, two rows of one name, or no
            audio that can be read.
    """
    audio = Path(audio_out)
    rows: list[dict[str, str]] = []
    skipped: list[Skipped] = []
    seen: set[str] = set()
    for where, cell, speaker, name in _cells(paths, audio_column, speaker_column, id_column, progress):
        content, inside = _content(cell)
        if not content:
            skipped.append(Skipped(where, "has no bytes of audio"))
            continue
        parts = _parts(name or inside or where)
        suffix = Path(inside).suffix.lower() if inside else ""
        suffix = suffix or next((kind for magic, kind in _KINDS if content.startswith(magic)), ".wav")
        stem = "/".join(parts).removesuffix(suffix)
        if stem in seen:
            raise TableError(
                f"{where} and a row before it have the name {stem}; give --id-column", source=str(paths[0])
            )
        seen.add(stem)
        if speaker is None and len(parts) < 2:
            skipped.append(Skipped(where, "has neither a speaker nor an id whose first part is one"))
            continue
        file = audio / f"{stem}{suffix}"
        if not (file.is_file() and file.stat().st_size == len(content)):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, content)
        rows.append({"utt_id": stem, "path": f"{stem}{suffix}", "speaker": speaker or parts[0]})
    lengths = durations([audio / row["path"] for row in rows], workers=workers)
    good = []
    for row, length in zip(rows, lengths, strict=True):
        if isinstance(length, AudioError):
            skipped.append(Skipped(row["path"], length.problem))
        else:
            good.append({**row, "duration_s": length})
    if not good:
        first = f"; {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise TableError(f"no audio that can be read ({len(skipped)} rows skipped{first})", source=str(paths[0]))
    return prepared(pl.DataFrame(good), str(paths[0]), audio, skipped, corpus)


def _cells(
    paths: Sequence[str | Path], audio: str, speaker: str, name: str | None, progress: Progress
) -> Iterator[tuple[str, Any, str | None, str | None]]:
    """Where a row stands, its audio cell, its speaker and its id."""
    parquet = require("pyarrow.parquet", extra="parquet", purpose="reading audio from Parquet files")
    arrow = require("pyarrow", extra="parquet", purpose="reading audio from Parquet files")
    for path in paths:
        try:
            file = parquet.ParquetFile(path)
        except (OSError, arrow.ArrowException) as error:
            raise TableError(f"not a readable Parquet file: {str(error).splitlines()[0]}", source=str(path)) from error
        there = file.schema_arrow.names
        named = name or ("id" if "id" in there else None)
        missing = [column for column in (audio, name) if column is not None and column not in there]
        if missing or (speaker not in there and named is None):
            what = missing[0] if missing else f"{speaker} and no id"
            raise TableError(f"no column {what}; there is {', '.join(there)}", source=str(path))
        columns = [column for column in (audio, speaker, named) if column is not None and column in there]
        row = 0
        for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
            for item in batch.to_pylist():
                who, called = item.get(speaker), item.get(named or "")
                words = (None if value is None or str(value).strip() == "" else str(value) for value in (who, called))
                yield f"{Path(path).stem}-{row}", item[audio], *words
                row += 1
                progress(row, file.metadata.num_rows)


def _content(cell: Any) -> tuple[bytes, str]:
    """Bytes of a cell, and the path in it."""
    if isinstance(cell, dict):
        found, path = cell.get("bytes"), cell.get("path")
        return (found if isinstance(found, bytes) else b""), (path if isinstance(path, str) else "")
    return (cell if isinstance(cell, bytes) else b""), ""


def _parts(name: str) -> list[str]:
    """Folders and name, of letters, digits, dots and dashes only, none of them leading out."""
    parts = [_STRANGE.sub("_", part).strip(".") for part in re.split(r"[+/\\]", name)]
    return [part for part in parts if part] or ["unnamed"]
