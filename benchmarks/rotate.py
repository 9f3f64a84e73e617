"""Rotate millions of vectors that somebody already has: time, peak memory, and what it does to the scores.

    python benchmarks/rotate.py
    python benchmarks/rotate.py --rows 300000 --labelled

It writes N x 256 float32 vectors (speakers as clusters whose variance decays over the dimensions, behind a random
rotation, so that no prefix is good by itself; not part of the time) and, with --labelled, a text file with one speaker
a line. Then it runs `nestvox rotate` as a user types it, with --rotated, and reads clock and peak memory off the
process. The change of full-dimension cosines is calculated here, in double precision, from the two files. Exit code 1:
one changed by more than 1e-6.

Ten million rows need 21 GB of disk in --dir.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIM = 256
BLOCK = 50_000
PAIRS = 200_000
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Finished:
    """A process that is over: seconds on the clock, peak of its resident memory, what it printed."""

    wall_s: float
    peak_bytes: int
    output: str


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="nestvox-rotate-", dir=options.dir) as name:
        report = _measure(options, Path(name))
    for key, value in report.items():
        print(f"{key:32} {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["largest cosine change"] <= TOLERANCE else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--per-speaker", type=int, default=20)
    parser.add_argument("--labelled", action="store_true", help="give the command a speaker for every row")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--dir", type=Path, help="where the files go; default: the temporary folder of the system")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    vectors, rotated, rotation = folder / "vectors.npy", folder / "rotated.npy", folder / "rotation.safetensors"
    labels = folder / "labels.txt"
    _write_vectors(vectors, options.rows, options.per_speaker, options.seed)
    command = [str(Path(sys.executable).with_name("nestvox")), "rotate", str(vectors)]
    command += ["--out", str(rotation), "--rotated", str(rotated), "--json", str(folder / "out.json")]
    if options.labelled:
        with labels.open("w") as file:
            file.writelines(f"speaker-{row // options.per_speaker:08}\n" for row in range(options.rows))
        command += ["--labels", str(labels), "--method", options.method]
    finished = _run(command)
    print(finished.output)
    found = json.loads((folder / "out.json").read_text())
    return {
        "rows": options.rows,
        "dimensions": DIM,
        "labels": f"{-(-options.rows // options.per_speaker)} speakers" if options.labelled else "none",
        "method": found["method"],
        "wall time, s": round(finished.wall_s, 1),
        "rows/s": round(options.rows / finished.wall_s),
        "peak memory, MB": round(finished.peak_bytes / 1e6),
        "vectors, MB": round(vectors.stat().st_size / 1e6),
        "rotated vectors, MB": round(rotated.stat().st_size / 1e6),
        "rotation, MB": round(rotation.stat().st_size / 1e6, 2),
        "pairs compared": PAIRS,
        "largest cosine change": _largest_change(vectors, rotated, options.seed),
    }


def _write_vectors(path: Path, rows: int, per_speaker: int, seed: int) -> None:
    """Speakers vary in early directions of a hidden basis, sessions in all of them."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.standard_normal((DIM, DIM)))[0].astype(np.float32)
    decay = (1 + np.arange(DIM, dtype=np.float32)) ** -0.7
    offset = np.float32(0.5) * decay[::-1]
    step = BLOCK // per_speaker * per_speaker or per_speaker
    # Written, not mapped: the kernel counts pages that this process has mapped into the peak of a process it starts.
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, DIM)})
        for start in range(0, rows, step):
            n = min(step, rows - start)
            speakers = generator.standard_normal((-(-n // per_speaker), DIM), np.float32) * decay
            block = speakers.repeat(per_speaker, axis=0)[:n]
            block += np.float32(0.15) * generator.standard_normal((n, DIM), np.float32) + offset
            (block @ basis).astype("<f4").tofile(file)
            if start // step % 20 == 0:
                print(f"writing row {start:,} of {rows:,}", file=sys.stderr, flush=True)


def _run(command: list[str]) -> Finished:
    """Run a command and take its peak memory from the kernel when it ends."""
    with tempfile.TemporaryFile("w+") as said:
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=said)
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        output = said.read()
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {child.returncode}\n{output}")
    return Finished(wall_s, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), output)


def _largest_change(before: Path, after: Path, seed: int) -> float:
    """Largest difference of a full-dimension cosine over random pairs of rows, neighbours included."""
    old, new = (np.load(path, mmap_mode="r") for path in (before, after))
    if old.shape != new.shape:
        raise SystemExit(f"{before} has shape {old.shape}, {after} {new.shape}")
    generator = np.random.default_rng(seed)
    rows = len(old)
    largest = 0.0
    for _ in range(PAIRS // 10_000):
        first = np.sort(generator.integers(0, rows, 10_000))  # in file order, which is kinder to a disk
        second = np.where(generator.random(10_000) < 0.5, (first + 1) % rows, generator.permutation(first))
        change = np.abs(_cosines(old, first, second) - _cosines(new, first, second))
        largest = max(largest, float(change.max()))
    return largest


def _cosines(vectors: NDArray[np.float32], first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    a, b = vectors[first].astype(np.float64), vectors[second].astype(np.float64)
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float64] = np.einsum("nd,nd->n", a, b) / scale
    return cosines


if __name__ == "__main__":
    sys.exit(main())
