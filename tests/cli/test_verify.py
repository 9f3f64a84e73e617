"""`nestvox verify` as a user types it: 0 same, 1 different, 2 something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch

import nestvox
from nestvox.cli.main import main
from nestvox.encoders.ge2e import GE2E
from nestvox.heads.rotation import Rotation
from nestvox.model import SpeakerModel
from nestvox.verdict import Threshold

RATE = 16_000


def threshold(dim: int, value: float, point: str = "eer") -> Threshold:
    return Threshold(dim, value, point, 0.05, 0.0625, 100, 200, "0123456789abcdef" * 4, "dev.txt", ("synthetic",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose 16-dimensional threshold accepts everything, and whose 64-dimensional one nothing."""
    folder = tmp_path_factory.mktemp("verify")
    torch.manual_seed(0)
    matrix = np.linalg.qr(np.random.default_rng(0).standard_normal((256, 256)))[0]
    model = SpeakerModel(
        GE2E(),
        Rotation(matrix, (16, 64), "pca"),
        "tiny",
        thresholds=(threshold(16, -1.0), threshold(64, 1.5), threshold(64, -1.0, "min_dcf p_target=0.05")),
    )
    model.save(folder / "model")
    generator = np.random.default_rng(1)
    for name, duration_s in (("a", 3.5), ("b", 3.5), ("short", 0.4)):
        soundfile.write(folder / f"{name}.wav", 0.1 * generator.standard_normal(round(duration_s * RATE)), RATE)
    (folder / "text.wav").write_text("no audio")
    return folder


def run(folder: Path, capsys: pytest.CaptureFixture[str], a: str, b: str, *arguments: object) -> tuple[int, str, str]:
    given = [folder / a, folder / b, "--model", folder / "model", *arguments]
    with pytest.raises(SystemExit) as stopped:
        main(["verify", *map(str, given)])
    printed = capsys.readouterr()
    return int(stopped.value.code or 0), printed.out, printed.err


def test_same_different_and_undecided(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = nestvox.load(folder / "model")
    same = run(folder, capsys, "a.wav", "b.wav", "--dim", 16, "--json", tmp_path / "a.json")
    assert same[0] == 0
    assert same[1].startswith("same speaker\n")
    score = model.verify(folder / "a.wav", folder / "b.wav", dim=16).score
    assert f"score      {score:+.4f} cosine (higher is more alike; not a probability)" in same[1]
    assert "threshold  -1.0000, set at eer on dev.txt (100 target and 200 non-target trials" in same[1]
    assert "sha256 0123456789ab, synthetic): 5.00% false alarms, 6.25% misses there" in same[1]
    assert f"model      tiny, 16 dimensions, fingerprint {model.fingerprint}" in same[1]
    assert "warning" not in same[1]
    written = json.loads((tmp_path / "a.json").read_text())
    assert (written["same"], written["dim"], written["fingerprint"]) == (True, 16, model.fingerprint)
    assert written["score"] == pytest.approx(score, abs=1e-6)
    assert written["threshold"]["trials_sha256"] == "0123456789abcdef" * 4

    different = run(folder, capsys, "a.wav", "b.wav", "--dim", 64, "--json", tmp_path / "b.json")
    assert different[0] == 1
    assert different[1].startswith("different speakers\n")
    assert json.loads((tmp_path / "b.json").read_text())["same"] is False, "written before the exit code says no"
    assert different[2] == ""

    undecided = run(folder, capsys, "a.wav", "b.wav")
    assert undecided[0] == 0
    assert undecided[1].startswith("no verdict\n")
    assert "none for 256 dimensions at 'eer'; the model has some for 16, 64 at eer, min_dcf" in undecided[1]


def test_operating_point(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(folder, capsys, "a.wav", "b.wav", "--dim", 64, "--operating-point", "min_dcf")
    assert code == 0
    assert "set at min_dcf p_target=0.05" in text


def test_model_without_thresholds(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = nestvox.load(folder / "model")
    SpeakerModel(model.encoder, None, "bare").save(tmp_path / "bare")
    code, text, _ = run(folder, capsys, "a.wav", "b.wav", "--model", tmp_path / "bare")
    assert code == 0
    assert "threshold  none: the model holds no thresholds; set one on pairs of your own domain" in text


def test_doubtful_audio_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text, _ = run(folder, capsys, "a.wav", "short.wav", "--dim", 16)
    assert "warning    second recording: The audio is short: 0.40 s" in text
    assert "first recording" not in text


@pytest.mark.parametrize(
    ("b", "arguments", "what"),
    [
        ("none.wav", [], "none.wav"),
        ("text.wav", [], "text.wav"),
        ("b.wav", ["--dim", 300], "between 1 and 256, got 300"),
        ("b.wav", ["--model", "no-such-model", "--offline"], "no-such-model"),
        ("b.wav", ["--weights", "w.safetensors"], "has its own weights"),
        ("b.wav", ["--dim", "many"], "--dim"),
    ],
)
def test_errors_are_one_line_and_exit_2(
    folder: Path, capsys: pytest.CaptureFixture[str], b: str, arguments: list[object], what: str
) -> None:
    code, text, error = run(folder, capsys, "a.wav", b, *arguments)
    assert code == 2
    assert what in error
    assert "Traceback" not in text + error
