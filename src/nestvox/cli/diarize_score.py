"""`nestvox diarize-score`: how wrong a diarization is, and by which rules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import console, number, say, say_notes, text, whole_table
from nestvox.cli.outputs import write_json

if TYPE_CHECKING:
    from nestvox.diarization import DiarizationScore
    from nestvox.metrics.estimate import Estimate


def diarize_score(
    reference: Annotated[
        Path, typer.Argument(help="Who speaks when: .rttm, .json, .txt (Audacity), or a folder of RTTM.")
    ],
    hypothesis: Annotated[Path, typer.Argument(help="What was found, likewise.")],
    uem: Annotated[
        Path | None, typer.Option(help="What is scored, a .uem file or a folder of them; default: first to last turn.")
    ] = None,
    collar_s: Annotated[
        float, typer.Option("--collar-s", help="Seconds left out on each side of every boundary of the reference.")
    ] = 0.0,
    skip_overlap: Annotated[
        bool, typer.Option("--skip-overlap", help="Leave out where the reference has several speakers.")
    ] = False,
    n_bootstrap: Annotated[
        int, typer.Option("--bootstrap", max=1_000_000, help="Replicates of the intervals, which draw files.")
    ] = 1000,
    confidence: options.Confidence = 0.95,
    seed: options.Seed = 0,
    json_out: options.Json = None,
) -> None:
    """Measure DER with its parts, JER and the number of speakers, with intervals over files.

    Every number stands beside the rules that it was measured by, and how md-eval and pyannote are called for the same.
    Numbers with a collar or without overlap are lower, and no match for those without and with.
    """
    from nestvox.diarization import score_diarization

    found = score_diarization(
        reference,
        hypothesis,
        uem=uem,
        collar_s=collar_s,
        skip_overlap=skip_overlap,
        n_bootstrap=n_bootstrap,
        confidence=confidence,
        seed=seed,
    )
    write_json(json_out, found.to_dict(), told=False)
    _print(found)


def _print(found: DiarizationScore) -> None:
    from nestvox.diarization.score import ReferenceSet

    settings = found.rates.der.trials
    assert isinstance(settings, ReferenceSet)
    numbers = ("DER %", "missed", "false alarm", "confusion", "JER %", "speakers", "found", "speech s")
    shown = whole_table(text("file"), numbers=numbers, title="diarization error", labels=settings.labels)
    for file in found.files:
        parts = [_share(part, file.speech_s) for part in (file.missed_s, file.false_alarm_s, file.confusion_s)]
        jer = f"{100 * file.jaccard / file.n_speakers:.1f}" if file.n_speakers else "-"
        shown.add_row(
            file.file,
            f"{100 * file.der:.1f}",
            *parts,
            jer,
            str(file.n_speakers),
            str(file.n_found),
            f"{file.speech_s:.1f}",
        )
    console().print(shown)
    rates = found.rates
    whole = whole_table("of all files", number("%"), number("interval"))
    for name, rate in (("DER", rates.der), ("missed", rates.missed), ("false alarm", rates.false_alarm)):
        whole.add_row(name, f"{100 * rate.value:.2f}", _interval(rate, 100, 2))
    for name, rate in (("confusion", rates.confusion), ("JER", rates.jer)):
        whole.add_row(name, f"{100 * rate.value:.2f}", _interval(rate, 100, 2))
    console().print(whole)
    count = rates.speaker_count
    say(f"speakers amiss per file: {count.value:.2f} {_interval(count, 1, 2)}")
    region = settings.uem or "from the first to the last turn of either side"
    overlap = "not scored" if settings.skip_overlap else "scored"
    say(
        f"{settings.n_clusters} files, {settings.speech_s:.1f} s of speech; collar {settings.collar_s:g} s on each "
        f"side, overlap {overlap}, UEM: {region}; reference {settings.reference}, sha256 {settings.trials_sha256}"
    )
    for name, call in settings.flags.items():
        say(f"  the same by {name.replace('_', '-')}: {call}")
    say_notes(found.notes)


def _share(part_s: float, of_s: float) -> str:
    return f"{100 * part_s / of_s:.1f}" if of_s else "-"


def _interval(rate: Estimate, times: float, digits: int) -> str:
    from nestvox.evaluation.results import interval_in_words

    low, high = rate.ends
    return interval_in_words(times * low, times * high, digits)
