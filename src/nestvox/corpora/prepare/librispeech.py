"""LibriSpeech: read audiobooks, English; dev-clean has 40 speakers (20 women, 20 men), 2703 utterances, 5.4 hours.

Corpus: Panayotov, Chen, Povey and Khudanpur, "Librispeech: an ASR corpus based on public domain audio books", ICASSP
2015; OpenSLR resource 12, CC BY 4.0. flac, mono, 16 kHz; a chapter of a book is a session. The publisher has no
splits within dev-clean; here half of the speakers of either sex are `train`, a quarter `dev`, a quarter `test`,
by the hash of their number, so that every machine has the same 20, 10 and 10.

`prepare_librispeech` makes a table of a tree with any of the seven subsets, with the subset in place of such a split;
three of them can be downloaded.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import polars as pl

from nestvox.audio.read import probe
from nestvox.corpora.delimited import read_text
from nestvox.corpora.generate import written_with_trials
from nestvox.corpora.prepare.folder import Skipped
from nestvox.corpora.prepare.published import CorpusPrepared, Published, coverage
from nestvox.corpora.prepare.scan import folders_in, scan
from nestvox.corpora.utterances import UtteranceTable, read_utterances
from nestvox.download import Announce, announce_on_stderr, download
from nestvox.errors import DownloadError, TableError
from nestvox.names import split_lines
from nestvox.progress import Progress, silent

SUBSETS = {
    "dev-clean": Published(40, 2_703),
    "dev-other": Published(33, 2_864),
    "test-clean": Published(40, 2_620),
    "test-other": Published(33, 2_939),
    "train-clean-100": Published(251, 28_539),
    "train-clean-360": Published(921, 104_014),
    "train-other-500": Published(1_166, 148_688),
}
"""Published speakers and utterances by subset."""

URL = "https://www.openslr.org/resources/12/dev-clean.tar.gz"
LICENCE = "CC-BY-4.0"
ARCHIVES = {
    # The publisher gives an MD5 (42e2234ba48799c1f50f24a7926300a1); this is the SHA-256 of the same archive.
    "dev-clean": ("76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3", 337_926_286),
    "test-clean": ("39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23", 346_663_984),
    "train-clean-100": ("d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2", 6_387_309_499),
}
"""What can be downloaded: SHA-256 and bytes by subset."""
_TOP = "LibriSpeech"
_SUBSET = "dev-clean"


def prepare_librispeech_dev_clean(
    folder: str | Path,
    *,
    offline: bool = False,
    announce: Announce = announce_on_stderr,
    progress: Progress = silent,
    url: str = URL,
    n_target: int = 2000,
    n_nontarget: int = 6000,
    seed: int = 42,
) -> UtteranceTable:
    """Download, unpack and describe dev-clean in `folder`; what is there already is used.

    Writes ``utterances.tsv``, ``trials_dev.txt`` and ``trials_test.txt`` beside the audio. The download is that of
    `fetch_librispeech` (about 700 MB while it is unpacked, 350 MB then), `progress` also counts the utterances of the
    table, and `n_target` and `n_nontarget` are the trials of dev and of test.

    Returns:
        The table: speaker, session (chapter), sex, language, licence, split.

    Raises:
        DownloadError: the archive cannot be had, or is not the one published, or holds what it should not.
        TableError: the unpacked corpus lacks files.
    """
    folder = Path(folder)
    table_path = folder / "utterances.tsv"
    if table_path.is_file():
        return read_utterances(table_path)
    if not (folder / _TOP).is_dir():
        fetch_librispeech(_SUBSET, folder, offline=offline, announce=announce, progress=progress, url=url)
    (folder / "dev-clean.tar.gz").unlink(missing_ok=True)
    table = UtteranceTable(_frame(folder, progress), source=str(table_path), root=folder)
    return written_with_trials(table, table_path, n_target=n_target, n_nontarget=n_nontarget, seed=seed)


def fetch_librispeech(
    subset: str,
    folder: str | Path,
    *,
    offline: bool = False,
    announce: Announce = announce_on_stderr,
    progress: Progress = silent,
    url: str | None = None,
) -> Path:
    """Download and unpack one subset into ``folder/LibriSpeech``, unless it is there; others there are kept.

    Args:
        subset: ``dev-clean``, ``test-clean`` or ``train-clean-100``.
        folder: made if absent.
        offline: do not touch the network; an error if it were needed.
        announce: told what is downloaded, from where, how large, and under which licence, before it begins.
        progress: called with bytes.
        url: a mirror of the archive; its hash must be the same.

    Returns:
        ``folder/LibriSpeech``.

    Raises:
        DownloadError: another subset, or the archive cannot be had, is another one, or holds what it should not.
    """
    if subset not in ARCHIVES:
        raise DownloadError(
            f"LibriSpeech {subset}: can be downloaded here: {', '.join(ARCHIVES)}; the others are at "
            "https://www.openslr.org/12/"
        )
    folder = Path(folder)
    if not (folder / _TOP / subset).is_dir():
        sha256, size = ARCHIVES[subset]
        archive = folder / f"{subset}.tar.gz"
        folder.mkdir(parents=True, exist_ok=True)
        download(
            url or URL.replace(_SUBSET, subset),
            archive,
            sha256=sha256,
            size=size,
            what=f"LibriSpeech {subset}",
            licence=LICENCE,
            offline=offline,
            announce=announce,
            progress=progress,
        )
        _unpack(archive, folder, subset)
        archive.unlink()
    return folder / _TOP


def prepare_librispeech(
    root: str | Path,
    *,
    subsets: Sequence[str] | None = None,
    durations: bool = False,
    journal: str | Path | None = None,
    workers: int = 8,
    progress: Progress = silent,
) -> CorpusPrepared:
    """Make a table of a tree with any subsets of LibriSpeech, ``train-clean-100/103/1240/103-1240-0000.flac``.

    `split` is the subset; a chapter is a session; sex comes from ``SPEAKERS.TXT`` where it is there.

    Args:
        root: the folder with the subsets (``LibriSpeech``), or the one that holds it.
        subsets: which; None takes those that are there.
        durations: open every file for its duration; broken ones are then skipped and listed.
        journal: folder that keeps what has been found, so that an interrupted search goes on.
        workers: threads.
        progress: called with the number of speakers' folders done.

    Raises:
        TableError: no such folder or subset, or no usable audio.
    """
    root = Path(root)
    top = root / _TOP if (root / _TOP).is_dir() else root
    if not top.is_dir():
        raise TableError("no such folder; LibriSpeech is OpenSLR resource 12, https://www.openslr.org/12/", source=root)
    present = [name for name in SUBSETS if (top / name).is_dir()]
    wanted = present if subsets is None else list(subsets)
    if not wanted or (absent := [name for name in wanted if name not in present]):
        lacking = ", ".join(absent) if wanted else "any subset"
        raise TableError(f"lacks {lacking}; the subsets are {', '.join(SUBSETS)}", source=top)
    tops = [f"{subset}/{speaker}" for subset in wanted for speaker in folders_in(top / subset)]
    found = scan(
        top, tops, suffixes=(".flac", ".wav"), durations=durations, journal=journal, workers=workers, progress=progress
    )
    sexes = read_speakers(top / "SPEAKERS.TXT") if (top / "SPEAKERS.TXT").is_file() else {}
    rows, skipped = [], []
    for path, _, _, duration_s, problem in found.iter_rows():
        subset, speaker, *chapter, _ = PurePosixPath(path).parts
        if problem is not None or len(chapter) != 1:
            skipped.append(Skipped(path, problem or "does not lie in subset/speaker/chapter/file"))
            continue
        rows.append(_row(path, speaker, chapter[0], subset, duration_s, sexes.get(speaker), "librispeech"))
    if not rows:
        raise TableError(f"no audio in {', '.join(wanted)} ({len(skipped)} files skipped)", source=top)
    frame = pl.DataFrame(rows, infer_schema_length=None).sort("utt_id")
    frame = frame.select(column for column in frame if column.null_count() < frame.height)
    table = UtteranceTable(frame, str(top), top)
    return CorpusPrepared(table, tuple(skipped), coverage=coverage(frame, SUBSETS, wanted))


def read_speakers(path: str | Path) -> dict[str, str]:
    """Read the sex (``f`` or ``m``) of every speaker from the corpus's ``SPEAKERS.TXT``.

    Raises:
        TableError: the file is missing, or a line is not ``number | F or M | subset | minutes | name``.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError("is missing; remove the folder around it and prepare again", source=path)
    speakers: dict[str, str] = {}
    for number, line in enumerate(split_lines(read_text(path, TableError)), start=1):
        if line.startswith(";") or not line.strip():
            continue
        fields = [field.strip() for field in line.split("|", maxsplit=4)]
        if len(fields) != 5 or not re.fullmatch(r"[0-9]+", fields[0]) or fields[1] not in {"F", "M"}:
            raise TableError("expected: number | F or M | subset | minutes | name", source=path, line=number)
        speakers[fields[0]] = fields[1].lower()
    return speakers


def _unpack(archive: Path, folder: Path, subset: str = _SUBSET) -> None:
    """Unpack into a temporary folder and rename that.

    Stricter than the data filter of `tarfile`, and not in need of it (Python 3.11.0 to 3.11.3 have none): only
    folders and plain files below ``LibriSpeech/`` are written, without owner or mode; anything else is an error.
    """
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder) as name:
        root = Path(name)
        try:
            with tarfile.open(archive, "r:gz") as tar:
                for member in tar:
                    parts = PurePosixPath(member.name).parts
                    safe = member.isfile() or member.isdir()
                    if not safe or parts[:1] != (_TOP,) or ".." in parts or "\\" in member.name:
                        raise DownloadError(f"{archive}: refuses to unpack {member.name!r}; nothing was kept")
                    target = root.joinpath(*parts)
                    if member.isdir():
                        target.mkdir(parents=True, exist_ok=True)
                        continue
                    target.parent.mkdir(parents=True, exist_ok=True)
                    source = tar.extractfile(member)
                    assert source is not None  # only for what is no file
                    with source, target.open("wb") as handle:
                        shutil.copyfileobj(source, handle)
        except (tarfile.TarError, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk, not the archive
            raise DownloadError(f"{archive}: is no readable archive ({error}); remove it and try again") from error
        if not (root / _TOP / subset).is_dir():
            raise DownloadError(f"{archive}: holds no {_TOP}/{subset}; remove it and try again")
        if not (folder / _TOP).exists():
            (root / _TOP).replace(folder / _TOP)
            return
        # Beside other subsets: the common files that are there already stay, and the audio comes last.
        for path in sorted((root / _TOP).iterdir(), key=lambda path: path.name == subset):
            if not (folder / _TOP / path.name).exists():
                path.replace(folder / _TOP / path.name)


def _frame(folder: Path, progress: Progress) -> pl.DataFrame:
    top = folder / _TOP
    sexes = read_speakers(top / "SPEAKERS.TXT")
    files = sorted((top / _SUBSET).glob("*/*/*.flac"))
    if not files:
        raise TableError("holds no flac files; remove it and prepare again", source=top / _SUBSET)
    present = {file.parts[-3] for file in files}
    if unknown := sorted(present - set(sexes)):
        raise TableError(f"lacks speaker {', '.join(unknown[:5])}", source=top / "SPEAKERS.TXT")
    splits = _splits({speaker: sexes[speaker] for speaker in present})
    rows = []
    for done, file in enumerate(files, start=1):
        speaker, chapter = file.parts[-3:-1]
        path, duration_s = file.relative_to(folder).as_posix(), round(probe(file).duration_s, 3)
        rows.append(_row(path, speaker, chapter, splits[speaker], duration_s, sexes[speaker], "librispeech-dev-clean"))
        progress(done, len(files))
    return pl.DataFrame(rows).sort("utt_id")


def _row(
    path: str, speaker: str, chapter: str, split: str, duration_s: float | None, sex: str | None, corpus: str
) -> dict[str, str | float | None]:
    return {
        "utt_id": PurePosixPath(path).stem,
        "path": path,
        "speaker": f"libri_{speaker}",
        "session": f"libri_{speaker}-{chapter}",
        "split": split,
        "duration_s": duration_s,
        "sex": sex,
        "language": "en",
        "corpus": corpus,
        "licence": LICENCE,
    }


def _splits(sexes: Mapping[str, str]) -> dict[str, str]:
    """Half of each sex to train, a quarter to dev, the rest to test, in the order of a hash of their number."""
    by_sex: dict[str, list[str]] = defaultdict(list)
    for speaker in sorted(sexes, key=lambda name: hashlib.sha256(f"librispeech/{name}".encode()).hexdigest()):
        by_sex[sexes[speaker]].append(speaker)
    splits = {}
    for speakers in by_sex.values():
        for position, speaker in enumerate(speakers):
            quarter = 4 * position // len(speakers)
            splits[speaker] = ("train", "train", "dev", "test")[quarter]
    return splits
