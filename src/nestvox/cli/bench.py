"""`nestvox bench`: what a model costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import console, number, say, whole_table
from nestvox.cli.outputs import write_json

if TYPE_CHECKING:
    from nestvox.inspection.bench import Bench


def bench(
    model: Annotated[str, typer.Argument(help="Model folder, .onnx file, or a name that `nestvox models list` shows.")],
    dims: options.Dims = None,
    gallery: Annotated[int, typer.Option(min=1, max=10_000_000, help="Generated vectors that are searched.")] = 100_000,
    queries: Annotated[int, typer.Option(min=1, max=1_000_000, help="Searched at once.")] = 64,
    top: Annotated[int, typer.Option(min=1, max=1_000_000, help="Neighbours of each query.")] = 10,
    clip_s: Annotated[float, typer.Option(help="Length of the clips that are embedded, in seconds.")] = 3.0,
    batch_size: Annotated[int, options.BATCH_SIZE] = 8,
    seconds: Annotated[float, typer.Option(help="Spent on each measurement.")] = 1.0,
    memory_gb: Annotated[float, typer.Option(help="That the gallery may take.")] = 2.0,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    precision: options.Precision = "float32",
    weights: options.Weights = None,
    offline: options.Offline = False,
    json_out: options.Json = None,
) -> None:
    """Measure extraction once, and scoring, search and storage at every dimension."""
    from nestvox.cli.progress import progress_bar
    from nestvox.inspection.bench import bench_model

    asked = options.parse_dims(dims)
    loaded = options.Running(device, backend, weights, offline, precision).load(model)
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
            memory_gb=memory_gb,
            seed=seed,
            progress=bar,
        )
    write_json(json_out, found.to_dict(), told=False)
    _print_bench(found)


def _print_bench(found: Bench) -> None:

    say((found.model, "bold"), f"  {found.fingerprint}  {found.machine}")
    cost = found.extraction
    say(
        f"extraction, the same at every dimension: {cost.clips_per_s:,.1f} clips/s, {cost.real_time_factor:.4f} x real "
        f"time (clips of {cost.clip_s:g} s, {cost.batch_size} at once, median of {cost.calls} calls, decoding not "
        "counted)"
    )
    columns = (
        "dim",
        "pairs scored/s",
        f"top-{found.top} searches/s among {found.gallery:,}",
        "GB a million, float32",
        "float16",
    )
    shown = whole_table(*map(number, columns))
    for row in found.dims:
        shown.add_row(
            str(row.dim),
            f"{row.pairs_per_s:,.0f}",
            f"{row.queries_per_s:,.0f}",
            f"{row.bytes_float32 / 1e9:.3f}",
            f"{row.bytes_float16 / 1e9:.3f}",
        )
    console().print(shown)
    say(
        f"scoring: cosines of stored pairs; search: exact, {found.queries} queries at once, numpy; vectors alone count "
        "as storage"
    )
    say(found.saying)
