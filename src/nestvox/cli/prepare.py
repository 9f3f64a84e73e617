"""`nestvox data prepare`: an utterance table of a folder, a list, or a corpus as it is published."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from nestvox.cli import options
from nestvox.cli.console import console, number, say, whole_table
from nestvox.cli.outputs import write_json
from nestvox.errors import TableError, first_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nestvox.corpora.prepare.folder import Prepared, Skipped
    from nestvox.corpora.utterances import UtteranceTable

app = typer.Typer(help="Make an utterance table of a folder, a list, or a published corpus.", no_args_is_help=True)

_SHOWN_SKIPPED = 5

_Found = TypeVar("_Found", bound="Prepared")


def writable_table(out: Path) -> Path:
    """Refuse a table that could not be written before anything is searched for it."""
    from nestvox.corpora.utterances import check_writable

    check_writable(out)
    return out


_Out = Annotated[Path, typer.Option(callback=writable_table, help="Table to write: .tsv, .csv or .parquet.")]
_Corpus = Annotated[str | None, typer.Option(help="Name for the column `corpus`.")]
_Durations = Annotated[
    bool, typer.Option("--durations", help="Open every file for its duration; broken ones are skipped and listed.")
]
_Mini = Annotated[bool, typer.Option("--mini", help="Only a seeded choice of speakers of the dev part.")]
_Root = Annotated[
    Path | None,
    typer.Option(help="Where relative paths start; default: the folder of the list, to kaldi and lhotse this one."),
]
_Speakers = Annotated[int, typer.Option("--speakers", min=1, max=1_000_000, help="Of the mini corpus.")]
_Synthetic = Annotated[
    bool, typer.Option("--synthetic", help="Nobody spoke: every number measured on this table carries the label.")
]


@app.command()
def folder(
    root: Annotated[Path, typer.Argument(help="Folder with speaker/file or speaker/session/file.")],
    out: _Out,
    *,
    corpus: _Corpus = None,
    workers: Annotated[int, options.WORKERS] = 4,
    synthetic: _Synthetic = False,
    json_out: options.Json = None,
) -> None:
    """Make a table of a tree of speaker folders; what cannot be read is skipped and listed."""
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.prepare.folder import prepare_folder

    with progress_bar("opening", "files") as progress:
        prepared = prepare_folder(root, corpus=corpus, workers=workers, progress=progress)
    _finish(prepared, out, json_out, synthetic=synthetic)


@app.command()
def csv(
    path: Annotated[Path, typer.Argument(metavar="LIST", help="List with a header line: .csv, or .tsv with tabs.")],
    out: _Out,
    *,
    path_column: Annotated[str, typer.Option(help="Header of the column with the audio files.")] = "path",
    speaker_column: Annotated[str, typer.Option(help="Header of the column with the speakers.")] = "speaker",
    rename: Annotated[
        list[str] | None, typer.Option(metavar="NEW=OLD", help="Name another column, e.g. session=video; repeatable.")
    ] = None,
    root: _Root = None,
    corpus: _Corpus = None,
    workers: Annotated[int, options.WORKERS] = 4,
    synthetic: _Synthetic = False,
    json_out: options.Json = None,
) -> None:
    """Make a table of a list of files and speakers; what cannot be read is skipped and listed."""
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.prepare.csv_list import prepare_csv

    names: dict[str, str] = {}
    for pair in rename or []:
        new, equals, old = pair.partition("=")
        if not (equals and new and old):
            raise TableError(f"--rename takes NEW=OLD, e.g. session=video, not {pair!r}")
        names[new] = old
    with progress_bar("opening", "files") as progress:
        prepared = prepare_csv(
            path,
            path_column=path_column,
            speaker_column=speaker_column,
            rename=names,
            root=root,
            corpus=corpus,
            workers=workers,
            progress=progress,
        )
    _finish(prepared, out, json_out, synthetic=synthetic)


@app.command()
def voxceleb1(
    root: Annotated[Path, typer.Argument(help="Folder with {dev,test}/wav/id10001/..., wav/id10001/..., or id10001.")],
    out: _Out,
    *,
    durations: _Durations = False,
    mini: _Mini = False,
    n_speakers: _Speakers = 50,
    seed: options.Seed = 42,
    workers: Annotated[int, options.WORKERS] = 8,
    synthetic: _Synthetic = False,
    json_out: options.Json = None,
) -> None:
    """Make a table of VoxCeleb1, named as in the official lists, and hold it against the published counts.

    An interrupted search goes on where it was when the same command is given again.
    """
    from nestvox.corpora.prepare.voxceleb import mini_voxceleb, prepare_voxceleb1

    prepared = _searched(prepare_voxceleb1, root, out, durations=durations, workers=workers)
    chosen = mini_voxceleb(prepared.table, n_speakers=n_speakers, seed=seed) if mini else None
    _finish(prepared, out, json_out, synthetic=synthetic, chosen=chosen)


@app.command()
def voxceleb2(
    root: Annotated[Path, typer.Argument(help="Folder with {dev,test}/aac/id00012/..., aac/id00012/..., or id00012.")],
    out: _Out,
    *,
    durations: _Durations = False,
    mini: _Mini = False,
    n_speakers: _Speakers = 140,
    seed: options.Seed = 42,
    workers: Annotated[int, options.WORKERS] = 8,
    synthetic: _Synthetic = False,
    json_out: options.Json = None,
) -> None:
    """Make a table of VoxCeleb2 and hold it against the published counts; reading its m4a needs the extra [av].

    An interrupted search goes on where it was when the same command is given again.
    """
    from nestvox.corpora.prepare.voxceleb import mini_voxceleb, prepare_voxceleb2

    prepared = _searched(prepare_voxceleb2, root, out, durations=durations, workers=workers)
    chosen = mini_voxceleb(prepared.table, n_speakers=n_speakers, seed=seed) if mini else None
    _finish(prepared, out, json_out, synthetic=synthetic, chosen=chosen)


@app.command("voxceleb-mini")
def voxceleb_mini(
    voxceleb1: Annotated[Path, typer.Argument(help="Table of VoxCeleb1, from `data prepare voxceleb1`.")],
    voxceleb2: Annotated[Path, typer.Argument(help="Table of VoxCeleb2, from `data prepare voxceleb2`.")],
    *,
    trials: Annotated[Path, typer.Option(help="List E of VoxCeleb1, cleaned: list_test_all2.txt.")],
    out: Annotated[Path, typer.Option(help="Folder for train.tsv, dev.tsv, trials.txt and trials_balanced.txt.")],
    speaker_list: Annotated[
        Path | None, typer.Option(help="The 140 of VoxCeleb2, a line each: mini_voxceleb2_speakers.txt.")
    ] = None,
) -> None:
    """Draw the small VoxCeleb of the distillation write-up: 140 and 50 speakers, and a list with 465 non-targets."""
    from nestvox.corpora.prepare.voxceleb_mini import prepare_voxceleb_mini
    from nestvox.corpora.trials import read_trials
    from nestvox.corpora.utterances import read_utterances
    from nestvox.gate import naming, read_text
    from nestvox.names import split_lines

    named = None
    if speaker_list is not None:
        named = [line.strip() for line in split_lines(read_text(speaker_list, naming(TableError))) if line.strip()]
    found = prepare_voxceleb_mini(
        read_utterances(voxceleb1), read_utterances(voxceleb2), read_trials(trials), speaker_list=named
    )
    found.write(out)
    for note in found.notes:
        say(note)
    say(f"written to {out}")


@app.command()
def librispeech(
    root: Annotated[Path, typer.Argument(help="Folder with dev-clean, train-clean-100, ..., or with LibriSpeech.")],
    out: _Out,
    *,
    subsets: Annotated[list[str] | None, typer.Option("--subset", help="Only this one; repeatable.")] = None,
    durations: _Durations = False,
    workers: Annotated[int, options.WORKERS] = 8,
    synthetic: _Synthetic = False,
    json_out: options.Json = None,
) -> None:
    """Make a table of any subsets of LibriSpeech, and hold them against the published counts."""
    from nestvox.corpora.prepare.librispeech import prepare_librispeech

    prepared = _searched(prepare_librispeech, root, out, subsets=subsets, durations=durations, workers=workers)
    _finish(prepared, out, json_out, synthetic=synthetic)


@app.command()
def cnceleb(
    root: Annotated[Path, typer.Argument(help="Folder of CN-Celeb1 or 2, with data and eval.")],
    out: _Out,
    *,
    trials_out: Annotated[Path | None, typer.Option(help="Where the official trials go.")] = None,
    durations: _Durations = False,
    workers: Annotated[int, options.WORKERS] = 8,
    synthetic: _Synthetic = False,
    json_out: options.Json = None,
) -> None:
    """Make a table of CN-Celeb, named as in its official list."""
    from nestvox.corpora.prepare.cnceleb import prepare_cnceleb
    from nestvox.corpora.trials import format_to_write, write_trials

    if trials_out is not None:
        format_to_write(trials_out)
    prepared = _searched(prepare_cnceleb, root, out, unit="folders", durations=durations, workers=workers)
    if trials_out is not None:
        if prepared.trials is None:
            raise TableError("no eval/lists/trials.lst to write as --trials-out", source=root)
        write_trials(prepared.trials, trials_out)
    _finish(prepared, out, json_out, synthetic=synthetic)


@app.command()
def kaldi(
    folder: Annotated[Path, typer.Argument(help="Folder with wav.scp, utt2spk, and segments where there are some.")],
    out: _Out,
    *,
    root: _Root = None,
    session: Annotated[str, typer.Option(help="recording or none: is each recording a session?")] = "recording",
    corpus: _Corpus = None,
    synthetic: _Synthetic = False,
    json_out: options.Json = None,
) -> None:
    """Make a table of a kaldi data directory; commands in wav.scp are refused."""
    from nestvox.corpora.prepare.kaldi import prepare_kaldi

    prepared = prepare_kaldi(folder, root=root, session=session, corpus=corpus)
    _finish(prepared, out, json_out, synthetic=synthetic)


@app.command()
def lhotse(
    recordings: Annotated[Path, typer.Argument(help="Manifest of recordings, .jsonl or .jsonl.gz; or of cuts, alone.")],
    supervisions: Annotated[
        Path | None, typer.Argument(help="Manifest of supervisions; none where the first one is of cuts.")
    ] = None,
    *,
    out: _Out,
    root: _Root = None,
    corpus: _Corpus = None,
    synthetic: _Synthetic = False,
    json_out: options.Json = None,
) -> None:
    """Make a table of a pair of lhotse manifests, or of one of cuts."""
    from nestvox.corpora.prepare.lhotse import prepare_lhotse

    prepared = prepare_lhotse(recordings, supervisions, root=root, corpus=corpus)
    _finish(prepared, out, json_out, synthetic=synthetic)


@app.command()
def nemo(
    manifest: Annotated[Path, typer.Argument(help="JSON lines with audio_filepath, duration and label.")],
    out: _Out,
    *,
    root: _Root = None,
    corpus: _Corpus = None,
    synthetic: _Synthetic = False,
    json_out: options.Json = None,
) -> None:
    """Make a table of a NeMo manifest, whose labels are speakers."""
    from nestvox.corpora.prepare.nemo import prepare_nemo

    prepared = prepare_nemo(manifest, root=root, corpus=corpus)
    _finish(prepared, out, json_out, synthetic=synthetic)


@app.command()
def parquet(
    paths: Annotated[list[Path], typer.Argument(metavar="PARQUET...", help="Files with audio in a column, in order.")],
    out: _Out,
    audio_out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the audio is written; a run goes on there.")],
    *,
    audio_column: Annotated[str, typer.Option(help="Name of the column with the audio.")] = "audio",
    speaker_column: Annotated[str, typer.Option(help="Header of the column with the speakers.")] = "speaker",
    id_column: Annotated[
        str | None, typer.Option(help="Name of the column with the ids; default: id, where there is one.")
    ] = None,
    corpus: _Corpus = None,
    workers: Annotated[int, options.WORKERS] = 4,
    synthetic: _Synthetic = False,
    json_out: options.Json = None,
) -> None:
    """Write the audio that stands inside Parquet files to a folder, and make a table of it."""
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.prepare.parquet import prepare_parquet

    with progress_bar("writing", "rows") as progress:
        prepared = prepare_parquet(
            paths,
            audio_out,
            audio_column=audio_column,
            speaker_column=speaker_column,
            id_column=id_column,
            corpus=corpus,
            workers=workers,
            progress=progress,
        )
    _finish(prepared, out, json_out, synthetic=synthetic)


@app.command()
def webdataset(
    archives: Annotated[list[Path], typer.Argument(metavar="TAR...", help="Plain tar files, in order.")],
    out: _Out,
    *,
    speaker: Annotated[
        str, typer.Option(help="Field of the JSON with the speaker, or the ending of a text with it: .spk, .txt.")
    ] = "speaker",
    corpus: _Corpus = None,
    synthetic: _Synthetic = False,
    json_out: options.Json = None,
) -> None:
    """Make a table of tar files in the layout of WebDataset; the audio stays in them and is read there."""
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.shards import prepare_shards

    with progress_bar("reading", "archives") as progress:
        prepared = prepare_shards(archives, speaker=speaker, root=out.parent, corpus=corpus, progress=progress)
    _finish(prepared, out, json_out, synthetic=synthetic)


def _journal(out: Path) -> Path:
    """Where what has been found is kept until the table is written."""
    return out.with_name(f".{out.name}.scan")


def _searched(prepare: Callable[..., _Found], root: Path, out: Path, *, unit: str = "speakers", **asked: Any) -> _Found:
    """What a search through a corpus found, which an interrupted one of the same output goes on with."""
    from nestvox.cli.progress import progress_bar

    with progress_bar("searching", unit) as progress:
        return prepare(root, journal=_journal(out), progress=progress, **asked)


def _finish(
    prepared: Prepared,
    out: Path,
    json_out: Path | None,
    *,
    synthetic: bool,
    chosen: UtteranceTable | None = None,
) -> None:
    """Write the table, or the choice of it; say what was left out, and how much of a published corpus is there."""
    from nestvox.corpora.prepare.published import CorpusPrepared
    from nestvox.corpora.prepare.scan import discard_journal
    from nestvox.corpora.utterances import write_utterances

    written = prepared if chosen is None else replace(prepared, table=chosen)
    written = written.marked_synthetic() if synthetic else written
    write_utterances(written.table, out)
    counts = _table_counts(written.table)
    known = {name: count for name, count in counts.items() if count is not None}  # no hours without durations
    print_rows({**known, "skipped": len(prepared.skipped), "table": str(out)})
    for line in skipped_in_words(prepared.skipped):
        say(line)
    content = {**counts, "skipped": [asdict(skipped) for skipped in prepared.skipped], "table": str(out)}
    if isinstance(prepared, CorpusPrepared):
        for line in (*(part.sentence() for part in prepared.coverage), *prepared.notes):
            say(line)
        coverage = [asdict(part) for part in prepared.coverage]
        content |= {"complete": prepared.complete, "coverage": coverage, "notes": list(prepared.notes)}
    write_json(json_out, content, told=False)
    discard_journal(_journal(out))


def skipped_in_words(skipped: Sequence[Skipped]) -> list[str]:
    """One line for each reason, with a count; a reason that names its file counts with those of other files."""
    reasons: dict[str, list[Skipped]] = {}
    for one in skipped:
        reasons.setdefault(one.reason.replace(one.path, "it"), []).append(one)
    found = []
    for reason, alike in sorted(reasons.items(), key=lambda item: -len(item[1])):
        if len(alike) == 1:
            found.append(f"skipped {alike[0].path}: {alike[0].reason}")
        else:
            found.append(f"skipped {len(alike):,} files: {reason}; e.g. {first_of([one.path for one in alike], 3)}")
    if len(found) > _SHOWN_SKIPPED:
        found[_SHOWN_SKIPPED:] = [f"and for {len(found) - _SHOWN_SKIPPED} more reasons; --json lists all"]
    return found


def _table_counts(table: UtteranceTable) -> dict[str, Any]:
    frame = table.frame
    hours = float(frame["duration_s"].sum()) / 3600 if "duration_s" in frame.columns else None
    return {
        "n_utterances": len(table),
        "n_speakers": frame["speaker"].n_unique(),
        "hours": None if hours is None else round(hours, 3),
    }


def print_rows(rows: dict[str, Any], json_out: Path | None = None) -> None:
    """Print names and values as a table of two columns, and write them where a file was asked for."""
    shown = whole_table(number(""), "")
    shown.show_header = False
    for name, value in rows.items():
        shown.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    console().print(shown)
    write_json(json_out, rows, told=False)
