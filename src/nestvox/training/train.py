"""`train`: from a recipe to a run folder with a model, its thresholds, and everything that says how it came about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nestvox.atomic import names_in, write_text
from nestvox.corpora.trials import Trials
from nestvox.device import find_device
from nestvox.differences import differences, differences_in_words
from nestvox.errors import ModelError, RecipeError, TrainingError
from nestvox.extras import require
from nestvox.gate import naming, read_text
from nestvox.heads.contract import Head
from nestvox.locking import held
from nestvox.metrics.bootstrap import speaker_bootstrap
from nestvox.metrics.estimate import Estimate, TrialSet
from nestvox.model.loading import load
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Bars, no_bars
from nestvox.scoring.system import System
from nestvox.training.checkpoint import Progressed, read_checkpoint
from nestvox.training.data.development import REPLICATES, Development, of_trials
from nestvox.training.data.material import Material
from nestvox.training.loop import CHECKPOINT_FILE
from nestvox.training.parallel import processes
from nestvox.training.recipe.kinds import DistilRecipe, LoopRecipe, Recipe, ScratchRecipe
from nestvox.training.recipe.recipe import load_recipe
from nestvox.training.run import Finished, Run
from nestvox.training.run_log import Watch
from nestvox.training.tasks.distil import train_student
from nestvox.training.tasks.encoder import DEV_FOLDER, drawn_encoder, train_encoder
from nestvox.training.tasks.head import train_head
from nestvox.training.tasks.rotation import train_rotation

RECIPE_FILE = "recipe.yaml"
RESULT_FILE = "result.json"
MODEL_FOLDER = "model"

_TASKS: Mapping[str, Callable[[Run[Any]], Finished]] = {
    "rotation": train_rotation,
    "head": train_head,
    "encoder": train_encoder,
    "distil": train_student,
}


@dataclass(frozen=True, kw_only=True)
class DevRate(TrialSet):
    """Equal error rates on the development trials at one prefix length, fractions; the best one was chosen by them.

    Attributes:
        dim: prefix length.
        truncated: of the encoder's own embedding, cut; None beyond its size, or where nothing was pretrained.
        start: of the starting point.
        best: of the weights that are kept, with its 95 % interval.
    """

    dim: int
    truncated: float | None
    start: float
    best: Estimate


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of a run.

    Attributes:
        model: the encoder with the best head, and thresholds on the development trials.
        folder: of the run.
        rates: on the development trials, by prefix length.
        best_epoch: 0: the starting point was never beaten.
        epochs: that were run.
        kept: which weights the model has, and why these.
        notes: what was warned of.
        not_set: a sentence on each threshold that the development trials cannot set.
        labels: what every rate must be shown with.
        trials: of development.
        scores: of the model on them, at every prefix length, with the speakers of both sides.
    """

    model: SpeakerModel
    folder: Path
    rates: tuple[DevRate, ...]
    best_epoch: int
    epochs: int
    kept: str
    notes: tuple[str, ...]
    not_set: tuple[str, ...]
    labels: tuple[str, ...]
    trials: Trials
    scores: System


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    start: SpeakerModel | None = None,
    teacher: SpeakerModel | None = None,
    resume: bool = False,
    bars: Bars = no_bars,
    announce: Callable[[str], None] | None = None,
    watch: Watch | None = None,
) -> Trained | None:
    """Run a recipe.

    The folder gets ``recipe.yaml`` (resolved, with its hash), ``metrics.jsonl`` and TensorBoard's ``events``, the
    checkpoint, ``result.json``, and ``model``, which `nestvox.load` reads. With `resume`, a run that was killed goes
    on, and ends with the weights that it would have had; a finished one only writes its results again.

    Args:
        recipe: see `load_recipe`.
        out: folder of the run.
        start: the model to begin with; None: `recipe.start` is loaded.
        teacher: the model to learn from; None: `recipe.teacher` is loaded, where the recipe has one.
        resume: go on with the run that the folder holds, or begin where it holds none.
        bars: opens a display for each phase.
        announce: told before anything is downloaded.
        watch: told of every epoch, and of data that are left out; None: the latter are Python's warnings.

    Returns:
        The result; None in the processes after the first.

    Raises:
        OverlapError: training, development and test share speakers.
        RecipeError: the recipe lacks something, or asks for what the encoder cannot do.
        TrainingError: the folder holds a run and `resume` is false, or another run; or the loss is no number.
        NestvoxError: another process is training in the folder.
    """
    folder = Path(out)
    refuse_what_is_not_here(recipe)
    with ExitStack() as stack:
        every = stack.enter_context(processes(recipe.run.device))
        tell = announce if every.first else lambda _: None
        if start is None and not isinstance(recipe, ScratchRecipe | DistilRecipe):
            if recipe.start is None:
                raise RecipeError("start is missing: a name of `nestvox models list`, or a model folder")
            start = load(recipe.start, device="cpu", announce=tell)
        if teacher is None and isinstance(recipe, LoopRecipe) and recipe.teacher is not None:
            teacher = load(recipe.teacher, device="cpu", announce=tell)
        named = recipe.teachers if isinstance(recipe, DistilRecipe) else {}
        teachers = {name: load(model, device="cpu", announce=tell) for name, model in named.items()}
        if teacher is not None and not (isinstance(recipe, LoopRecipe) and recipe.distils):
            raise RecipeError("teacher: nothing is learned from it, as the recipe distils nothing")
        if isinstance(recipe, LoopRecipe) and recipe.teacher_order == "random":
            like = start if teacher is None else teacher
            assert like is not None
            teacher = with_random_weights(like, recipe.seed)
            teachers = {name: with_random_weights(model, recipe.seed) for name, model in teachers.items()}
        if not every.first:
            bars = no_bars
        else:
            stack.enter_context(held(folder))
            _open_folder(folder, recipe, resume=resume)
        every.wait()
        checkpoint = folder / CHECKPOINT_FILE
        before = read_checkpoint(checkpoint).progressed if checkpoint.is_file() else None
        material = Material.of(recipe, start, teacher, folder, every, teachers=teachers, bars=bars, before=before)
        run = Run(recipe, start, material, folder, every, bars, Watch() if watch is None else watch)
        finished = _TASKS[recipe.task](run)
        return _finish(run, finished) if every.first else None


def with_random_weights(model: SpeakerModel, seed: int) -> SpeakerModel:
    """Build the encoder of a model anew, without what it has learned; a head stays, which then hears nothing it knows.

    Raises:
        ModelError: it is a closed box.
    """
    if "pooled" not in model.encoder.taps:
        raise ModelError(f"teacher_order random: {model.name} is a closed box, of which no other weights can be drawn")
    encoder = drawn_encoder({"architecture": model.encoder.architecture, **model.encoder.config()}, seed)
    return SpeakerModel(encoder.eval(), model.head, name=f"{model.name} with random weights")


def refuse_what_is_not_here(recipe: Recipe) -> None:
    """See to it that a run does not end for want of an extra or of a GPU after hours of work.

    Raises:
        MissingExtraError: it is to be logged to Weights & Biases, and wandb is not installed.
        ModelError: the device of the recipe is not there.
    """
    if isinstance(recipe, LoopRecipe) and recipe.run.wandb is not None:
        require("wandb", extra="wandb", purpose="logging to Weights & Biases (run.wandb)")
    find_device(recipe.run.device)


def _open_folder(folder: Path, recipe: Recipe, *, resume: bool) -> None:
    """Write the recipe into the folder of a run, or see that it holds a run of this recipe."""
    there = folder / RECIPE_FILE
    for left in folder.glob(f"{DEV_FOLDER}*"):  # of a run that was killed while it was validated
        shutil.rmtree(left, ignore_errors=True)
    holds = names_in(folder)
    if holds and RECIPE_FILE not in holds:
        raise TrainingError(f"{folder} is not empty and holds no run; give a new folder")
    if holds in ([], [RECIPE_FILE]):  # a run that was refused before it began leaves its recipe
        write_text(there, recipe.to_yaml())
        return
    if not resume:
        raise TrainingError(f"{folder} holds a run; --resume goes on with it, or give another --out")
    _refuse_other_recipe(there, recipe)


def _refuse_other_recipe(path: Path, recipe: Recipe) -> None:
    """Refuse to go on with another recipe than that of the folder, and name every setting that differs."""
    text = read_text(path, naming(TrainingError))
    first = text.partition("\n")[0]
    if first == f"# recipe {recipe.hash}":
        return
    try:
        before: Mapping[str, Any] = load_recipe(path).decisive()
    except RecipeError as error:  # of another version, or somebody has changed it
        raise TrainingError(f"{path} cannot be compared with this recipe ({error}); give another --out") from error
    shown = differences_in_words(differences(before, recipe.decisive()))
    raise TrainingError(
        f"{path} is of another recipe ({shown or 'of another version of nestvox'}): give the same settings to resume "
        "it, or another --out"
    )


def _finish(run: Run[Any], finished: Finished) -> Trained:
    """Write the model with its thresholds, and the result."""
    recipe, material, folder = run.recipe, run.material, run.folder
    head, dev, progressed = finished.model.head, material.dev, finished.progressed
    assert head is not None
    done = run.described(finished.model)
    done.thresholds, missing = dev.thresholds(done, finished.pairs, material.labels)
    done.save(folder / MODEL_FOLDER)
    trained = Trained(
        model=done,
        folder=folder,
        rates=_rates(finished, head, dev, run.plain_rates(head), tuple(material.labels)),
        best_epoch=progressed.best_epoch,
        epochs=progressed.epoch,
        kept=_kept(recipe, head, progressed),
        notes=finished.notes,
        not_set=missing,
        labels=material.labels,
        trials=dev.trials,
        scores=replace(dev.system(done, finished.pairs, material.labels), speakers=dev.speakers),
    )
    write_text(folder / RESULT_FILE, json.dumps(_result(recipe, trained), indent=2) + "\n")
    return trained


def _kept(recipe: Recipe, head: Head, progressed: Progressed) -> str:
    """Which weights are kept and why, in one sentence."""
    if not isinstance(recipe, LoopRecipe):
        return f"the rotation {head.config().get('method', '')}, which is fitted at once: there are no epochs"
    means = {int(epoch): sum(rates.values()) / len(rates) for epoch, rates in progressed.eers.items()}
    best = progressed.best_epoch
    dims = ", ".join(str(dim) for dim in head.dims)
    if best:
        return (
            f"epoch {best} of {progressed.epoch} epochs: mean EER over {dims} dimensions {100 * means[best]:.2f} % on "
            f"the development trials, of the starting point {100 * means[0]:.2f} %"
        )
    others = {epoch: mean for epoch, mean in means.items() if epoch}
    if not others:
        return f"the starting point, of {progressed.epoch} epochs: training.epochs is {recipe.training.epochs}"
    nearest = min(others, key=lambda epoch: others[epoch])
    before, after = progressed.eers["0"], progressed.eers[str(nearest)]
    by_dim = ", ".join(f"{dim}: {100 * before[dim]:.2f} -> {100 * after[dim]:.2f}" for dim in before)
    return (
        f"the starting point, of {progressed.epoch} epochs: its mean EER over {dims} dimensions is "
        f"{100 * means[0]:.2f} % on the development trials, and the best epoch, {nearest}, has "
        f"{100 * others[nearest]:.2f} % ({by_dim}); weights must be better to be kept"
    )


def _rates(
    finished: Finished, head: Head, dev: Development, plain: Mapping[int, float], labels: tuple[str, ...]
) -> tuple[DevRate, ...]:
    _, codes = np.unique(np.concatenate(dev.speakers), return_inverse=True)
    enrol, test = np.split(codes, 2)
    start = finished.progressed.eers["0"]
    best = finished.pairs.eers(head)
    trials = TrialSet(
        trials_sha256=dev.trials.sha256,
        n_target=int(dev.target.sum()),
        n_nontarget=int((~dev.target).sum()),
        n_clusters=int(codes.max()) + 1,
        labels=labels,
    )
    rates = []
    for dim in head.dims:
        scores = finished.pairs.scores(head, dim)
        interval = speaker_bootstrap(scores, dev.target, enrol, test, n_replicates=REPLICATES).eer
        kept = Estimate(
            name="EER",
            dim=dim,
            value=best[dim],
            low=interval.low,
            high=interval.high,
            interval="percentile",
            trials=trials,
        )
        rates.append(
            DevRate(**trials.trials_to_dict(), dim=dim, truncated=plain.get(dim), start=start[str(dim)], best=kept)
        )
    return tuple(rates)


def _result(recipe: Recipe, trained: Trained) -> dict[str, Any]:
    return {
        "kind": recipe.kind,
        "recipe_hash": recipe.hash,
        "model": trained.model.name,
        "fingerprint": trained.model.fingerprint,
        "best_epoch": trained.best_epoch,
        "epochs": trained.epochs,
        "kept": trained.kept,
        "warnings": list(trained.notes),
        "labels": list(trained.labels),
        "development": {
            **of_trials(trained.trials),
            "interval": f"95 % percentile bootstrap over speakers, {REPLICATES} replicates",
            "note": "the weights were chosen on these trials: report on others",
            "eer": [rate.to_dict() for rate in trained.rates],
            "thresholds_not_set": list(trained.not_set),
        },
        "recipe": recipe.settings(),
    }
