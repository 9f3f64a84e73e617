"""Copies of a table's audio as it would sound in noise, in a room or through a telephone: what to test a system on.

A robust system is told from a fragile one by the same trials heard twice, as recorded and augmented. Numbers measured
on such copies carry the label ``augmented``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl

from nestvox.atomic import names_in, write_text
from nestvox.audio.augment import Augmentation, Banks, Treatment, augment, utterance_rng
from nestvox.audio.banks import SpeechBank, Voice
from nestvox.audio.read import SAMPLE_RATE
from nestvox.audio.write import whole_length, write_audio
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable, table_sha256, write_utterances
from nestvox.differences import differences, differences_in_words
from nestvox.errors import TableError
from nestvox.gate import read_json
from nestvox.progress import Progress, silent

AUGMENTED_TABLE = "utterances.tsv"

_PLAN = "augmentation.json"
_MADE = ("noise", "snr_db", "reverb", "codec", "augmented")


def voices_of(table: UtteranceTable, *, sample_rate: int = SAMPLE_RATE) -> SpeechBank:
    """Return the utterances of a table as voices for babble.

    Args:
        table: not empty.
        sample_rate: of what is drawn, in Hz.
    """
    voices = [
        Voice(one.path, speaker, one.start_s, one.duration_s, one.channel)
        for one, speaker in zip(table.segments(), table.frame["speaker"].to_list(), strict=True)
    ]
    return SpeechBank(voices, sample_rate=sample_rate)


def named_by_id(trials: Trials, table: UtteranceTable) -> Trials:
    """Return trials with every utterance named by its `utt_id`, which stays when its file becomes another.

    Raises:
        TableError: a name that the table does not have.
    """
    names = table.frame["utt_id"]
    sides = {side: names.gather(table.resolve(trials.frame[side])) for side in ("enrol", "test")}
    return Trials(trials.frame.with_columns(**sides), trials.source)


def write_augmented(
    table: UtteranceTable,
    out: str | Path,
    *,
    augmentation: Augmentation,
    banks: Banks,
    seed: int = 0,
    workers: int = 2,
    progress: Progress = silent,
) -> UtteranceTable:
    """Write one augmented copy of every utterance as 16-bit FLAC at 16 kHz, and a table of them under the same names.

    What is done to an utterance follows from `seed` and its `utt_id` alone. The table says it in the columns `noise`
    (kind), `snr_db`, `reverb`, `codec` and `augmented`; another speed makes another speaker (``id1#speed0.9``). Each
    file appears whole or not at all, and the table last; the same call after an interrupt goes on, and makes again what
    is not whole, or not as long as its utterance.

    Args:
        table: utterances; `start_s`, `duration_s` and `channel` say what of a file they are.
        out: folder for ``audio/`` and ``utterances.tsv``; new, empty, or begun by the same call.
        augmentation: settings.
        banks: at 16 kHz.
        seed: of all that is drawn.
        workers: threads.
        progress: utterances written of all.

    Returns:
        The table that was written.

    Raises:
        AudioError: a recording or a file of the banks cannot be used, or a copy not be written.
        AugmentationError: the banks lack what the settings ask for.
        TableError: the settings change nothing, or `out` holds something else.
    """
    if augmentation.nothing:
        raise TableError("nothing would be changed: ask for noise, rooms, another speed, clipping or a channel")
    augmentation.check_banks(banks)
    banks.check_rate(SAMPLE_RATE)
    out = Path(out)
    _begin(out, table, {"augmentation": augmentation.config(), "banks": banks.config(), "seed": seed})
    treatments = [augmentation.draw(utterance_rng(seed, name, 1)) for name in table.frame["utt_id"].to_list()]
    paths = [f"audio/{row:08d}.flac" for row in range(len(table))]
    segments = table.segments()
    speakers = table.frame["speaker"].to_list()

    def one(row: int) -> float:
        path = out / paths[row]
        there = whole_length(path)
        heard = None if there is None else segments[row].read()
        if there is None or heard is None or abs(there - len(heard.samples) / treatments[row].speed) > 2:
            heard = heard or segments[row].read()
            varied = augment(heard.samples, treatments[row], banks, speaker=speakers[row])
            write_audio(path, varied, SAMPLE_RATE)
            there = len(varied)
        return there / SAMPLE_RATE

    lengths: list[float] = []
    pool = ThreadPoolExecutor(workers, thread_name_prefix="nestvox-augment")
    try:
        for length in pool.map(one, range(len(table))):
            lengths.append(length)
            progress(len(lengths), len(table))
    finally:
        pool.shutdown(cancel_futures=True)
    written = UtteranceTable(_described(table.frame, paths, lengths, treatments), str(out / AUGMENTED_TABLE), out)
    write_utterances(written, out / AUGMENTED_TABLE)
    return written


def _begin(out: Path, table: UtteranceTable, settings: dict[str, Any]) -> None:
    plan = {**settings, "root": str(table.root), "rows": len(table), "table_sha256": table_sha256(table.frame)}
    if (out / _PLAN).is_file():
        begun = read_json(out / _PLAN, lambda problem, source: TableError(problem, source=source))
        if different := differences(begun if isinstance(begun, dict) else {}, plan):
            raise TableError(
                f"was begun with other settings ({differences_in_words(different)}); give the same ones to go on, or a "
                "new folder",
                source=out,
            )
    elif out.exists() and (not out.is_dir() or names_in(out)):
        raise TableError("is not empty; give a new folder", source=out)
    else:
        write_text(out / _PLAN, json.dumps(plan, indent=2, sort_keys=True) + "\n")


def _described(
    frame: pl.DataFrame, paths: Iterable[str], lengths: Iterable[float], treatments: list[Treatment]
) -> pl.DataFrame:
    speakers = [name + one.suffix for name, one in zip(frame["speaker"].to_list(), treatments, strict=True)]
    return frame.drop("start_s", "duration_s", "channel", *_MADE, strict=False).with_columns(
        pl.Series("path", list(paths), pl.String),
        pl.Series("speaker", speakers, pl.String),
        pl.Series("duration_s", [round(length, 3) for length in lengths], pl.Float64),
        pl.Series("noise", [treatment.kind or "none" for treatment in treatments], pl.String),
        pl.Series("snr_db", [round(t.snr_db, 1) if t.kind else None for t in treatments], pl.Float64),
        pl.Series("reverb", [t.reverb for t in treatments], pl.Boolean),
        pl.Series("codec", [t.channel or "none" for t in treatments], pl.String),
        pl.lit(value=True).alias("augmented"),
    )
