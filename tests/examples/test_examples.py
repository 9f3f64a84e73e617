"""Every script of examples/ runs, with an untrained network and tones; the first as a user starts it."""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(FOLDER.glob("[0-9]_*.py"))
without_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the extra [torch] is not installed"
)


def check(shown: str) -> None:
    assert "untrained" in shown
    assert len(shown.splitlines()) > 1


def test_one_for_each_usage_example() -> None:
    assert [script.name[0] for script in SCRIPTS] == list("12345")


@without_torch
@pytest.mark.parametrize("script", SCRIPTS[1:], ids=lambda script: script.stem)
def test_runs(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has imported torch already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.syspath_prepend(FOLDER)
    runpy.run_path(str(script), run_name="__main__")
    check(capsys.readouterr().out)


@without_torch
@pytest.mark.parametrize(
    "script",
    [SCRIPTS[0], *(pytest.param(script, marks=pytest.mark.slow) for script in SCRIPTS[1:])],
    ids=lambda script: script.stem,
)
def test_runs_as_a_user_starts_it(script: Path, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    check(done.stdout)


@without_torch
@pytest.mark.parametrize("script", [s for s in SCRIPTS if not s.stem.startswith("4_")], ids=lambda script: script.stem)
def test_runs_on_a_rotated_model_of_another_size(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `make demo` writes has a rotation, and need not have 128 dimensions."""
    import torch

    from nestvox.encoders.redimnet.redimnet import ReDimNet
    from nestvox.heads.rotation import Rotation
    from nestvox.model.speaker_model import SpeakerModel

    torch.manual_seed(0)
    small = {"F": 24, "C": 4, "stages_setup": [[1, 1, 1, [[3, 3]], 4], [2, 1, 1, [[3, 3]], 4]], "group_divisor": 4}
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((24, 24)))[0]
    SpeakerModel(ReDimNet(**small, embed_dim=24).eval(), Rotation(turn, (8, 24), "pca")).save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(script), "--checkpoint", str(tmp_path / "model")])
    monkeypatch.syspath_prepend(FOLDER)
    runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out
    assert "untrained" not in shown
    assert shown
