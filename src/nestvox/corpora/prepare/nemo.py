"""NeMo manifests become an utterance table.

A manifest is JSON lines: ``audio_filepath``, ``duration`` and ``offset`` in seconds, and in ``label`` the speaker; see
https://docs.nvidia.com/nemo/speech/latest/asr/speaker_recognition/datasets.html. It is read as plain data; NeMo is not
needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from nestvox.corpora.prepare.folder import Prepared, Skipped, prepared, unique_ids
from nestvox.corpora.prepare.manifest import json_lines, name_in, seconds_in, text_in
from nestvox.errors import TableError

_SPEAKERS = ("label", "speaker", "speaker_id")
_NO_SPEAKER = frozenset({"infer", "unk", "-"})  # what stands in a manifest for diarization


def prepare_nemo(manifest: str | Path, *, root: str | Path | None = None, corpus: str | None = None) -> Prepared:
    """Make a table of a manifest; audio files are not opened.

    A line is an utterance. Its name is the path without suffix, numbered where a file has several lines. A line with an
    ``offset``, and every line of a file that has several, is a part of its file; any other is the whole file. Lines
    that name no speaker, or several files, are skipped and listed.

    Args:
        manifest: the file, ``.json`` or ``.jsonl``, or ``.gz`` of one.
        root: folder that relative paths start from; None takes that of the manifest, as NeMo does.
        corpus: value of the `corpus` column; None leaves the column out.

    Raises:
        TableError: the manifest is missing or malformed (with its line), or no line is usable.
    """
    manifest = Path(manifest)
    rows: list[dict[str, Any]] = []
    skipped: list[Skipped] = []
    for line, item in json_lines(manifest):
        if isinstance(item.get("audio_filepath"), list):
            skipped.append(Skipped(f"line {line}", "names several files; write the channel that is meant to one"))
            continue
        path = text_in(item, "audio_filepath", manifest, line)
        speaker = next(filter(None, (name_in(item, key, manifest, line) for key in _SPEAKERS)), None)
        if speaker is None or speaker.lower() in _NO_SPEAKER:
            skipped.append(Skipped(path, f"has no speaker in {_SPEAKERS[0]}" if speaker is None else f"is {speaker!r}"))
            continue
        start_s, duration_s = (
            None if item.get(key) is None else seconds_in(item, key, manifest, line) for key in ("offset", "duration")
        )
        rows.append({"path": path, "speaker": speaker, "start_s": start_s, "duration_s": duration_s})
    if not rows:
        first = f"; {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise TableError(f"no usable line ({len(skipped)} skipped{first})", source=manifest)
    schema = {"path": pl.String, "speaker": pl.String, "start_s": pl.Float64, "duration_s": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema)
    several = pl.col("path").is_duplicated()
    frame = frame.with_columns(pl.when(several).then(pl.col("start_s").fill_null(0.0)).otherwise("start_s"))
    ids = dict(zip(paths := frame["path"].unique(maintain_order=True).to_list(), unique_ids(paths), strict=True))
    number = pl.int_range(1, pl.len() + 1).over("path").cast(pl.String)
    named = pl.col("path").replace_strict(ids, return_dtype=pl.String)
    utt_id = pl.when(several).then(named + "#" + number).otherwise(named).alias("utt_id")
    frame = frame.select(utt_id, *(column for column in frame.columns if frame[column].null_count() < frame.height))
    return prepared(frame, manifest, manifest.parent if root is None else Path(root), skipped, corpus)
