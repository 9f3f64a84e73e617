"""`nestvox bench`: what a model costs in time and storage, at every dimension."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli.backends import NetworkBackend, NetworkPrecision

if TYPE_CHECKING:
    from rich.console import Console

    from nestvox.evaluation.bench import Bench

__all__ = ["bench"]


def bench(
    model: Annotated[str, typer.Argument(help="Model folder, .onnx file, or a name that `nestvox models list` shows.")],
    dims: Annotated[
        str | None, typer.Option(metavar="16,32,...", help="Prefix lengths; default: those of the model.")
    ] = None,
    gallery: Annotated[int, typer.Option(min=1, help="Generated vectors that are searched.")] = 100_000,
    queries: Annotated[int, typer.Option(min=1, help="Searched at once.")] = 64,
    top: Annotated[int, typer.Option(min=1, help="Neighbours of each query.")] = 10,
    clip_s: Annotated[float, typer.Option(help="Length of the clips that are embedded, in seconds.")] = 3.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips embedded at once.")] = 8,
    seconds: Annotated[float, typer.Option(help="Spent on each measurement.")] = 1.0,
    memory_gb: Annotated[float, typer.Option(help="That the gallery may take.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Of the generated audio and vectors.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:n].")] = "auto",
    backend: Annotated[NetworkBackend, typer.Option(help="How the network runs.")] = NetworkBackend.auto,
    precision: Annotated[NetworkPrecision, typer.Option(help="Of the network.")] = NetworkPrecision.float32,
    weights: Annotated[Path | None, typer.Option(help="Local weights file for a catalogue name.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never fetch anything.")] = False,
    json_out: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write it as JSON.")] = None,
) -> None:
    """Measure extraction once, and scoring, search and storage at every dimension."""
    import json

    from rich.console import Console

    from nestvox.atomic import write_text
    from nestvox.cli.dims import parse_dims
    from nestvox.cli.progress import progress_bar
    from nestvox.evaluation.bench import bench_model
    from nestvox.loading import load

    asked = parse_dims(dims)
    loaded = load(
        model, weights=weights, offline=offline, device=device, backend=backend.value, precision=precision.value
    )
    with progress_bar("measuring", "measurements") as bar:
        found = bench_model(
            loaded,
            dims=asked,
            gallery=gallery,
            queries=queries,
            top=top,
            clip_s=clip_s,
            batch_size=batch_size,
            seconds=seconds,
            max_memory=round(memory_gb * 1e9),
            seed=seed,
            progress=bar,
        )
    if json_out is not None:
        write_text(json_out, json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    _print(found, Console(highlight=False, width=None if sys.stdout.isatty() else 120))


def _print(found: Bench, console: Console) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    console.print(f"[bold]{escape(found.model)}[/bold]  {found.fingerprint}  {escape(found.machine)}", soft_wrap=True)
    cost = found.extraction
    console.print(
        f"extraction, the same at every dimension: {cost.clips_per_s:,.1f} clips/s, {cost.real_time_factor:.4f} x real "
        f"time (clips of {cost.clip_s:g} s, {cost.batch_size} at once, median of {cost.calls} calls, decoding not "
        "counted)",
        soft_wrap=True,
    )
    shown = Table(box=box.SIMPLE_HEAD)
    columns = (
        "dim",
        "pairs scored/s",
        f"top-{found.top} searches/s among {found.gallery:,}",
        "GB a million, float32",
        "float16",
    )
    for column in columns:
        shown.add_column(column, justify="right")
    for row in found.dims:
        shown.add_row(
            str(row.dim),
            f"{row.pairs_per_s:,.0f}",
            f"{row.queries_per_s:,.0f}",
            f"{row.bytes_float32 / 1e9:.3f}",
            f"{row.bytes_float16 / 1e9:.3f}",
        )
    console.print(shown)
    console.print(
        f"scoring: cosines of stored pairs; search: exact, {found.queries} queries at once, numpy; vectors alone count "
        "as storage",
        soft_wrap=True,
    )
    console.print(found.saying, soft_wrap=True)
