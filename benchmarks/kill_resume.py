"""Kill an embedding run at random moments, resume it each time, and compare with an undisturbed store.

    python benchmarks/kill_resume.py --kills 50
    python benchmarks/kill_resume.py --kills 50 --table utterances.tsv --model ge2e --limit 600

Without a table it writes one of noise, and without a model it takes one of a few lines that needs no deep-learning
library, so that the store and the resumption are all that is tried. A worker is killed with SIGKILL, after a time
drawn between its start and a little more than its share of the work; a store that gets finished meanwhile is compared,
and a new one begun. Two stores are equal when they have the same files with the same bytes. Exit code 1: they differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from nestvox.corpora.utterances import read_utterances
from nestvox.extraction.embed import embed_table


class SpectrumModel:
    """Eight log band energies: a pure function of each waveform, whatever it is batched with."""

    name = "spectrum"
    fingerprint = "0000000000000001"
    sample_rate = 16_000
    min_duration_s = 0.1
    dims = (4, 8)
    training_speakers: tuple[str, ...] = ()

    def __init__(self, seconds_each: float) -> None:
        self.seconds_each = seconds_each

    def forward(self, waveforms: Sequence[NDArray[np.floating[Any]]], *, tap: str) -> Any:
        """Map waveforms (S_i,) to (B, 8), or for ``frames`` to a list of (T_i, 8)."""
        time.sleep(self.seconds_each * len(waveforms))
        if tap == "frames":
            return [_bands(w[: len(w) // 160 * 160].reshape(-1, 160)) for w in waveforms]
        return np.concatenate([_bands(waveform[None]) for waveform in waveforms])


def _bands(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    power = np.abs(np.fft.rfft(rows.astype(np.float64), axis=1)) ** 2
    bands = np.stack([band.mean(axis=1) for band in np.array_split(power, 8, axis=1)], axis=1)
    return np.log(bands + 1e-9).astype(np.float32)


def main() -> int:
    options = _options()
    if options.worker is not None:
        _work(options)
        return 0
    with tempfile.TemporaryDirectory(prefix="nestvox-kills-") as folder:
        report = _kill_often(options, Path(folder))
    for name, value in report.items():
        print(f"{name:28} {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["stores_different"] == 0 else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", type=Path, help="utterance table; default: noise")
    parser.add_argument("--model", help="folder or name; default: eight band energies")
    parser.add_argument("--limit", type=int, default=400, help="utterances")
    parser.add_argument("--shard-rows", type=int, default=10)
    parser.add_argument("--seconds-each", type=float, default=0.005, help="how slow the built-in model is")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _work(options: argparse.Namespace) -> None:
    table = read_utterances(options.table)
    table = replace(table, frame=table.frame.head(options.limit), _lines=None)
    if options.model is None:
        model: Any = SpectrumModel(options.seconds_each)
    else:
        from nestvox.model.loading import load

        model = load(options.model, offline=True)
    embed_table(
        model, table, options.worker, batch_size=4, threads=1, workers=1, shard_rows=options.shard_rows, skip_bad=True
    )


def _start(options: argparse.Namespace, table: Path, store: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--worker", str(store), "--table", str(table)]
    command += ["--limit", str(options.limit), "--shard-rows", str(options.shard_rows)]
    command += ["--seconds-each", str(options.seconds_each)]
    if options.model is not None:
        command += ["--model", options.model]
    return subprocess.Popen(command)


def _kill_often(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    table = options.table or _noise(folder, options.limit)
    undisturbed = folder / "undisturbed"
    began = time.monotonic()
    worker = _start(options, table, undisturbed)
    while not (undisturbed / "shard-000000.arrow").exists() and worker.poll() is None:
        time.sleep(0.01)
    start_s = time.monotonic() - began
    _wait(worker)
    work_s = time.monotonic() - began - start_s
    expected = _contents(undisturbed)

    draw = random.Random(options.seed)
    kills = finished = different = 0
    while_writing = 0
    store = folder / "killed"
    while kills < options.kills:
        worker = _start(options, table, store)
        time.sleep(draw.uniform(0.5, 1.0) * start_s + draw.uniform(0.0, 2.0) * work_s / options.kills)
        if worker.poll() is None:
            worker.kill()
            worker.wait()
            kills += 1
            while_writing += any(store.glob(".*.partial*"))
        else:
            _wait(worker)
            finished += 1
            different += _contents(store) != expected
            shutil.rmtree(store)
    _wait(_start(options, table, store))
    finished += 1
    different += _contents(store) != expected
    rows = json.loads((undisturbed / "store.json").read_text())["shards"]
    return {
        "utterances": sum(shard["rows"] for shard in rows),
        "shards": len(rows),
        "undisturbed run, s": round(start_s + work_s, 2),
        "kills -9": kills,
        "  of them within a write": while_writing,
        "stores finished": finished,
        "stores_different": different,
    }


def _wait(worker: subprocess.Popen[bytes]) -> None:
    if worker.wait() != 0:
        raise SystemExit(f"the embedding run failed with exit code {worker.returncode}")


def _contents(store: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(store.iterdir())}


def _noise(folder: Path, count: int) -> Path:
    draw = np.random.default_rng(3)
    lines = ["utt_id\tpath\tspeaker"]
    for number in range(count):
        samples = 0.1 * draw.standard_normal(int(draw.uniform(0.2, 1.0) * 16_000))
        soundfile.write(folder / f"{number}.wav", samples.astype(np.float32), 16_000, subtype="PCM_16")
        lines.append(f"u{number}\t{number}.wav\ts{number % 7}")
    # One file in the middle that is no audio: what was skipped must survive the kills too.
    (folder / f"{count // 2}.wav").write_bytes(b"no audio")
    table = folder / "noise.tsv"
    table.write_text("\n".join(lines) + "\n")
    return table


if __name__ == "__main__":
    sys.exit(main())
