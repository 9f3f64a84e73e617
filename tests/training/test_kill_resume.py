"""A run that was stopped anywhere and taken up again ends with the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nestvox.errors import TrainingError
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import no_bars
from nestvox.training.checkpoint import Checkpoint, Progressed, read_checkpoint
from nestvox.training.recipe.kinds import Recipe
from nestvox.training.recipe.recipe import load_recipe
from nestvox.training.train import train

from .conftest import World

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_training.py"
SETTINGS = {
    "training.epochs": "3",
    "training.batch_size": "40",  # 5 steps an epoch
    "training.ema": "0.9",
    "training.margin_warmup_epochs": "1",
    "training.large_margin": "{epochs: 1}",
    "head.dims": "[8,24]",
    "head.dropout": "0.2",
    "head.hidden": "16",
    "head.start": "pretrained",
    "loss.distill": "0.5",
    "run.log_steps": "2",
}


class Killed(BaseException):
    """Like the signal, it passes every handler of errors."""


def recipe_of(world: World, **changes: str) -> Recipe:
    return load_recipe("mlp", world.settings(**{**SETTINGS, "run.checkpoint_steps": "2", **changes}))


def end_of(folder: Path) -> dict[str, object]:
    checkpoint = read_checkpoint(folder / "checkpoint.safetensors")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        **{name: tensor.numpy().tobytes() for name, tensor in checkpoint.tensors.items()},
        "model": (folder / "model" / "model.safetensors").read_bytes(),
        "eers": checkpoint.progressed.eers,
        "steps": [line["step"] for line in lines],
    }


@pytest.fixture(scope="module")
def undisturbed(encoder: SpeakerModel, world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    train(recipe_of(world), out, start=encoder)
    return end_of(out)


def dying_at(writes: int, monkeypatch: pytest.MonkeyPatch, *, before: bool) -> None:
    """The process ends at this checkpoint, just before or just after it is on the disk."""
    write, count = Checkpoint.write, 0

    def counted(self: Checkpoint, path: Path) -> None:
        nonlocal count
        count += 1
        if count == writes and before:
            raise Killed
        write(self, path)
        if count == writes:
            raise Killed

    monkeypatch.setattr(Checkpoint, "write", counted)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("writes", [1, 2, 4, 7])
def test_stopped_around_a_checkpoint(
    encoder: SpeakerModel,
    world: World,
    tmp_path: Path,
    undisturbed: dict[str, object],
    writes: int,
    before: bool,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        dying_at(writes, patch, before=before)
        with pytest.raises(Killed):
            train(recipe_of(world), tmp_path / "run", start=encoder)
    train(recipe_of(world), tmp_path / "run", start=encoder, resume=True)
    assert end_of(tmp_path / "run") == undisturbed


def test_stopped_twice_between_checkpoints(
    encoder: SpeakerModel, world: World, tmp_path: Path, undisturbed: dict[str, object]
) -> None:
    class Bars:
        """Ends the process when so many samples have been seen."""

        def __init__(self, last: int) -> None:
            self.last = last

        def __call__(self, description: str, unit: str) -> Bars:
            return self

        def __enter__(self) -> object:
            return self.report

        def __exit__(self, *_: object) -> None: ...

        def report(self, done: int, total: int | None) -> None:
            if total == 600 and done >= self.last:
                raise Killed

    for last in (120, 440):  # steps 3 and 11 of 15
        with pytest.raises(Killed):
            train(recipe_of(world), tmp_path / "run", start=encoder, resume=True, bars=Bars(last))
    train(recipe_of(world), tmp_path / "run", start=encoder, resume=True, bars=no_bars)
    assert end_of(tmp_path / "run") == undisturbed


def test_how_often_checkpoints_are_written_changes_nothing(
    encoder: SpeakerModel, world: World, tmp_path: Path, undisturbed: dict[str, object]
) -> None:
    train(recipe_of(world, **{"run.checkpoint_steps": "1"}), tmp_path / "run", start=encoder)
    assert end_of(tmp_path / "run") == undisturbed


def test_what_a_killed_run_was_writing_is_cleared(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    left = tmp_path / "run" / ".checkpoint-abc.partial.safetensors"
    left.parent.mkdir()
    left.write_bytes(b"half")
    train(recipe_of(world), tmp_path / "run", start=encoder, resume=True)
    assert not left.exists()


def test_vectors_of_a_killed_validation_are_cleared(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    left = tmp_path / "run" / ".dev-abc" / "store" / "shard-000000.arrow"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    train(recipe_of(world), tmp_path / "run", start=encoder)
    assert not (tmp_path / "run" / ".dev-abc").exists()


def test_a_damaged_checkpoint_is_named(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    train(recipe_of(world), tmp_path / "run", start=encoder)
    path = tmp_path / "run" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"checkpoint\.safetensors: not a readable checkpoint"):
        train(recipe_of(world), tmp_path / "run", start=encoder, resume=True)


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    tensors = {
        "network.weight": torch.randn(3, 2),
        "network.count": torch.tensor(7),
        "optimizer.0.step": torch.tensor(3.0),
        "best.half": torch.randn(4).bfloat16(),
    }
    start = [{"setting": "model", "identity": "n", "words": "somebody's"}]
    sums = {"told": [40.0, 1.5], "window": [8.0, 0.25]}
    progressed = Progressed("r", start, epoch=2, step=1, eers={"0": {"8": 0.25}}, best_criterion=0.25, **sums)
    Checkpoint(progressed, tensors).write(tmp_path / "c.safetensors")
    again = read_checkpoint(tmp_path / "c.safetensors")
    assert again.progressed == progressed
    assert set(again.section("network")) == {"weight", "count"}
    for name, tensor in tensors.items():
        assert again.tensors[name].dtype == tensor.dtype
        assert torch.equal(again.tensors[name], tensor)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="the script forks")
def test_twenty_kills(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARK), "--kills", "20", "--json", str(tmp_path / "report.json")]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout + child.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["kills"] == 20
    assert report["killed mid-epoch"] > 0
    assert report["runs_different"] == 0
