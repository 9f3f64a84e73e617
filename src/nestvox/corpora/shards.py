"""The audio of a table in a few large tar files, in the layout of WebDataset: written, and made into a table.

A sample is an audio file and a JSON object with the same key (``00000017.flac``, ``00000017.json``). Rows of the new
table name members by their place (`audio.archives`), so that every command reads them without unpacking anything, in
the order of the shards or in any other.

The layout: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from nestvox.atomic import atomic_path
from nestvox.audio.archives import ArchiveMember, members_in, read_bytes
from nestvox.audio.errors import UnreadableAudioError
from nestvox.audio.read import EXTENSIONS
from nestvox.corpora.prepare.folder import Prepared, Skipped
from nestvox.corpora.utterances import UtteranceTable, write_utterances
from nestvox.errors import AudioError, TableError
from nestvox.progress import Progress, silent

__all__ = ["SHARD_TABLE", "prepare_shards", "write_shards"]

SHARD_TABLE = "utterances.tsv"

_MIB = 1 << 20


@dataclass(frozen=True)
class _Sample:
    archive: Path
    key: str
    audio: list[ArchiveMember] = field(default_factory=list)
    texts: dict[str, ArchiveMember] = field(default_factory=dict)


def write_shards(
    table: UtteranceTable, out: str | Path, *, shard_mib: int = 1024, progress: Progress = silent
) -> UtteranceTable:
    """Copy the audio of a table, as it is, into tar files, and write a table of what is in them.

    Rows keep their order; a file that several rows name is copied once. The same table gives the same bytes. Each
    shard appears whole or not at all, and the table last: after an interrupt, delete the folder and begin again.

    Args:
        table: utterances.
        out: folder for ``shard-000000.tar`` and so on and for ``utterances.tsv``; new or empty.
        shard_mib: MiB of audio after which the next shard begins.
        progress: rows copied of all.

    Returns:
        The table that was written.

    Raises:
        AudioError: a file is missing or empty.
        TableError: `out` is not empty, or the table does not fit into a TSV.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TableError("is not empty; give a new folder", source=out)
    out.mkdir(parents=True, exist_ok=True)
    files = table.frame.with_row_index("__row").group_by("path", maintain_order=True).agg(pl.col("__row"))
    paths = dict(zip(files["path"].to_list(), files["__row"].to_list(), strict=True))
    places: list[str] = [""] * len(table)
    waiting = deque(enumerate(paths.items()))
    rows_done = 0
    for shard in itertools.count():
        if not waiting:
            break
        name = f"shard-{shard:06d}.tar"
        with atomic_path(out / name) as temporary, tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as archive:
            while waiting and archive.offset < shard_mib * _MIB:
                number, (path, rows) = waiting.popleft()
                audio = f"{number:08d}{PurePosixPath(path).suffix.lower()}"
                place = ArchiveMember(Path(name), audio, archive.offset).path
                _add(archive, audio, _content(table.root / path))
                _add(archive, f"{number:08d}.json", _described(table.frame[rows]))
                for row in rows:
                    places[row] = str(place)
                rows_done += len(rows)
                progress(rows_done, len(table))
    written = UtteranceTable(table.frame.with_columns(pl.Series("path", places, pl.String)), str(out), out)
    write_utterances(written, out / SHARD_TABLE)
    return written


def _content(path: Path) -> bytes:
    content = read_bytes(path)
    if not content:
        raise UnreadableAudioError(path, "the file is empty (0 bytes)")
    return content


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # no time and no owner: the same table gives the same bytes
    info.size, info.mode = len(content), 0o644
    archive.addfile(info, io.BytesIO(content))


def _described(rows: pl.DataFrame) -> bytes:
    """One object for a file that is one utterance, a list of them for one that is cut into several."""
    described = [
        {name: value for name, value in row.items() if name != "path" and value is not None}
        for row in rows.iter_rows(named=True)
    ]
    content: Any = described[0] if len(described) == 1 else described
    return json.dumps(content, ensure_ascii=False, sort_keys=True).encode()


def prepare_shards(
    archives: Sequence[str | Path],
    *,
    speaker: str = "speaker",
    root: str | Path = ".",
    corpus: str | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Make a table of tar files in the layout of WebDataset, whoever wrote them; audio is not opened.

    Of a sample's JSON every text, number and truth value becomes a column; `utt_id` is its own, or the key. A sample
    without audio, with several audio files or without a speaker is skipped and listed, and so is what stands behind
    the damage of a damaged archive.

    Args:
        archives: plain tar files, in the order that the table is to have.
        speaker: field of the JSON with the speaker, or, with a dot, the ending of a member whose text is the speaker
            (``.spk``, ``.txt``, ``.cls``).
        root: folder that the table's paths start from, where archives are beneath it.
        corpus: value of the `corpus` column; None leaves the column out.
        progress: archives read of all.

    Raises:
        TableError: no usable sample.
    """
    root = Path(root)
    rows: list[dict[str, Any]] = []
    skipped: list[Skipped] = []
    for number, archive in enumerate(map(Path, archives)):
        for sample in _samples(archive, skipped):
            try:
                rows += _rows(sample, speaker, root)
            except AudioError as error:
                skipped.append(Skipped(f"{archive}::{sample.key}", error.problem))
        progress(number + 1, len(archives))
    if not rows:
        first = f"; {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise TableError(f"no usable sample in {len(archives)} archives ({len(skipped)} skipped{first})")
    frame = pl.DataFrame(rows, infer_schema_length=None, strict=False)
    if corpus is not None:
        frame = frame.with_columns(pl.lit(corpus).alias("corpus"))
    first_columns = ["utt_id", "path", "speaker"]
    frame = frame.select(*first_columns, pl.exclude(first_columns))
    return Prepared(UtteranceTable(frame, str(archives[0]), root), tuple(skipped))


def _samples(archive: Path, skipped: list[Skipped]) -> Iterator[_Sample]:
    """Yield neighbours that share a key: the name up to the first dot behind the last slash."""
    sample: _Sample | None = None
    try:
        for member in members_in(archive):
            name = PurePosixPath(member.name)
            stem, _, ending = name.name.partition(".")
            key = str(name.with_name(stem)) if stem else str(name)
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = _Sample(archive, key)
            if name.suffix.lower() in EXTENSIONS:
                sample.audio.append(member)
            else:
                sample.texts[f".{ending.lower()}"] = member
    except AudioError as error:
        # The sample before the damage may lack its last members.
        skipped.append(Skipped(str(archive), error.problem))
        return
    if sample is not None:
        yield sample


def _rows(sample: _Sample, speaker: str, root: Path) -> Iterable[dict[str, Any]]:
    """Rows of a sample.

    Raises:
        AudioError: why there are none.
    """
    if len(sample.audio) != 1:
        raise AudioError(sample.archive, f"{len(sample.audio) or 'no'} audio files under one key")
    (audio,) = sample.audio
    described: Any = {}
    if ".json" in sample.texts:
        try:
            described = json.loads(read_bytes(sample.texts[".json"].path))
        except ValueError as error:
            raise AudioError(sample.archive, f"its JSON cannot be read: {error}") from error
    several = isinstance(described, list)
    objects = described if several else [described]
    place = replace(audio, archive=_beneath(audio.archive, root)).path
    rows = []
    for number, item in enumerate(objects):
        if not isinstance(item, Mapping):
            raise AudioError(sample.archive, "its JSON holds no object")
        row = {name: value for name, value in item.items() if isinstance(value, str | int | float)}
        if speaker.startswith("."):
            if speaker not in sample.texts:
                raise AudioError(sample.archive, f"has no member {speaker} with its speaker")
            row["speaker"] = read_bytes(sample.texts[speaker].path).decode("utf-8", "replace").strip()
        elif speaker != "speaker" and speaker in row:
            row["speaker"] = row.pop(speaker)
        if not str(row.get("speaker", "")).strip():
            raise AudioError(sample.archive, f"has no speaker in {speaker}")
        name = f"{sample.key}#{number}" if several else sample.key
        row["utt_id"] = str(row.get("utt_id") or name)
        rows.append({**row, "speaker": str(row["speaker"]), "path": str(place)})
    return rows


def _beneath(archive: Path, root: Path) -> Path:
    here, there = archive.resolve(), root.resolve()
    return here.relative_to(there) if here.is_relative_to(there) else here
