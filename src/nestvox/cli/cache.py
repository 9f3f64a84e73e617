"""`nestvox cache`: a table of training utterances to a feature cache, from which heads are trained in seconds."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nestvox.cli.console import say
from nestvox.cli.running import Backend, Device, NetworkBackend, Offline, Running, Weights


class _Dtype(StrEnum):
    float32 = "float32"
    float16 = "float16"


def cache(
    table: Annotated[Path, typer.Argument(help="Utterance table of training speakers: .tsv, .csv or .parquet.")],
    out: Annotated[Path, typer.Option(help="Folder of the cache; a run that was stopped is resumed.")],
    model: Annotated[str, typer.Option(help="Model folder, or a name that `nestvox models list` shows.")] = "ge2e",
    variants: Annotated[
        int, typer.Option(min=1, max=1000, help="Rows of each utterance; the first is the recording itself.")
    ] = 4,
    noise: Annotated[Path | None, typer.Option(help="Folder of noise and music to mix in.")] = None,
    rir: Annotated[Path | None, typer.Option(help="Folder of room impulse responses.")] = None,
    augment: Annotated[
        list[str] | None, typer.Option(help="A setting, e.g. p_reverb=0.5 or snr_noise_db=[5,20]; may be repeated.")
    ] = None,
    crop_s: Annotated[float | None, typer.Option(help="Longest stretch of an augmented variant; else whole.")] = None,
    dtype: Annotated[_Dtype, typer.Option(help="Of the stored numbers.")] = _Dtype.float16,
    seed: Annotated[int, typer.Option(min=0, help="Of places and augmentation.")] = 0,
    split: Annotated[str | None, typer.Option(help="Only rows whose column `split` says this.")] = None,
    max_duration_s: Annotated[
        float, typer.Option(help="Longer utterances go through in pieces, whose vectors are averaged.")
    ] = 300.0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out unusable audio instead of stopping.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, max=65536, help="Rows at once; measured by default.")] = None,
    streams: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Forward passes side by side; measured by default.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Of each forward pass on a CPU; measured by default.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=1024, help="Decoding threads; measured by default.")] = None,
    shard_utterances: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Utterances of a file of the cache.")
    ] = None,
    device: Device = "auto",
    backend: Backend = NetworkBackend.auto,
    weights: Weights = None,
    offline: Offline = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write what the cache is as JSON.")] = None,
) -> None:
    """Run an encoder once over several augmented variants of every utterance, and keep what heads are trained on."""
    import json
    from dataclasses import asdict

    from nestvox.atomic import write_text
    from nestvox.audio.augment import Banks
    from nestvox.audio.banks import NoiseBank, RoomBank
    from nestvox.audio.condition import count_codes, doubts
    from nestvox.cli.augmentation import settings_for, summary
    from nestvox.cli.progress import progress_bar
    from nestvox.corpora.augmented import voices_of
    from nestvox.corpora.utterances import read_utterances
    from nestvox.extraction.cache.feature_cache import build_cache

    utterances = read_utterances(table)
    if split is not None:
        utterances = utterances.where(split=split)
    speaker_model = Running(device, backend, weights, offline).load(model)
    rate = speaker_model.sample_rate
    banks = Banks(
        None if noise is None else NoiseBank.from_folder(noise, sample_rate=rate),
        None if rir is None else RoomBank.from_folder(rir, sample_rate=rate),
        voices_of(utterances, sample_rate=rate),
    )
    with progress_bar("caching", "rows") as progress:
        found = build_cache(
            speaker_model,
            utterances,
            out,
            variants=variants,
            augmentation=settings_for(banks, augment or []),
            noise=banks.noise,
            rooms=banks.rooms,
            crop_s=crop_s,
            dtype=dtype.value,
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
    speakers = found.classes[0]
    failed = found.metadata.failed
    conditions = found.store.conditions
    size = sum(shard.size_bytes for shard in found.metadata.shards)
    if json_out is not None:
        report = {
            "cache": str(out),
            "key": found.key,
            "plan": asdict(found.plan),
            "utterances": len(found),
            "variants": found.n_variants,
            "speakers": len(speakers),
            "pooled_dim": found.pooled_dim,
            "embedding_dim": found.embedding_dim,
            "size_bytes": size,
            "failed": [asdict(failure) for failure in failed],
            "conditions": count_codes(conditions),
        }
        write_text(json_out, json.dumps(report, indent=2) + "\n")
    say(f"rows         {len(found)} utterances x {found.n_variants} variants, {len(speakers)} speakers")
    say(f"vectors      pooled {found.pooled_dim}, embedding {found.embedding_dim}, {dtype.value}, {size:,} bytes")
    if variants > 1:
        say(f"augmented    {summary(found.plan.augmentation)}")
    if failed:
        say(f"skipped      {len(failed)}, with reasons in {out / 'store.json'}; the first:")
        for failure in failed[:5]:
            say(f"             {failure.utt_id}: {failure.reason}")
    for sentence in doubts(conditions):
        say(f"conditions   {sentence}")
    say(f"key          {found.key}")
    say(f"cache        {out}")
