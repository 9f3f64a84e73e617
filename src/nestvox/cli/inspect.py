"""`nestvox inspect`: one model on one page, and whether it keeps its promises."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli.backends import NetworkBackend, NetworkPrecision

if TYPE_CHECKING:
    from rich.console import Console

    from nestvox.evaluation.inspect import Inspection

__all__ = ["inspect"]

_STYLES = {"pass": "green", "fail": "bold red", "note": "yellow"}


def inspect(
    model: Annotated[str, typer.Argument(help="Model folder, .onnx file, or a name that `nestvox models list` shows.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Recordings to check it on; without any: generated tones.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed calls for each clip length.")] = 5,
    require_thresholds: Annotated[
        bool, typer.Option("--require-thresholds", help="A dimension without a threshold fails.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:n].")] = "auto",
    backend: Annotated[NetworkBackend, typer.Option(help="How the network runs.")] = NetworkBackend.auto,
    precision: Annotated[NetworkPrecision, typer.Option(help="Of the network.")] = NetworkPrecision.float32,
    channel: Annotated[
        int | None, typer.Option(min=0, help="Channel of the recordings, 0 is the first; default: the mean of all.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Local weights file for a catalogue name.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never fetch anything.")] = False,
    json_out: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write it all as JSON.")] = None,
) -> None:
    """Measure a model's size, vectors and latency, and check it on recordings.

    Exit code 0: no check failed; 1: one did, or the model folder is damaged; 2: the call is wrong.
    """
    import json

    from rich.console import Console

    from nestvox.atomic import write_text
    from nestvox.cli.progress import progress_bar
    from nestvox.errors import FingerprintError, ModelError, WeightsError
    from nestvox.evaluation.inspect import inspect_model, unloadable
    from nestvox.evaluation.sample_clips import read_clips, tones
    from nestvox.loading import load
    from nestvox.model_folder import CONFIG_FILE, WEIGHTS_FILE

    folder = Path(model) if Path(model).is_dir() and weights is None else None
    try:
        loaded = load(
            model, weights=weights, offline=offline, device=device, backend=backend.value, precision=precision.value
        )
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
    if json_out is not None:
        write_text(json_out, json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    _print(found, Console(highlight=False, width=None if sys.stdout.isatty() else 120))
    if not found.passed:
        raise typer.Exit(1)


def _print(found: Inspection, console: Console) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from nestvox.download import readable_size

    console.print(f"[bold]{escape(found.model)}[/bold]  {found.fingerprint}  {escape(found.machine)}", soft_wrap=True)
    for part in found.parts:
        console.print(
            f"  {part.part:8} {part.kind}: {part.parameters:,} parameters, {part.values:,} numbers saved, "
            f"{readable_size(part.bytes)}",
            markup=False,
        )
    for name, size in found.files.items():
        console.print(f"  {name:24} {size:>14,} bytes", markup=False)
    if "synthetic" in found.labels:
        console.print(
            f"[bold red]SYNTHETIC[/]: tried on {len(found.clips)} generated tones; name recordings to try it on speech",
            soft_wrap=True,
        )
    elif found.clips:
        console.print(f"tried on {len(found.clips)} recordings", soft_wrap=True)
    for warning in found.warnings:
        console.print(f"  [yellow]warning[/yellow]  {escape(warning)}", soft_wrap=True)
    if found.dims:
        shown = Table(title="prefixes, before they are normalised", title_justify="left", box=box.SIMPLE_HEAD)
        for column in ("dim", "shape", "norm, mean", "sd", "share of energy"):
            shown.add_column(column, justify="right")
        for row in found.dims:
            cells = (row.norm_mean, row.norm_sd, row.energy_share)
            numbers = ["-" if cell is None else f"{cell:.4g}" for cell in cells[:2]]
            share = "-" if row.energy_share is None else f"{row.energy_share:.1%}"
            shown.add_row(str(row.dim), f"{row.shape[0]} x {row.shape[1]}", *numbers, share)
        console.print(shown)
    if found.latency:
        shown = Table(title="latency of one clip alone", title_justify="left", box=box.SIMPLE_HEAD)
        for column in ("clip, s", "median, ms", "x real time", "runs"):
            shown.add_column(column, justify="right")
        for latency in found.latency:
            shown.add_row(
                f"{latency.clip_s:g}",
                f"{latency.median_ms:.1f}",
                f"{latency.real_time_factor:.4f}",
                str(latency.runs),
            )
        console.print(shown)
    for check in found.checks:
        outcome = f"[{_STYLES[check.outcome]}]{check.outcome}[/]"
        console.print(f"{outcome}  {escape(check.name):16} {escape(check.detail)}", soft_wrap=True)
    failed = [check.name for check in found.checks if check.outcome == "fail"]
    console.print(f"[bold red]FAIL[/]: {escape(', '.join(failed))}" if failed else "[bold green]PASS[/]")
