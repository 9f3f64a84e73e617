"""Learning rate, margin and active dimensions as functions of how far a run is: nothing to keep, nothing to restore.

Time is counted in epochs as a real number: 2.5 is the middle of the third.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nestvox.training.recipe.kinds import LoopRecipe
from nestvox.training.recipe.learning import LongMargin, Prototypes, Stage, TrainingSection, Triplets


@dataclass(frozen=True)
class Schedule:
    """What changes while a run goes on.

    Attributes:
        training: the section of the recipe.
        margin: of the loss at the end of its warm-up; 0 where it has none.
        stages: of the recipe.
    """

    training: TrainingSection
    margin: float
    stages: tuple[Stage, ...] = ()

    @classmethod
    def of(cls, recipe: LoopRecipe) -> Schedule:
        """Take the parts of a recipe."""
        margin = recipe.loss.margin if isinstance(recipe.loss, Prototypes | Triplets) else 0.0
        return cls(recipe.training, margin, recipe.stages)

    def rate(self, time: float) -> float:
        """Learning rate at a time in epochs; `min_learning_rate` is never undercut once the warm-up is over."""
        training = self.training
        top, bottom = training.learning_rate, min(training.min_learning_rate, training.learning_rate)
        warmup = training.warmup_epochs
        if time < warmup:
            return top * time / warmup
        since = time - warmup
        if training.schedule == "constant":
            return top
        if training.schedule == "step":
            return max(bottom, top * math.pow(training.gamma, since // training.step_epochs))
        if training.schedule == "exponential":
            return max(bottom, top * math.pow(training.gamma, since))
        span = training.epochs - warmup
        share = min(1.0, since / span) if span > 0 else 1.0
        return bottom + (top - bottom) * (1 + math.cos(math.pi * share)) / 2

    def in_large_margin(self, epoch: int) -> bool:
        """Whether an epoch belongs to the large-margin stage."""
        large = self.training.large_margin
        return large is not None and epoch >= self.training.epochs - large.epochs

    def margin_at(self, time: float) -> float:
        """Margin at a time in epochs."""
        large = self.training.large_margin
        if large is not None and self.in_large_margin(int(time)):
            return large.margin
        warmup = self.training.margin_warmup_epochs
        return self.margin if time >= warmup else self.margin * time / warmup

    def crop_s(self, epoch: int, usual: float | None) -> float | None:
        """Seconds of a training clip in an epoch."""
        large = self.training.large_margin
        if isinstance(large, LongMargin) and large.crop_s is not None and self.in_large_margin(epoch):
            return large.crop_s
        return usual

    def dims(self, epoch: int, every: tuple[int, ...]) -> tuple[int, ...]:
        """Prefix lengths in the loss in an epoch; where no stage says, all."""
        named = [stage.dims for stage in self.stages if stage.epoch <= epoch and stage.dims is not None]
        return tuple(sorted(named[-1])) if named else every
