"""The sections of a recipe: every setting with its type, its range and its default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from nestvox.errors import NestvoxError
from nestvox.home import expand_home

__all__ = [
    "MOST_LISTED",
    "MOST_SAMPLES",
    "Balanced",
    "DataSection",
    "Dim",
    "EncoderSection",
    "Epoch",
    "HeadSection",
    "Kind",
    "LargeMargin",
    "Lora",
    "LossSection",
    "Precision",
    "RunSection",
    "Samples",
    "Section",
    "SpecAugment",
    "Stage",
    "Text",
    "TrainingSection",
    "Whole",
]

Kind = Literal["rotation", "linear", "mlp", "progressive", "unfreeze", "lora", "scratch"]
Precision = Literal["float32", "bfloat16", "float16"]


def _number(value: object) -> object:
    """Refuse true and false, which would pass for 1 and 0; a YAML number without a point (1e-3) is text."""
    if isinstance(value, bool):
        raise ValueError(f"a number is expected, got {str(value).lower()}")
    return value


Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number)]

# Beyond these no machine has anything to gain, and a slip of the pen would take it for itself.
MOST_EPOCHS = 100_000
MOST_SAMPLES = 1_000_000
MOST_DIMS = 65_536
MOST_VARIANTS = 1_000
MOST_CROP_S = 600.0
MOST_LISTED = 1_000
_MOST_PATH = 4_096
_MOST_FACTOR = 1e6

Positive = Annotated[Whole, Field(gt=0, le=1_000_000_000)]
Samples = Annotated[Whole, Field(gt=0, le=MOST_SAMPLES)]
Dim = Annotated[Whole, Field(gt=0, le=MOST_DIMS)]
Dims = Annotated[tuple[Dim, ...], Field(max_length=64)]
Epoch = Annotated[Whole, Field(ge=0, le=MOST_EPOCHS)]
Epochs = Annotated[Real, Field(ge=0, le=MOST_EPOCHS)]
Crop = Annotated[Real, Field(gt=0, le=MOST_CROP_S)]
Factor = Annotated[Real, Field(ge=0, le=_MOST_FACTOR)]
PositiveFactor = Annotated[Real, Field(gt=0, le=_MOST_FACTOR)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Text = Annotated[str, Field(max_length=1_000)]
Where = Annotated[dict[Text, Text], Field(max_length=100)]


def _listed(value: object) -> object:
    """One path stands for a list of one."""
    return [value] if isinstance(value, str | Path) else value


def _at_home(path: Path) -> Path:
    if len(str(path)) > _MOST_PATH:
        raise ValueError(f"a path of {len(str(path)):,} characters; there may be {_MOST_PATH:,}")
    try:
        return expand_home(path)
    except NestvoxError as error:  # ~nobody
        raise ValueError(str(error)) from error


# A shell does not expand the ~ in --set data.noise=~/noise.
Place = Annotated[Path, AfterValidator(_at_home)]
Paths = Annotated[tuple[Place, ...], BeforeValidator(_listed), Field(max_length=MOST_LISTED)]


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

    bands: Annotated[Whole, Field(gt=0, le=1_000)] = 8
    frames: Annotated[Whole, Field(gt=0, le=100_000)] = 10
    masks: Annotated[Whole, Field(gt=0, le=100)] = 1


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
    train: Where = {"split": "train"}
    dev: Where = {"split": "dev"}
    test: Where = {"split": "test"}
    dev_trials: Place | None = None
    cache: Place | None = None
    dev_cache: Place | None = None
    skip_bad: bool = False
    variants: Annotated[Whole, Field(gt=0, le=MOST_VARIANTS)] = 4
    augmentation: Annotated[dict[str, Any], Field(max_length=100)] = {}
    noise: Place | None = None
    rooms: Place | None = None
    crop_s: Crop | None = None
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
    dims: Dims | None = None
    start: Literal["rotation", "pretrained", "random"] = "rotation"
    start_from: Place | None = None
    norm: Literal["fixed", "batch", "none"] = "fixed"
    hidden: Dim = 512
    layers: Annotated[Whole, Field(ge=2, le=3)] = 2
    dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.0


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
    margin: Factor = 0.2
    scale: PositiveFactor = 30.0
    easy_margin: bool = False
    sub_centers: Annotated[Whole, Field(gt=0, le=100)] = 3
    mining: Literal["hard", "semi-hard", "all"] = "semi-hard"
    weights: Annotated[dict[Dim, PositiveFactor], Field(max_length=64)] | None = None
    prototypes: Literal["means", "random"] = "means"
    classifier: Literal["own", "shared"] = "own"
    weight: Factor = 1.0
    distill: Factor = 0.0
    distill_terms: dict[Literal["similarity", "correlation", "neighbours", "temperature"], Factor] = {}

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

    epochs: Annotated[Whole, Field(gt=0, le=MOST_EPOCHS)]
    margin: Factor = 0.4
    crop_s: Crop | None = None


class Stage(Section):
    """From an epoch on, something more learns.

    Attributes:
        epoch: the first epoch of the stage.
        train: prefixes of module names of the encoder that learn from here on (``backbone.stage5``, ``pool``;
            ``all``); earlier stages stay.
        dims: prefix lengths in the loss from here on (progressive); none: as before.
    """

    epoch: Epoch
    train: Annotated[tuple[Text, ...], Field(max_length=MOST_LISTED)] = ()
    dims: Dims | None = None


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


class Lora(Section):
    """Low-rank additions to frozen matrices.

    Attributes:
        rank: of an addition.
        alpha: its scale times `rank`.
        targets: ``attention`` (linear layers of attention), ``pointwise`` (1x1 convolutions), ``linear`` (all linear
            layers).
    """

    rank: Annotated[Whole, Field(gt=0, le=MOST_DIMS)] = 8
    alpha: PositiveFactor = 16.0
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

    variant: Text | None = None
    config: dict[str, Any] | None = None
    batch_norm: Literal["frozen", "train"] = "frozen"
    learning_rate: PositiveFactor = 0.1
    decay: Annotated[Real, Field(gt=0, le=1)] = 0.7
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
        save_interval: epochs between two models that are kept beside the best, as ``checkpoints/epoch_14`` and
            ``checkpoints/latest``; none: the best alone.
        keep_last_n: of these the newest that are kept; none: all.
        wandb: project on Weights & Biases, with the extra [wandb]; none: nothing leaves the machine.
    """

    name: Text | None = None
    device: Text = "auto"
    workers: Annotated[Whole, Field(gt=0, le=1_024)] = 2
    log_steps: Positive = 50
    checkpoint_s: Annotated[Real, Field(gt=0, le=1e9)] = 60.0
    checkpoint_steps: Positive | None = None
    save_interval: Positive | None = None
    keep_last_n: Positive | None = None
    wandb: Text | None = None
