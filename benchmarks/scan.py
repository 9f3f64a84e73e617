"""Search a generated tree laid out as VoxCeleb2 is, beside a plain loop over `os.walk`.

    python benchmarks/scan.py --files 1000000

The files hold four bytes each and are deleted afterwards; a million of them takes about 4 GB of blocks for a while.
Everything runs on file names that the operating system has just written, so no row waits for a disk: on a cold disk or
over a network both sides wait for the same metadata, the search with eight requests at once and the loop with one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nestvox.corpora.prepare.published import CorpusPrepared
from nestvox.corpora.prepare.scan import folders_in, scan
from nestvox.corpora.prepare.voxceleb import prepare_voxceleb2
from nestvox.corpora.utterances import write_utterances

UTTERANCES_PER_VIDEO = 7  # VoxCeleb2 dev: 1,092,009 utterances of 145,569 videos
VIDEOS_PER_SPEAKER = 24
Row = tuple[str, float, int]


def main() -> int:
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="nestvox-scan-", dir=options.folder))
    print(f"{'step':52} {'seconds':>9} {'files/s':>10}")
    try:
        rows = _measure(folder, options)
    finally:
        began = time.perf_counter()
        shutil.rmtree(folder, ignore_errors=True)
        print(f"deleted in {time.perf_counter() - began:.1f} s", file=sys.stderr)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process {peak_mib:.0f} MiB; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if options.json is not None:
        steps = [{"step": name, "seconds": seconds, "files": files} for name, seconds, files in rows]
        options.json.write_text(json.dumps({"files": options.files, "peak_mib": peak_mib, "steps": steps}, indent=2))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="where the tree is made; default: for temporary files")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _measure(folder: Path, options: argparse.Namespace) -> list[Row]:
    root = folder / "VoxCeleb2"
    rows: list[Row] = []

    def timed(name: str, step: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = step()
        seconds = time.perf_counter() - began
        rows.append((name, seconds, options.files))
        print(f"{name:52} {seconds:9.1f} {options.files / seconds:10,.0f}", flush=True)
        return result

    timed("making the tree", lambda: _make(root, options.files))
    tops = [f"dev/aac/{name}" for name in folders_in(root / "dev" / "aac")]
    names = timed("os.walk, names only", lambda: _walk(root, sizes=False))
    sizes = timed("os.walk and the size of every file", lambda: _walk(root, sizes=True))
    suffixes, journal = (".m4a",), folder / "journal"
    found = timed(
        f"scan, {options.workers} threads", lambda: scan(root, tops, suffixes=suffixes, workers=options.workers)
    )
    with_journal = timed(
        "scan with its journal",
        lambda: scan(root, tops, suffixes=suffixes, workers=options.workers, journal=journal),
    )
    resumed = timed(
        "the same again, all of it in the journal",
        lambda: scan(root, tops, suffixes=suffixes, workers=options.workers, journal=journal),
    )
    prepared: CorpusPrepared = timed(
        "prepare_voxceleb2 without durations, with its journal",
        lambda: prepare_voxceleb2(root, journal=folder / "another", workers=options.workers),
    )
    timed("writing the table as TSV", lambda: write_utterances(prepared.table, folder / "table.tsv"))
    timed("writing the table as Parquet", lambda: write_utterances(prepared.table, folder / "table.parquet"))
    counts = {names, sizes, found.height, len(prepared.table)}
    if counts != {options.files} or not (found.equals(with_journal) and found.equals(resumed)):
        raise SystemExit(f"the ways differ: {counts} files of {options.files}")
    return rows


def _make(root: Path, files: int) -> None:
    made = 0
    number = 12
    while made < files:
        for video in range(VIDEOS_PER_SPEAKER):
            folder = root / "dev" / "aac" / f"id{number:05}" / f"video{video:06}"
            folder.mkdir(parents=True)
            for take in range(UTTERANCES_PER_VIDEO):
                if made == files:
                    return
                with open(f"{folder}/{take:05}.m4a", "wb", buffering=0) as file:  # noqa: PTH123  # a Path is slower
                    file.write(b"m4a\n")
                made += 1
        number += 1


def _walk(root: Path, *, sizes: bool) -> int:
    count = 0
    for folder, _, files in os.walk(root):
        for name in files:
            if name.endswith(".m4a"):
                if sizes:
                    os.path.getsize(f"{folder}/{name}")  # noqa: PTH202  # what a plain loop would do
                count += 1
    return count


if __name__ == "__main__":
    sys.exit(main())
