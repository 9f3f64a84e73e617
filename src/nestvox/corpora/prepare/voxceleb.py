"""VoxCeleb1 and VoxCeleb2: speech of celebrities from YouTube, cut from videos; one video is a session.

VoxCeleb1: Nagrani, Chung and Zisserman, Interspeech 2017; wav, 16 kHz, ``{dev,test}/wav/id10001/VIDEO/00001.wav``.
VoxCeleb2: Chung, Nagrani and Zisserman, Interspeech 2018; AAC in m4a, ``{dev,test}/aac/id00012/VIDEO/00001.m4a``.
Both are CC BY 4.0; the audio is given out on request only.

| part | speakers | utterances |
|---|---|---|
| VoxCeleb1 dev | 1,211 | 148,642 |
| VoxCeleb1 test | 40 | 4,874 |
| VoxCeleb2 dev | 5,994 | 1,092,009 |
| VoxCeleb2 test | 118 | 36,237 |

The paper of VoxCeleb2 (arXiv 1806.05622) counts 6,112 speakers and 1,128,246 utterances in all, which is the sum of its
two parts here; a README of PaddleSpeech that says 36,273 for the test part has two digits in each other's place.

Folders between the root and the speakers may be as published, merged (``wav/id10001``) or left out (``id10001``), and
files may have been converted: `utt_id` is the name that the official lists use, ``id10270/x6uYqmx31kE/00001.wav``
(VoxCeleb2: ``.m4a``), whatever the suffix on the disk. The test speakers of VoxCeleb1 are known by their numbers; the
parts of VoxCeleb2 by the folders ``dev`` and ``test``, or by ``vox2_meta.csv`` beside them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from nestvox.audio.read import EXTENSIONS
from nestvox.corpora.delimited import read_text
from nestvox.corpora.prepare.folder import Skipped
from nestvox.corpora.prepare.published import CorpusPrepared, Published, coverage
from nestvox.corpora.prepare.scan import folders_in, scan
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import TableError, first_of
from nestvox.names import split_lines
from nestvox.progress import Progress, silent

LICENCE = "CC-BY-4.0"
_PARTS = ("dev", "test")
_SPEAKER = re.compile(r"id\d{5}")
_DEEPEST = 4  # folders between the root and the speakers


@dataclass(frozen=True)
class _Corpus:
    name: str
    title: str
    suffix: str  # of the official names
    meta: str
    published: dict[str, Published]
    archives: tuple[str, ...]
    layout: str


_VOX1 = _Corpus(
    "voxceleb1",
    "VoxCeleb1",
    ".wav",
    "vox1_meta.csv",
    {"dev": Published(1_211, 148_642), "test": Published(40, 4_874)},
    ("vox1_dev_wav.zip (published as vox1_dev_wav_partaa to partad; put them end to end)", "vox1_test_wav.zip"),
    "{dev,test}/wav/id10001/VIDEO/00001.wav",
)
_VOX2 = _Corpus(
    "voxceleb2",
    "VoxCeleb2",
    ".m4a",
    "vox2_meta.csv",
    {"dev": Published(5_994, 1_092_009), "test": Published(118, 36_237)},
    ("vox2_dev_aac.zip (published as vox2_dev_aac_partaa to partah; put them end to end)", "vox2_test_aac.zip"),
    "{dev,test}/aac/id00012/VIDEO/00001.m4a",
)
_ALL_VOX1 = tuple(f"id{number}" for number in range(10_001, 11_252))
_TEST_VOX1 = frozenset(f"id{number}" for number in range(10_270, 10_310))


def how_to_get(corpus: str, root: str | Path) -> str:
    """Say what to request for ``voxceleb1`` or ``voxceleb2``, and where in `root` to put it: it is on request only."""
    which = _VOX1 if corpus == _VOX1.name else _VOX2
    archives = "\n".join(f"  - {archive}" for archive in which.archives)
    return (
        f"{which.title} is given out on request: fill in the form linked from "
        "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/ and ask for the audio files\n"
        f"{archives}\n"
        f"Unpack the first into {Path(root) / 'dev'} and the second into {Path(root) / 'test'}, so that there is "
        f"{Path(root)}/{which.layout}; {which.meta} from the same page goes into {root} and brings the speakers' sex."
    )


def prepare_voxceleb1(
    root: str | Path,
    *,
    durations: bool = False,
    journal: str | Path | None = None,
    workers: int = 8,
    progress: Progress = silent,
) -> CorpusPrepared:
    """Make a table of VoxCeleb1; the module says which layouts are known.

    `split` is ``test`` for the 40 published test speakers and ``dev`` for the others, in whichever folder they lie.

    Args:
        root: folder with ``dev`` and ``test``, ``wav``, or the speakers.
        durations: open every file for its duration (minutes to an hour); broken ones are then skipped and listed.
        journal: folder that keeps what has been found, so that an interrupted search goes on.
        workers: threads.
        progress: called with the number of speakers' folders done.

    Raises:
        TableError: no such folder, or no audio in folders like ``id10001``; says how to get the corpus.
    """
    return _prepare(_VOX1, Path(root), durations=durations, journal=journal, workers=workers, progress=progress)


def prepare_voxceleb2(
    root: str | Path,
    *,
    durations: bool = False,
    journal: str | Path | None = None,
    workers: int = 8,
    progress: Progress = silent,
) -> CorpusPrepared:
    """Make a table of VoxCeleb2; arguments and errors are those of `prepare_voxceleb1`.

    `split` is ``dev`` or ``test`` by the folder above, which may be the root, else by ``vox2_meta.csv``, else null.
    """
    return _prepare(_VOX2, Path(root), durations=durations, journal=journal, workers=workers, progress=progress)


def mini_voxceleb(table: UtteranceTable, *, n_speakers: int, seed: int = 42) -> UtteranceTable:
    """Choose speakers of the dev part of VoxCeleb1 or 2, with all their utterances.

    A speaker's rank is the SHA-256 of seed and name, so the choice is the same on every machine and grows by
    addition when `n_speakers` does.

    Raises:
        TableError: the table holds fewer.
    """
    dev = table.frame if "split" not in table.frame.columns else table.frame.filter(pl.col("split").ne_missing("test"))
    speakers = sorted(dev["speaker"].unique(), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).hexdigest())
    if not 0 < n_speakers <= len(speakers):
        raise TableError(
            f"{n_speakers} speakers wanted of {len(speakers)} outside of the test part", source=table.source
        )
    chosen = dev.filter(pl.col("speaker").is_in(speakers[:n_speakers]))
    return UtteranceTable(chosen, f"{table.source} (mini, {n_speakers} speakers, seed {seed})", table.root)


def _prepare(
    corpus: _Corpus, root: Path, *, durations: bool, journal: str | Path | None, workers: int, progress: Progress
) -> CorpusPrepared:
    if not root.is_dir():
        raise TableError(f"no such folder. {how_to_get(corpus.name, root)}", source=root)
    tops = sorted(_speaker_folders(root, "", 0))
    found = scan(
        root,
        tops,
        suffixes=tuple(sorted({*EXTENSIONS, corpus.suffix})),
        durations=durations,
        journal=journal,
        workers=workers,
        progress=progress,
    )
    frame = _rows(corpus, found, _part_of(root))
    bad = frame.filter(pl.col("problem").is_not_null()).sort("path")
    skipped = tuple(Skipped(path, problem) for path, problem in bad.select("path", "problem").iter_rows())
    table = frame.filter(pl.col("problem").is_null())
    if not table.height:
        raise TableError(
            f"no audio in folders like {corpus.layout} ({len(skipped)} files skipped). {how_to_get(corpus.name, root)}",
            source=root,
        )
    sexes, parts = _read_meta(root / corpus.meta)
    columns = [
        "utt_id",
        "path",
        "speaker",
        "session",
        _split(corpus, parts).alias("split"),
        *(["duration_s"] if durations else []),
        *([pl.col("speaker").replace_strict(sexes, default=None).alias("sex")] if sexes else []),
        pl.lit(corpus.name).alias("corpus"),
        pl.lit(LICENCE).alias("licence"),
    ]
    table = table.select(columns).sort("utt_id")
    return CorpusPrepared(
        UtteranceTable(table, str(root), root),
        skipped,
        coverage=coverage(table, corpus.published, _PARTS),
        notes=tuple(_notes(corpus, table, tops, parts)),
    )


def _speaker_folders(root: Path, below: str, depth: int) -> Iterator[str]:
    """Yield folders like id10001 as paths relative to `root`, wherever they begin."""
    for name in folders_in(root / below):
        path = f"{below}/{name}" if below else name
        if _SPEAKER.fullmatch(name):
            yield path
        elif depth < _DEEPEST:
            yield from _speaker_folders(root, path, depth + 1)


def _part_of(root: Path) -> str | None:
    """Which part a root is itself: ``.../dev`` or ``.../dev/aac``."""
    *_, above, name = ("", "", *root.absolute().parts)
    part = above if name in {"aac", "m4a", "wav"} else name
    return part if part in _PARTS else None


def _rows(corpus: _Corpus, found: pl.DataFrame, part: str | None) -> pl.DataFrame:
    """Take speaker, video and official name from the paths; a second file of one name is a problem."""
    below = pl.col("path").str.slice(pl.col("top").str.len_chars() + 1)
    rows = found.with_columns(
        pl.col("top").str.split("/").list.last().alias("speaker"),
        below.str.extract(r"^([^/]+)/[^/]+$").alias("session"),
        below.str.extract(r"([^/]+)\.[^./]+$").alias("stem"),
        pl.col("top").str.extract(r"(?:^|/|_)(dev|test)(?:_|/)").fill_null(pl.lit(part, pl.String)).alias("folder"),
    ).with_columns(
        pl.when(pl.col("problem").is_null() & pl.col("session").is_null())
        .then(pl.lit("does not lie in speaker/video/file"))
        .otherwise("problem")
        .alias("problem"),
        (pl.col("speaker") + "/" + pl.col("session") + "/" + pl.col("stem") + corpus.suffix).alias("utt_id"),
        # The file as it was published comes before a conversion of it.
        pl.col("path").str.to_lowercase().str.ends_with(corpus.suffix).alias("original"),
    )
    rows = rows.sort(pl.col("problem").is_not_null(), ~pl.col("original"), "path", maintain_order=True)
    again = pl.col("problem").is_null() & ~pl.col("utt_id").is_first_distinct()
    return rows.with_columns(
        pl.when(again)
        .then(pl.lit("is there already as ") + pl.col("path").first().over("utt_id"))
        .otherwise("problem")
        .alias("problem")
    )


def _split(corpus: _Corpus, parts: dict[str, str]) -> pl.Expr:
    if corpus is _VOX1:
        return pl.when(pl.col("speaker").is_in(sorted(_TEST_VOX1))).then(pl.lit("test")).otherwise(pl.lit("dev"))
    if not parts:
        return pl.col("folder")
    return pl.coalesce("folder", pl.col("speaker").replace_strict(parts, default=None, return_dtype=pl.String))


def _read_meta(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Sex and part by speaker from the publisher's list (tabs or commas, blanks around); empty where there is none."""
    if not path.is_file():
        return {}, {}
    lines = split_lines(read_text(path, TableError))
    separator = "\t" if "\t" in lines[0] else ","
    header = [name.strip().lower() for name in lines[0].split(separator)]
    if "gender" not in header or "set" not in header:
        raise TableError("the header lacks Gender or Set; take the file from the publisher", source=path, line=1)
    sexes, parts = {}, {}
    for number, line in enumerate(lines[1:], start=2):
        fields = [field.strip() for field in line.split(separator)]
        if not line.strip():
            continue
        if len(fields) != len(header) or not _SPEAKER.fullmatch(fields[0]):
            raise TableError(f"expected {len(header)} fields, the first like id10001", source=path, line=number)
        sexes[fields[0]] = fields[header.index("gender")].lower()
        parts[fields[0]] = fields[header.index("set")].lower()
    return sexes, parts


def _notes(corpus: _Corpus, table: pl.DataFrame, tops: list[str], parts: dict[str, str]) -> Iterator[str]:
    present = set(table["speaker"])
    expected = _ALL_VOX1 if corpus is _VOX1 else tuple(parts)
    if missing := sorted(set(expected) - present):
        yield f"{len(missing):,} published speakers are missing: {first_of(missing)}"
    if expected and (unknown := sorted(present - set(expected))):
        yield f"{len(unknown):,} speakers are not of {corpus.title}: {first_of(unknown)}"
    used = set(table["path"].str.extract(r"^(.*id\d{5})/[^/]+/[^/]+$"))
    if empty := sorted(set(tops) - used):
        yield f"{len(empty):,} speakers' folders hold no usable audio: {first_of(empty)}"
    if unplaced := table["split"].null_count():
        yield (
            f"{unplaced:,} utterances are neither of dev nor of test by their folders; "
            f"put {corpus.meta} into the root to have them told apart"
        )
