"""CN-Celeb: Chinese celebrities in eleven genres, OpenSLR resource 82.

Fan et al., "CN-CELEB: a challenging Chinese speaker recognition dataset", ICASSP 2020. Layout of CN-Celeb1, flac or
wav: ``data/id00000/singing-01-002.flac`` (genre, session, take), ``dev/dev.lst`` (speakers to train on), and for the
evaluation ``eval/enroll/id00800-enroll.flac`` (excerpts of several recordings),
``eval/test/id00800-singing-01-002.flac`` and ``eval/lists/trials.lst``. CN-Celeb2 has ``data`` only. The names of the
official list are the ids of the table, ``id00800-enroll`` and ``test/id00800-singing-01-002.wav``, whatever the suffix
on the disk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import polars as pl

from nestvox.audio.read import EXTENSIONS
from nestvox.corpora.delimited import read_text
from nestvox.corpora.prepare.folder import Prepared, Skipped
from nestvox.corpora.prepare.scan import folders_in, scan
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import TableError, TrialsError
from nestvox.names import split_fields, split_lines
from nestvox.progress import Progress, silent

_SPEAKER = re.compile(r"id\d{5}")
_TAKE = re.compile(r"(?:(id\d{5})-)?([a-z_]+)-(\d+)-(\d+)")
_ENROL = re.compile(r"(id\d{5})-enroll")


@dataclass(frozen=True)
class CncelebPrepared(Prepared):
    """A table, what was left out, and the official trials where they are there."""

    trials: Trials | None = None


def prepare_cnceleb(
    root: str | Path,
    *,
    durations: bool = False,
    journal: str | Path | None = None,
    workers: int = 8,
    progress: Progress = silent,
) -> CncelebPrepared:
    """Make a table of CN-Celeb1 or 2: speaker, session (genre and number), genre, language ``zh``, split.

    `split` is ``test`` for what lies in ``eval``. Speakers of ``data`` are ``dev``, except where ``dev/dev.lst``
    leaves them out: those are the evaluation's speakers, whose recordings ``eval`` repeats, and are skipped.

    Args:
        root: folder with ``data`` and, for CN-Celeb1, ``eval``.
        durations: open every file for its duration; broken ones are then skipped and listed.
        journal: folder that keeps what has been found, so that an interrupted search goes on.
        workers: threads.
        progress: called with the number of folders done.

    Raises:
        TableError: no such folder, or no usable audio in it.
        TrialsError: a line of the official list that is not ``enrolment test 0|1``.
    """
    root = Path(root)
    tops = [
        *(f"data/{name}" for name in _folders(root / "data") if _SPEAKER.fullmatch(name)),
        *(f"eval/{name}" for name in _folders(root / "eval") if name in {"enroll", "test"}),
    ]
    found = scan(
        root, tops, suffixes=EXTENSIONS, durations=durations, journal=journal, workers=workers, progress=progress
    )
    listed = root / "dev" / "dev.lst"
    training = None
    if listed.is_file():
        training = {name for line in split_lines(read_text(listed, TableError)) for name in split_fields(line)}
    rows, skipped = [], []
    seen: dict[str, str] = {}
    for path, top, _, duration_s, problem in found.iter_rows():
        row = _row(path, top)
        if problem is None and row is None:
            problem = "is not named as in CN-Celeb"  # noqa: PLW2901
        elif problem is None and row is not None:
            if top.startswith("data/") and training is not None and row["speaker"] not in training:
                problem = "its speaker is one of the evaluation"  # noqa: PLW2901
            elif str(row["utt_id"]) in seen:
                problem = f"is there already as {seen[str(row['utt_id'])]}"  # noqa: PLW2901
        if problem is not None or row is None:
            skipped.append(Skipped(path, str(problem)))
            continue
        seen[str(row["utt_id"])] = path
        rows.append({**row, "duration_s": duration_s})
    if not rows:
        raise TableError(
            f"no audio in data/id00000 or eval ({len(skipped)} files skipped); the corpus is OpenSLR resource 82, "
            "https://www.openslr.org/82/",
            source=root,
        )
    frame = pl.DataFrame(rows, infer_schema_length=None).with_columns(
        pl.lit("zh").alias("language"), pl.lit("cnceleb").alias("corpus")
    )
    frame = frame if durations else frame.drop("duration_s")
    trials = root / "eval" / "lists" / "trials.lst"
    return CncelebPrepared(
        UtteranceTable(frame.sort("utt_id"), str(root), root),
        tuple(skipped),
        trials=_read_trials(trials) if trials.is_file() else None,
    )


def _folders(folder: Path) -> list[str]:
    return folders_in(folder) if folder.is_dir() else []


def _row(path: str, top: str) -> dict[str, str | None] | None:
    stem = PurePosixPath(path).stem
    if top == "eval/enroll" and (match := _ENROL.fullmatch(stem)):
        enrolment: dict[str, str | None] = {"utt_id": stem, "path": path, "speaker": match[1], "session": None}
        return {**enrolment, "genre": None, "split": "test"}
    match = _TAKE.fullmatch(stem)
    speaker = match and (match[1] or (top.removeprefix("data/") if top.startswith("data/") else None))
    if match is None or not speaker or top == "eval/enroll":
        return None
    return {
        "utt_id": f"test/{stem}.wav" if top == "eval/test" else f"{speaker}/{stem.removeprefix(f'{speaker}-')}",
        "path": path,
        "speaker": speaker,
        "session": f"{match[2]}-{match[3]}",
        "genre": match[2],
        "split": "test" if top == "eval/test" else "dev",
    }


def _read_trials(path: Path) -> Trials:
    rows = []
    for line, text in enumerate(split_lines(read_text(path, TrialsError)), start=1):
        fields = split_fields(text)
        if not fields:
            continue
        if len(fields) != 3 or fields[2] not in {"0", "1"}:
            raise TrialsError("expected: enrolment test 0|1", source=path, line=line)
        rows.append((fields[0], fields[1], fields[2] == "1"))
    schema = {"enrol": pl.String, "test": pl.String, "target": pl.Boolean}
    return Trials(pl.DataFrame(rows, schema=schema, orient="row"), str(path))
