"""`nestvox embed` against a plain loop over the files, with the same network on the same files.

    python benchmarks/extraction.py --table utterances.tsv --model ge2e --limit 600

The loop is what one writes first: soundfile.read, resampling where the rate differs, one forward pass, next file. Each
measurement is a process of its own, so that its peak memory is its own, and the two take turns. Time is from the first
file to the finished store (or array), without the imports and the loading of the model; the trial that chooses batch
size and threads, the plan, and writing and hashing the store count as work of `nestvox embed`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from nestvox.corpora.utterances import UtteranceTable, read_utterances
from nestvox.extraction.embed import run_embedding
from nestvox.model import SpeakerModel, load


def main() -> int:
    options = _options()
    if options.worker is not None:
        _work(options)
        return 0
    if not options.table.exists():
        print(f"skipped: no table {options.table}; name one with --table, or set NESTVOX_SPEECH")
        return 0
    runs: dict[str, list[dict[str, Any]]] = {"loop": [], "embed": []}
    # Threads of a network that others crowd out wait for each other: without the load a figure says little.
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    with tempfile.TemporaryDirectory(prefix="nestvox-extraction-") as folder:
        for turn in range(options.turns):
            # Whoever goes first in one turn goes second in the next.
            for way in ("loop", "embed") if turn % 2 == 0 else ("embed", "loop"):
                runs[way].append(_measure(way, options, Path(folder) / f"{way}-{turn}"))
        differences = _compare(Path(folder), options.turns)
    report = {"load_before": load_before, **_summary(runs, differences)}
    _print(report, options)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    speech = Path(os.environ.get("NESTVOX_SPEECH", Path(__file__).resolve().parents[2] / "shared" / "speech"))
    parser.add_argument("--table", type=Path, default=speech / "utterances.tsv")
    parser.add_argument("--model", default="ge2e")
    parser.add_argument("--limit", type=int, default=600, help="utterances, spread over the table")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=["loop", "embed"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(way: str, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", way, "--out", str(out), "--table", str(options.table)]
    command += ["--model", options.model, "--limit", str(options.limit)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    print(f"{way}: {found['seconds']:.1f} s", file=sys.stderr)
    return found


def _work(options: argparse.Namespace) -> None:
    table = read_utterances(options.table)
    rows = np.unique(np.linspace(0, len(table) - 1, min(options.limit, len(table))).astype(int))
    table = replace(table, frame=table.frame[rows], _lines=None)
    model = load(options.model, offline=True)
    before_mib = _peak_mib()
    began = time.perf_counter()
    if options.worker == "loop":
        vectors, audio_s = _loop(model, table)
        seconds = time.perf_counter() - began
        choice = {}
    else:
        store, run = run_embedding(model, table, options.out)
        seconds = time.perf_counter() - began
        vectors, audio_s = store.vectors(), run.audio_s
        choice = {
            "batch_size": run.batch_size,
            "streams": run.streams,
            "threads": run.threads,
            "workers": run.workers,
            "trial_s": run.trial_s,
        }
    np.save(options.out.with_suffix(".npy"), vectors)
    found = {
        "utterances": len(table),
        "audio_s": audio_s,
        "seconds": seconds,
        "peak_mib": _peak_mib(),
        "before_mib": before_mib,
        **choice,
    }
    print(json.dumps(found))


def _loop(model: SpeakerModel, table: UtteranceTable) -> tuple[np.ndarray[Any, Any], float]:
    vectors, audio_s = [], 0.0
    for path in table.audio_paths:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        samples = samples.mean(axis=1)
        if rate != model.sample_rate:
            samples = soxr.resample(samples, rate, model.sample_rate)
        audio_s += len(samples) / model.sample_rate
        vectors.append(model.forward([samples])[0])
    return np.stack(vectors), audio_s


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _compare(folder: Path, turns: int) -> float:
    """Largest difference between the two ways' unit vectors."""
    largest = 0.0
    for turn in range(turns):
        loop, embed = (np.load(folder / f"{way}-{turn}.npy").astype(np.float64) for way in ("loop", "embed"))
        unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (loop, embed)]
        largest = max(largest, float(np.abs(unit[0] - unit[1]).max()))
    return largest


def _summary(runs: dict[str, list[dict[str, Any]]], difference: float) -> dict[str, Any]:
    report: dict[str, Any] = {"cores": os.cpu_count(), "largest_difference": difference, "runs": runs}
    for way, found in runs.items():
        # The fastest run is the one that others disturbed least; the slowest says how much they can.
        seconds = min(run["seconds"] for run in found)
        report[way] = {
            "seconds": seconds,
            "slowest_s": max(run["seconds"] for run in found),
            "utterances_per_s": found[0]["utterances"] / seconds,
            "real_time_factor": seconds / found[0]["audio_s"],
            "peak_mib": max(run["peak_mib"] for run in found),
            "added_mib": max(run["peak_mib"] - run["before_mib"] for run in found),
        }
    return report


def _print(report: dict[str, Any], options: argparse.Namespace) -> None:
    loop, embed, first = report["loop"], report["embed"], report["runs"]["embed"][0]
    print(
        f"{first['utterances']} utterances, {first['audio_s']:.0f} s of audio, model {options.model}, "
        f"{report['cores']} cores with a load of {report['load_before']:.1f} before, "
        f"{options.turns} runs each; rates are of the fastest\n"
    )
    print(f"| {'':26} | {'plain loop':>10} | {'nestvox embed':>13} | {'ratio':>6} |")
    print(f"|{'-' * 28}|{'-' * 11}:|{'-' * 14}:|{'-' * 7}:|")
    for name, key, digits in (
        ("seconds, fastest run", "seconds", 1),
        ("seconds, slowest run", "slowest_s", 1),
        ("utterances/s", "utterances_per_s", 1),
        ("real-time factor", "real_time_factor", 4),
        ("peak memory, MiB", "peak_mib", 0),
        ("of it above the start, MiB", "added_mib", 0),
    ):
        print(
            f"| {name:26} | {loop[key]:>10.{digits}f} | {embed[key]:>13.{digits}f} | {embed[key] / loop[key]:>6.2f} |"
        )
    keys = ("batch_size", "streams", "threads", "workers")
    choices = {", ".join(f"{key} {run[key]}" for key in keys) for run in report["runs"]["embed"]}
    print(f"\nchosen by nestvox embed: {'; '.join(sorted(choices))}")
    print(f"largest difference between the vectors of the two, at unit length: {report['largest_difference']:.1e}")


if __name__ == "__main__":
    sys.exit(main())
