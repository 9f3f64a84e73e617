"""`nestvox inspect`: one model on one page, and whether it keeps its promises."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import console, say, whole_table
from nestvox.cli.outputs import write_json

if TYPE_CHECKING:
    from rich.console import Console

    from nestvox.inspection.inspect import Inspection, MemoryUse

_MOST_CLIPS = 12  # in a table

_STYLES = {"pass": "green", "fail": "bold red", "note": "yellow"}


def inspect(
    model: Annotated[str, typer.Argument(help="Model folder, .onnx file, or a name that `nestvox models list` shows.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Recordings to check it on; without any: generated tones.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=1_000_000, help="Timed calls for each clip length.")] = 5,
    require_thresholds: Annotated[
        bool, typer.Option("--require-thresholds", help="A dimension without a threshold fails.")
    ] = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    precision: options.Precision = "float32",
    channel: options.Channel = None,
    weights: options.Weights = None,
    offline: options.Offline = False,
    json_out: options.Json = None,
) -> None:
    """Measure a model's size, vectors and latency, and check it on recordings.

    Exit code 0: no check failed; 1: one did, or the model folder is damaged; 2: the call is wrong.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.errors import FingerprintError, ModelError, WeightsError
    from nestvox.inspection.inspect import inspect_model, unloadable
    from nestvox.inspection.sample_clips import read_clips, tones
    from nestvox.model.folder import CONFIG_FILE, WEIGHTS_FILE

    folder = Path(model) if Path(model).is_dir() and weights is None else None
    try:
        loaded = options.Running(device, backend, weights, offline, precision).load(model)
    except (ModelError, WeightsError, FingerprintError) as error:
        # A folder that a model was saved in, and which no longer is one, is a finding; anything else a wrong call.
        if folder is None or not any((folder / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE)):
            raise
        found = unloadable(folder, error)
    else:
        rate, shortest = loaded.sample_rate, loaded.min_duration_s
        clips = (
            read_clips(files, sample_rate=rate, min_duration_s=shortest, channel=channel)
            if files
            else tones(rate, min_duration_s=shortest)
        )
        with progress_bar("inspecting", "steps") as bar:
            found = inspect_model(
                loaded, clips, folder=folder, runs=runs, require_thresholds=require_thresholds, progress=bar
            )
    write_json(json_out, found.to_dict(), told=False)
    _print(found)
    if not found.passed:
        raise typer.Exit(1)


def _print(found: Inspection) -> None:
    from rich.text import Text

    from nestvox.download import readable_size

    screen = console()
    screen.print(Text.assemble((found.model, "bold"), f"  {found.fingerprint}  {found.machine}"), soft_wrap=True)
    for part in found.parts:
        say(
            f"  {part.part:8} {part.kind}: {part.parameters:,} parameters, {part.values:,} numbers saved, "
            f"{readable_size(part.bytes)}"
        )
    if found.memory is not None:
        say(f"  memory   {_memory_in_words(found.memory)}")
    for name, size in found.files.items():
        say(f"  {name:24} {size:>14,} bytes")
    if "synthetic" in found.labels:
        tried = f": tried on {len(found.clips)} generated tones; name recordings to try it on speech"
        screen.print(Text.assemble(("SYNTHETIC", "bold red"), tried), soft_wrap=True)
    elif found.clips:
        say(f"tried on {len(found.clips)} recordings")
    for warning in found.warnings:
        screen.print(Text.assemble(("  warning", "yellow"), f"  {warning}"), soft_wrap=True)
    if found.dims:
        shown = whole_table(
            numbers=("dim", "shape", "norm, mean", "sd", "share of energy"),
            title="prefixes, before they are normalised",
        )
        for row in found.dims:
            cells = (row.norm_mean, row.norm_sd, row.energy_share)
            numbers = ["-" if cell is None else f"{cell:.4g}" for cell in cells[:2]]
            share = "-" if row.energy_share is None else f"{row.energy_share:.1%}"
            shown.add_row(str(row.dim), f"{row.shape[0]} x {row.shape[1]}", *numbers, share)
        screen.print(shown)
    _print_clips(found, screen)
    if found.latency:
        shown = whole_table(numbers=("clip, s", "median, ms", "x real time", "runs"), title="latency of one clip alone")
        for latency in found.latency:
            factor = f"{latency.real_time_factor:.4f}"
            shown.add_row(f"{latency.clip_s:g}", f"{latency.median_ms:.1f}", factor, str(latency.runs))
        screen.print(shown)
    for check in found.checks:
        words = f"  {check.name:16} {check.detail}"
        screen.print(Text.assemble((check.outcome, _STYLES[check.outcome]), words), soft_wrap=True)
    failed = [check.name for check in found.checks if check.outcome == "fail"]
    verdict = Text.assemble(("FAIL", "bold red"), f": {', '.join(failed)}") if failed else Text("PASS", "bold green")
    screen.print(verdict, soft_wrap=True)


def _print_clips(found: Inspection, screen: Console) -> None:
    """Norms of each clip, and the clips' cosines with each other at the full size."""
    if not found.clip_norms:
        return
    shown_norms, most = found.clip_norms[:_MOST_CLIPS], len(found.clip_norms)
    dims = tuple(str(dim) for dim in shown_norms[0].norms)
    shown = whole_table("no.", "recording", numbers=("s", *dims), title="norm of each clip's prefixes")
    for count, row in enumerate(shown_norms, 1):
        norms = ["-" if norm is None else f"{norm:.4g}" for norm in row.norms.values()]
        shown.add_row(str(count), row.clip, f"{row.duration_s:.1f}", *norms)
    screen.print(shown)
    whole = found.similarities[-1]
    numbers = tuple(map(str, range(1, len(shown_norms) + 1)))
    shown = whole_table(
        "no.", numbers=numbers, title=f"cosines of the clips at {whole.dim} dimensions", labels=found.labels
    )
    for name, cosines in zip(numbers, whole.cosines, strict=False):
        shown.add_row(name, *("-" if value is None else f"{value:.3f}" for value in cosines[: len(numbers)]))
    screen.print(shown)
    if most > _MOST_CLIPS:
        say(f"shown are the first {_MOST_CLIPS} of {most} recordings; --json has all, at every dimension")


def _memory_in_words(memory: MemoryUse) -> str:
    from nestvox.download import readable_size

    words = [f"weights {readable_size(memory.weights_bytes)}"]
    if memory.peak_process_bytes is not None:
        words.append(f"this process at most {readable_size(memory.peak_process_bytes)}")
    if memory.peak_gpu_bytes is not None:
        words.append(f"GPU at most {readable_size(memory.peak_gpu_bytes)}")
    return ", ".join(words)
