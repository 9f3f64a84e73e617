"""Training a nested head from the feature cache against the usual way, with the same networks on the same recordings.

    python benchmarks/head_training.py --table utterances.tsv --limit 192

The usual way runs the frozen encoder on the audio in every epoch: 3 s of each utterance, without augmentation, decoded
in threads. From the cache an epoch is gathered rows. Both are the same loop, loss, head and batch size, and every
measurement is a process of its own; seconds are those of the steps of an epoch, without validation and checkpoint. The
weights are drawn, which run as long as trained ones.

`--large` is the size of VoxCeleb2 on drawn vectors: 1,092,009 utterances of 5,994 speakers are written as a feature
cache (5.5 GB with the 2304 pooled numbers of redimnet-b2) into a temporary folder, gathered once in the order of an
epoch, and trained on for `--seconds`. What the process allocates and what it has mapped are told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _training_runs import (
    DIMS,
    FrozenNetwork,
    Unvalidated,
    drawn_head,
    drawn_model,
    head_recipe,
    in_process,
    run_loop,
    sampled_memory,
)
from nestvox.audio.augment import Banks
from nestvox.corpora.utterances import UtteranceTable, read_utterances
from nestvox.extraction.cache.feature_cache import FeatureCache, build_cache, cache_metadata, open_cache
from nestvox.extraction.cache.plan import CachePlan
from nestvox.extraction.settings import EmbeddingSettings
from nestvox.extraction.store.shard_files import ShardRows
from nestvox.extraction.store.store import StoreWriter
from nestvox.heads.linear import LinearHead
from nestvox.training.data.cached import CachedSource, CachedUtterances
from nestvox.training.data.clips import AudioSource
from nestvox.training.parallel import processes
from nestvox.training.recipe.kinds import EncoderRecipe

# Dev part of VoxCeleb2; mean length: J. S. Chung et al., "VoxCeleb2: deep speaker recognition", Interspeech 2018.
UTTERANCES, SPEAKERS, MEAN_S = 1_092_009, 5_994, 7.8
CROP_S = 3.0


def main() -> int:
    options = _options()
    if options.worker:
        torch.set_num_threads(options.threads)
        work = {"usual": _usual, "cache": _cache, "large": _large}
        print(json.dumps(work[options.worker](options)))
        return 0
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    report: dict[str, Any] = {"load_before": load, "cores": os.cpu_count(), "networks": {}}
    if options.table.exists():
        for name in options.networks:
            report["networks"][name] = _measure(name, options)
    else:
        print(f"skipped: no table {options.table}; name one with --table, or set NESTVOX_SPEECH")
    if options.large:
        with tempfile.TemporaryDirectory(prefix="nestvox-large-", dir=options.folder) as folder:
            names = ("pooled_dim", "utterances", "large_batch", "seconds", "threads")
            shared = {name: getattr(options, name) for name in names}
            report["large"] = in_process(__file__, "large", out=folder, **shared)
    _print(report, options)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    speech = Path(os.environ.get("NESTVOX_SPEECH", Path(__file__).resolve().parents[2] / "shared" / "speech"))
    parser.add_argument("--table", type=Path, default=speech / "utterances.tsv")
    parser.add_argument("--networks", nargs="*", default=["ge2e", "redimnet-b2"], help="ge2e, or sizes of ReDimNet")
    parser.add_argument("--limit", type=int, default=192, help="utterances, spread over the table")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20, help="from the cache; the usual way has one")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more than free cores wait for each other")
    parser.add_argument("--large", action="store_true", help="also the size of VoxCeleb2")
    parser.add_argument("--utterances", type=int, default=UTTERANCES, help="of --large")
    parser.add_argument("--pooled-dim", type=int, default=2304, help="of --large")
    parser.add_argument("--large-batch", type=int, default=1024, help="of --large")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training at that size; inf: a whole epoch")
    parser.add_argument("--folder", type=Path, help="where there is room for --large; the system's temporary folder")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=["usual", "cache", "large"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for way in ("cache", "usual"):
        with tempfile.TemporaryDirectory(prefix="nestvox-heads-") as folder:
            shared = {key: getattr(options, key) for key in ("table", "limit", "batch_size", "epochs", "threads")}
            found[way] = in_process(__file__, way, networks=name, out=folder, **shared)
    return {**found, "ratio": found["usual"]["epoch_s"] / found["cache"]["epoch_s"]}


def _rows(options: argparse.Namespace) -> UtteranceTable:
    table = read_utterances(options.table)
    rows = np.unique(np.linspace(0, len(table) - 1, min(options.limit, len(table))).astype(int))
    return replace(table, frame=table.frame[rows], _lines=None)


def _usual(options: argparse.Namespace) -> dict[str, Any]:
    table, model = _rows(options), drawn_model(options.networks[0])
    recipe = head_recipe(options.batch_size, 1, "lora", data={"variants": 1, "crop_s": CROP_S})
    assert isinstance(recipe, EncoderRecipe)  # of clips
    head = drawn_head(model, recipe)
    with processes("cuda" if torch.cuda.is_available() else "cpu") as every:
        source = AudioSource(table, recipe, model.sample_rate, every, Banks(None, None, None))
    task = Unvalidated(FrozenNetwork(model, head), head, recipe, len(source.names))
    model.forward([np.zeros(round(CROP_S * model.sample_rate), np.float32)])  # what only the first pass takes
    with sampled_memory() as memory:
        seconds, _ = run_loop(task, source, recipe, options.out / "run")
    return {"epoch_s": seconds[0], "utterances": len(table), "own_mib": memory.own}


def _cache(options: argparse.Namespace) -> dict[str, Any]:
    table, model = _rows(options), drawn_model(options.networks[0])
    with sampled_memory() as memory:
        began = time.perf_counter()
        cache = build_cache(
            model,
            table,
            options.out / "cache",
            variants=1,
            settings=EmbeddingSettings(streams=options.threads, threads=1),
        )
        extraction_s = time.perf_counter() - began
        recipe = head_recipe(options.batch_size, options.epochs)
        head, data = drawn_head(model, recipe), CachedUtterances.of(cache)
        with processes("cuda" if torch.cuda.is_available() else "cpu") as every:
            source = CachedSource(data, recipe, "pooled", every)
        task = Unvalidated(head, head, recipe, len(data.names))
        seconds, _ = run_loop(task, source, recipe, options.out / "run")
    audio_s = float(table.frame["duration_s"].sum()) if "duration_s" in table.frame.columns else float("nan")
    return {
        "epoch_s": float(np.median(seconds)),
        "slowest_s": max(seconds),
        "utterances": len(table),
        "speakers": len(data.names),
        "extraction_s": extraction_s,
        "audio_s": audio_s,
        "bytes_per_row": 2 * (cache.pooled_dim + cache.embedding_dim),
        "own_mib": memory.own,
    }


def _large(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"utterances": options.utterances, "pooled_dim": options.pooled_dim}
    with sampled_memory() as memory:
        began = time.perf_counter()
        _write_drawn(options.out / "cache", options.utterances, options.pooled_dim)
        found |= {"written_s": time.perf_counter() - began, "written_own_mib": memory.own}
    found["bytes"] = sum(path.stat().st_size for path in (options.out / "cache").iterdir())
    recipe = head_recipe(options.large_batch, 1)
    with sampled_memory() as memory:
        began = time.perf_counter()
        data = CachedUtterances.of(open_cache(options.out / "cache"))
        found |= {"opened_s": time.perf_counter() - began, "speakers": len(data.names)}
        with processes("cuda" if torch.cuda.is_available() else "cpu") as every:
            source = CachedSource(data, recipe, "pooled", every)
        began = time.perf_counter()
        rows = sum(len(part.labels) for batch in source.batches(0, 0) for part in batch.parts)
        found |= {"gather_s": time.perf_counter() - began, "gathered": rows}
        found |= {"gather_own_mib": memory.own, "gather_mapped_mib": memory.mapped}
    with sampled_memory() as memory:
        head = LinearHead(options.pooled_dim, DIMS)
        task = Unvalidated(head, head, recipe, len(data.names))
        (seconds,), seen = run_loop(task, source, recipe, options.out / "run", seconds=options.seconds)
        found |= {"trained_s": seconds, "trained": seen, "epoch_s": seconds / seen * source.n}
        found |= {"train_own_mib": memory.own, "train_mapped_mib": memory.mapped}
    return found


def _write_drawn(path: Path, utterances: int, pooled_dim: int) -> FeatureCache:
    """Write a feature cache of vectors with speakers in them, shard by shard."""
    plan = CachePlan(fingerprint="0" * 16, variants=1, dtype="float16")
    metadata = cache_metadata(plan, model="drawn", utterances=utterances, pooled_dim=pooled_dim, embedding_dim=DIMS[-1])
    writer = StoreWriter(path, metadata)
    centres = np.random.default_rng(0).standard_normal((SPEAKERS, pooled_dim), np.float32)
    for shard in writer.pending:
        planned = metadata.planned(shard)
        draw = np.random.default_rng([1, shard])
        speakers = np.array([row * SPEAKERS // utterances for row in planned])  # as in a corpus: one after another
        pooled = centres[speakers] + draw.standard_normal((len(planned), pooled_dim), np.float32)
        names = [f"id{speaker:05d}" for speaker in speakers]
        rows = ShardRows(
            [f"{name}/drawn/{row:07d}" for name, row in zip(names, planned, strict=True)],
            pooled,
            speakers=names,
            columns={"embedding": pooled[:, : DIMS[-1]]},
        )
        writer.write_shard(shard, rows)
    writer.finish()
    return open_cache(path)


def _print(report: dict[str, Any], options: argparse.Namespace) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(
        f"{report['cores']} cores with a load of {report['load_before']:.1f} before, {device}, torch with "
        f"{options.threads} thread{'s' if options.threads > 1 else ''}, one run\n"
    )
    if report["networks"]:
        first = next(iter(report["networks"].values()))["cache"]
        print(
            f"{first['utterances']} utterances of {first['speakers']} speakers, {first['audio_s']:.0f} s; batches of "
            f"{options.batch_size}; dims {', '.join(map(str, DIMS))}\n"
        )
        print("| network | usual way, s an epoch | from the cache, s an epoch | ratio | extraction, once, s |")
        print("|---|---:|---:|---:|---:|")
        for name, found in report["networks"].items():
            cache, usual = found["cache"], found["usual"]
            print(
                f"| {name} | {usual['epoch_s']:.2f} | {cache['epoch_s']:.4f} (slowest {cache['slowest_s']:.4f}) | "
                f"{found['ratio']:,.0f} | {cache['extraction_s']:.1f} |"
            )
    large = report.get("large")
    if large:
        _print_large(large, options)
    for name, found in report["networks"].items():
        _print_projection(name, found, large)


def _print_large(large: dict[str, Any], options: argparse.Namespace) -> None:
    print(
        f"\n{large['utterances']:,} drawn vectors of {large['pooled_dim']} and {DIMS[-1]} numbers (float16, "
        f"{large['bytes'] / 1e9:.2f} GB), {large['speakers']:,} speakers, batches of {options.large_batch}\n"
    )
    print("| | s | allocated, MiB | mapped, MiB |")
    print("|---|---:|---:|---:|")
    print(f"| written | {large['written_s']:.0f} | {large['written_own_mib']:.0f} | |")
    print(f"| opened, classes numbered | {large['opened_s']:.1f} | | |")
    print(
        f"| every row gathered in the order of an epoch | {large['gather_s']:.0f} | {large['gather_own_mib']:.0f} | "
        f"{large['gather_mapped_mib']:.0f} |"
    )
    part = large["trained"] / large["utterances"]
    print(
        f"| trained on {part:.0%} of an epoch | {large['trained_s']:.0f} | {large['train_own_mib']:.0f} | "
        f"{large['train_mapped_mib']:.0f} |"
    )
    print(f"\nan epoch: {large['trained_s']:.1f} s / {part:.4f} = {large['epoch_s']:.0f} s")


def _print_projection(name: str, found: dict[str, Any], large: dict[str, Any] | None) -> None:
    cache, usual = found["cache"], found["usual"]
    usual_s = usual["epoch_s"] / usual["utterances"] * UTTERANCES
    speed = cache["audio_s"] / cache["extraction_s"]
    once_s = UTTERANCES * MEAN_S / speed
    print(f"\nVoxCeleb2 with {name} on this machine:")
    print(
        f"- extraction of one variant: {UTTERANCES:,} x {MEAN_S} s / {speed:.1f} (seconds of audio a second) = "
        f"{once_s / 3600:.1f} h; V variants take V times as long, and "
        f"{UTTERANCES * cache['bytes_per_row'] / 1e9:.1f} GB each"
    )
    print(
        f"- an epoch the usual way: {UTTERANCES:,} x {usual['epoch_s'] / usual['utterances'] * 1e3:.1f} ms = "
        f"{usual_s / 3600:.1f} h; ten epochs {usual_s / 360:.0f} h"
    )
    if large:
        epoch_s = large["epoch_s"] / large["utterances"] * UTTERANCES
        print(
            f"- an epoch from the cache: {epoch_s:.0f} s (measured above with {large['pooled_dim']} numbers), ratio "
            f"{usual_s / epoch_s:,.0f}; extraction and ten epochs {(once_s + 10 * epoch_s) / 3600:.1f} h, of which "
            f"{10 * epoch_s / 3600:.1f} h are training"
        )


if __name__ == "__main__":
    sys.exit(main())
