"""Every script of examples/ runs, with an untrained network and tones; the first as a user starts it."""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

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
