"""Spoilt files of every format besides audio: read, or refused by name, and never anything else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "benchmarks" / "fuzz_formats.py"


def fuzz(folder: Path, *options: str) -> tuple[int, list[dict]]:
    """Run the command as a user does; a reader that crashes takes its own process with it, not this one."""
    report = folder / "report.json"
    command = [sys.executable, str(FUZZ), "--json", str(report), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert report.is_file(), done.stderr[-2000:]
    return done.returncode, json.loads(report.read_text())["formats"]


def test_spoilt_files_that_are_read_without_torch(tmp_path: Path) -> None:
    code, formats = fuzz(tmp_path, "--without-torch", "--files", "400", "--seed", "20240607")
    assert code == 0, [row["bad"] for row in formats if row["bad"]]
    assert len(formats) >= 36
    refused = sum(row["outcomes"].get("refused", 0) for row in formats)
    files = sum(sum(row["outcomes"].values()) for row in formats)
    assert files >= 400
    assert 0.4 < refused / files < 0.95  # neither everything nor nothing of a file is looked at


def test_spoilt_models_weights_and_runs(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    names = ("model config.json", "model.safetensors", "calibration.json", "training checkpoint", "adapter", "recipe")
    code, formats = fuzz(tmp_path, "--files", "120", "--seed", "20240607", "--formats", *names)
    assert code == 0, [row["bad"] for row in formats if row["bad"]]
    assert [row["format"] for row in formats] == list(names)


@pytest.mark.parametrize("outcome", ["crash", "hang", "traceback", "memory"])
def test_the_command_notices_what_is_bad(tmp_path: Path, outcome: str) -> None:
    limit_s = "1" if outcome == "hang" else "60"
    options = ("--formats", "scp", "--files", "1", "--limit-s", limit_s, "--pretend", outcome)
    code, (row,) = fuzz(tmp_path, *options)
    assert code == 1
    assert row["outcomes"] == {outcome: 1}
    assert len(row["bad"]) == 1
