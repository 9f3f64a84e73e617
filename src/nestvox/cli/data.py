"""`nestvox data`: tables from what lies on the disk, checks of a corpus, trial lists."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nestvox.cli import options
from nestvox.cli.console import console, lines, number, say, whole_table
from nestvox.cli.outputs import write_json
from nestvox.cli.prepare import app as prepare
from nestvox.cli.prepare import print_rows, writable_table
from nestvox.errors import DownloadError, TrialsError

if TYPE_CHECKING:
    from nestvox.corpora.generate import Preset
    from nestvox.corpora.trials import Trials
    from nestvox.corpora.utterances import UtteranceTable

app = typer.Typer(help="Utterance tables and trial lists: prepare, check, generate, describe.", no_args_is_help=True)
app.add_typer(prepare, name="prepare")

_Format = Annotated[
    Literal["csv", "kaldi", "parquet", "voxceleb", "voxsrc"] | None,
    typer.Option("--format", help="Of the list; default: as its suffix or its content says, else voxceleb."),
]


@app.command()
def check(
    tables: Annotated[list[Path], typer.Argument(help="Utterance tables, together one corpus.")],
    *,
    trials: Annotated[list[Path] | None, typer.Option(help="Trial list over these tables; repeatable.")] = None,
    training: Annotated[list[Path] | None, typer.Option(help="Table to train on; repeatable.")] = None,
    audio: Annotated[bool, typer.Option(help="Decode everything: duplicates, durations, damage.")] = True,
    min_duration_s: Annotated[float, typer.Option(help="Shorter utterances are a warning.")] = 2.0,
    duration_tolerance_s: Annotated[float, typer.Option(help="Between stated and decoded duration.")] = 0.1,
    workers: Annotated[int, options.WORKERS] = 4,
    json_out: options.Json = None,
) -> None:
    """Check a corpus: speakers across splits or trained and tested, duplicates, labels, durations, missing files.

    Exits 1 when there is an error; warnings alone exit 0.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.check import check_corpus
    from nestvox.corpora.trials import read_trials
    from nestvox.corpora.utterances import read_utterances

    with progress_bar("decoding", "utterances") as progress:
        report = check_corpus(
            [read_utterances(path) for path in tables],
            [read_trials(path) for path in trials or []],
            training=[read_utterances(path) for path in training or []],
            audio=audio,
            min_duration_s=min_duration_s,
            duration_tolerance_s=duration_tolerance_s,
            workers=workers,
            progress=progress,
        )
    print_rows(
        {
            "utterances": report.n_utterances,
            "speakers": report.n_speakers,
            "trials": report.n_trials,
            "audio": f"{report.n_decoded} decoded, {report.audio_s / 3600:.2f} h" if audio else "not decoded",
        }
    )
    if report.findings:
        shown = whole_table("", "finding", number("count"), "what", "examples")
        for finding in report.findings:
            shown.add_row(
                finding.severity, finding.kind, f"{finding.count:,}", finding.message, lines(finding.examples[:3])
            )
        console().print(shown)
    write_json(json_out, report.to_dict(), told=False)
    errors = sum(finding.severity == "error" for finding in report.findings)
    warnings = len(report.findings) - errors
    say(f"{errors} kinds of error, {warnings} of warning: {'fit for use' if report.ok else 'something is wrong'}")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def trials(
    table: Annotated[Path, typer.Argument(help="Utterance table to draw from.")],
    out: Annotated[Path, typer.Option(help="Trial list to write.")],
    *,
    preset: Annotated[str | None, typer.Option(help="pairs-250-seed42 or pairs-250-seed43.")] = None,
    profiles: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Enrol each speaker with so many recordings, against all that are left."),
    ] = None,
    n_target: Annotated[
        int | None,
        typer.Option(
            "--targets",
            min=0,
            max=100_000_000,
            help="Number of target trials; by default up to 30 a speaker, 10,000 in all; with --profiles all.",
        ),
    ] = None,
    n_nontarget: Annotated[
        int | None,
        typer.Option(
            "--nontargets",
            min=0,
            max=100_000_000,
            help="Number of non-target trials; by default three a target; with --profiles all, up to a million.",
        ),
    ] = None,
    seed: Annotated[int | None, options.SEED] = None,
    split: options.Split = None,
    name_by: Annotated[
        Literal["utt_id", "path"], typer.Option(help="What stands for an utterance in the list.")
    ] = "utt_id",
    fmt: _Format = None,
    json_out: options.Json = None,
) -> None:
    """Generate a balanced trial list: the same table and seed give the same list on every machine.

    With --profiles each speaker is enrolled with several recordings, which stand on the first side with bars between.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.generate import PRESETS, generate_trials
    from nestvox.corpora.profile_trials import generate_profile_trials
    from nestvox.corpora.trials import format_to_write, write_trials

    written_as = format_to_write(out, fmt)
    if preset is not None and any(number is not None for number in (n_target, n_nontarget, seed, profiles)):
        raise TrialsError(
            "a preset has its own numbers and seed: leave out --targets, --nontargets, --profiles and --seed"
        )
    if preset is not None and preset not in PRESETS:
        raise TrialsError(f"no preset {preset!r}; there are {', '.join(sorted(PRESETS))}")
    utterances = options.read_table(table, split)
    with progress_bar("drawing", "trials") as progress:
        if profiles is not None:
            used = seed or 0
            drawn = generate_profile_trials(
                utterances,
                profiles=profiles,
                n_target=n_target,
                n_nontarget=n_nontarget,
                seed=used,
                name_by=name_by,
                progress=progress,
            )
        else:
            chosen = PRESETS[preset] if preset is not None else _counts(utterances, n_target, n_nontarget, seed)
            used = chosen.seed
            drawn = generate_trials(
                utterances,
                n_target=chosen.n_target,
                n_nontarget=chosen.n_nontarget,
                seed=used,
                name_by=name_by,
                progress=progress,
            )
    write_trials(drawn, out, written_as)
    summary = {**_trial_counts(drawn), "seed": used, "list": str(out)}
    print_rows(summary, json_out)


def _counts(table: UtteranceTable, n_target: int | None, n_nontarget: int | None, seed: int | None) -> Preset:
    from nestvox.corpora.generate import Preset, usual_counts

    usual = (0, 0) if n_target is not None and n_nontarget is not None else usual_counts(table)
    targets = usual[0] if n_target is None else n_target
    return Preset(targets, usual[1] if n_nontarget is None else n_nontarget, seed or 0)


@app.command()
def split(
    table: Annotated[Path, typer.Argument(help="Utterance table without a column `split`.")],
    out: Annotated[Path, typer.Option(callback=writable_table, help="Table to write: .tsv, .csv or .parquet.")],
    *,
    dev: Annotated[float, typer.Option(help="Share of the speakers to choose with.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of the speakers to report on.")] = 0.2,
    seed: options.Seed = 0,
    json_out: options.Json = None,
) -> None:
    """Give every speaker to one of train, dev and test: the same table and seed give the same on every machine."""
    from nestvox.corpora.split import split_by_speaker
    from nestvox.corpora.utterances import read_utterances, write_utterances

    divided = split_by_speaker(read_utterances(table), dev=dev, test=test, seed=seed)
    write_utterances(divided, out)
    summary: dict[str, Any] = {}
    for part in ("train", "dev", "test"):
        rows = divided.frame.filter(divided.frame["split"] == part)
        summary[part] = f"{rows['speaker'].n_unique()} speakers, {len(rows)} utterances"
    summary |= {"seed": seed, "table": str(out)}
    print_rows(summary, json_out)


@app.command()
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="librispeech-dev-clean, -test-clean or -train-clean-100; voxceleb1-o, -e, -h, or -o-cleaned."
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Where it goes.")],
    *,
    offline: options.Offline = False,
) -> None:
    """Download what anybody may download: three subsets of LibriSpeech, and the trial lists of VoxCeleb1.

    For the audio of VoxCeleb it says what to request, and where to put it.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.prepare.librispeech import ARCHIVES, fetch_librispeech
    from nestvox.corpora.prepare.voxceleb import how_to_get
    from nestvox.corpora.prepare.voxceleb_lists import TRIAL_LISTS, fetch_trial_list

    corpus, _, subset = name.partition("-")
    if name in {"voxceleb1", "voxceleb2"}:
        raise DownloadError(how_to_get(name, folder))
    with progress_bar("downloading", "bytes") as progress:
        if corpus == "librispeech":
            path = fetch_librispeech(subset, folder, offline=offline, progress=progress)
        elif name in TRIAL_LISTS:
            path = fetch_trial_list(name, folder, offline=offline, progress=progress)
        else:
            known = [*(f"librispeech-{subset}" for subset in ARCHIVES), *TRIAL_LISTS, "voxceleb1", "voxceleb2"]
            raise DownloadError(f"no download {name!r}; there are {', '.join(known)}")
    say(str(path))


@app.command()
def shards(
    table: Annotated[Path, typer.Argument(help="Utterance table.")],
    out: Annotated[Path, typer.Option(help="Folder of the tar files and their table; a stopped call goes on.")],
    *,
    shard_mib: Annotated[int, typer.Option(min=1, max=1_048_576, help="MiB after which the next file begins.")] = 1024,
    json_out: options.Json = None,
) -> None:
    """Copy the audio of a table into a few large tar files, from which every command reads it.

    The layout is that of WebDataset; the new table says at which byte each utterance begins.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.shards import SHARD_TABLE, write_shards
    from nestvox.corpora.utterances import read_utterances

    with progress_bar("copying", "utterances") as progress:
        written = write_shards(read_utterances(table), out, shard_mib=shard_mib, progress=progress)
    files = sorted(out.glob("shard-*.tar"))
    summary = {
        "n_utterances": len(written),
        "n_shards": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "table": str(out / SHARD_TABLE),
    }
    print_rows(summary, json_out)


@app.command()
def augment(
    table: Annotated[Path, typer.Argument(help="Utterance table: .tsv, .csv or .parquet.")],
    out: Annotated[Path, typer.Option(help="Folder of the copies and their table; a run that was stopped goes on.")],
    *,
    noise: options.Noise = None,
    rir: options.Rir = None,
    bank_split: Annotated[
        str, typer.Option(help="Of noise and rooms, where their tables have a column `split`.")
    ] = "test",
    settings: options.Augment = None,
    seed: options.Seed = 0,
    split: options.Split = None,
    trials_file: Annotated[
        Path | None, typer.Option("--trials", help="Also write this list with the names of the new table.")
    ] = None,
    workers: Annotated[int, options.WORKERS] = 2,
    json_out: options.Json = None,
) -> None:
    """Write the audio of a table as it sounds in noise, rooms or telephones: the same trials, heard under conditions.

    Numbers that are measured on it carry the label `augmented`.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.augmented import AUGMENTED_TABLE, named_by_id, write_augmented
    from nestvox.corpora.trials import read_trials, write_trials

    utterances = options.read_table(table, split)
    # A list with names that the table lacks is an error before the work and not after it.
    renamed = None if trials_file is None else named_by_id(read_trials(trials_file), utterances)
    banks, augmentation = options.augmentation_of(settings, noise, rir, utterances, split=bank_split)
    with progress_bar("augmenting", "utterances") as progress:
        written = write_augmented(
            utterances, out, augmentation=augmentation, banks=banks, seed=seed, workers=workers, progress=progress
        )
    if renamed is not None:
        write_trials(renamed, out / "trials.txt")
    rows = {
        "n_utterances": len(written),
        "augmented": options.augmentation_in_words(augmentation.config()),
        "table": str(out / AUGMENTED_TABLE),
        "trials": None if renamed is None else str(out / "trials.txt"),
    }
    print_rows({name: value for name, value in rows.items() if value is not None})
    write_json(json_out, {**rows, "settings": augmentation.config()}, told=False)


@app.command()
def describe(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Trial lists.")],
    fmt: _Format = None,
    json_out: options.Json = None,
) -> None:
    """Count the trials of lists in any format, and show the hash that names their content."""
    from nestvox.corpora.trials import read_trials

    described = {str(path): _trial_counts(read_trials(path, fmt)) for path in paths}
    shown = whole_table("list", numbers=("trials", "targets", "non-targets", "unknown", "names", "sha256"))
    for path, counts in described.items():
        numbers = [f"{counts[name]:,}" for name in ("n_trials", "n_target", "n_nontarget", "n_unknown", "n_names")]
        shown.add_row(path, *numbers, counts["trials_sha256"][:16])
    console().print(shown)
    write_json(json_out, described, told=False)


def _trial_counts(trials: Trials) -> dict[str, Any]:
    import polars as pl

    return {
        "n_trials": len(trials),
        "n_target": trials.n_target,
        "n_nontarget": trials.n_nontarget,
        "n_unknown": trials.n_unknown,
        "n_names": pl.concat([trials.frame["enrol"].alias("name"), trials.frame["test"].alias("name")]).n_unique(),
        "trials_sha256": trials.sha256,
    }
