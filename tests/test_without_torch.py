"""Measuring, tables, rotation and the store work without torch; what runs a network asks for it by its extra.

The quick tests hide torch from a new interpreter; the slow one builds an environment that has none.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nestvox.zoo.box import box_folder

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
    for room in ("audio", "corpora", "evaluation", "metrics")
    for path in sorted((ROOT / "src" / "nestvox" / room).rglob("[!_]*.py"))
]
MODULES += [
    "nestvox.download",
    "nestvox.extraction.formats.interchange",
    "nestvox.extraction.store.store",
    "nestvox.heads.rotation",
]

HIDE_TORCH = """
import sys


class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name=name)


sys.meta_path.insert(0, NoTorch())
"""
COMMAND = HIDE_TORCH + "\nfrom nestvox.cli.main import main\nmain(sys.argv[1:])\n"


def python(code: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=100)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors with labels, scores with trials, and a table with two audible files."""
    folder = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(7)
    labels = np.repeat(np.arange(30), 6)
    vectors = rng.normal(size=(30, 32))[labels] + 0.5 * rng.normal(size=(180, 32))
    np.save(folder / "vectors.npy", (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))
    (folder / "labels.txt").write_text("".join(f"speaker{label}\n" for label in labels))
    trials, scores = [], []
    for number in range(400):
        target = int(number % 2)
        trials.append(f"{target} a{number}.wav b{number}.wav\n")
        scores.append(f"{target + rng.normal():.6f} a{number}.wav b{number}.wav\n")
    (folder / "trials.txt").write_text("".join(trials))
    (folder / "scores.txt").write_text("".join(scores))
    rows = ["utt_id\tpath\tspeaker\n"]
    for name in ("one", "two"):
        soundfile.write(folder / f"{name}.wav", rng.normal(0.0, 0.1, 32_000), 16_000)
        rows.append(f"{name}\t{name}.wav\t{name}\n")
    (folder / "utterances.tsv").write_text("".join(rows))
    return folder


def test_hiding_does_hide(tmp_path: Path) -> None:
    child = python(HIDE_TORCH + "\nimport torch", cwd=tmp_path)
    assert child.returncode == 1
    assert "No module named 'torch'" in child.stderr


def test_rooms_import_without_torch(tmp_path: Path) -> None:
    optional = {"nestvox.corpora.prepare.espeak"}  # run by its path, imports nothing of nestvox
    code = HIDE_TORCH + "\n".join(f"import {name}" for name in MODULES if name not in optional)
    child = python(code, cwd=tmp_path)
    assert child.returncode == 0, child.stderr


def test_names_of_the_package_that_need_no_network_resolve(tmp_path: Path) -> None:
    child = python(
        HIDE_TORCH
        + "import nestvox\nfor name in set(nestvox.__all__) - {'ablate', 'train'}:\n    getattr(nestvox, name)",
        cwd=tmp_path,
    )
    assert child.returncode == 0, child.stderr
    child = python(HIDE_TORCH + "import nestvox\nnestvox.train", cwd=tmp_path)
    assert child.stderr.endswith("training needs the extra [torch]: pip install 'nestvox[torch]'\n")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network as one ONNX file, which it takes torch and the package onnx to write."""
    pytest.importorskip("torch", reason="the extra [torch] is not installed")
    pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
    from keyed_weights import keyed_weights
    from nestvox.encoders.registry import build
    from nestvox.heads.rotation import Rotation
    from nestvox.model import SpeakerModel, export_onnx

    encoder = build({"architecture": "mixer", "width": 16, "depth": 1, "groups": 2, "embedding_dim": 12}).eval()
    encoder.load_state_dict(keyed_weights(encoder.state_dict()))
    file = tmp_path_factory.mktemp("network") / "small.onnx"
    export_onnx(SpeakerModel(encoder, Rotation(np.eye(12), (4, 12), "truncation"), "small"), file)
    return file


def network_commands(network: Path, material: Path, out: Path) -> list[tuple[int, list[str | Path]]]:
    """What a network in an ONNX file does, and the exit code of each."""
    model: list[str | Path] = ["--model", network]
    two: list[str | Path] = [material / "one.wav", material / "two.wav"]
    table = material / "utterances.tsv"
    (out / "pairs.txt").write_text("1 one one\n0 one two\n1 two two\n0 two one\n")
    measured: list[str | Path] = [*model, "--trials", out / "pairs.txt", "--table", table]
    return [
        (3, ["verify", *two, *model, "--dim", "4"]),
        (0, ["embed", table, *model, "--out", out / "store"]),
        (0, ["evaluate", *measured, "--dims", "4,12", "--bootstrap", "40"]),
    ]


def test_a_network_in_an_onnx_file_runs(network: Path, material: Path, tmp_path: Path) -> None:
    calls = [arguments for _, arguments in network_commands(network, material, tmp_path)]
    code = (
        HIDE_TORCH
        + "from typer.testing import CliRunner\nfrom nestvox.cli.app import app\n"
        + f"for call in {[[str(word) for word in call] for call in calls]!r}:\n"
        + "    done = CliRunner().invoke(app, call)\n    print(done.exit_code, repr(done.exception), done.output)\n"
        + "assert 'torch' not in sys.modules"
    )
    child = python(code, cwd=tmp_path)
    assert child.returncode == 0, child.stdout + child.stderr
    codes = [int(word) for word in re.findall(r"^([0-9]+) (?:None|SystemExit|[A-Z])", child.stdout, re.M)]
    assert codes == [wanted for wanted, _ in network_commands(network, material, tmp_path)], child.stdout


def test_a_call_that_names_no_model_says_what_there_is(material: Path, tmp_path: Path) -> None:
    if box_folder() is not None:
        pytest.skip("a model is in the box")
    child = python(COMMAND, "verify", material / "one.wav", material / "two.wav", cwd=tmp_path)
    assert child.returncode == 2
    assert "none is in the box of this nestvox. Name one: --model campplus" in child.stderr


def working_commands(material: Path, out: Path) -> list[list[str | Path]]:
    scored = ["--scores", material / "scores.txt", "--trials", material / "trials.txt", "--json", out / "result.json"]
    labels = ["--labels", material / "labels.txt"]
    return [
        ["evaluate", *scored],
        ["rotate", material / "vectors.npy", *labels, "--out", out / "rotation.safetensors"],
        ["data", "check", material / "utterances.tsv"],
        ["models", "list"],
    ]


@pytest.mark.parametrize("number", range(4), ids=["evaluate", "rotate", "data", "models"])
def test_command_works(number: int, material: Path, tmp_path: Path) -> None:
    child = python(COMMAND, *working_commands(material, tmp_path)[number], cwd=tmp_path)
    assert child.returncode == 0, child.stdout + child.stderr


@pytest.mark.parametrize("command", ["embed", "train", "verify"])
def test_command_that_runs_a_network_asks_for_the_extra(command: str, material: Path, tmp_path: Path) -> None:
    arguments: dict[str, list[str | Path]] = {
        "embed": ["embed", material / "utterances.tsv", "--model", "ge2e", "--out", tmp_path / "store"],
        "train": ["train", "linear", "--out", tmp_path / "run"],
        "verify": ["verify", material / "one.wav", material / "two.wav", "--model", "ge2e"],
    }
    child = python(COMMAND, *arguments[command], cwd=tmp_path)
    assert child.returncode == 2, child.stdout + child.stderr
    assert "[torch]" in child.stderr
    assert "Traceback" not in child.stderr


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1800)
def test_environment_that_has_no_torch(network: Path, material: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    interpreter = home / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    install = [interpreter, "-m", "pip", "install", "-q", "-c", ROOT / "constraints" / "pinned.txt", ROOT]
    done = subprocess.run(install, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0 and re.search(r"connection|resolve host|No matching distribution", done.stderr, re.I):
        pytest.skip(f"no package index: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    absent = subprocess.run([interpreter, "-c", "import torch"], capture_output=True, check=False, env=environment)
    assert absent.returncode == 1
    for command in working_commands(material, tmp_path):
        child = subprocess.run(
            [home / "bin" / "nestvox", *command], capture_output=True, text=True, check=False, env=environment
        )
        assert child.returncode == 0, child.stdout + child.stderr
    for code, call in network_commands(network, material, tmp_path):
        child = subprocess.run(
            [home / "bin" / "nestvox", *call], capture_output=True, text=True, check=False, env=environment
        )
        assert child.returncode == code, child.stdout + child.stderr
    verify = [home / "bin" / "nestvox", "verify", material / "one.wav", material / "two.wav", "--model", "ge2e"]
    child = subprocess.run(verify, capture_output=True, text=True, check=False, env=environment)
    assert child.returncode == 2
    assert "[torch]" in child.stderr
