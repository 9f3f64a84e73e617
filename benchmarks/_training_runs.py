"""What the training benchmarks share: networks with drawn weights, tasks without validation, memory in use."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nestvox.encoders.contract import Taps
from nestvox.encoders.ge2e import GE2E
from nestvox.encoders.registry import build
from nestvox.heads.trained import TrainedHead
from nestvox.model.speaker_model import SpeakerModel
from nestvox.training.criterion import Criterion
from nestvox.training.loop import TrainingLoop
from nestvox.training.parallel import processes
from nestvox.training.recipe.kinds import LoopRecipe
from nestvox.training.recipe.recipe import parse_recipe
from nestvox.training.task import ParameterGroup, Source, split_decay
from nestvox.training.tasks.head import begin_head
from nestvox.zoo.variants import variant

DIMS = (16, 32, 64, 128, 192)
_STATUS = Path("/proc/self/status")
_MIB = 1 << 20


def drawn_model(name: str) -> SpeakerModel:
    """GE2E or a size of ReDimNet; the weights are not trained ones, and run as long as such."""
    if name == "ge2e":
        torch.manual_seed(0)
        return SpeakerModel(GE2E(), name=name)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "encoders"))
    from keyed_weights import keyed_weights

    described = variant(name)
    encoder = build({"architecture": described.architecture, **described.config})
    encoder.load_state_dict(keyed_weights(encoder.state_dict()))
    return SpeakerModel(encoder, name=name)


def head_recipe(batch_size: int, epochs: int, kind: str = "linear", **sections: Any) -> LoopRecipe:
    """A linear head that begins at random, under a nested AAM-softmax with a classifier of its own at every prefix."""
    content = {
        "kind": kind,
        "head": {"dims": list(DIMS), "start": "random"},
        "loss": {"prototypes": "random"},
        "training": {"epochs": epochs, "batch_size": batch_size, "validate_epochs": max(1, epochs)},
        "run": {"log_steps": 1_000_000, "checkpoint_s": 1e9},
        **sections,
    }
    recipe = parse_recipe(content, "benchmark")
    assert isinstance(recipe, LoopRecipe)
    return recipe


class Unvalidated:
    """A task that learns all of a network that it is told to, and takes no time for validation.

    Args:
        network: maps inputs to embeddings.
        learning: its part that learns.
        recipe: loss, rates and decay.
        classes: training speakers.
    """

    def __init__(self, network: nn.Module, learning: nn.Module, recipe: LoopRecipe, classes: int) -> None:
        self.network = network
        self.criterion = Criterion(recipe.loss, DIMS, classes)
        self.groups: Sequence[ParameterGroup] = [
            *split_decay(learning.parameters(), 1.0, 0.0),
            *split_decay(self.criterion.parameters(), 1.0, 0.0),
        ]
        mine = {id(parameter) for parameter in learning.parameters()}
        self.kept = [name for name, parameter in network.named_parameters() if id(parameter) in mine]
        self.statistics: Sequence[Tensor] = ()
        self.began: list[float] = []

    def begin_epoch(self, epoch: int) -> None:  # noqa: ARG002  all are alike
        """Note the time."""
        self.began.append(time.perf_counter())

    def validate(self) -> Mapping[int, float]:
        """Say the same every time."""
        return dict.fromkeys(DIMS, 0.5)

    def observed(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}


class FrozenNetwork(nn.Module):
    """The usual way: the encoder runs in every epoch, and only the head learns."""

    def __init__(self, model: SpeakerModel, head: TrainedHead) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder.eval(), head

    def forward(self, audio: Tensor) -> Tensor:
        """Map (B, S) to (B, D)."""
        with torch.no_grad():
            taps: Taps = self.encoder(audio)
        embedded: Tensor = self.head(taps.pooled)
        return embedded


class EnoughError(Exception):
    """The steps that were wanted are done."""


def run_loop(
    task: Unvalidated, source: Source, recipe: LoopRecipe, folder: Path, *, seconds: float = float("inf")
) -> tuple[list[float], int]:
    """Train; returns the seconds of each epoch without what comes between them, and the samples of the last one.

    Args:
        task: what is trained.
        source: of batches.
        recipe: how.
        folder: of the run.
        seconds: after which the run ends in the middle of an epoch.
    """
    folder.mkdir(parents=True)
    ended: list[float] = []
    seen = 0

    def progress(done: int, _: int | None) -> None:
        nonlocal seen
        now = time.perf_counter()
        ended[len(task.began) - 1 :] = [now]
        seen = done - (len(task.began) - 1) * source.n
        if now - task.began[0] > seconds:
            raise EnoughError

    with processes("cpu" if not torch.cuda.is_available() else "cuda") as every:
        task.network.to(every.device)
        task.criterion.to(every.device)
        with suppress(EnoughError):
            TrainingLoop(task, source, recipe, folder, every, progress=progress).run()
    return [end - start for start, end in zip(task.began, ended, strict=True)], seen


def drawn_head(model: SpeakerModel, recipe: LoopRecipe) -> TrainedHead:
    """Build the head of a recipe for a model, on its pooled vector."""
    return begin_head(recipe, model, None, None)


class Memory:
    """The most memory that the process has used since the sampling began, in MiB.

    Attributes:
        own: what it allocated (anonymous pages).
        mapped: pages of mapped files that it has touched; the system takes them back when others need the room.
    """

    def __init__(self) -> None:
        self.own = self.mapped = 0.0

    def sample(self) -> None:
        """Look now."""
        if not _STATUS.exists():  # no Linux: both together
            self.own = max(self.own, peak_mib())
            return
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        self.own = max(self.own, int(lines["RssAnon"].split()[0]) / 1024)
        self.mapped = max(self.mapped, int(lines["RssFile"].split()[0]) / 1024)


@contextmanager
def sampled_memory() -> Iterator[Memory]:
    """Sample memory in a thread, 20 times a second."""
    memory, done = Memory(), threading.Event()

    def work() -> None:
        while not done.wait(0.05):
            memory.sample()

    thread = threading.Thread(target=work, daemon=True)
    memory.sample()
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()
        memory.sample()


def peak_mib() -> float:
    """Largest resident set of the process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == "darwin" else 1 << 10)


def in_process(file: str, worker: str, **options: Any) -> dict[str, Any]:
    """Run a worker of a benchmark as a process of its own, so that its memory is its own; it prints JSON."""
    command = [sys.executable, file, "--worker", worker]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    print(f"{worker}: {json.dumps(found)}", file=sys.stderr)
    return found
