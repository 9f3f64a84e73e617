"""What a training run is to be: YAML, checked key by key, overridden from the command line, and hashed.

A recipe has one section for each question: which `data`, which `head`, which `loss`, how to run the `training`, which
parts of the `encoder` learn, and what to write down (`run`). Every key has a default; an unknown one is an error that
names the nearest known key. The section `run` decides nothing about the result and does not enter the hash.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from nestvox.errors import RecipeError
from nestvox.training.idle import idle_settings

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
    "Recipe",
    "RunSection",
    "SpecAugment",
    "Stage",
    "TrainingSection",
    "load_recipe",
    "parse_recipe",
    "shipped_recipes",
]

Kind = Literal["rotation", "linear", "mlp", "progressive", "unfreeze", "lora", "scratch"]
Precision = Literal["float32", "bfloat16", "float16"]

FROM_CACHE: tuple[Kind, ...] = ("rotation", "linear", "mlp", "progressive")

_PATHS = (
    "data.table",
    "data.dev_table",
    "data.dev_trials",
    "data.cache",
    "data.dev_cache",
    "data.noise",
    "data.rooms",
    "head.start_from",
)
_TOLERANT = "settings that mean nothing pass"

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _listed(value: object) -> object:
    """One path stands for a list of one."""
    return [value] if isinstance(value, str | Path) else value


# A shell does not expand the ~ in --set data.noise=~/noise.
Place = Annotated[Path, AfterValidator(Path.expanduser)]
Paths = Annotated[tuple[Place, ...], BeforeValidator(_listed)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SpecAugment(_Section):
    """Bands of frequency and stretches of time that are blanked in training (D. Park et al., Interspeech 2019).

    Attributes:
        bands: widest mask over frequencies, in bands of the front end.
        frames: widest mask over time, in frames.
        masks: of each kind in a clip.
    """

    bands: Positive = 8
    frames: Positive = 10
    masks: Positive = 1


class DataSection(_Section):
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


class HeadSection(_Section):
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


class LossSection(_Section):
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


class LargeMargin(_Section):
    """A last stage with a larger margin and longer clips.

    Attributes:
        epochs: how many of the last epochs.
        margin: there.
        crop_s: seconds of a clip there; none: as before.
    """

    epochs: Positive
    margin: Annotated[float, Field(ge=0)] = 0.4
    crop_s: Annotated[float, Field(gt=0)] | None = None


class Stage(_Section):
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


class Balanced(_Section):
    """Batches of so many utterances of so many speakers, for pairwise losses.

    Attributes:
        speakers: in a batch.
        utterances: of each.
    """

    speakers: Annotated[int, Field(ge=2)] = 32
    utterances: Annotated[int, Field(ge=2)] = 2


class TrainingSection(_Section):
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


class Lora(_Section):
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


class EncoderSection(_Section):
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


class RunSection(_Section):
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


class Recipe(_Section):
    """A training run; every section is described by its class.

    Attributes:
        kind: what is trained: ``rotation`` (closed forms and orthogonal refinement), ``linear`` and ``mlp`` heads on a
            frozen encoder, ``progressive`` (a head whose small dimensions join later), ``unfreeze`` (the encoder's
            parts join later), ``lora`` (low-rank additions to a frozen encoder), ``scratch`` (everything, from random).
        model: name in the catalogue, or folder, of the encoder to begin with.
        seed: of everything that is drawn.
    """

    kind: Kind
    model: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: DataSection = DataSection()
    head: HeadSection = HeadSection()
    loss: LossSection = LossSection()
    training: TrainingSection = TrainingSection()
    encoder: EncoderSection = EncoderSection()
    stages: tuple[Stage, ...] = ()
    run: RunSection = RunSection()

    @model_validator(mode="after")
    def _agrees(self, info: ValidationInfo) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        if info.context != _TOLERANT:
            for key, reason in idle_settings(self):
                raise ValueError(f"{key} means nothing here: {reason}; leave it out")
        return self

    def _problems(self) -> Iterator[str]:  # noqa: PLR0912  a list of rules
        """What does not go together; the first is reported."""
        if self.from_cache:
            if self.encoder != EncoderSection():
                yield f"encoder: nothing of the encoder learns with kind {self.kind}; leave the section out"
            if any(stage.train for stage in self.stages):
                yield f"stages: train names parts of the encoder, which is frozen with kind {self.kind}"
        if self.kind == "rotation" and self.stages:
            yield "stages: a rotation is fitted at once; leave them out"
        if self.kind == "progressive" and not any(stage.dims for stage in self.stages):
            yield "stages: kind progressive needs stages with dims, e.g. [{epoch: 0, dims: [256]}, ...]"
        if self.kind == "unfreeze" and not any(stage.train for stage in self.stages):
            yield "stages: kind unfreeze needs stages with train, e.g. [{epoch: 1, train: [linear]}]"
        if (self.kind == "lora") != (self.encoder.lora is not None):
            yield "encoder.lora: kind lora needs it, e.g. {rank: 8}, and no other kind takes it"
        if (self.encoder.config is not None) + (self.encoder.variant is not None) != (self.kind == "scratch"):
            yield "encoder: kind scratch needs variant (e.g. redimnet-b2) or config, and no other kind takes either"
        if self.kind == "scratch" and self.model is not None:
            yield "model: kind scratch begins with random weights; leave model out"
        if self.kind == "scratch" and (self.head.start != "random" or self.loss.distill):
            yield "head.start, loss.distill: with kind scratch nothing is pretrained; say random and 0"
        if self.kind == "scratch" and self.encoder.batch_norm == "frozen":
            yield "encoder.batch_norm: random weights have no statistics to freeze; say train"
        epochs = [stage.epoch for stage in self.stages]
        if epochs != sorted(set(epochs)):
            yield f"stages: epochs must rise, got {epochs}"
        if epochs and self.training.epochs and epochs[-1] >= self.training.epochs:
            yield f"stages: the stage at epoch {epochs[-1]} never begins, training.epochs is {self.training.epochs}"
        if self.loss.pairwise and self.training.balanced is None:
            yield f"training.balanced: loss {self.loss.kind} compares clips of one speaker; say {{speakers: 32}}"
        if (self.loss.pairwise or self.loss.distill) and self.training.micro_batch is not None:
            what = "distillation" if self.loss.distill else f"loss {self.loss.kind}"
            yield f"training.micro_batch: {what} compares the clips of the whole batch with each other; leave it out"
        if self.batch_size < self.fewest:
            yield f"training.batch_size: distillation needs at least {self.fewest} samples in a batch"
        if not self.loss.weight and not self.loss.distill:
            yield "loss: weight and distill are both 0, nothing would be learned"
        large = self.training.large_margin
        margins = {"loss.margin": self.loss.margin, "training.large_margin.margin": large.margin if large else 0.0}
        for key, margin in margins.items():
            if self.loss.kind in ("aam", "subcenter") and margin >= math.pi:
                yield f"{key}: loss {self.loss.kind} takes an angle in radians, below pi, got {margin:g}"
        if large is not None and large.epochs > self.training.epochs:
            yield f"training.large_margin.epochs: {large.epochs} of {self.training.epochs}"
        if large is not None and self.loss.kind in ("angular", "prototypical"):
            yield f"training.large_margin: loss {self.loss.kind} has no margin"

    @property
    def from_cache(self) -> bool:
        """Whether the encoder is frozen, so that a feature cache stands for it."""
        return self.kind in FROM_CACHE

    @property
    def batch_size(self) -> int:
        """Samples of one step of the optimizer."""
        drawn = self.training.balanced
        return self.training.batch_size if drawn is None else drawn.speakers * drawn.utterances

    @property
    def fewest(self) -> int:
        """Samples that a batch needs at the least: two clips have one cosine, which nothing can be learned from."""
        return 3 if self.loss.distill else 1

    def settings(self) -> dict[str, Any]:
        """Everything, JSON-serialisable."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Everything, defaults written out, with the hash on top; `load_recipe` reads it again."""
        body = yaml.safe_dump(self.settings(), sort_keys=False, allow_unicode=True)
        return f"# recipe {self.hash}\n{body}"

    @property
    def hash(self) -> str:
        """16 hex digits over all that decides the result, folders of files aside, which differ between machines."""
        settings = self.model_dump(mode="python")
        settings.pop("run")
        text = json.dumps(settings, sort_keys=True, default=lambda value: Path(value).name)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def shipped_recipes() -> dict[str, str]:
    """Names of the recipes in the package, and what each says of itself in its first comment."""
    found = {}
    for entry in sorted(resources.files("nestvox.training").joinpath("recipes").iterdir(), key=lambda item: item.name):
        if entry.name.endswith(".yaml"):
            found[entry.name.removesuffix(".yaml")] = entry.read_text("utf-8").splitlines()[0].removeprefix("# ")
    return found


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its name in the package or by path, and apply overrides.

    Relative paths in a file start from its folder, those in an override from the working directory. What an override
    leaves without meaning in a recipe of the package (the scale of its loss, with a loss that has none) is dropped.

    Args:
        name_or_path: ``linear``, or a YAML file.
        overrides: ``section.key=value`` each; the value is YAML.

    Raises:
        RecipeError: no such recipe, not YAML, an unknown key (the nearest known one is named) or a wrong value.
    """
    text, source, folder = _read(name_or_path)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{source}: a recipe is a mapping with the key kind, got {type(content).__name__}")
    if folder is not None:
        _from(folder, content)
    return parse_recipe(content, str(source), overrides, adapt=folder is None)


def parse_recipe(
    content: Mapping[str, Any], source: str, overrides: Sequence[str] = (), *, adapt: bool = False
) -> Recipe:
    """Check the keys and values of a recipe.

    Args:
        content: as YAML gives it.
        source: for messages.
        overrides: see `load_recipe`.
        adapt: drop settings of `content`, not of the overrides, that mean nothing; otherwise they are refused.

    Raises:
        RecipeError: an unknown key, a wrong value, or a setting that means nothing where it stands.
    """
    changed = copy.deepcopy(dict(content))
    for override in overrides:
        key, found, value = override.partition("=")
        if not found or not key:
            raise RecipeError(f"--set {override}: expected section.key=value, e.g. training.epochs=5")
        _set(changed, key.strip(), value)
    if adapt:
        said = [f"{override.partition('=')[0].strip()}." for override in overrides]
        for idle, _ in idle_settings(_validated(changed, source, _TOLERANT)):
            if not any(f"{idle}.".startswith(key) or key.startswith(f"{idle}.") for key in said):
                _drop(changed, idle)
    return _validated(changed, source)


def _validated(content: Mapping[str, Any], source: str, context: str | None = None) -> Recipe:
    try:
        return Recipe.model_validate(content, context=context)
    except ValidationError as error:
        raise RecipeError(f"{source}: " + "; ".join(_told(detail) for detail in error.errors())) from error


def _drop(content: dict[str, Any], key: str) -> None:
    *sections, last = key.split(".")
    place: Any = content
    for section in sections:
        place = place.get(section) if isinstance(place, dict) else None
    if isinstance(place, dict):
        place.pop(last, None)


def _read(name_or_path: str | Path) -> tuple[str, str | Path, Path | None]:
    path = Path(name_or_path)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), path, path.resolve().parent
        except UnicodeDecodeError as error:
            raise RecipeError(f"{path}: not a text file: {error}") from error
    shipped = shipped_recipes()
    if str(name_or_path) in shipped:
        file = resources.files("nestvox.training").joinpath("recipes", f"{name_or_path}.yaml")
        return file.read_text("utf-8"), f"recipe {name_or_path}", None
    near = difflib.get_close_matches(str(name_or_path), shipped, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise RecipeError(f"{name_or_path} is neither a file nor a recipe{hint} (there are {', '.join(shipped)})")


def _from(folder: Path, content: dict[str, Any]) -> None:
    """Make the relative paths of a recipe file start from its folder."""
    for key in _PATHS:
        section, _, name = key.partition(".")
        values = content.get(section)
        if isinstance(values, dict) and values.get(name) is not None:
            given = values[name]
            values[name] = (
                [_beside(folder, one) for one in given] if isinstance(given, list) else _beside(folder, given)
            )
    model = content.get("model")
    if isinstance(model, str) and (folder / model).is_dir():
        content["model"] = str(folder / model)


def _beside(folder: Path, path: object) -> object:
    return str(folder / path) if isinstance(path, str) and not path.startswith("~") else path


def _set(content: dict[str, Any], key: str, text: str) -> None:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {key}={text}: not a YAML value: {error}") from error
    *sections, last = key.split(".")
    place = content
    for section in sections:
        inner = place.setdefault(section, {})
        if inner is None:
            inner = place[section] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {key}: {section} holds {inner!r} and has no keys below it")
        place = inner
    place[last] = value


def _told(detail: Any) -> str:
    """One sentence about one error that pydantic found."""
    place = [str(part) for part in detail["loc"]]
    key = ".".join(place)
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key}; the nearest known one is {_nearest(key)}"
    if detail["type"] == "missing":
        return f"{key} is missing; it is one of {', '.join(_kinds())}" if key == "kind" else f"{key} is missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{key} = {detail['input']!r}: {message}" if key else message


def _nearest(key: str) -> str:
    """A likely slip of the pen in the same section, else the same name in another, else whatever looks most alike."""
    section, _, name = key.rpartition(".")
    known = _known_keys()
    beside = [other for other in known if other.rpartition(".")[0] == section]
    slips = difflib.get_close_matches(key, beside, n=1, cutoff=0.8)
    elsewhere = [other for other in known if other.rpartition(".")[2] == name]
    return (slips or elsewhere or difflib.get_close_matches(key, known, n=1, cutoff=0.0))[0]


def _known_keys(section: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    keys = []
    for name, entry in section.model_fields.items():
        keys.append(prefix + name)
        for kind in (entry.annotation, *getattr(entry.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys += _known_keys(kind, f"{prefix}{name}.")
    return keys


def _kinds() -> tuple[str, ...]:
    return Kind.__args__  # type: ignore[no-any-return, attr-defined]
