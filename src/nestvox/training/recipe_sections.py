"""The sections of a recipe: every setting with its type, its range and its default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from nestvox.home import expand_home

__all__ = [
    "Balanced",
    "DataSection",
    "EncoderSection",
    "HeadSection",
    "Kind",
    "LargeMargin",
    "Lora",
    "LossSection",
    "Precision",
    "RunSection",
    "Section",
    "SpecAugment",
    "Stage",
    "TrainingSection",
]

Kind = Literal["rotation", "linear", "mlp", "progressive", "unfreeze", "lora", "scratch"]
Precision = Literal["float32", "bfloat16", "float16"]

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _listed(value: object) -> object:
    """One path stands for a list of one."""
    return [value] if isinstance(value, str | Path) else value


# A shell does not expand the ~ in --set data.noise=~/noise.
Place = Annotated[Path, AfterValidator(expand_home)]
Paths = Annotated[tuple[Place, ...], BeforeValidator(_listed)]


class Section(BaseModel):
    """Part of a recipe: an unknown key is an error, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SpecAugment(Section):
    """Bands of frequency and stretches of time that are blanked in training (D. Park et al., Interspeech 2019).

    Attributes:
        bands: widest mask over frequencies, in bands of the front end.
        frames: widest mask over time, in frames.
        masks: of each kind in a clip.
    """

    bands: Positive = 8
    frames: Positive = 10
    masks: Positive = 1


class DataSection(Section):
    """Utterances, trials and what is done to the audio.

    Attributes:
        table: utterance tables; several are joined.
        dev_table: where the development utterances are; none: in `table`.
        train: columns and values that training utterances have, e.g. ``{split: train}``; ``{}``: all rows.
        dev: likewise, of the development utterances.
        test: likewise, of speakers who must be in neither; ``{}``: there are none in the tables.
        dev_trials: the labelled list that the best weights are chosen on.
        cache: feature cache of the training utterances; none: made in the run's folder. What the recipe says of
            variants, crop and augmentation must be what it was made with.
        dev_cache: of the development utterances; none: made, or `cache` where that was given and holds them.
        skip_bad: leave out audio that cannot be used, with its reason in the cache, instead of stopping at the first.
        variants: seeded augmented copies of each utterance in the cache; the first is the clean one.
        augmentation: settings of `audio.augment.Augmentation` that are not the default; what the folders below do not
            allow is left out. With ``variants: 1`` there is none.
        noise: folder of noise and music to mix in.
        rooms: folder of room responses.
        crop_s: seconds of a training clip; none: whole utterances (a cache only).
        spec_augment: blank bands of the features (training a ReDimNet from audio); none: as the encoder was made.
        open_shards: of the archives that the table names, so many are read and shuffled with each other at a time
            (training from audio); none: all.
    """

    table: Paths = ()
    dev_table: Paths = ()
    train: dict[str, str] = {"split": "train"}
    dev: dict[str, str] = {"split": "dev"}
    test: dict[str, str] = {"split": "test"}
    dev_trials: Place | None = None
    cache: Place | None = None
    dev_cache: Place | None = None
    skip_bad: bool = False
    variants: Positive = 4
    augmentation: dict[str, Any] = {}
    noise: Place | None = None
    rooms: Place | None = None
    crop_s: Annotated[float, Field(gt=0)] | None = None
    spec_augment: SpecAugment | None = None
    open_shards: Positive | None = None


class HeadSection(Section):
    """The map to the nested embedding.

    Attributes:
        kind: ``linear``, ``mlp``; none: what the recipe's kind says.
        dims: prefix lengths; none: powers of two from 16 up, and the size of the encoder's embedding.
        start_from: a rotation file to begin at; none: one is fitted on the training vectors.
        start: ``rotation`` begins at rotation x pretrained head, ``pretrained`` at the pretrained head, ``random``.
        norm: how the input is standardised: ``fixed`` by the statistics of the training vectors, ``batch`` by those of
            each (micro-)batch, ``none``. A head that begins at random knows no statistics: it takes ``batch`` for
            ``fixed``.
        hidden: units of a hidden layer (``mlp``).
        layers: of the perceptron, the last one included (``mlp``).
        dropout: in the hidden layers (``mlp``).
    """

    kind: Literal["linear", "mlp"] | None = None
    dims: tuple[Positive, ...] | None = None
    start: Literal["rotation", "pretrained", "random"] = "rotation"
    start_from: Place | None = None
    norm: Literal["fixed", "batch", "none"] = "fixed"
    hidden: Positive = 512
    layers: Annotated[int, Field(ge=2, le=3)] = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class LossSection(Section):
    """What is minimised.

    Attributes:
        kind: a classification loss with prototypes, or a pairwise one.
        margin: of the loss, at the end of its warm-up.
        scale: of the cosine.
        easy_margin: a margin only for embeddings nearer than 90 degrees to their speaker (``aam``, ``subcenter``).
        sub_centers: prototypes a speaker (``subcenter``).
        mining: which triplets count (``triplet``).
        weights: dimension to weight; none: all alike.
        prototypes: begin at the speakers' ``means`` under the first head, or ``random``.
        classifier: every dimension has ``own`` prototypes, or sees the first columns of ``shared`` ones.
        weight: of the loss above; 0 leaves distillation alone.
        distill: weight of the distance of every prefix to the full pretrained embedding of the clean utterance.
        distill_terms: factors of `losses.distillation.PrefixDistillation`.
    """

    kind: Literal["aam", "am", "subcenter", "sphereface2", "angular", "prototypical", "triplet"] = "aam"
    margin: Annotated[float, Field(ge=0)] = 0.2
    scale: Annotated[float, Field(gt=0)] = 30.0
    easy_margin: bool = False
    sub_centers: Positive = 3
    mining: Literal["hard", "semi-hard", "all"] = "semi-hard"
    weights: dict[Positive, Annotated[float, Field(gt=0)]] | None = None
    prototypes: Literal["means", "random"] = "means"
    classifier: Literal["own", "shared"] = "own"
    weight: Annotated[float, Field(ge=0)] = 1.0
    distill: Annotated[float, Field(ge=0)] = 0.0
    distill_terms: dict[Literal["similarity", "correlation", "neighbours", "temperature"], float] = {}

    @property
    def pairwise(self) -> bool:
        """Whether it compares the clips of a batch with each other."""
        return self.kind in ("angular", "prototypical", "triplet")


class LargeMargin(Section):
    """A last stage with a larger margin and longer clips.

    Attributes:
        epochs: how many of the last epochs.
        margin: there.
        crop_s: seconds of a clip there; none: as before.
    """

    epochs: Positive
    margin: Annotated[float, Field(ge=0)] = 0.4
    crop_s: Annotated[float, Field(gt=0)] | None = None


class Stage(Section):
    """From an epoch on, something more learns.

    Attributes:
        epoch: the first epoch of the stage.
        train: prefixes of module names of the encoder that learn from here on (``backbone.stage5``, ``pool``;
            ``all``); earlier stages stay.
        dims: prefix lengths in the loss from here on (progressive); none: as before.
    """

    epoch: Annotated[int, Field(ge=0)]
    train: tuple[str, ...] = ()
    dims: tuple[Positive, ...] | None = None


class Balanced(Section):
    """Batches of so many utterances of so many speakers, for pairwise losses.

    Attributes:
        speakers: in a batch.
        utterances: of each.
    """

    speakers: Annotated[int, Field(ge=2)] = 32
    utterances: Annotated[int, Field(ge=2)] = 2


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

    epochs: Annotated[int, Field(ge=0)] = 10
    batch_size: Positive = 256
    micro_batch: Positive | None = None
    balanced: Balanced | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    min_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    prototype_rate: Annotated[float, Field(gt=0)] = 1.0
    schedule: Literal["cosine", "step", "exponential", "constant"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    step_epochs: Positive = 30
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    margin_warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    large_margin: LargeMargin | None = None
    precision: Precision = "float32"
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    patience: Positive | None = None
    validate_epochs: Positive = 1


class Lora(Section):
    """Low-rank additions to frozen matrices.

    Attributes:
        rank: of an addition.
        alpha: its scale times `rank`.
        targets: ``attention`` (linear layers of attention), ``pointwise`` (1x1 convolutions), ``linear`` (all linear
            layers).
    """

    rank: Positive = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    targets: tuple[Literal["attention", "pointwise", "linear"], ...] = ("attention", "pointwise")


class EncoderSection(Section):
    """Which parts of the encoder learn, and how fast.

    Attributes:
        variant: size of an encoder with random weights, e.g. ``redimnet-b2`` (``scratch``); `encoders.variants` has
            them all.
        config: architecture and constructor arguments of one, instead (``scratch``).
        batch_norm: ``frozen`` keeps the stored statistics of every BatchNorm; ``train`` renews them where it learns.
        learning_rate: factor of the learning rate for the part of the encoder next to the head.
        decay: factor of the learning rate from one named part to the one before it (discriminative rates).
        lora: low-rank additions (``lora``).
    """

    variant: str | None = None
    config: dict[str, Any] | None = None
    batch_norm: Literal["frozen", "train"] = "frozen"
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    decay: Annotated[float, Field(gt=0, le=1)] = 0.7
    lora: Lora | None = None


class RunSection(Section):
    """What is written down, and what decides nothing about the result.

    Attributes:
        name: of the new model; none: the encoder's name with the kind.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        workers: threads that decode and augment.
        log_steps: steps between two lines of the log.
        checkpoint_s: seconds between two checkpoints; one is also written at the end of every epoch.
        checkpoint_steps: steps between two checkpoints besides; none: by time only.
        wandb: project on Weights & Biases, with the extra [wandb]; none: nothing leaves the machine.
    """

    name: str | None = None
    device: str = "auto"
    workers: Positive = 2
    log_steps: Positive = 50
    checkpoint_s: Annotated[float, Field(gt=0)] = 60.0
    checkpoint_steps: Positive | None = None
    wandb: str | None = None
