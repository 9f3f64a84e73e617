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
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from nestvox.errors import RecipeError
from nestvox.gate import MOST_YAML_BYTES, is_folder, naming, parse_yaml, read_text
from nestvox.training.recipe.idle import idle_settings
from nestvox.training.recipe.sections import (
    MOST_LISTED,
    MOST_SAMPLES,
    DataSection,
    EncoderSection,
    HeadSection,
    Kind,
    LossSection,
    RunSection,
    Section,
    Stage,
    Text,
    TrainingSection,
    Whole,
)

__all__ = ["FROM_CACHE", "Recipe", "load_recipe", "parse_recipe", "shipped_recipes"]

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
_MOST_TOLD = 8  # errors of one recipe
_MOST_SHOWN = 80  # characters of a value
_TOLERANT = "settings that mean nothing pass"


class Recipe(Section):
    """A training run; every section is described by its class.

    Attributes:
        kind: what is trained: ``rotation`` (closed forms and orthogonal refinement), ``linear`` and ``mlp`` heads on a
            frozen encoder, ``progressive`` (a head whose small dimensions join later), ``unfreeze`` (the encoder's
            parts join later), ``lora`` (low-rank additions to a frozen encoder), ``scratch`` (everything, from random).
        model: name in the catalogue, or folder, of the encoder to begin with.
        seed: of everything that is drawn.
    """

    kind: Kind
    model: Text | None = None
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 0
    data: DataSection = DataSection()
    head: HeadSection = HeadSection()
    loss: LossSection = LossSection()
    training: TrainingSection = TrainingSection()
    encoder: EncoderSection = EncoderSection()
    stages: Annotated[tuple[Stage, ...], Field(max_length=MOST_LISTED)] = ()
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
        if self.batch_size > MOST_SAMPLES:
            yield f"training.balanced: {self.batch_size:,} samples in a batch; there may be {MOST_SAMPLES:,}"
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

    def decisive(self) -> dict[str, Any]:
        """All that decides the result; of files the name alone, as folders differ between machines."""
        settings = self.model_dump(mode="python")
        settings.pop("run")
        found: dict[str, Any] = json.loads(json.dumps(settings, default=lambda value: Path(value).name))
        return found

    @property
    def hash(self) -> str:
        """16 hex digits over all that decides the result."""
        settings = self.model_dump(mode="python")
        settings.pop("run")
        text = json.dumps(settings, sort_keys=True, default=lambda value: Path(value).name)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def shipped_recipes() -> dict[str, str]:
    """Names of the recipes in the package, and what each says of itself in its first comment."""
    found = {}
    for entry in sorted(
        resources.files("nestvox.training.recipe").joinpath("recipes").iterdir(), key=lambda item: item.name
    ):
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
    content = parse_yaml(text, str(source), naming(RecipeError))
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
        found = error.errors()
        more = f"; and {len(found) - _MOST_TOLD:,} more" if len(found) > _MOST_TOLD else ""
        raise RecipeError(f"{source}: " + "; ".join(map(_told, found[:_MOST_TOLD])) + more) from error


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
        text = read_text(path, naming(RecipeError), most_bytes=MOST_YAML_BYTES)
        return text, path, path.resolve().parent
    shipped = shipped_recipes()
    if str(name_or_path) in shipped:
        file = resources.files("nestvox.training.recipe").joinpath("recipes", f"{name_or_path}.yaml")
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
    if isinstance(model, str) and is_folder(folder / model):
        content["model"] = str(folder / model)


def _beside(folder: Path, path: object) -> object:
    return str(folder / path) if isinstance(path, str) and not path.startswith("~") else path


def _set(content: dict[str, Any], key: str, text: str) -> None:
    value = parse_yaml(text, f"--set {_brief(f'{key}={text}')}", naming(RecipeError))
    *sections, last = key.split(".")
    place = content
    for section in sections:
        inner = place.setdefault(section, {})
        if inner is None:
            inner = place[section] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {key}: {section} holds {_brief(repr(inner))} and has no keys below it")
        place = inner
    place[last] = value


def _told(detail: Any) -> str:
    """One sentence about one error that pydantic found."""
    key = _brief(".".join(str(part) for part in detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key}; the nearest known one is {_nearest(key)}"
    if detail["type"] == "missing":
        return f"{key} is missing; it is one of {', '.join(_kinds())}" if key == "kind" else f"{key} is missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{key} = {_brief(repr(detail['input']))}: {message}" if key else message


def _brief(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


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
