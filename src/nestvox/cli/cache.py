"""`nestvox cache`: a table of training utterances to a feature cache, from which heads are trained in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import say
from nestvox.cli.outputs import write_json


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
    from nestvox.cli.embed import say_doubts, say_model
    from nestvox.cli.progress import progress_bar
    from nestvox.extraction.cache.feature_cache import build_cache

    utterances = options.read_table(table, split)
    speaker_model = options.Running(device, backend, weights, offline).load(model)
    banks, augmentation = options.augmentation_of(
        augment, noise, rir, utterances, sample_rate=speaker_model.sample_rate
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
            dtype=dtype,
            seed=seed,
            max_duration_s=max_duration_s,
            skip_bad=skip_bad,
            batch_size=batch_size,
            streams=streams,
            threads=threads,
            workers=workers,
            shard_utterances=shard_utterances,
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
