"""Every golden ReDimNet network by name, with its largest difference to the official implementation.

    python benchmarks/golden_redimnet.py
    python benchmarks/golden_redimnet.py --reference FOLDER --only tiny --json FILE

A difference is the largest one of all numbers, over the largest golden number; the rows of the embedding are a batch
of two and a single clip. Pooled vectors and log-mel features are compared where the folder of the original numbers is
at hand. Exit code 1: a difference above the limit, or other tensors than the official network.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1e-4


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    golden = _golden()
    reference = options.reference if options.reference.is_dir() else None
    if reference is None:
        print(f"no folder {options.reference}: embeddings only (see --reference)", file=sys.stderr)
    print(f"{'network':24}{'status':14}{'parameters':>11}{'tensors':>9}", end="")
    print(f"{'embedding':>12}{'pooled':>10}{'log-mel':>10}{'s':>7}")
    rows = []
    for name, network in golden.networks().items():
        if options.only not in name:
            continue
        began = time.perf_counter()
        encoder = golden.with_keyed_weights(network)
        state = golden.published_state(network, encoder)
        same = golden.digest((key, value.shape) for key, value in state.items()) == network.names_sha256
        counts = sum(parameter.numel() for parameter in encoder.parameters()), len(state)
        found = golden.compare(network, golden.outputs(network), reference)
        row: dict[str, Any] = {
            "network": name,
            "status": network.status,
            "parameters": counts[0],
            "tensors": counts[1],
            "same_tensors": same and counts == (network.parameters, network.tensors),
            "embedding": found.embedding,
            "pooled": found.pooled,
            "log_mel": found.log_mel,
            "seconds": time.perf_counter() - began,
        }
        rows.append(row)
        _print(row)
    bad = [row["network"] for row in rows if not _passes(row)]
    print(f"{len(rows) - len(bad)} of {len(rows)} agree to {LIMIT:g}" + (f"; not: {', '.join(bad)}" if bad else ""))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 1 if bad or not rows else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(os.environ.get("NESTVOX_REFERENCE", ROOT.parent / "shared" / "reference")) / "redimnet"
    parser.add_argument("--reference", type=Path, default=folder, help="folder of the original numbers")
    parser.add_argument("--only", default="", help="only networks whose name holds this")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _golden() -> ModuleType:
    """The module that the tests compare with."""
    sys.path.insert(0, str(ROOT / "tests" / "encoders"))
    return importlib.import_module("redimnet_golden")


def _passes(row: dict[str, Any]) -> bool:
    differences = [row[key] for key in ("embedding", "pooled", "log_mel") if row[key] is not None]
    return row["same_tensors"] and all(difference <= LIMIT for difference in differences)


def _print(row: dict[str, Any]) -> None:
    shown = ["-" if row[key] is None else f"{row[key]:.1e}" for key in ("embedding", "pooled", "log_mel")]
    tensors = f"{row['tensors']}" if row["same_tensors"] else f"{row['tensors']} (!)"
    print(f"{row['network']:24}{row['status']:14}{row['parameters']:>11,}{tensors:>9}", end="")
    print(f"{shown[0]:>12}{shown[1]:>10}{shown[2]:>10}{row['seconds']:>7.1f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
