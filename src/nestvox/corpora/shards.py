"""The audio of a table in a few large tar files, in the layout of WebDataset: written, and made into a table.

A sample is an audio file and a JSON object with the same key (``00000017.flac``, ``00000017.json``). Rows of the new
table name members by their place (`audio.archives`), so that every command reads them without unpacking anything, in
the order of the shards or in any other.

The layout: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

from __future__ import annotations

import hashlib
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

from nestvox.atomic import atomic_path, names_in, write_text
from nestvox.audio.archives import ArchiveMember, member_of, members_in, read_bytes
from nestvox.audio.errors import UnreadableAudioError
from nestvox.audio.read import EXTENSIONS
from nestvox.corpora.prepare.folder import Prepared, Skipped, prepared
from nestvox.corpora.utterances import UtteranceTable, write_utterances
from nestvox.differences import differences, differences_in_words
from nestvox.errors import AudioError, TableError
from nestvox.gate import decode, parse_json, read_json
from nestvox.locking import held
from nestvox.names import NO_TEXT, is_text
from nestvox.progress import Progress, silent

SHARD_TABLE = "utterances.tsv"

_MIB = 1 << 20
_MOST_FIELDS = 256  # of the JSON of a sample
_MOST_COLUMNS = 1024  # of all samples together
_BEGUN = ".begun.json"  # for what the shards of an unfinished folder are


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
    shard appears whole or not at all, and the table last: called again after any interrupt, it goes on behind the last
    shard.

    Args:
        table: utterances.
        out: folder for ``shard-000000.tar`` and so on and for ``utterances.tsv``; new or empty, or begun by an earlier
            call with the same table.
        shard_mib: MiB of audio after which the next shard begins.
        progress: rows copied of all.

    Returns:
        The table that was written.

    Raises:
        AudioError: a file is missing or empty, or a shard that is there already is damaged.
        NestvoxError: another process is writing there.
        TableError: `out` holds something else, or the table does not fit into a TSV.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise TableError("is not a folder; give a new one", source=out)
    with held(out):
        return _write_shards(table, out, shard_mib, progress)


def _write_shards(table: UtteranceTable, out: Path, shard_mib: int, progress: Progress) -> UtteranceTable:
    _begin(table, out, shard_mib)
    files = table.frame.with_row_index("__row").group_by("path", maintain_order=True).agg(pl.col("__row"))
    paths = dict(zip(files["path"].to_list(), files["__row"].to_list(), strict=True))
    places: list[str] = [""] * len(table)
    waiting = deque(enumerate(paths.items()))
    rows_done = 0

    def place(member: ArchiveMember) -> None:
        nonlocal rows_done
        _, (_, rows) = waiting.popleft()
        for row in rows:
            places[row] = str(member.path)
        rows_done += len(rows)
        progress(rows_done, len(table))

    for shard in itertools.count():
        if not waiting:
            break
        name = f"shard-{shard:06d}.tar"
        if (out / name).exists():
            for member in members_in(out / name):
                if member.name.endswith(".json"):
                    continue
                if not waiting or member.name != _name_of(*waiting[0]):
                    raise TableError(f"{name} does not hold what the table names; delete the folder", source=out)
                there = _size(table.root / waiting[0][1][0])
                if member.size not in (None, there):
                    raise TableError(
                        f"{name} has {member.size:,} bytes of {waiting[0][1][0]}, whose file has {there:,}: delete the "
                        "shard, and run the same command again",
                        source=out,
                    )
                place(replace(member, archive=Path(name)))
            continue
        with atomic_path(out / name) as temporary, tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as archive:
            while waiting and archive.offset < shard_mib * _MIB:
                number, (path, rows) = waiting[0]
                audio = _name_of(*waiting[0])
                member = ArchiveMember(Path(name), audio, archive.offset)
                _add(archive, audio, _content(table.root / path))
                _add(archive, f"{number:08d}.json", _described(table.frame[rows]))
                place(member)
    written = UtteranceTable(table.frame.with_columns(pl.Series("path", places, pl.String)), str(out), out)
    write_utterances(written, out / SHARD_TABLE)
    (out / _BEGUN).unlink()
    return written


def _begin(table: UtteranceTable, out: Path, shard_mib: int) -> None:
    """Note what the folder is to hold, or see that an earlier call with the same table began it."""
    rows = table.frame.write_csv(separator="\t").encode()
    plan = {"rows": len(table), "table_sha256": hashlib.sha256(rows).hexdigest(), "shard_mib": shard_mib}
    begun, holds = out / _BEGUN, set(names_in(out))
    if holds and not begun.is_file():
        raise TableError("is not empty; give a new folder", source=out)
    if holds - {_BEGUN} and (different := differences(_plan_in(begun), plan)):
        raise TableError(
            f"was begun with other settings ({differences_in_words(different)}); delete it, or give a new folder",
            source=out,
        )
    write_text(begun, json.dumps(plan))


def _plan_in(path: Path) -> dict[str, Any]:
    found = read_json(path, lambda problem, source: TableError(problem, source=source))
    return found if isinstance(found, dict) else {}


def _name_of(number: int, file: tuple[str, list[int]]) -> str:
    return f"{number:08d}{PurePosixPath(file[0]).suffix.lower()}"


def _size(path: Path) -> int:
    if member_of(path) is not None:
        return len(read_bytes(path))
    try:
        return path.stat().st_size
    except OSError as error:
        raise UnreadableAudioError(path, error.strerror or str(error)) from error


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
        for sample in _samples(archive, speaker, skipped):
            try:
                rows += _rows(sample, speaker, root)
            except AudioError as error:
                skipped.append(Skipped(f"{archive}::{sample.key}", error.problem))
        progress(number + 1, len(archives))
    if not rows:
        first = f"; {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise TableError(f"no usable sample in {len(archives)} archives ({len(skipped)} skipped{first})")
    columns = {name for row in rows for name in row}
    if len(columns) > _MOST_COLUMNS:
        raise TableError(f"the samples have {len(columns):,} fields; a table has at most {_MOST_COLUMNS}")
    frame = pl.DataFrame(rows, infer_schema_length=None, strict=False)
    first_columns = ["utt_id", "path", "speaker"]
    frame = frame.select(*first_columns, pl.exclude(first_columns))
    return prepared(frame, archives[0], root, skipped, corpus)


def _samples(archive: Path, speaker: str, skipped: list[Skipped]) -> Iterator[_Sample]:
    """Yield neighbours that share a key: the name up to the first dot behind the last slash."""
    members: list[ArchiveMember] = []
    shared = ""
    try:
        for member in members_in(archive):
            name = PurePosixPath(member.name)
            stem, _, _ = name.name.partition(".")
            key = str(name.with_name(stem)) if stem else str(name)
            if members and key != shared:
                yield from _apart(archive, shared, members, speaker)
                members = []
            shared = key
            members.append(member)
    except AudioError as error:
        # The sample before the damage may lack its last members.
        skipped.append(Skipped(str(archive), error.problem))
        return
    if members:
        yield from _apart(archive, shared, members, speaker)


def _apart(archive: Path, shared: str, members: Sequence[ArchiveMember], speaker: str) -> Iterator[_Sample]:
    """Make one sample of neighbours; or several, where the members with the speaker say that keys have dots.

    WeSpeaker's archives are so: ``id10001/x/00001.wav.spk`` and ``id10001/x/00001.wav.wav`` are the utterance
    ``id10001/x/00001.wav``.
    """
    told = [member.name.removesuffix(speaker) for member in members if member.name.endswith(speaker)]
    dotted = speaker.startswith(".") and any(key != shared for key in told)
    keys = [*told, *(str(PurePosixPath(member.name).with_suffix("")) for member in members if _is_audio(member))]
    for key in dict.fromkeys(keys) if dotted else [shared]:
        sample = _Sample(archive, key)
        for member in members:
            ending = member.name.removeprefix(key).lower()
            if not member.name.startswith(f"{key}."):
                continue
            if _is_audio(member) and (ending in EXTENSIONS or not dotted):
                sample.audio.append(member)
            else:
                sample.texts[ending] = member
        yield sample


def _is_audio(member: ArchiveMember) -> bool:
    return PurePosixPath(member.name).suffix.lower() in EXTENSIONS


def _rows(sample: _Sample, speaker: str, root: Path) -> Iterable[dict[str, Any]]:
    """Rows of a sample.

    Raises:
        AudioError: why there are none.
    """
    if len(sample.audio) != 1:
        raise AudioError(sample.archive, f"{len(sample.audio) or 'no'} audio files under one key")
    (audio,) = sample.audio
    if not is_text(audio.name):
        raise AudioError(sample.archive, NO_TEXT)
    described: Any = {}
    if ".json" in sample.texts:
        described = _json(sample.archive, read_bytes(sample.texts[".json"].path))
    several = isinstance(described, list)
    objects = described if several else [described]
    place = replace(audio, archive=_beneath(audio.archive, root)).path
    rows = []
    for number, item in enumerate(objects):
        if not isinstance(item, Mapping):
            raise AudioError(sample.archive, "its JSON holds no object")
        if len(item) > _MOST_FIELDS:
            raise AudioError(sample.archive, f"its JSON has {len(item):,} fields; {_MOST_FIELDS} are the most")
        row = {name: _plain(value) for name, value in item.items() if isinstance(value, str | int | float)}
        channel = row.get("channel")
        if isinstance(channel, str) and not channel.isdecimal():  # a microphone or a line: in a table it is a number
            row["channel_name"] = row.pop("channel")
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


def _json(archive: Path, content: bytes) -> Any:
    def error(problem: str, _source: str) -> AudioError:
        return AudioError(archive, f"its JSON cannot be read: {problem}")

    return parse_json(decode(content, str(archive), error), str(archive), error)


def _plain(value: str | float) -> str | float:
    """A value as a column can hold it: a whole number of more than 64 bits is a name."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 63 else value


def _beneath(archive: Path, root: Path) -> Path:
    here, there = archive.resolve(), root.resolve()
    return here.relative_to(there) if here.is_relative_to(there) else here
