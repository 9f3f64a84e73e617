"""Killed at any moment: no half RTTM, and the same output after resuming."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")

from nestvox.diarization import diarize, read_turns  # noqa: E402
from nestvox.encoders import build  # noqa: E402
from nestvox.model import SpeakerModel, load  # noqa: E402

SMALL = {"architecture": "campplus", "head_channels": 2, "initial": 8, "growth": 4, "bottleneck": 8, "embedding_dim": 8}
COMMAND = "import sys; from nestvox.cli.main import main; main(sys.argv[1:])"
_KILLS = 20


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    torch.manual_seed(0)
    SpeakerModel(build({**SMALL, "blocks": [[2, 1], [2, 2]]}), name="small").save(tmp_path / "model")
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{number}.wav" for number in range(12)]
    for file in files:
        loud = np.repeat(rng.uniform(0, 0.3, 20) * (rng.random(20) > 0.3), 16_000)
        soundfile.write(file, (loud * rng.normal(size=len(loud))).clip(-1, 1).astype(np.float32), 16_000)
    options = ["--model", str(tmp_path / "model"), "--segmentation", "vad", "--threshold", "0.2", "--backend", "eager"]
    out = tmp_path / "killed"
    command = [sys.executable, "-c", COMMAND, "diarize", *map(str, files), "--out", str(out), *options]
    moments = random.Random(0)
    killed = 0
    for _ in range(_KILLS):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # From when the folder is there on: before, nothing is written.
        while child.poll() is None and not (out / "diarization.json").exists():
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.5) if killed else 0.0)
        killed += child.poll() is None
        child.kill()
        child.wait()
        for rttm in out.glob("*.rttm"):
            read_turns(rttm)
            assert not rttm.read_text() or rttm.read_text().endswith("\n")
        if killed % 5 == 0:
            for rttm in out.glob("[0-9].rttm"):
                rttm.unlink()
    assert killed >= _KILLS // 2
    model = load(tmp_path / "model", backend="eager")
    diarize(model, files, out, segmentation="vad", threshold=0.2)
    diarize(model, files, tmp_path / "whole", segmentation="vad", threshold=0.2)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    assert [(out / name).read_bytes() for name in names] == [(tmp_path / "whole" / name).read_bytes() for name in names]
