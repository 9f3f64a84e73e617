"""Memory and time of training against the batch size: a linear head on cached vectors, and a whole network on audio.

    python benchmarks/training_memory.py --batch-sizes 8 16 32 64 128

Batches are drawn; each measurement is a process of its own that takes `--steps` steps in the training loop, of which
the fastest is shown. On a CPU, memory is what the process allocated at most, less what it had with the network loaded;
on a GPU it is `torch.cuda.max_memory_allocated`, weights included. A batch that would not fit into `--limit-gib` by the
two before it is not run: its figures are on the line through those two, and marked with ~.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _training_runs import (
    DIMS,
    Unvalidated,
    drawn_head,
    drawn_model,
    head_recipe,
    in_process,
    run_loop,
    sampled_memory,
)
from nestvox.heads.linear import LinearHead
from nestvox.training.data.batches import Batch, MicroBatch, Seen
from nestvox.training.tasks.encoder import NestedNetwork

CROP_S = 3.0
WAYS = {"cached": "linear head from the cache", "audio": "whole network from audio"}


class DrawnBatches:
    """One batch an epoch, of drawn numbers.

    Args:
        shape: of a sample.
        batch_size: samples of a batch.
        classes: speakers.
    """

    def __init__(self, shape: int, batch_size: int, classes: int) -> None:
        self.n = batch_size
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.inputs = 0.1 * torch.randn(batch_size, shape)
        self.labels = torch.randint(0, classes, (batch_size,))

    def steps(self, epoch: int) -> int:  # noqa: ARG002  all are alike
        """Batches of an epoch."""
        return 1

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:  # noqa: ARG002  there is one
        """Yield it."""
        yield Batch(self.n, [MicroBatch(self.inputs.to(self.device), self.labels.to(self.device))])

    def seen(self, epoch: int) -> Seen:  # noqa: ARG002  all are alike
        """All of it."""
        speakers = len(set(self.labels.tolist()))
        return Seen(self.n, self.n, speakers, speakers, self.n)


def main() -> int:
    options = _options()
    if options.worker is not None:
        torch.set_num_threads(options.threads)
        print(json.dumps(_work(options)))
        return 0
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    report: dict[str, Any] = {"load_before": load, "cores": os.cpu_count(), "ways": {}}
    for way in options.ways:
        report["ways"][way] = _measure(way, options)
    _print(report, options)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--network", default="redimnet-b2", help="a size of ReDimNet")
    parser.add_argument("--classes", type=int, default=5_994, help="training speakers")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch; more than free cores wait for each other")
    parser.add_argument("--limit-gib", type=float, default=6.0, help="most memory that a process may take")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=list(WAYS), help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(way: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for size in sorted(options.batch_sizes):
        expected = _on_the_line(rows, size)
        if expected is not None and expected["mib"] > 1024 * options.limit_gib:
            rows.append(expected)
            continue
        shared = {key: getattr(options, key) for key in ("network", "classes", "steps", "threads")}
        rows.append({"measured": True, **in_process(__file__, way, batch_sizes=size, **shared)})
    return rows


def _on_the_line(rows: list[dict[str, Any]], size: int) -> dict[str, Any] | None:
    """What the line through the last two measurements says of a batch size."""
    known = [row for row in rows if row["measured"]][-2:]
    if len(known) < 2:
        return None
    sizes = [row["batch_size"] for row in known]
    found = {}
    for name in ("mib", "step_s"):
        slope, offset = np.polyfit(sizes, [row[name] for row in known], 1)
        found[name] = float(offset + slope * size)
    return {"measured": False, "batch_size": size, **found}


def _work(options: argparse.Namespace) -> dict[str, Any]:
    (size,) = options.batch_sizes
    torch.manual_seed(0)
    model = drawn_model(options.network)
    recipe = head_recipe(size, options.steps)
    if options.worker == "cached":
        head = LinearHead(model.encoder.pooled_dim, DIMS)
        task = Unvalidated(head, head, recipe, options.classes)
        source = DrawnBatches(model.encoder.pooled_dim, size, options.classes)
    else:
        network = NestedNetwork(model.encoder.train(), drawn_head(model, recipe))
        task = Unvalidated(network, network, recipe, options.classes)
        source = DrawnBatches(round(CROP_S * model.sample_rate), size, options.classes)
    with sampled_memory() as before:
        pass
    with sampled_memory() as memory, tempfile.TemporaryDirectory(prefix="nestvox-memory-") as folder:
        seconds, _ = run_loop(task, source, recipe, Path(folder) / "run")
    mib = memory.own - before.own
    if torch.cuda.is_available():
        mib = torch.cuda.max_memory_allocated() / 2**20
    return {"batch_size": size, "mib": mib, "step_s": min(seconds)}


def _print(report: dict[str, Any], options: argparse.Namespace) -> None:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    threads = f"torch with {options.threads} thread{'s' if options.threads > 1 else ''}"
    load = f"{report['cores']} cores with a load of {report['load_before']:.1f} before"
    where = gpu or f"CPU, no GPU; {load}, {threads}"
    print(f"{options.network}, {options.classes:,} speakers, dims {', '.join(map(str, DIMS))}; {where}\n")
    print("| | training.batch_size | memory, MiB | s a step | samples/s |")
    print("|---|---:|---:|---:|---:|")
    for way, rows in report["ways"].items():
        for row in rows:
            about = "" if row["measured"] else "~"
            size, step_s = row["batch_size"], row["step_s"]
            figures = (f"{row['mib']:,.0f}", f"{step_s:.3g}", f"{size / step_s:,.3g}")
            print(f"| {WAYS[way]} | {size} | {' | '.join(about + figure for figure in figures)} |")
    audio = [row for row in report["ways"].get("audio", []) if row["measured"]][-2:]
    fixed, one = _on_the_line(audio, 0), _on_the_line(audio, 1)
    if fixed is not None and one is not None:
        each = one["mib"] - fixed["mib"]
        print(f"\na clip of {CROP_S:g} s takes {each:.0f} MiB; largest micro-batch in nine tenths of a memory:")
        for gib in (12, 16, 24, 40, 80):
            print(f"- {gib} GB: {max(0, int((0.9 * 1024 * gib - fixed['mib']) / each))}")


if __name__ == "__main__":
    sys.exit(main())
