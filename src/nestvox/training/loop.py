"""The loop that trains: the same one for cached vectors and for audio.

It knows a *task* (a network, a criterion, which tensors learn, how it is validated) and a *source* of batches; where
these come from is not its business. Learning rate, margin, order and random numbers of every step are functions of
seed and time, so that a run that was killed at any point and is taken up from its last checkpoint ends with the same
bits (on a CPU; on a GPU up to what its kernels guarantee).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn, optim

from nestvox.encoders.runtime.backends import cpu_computes
from nestvox.errors import TrainingError
from nestvox.losses.nested import NestedTerms
from nestvox.progress import Progress, silent
from nestvox.training.checkpoint import (
    Checkpoint,
    Origin,
    Progressed,
    optimizer_tensors,
    read_checkpoint,
    refuse_other_start,
    restore_optimizer,
)
from nestvox.training.data.batches import Batch, MicroBatch
from nestvox.training.parallel import Processes
from nestvox.training.recipe.kinds import LoopRecipe
from nestvox.training.run_log import EpochReport, RunLog, Watch
from nestvox.training.task import ParameterGroup, Source, Task

_SLOW_BFLOAT16 = (
    "training.precision bfloat16: this processor does not compute in it and converts every number, which takes several "
    "times as long as float32; set training.precision: float32"
)

CHECKPOINT_FILE = "checkpoint.safetensors"

_T = TypeVar("_T")

_RUN_AWAY = 1e15  # its square is still a number in single precision


class TrainingLoop:
    """Trains a task until its recipe says stop, and keeps the best weights.

    Args:
        task: what is trained.
        source: of batches.
        recipe: how.
        folder: of the run, which has the checkpoint and the log; it exists.
        processes: of the run.
        start: what the run begins with and on what data; a checkpoint of another start is refused by its name.
        about: what the log says of the run before its first epoch; ``labels`` stand with every rate.
        progress: told the samples seen of all.
        watch: told every epoch.
        keep_epoch: called with the number of an epoch that is done, while its weights (their average, where there is
            one) are in the network; the first process only.

    Raises:
        RecipeError: a stage names dims that the head does not have.
        TrainingError: float16 on a CPU.
    """

    def __init__(
        self,
        task: Task,
        source: Source,
        recipe: LoopRecipe,
        folder: str | Path,
        processes: Processes,
        *,
        start: Sequence[Origin] = (),
        about: Mapping[str, Any] | None = None,
        progress: Progress = silent,
        watch: Watch | None = None,
        keep_epoch: Callable[[int], None] | None = None,
    ) -> None:
        self.task = task
        self.source = source
        self.recipe = recipe
        self.folder = Path(folder)
        self.processes = processes
        self.about = dict(about or {})
        self.progress = progress
        self.watch = Watch() if watch is None else watch
        self.keep_epoch = keep_epoch
        self.schedule = recipe.schedule
        for stage in recipe.stages:  # now, and not when the stage begins
            task.criterion.check_dims(stage.dims or ())
        self.progressed = Progressed(recipe.hash, [asdict(origin) for origin in start], world=processes.world)
        self.optimizer = _optimizer(task.groups, recipe)
        precision = recipe.training.precision
        if precision == "float16" and processes.device.type != "cuda":
            raise TrainingError("training.precision float16 is for a GPU; on a CPU take bfloat16 or float32")
        slow = precision == "bfloat16" and processes.device.type == "cpu" and not cpu_computes("bfloat16")
        if slow and processes.first:
            self.watch.warn(_SLOW_BFLOAT16)
        self._dtype = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
        self._scaler = torch.amp.GradScaler(processes.device.type, enabled=precision == "float16")
        state = task.network.state_dict(keep_vars=True)
        self._state = {name: state[name].detach() for name in task.kept}  # shares memory with the network
        self._average = self._copied() if recipe.training.ema is not None else {}
        self._best = self._copied()
        self._written_at = time.monotonic()
        self._log: RunLog | None = None
        self._window = self._nothing()  # sums over this process's samples that the log does not have yet
        self._epochs_s: list[float] = []

    def run(self) -> Progressed:
        """Train from the beginning or from the folder's checkpoint; at the end the best weights are in the network.

        Raises:
            TrainingError: the checkpoint is of another recipe or start, or the loss is no number.
        """
        path = self.folder / CHECKPOINT_FILE
        resumed = path.is_file()
        if resumed:
            self._restore(read_checkpoint(path))
        devices = [self.processes.device] if self.processes.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            self._open_log()
            try:
                if not resumed:
                    record = {"epoch": 0, **self.about, **self._validate()}
                    self._report(record, EpochReport(0, self.recipe.training.epochs))
                    self._write()
                self._epochs()
            finally:
                if self._log is not None:
                    self._log.close()
        self._load(self._best)
        return self.progressed

    def _epochs(self) -> None:
        training = self.recipe.training
        while self.progressed.epoch < training.epochs and not self.progressed.stopped:
            epoch, began = self.progressed.epoch, time.monotonic()
            self.task.begin_epoch(epoch)
            self.task.criterion.set_dims(self.schedule.dims(epoch, self.task.criterion.dims))
            self._epoch(epoch)
            self.progressed.epoch, self.progressed.step = epoch + 1, 0
            due = (epoch + 1) % training.validate_epochs == 0 or epoch + 1 == training.epochs
            found = self._validate() if due else {}
            if self.processes.first and self.keep_epoch is not None:
                self._with(self._average or self._state, partial(self.keep_epoch, epoch + 1))
            self._epochs_s.append(time.monotonic() - began)
            self._end_epoch(epoch, found)
            self._write()

    def _epoch(self, epoch: int) -> None:
        run, steps = self.recipe.run, self.source.steps(epoch)
        began, steps_then = time.monotonic(), self.progressed.step
        for batch in self.source.batches(epoch, self.progressed.step):
            moment = epoch + (self.progressed.step + 0.5) / steps
            self._window += self._step(batch, moment)
            self.progressed.step += 1
            self.progressed.total_steps += 1
            if (seen := self.task.observed()) and self._log is not None:
                self._log.write(self.progressed.total_steps, {"epoch": round(moment, 6), **seen})
            done = epoch + self.progressed.step / steps
            self.progress(round(done * self.source.n), self.recipe.training.epochs * self.source.n)
            last = self.progressed.step == steps
            if self.progressed.total_steps % run.log_steps == 0 or last:
                self._tell(moment, (self.progressed.step - steps_then) / (time.monotonic() - began))
                began, steps_then = time.monotonic(), self.progressed.step
            due = run.checkpoint_steps is not None and self.progressed.total_steps % run.checkpoint_steps == 0
            if not last and (due or time.monotonic() - self._written_at > run.checkpoint_s):
                self._write()

    def _end_epoch(self, epoch: int, found: Mapping[str, Any]) -> None:
        """Log and report an epoch that is over, with what its validation found."""
        count, loss, repeated, *others = self.progressed.told or [0.0, 0.0, 0.0]
        self.progressed.told = []
        if not self.processes.first:
            return
        seen, seconds, epochs = self.source.seen(epoch), self._epochs_s[-1], self.recipe.training.epochs
        record = {"epoch": epoch + 1, "seen": asdict(seen), "epoch_s": round(seconds, 3), **found}
        if count:
            record["epoch_loss"] = loss / count
            named = zip(self.task.criterion.series, others[len(self.task.criterion.dims) :], strict=True)
            record |= {f"epoch_{name}": value / count for name, value in named}
        if repeated:
            record["repeated_clips"] = round(repeated)
        report = EpochReport(
            epoch + 1,
            epochs,
            loss / count if count else None,
            best_epoch=self.progressed.best_epoch,
            seen=seen,
            n_repeated=round(repeated),
            seconds=seconds,
            left_s=(epochs - epoch - 1) * sum(self._epochs_s) / len(self._epochs_s),
        )
        self._report(record, report)

    def _report(self, record: Mapping[str, Any], report: EpochReport) -> None:
        if self._log is None:
            return
        self._log.write(self.progressed.total_steps, record)
        eers = {int(dim): rate for dim, rate in record.get("dev_eer", {}).items()}
        self.watch.epoch(replace(report, eers=eers, labels=tuple(self.about.get("labels", ()))))

    def _step(self, batch: Batch, moment: float) -> Tensor:
        """Take one step; returns this process's sums over samples: see `_nothing`."""
        task = self.task
        rate = self.schedule.rate(moment)
        for settings, group in zip(self.optimizer.param_groups, task.groups, strict=True):
            settings["lr"] = rate * group.scale
        task.criterion.set_margin(self.schedule.margin_at(moment))
        torch.manual_seed(_seed(self.recipe.seed, self.progressed.total_steps, self.processes.rank))
        self.optimizer.zero_grad(set_to_none=True)
        seen = self._nothing()
        parameters = [parameter for group in task.groups for parameter in group.parameters]
        if task.criterion.relational:
            self._backward_together(batch, seen)
        else:
            for part in batch.parts:
                self._backward(part, len(part.labels) / batch.n, seen)
        self.processes.sum_gradients(parameters)
        if self.recipe.training.max_grad_norm is not None:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(parameters, self.recipe.training.max_grad_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.processes.average(task.statistics)
        decay = self.recipe.training.ema
        for name, average in self._average.items():
            if average.is_floating_point() and decay is not None:
                average.lerp_(self._state[name], 1 - decay)
            else:
                average.copy_(self._state[name])
        return seen

    def _backward(self, part: MicroBatch, share: float, seen: Tensor) -> None:
        """Add the gradient of a micro-batch: its share of the mean over the whole batch."""
        terms = self.task.criterion(self._embed(part.inputs), part.labels, part.teacher)
        self._scaler.scale(terms.total * share).backward()
        self._count(terms, part, seen)

    def _backward_together(self, batch: Batch, seen: Tensor) -> None:
        """Add the gradient of a loss over all clips of all processes: each hands on its own clips' part of it."""
        parts = list(batch.parts)
        if len(parts) != 1:
            raise TrainingError(
                f"this loss compares the clips of a batch with each other; a process has {len(parts)} parts of one: "
                "leave training.micro_batch out, and give batches of several samples for each process"
            )
        part, gather = parts[0], self.processes.gather
        teacher = None if part.teacher is None else gather(part.teacher)
        embedding, more = gather(self._embed(part.inputs)), {}
        if part.layers is not None:
            own = cast("Mapping[str, Tensor]", self.task.network.layers)
            more["layers"] = tuple({name: gather(one) for name, one in side.items()} for side in (own, part.layers))
        terms = self.task.criterion(embedding, gather(part.labels), teacher, **more)
        self._scaler.scale(terms.total).backward()
        # Every process found the whole gradient of the criterion's own parameters; they are about to be summed.
        for parameter in self.task.criterion.parameters():
            if parameter.grad is not None:
                parameter.grad /= self.processes.world
        self._count(terms, part, seen)

    def _embed(self, inputs: Tensor) -> Tensor:
        with torch.autocast(self.processes.device.type, dtype=self._dtype, enabled=self._dtype is not None):
            try:
                embedding: Tensor = self.task.network(inputs)
            except ValueError as error:
                if len(inputs) == 1 and "more than 1 value per channel" in str(error):
                    raise TrainingError(
                        "batch normalisation has nothing to normalise in a part of one sample: give a larger "
                        "training.batch_size or training.micro_batch, or fewer processes, or take head.norm fixed"
                    ) from error
                raise
        return embedding.float()

    def _nothing(self) -> Tensor:
        """Sums over no samples: how many, loss, how many were repeated to fill a clip, each dimension, each series."""
        criterion = self.task.criterion
        return torch.zeros(3 + len(criterion.dims) + len(criterion.series), device=self.processes.device)

    def _count(self, terms: NestedTerms, part: MicroBatch, seen: Tensor) -> None:
        by_dim = [terms.per_dim.get(dim, terms.total.new_zeros(())) for dim in self.task.criterion.dims]
        by_dim += [terms.parts[name] for name in self.task.criterion.series]
        n = len(part.labels)
        repeated = terms.total.new_tensor(part.n_repeated / n)
        seen += n * torch.stack([terms.total.new_ones(()), terms.total, repeated, *by_dim]).detach()

    def _tell(self, moment: float, steps_per_s: float) -> None:
        """Log the means since the last line; every process takes part in the sums."""
        sums = self.processes.sum(self._window).tolist()
        self._window.zero_()
        self.progressed.told = [a + b for a, b in zip(self.progressed.told or [0.0] * len(sums), sums, strict=True)]
        count, loss, _, *others = sums
        criterion = self.task.criterion
        by_dim, by_name = others[: len(criterion.dims)], others[len(criterion.dims) :]
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} in epoch {moment:.2f}; {_remedy(self.recipe)}")
        if self._log is None or not count:
            return
        self._log.write(
            self.progressed.total_steps,
            {
                "epoch": round(moment, 6),
                "loss": loss / count,
                "loss_of": {str(d): value / count for d, value in zip(criterion.dims, by_dim, strict=True) if value},
                **{name: value / count for name, value in zip(criterion.series, by_name, strict=True)},
                "learning_rate": self.schedule.rate(moment),
                "margin": self.schedule.margin_at(moment),
                "samples_per_s": steps_per_s * self.recipe.training.batch,
            },
        )

    def _validate(self) -> dict[str, Any]:
        """Measure the weights (their average, where there is one) and keep them if they are the best so far.

        Returns:
            What the log says of it.
        """
        progressed, state = self.progressed, self._average or self._state
        _refuse_broken(state, self.recipe)
        numbers: list[float] = []
        dims = self.task.criterion.dims
        if self.processes.first:
            eers = self._with(state, self.task.validate)
            numbers = [eers[dim] for dim in dims]
        numbers = self.processes.from_first(numbers or [0.0] * len(dims))
        criterion = sum(numbers) / len(numbers)
        progressed.eers[str(progressed.epoch)] = {str(d): rate for d, rate in zip(dims, numbers, strict=True)}
        progressed.since_best += 1
        if criterion < progressed.best_criterion:
            progressed.best_epoch, progressed.best_criterion, progressed.since_best = progressed.epoch, criterion, 0
            self._best = {name: tensor.clone() for name, tensor in state.items()}
        patience = self.recipe.training.patience
        progressed.stopped = patience is not None and progressed.since_best >= patience
        return {
            "dev_eer": progressed.eers[str(progressed.epoch)],
            "dev_eer_mean": criterion,
            "best_epoch": progressed.best_epoch,
            **self.task.observed(),
        }

    def _with(self, state: Mapping[str, Tensor], work: Callable[[], _T]) -> _T:
        """Do something while other weights are in the network."""
        weights = self._copied()
        self._load(state)
        found = work()
        self._load(weights)
        return found

    def _write(self) -> None:
        self._written_at = time.monotonic()
        if not self.processes.first:
            return
        criterion = {name: tensor.detach() for name, tensor in self.task.criterion.state_dict().items()}
        sections: dict[str, Mapping[str, Tensor]] = {
            "network": self._state,
            "criterion": criterion,
            "optimizer": optimizer_tensors(self.optimizer),
            "average": self._average,
            "best": self._best,
        }
        tensors = {f"{section}.{name}": tensor for section, found in sections.items() for name, tensor in found.items()}
        _refuse_broken(tensors, self.recipe)
        scaler: dict[str, Any] = self._scaler.state_dict()
        log_bytes = self._log.n_bytes if self._log is not None else 0
        window = self._window.tolist() if self.progressed.step else []
        now = replace(self.progressed, scaler=scaler, log_bytes=log_bytes, window=window)
        Checkpoint(now, tensors).write(self.folder / CHECKPOINT_FILE)

    def _restore(self, checkpoint: Checkpoint) -> None:
        there, mine = checkpoint.progressed, self.progressed
        refuse_other_start(self.folder, there, mine)
        self.progressed = replace(there, world=self.processes.world)
        if there.window and self.processes.first:
            self._window.copy_(torch.tensor(there.window))
        self._load(checkpoint.section("network"))
        self.task.criterion.load_state_dict(checkpoint.section("criterion"))
        restore_optimizer(self.optimizer, checkpoint.section("optimizer"))
        for kept, name in ((self._average, "average"), (self._best, "best")):
            for key, tensor in checkpoint.section(name).items():
                kept[key].copy_(tensor)
        self._scaler.load_state_dict(there.scaler)

    def _open_log(self) -> None:
        if not self.processes.first:
            return
        run = self.recipe.run
        self._log = RunLog(
            self.folder,
            self.progressed.log_bytes,
            wandb=run.wandb,
            run_id=_digest(f"{self.folder.resolve()} {self.recipe.hash}"),
            settings=self.recipe.settings(),
        )

    def _copied(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._state.items()}

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        if set(tensors) != set(self._state):
            raise TrainingError(f"{self.folder}: the checkpoint is of another network; give another --out")
        for name, tensor in tensors.items():
            self._state[name].copy_(tensor)


def _remedy(recipe: LoopRecipe) -> str:
    training = recipe.training
    remedies = ["lower training.learning_rate"]
    if training.max_grad_norm is None:
        remedies.append("clip gradients with training.max_grad_norm")
    if training.precision != "float32":
        remedies.append("take training.precision float32")
    return f"{', or '.join(remedies)}. That is another run, with another --out; resuming this one repeats it"


def _refuse_broken(tensors: Mapping[str, Tensor], recipe: LoopRecipe) -> None:
    # Not a number fails the comparison too.
    broken = [name for name, tensor in tensors.items() if not bool((tensor.abs() < _RUN_AWAY).all())]
    if broken:
        raise TrainingError(f"{broken[0]} has run away or is no number; {_remedy(recipe)}")


def _optimizer(groups: Sequence[ParameterGroup], recipe: LoopRecipe) -> optim.Optimizer:
    training = recipe.training
    settings = [{"params": list(group.parameters), "weight_decay": group.weight_decay} for group in groups]
    if training.optimizer == "sgd":
        return optim.SGD(settings, lr=training.learning_rate, momentum=training.momentum)
    return optim.AdamW(settings, lr=training.learning_rate, betas=training.betas)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _seed(seed: int, step: int, rank: int) -> int:
    """Of the random numbers of a step (dropout), so that there is no state to keep."""
    return int(_digest(f"{seed} {step} {rank}"), 16) % 2**63
