"""Several processes are one: as `torchrun` starts them, on a CPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nestvox.model.speaker_model import SpeakerModel
from nestvox.training.checkpoint import read_checkpoint
from nestvox.training.recipe.recipe import load_recipe
from nestvox.training.train import train

from .conftest import World

SETTINGS = {
    "training.epochs": "2",
    "training.batch_size": "45",  # 200 utterances: 4 batches of 45 and one of 20, shares of 23, 22 and 10
    "training.learning_rate": "0.002",
    "head.dims": "[8,24]",
    "head.start": "pretrained",
    "run.checkpoint_steps": "3",
}


@pytest.fixture(scope="module")
def model_folder(encoder: SpeakerModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    encoder.save(folder)
    return folder


# Beside this interpreter, whether its environment is activated or not.
COMMAND = Path(sys.executable).with_name("nestvox")


def run_two(world: World, model: Path, out: Path, *, torchrun: bool, **changes: str) -> str:
    """What two processes say, which torchrun or we start as it does; it takes as long to import as each of them."""
    arguments = [str(COMMAND), "train", "linear", "--out", str(out), "--set", f"start={model}"]
    for setting in world.settings(**{**SETTINGS, **changes}):
        arguments += ["--set", setting]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    calls = [([*start, *arguments], {})] if torchrun else [(arguments, ranked) for ranked in ranks(2)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    children = [subprocess.Popen(call, env=os.environ | more, **pipes) for call, more in calls]
    said = [child.communicate(timeout=110)[0] for child in children]
    assert not any(child.returncode for child in children), said
    return "".join(said)


def ranks(count: int) -> list[dict[str, str]]:
    """What torchrun tells each of its processes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


@pytest.mark.skipif(not COMMAND.exists(), reason="the command is not installed")
@pytest.mark.parametrize("distill", ["0", pytest.param("1", marks=pytest.mark.slow)], ids=["by-sample", "by-batch"])
def test_two_processes_learn_what_one_does(
    encoder: SpeakerModel, world: World, model_folder: Path, tmp_path: Path, distill: str
) -> None:
    loss = {"loss.distill": distill}
    shown = run_two(world, model_folder, tmp_path / "two", torchrun=distill == "1", **loss)
    assert shown.count("kept: ") == 1, "one process writes and shows"
    alone = load_recipe("linear", world.settings(**{**SETTINGS, **loss}))
    train(alone, tmp_path / "one", start=encoder)
    one, two = (read_checkpoint(tmp_path / name / "checkpoint.safetensors") for name in ("one", "two"))
    assert (one.progressed.world, two.progressed.world) == (1, 2)
    assert one.tensors.keys() == two.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.allclose(tensor, two.tensors[name], rtol=1e-3, atol=2e-5), name
    assert one.progressed.total_steps == two.progressed.total_steps == 10
    logs = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    losses, rates = ([[line[key] for line in log if key in line] for log in logs] for key in ("loss", "dev_eer_mean"))
    assert len(losses[0]) == len(losses[1]) == 2
    assert np.allclose(losses[0], losses[1], rtol=1e-4)
    assert losses[0][0] != losses[0][1], "something was learned"
    assert np.allclose(rates[0], rates[1], atol=0.01)
