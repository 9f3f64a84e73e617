"""`nestvox embed` and `nestvox export`: a table of utterances to a store, and a store to a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nestvox.cli.console import say
from nestvox.cli.running import (
    Backend,
    Device,
    NetworkBackend,
    NetworkPrecision,
    Offline,
    Precision,
    Running,
    Weights,
)


class _Tap(StrEnum):
    nested = "nested"
    embedding = "embedding"
    pooled = "pooled"
    frames = "frames"


class _Dtype(StrEnum):
    float32 = "float32"
    float16 = "float16"


class _Engine(StrEnum):
    local = "local"
    ray = "ray"


def embed(
    table: Annotated[Path, typer.Argument(help="Utterance table: .tsv, .csv or .parquet.")],
    out: Annotated[Path, typer.Option(help="Folder of the store; a run that was stopped is resumed.")],
    model: Annotated[
        str, typer.Option(help="Model folder, .onnx file, or a name that `nestvox models list` shows.")
    ] = "ge2e",
    tap: Annotated[_Tap, typer.Option(help="What is stored.")] = _Tap.nested,
    split: Annotated[str | None, typer.Option(help="Only rows whose column `split` says this.")] = None,
    channel: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1_023,
            help="Channel of rows whose column `channel` says none, 0 is the first; default: the mean.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=65_536, help="Utterances at once; measured by default.")
    ] = None,
    streams: Annotated[
        int | None, typer.Option(min=1, max=1_024, help="Forward passes side by side; measured by default.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1_024, help="Of each forward pass on a CPU; measured by default.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1_024, help="Decoding threads; measured by default.")
    ] = None,
    shard_rows: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Utterances of a file of the store.")
    ] = None,
    dtype: Annotated[_Dtype, typer.Option(help="Of the stored numbers.")] = _Dtype.float32,
    max_duration_s: Annotated[
        float, typer.Option(help="Longer utterances go through in pieces, whose vectors are averaged.")
    ] = 300.0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Record unusable audio instead of stopping.")] = False,
    engine: Annotated[
        _Engine, typer.Option(help="local: this machine; ray: the tasks of a Ray cluster, with the same result.")
    ] = _Engine.local,
    ray_address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the cluster, or auto; RAY_ADDRESS by default, else one of this machine's own."),
    ] = None,
    device: Device = "auto",
    backend: Backend = NetworkBackend.auto,
    precision: Precision = NetworkPrecision.float32,
    weights: Weights = None,
    offline: Offline = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write what was done as JSON.")] = None,
) -> None:
    """Embed every utterance of a table; every dimension comes out of one forward pass."""
    import json
    from dataclasses import asdict

    from nestvox.atomic import write_text
    from nestvox.audio.condition import count_codes, doubts
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.utterances import read_utterances
    from nestvox.extraction.embed import run_embedding

    utterances = read_utterances(table)
    if split is not None:
        utterances = utterances.where(split=split)
    if channel is not None:
        utterances = utterances.with_channel(channel)
    speaker_model = Running(device, backend, weights, offline, precision).load(model)
    with progress_bar("embedding", "utterances") as progress:
        store, run = run_embedding(
            speaker_model,
            utterances,
            out,
            tap=tap.value,
            batch_size=batch_size,
            streams=streams,
            threads=threads,
            workers=workers,
            shard_rows=shard_rows,
            dtype=dtype.value,
            max_duration_s=max_duration_s,
            skip_bad=skip_bad,
            engine=engine.value,
            ray_address=ray_address,
            progress=progress,
        )
    metadata = store.metadata
    if json_out is not None:
        report = {
            **asdict(run),
            "utterances_per_s": run.utterances_per_s,
            "real_time_factor": run.real_time_factor,
            "store": str(out),
            "fingerprint": metadata.fingerprint,
            "tap": metadata.tap,
            "dim": metadata.dim,
            "dims": list(metadata.dims),
            "labels": list(metadata.labels),
            "store_rows": len(store),
            "conditions": count_codes(store.conditions),
        }
        write_text(json_out, json.dumps(report, indent=2) + "\n")
    resumed = f" ({run.resumed_rows} were there already)" if run.resumed_rows else ""
    say(f"rows         {run.rows} x {metadata.dim} {metadata.dtype}, tap {metadata.tap}{resumed}")
    if run.rows:
        say(
            f"time         {run.wall_s:.1f} s for {run.audio_s:.0f} s of audio, of it {run.trial_s:.1f} s to set up the"
            f" network and choose; batches of {run.batch_size}, {_streams(run.streams, run.threads)}, "
            f"{run.workers} for decoding"
        )
        if run.engine == "ray":
            say(f"engine       ray, room for {run.tasks} such tasks side by side")
        say(f"speed        {run.utterances_per_s:.1f} utterances/s, real-time factor {run.real_time_factor:.4f}")
    if metadata.failed:
        say(f"skipped      {len(metadata.failed)}, with reasons in {out / 'store.json'}; the first:")
        for failure in metadata.failed[:5]:
            say(f"             {failure.utt_id}: {failure.reason}")
    for sentence in doubts(store.conditions):
        say(f"conditions   {sentence}")
    if metadata.labels:
        say(f"labels       {', '.join(metadata.labels)}")
    say(f"store        {out}")


def _streams(streams: int, threads: int) -> str:
    """Passes side by side; the threads of each where they were chosen, else those of the library."""
    side = f"{streams} stream{'' if streams == 1 else 's'}"
    return f"{side} of {threads} thread{'' if threads == 1 else 's'}" if threads else side


def export(
    store: Annotated[Path, typer.Argument(help="Folder of a complete store.")],
    out: Annotated[Path, typer.Option(help="File; .npy, .npz, .parquet, .ark or .scp names the format.")],
    dim: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Keep this prefix, at unit length.")] = None,
) -> None:
    """Write the vectors of a store to a file that others read."""
    from nestvox.audio.condition import doubts
    from nestvox.cli.progress import progress_bar
    from nestvox.extraction.formats.interchange import export_store
    from nestvox.extraction.store.store import EmbeddingStore

    opened = EmbeddingStore(store)
    with progress_bar("exporting", "rows") as progress:
        rows = export_store(opened, out, dim=dim, progress=progress)
    say(f"{rows} rows written to {out}")
    for sentence in doubts(opened.conditions):
        place = "" if out.suffix == ".parquet" else f" A {out.suffix} file has no place for which; .parquet has."
        say(("note:", "yellow"), f" {sentence}{place}")
