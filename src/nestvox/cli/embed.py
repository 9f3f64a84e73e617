"""`nestvox embed`, `cache` and `export`: utterances to a store or a feature cache, and a store to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nestvox.cli import options
from nestvox.cli.console import say
from nestvox.cli.outputs import write_json
from nestvox.errors import NestvoxError

if TYPE_CHECKING:
    from nestvox.extraction.embed import EmbeddingRun
    from nestvox.extraction.store.store import EmbeddingStore


def embed(
    table: Annotated[Path, typer.Argument(help="Utterance table: .tsv, .csv or .parquet.")],
    out: Annotated[Path, typer.Option(help="Folder of the store; a run that was stopped is resumed.")],
    model: Annotated[str | None, options.MODEL] = None,
    tap: Annotated[Literal["nested", "embedding", "pooled", "frames"], typer.Option(help="What is stored.")] = "nested",
    split: options.Split = None,
    channel: options.Channel = None,
    batch_size: options.BatchSize = None,
    streams: options.Streams = None,
    threads: options.Threads = None,
    workers: Annotated[int | None, options.WORKERS] = None,
    shard_rows: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Utterances of a file of the store.")
    ] = None,
    dtype: options.Dtype = "float32",
    max_duration_s: options.MaxDuration = 300.0,
    skip_bad: options.SkipBad = False,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="local: this machine; ray: the tasks of a Ray cluster, with the same result."),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the cluster, or auto; RAY_ADDRESS by default, else one of this machine's own."),
    ] = None,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    precision: options.Precision = "float32",
    weights: options.Weights = None,
    offline: options.Offline = False,
    json_out: options.Json = None,
) -> None:
    """Embed every utterance of a table; every dimension comes out of one forward pass.

    Without --model the model in the box is taken, else the best encoder at hand, campplus or else ge2e, and named.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.extraction.embed import run_embedding
    from nestvox.extraction.settings import EmbeddingSettings

    utterances = options.read_table(table, split)
    if channel is not None:
        utterances = utterances.with_channel(channel)
    speaker_model = options.Running(device, backend, weights, offline, precision).load(model)
    settings = EmbeddingSettings(
        batch_size=batch_size,
        streams=streams,
        threads=threads,
        workers=workers,
        shard_rows=shard_rows,
        dtype=dtype,
        max_duration_s=max_duration_s,
        skip_bad=skip_bad,
    )
    with progress_bar("embedding", "utterances") as progress:
        store, run = run_embedding(
            speaker_model,
            utterances,
            out,
            settings,
            tap=tap,
            engine=engine,
            ray_address=ray_address,
            progress=progress,
        )
    _report(store, run, named=model is not None, json_out=json_out)


def cache(
    table: Annotated[Path, typer.Argument(help="Utterance table of training speakers: .tsv, .csv or .parquet.")],
    out: Annotated[Path, typer.Option(help="Folder of the cache; a run that was stopped is resumed.")],
    model: Annotated[str | None, options.MODEL] = None,
    variants: Annotated[
        int, typer.Option(min=1, max=1000, help="Rows of each utterance; the first is the recording itself.")
    ] = 4,
    noise: options.Noise = None,
    rir: options.Rir = None,
    augment: options.Augment = None,
    crop_s: Annotated[float | None, typer.Option(help="Longest stretch of an augmented variant; else whole.")] = None,
    dtype: options.Dtype = "float16",
    seed: options.Seed = 0,
    split: options.Split = None,
    max_duration_s: options.MaxDuration = 300.0,
    skip_bad: options.SkipBad = False,
    batch_size: options.BatchSize = None,
    streams: options.Streams = None,
    threads: options.Threads = None,
    workers: Annotated[int | None, options.WORKERS] = None,
    shard_utterances: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Utterances of a file of the cache.")
    ] = None,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    offline: options.Offline = False,
    json_out: options.Json = None,
) -> None:
    """Run an encoder once over several augmented variants of every utterance, and keep what heads are trained on.

    Without --model the best encoder at hand is taken, campplus or else ge2e, and named.
    """
    from dataclasses import asdict

    from nestvox.audio.condition import count_codes
    from nestvox.cli.progress import progress_bar
    from nestvox.extraction.cache.feature_cache import build_cache
    from nestvox.extraction.settings import EmbeddingSettings

    utterances = options.read_table(table, split)
    speaker_model = options.Running(device, backend, weights, offline).load_encoder(model)
    banks, augmentation = options.augmentation_of(
        augment, noise, rir, utterances, sample_rate=speaker_model.sample_rate
    )
    settings = EmbeddingSettings(
        batch_size=batch_size,
        streams=streams,
        threads=threads,
        workers=workers,
        shard_rows=shard_utterances,
        dtype=dtype,
        max_duration_s=max_duration_s,
        skip_bad=skip_bad,
    )
    with progress_bar("caching", "rows") as progress:
        found = build_cache(
            speaker_model,
            utterances,
            out,
            variants=variants,
            augmentation=augmentation,
            noise=banks.noise,
            rooms=banks.rooms,
            crop_s=crop_s,
            seed=seed,
            settings=settings,
            progress=progress,
        )
    speakers, metadata = len(found.classes[0]), found.metadata
    size = sum(shard.size_bytes for shard in metadata.shards)
    content = {
        "cache": str(out),
        "model": speaker_model.name,
        "model_named": model is not None,
        "key": found.key,
        "plan": asdict(found.plan),
        "utterances": len(found),
        "variants": found.n_variants,
        "speakers": speakers,
        "pooled_dim": found.pooled_dim,
        "embedding_dim": found.embedding_dim,
        "size_bytes": size,
        "failed": [asdict(failure) for failure in metadata.failed],
        "conditions": count_codes(found.store.conditions),
    }
    write_json(json_out, content, told=False)
    say_model(speaker_model.name, speaker_model.fingerprint, named=model is not None)
    say(f"rows         {len(found)} utterances x {found.n_variants} variants, {speakers} speakers")
    say(f"vectors      pooled {found.pooled_dim}, embedding {found.embedding_dim}, {dtype}, {size:,} bytes")
    if variants > 1:
        say(f"augmented    {options.augmentation_in_words(found.plan.augmentation)}")
    say_doubts(found.store)
    say(f"key          {found.key}")
    say(f"cache        {out}")


def _report(store: EmbeddingStore, run: EmbeddingRun, *, named: bool, json_out: Path | None) -> None:
    """What was made, for a file and for the screen."""
    from dataclasses import asdict

    from nestvox.audio.condition import count_codes

    metadata = store.metadata
    content = {
        **asdict(run),
        "utterances_per_s": run.utterances_per_s,
        "real_time_factor": run.real_time_factor,
        "store": str(store.path),
        "model": metadata.model,
        "model_named": named,
        "fingerprint": metadata.fingerprint,
        "tap": metadata.tap,
        "dim": metadata.dim,
        "dims": list(metadata.dims),
        "labels": list(metadata.labels),
        "store_rows": len(store),
        "conditions": count_codes(store.conditions),
    }
    write_json(json_out, content, told=False)
    say_model(metadata.model, metadata.fingerprint, named=named)
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
    say_doubts(store)
    if metadata.labels:
        say(f"labels       {', '.join(metadata.labels)}")
    say(f"store        {store.path}")


def say_model(name: str, fingerprint: str, *, named: bool) -> None:
    """Write which model it was; `named`: by the user."""
    say(f"model        {name}{'' if named else options.unnamed_in_words(name)}, fingerprint {fingerprint}")


def say_doubts(store: EmbeddingStore) -> None:
    """Write which utterances of a store are not there, and of which their recordings make one doubt."""
    from nestvox.audio.condition import doubts

    failed = store.metadata.failed
    if failed:
        say(f"skipped      {len(failed)}, with reasons in {store.path / 'store.json'}; the first:")
        for failure in failed[:5]:
            say(f"             {failure.utt_id}: {failure.reason}")
    for sentence in doubts(store.conditions):
        say(f"conditions   {sentence}")


def _streams(streams: int, threads: int) -> str:
    """Passes side by side; the threads of each where they were chosen, else those of the library."""
    side = f"{streams} stream{'' if streams == 1 else 's'}"
    return f"{side} of {threads} thread{'' if threads == 1 else 's'}" if threads else side


def export(
    store: Annotated[Path, typer.Argument(help="Folder of a complete store; with --onnx a model or its name.")],
    out: Annotated[Path | None, typer.Option(help="File; .npy, .npz, .parquet, .ark or .scp names the format.")] = None,
    onnx: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a model, not a store: one graph from waveforms on.")
    ] = None,
    dim: options.Dim = None,
) -> None:
    """Write the vectors of a store to a file that others read, or a model as one ONNX file."""
    from nestvox.audio.condition import doubts
    from nestvox.cli.progress import progress_bar
    from nestvox.extraction.formats.interchange import export_store
    from nestvox.extraction.store.store import EmbeddingStore

    if (out is None) == (onnx is None):
        raise NestvoxError("give --out FILE for the vectors of a store, or --onnx FILE for a model")
    if out is None:
        _export_model(str(store), onnx, dim)
        return
    opened = EmbeddingStore(store)
    with progress_bar("exporting", "rows") as progress:
        rows = export_store(opened, out, dim=dim, progress=progress)
    say(f"{rows} rows written to {out}")
    for sentence in doubts(opened.conditions):
        place = "" if out.suffix == ".parquet" else f" A {out.suffix} file has no place for which; .parquet has."
        say(("note:", "yellow"), f" {sentence}{place}")


def _export_model(model: str, file: Path | None, dim: int | None) -> None:
    from nestvox.model.onnx_export import export_onnx

    assert file is not None
    loaded = options.Running().load(model)
    size = export_onnx(loaded, file, dim=dim)
    say(
        f"{loaded.name} as one ONNX graph, {size:,} bytes: {file}. Input waveform (batch, samples) at "
        f"{loaded.sample_rate} Hz in [-1, 1]; output embedding (batch, {loaded.check_dim(dim)}), of length 1"
    )
