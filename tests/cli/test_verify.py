"""`nestvox verify` as a user types it: 0 same, 1 different, 2 something is wrong, 3 no verdict."""

from __future__ import annotations

import json
from dataclasses import replace
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
from nestvox.model.speaker_model import SpeakerModel
from nestvox.model.threshold import Threshold

RATE = 16_000


def threshold(dim: int, value: float, point: str = "eer") -> Threshold:
    return Threshold(dim, value, point, 0.05, 0.0625, 100, 200, "0123456789abcdef" * 4, "dev.txt")


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
        thresholds=(threshold(16, -1.0), threshold(64, 1.0), threshold(64, -1.0, "min_dcf p_target=0.05")),
    )
    model.thresholds = tuple(replace(one, fingerprint=model.fingerprint) for one in model.thresholds)
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
    assert "sha256 0123456789ab): 5.00% false alarms, 6.25% misses there" in same[1]
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
    assert undecided[0] == 3, "a script that lets people in must not take this for the same speaker"
    assert undecided[1].startswith("no verdict\n")
    assert (
        "none for 256 dimensions at any operating point; the model has some for 16, 64 at eer, min_dcf" in undecided[1]
    )


def test_python_and_the_command_choose_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A strict threshold that was stored decides, and neither the laxer one nor a synthetic one that is stricter."""
    model = nestvox.load(folder / "model")
    lax = replace(threshold(64, -1.0), fingerprint=model.fingerprint)
    strict = replace(lax, value=1.0, operating_point="far 0.001", domain="phone", p_fa=0.001)
    synthetic = replace(lax, value=1.0, operating_point="far 0.0001", labels=("synthetic",))
    for stored, code, chosen in (
        ([lax], 0, lax),
        ([lax, strict, synthetic], 1, strict),
        ([replace(lax, default=True), strict], 0, replace(lax, default=True)),
        ([synthetic], 3, None),
        ([replace(lax, labels=("augmented",)), replace(lax, labels=("leaky",), operating_point="far 0.1")], 3, None),
    ):
        model.thresholds = tuple(stored)
        model.save(tmp_path / "model")
        found = run(folder, capsys, "a.wav", "b.wav", "--model", tmp_path / "model", "--dim", 64)
        answer = model.verify(folder / "a.wav", folder / "b.wav", dim=64)
        assert (found[0], answer.threshold) == (code, chosen), found
        assert answer.same is {0: True, 1: False, 3: None}[code]
        assert (answer.reason == "") is (chosen is not None)
    assert "NONE FOR REAL RECORDINGS: what the model holds for 64 dimensions was set on AUGMENTED, LEAKY" in found[1]
    marked = ["--dim", 64, "--mark", "synthetic"]
    model.thresholds = (synthetic,)
    model.save(tmp_path / "model")
    assert run(folder, capsys, "a.wav", "b.wav", "--model", tmp_path / "model", *marked)[0] == 1
    assert run(folder, capsys, "a.wav", "b.wav", *marked)[0] == 1
    wrong = run(folder, capsys, "a.wav", "b.wav", "--mark", "leaky")
    assert wrong[0] == 2
    assert "marked augmented or synthetic" in wrong[2]


def test_operating_point(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(folder, capsys, "a.wav", "b.wav", "--dim", 64, "--operating-point", "min_dcf")
    assert code == 0
    assert "set at min_dcf p_target=0.05" in text


def test_model_without_thresholds(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = nestvox.load(folder / "model")
    SpeakerModel(model.encoder, None, "bare").save(tmp_path / "bare")
    code, text, _ = run(folder, capsys, "a.wav", "b.wav", "--model", tmp_path / "bare")
    assert code == 3
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


@pytest.fixture(scope="module")
def routes(folder: Path) -> Path:
    """Up to 64 dimensions the model of `folder`, whole another one without thresholds."""
    torch.manual_seed(1)
    SpeakerModel(GE2E(), name="large").save(folder / "large")
    path = folder / "routes.yaml"
    path.write_text("routes:\n- {name: fast, model: model, up_to_dim: 64}\n- {name: accurate, model: large}\n")
    return path


@pytest.mark.parametrize(
    ("arguments", "route", "model", "code"),
    [
        (["--dim", 16], "fast", "tiny", 0),
        (["--dim", 64], "fast", "tiny", 1),
        ([], "accurate", "large", 3),
        (["--dim", 65], "accurate", "large", 3),
        (["--dim", 16, "--route", "accurate"], "accurate", "large", 3),
        (["--route", "fast"], "fast", "tiny", 1),
    ],
)
def test_a_file_of_routes_chooses_the_model(
    folder: Path,
    routes: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[object],
    route: str,
    model: str,
    code: int,
) -> None:
    found = run(folder, capsys, "a.wav", "b.wav", "--model", routes, "--json", tmp_path / "v.json", *arguments)
    assert found[0] == code, found
    written = json.loads((tmp_path / "v.json").read_text())
    answers = nestvox.load(folder / {"tiny": "model", "large": "large"}[model])
    assert (written["route"], written["model"], written["fingerprint"]) == (route, model, answers.fingerprint)
    assert written["dim"] <= (64 if route == "fast" else 256)
    expected = answers.verify(folder / "a.wav", folder / "b.wav", dim=written["dim"])
    assert written["score"] == pytest.approx(expected.score, abs=1e-6)
    assert f"route      {route} of {routes}" in found[1]


@pytest.mark.parametrize(
    ("model", "arguments", "what"),
    [
        ("routes.yaml", ["--route", "best"], "no route 'best'; there is fast, accurate"),
        ("routes.yaml", ["--route", "fast", "--dim", 128], "serves up to 64 dimensions, asked for 128"),
        ("routes.yaml", ["--weights", "w.safetensors"], "leave out --weights"),
        ("none.yml", [], "none.yml"),
        ("model", ["--route", "fast"], "give a .yaml file of routes"),
    ],
)
def test_wrong_routes_are_one_line_and_exit_2(
    folder: Path,
    routes: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    arguments: list[object],
    what: str,
) -> None:
    code, text, error = run(folder, capsys, "a.wav", "b.wav", "--model", folder / model, *arguments)
    assert code == 2
    assert what in error
    assert "Traceback" not in text + error


def test_sides_of_a_call(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Averaged, a call is told to be one; either side is what it is as a file of its own."""
    sides = 0.1 * np.random.default_rng(9).standard_normal((2, 3 * RATE))
    sides[1] = 0.3 * np.convolve(sides[1], [1, 0, 0, 0, -0.9], mode="same") * np.sin(np.arange(3 * RATE) / 2000) ** 2
    soundfile.write(tmp_path / "call.wav", sides.T, RATE)
    soundfile.write(tmp_path / "opposite.wav", np.stack([sides[0], -sides[0]], axis=1), RATE)
    for number, side in enumerate(sides):
        soundfile.write(tmp_path / f"{number}.wav", side, RATE)
    call, opposite = str(tmp_path / "call.wav"), str(tmp_path / "opposite.wav")

    def score(*arguments: object) -> tuple[float, str]:
        _, text, error = run(folder, capsys, *map(str, arguments), "--json", tmp_path / "answer.json")
        assert not error
        return json.loads((tmp_path / "answer.json").read_text())["score"], text

    mixed, text = score(call, opposite)
    assert "first recording: The channels that were averaged differ" in text
    assert "second recording: The channels cancel" in text
    apart, text = score(call, call, "--channel", "0,1")
    assert "warning" not in text
    assert apart == score(str(tmp_path / "0.wav"), str(tmp_path / "1.wav"))[0] != mixed
    assert score(call, str(tmp_path / "0.wav"), "--channel", 0)[0] == pytest.approx(1.0, abs=1e-6)
    for wrong in ("2", "-1", "0,1,0", "left", "1e9"):
        code, _, error = run(folder, capsys, call, call, f"--channel={wrong}")
        assert code == 2
        assert error.startswith("error: ")
