"""The sections of a recipe that say what it learns from, what it trains, and what it writes down.

What some kinds of recipe know and others do not is a class of its own, so that each refuses by itself what it does not
know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from nestvox.errors import NestvoxError
from nestvox.heads.rotation import Centre
from nestvox.home import expand_home


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

    def refuse_idle(self, reason: str, *keys: str) -> None:
        """Refuse settings that are not their default and that nothing looks at, so that nobody believes they do.

        Args:
            reason: why nothing does.
            keys: names here, with points for those of sections below.

        Raises:
            PydanticCustomError: of the type ``idle``; its context names the first.
        """
        for key in keys:
            *sections, name = key.split(".")
            place: Any = self
            for section in sections:
                place = getattr(place, section)
            if getattr(place, name) != type(place).model_fields[name].get_default(call_default_factory=True):
                raise PydanticCustomError("idle", "{key} means nothing here: {reason}", {"key": key, "reason": reason})


def kind_or(default: str) -> BeforeValidator:
    """Say the kind of a section that leaves it out."""
    return BeforeValidator(lambda value: {"kind": default, **value} if isinstance(value, dict) else value)


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


class Data(Section):
    """Utterances and trials.

    Attributes:
        table: utterance tables; several are joined.
        dev_table: where the development utterances are; none: in `table`.
        train: columns and values that training utterances have, e.g. ``{split: train}``; ``{}``: all rows.
        dev: likewise, of the development utterances.
        test: likewise, of speakers who must be in neither; ``{}``: there are none in the tables.
        dev_trials: the labelled list that the best weights are chosen on.
    """

    table: Paths = ()
    dev_table: Paths = ()
    train: Where = Field(default_factory=lambda: {"split": "train"})
    dev: Where = Field(default_factory=lambda: {"split": "dev"})
    test: Where = Field(default_factory=lambda: {"split": "test"})
    dev_trials: Place | None = None


class FeatureData(Data):
    """Features of a pretrained encoder.

    Attributes:
        cache: feature cache of the training utterances; none: made in the run's folder. What the recipe says of
            variants, crop and augmentation must be what it was made with.
        dev_cache: of the development utterances; none: made, or `cache` where that was given and holds them.
        skip_bad: leave out audio that cannot be used, with its reason in the cache, instead of stopping at the first.
    """

    cache: Place | None = None
    dev_cache: Place | None = None
    skip_bad: bool = False


class AugmentedData(Data):
    """What is done to the audio.

    Attributes:
        variants: seeded augmented copies of each utterance in the cache; the first is the clean one.
        augmentation: settings of `audio.augment.Augmentation` that are not the default; what the folders below do not
            allow is left out. With ``variants: 1`` there is none.
        noise: folder of noise and music to mix in.
        rooms: folder of room responses.
        crop_s: seconds of a training clip; none: whole utterances (a cache only).
    """

    variants: Annotated[Whole, Field(gt=0, le=MOST_VARIANTS)] = 4
    augmentation: Annotated[dict[str, Any], Field(max_length=100)] = Field(default_factory=dict)
    noise: Place | None = None
    rooms: Place | None = None
    crop_s: Crop | None = None


class HeadData(FeatureData, AugmentedData):
    """Augmented features, of which a head is trained."""


class ClipData(AugmentedData):
    """Clips that are cut out anew in every epoch.

    Attributes:
        clean: share of the clips that stay as they were recorded; the augmentation changes something in every other.
        spec_augment: blank bands of the features (not of GE2E); none: as the encoder was made.
        open_shards: of the archives that the table names, so many are read and shuffled with each other at a time;
            none: all.
    """

    clean: Fraction = 0.0
    spec_augment: SpecAugment | None = None
    open_shards: Positive | None = None

    @model_validator(mode="after")
    def _changes_some(self) -> Self:
        if self.variants == 1:
            self.refuse_idle("data.variants is 1: every clip is clean", "clean")
        return self


class TaughtData(ClipData):
    """Clips, and what a teacher says of the whole, clean utterances that they are of.

    Attributes:
        targets: feature cache of the teacher, of the training utterances or of more, which several runs may share; it
            is made where it is missing. None: in the run's folder.
        skip_bad: leave out audio that the teacher cannot use, instead of stopping at the first.
        unlabelled: as `train`, of rows that are taught too and need no speaker; none: every row needs one.
    """

    unlabelled: Annotated[Where, Field(min_length=1)] | None = None
    targets: Place | None = None
    skip_bad: bool = False


class TuningData(FeatureData, ClipData):
    """Clips, and features of the encoder as it begins: of clean, whole utterances."""


class RotationSection(Section):
    """The rotation.

    Attributes:
        dims: prefix lengths; none: powers of two from 16 up, and the size of the encoder's embedding.
        start_from: a rotation file to begin at; none: one is fitted on the training vectors.
    """

    dims: Dims | None = None
    start_from: Place | None = None


class CentredSection(RotationSection):
    """A rotation that is the whole head.

    Attributes:
        centre: ``auto`` subtracts the training vectors' mean from the coordinates in which that is best on the
            development trials, ``all`` from all (the full size is the centred encoder), ``none`` not at all (every
            full-size score stays the encoder's own).
    """

    centre: Centre = "auto"


class HeadSection(RotationSection):
    """The map to the nested embedding.

    Attributes:
        start: ``rotation`` begins at rotation x pretrained head, ``pretrained`` at the pretrained head, ``random``.
        norm: how the input is standardised: ``fixed`` by the statistics of the training vectors, ``batch`` by those of
            each (micro-)batch, ``none``. A head that begins at random knows no statistics: it takes ``batch`` for
            ``fixed``.
    """

    start: Literal["rotation", "pretrained", "random"] = "rotation"
    norm: Literal["fixed", "batch", "none"] = "fixed"

    @model_validator(mode="after")
    def _begins_where_it_says(self) -> Self:
        if self.start != "rotation":
            self.refuse_idle(f"the head begins {self.start}, not at a rotation", "start_from")
        return self


class LinearSection(HeadSection):
    """One layer.

    Attributes:
        kind: ``linear``.
    """

    kind: Literal["linear"] = "linear"


class MlpSection(HeadSection):
    """A perceptron beside the linear path.

    Attributes:
        kind: ``mlp``.
        hidden: units of a hidden layer.
        layers: of the perceptron, the last one included.
        dropout: in the hidden layers.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: Dim = 512
    layers: Annotated[Whole, Field(ge=2, le=3)] = 2
    dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.0


class OwnSection(LinearSection):
    """No map: the student's own embedding, whose prefixes learn.

    Attributes:
        dims: prefix lengths; none: powers of two from 16 up, and the size of the embedding.
        start: ``random``, as the student begins.
    """

    start: Literal["random"] = "random"
    norm: Literal["none"] = "none"


AnyHead = Annotated[LinearSection | MlpSection, Field(discriminator="kind"), kind_or("linear")]


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
    """How fast the encoder learns.

    Attributes:
        learning_rate: factor of the learning rate for the part of the encoder next to the head.
    """

    learning_rate: PositiveFactor = 0.1


class AdapterSection(EncoderSection):
    """An encoder that stays as it is, its statistics too, but for low-rank additions.

    Attributes:
        lora: the additions.
    """

    lora: Lora = Lora()


class PartsSection(EncoderSection):
    """An encoder of which more and more learns.

    Attributes:
        batch_norm: ``frozen`` keeps the stored statistics of every BatchNorm; ``train`` renews them where it learns.
        decay: factor of the learning rate from one named part to the one before it (discriminative rates).
    """

    batch_norm: Literal["frozen", "train"] = "frozen"
    decay: Annotated[Real, Field(gt=0, le=1)] = 0.7


class WholeSection(EncoderSection):
    """An encoder with random weights.

    Attributes:
        batch_norm: ``train``: they have no statistics to keep.
    """

    batch_norm: Literal["train"] = "train"


class StudentSection(WholeSection):
    """A student.

    Attributes:
        keep_zeros: what is zero in the matrices of `start` stays zero, as in a sparse model.
    """

    learning_rate: PositiveFactor = 1.0
    keep_zeros: bool = False


class RunSection(Section):
    """What is written down, and what decides nothing about the result.

    Attributes:
        name: of the new model; none: the encoder's name with the kind.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        workers: threads that decode and augment.
    """

    name: Text | None = None
    device: Text = "auto"
    workers: Annotated[Whole, Field(gt=0, le=1_024)] = 2


class LoopSection(RunSection):
    """The same of a run that has epochs.

    Attributes:
        log_steps: steps between two lines of the log.
        checkpoint_s: seconds between two checkpoints; one is also written at the end of every epoch.
        checkpoint_steps: steps between two checkpoints besides; none: by time only.
        save_interval: epochs between two models that are kept beside the best, as ``checkpoints/epoch_14`` and
            ``checkpoints/latest``; none: the best alone.
        keep_last_n: of these the newest that are kept; none: all.
        wandb: project on Weights & Biases, with the extra [wandb]; none: nothing leaves the machine.
    """

    log_steps: Positive = 50
    checkpoint_s: Annotated[Real, Field(gt=0, le=1e9)] = 60.0
    checkpoint_steps: Positive | None = None
    save_interval: Positive | None = None
    keep_last_n: Positive | None = None
    wandb: Text | None = None

    @model_validator(mode="after")
    def _keeps_what_it_saves(self) -> Self:
        if self.save_interval is None:
            self.refuse_idle("run.save_interval is not set: the best model alone is kept", "keep_last_n")
        return self
