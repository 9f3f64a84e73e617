"""Everything that a run needs to go on exactly where it was, in one file that is there whole or not at all.

Tensors are kept by safetensors and numbers as JSON in its header; nothing is pickled. What is a function of seed and
time (learning rate, margin, order, random numbers of a step) is not kept: the time is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, optim

from nestvox.atomic import atomic_path
from nestvox.errors import TrainingError
from nestvox.gate import ErrorMaker, parse_json
from nestvox.schema import Count, Size, validated_dataclass
from nestvox.tensor_files import read_header

_NONE_YET = float("inf")
_FORMAT = "nestvox-checkpoint-2"


@dataclass(frozen=True)
class Origin:
    """One of the things that a run begins with, all of which must be the same when it is resumed.

    Attributes:
        setting: of the recipe, e.g. ``data.dev_trials``.
        identity: equal where the thing is the same.
        words: what it is, for people.
    """

    setting: str
    identity: str
    words: str


@dataclass
class Progressed:
    """How far a run is, and what it found.

    Attributes:
        recipe: hash of the recipe.
        start: what the run began with, each an `Origin` as a mapping.
        epoch: that is under way.
        step: batches of it that are done.
        total_steps: of the optimizer, since the beginning.
        best_epoch: whose weights are kept; 0 is the starting point.
        best_criterion: mean EER over the dimensions, a fraction.
        eers: EER of each dimension on the development trials, by epoch.
        since_best: validations since the best.
        stopped: no better one came for long enough.
        log_bytes: length of the log when this was written; what follows belongs to steps that are done again.
        scaler: state of the gradient scaler (float16).
        world: processes.
        told: sums over the samples of the epoch that is under way, as far as the log has them.
        window: likewise of the first process, over what the log does not have yet.
    """

    recipe: str
    start: list[dict[str, str]] = field(default_factory=list)
    epoch: Count = 0
    step: Count = 0
    total_steps: Count = 0
    best_epoch: Count = 0
    best_criterion: float = _NONE_YET
    eers: dict[str, dict[str, float]] = field(default_factory=dict)
    since_best: Count = 0
    stopped: bool = False
    log_bytes: Count = 0
    scaler: dict[str, Any] = field(default_factory=dict)
    world: Size = 1
    told: list[float] = field(default_factory=list)
    window: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        progressed: the numbers.
        tensors: the arrays, by ``network.``, ``criterion.``, ``optimizer.``, ``average.`` and ``best.`` names.
    """

    progressed: Progressed
    tensors: Mapping[str, Tensor]

    def section(self, name: str) -> dict[str, Tensor]:
        """Tensors whose names begin with ``name.``, without it."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def write(self, path: str | Path) -> None:
        """Write one file, atomically, and force it to the disk."""
        state = {"format": _FORMAT, **asdict(self.progressed)}
        if math.isinf(state["best_criterion"]):  # JSON has no infinity
            state["best_criterion"] = None
        tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in self.tensors.items()}
        with atomic_path(path) as temporary:
            # One entry: safetensors writes several in no fixed order.
            save_file(tensors, temporary, metadata={"checkpoint": json.dumps(state, sort_keys=True)})


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read what `Checkpoint.write` wrote.

    Raises:
        TrainingError: no checkpoint, a damaged one, or one of another version.
    """
    tensors, metadata = read_tensors(path, _refusal)
    state = parse_json(metadata.get("checkpoint", "{}"), str(path), _refusal)
    found = state.pop("format", None) if isinstance(state, dict) else None
    if not str(found).startswith("nestvox-checkpoint-"):
        raise TrainingError(f"{path}: format {str(found)[:80]!r}, expected {_FORMAT!r}")
    if found != _FORMAT or set(state) != {item.name for item in fields(Progressed)}:
        raise TrainingError(f"{path}: written by another version of nestvox; go on with that one, or train anew")
    measured = state["best_criterion"] is not None
    progressed = validated_dataclass(
        Progressed, state if measured else {**state, "best_criterion": 0.0}, str(path), _refusal
    )
    if not measured:
        progressed.best_criterion = _NONE_YET
    return Checkpoint(progressed, tensors)


def read_tensors(path: str | Path, error: ErrorMaker) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Read all tensors of a safetensors file, on the CPU, and its metadata.

    Raises:
        NestvoxError: of `error`: no such file, or a damaged one.
    """
    header = read_header(path, error)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, header.metadata
    except (SafetensorError, OSError, ValueError, RuntimeError) as why:
        raise error(str(why), str(path)) from why


def _refusal(problem: str, source: str) -> TrainingError:
    return TrainingError(f"{source}: not a readable checkpoint ({problem}); delete it and train anew")


def refuse_other_start(folder: Path, there: Progressed, now: Progressed) -> None:
    """Refuse to go on with a run that began otherwise, and name what differs with both values.

    Args:
        folder: of the run.
        there: from its checkpoint.
        now: as it would begin.

    Raises:
        TrainingError: the recipe or the start is another.
    """
    remedy = "give the same settings to resume it, or another --out"
    if there.recipe != now.recipe:
        raise TrainingError(f"{folder} holds a run of another recipe ({there.recipe}, now {now.recipe}): {remedy}")
    before = {origin["setting"]: origin for origin in there.start}
    for origin in now.start:
        old = before.get(origin["setting"], {"identity": "", "words": "nothing"})
        if old["identity"] != origin["identity"]:
            raise TrainingError(
                f"{folder} holds a run of another {origin['setting']}: there {old['words']}, now {origin['words']}; "
                f"{remedy}"
            )


def optimizer_tensors(optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimizer by place of the parameter and name, e.g. ``3.exp_avg``."""
    found = {}
    for place, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                found[f"{place}.{name}"] = value
    return found


def restore_optimizer(optimizer: optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the state of `optimizer_tensors` back, onto the devices of the parameters.

    Raises:
        TrainingError: it is of another number of parameters.
    """
    parameters = _parameters(optimizer)
    for key, value in tensors.items():
        place, _, name = key.partition(".")
        if not re.fullmatch("[0-9]{1,9}", place) or int(place) >= len(parameters):
            raise TrainingError(f"the checkpoint's optimizer has a parameter {place}, this one has {len(parameters)}")
        parameter = parameters[int(place)]
        # Counters stay on the CPU, where the optimizer makes them.
        kept = value.clone() if name == "step" else value.to(parameter.device, copy=True)
        optimizer.state[parameter][name] = kept


def _parameters(optimizer: optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
