"""`nestvox diarize`: who spoke when, an RTTM file for each recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nestvox.cli import options
from nestvox.cli.console import console, say, tell, text, whole_table
from nestvox.cli.outputs import write_json

if TYPE_CHECKING:
    from nestvox.diarization import Diarization

_MOST_SPEAKERS = 1000


def diarize(
    files: Annotated[list[Path], typer.Argument(help="Recordings.")],
    out: Annotated[Path, typer.Option(help="Folder of an RTTM file for each; a run that was stopped is resumed.")],
    model: Annotated[str | None, options.MODEL] = None,
    segmentation: Annotated[
        Literal["network", "vad"],
        typer.Option(help="network: segmentation-3.0, also several at once; vad: voice activity, one at a time."),
    ] = "network",
    step_s: Annotated[float, typer.Option(help="Seconds between chunks; longer is faster and less sure.")] = 1.0,
    threshold: Annotated[
        float | None, typer.Option(help="Largest mean cosine distance within a speaker; known for campplus.")
    ] = None,
    speakers: Annotated[int | None, typer.Option(min=1, max=_MOST_SPEAKERS, help="In each file, exactly.")] = None,
    min_speakers: Annotated[int | None, typer.Option(min=1, max=_MOST_SPEAKERS, help="At least.")] = None,
    max_speakers: Annotated[int | None, typer.Option(min=1, max=_MOST_SPEAKERS, help="At most.")] = None,
    dim: options.Dim = None,
    channel: options.Channel = None,
    skip_bad: options.SkipBad = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    offline: options.Offline = False,
    json_out: options.Json = None,
) -> None:
    """Find who speaks when in recordings, and write an RTTM file for each.

    Speakers are numbered within a file. Memory does not grow with the audio but by a few numbers a second; a file
    appears whole or not at all.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.diarization import diarize as run

    loaded = options.Running(device, backend, weights, offline).load(model)
    with progress_bar("diarizing", "s of audio") as progress:
        found = run(
            loaded,
            files,
            out,
            segmentation=segmentation,
            step_s=step_s,
            threshold=threshold,
            speakers=speakers,
            min_speakers=min_speakers,
            max_speakers=max_speakers,
            dim=dim,
            channel=channel,
            skip_bad=skip_bad,
            offline=offline,
            announce=tell,
            progress=progress,
        )
    write_json(json_out, found.to_dict(), told=False)
    _print(found, out)
    if all(file.problem for file in found.files):
        raise typer.Exit(2)


def _print(found: Diarization, out: Path) -> None:
    shown = whole_table(text("file"), numbers=("minutes", "speakers", "speech %", "several at once %", "s taken"))
    for file in found.files:
        if file.problem:
            continue
        share = 100 / max(file.duration_s, 1e-9)
        taken = "before" if file.taken_s is None else f"{file.taken_s:.1f}"
        minutes, speech = f"{file.duration_s / 60:.1f}", f"{share * file.speech_s:.1f}"
        shown.add_row(file.file, minutes, str(file.speakers), speech, f"{share * file.overlap_s:.1f}", taken)
    console().print(shown)
    for file in found.files:
        if file.problem:
            say(("not done:", "bold red"), f" {file.path}: {file.problem}")
    factor = found.real_time_factor
    pace = "" if factor is None else f", {factor:.3f} s for a second of audio"
    say(f"RTTM: {out} ({found.model} {found.fingerprint}, segmentation {found.settings.segmentation}{pace})")
