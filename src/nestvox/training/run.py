"""A run: what it is made from, what it is called, what it tells; and its end, before it is written down."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from nestvox.corpora.overlap import speaker_key
from nestvox.heads.contract import Head
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.rotation import truncation
from nestvox.model.folder import CONFIG_FILE
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Bars
from nestvox.training.checkpoint import Progressed
from nestvox.training.data.batches import OrderedSource
from nestvox.training.data.development import of_trials
from nestvox.training.data.material import Material
from nestvox.training.loop import TrainingLoop
from nestvox.training.parallel import Processes
from nestvox.training.recipe.kinds import LoopRecipe, Recipe
from nestvox.training.run_log import Watch
from nestvox.training.task import Task

_EPOCHS_FOLDER = "checkpoints"
_EPOCH = re.compile(r"epoch_(\d+)")

_Recipe_co = TypeVar("_Recipe_co", bound=Recipe, covariant=True)


@dataclass(frozen=True, eq=False)
class Finished:
    """A run's end.

    Attributes:
        model: encoder and head, without thresholds.
        pairs: development trials on the vectors that the head takes.
        progressed: counts and rates of the loop.
        notes: what was warned of.
    """

    model: SpeakerModel
    pairs: LabelledPairs
    progressed: Progressed
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Run(Generic[_Recipe_co]):
    """What a task is given.

    Attributes:
        recipe: of one kind.
        start: the model that it begins with; None: random weights.
        material: utterances, trials and features.
        folder: which has the log, the checkpoint and at the end the model.
        processes: that share the work.
        bars: opens a display for each phase.
        watch: told of every epoch, and of data that are left out.
    """

    recipe: _Recipe_co
    start: SpeakerModel | None
    material: Material
    folder: Path
    processes: Processes
    bars: Bars
    watch: Watch

    def warned(self, notes: Sequence[str] = ()) -> tuple[str, ...]:
        """Tell what of the data is left out, and these notes, in the first process; return both."""
        found = (*self.material.notes, *notes)
        for note in found if self.processes.first else ():
            self.watch.warn(note)
        return found

    def loop(
        self: Run[LoopRecipe],
        task: Task,
        source: OrderedSource,
        title: str,
        *,
        began_with: str,
        copied: Callable[[], SpeakerModel],
    ) -> tuple[Progressed, tuple[str, ...]]:
        """Train a task; at the end its best weights are in its network.

        Args:
            task: what is trained.
            source: of batches.
            title: of the display.
            began_with: fingerprint of encoder and head.
            copied: copies both as they are, for the models of epochs.

        Returns:
            Counts and rates, and what was warned of.
        """
        recipe = self.recipe
        notes = self.warned(source.notes)
        every = recipe.run.save_interval

        def keep(epoch: int) -> None:
            if every is not None and epoch % every == 0:
                keep_epoch_model(self.folder, epoch, self.described(copied(), epoch=epoch), recipe.run.keep_last_n)

        about = {
            "epochs": recipe.training.epochs,
            "labels": list(self.material.labels),
            "warnings": list(notes),
            "development": of_trials(self.material.dev.trials),
        }
        with self.bars(title, "samples") as progress:
            loop = TrainingLoop(
                task,
                source,
                recipe,
                self.folder,
                self.processes,
                start=self.material.origins(self.start, began_with),
                about=about,
                progress=progress,
                watch=self.watch,
                keep_epoch=None if every is None else keep,
            )
            return loop.run(), notes

    def plain_rates(self, head: Head) -> dict[int, float]:
        """EER of the embedding that the run begins with, cut to each prefix length of a head that it has."""
        if self.material.dev_cache is None:
            return {}
        pairs = self.material.dev_pairs("embedding")
        size = pairs.vectors.shape[1]
        found = pairs.eers(truncation(size, [dim for dim in head.dims if dim <= size] or None))
        return {dim: rate for dim, rate in found.items() if dim in head.dims}

    def described(self, model: SpeakerModel, *, epoch: int | None = None) -> SpeakerModel:
        """Give a model of the run its name, the speakers that it must not be reported on, and its card.

        Args:
            model: encoder and head.
            epoch: whose weights these are; None: the best, which the development trials chose.
        """
        recipe, material, given = self.recipe, self.material, self.start
        before = () if given is None else given.training_speakers
        card: dict[str, Any] = {} if given is None else dict(given.card)
        how = f"chosen on {material.dev.trials.source}" if epoch is None else f"epoch {epoch}"
        card |= {
            "head_data": f"{material.n_train} utterances, recipe {recipe.kind} {recipe.hash}, {how}",
            # Whoever takes one epoch for its rates in the log has chosen it on these trials too.
            "chosen_on": sorted({material.dev.trials.sha256, *card.get("chosen_on", ())}),
        }
        name = recipe.run.name or f"{'scratch' if given is None else given.name}-{recipe.kind}"
        return SpeakerModel(
            model.encoder,
            model.head,
            name if epoch is None else f"{name}-epoch-{epoch}",
            thresholds=model.thresholds,
            training_speakers=tuple(sorted({*map(speaker_key, material.speakers), *before})),
            card=card,
        )


def keep_epoch_model(folder: Path, epoch: int, model: SpeakerModel, keep_last: int | None) -> None:
    """Write ``checkpoints/epoch_14`` and ``checkpoints/latest``, and remove those that are too old.

    Each is a model folder, which `nestvox.load` and every command take, so that two epochs of one run can be compared.
    It holds the weights that the epoch was validated with, and no thresholds.

    Args:
        folder: of the run.
        epoch: that is done.
        model: with its weights.
        keep_last: the newest that are kept; None: all.
    """
    folder /= _EPOCHS_FOLDER
    for name in (f"epoch_{epoch}", "latest"):
        model.save(folder / name)
    if keep_last is None:
        return
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _EPOCH.fullmatch(path.name))]
    for _, old in sorted(entry for entry in found if entry[0] <= epoch)[:-keep_last]:
        (old / CONFIG_FILE).unlink(missing_ok=True)  # first: what is left of a killed removal is no model
        shutil.rmtree(old, ignore_errors=True)
