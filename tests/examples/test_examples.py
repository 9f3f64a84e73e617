"""Every script of examples/ runs as a user starts it, with an untrained network and tones."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(FOLDER.glob("[0-9]_*.py"))


def test_one_for_each_usage_example() -> None:
    assert [script.name[0] for script in SCRIPTS] == list("12345")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the extra [torch] is not installed")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_runs(script: Path, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "untrained" in done.stdout
    assert len(done.stdout.splitlines()) > 1
