"""The kinds of recipe: a model each, so that a kind refuses by itself what it does not know.

A new kind is a model here and, where none of the tasks trains it, a file in `training.tasks`. Three questions are kept
apart: `model` is what is trained, `start` where it begins, `teacher` what it learns from besides speakers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import Field, model_validator

from nestvox.training.recipe import learning, sections

_FIRST = ("kind", "model", "start", "teacher", "teachers", "teacher_order", "seed")


class Recipe(sections.Section):
    """A training run; every section is described by its class.

    Attributes:
        kind: what is learned; each is a class of its own.
        start: name in the catalogue, or folder, of the model that the run begins with; None: random weights.
        seed: of everything that is drawn.
        task: which of `training.tasks` trains it.
    """

    task: ClassVar[Literal["rotation", "head", "encoder", "distil"]]

    kind: str
    start: sections.Text | None = None
    seed: Annotated[sections.Whole, Field(ge=0, lt=2**63)] = 0
    data: sections.Data = sections.Data()
    head: sections.RotationSection = sections.RotationSection()
    run: sections.RunSection = sections.RunSection()

    @property
    def features(self) -> sections.FeatureData | None:
        """The section `data`, where the run begins with features of a pretrained encoder."""
        return self.data if isinstance(self.data, sections.FeatureData) else None

    @property
    def variants(self) -> int:
        """Of each training utterance in a cache that the run makes: where clips are heard, the clean one serves."""
        return 1

    def settings(self) -> dict[str, Any]:
        """Everything, JSON-serialisable."""
        found = self.model_dump(mode="json")
        return {key: found[key] for key in _FIRST if key in found} | found

    def to_yaml(self) -> str:
        """Everything, defaults written out, with the hash on top; `load_recipe` reads it again."""
        body = yaml.safe_dump(self.settings(), sort_keys=False, allow_unicode=True)
        return f"# recipe {self.hash}\n{body}"

    def decisive(self) -> dict[str, Any]:
        """All that decides the result; of files the name alone, as folders differ between machines."""
        settings = self.model_dump(mode="python", exclude={"run"})
        found: dict[str, Any] = json.loads(json.dumps(settings, default=lambda value: Path(value).name))
        return found

    @property
    def hash(self) -> str:
        """16 hex digits over all that decides the result."""
        settings = self.model_dump(mode="python", exclude={"run"})
        text = json.dumps(settings, sort_keys=True, default=lambda value: Path(value).name)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class RotationRecipe(Recipe):
    """An orthogonal matrix, fitted on whole, clean utterances at once: there are no epochs."""

    task = "rotation"

    kind: Literal["rotation"]
    data: sections.FeatureData = sections.FeatureData()
    head: sections.CentredSection = sections.CentredSection()


class LoopRecipe(Recipe):
    """What is learned by steps.

    Attributes:
        teacher: name in the catalogue, or folder, of the model whose embeddings `loss.distill` holds the prefixes
            against; None: the one that the run begins with.
        teacher_order: controls, which say what a teacher is worth: ``shuffled`` teaches every utterance the embedding
            of another one, ``random`` those of a network like the teacher with random weights.
        stages: what joins later.
    """

    teacher: sections.Text | None = None
    teacher_order: Literal["own", "shuffled", "random"] = "own"
    head: sections.AnyHead = sections.LinearSection()
    loss: learning.AnyLoss = learning.OneCenter()
    training: learning.TrainingSection = learning.TrainingSection()
    stages: Annotated[tuple[learning.Stage, ...], Field(max_length=sections.MOST_LISTED)] = ()
    run: sections.LoopSection = sections.LoopSection()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        if not self.distils:
            self.refuse_idle("nothing is distilled", "teacher", "teacher_order")
        if not isinstance(self.loss, learning.Prototypes | learning.Triplets):
            self.refuse_idle(f"loss {self.loss.kind} has no margin", "training.margin_warmup_epochs")
        if not isinstance(self.loss, learning.Prototypes) and self.loss.kind != "angular":
            self.refuse_idle(f"loss {self.loss.kind} has nothing of its own that learns", "training.prototype_rate")
        return self

    def _problems(self) -> Iterator[str]:
        """What does not go together; the first is reported."""
        training, loss = self.training, self.loss
        pairwise = isinstance(loss, learning.Pairwise | learning.Triplets)
        epochs = [stage.epoch for stage in self.stages]
        if epochs != sorted(set(epochs)):
            yield f"stages: epochs must rise, got {epochs}"
        if epochs and training.epochs and epochs[-1] >= training.epochs:
            yield f"stages: the stage at epoch {epochs[-1]} never begins, training.epochs is {training.epochs}"
        if pairwise and training.balanced is None:
            yield f"training.balanced: loss {loss.kind} compares clips of one speaker; say {{speakers: 32}}"
        if (pairwise or self.distils) and training.micro_batch is not None:
            what = "distillation" if self.distils else f"loss {loss.kind}"
            yield f"training.micro_batch: {what} compares the clips of the whole batch with each other; leave it out"
        if training.batch > sections.MOST_SAMPLES:
            yield f"training.balanced: {training.batch:,} samples in a batch; there may be {sections.MOST_SAMPLES:,}"
        if training.batch < self.fewest:
            yield f"training.batch_size: distillation needs at least {self.fewest} samples in a batch"
        if training.large_margin is not None and isinstance(loss, learning.Pairwise):
            yield f"training.large_margin: loss {loss.kind} has no margin"
        if training.large_margin is not None and isinstance(loss, learning.AngularMargin):
            try:
                learning.check_angle(training.large_margin.margin)
            except ValueError as error:
                yield f"training.large_margin.margin: loss {loss.kind} takes {error}"

    @property
    def schedule(self) -> learning.Schedule:
        """What changes while the run goes on."""
        margin = self.loss.margin if isinstance(self.loss, learning.Prototypes | learning.Triplets) else 0.0
        return learning.Schedule(self.training, margin, self.stages)

    @property
    def distils(self) -> bool:
        """Whether something is learned from a teacher."""
        return self.loss.distill > 0

    @property
    def fewest(self) -> int:
        """Samples that a batch needs at the least: two clips have one cosine, which nothing can be learned from."""
        return 3 if self.distils else 1


class HeadRecipe(LoopRecipe):
    """A head on a frozen encoder, of which features are enough."""

    task = "head"

    data: sections.HeadData = sections.HeadData()

    @property
    def variants(self) -> int:
        """Of each training utterance in the cache."""
        return self.data.variants


class LinearRecipe(HeadRecipe):
    """A linear head."""

    kind: Literal["linear"]
    head: sections.LinearSection = sections.LinearSection()


class MlpRecipe(HeadRecipe):
    """A perceptron beside the linear path."""

    kind: Literal["mlp"]
    head: sections.MlpSection = sections.MlpSection()


class ProgressiveRecipe(HeadRecipe):
    """A head whose small dimensions join later."""

    kind: Literal["progressive"]

    def _problems(self) -> Iterator[str]:
        if not any(stage.dims for stage in self.stages):
            yield "stages: kind progressive needs stages with dims, e.g. [{epoch: 0, dims: [256]}, ...]"
        yield from super()._problems()


class EncoderRecipe(LoopRecipe):
    """An encoder that learns from audio, and the head on it.

    Attributes:
        encoder: how fast it learns.
    """

    task: ClassVar[Literal["encoder", "distil"]] = "encoder"
    trains_all: ClassVar[bool] = True  # dropout and masking too; without, weights that hardly move keep the mode

    data: sections.ClipData = sections.ClipData()
    training: learning.ClipTraining = learning.ClipTraining()
    encoder: sections.EncoderSection = sections.EncoderSection()

    @model_validator(mode="after")
    def _draws_from_archives(self) -> Self:
        if self.training.balanced is not None:
            reason = "training.balanced draws clips of each speaker from wherever they are"
            self.refuse_idle(reason, "data.open_shards")
        return self

    @property
    def parts(self) -> tuple[tuple[int, str, float], ...]:
        """Of the encoder, in the order in which they join: first epoch, name, factor of the learning rate."""
        return ((0, "all", self.encoder.learning_rate),)

    @property
    def renews_statistics(self) -> bool:
        """Whether BatchNorm's stored statistics follow what is heard."""
        return True

    @property
    def lora(self) -> sections.Lora | None:
        """Low-rank additions, which learn in the encoder's stead."""
        return None


class UnfreezeRecipe(EncoderRecipe):
    """An encoder whose parts join later."""

    kind: Literal["unfreeze"]
    data: sections.TuningData = sections.TuningData()
    encoder: sections.PartsSection = sections.PartsSection()
    stages: Annotated[tuple[learning.PartsStage, ...], Field(max_length=sections.MOST_LISTED)] = ()

    def _problems(self) -> Iterator[str]:
        if not any(stage.train for stage in self.stages):
            yield "stages: kind unfreeze needs stages with train, e.g. [{epoch: 1, train: [linear]}]"
        yield from super()._problems()

    @property
    def parts(self) -> tuple[tuple[int, str, float], ...]:
        """Each later one learns more slowly."""
        named = [(stage.epoch, name) for stage in self.stages for name in stage.train]
        found, scale = [], self.encoder.learning_rate
        for epoch, name in named:
            found.append((epoch, name, scale))
            scale *= self.encoder.decay
        return tuple(found)

    @property
    def renews_statistics(self) -> bool:
        """Where the recipe says so."""
        return self.encoder.batch_norm == "train"


class LoraRecipe(EncoderRecipe):
    """Low-rank additions to an encoder that stays as it is."""

    trains_all = False

    kind: Literal["lora"]
    data: sections.TuningData = sections.TuningData()
    encoder: sections.AdapterSection = sections.AdapterSection()

    @property
    def renews_statistics(self) -> bool:
        """They stay as they are."""
        return False

    @property
    def lora(self) -> sections.Lora:
        """The additions."""
        return self.encoder.lora


class ScratchRecipe(EncoderRecipe):
    """An encoder with random weights that learns from speakers alone.

    Attributes:
        model: size of the encoder, e.g. ``redimnet-b2`` (`zoo.variants` has them all), or its architecture and
            constructor arguments.
    """

    kind: Literal["scratch"]
    start: None = None
    model: sections.Text | dict[str, Any]
    encoder: sections.WholeSection = sections.WholeSection()

    def _problems(self) -> Iterator[str]:
        if self.head.start != "random":
            yield "head.start: with kind scratch nothing is pretrained; say random"
        if self.loss.distill or self.teacher is not None:
            yield (
                "teacher, loss.distill: from random weights the kind distil learns from a teacher, and its section "
                "objective says what: alpha instead of loss.weight and loss.distill, terms instead of distill_terms"
            )
        yield from super()._problems()


class DistilRecipe(EncoderRecipe):
    """A student that learns from a teacher, and from speakers as far as the objective says.

    Attributes:
        model: of the student: size or architecture and arguments, as of kind scratch; it begins with random weights.
            None: it is the encoder of `start`, e.g. one whose channels were pruned.
        teachers: more models to learn from, by the name that a term says (`of`).
        head: the prefixes of the student's own embedding.
        objective: what is learned from the teacher, and which share it has.
    """

    task = "distil"

    kind: Literal["distil"]
    model: sections.Text | dict[str, Any] | None = None
    teachers: Annotated[dict[sections.Text, sections.Text], Field(max_length=16)] = Field(default_factory=dict)
    data: sections.TaughtData = sections.TaughtData()
    head: sections.OwnSection = sections.OwnSection()
    encoder: sections.StudentSection = sections.StudentSection()
    objective: learning.Objective = learning.Objective()

    @property
    def distils(self) -> bool:
        """Whether something is learned from a teacher."""
        return bool(self.objective.terms)

    def _problems(self) -> Iterator[str]:
        if (self.model is None) == (self.start is None):
            yield "model or start: say one of them, the network that is to learn or the model whose encoder it is"
        if self.encoder.keep_zeros and self.start is None:
            yield "encoder.keep_zeros: random weights have no zeros to keep; it is of a start"
        if self.objective.terms and self.teacher is None:
            yield "teacher: name the model to learn from; without one, say objective: {alpha: 0, terms: {}}"
        named = {term.of for term in self.objective.terms.values() if term.of is not None}
        for name in sorted({*named, *self.teachers}):
            if name not in self.teachers:
                yield f"objective.terms: teachers has no {name}, it has {', '.join(sorted(self.teachers)) or 'none'}"
            if name not in named:
                yield f"teachers.{name}: nothing is learned from it; name it in a term of objective (of: {name})"
        classified = isinstance(self.loss, learning.Prototypes) and self.loss.kind != "sphereface2"
        for name, term in self.objective.terms.items():
            if (term.kind or name) == "logits" and not (classified and self.objective.needs_speakers):
                yield (
                    f"objective.terms.{name}: logits are of the training speakers; take loss.kind aam, am or subcenter "
                    "and leave the speakers a share (objective.alpha below 1)"
                )
        if self.data.unlabelled is not None and self.objective.needs_speakers:
            yield "data.unlabelled: these have no speakers to be told apart; say objective.alpha: 1, or leave them out"
        if self.loss.distill or self.loss.weight != 1:
            yield "loss.weight, loss.distill: kind distil has objective.alpha and objective.terms for the two"
        yield from super()._problems()


AnyRecipe = Annotated[
    RotationRecipe
    | LinearRecipe
    | MlpRecipe
    | ProgressiveRecipe
    | UnfreezeRecipe
    | LoraRecipe
    | ScratchRecipe
    | DistilRecipe,
    Field(discriminator="kind"),
]
