"""Kill a training run at random moments, resume it each time, and compare its end with that of an undisturbed run.

    python benchmarks/kill_training.py --kills 20

A head with dropout, distillation, an average of the weights and a large-margin stage is trained on drawn vectors. The
run is a process that is killed with SIGKILL after a time drawn between 0 and nine tenths of an undisturbed run's,
wherever it is then: in the middle of an epoch, of a validation, of writing a checkpoint or the model. Then it is taken
up; a run that gets finished meanwhile is compared, and a new one begun. Two runs are equal when every tensor of their
checkpoints (weights, prototypes, state of the optimizer, average, best) and every byte of their models' weights are,
and their logs hold the same losses and error rates. Exit code 1: they differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from nestvox.corpora.trials import Trials, write_trials
from nestvox.corpora.utterances import UtteranceTable, write_utterances
from nestvox.encoders.ge2e import GE2E
from nestvox.extraction.cache.feature_cache import cache_metadata
from nestvox.extraction.cache.plan import CachePlan
from nestvox.extraction.store.shard_files import ShardRows
from nestvox.extraction.store.store import StoreWriter
from nestvox.model.speaker_model import SpeakerModel
from nestvox.training.checkpoint import read_checkpoint
from nestvox.training.recipe.recipe import parse_recipe
from nestvox.training.train import train

_LONGEST_S = 120
SPEAKERS, DEV_SPEAKERS, TAKES, VARIANTS = 80, 12, 6, 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="nestvox-kills-") as folder:
        report = kill_often(Path(folder), options.kills, options.epochs, random.Random(options.seed))
    for name, value in report.items():
        print(f"{name:28} {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if not report["runs_different"] else 1


def kill_often(folder: Path, kills: int, epochs: int, draw: random.Random) -> dict[str, Any]:
    torch.manual_seed(0)
    encoder = SpeakerModel(GE2E(), name="drawn")
    # In a process of its own: threads of the table library in this one would be missing in the forked ones.
    written = folder / "recipe.json"
    assert wait(start(lambda: written.write_text(json.dumps(material(folder, encoder, epochs))))) == 0
    recipe = parse_recipe(json.loads(written.read_text()), "benchmark")

    def work(out: Path) -> Callable[[], object]:
        return lambda: train(recipe, out, start=encoder, resume=True)

    began = time.monotonic()
    assert wait(start(work(folder / "undisturbed"))) == 0, "the undisturbed run failed"
    duration = time.monotonic() - began
    expected = end_of(folder / "undisturbed")
    done, different, killed, at = 0, 0, 0, {"mid-epoch": 0, "between epochs": 0, "no checkpoint yet": 0, "finished": 0}
    while killed < kills:
        out = folder / f"run{done}"
        while True:
            child = start(work(out))
            if killed < kills:
                time.sleep(draw.uniform(0, 0.9 * duration))
                os.kill(child, signal.SIGKILL)
            status = wait(child)
            if status == 0:
                break
            assert status == -signal.SIGKILL, "a resumed run failed"
            killed += 1
            at[place(out, epochs)] += 1
        done += 1
        different += end_of(out) != expected
    return {
        "kills": killed,
        **{f"killed {name}": count for name, count in at.items()},
        "runs_compared": done,
        "runs_different": different,
        "tensors_compared_each": len(expected["tensors"]),
        "undisturbed_s": round(duration, 2),
    }


def start(work: Callable[[], object]) -> int:
    """Fork; a new interpreter would spend more time on importing than on training."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    signal.alarm(_LONGEST_S)
    try:
        work()
    except BaseException as error:  # noqa: BLE001  nothing may return into the parent's loop
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def place(out: Path, epochs: int) -> str:
    path = out / "checkpoint.safetensors"
    if not path.is_file():
        return "no checkpoint yet"
    progressed = read_checkpoint(path).progressed
    if progressed.step:
        return "mid-epoch"
    return "finished" if progressed.epoch == epochs else "between epochs"


def end_of(out: Path) -> dict[str, Any]:
    checkpoint = read_checkpoint(out / "checkpoint.safetensors")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    kept = ("step", "epoch", "loss", "loss_of", "dev_eer", "best_epoch", "learning_rate", "margin")
    return {
        "tensors": {
            name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in checkpoint.tensors.items()
        },
        "eers": checkpoint.progressed.eers,
        "model": hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest(),
        # Sums that a line of the log tells begin at the last checkpoint, so that only validations are comparable.
        "log": [{key: line[key] for key in kept if key in line} for line in lines if "dev_eer" in line],
        "steps": [line["step"] for line in lines],
    }


def material(folder: Path, encoder: SpeakerModel, epochs: int) -> dict[str, Any]:
    """Write a table, trials and caches of drawn vectors; return the recipe."""
    rows = [
        {"utt_id": f"u{s}-{t}", "path": f"{s}/{t}.wav", "speaker": f"s{s}", "split": "train" if s < SPEAKERS else "dev"}
        for s in range(SPEAKERS + DEV_SPEAKERS)
        for t in range(TAKES)
    ]
    table = UtteranceTable(pl.DataFrame(rows), "table.tsv", folder)
    write_utterances(table, folder / "table.tsv")
    dev = [(row["speaker"], row["utt_id"]) for row in rows if row["split"] == "dev"]
    pairs = [(a, b, x == y) for k, (x, a) in enumerate(dev) for y, b in dev[k + 1 :]]
    schema = {"enrol": pl.String, "test": pl.String, "target": pl.Boolean}
    write_trials(Trials(pl.DataFrame(pairs, schema, orient="row"), "dev"), folder / "dev.txt", "voxceleb")
    for split, variants in (("train", VARIANTS), ("dev", 1)):
        write_cache(folder / split, encoder, table.where(split=split), variants)
    return {
        "kind": "mlp",
        "data": {
            "table": str(folder / "table.tsv"),
            "dev_trials": str(folder / "dev.txt"),
            "cache": str(folder / "train"),
            "dev_cache": str(folder / "dev"),
            "test": {},
        },
        "head": {"dims": [16, 64], "start": "pretrained", "hidden": 64, "dropout": 0.2},
        "loss": {"distill": 0.5},
        "training": {
            "epochs": epochs,
            "batch_size": 16,
            "ema": 0.99,
            "margin_warmup_epochs": 1.5,
            "large_margin": {"epochs": 2},
        },
        "run": {"device": "cpu", "log_steps": 7, "checkpoint_steps": 5},
    }


def write_cache(path: Path, encoder: SpeakerModel, table: UtteranceTable, variants: int) -> None:
    draw = np.random.default_rng(len(table))
    voices = draw.standard_normal((len(table) // TAKES, 256)).repeat(TAKES, axis=0)
    vectors = (voices + draw.standard_normal((len(table), 256))).repeat(variants, axis=0)
    vectors += 0.5 * draw.standard_normal(vectors.shape)
    names = [name for name in table.frame["utt_id"] for _ in range(variants)]
    speakers = [name for name in table.frame["speaker"] for _ in range(variants)]
    plan = CachePlan(encoder.encoder_fingerprint, variants=variants)
    metadata = cache_metadata(
        plan,
        model=encoder.name,
        utterances=len(table),
        pooled_dim=256,
        embedding_dim=256,
        shard_utterances=len(table),
    )
    writer = StoreWriter(path, metadata)
    numbers = list(range(variants)) * len(table) if variants > 1 else None
    writer.write_shard(0, ShardRows(names, vectors, names, speakers, variants=numbers, columns={"embedding": vectors}))
    writer.finish()


if __name__ == "__main__":
    sys.exit(main())
