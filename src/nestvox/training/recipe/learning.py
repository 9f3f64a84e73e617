"""How a recipe learns: what is minimised, and the run of the optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from nestvox.training.recipe.sections import (
    MOST_EPOCHS,
    MOST_LISTED,
    MOST_SAMPLES,
    Crop,
    Dim,
    Dims,
    Epoch,
    Epochs,
    Factor,
    Fraction,
    Positive,
    PositiveFactor,
    Real,
    Samples,
    Section,
    Text,
    Whole,
    kind_or,
)

Precision = Literal["float32", "bfloat16", "float16"]


class LossSection(Section):
    """What is minimised: a loss over speakers, a distillation, or both.

    Attributes:
        kind: a classification loss with prototypes, or a pairwise one.
        weights: dimension to weight; none: all alike.
        weight: of the loss over speakers; 0 leaves distillation alone.
        distill: weight of the distance of every prefix to the teacher's embedding of the clean utterance, where
            something pretrained goes on learning; what begins at random weights has kind distil.
        distill_terms: factors of `losses.distillation.PrefixDistillation`.
        distill_target: what a prefix of d numbers is held against: the teacher's embedding in ``full``, or
            ``truncated`` to its first d numbers, where the teacher is nested itself.
    """

    kind: str
    weights: Annotated[dict[Dim, PositiveFactor], Field(max_length=64)] | None = None
    weight: Factor = 1.0
    distill: Factor = 0.0
    distill_terms: dict[Literal["similarity", "correlation", "neighbours", "cosine", "temperature"], Factor] = Field(
        default_factory=dict
    )
    distill_target: Literal["full", "truncated"] = "full"

    @model_validator(mode="after")
    def _learns_from_something(self) -> Self:
        if not self.weight and not self.distill:
            raise ValueError("weight and distill are both 0, nothing would be learned")
        if not self.distill:
            self.refuse_idle("loss.distill is 0", "distill_terms", "distill_target")
        if "temperature" in self.distill_terms and not self.distill_terms.get("neighbours"):
            raise ValueError("distill_terms.temperature has no effect: it is of the term neighbours, whose factor is 0")
        if not self.weight:
            idle = ("kind", "prototypes", "classifier", "margin", "scale", "easy_margin", "sub_centers", "mining")
            self.refuse_idle(
                "loss.weight is 0: distillation alone is learned from",
                *(key for key in idle if key in type(self).model_fields),
            )
        return self


def check_angle(margin: float) -> float:
    """Return a margin that is an angle.

    Raises:
        ValueError: it is pi or more.
    """
    if margin >= math.pi:
        raise ValueError(f"an angle in radians, below pi, got {margin:g}")
    return margin


class Prototypes(LossSection):
    """A classification of speakers.

    Attributes:
        margin: of the loss, at the end of its warm-up.
        scale: of the cosine.
        prototypes: begin at the speakers' ``means`` under the first head, or ``random``.
        classifier: every dimension has ``own`` prototypes, or sees the first columns of ``shared`` ones.
    """

    margin: Factor = 0.2
    scale: PositiveFactor = 30.0
    prototypes: Literal["means", "random"] = "means"
    classifier: Literal["own", "shared"] = "own"


class Additive(Prototypes):
    """A classification whose margin is taken from the cosine."""

    kind: Literal["am", "sphereface2"]


class AngularMargin(Prototypes):
    """A classification whose margin is an angle in radians.

    Attributes:
        easy_margin: a margin only for embeddings nearer than 90 degrees to their speaker.
    """

    margin: Annotated[Factor, AfterValidator(check_angle)] = 0.2
    easy_margin: bool = False


class OneCenter(AngularMargin):
    """The same with one prototype a speaker."""

    kind: Literal["aam"] = "aam"


class SubCenters(AngularMargin):
    """The same with several prototypes a speaker.

    Attributes:
        sub_centers: so many.
    """

    kind: Literal["subcenter"]
    sub_centers: Annotated[Whole, Field(gt=0, le=100)] = 3


class Pairwise(LossSection):
    """A comparison of the clips of a batch with each other."""

    kind: Literal["angular", "prototypical"]


class Triplets(LossSection):
    """The same with a margin.

    Attributes:
        margin: of the loss, at the end of its warm-up.
        mining: which triplets count.
    """

    kind: Literal["triplet"]
    margin: Factor = 0.2
    mining: Literal["hard", "semi-hard", "all"] = "semi-hard"


AnyLoss = Annotated[
    OneCenter | Additive | SubCenters | Pairwise | Triplets, Field(discriminator="kind"), kind_or("aam")
]


TermKind = Literal[
    "angles",
    "attention",
    "bottleneck",
    "correlation",
    "cosine",
    "distances",
    "gram",
    "hints",
    "logits",
    "mse",
    "nested",
    "neighbours",
    "similarity",
]


class LayerPair(Section):
    """A layer of the student and the one of the teacher that it is held against; see `losses.Stage`.

    Attributes:
        student: name of the layer, e.g. ``block2``.
        teacher: likewise.
        weight: against the other pairs of ``hints``.
    """

    student: Text
    teacher: Text
    weight: PositiveFactor = 1.0


class Term(Section):
    """One thing that the student is to have in common with its teacher; see `losses.make_term`.

    Attributes:
        kind: of the term; none: what it is called.
        weight: against the other terms.
        of: name of the teacher in `teachers`; none: `teacher`.
        prefix: numbers of the student's embedding that are compared, from the first on; none: all.
        per: of ``mse``: ``vector`` or ``element``.
        temperature: of ``mse`` per element, of ``neighbours`` and of ``logits`` (none: 4).
        target: of ``nested``, as `loss.distill_target`.
        factors: of ``nested``: those of `losses.PrefixDistillation`.
        layers: of ``hints`` and of ``attention``, which has one pair: what is compared in place of the embeddings. No
            cache has layers: the teacher hears every clip.
    """

    kind: TermKind | None = None
    weight: PositiveFactor = 1.0
    of: Text | None = None
    prefix: Dim | None = None
    per: Literal["vector", "element"] | None = None
    temperature: PositiveFactor | None = None
    target: Literal["full", "truncated"] | None = None
    factors: dict[Literal["similarity", "correlation", "neighbours", "cosine"], Factor] = Field(default_factory=dict)
    layers: Annotated[tuple[LayerPair, ...], Field(max_length=64)] = ()


class Objective(Section):
    """(1 - alpha) times the loss over speakers, plus alpha times the weighted sum of the terms.

    Attributes:
        terms: by name; none: nothing is taught, which is the control that every distillation needs.
        alpha: share of the terms; 1 needs no speakers.
        stages: (first epoch, from 1; alpha), where it changes.
        capacity: alpha by the parameters of student and teacher, as `losses.capacity_alpha` has it.
        balance: share of the gradient that the terms are to have; alpha follows.
    """

    terms: Annotated[dict[Text, Term], Field(max_length=16)] = Field(default_factory=lambda: {"cosine": Term()})
    alpha: Fraction = 0.5
    stages: Annotated[tuple[tuple[Positive, Fraction], ...], Field(max_length=MOST_LISTED)] = ()
    capacity: Literal["table", "formula"] | None = None
    balance: Annotated[Real, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _one_alpha(self) -> Self:
        others = [name for name in ("stages", "capacity", "balance") if getattr(self, name)]
        if len(others) > 1:
            raise ValueError(f"{' and '.join(others)} both say what alpha is; keep one")
        if others:
            self.refuse_idle(f"{others[0]} says what alpha is", "alpha")
        if not self.terms and (others or self.alpha):
            raise ValueError("no terms: nothing is taught; say alpha: 0, or name terms")
        firsts = [first for first, _ in self.stages]
        if firsts and (firsts[0] != 1 or firsts != sorted(set(firsts))):
            raise ValueError(f"stages: the first begins at epoch 1, and they rise, got {firsts}")
        return self

    @model_validator(mode="after")
    def _layers_where_they_are_compared(self) -> Self:
        for name, term in self.terms.items():
            kind = term.kind or name
            if kind not in ("hints", "attention"):
                if term.layers:
                    raise ValueError(f"terms.{name}.layers: only hints and attention compare layers; leave it out")
                continue
            if not term.layers or (kind == "attention" and len(term.layers) > 1):
                many = "pairs" if kind == "hints" else "one pair"
                raise ValueError(
                    f"terms.{name}.layers: {kind} compares {many} of layers, e.g. [{{student: block2, teacher: lstm1}}]"
                )
            if term.prefix is not None:
                raise ValueError(f"terms.{name}.prefix means nothing here: {kind} compares layers; leave it out")
        return self

    def has(self, kind: str) -> bool:
        """Whether there is a term of a kind."""
        return any((term.kind or name) == kind for name, term in self.terms.items())

    @property
    def needs_speakers(self) -> bool:
        """Whether some share of the loss is ever the speakers'."""
        if self.capacity or self.balance:
            return True
        return any(alpha < 1 for _, alpha in self.stages) if self.stages else self.alpha < 1


class LargeMargin(Section):
    """A last stage with a larger margin.

    Attributes:
        epochs: how many of the last epochs.
        margin: there.
    """

    epochs: Annotated[Whole, Field(gt=0, le=MOST_EPOCHS)]
    margin: Factor = 0.4


class LongMargin(LargeMargin):
    """The same on longer clips.

    Attributes:
        crop_s: seconds of a clip there; none: as before.
    """

    crop_s: Crop | None = None


class Stage(Section):
    """From an epoch on, something more learns.

    Attributes:
        epoch: the first epoch of the stage.
        dims: prefix lengths in the loss from here on; none: as before.
    """

    epoch: Epoch
    dims: Dims | None = None


class PartsStage(Stage):
    """From an epoch on, more of the encoder learns.

    Attributes:
        train: prefixes of module names of the encoder that learn from here on (``backbone.stage5``, ``pool``;
            ``all``); earlier stages stay.
    """

    train: Annotated[tuple[Text, ...], Field(max_length=MOST_LISTED)] = ()


class Balanced(Section):
    """Batches of so many utterances of so many speakers, for pairwise losses.

    Attributes:
        speakers: in a batch.
        utterances: of each.
    """

    speakers: Annotated[Whole, Field(ge=2, le=MOST_SAMPLES)] = 32
    utterances: Annotated[Whole, Field(ge=2, le=MOST_SAMPLES)] = 2


class TrainingSection(Section):
    """The run of the optimizer.

    Attributes:
        epochs: passes over the training utterances; 0 keeps the starting point.
        batch_size: samples of one step of the optimizer, over all processes: the result does not depend on how many
            there are.
        micro_batch: samples in a process's memory at once; none: its whole share. Gradients are summed over these.
        balanced: draw batches by speaker; then `batch_size` follows from it.
        optimizer: ``adamw`` or ``sgd``.
        learning_rate: at the top of the schedule.
        min_learning_rate: at its end.
        weight_decay: on matrices; biases and normalisations have none.
        betas: of AdamW.
        momentum: of SGD.
        prototype_rate: factor of the learning rate for the prototypes.
        schedule: ``cosine``, ``step``, ``exponential`` or ``constant``, after the warm-up.
        warmup_epochs: of the learning rate, from 0 linearly.
        step_epochs: epochs between two steps (``step``).
        gamma: factor of a step, or of an epoch (``exponential``).
        max_grad_norm: gradients are clipped to it once a step; none: never.
        margin_warmup_epochs: the margin grows linearly from 0.
        large_margin: a last stage.
        precision: of the forward pass; float16 is for a GPU.
        ema: decay of an average of the weights, which is then what is validated and kept; none: off.
        patience: validations without a better one until the run stops; none: never.
        validate_epochs: epochs between two validations.
    """

    epochs: Epoch = 10
    batch_size: Samples = 256
    micro_batch: Samples | None = None
    balanced: Balanced | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[Real, Field(gt=0, le=1e38)] = 1e-3
    min_learning_rate: Factor = 0.0
    weight_decay: Factor = 0.0
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.9
    prototype_rate: PositiveFactor = 1.0
    schedule: Literal["cosine", "step", "exponential", "constant"] = "cosine"
    warmup_epochs: Epochs = 0.0
    step_epochs: Annotated[Whole, Field(gt=0, le=MOST_EPOCHS)] = 30
    gamma: Annotated[Real, Field(gt=0, le=1)] = 0.1
    max_grad_norm: Annotated[Real, Field(gt=0, le=1e12)] | None = 1.0
    margin_warmup_epochs: Epochs = 0.0
    large_margin: LargeMargin | None = None
    precision: Precision = "float32"
    ema: Annotated[Real, Field(gt=0, lt=1)] | None = None
    patience: Positive | None = None
    validate_epochs: Positive = 1

    @model_validator(mode="after")
    def _looks_at_what_it_says(self) -> Self:
        adam, told = self.optimizer == "adamw", f"the schedule is {self.schedule}, "
        self.refuse_idle(
            "it is of the optimizer sgd; adamw has betas"
            if adam
            else "they are of the optimizer adamw; sgd has momentum",
            "momentum" if adam else "betas",
        )
        if self.schedule != "step":
            self.refuse_idle(f"{told}not step", "step_epochs")
        if self.schedule not in ("step", "exponential"):
            self.refuse_idle(f"{told}neither step nor exponential", "gamma")
        if self.schedule == "constant":
            self.refuse_idle("the schedule is constant", "min_learning_rate")
        if self.large_margin is not None and self.large_margin.epochs > self.epochs:
            raise ValueError(f"large_margin.epochs: {self.large_margin.epochs} of {self.epochs}")
        return self

    @property
    def batch(self) -> int:
        """Samples of one step of the optimizer."""
        return self.batch_size if self.balanced is None else self.balanced.speakers * self.balanced.utterances


class ClipTraining(TrainingSection):
    """The same on clips, which may be longer at the end."""

    large_margin: LongMargin | None = None


@dataclass(frozen=True)
class Schedule:
    """Learning rate, margin and active dimensions as functions of how far a run is: nothing to keep or to restore.

    Time is counted in epochs as a real number: 2.5 is the middle of the third.

    Attributes:
        training: the section of the recipe.
        margin: of the loss at the end of its warm-up; 0 where it has none.
        stages: of the recipe.
    """

    training: TrainingSection
    margin: float
    stages: tuple[Stage, ...] = ()

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
