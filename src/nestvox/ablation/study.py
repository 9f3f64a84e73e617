"""A study: a base recipe, arms that change one setting of it each, seeds, and what it is reported on.

An arm that changes two settings says nothing about either, so a study with such an arm is refused. Settings may be
crossed where the study declares it (`Study.factorial`): then every combination is run, and each is read beside its
neighbours.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from nestvox.ablation.controls import controls_of
from nestvox.differences import differences
from nestvox.errors import RecipeError, first_of
from nestvox.gate import is_file, naming, parse_yaml, read_yaml
from nestvox.training.recipe.kinds import Recipe
from nestvox.training.recipe.recipe import load_recipe, nearest_key, parse_recipe, place_paths
from nestvox.training.recipe.sections import Place, Section, Text, Whole

BASE = "base"
CONTROL = "control"

_MOST_ARMS = 200
_MOST_SEEDS = 100
_WHOLE = ("model",)  # a section that is one setting: which network is trained


def _with_text_keys(value: object) -> object:
    """YAML reads the name of an arm ``0.4`` as a number."""
    return {str(key): one for key, one in value.items()} if isinstance(value, dict) else value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
Changes = Annotated[dict[Text, Any], Field(min_length=1, max_length=20)]
Levels = Annotated[dict[Name, Changes], BeforeValidator(_with_text_keys), Field(min_length=1, max_length=50)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]


class ReportSection(Section):
    """What the study is reported on, once it is over.

    Attributes:
        trials: labelled list, of speakers who are in neither training nor development.
        table: where their audio is.
    """

    trials: Place
    table: Place


class Study(Section):
    """A declared matrix of runs.

    Attributes:
        name: of the study, and the beginning of its models' names.
        base: a recipe: its name, its file, or all of it.
        factors: by name, arms by name, each with the setting that it changes and its value:
            ``alpha: {low: {objective.alpha: 0.1}}``. The base is an arm of every factor.
        factorial: two or more factors that are crossed: every combination of their arms and the base is run.
        seeds: every arm is run with each.
        report: other trials, which the finished models are measured on; none: the development trials alone.
    """

    name: Name
    base: Text | dict[str, Any]
    factors: Annotated[dict[Name, Levels], BeforeValidator(_with_text_keys), Field(max_length=50)] = Field(
        default_factory=dict
    )
    factorial: tuple[Text, ...] = ()
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=_MOST_SEEDS)] = (0, 1, 2)
    report: ReportSection | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Study:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: one is named twice, got {list(self.seeds)}")
        if strange := [name for name in self.factorial if name not in self.factors]:
            raise ValueError(f"factorial: {strange[0]} is no factor; there is {', '.join(self.factors) or 'none'}")
        if len(self.factorial) == 1 or len(set(self.factorial)) < len(self.factorial):
            raise ValueError("factorial: name two or more factors, each once")
        if any(not isinstance(self.base, str) and name == "seed" for name in _names_of(self.base)):
            raise ValueError("base.seed: the seeds of a study are its key seeds")
        return self


@dataclass(frozen=True)
class Arm:
    """One row of the matrix.

    Attributes:
        name: ``base``, ``alpha=low``, ``alpha=low,capacity=large``, or of a control.
        factor: that it belongs to; ``base`` or ``control``.
        changes: settings of the base that it changes.
        recipe: the whole of it, with the first seed.
    """

    name: str
    factor: str
    changes: Mapping[str, Any]
    recipe: Recipe


@dataclass(frozen=True)
class Plan:
    """A study and what it comes to.

    Attributes:
        study: as declared.
        arms: the base first, the controls last.
        source: for messages.
    """

    study: Study
    arms: tuple[Arm, ...]
    source: str

    @property
    def hash(self) -> str:
        """16 hex digits over everything that decides the result."""
        rows = {arm.name: arm.recipe.hash for arm in self.arms}
        report = None if self.study.report is None else self.study.report.trials.name
        text = json.dumps([rows, self.study.seeds, report], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def runs(self) -> list[tuple[Arm, int]]:
        """Every arm with every seed; all arms with the first seed come first."""
        return [(arm, seed) for seed in self.study.seeds for arm in self.arms]

    def to_yaml(self) -> str:
        """The study with its hash on top."""
        body = yaml.safe_dump(self.study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return f"# study {self.hash}\n{body}"


def shipped_studies() -> dict[str, str]:
    """Names of the studies in the package, and what each says of itself in its first comment."""
    return {path.stem: path.read_text("utf-8").splitlines()[0].removeprefix("# ") for path in _shipped()}


def _shipped() -> list[Path]:
    return sorted(Path(str(resources.files("nestvox.ablation").joinpath("studies"))).glob("*.yaml"))


def load_study(study: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Plan:
    """Read a study and make its arms.

    Args:
        study: one of the package by its name, a YAML file, or what it holds. Relative paths in a file start from its
            folder.
        overrides: ``key=value`` each: of the study (``seeds=[0]``), else of the base recipe (``training.epochs=2``).

    Raises:
        RecipeError: no such file, an unknown key (the nearest known one is named), a wrong value, an arm that changes
            no setting or more than one, or two arms that are the same.
    """
    source = str(study) if isinstance(study, str | Path) else "the study"
    if isinstance(study, str) and not is_file(study):
        study = next((path for path in _shipped() if path.stem == study), study)
    folder = Path(study).resolve().parent if isinstance(study, str | Path) else Path.cwd()
    known = f"not there; studies of the package are {', '.join(shipped_studies())}"
    content = read_yaml(study, naming(RecipeError), missing=known) if isinstance(study, str | Path) else dict(study)
    if not isinstance(content, dict):
        raise RecipeError(f"{source}: a study is a mapping with the keys name, base and factors")
    own = [text for text in overrides if text.partition("=")[0].partition(".")[0].strip() in Study.model_fields]
    for text in own:
        _override(content, text)
    try:
        declared = Study.model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"{source}: {_told(error)}") from error
    if declared.report is not None:
        trials, table = declared.report.trials, declared.report.table
        report = ReportSection(trials=folder / trials, table=folder / table)  # an absolute one stays
        declared = declared.model_copy(update={"report": report})
    base = _base_of(declared, folder, source, [text for text in overrides if text not in own])
    return Plan(declared, tuple(_arms(declared, base, folder, source)), source)


def _base_of(study: Study, folder: Path, source: str, overrides: Sequence[str]) -> Recipe:
    if any(text.partition("=")[0].strip() == "seed" for text in overrides):
        raise RecipeError("--set seed: the seeds of a study are its key seeds, e.g. --set seeds=[3,4]")
    seed = f"seed={study.seeds[0]}"
    if isinstance(study.base, str):
        beside = folder / study.base
        return load_recipe(beside if is_file(beside) else study.base, [*overrides, seed])
    content = json.loads(json.dumps(study.base))
    place_paths(folder, content)
    return parse_recipe(content, f"{source}: base", [*overrides, seed])


def _arms(study: Study, base: Recipe, folder: Path, source: str) -> Iterator[Arm]:
    """Every arm, refused where it is not one."""
    found = [Arm(BASE, BASE, {}, base)]
    for factor, levels in study.factors.items():
        for level, changes in levels.items():
            arm = _arm(f"{factor}={level}", factor, changes, base, folder, source)
            _refuse_two_settings(arm, base, source)
            found.append(arm)
    if study.factorial:
        named = [[None, *study.factors[factor]] for factor in study.factorial]
        for cell in itertools.product(*named):
            chosen = [(factor, level) for factor, level in zip(study.factorial, cell, strict=True) if level]
            if len(chosen) > 1:  # alone they are there already
                changes = {
                    key: value for factor, level in chosen for key, value in study.factors[factor][level].items()
                }
                name = ",".join(f"{factor}={level}" for factor, level in chosen)
                found.append(_arm(name, " x ".join(study.factorial), changes, base, folder, source))
    if len(found) > _MOST_ARMS:
        raise RecipeError(f"{source}: {len(found):,} arms; there may be {_MOST_ARMS}")
    first: dict[str, str] = {}
    for arm in found:
        if (other := first.setdefault(arm.recipe.hash, arm.name)) != arm.name:
            raise RecipeError(f"{source}: {arm.name} is the same run as {other}; leave one of them out")
    yield from found
    taught = next((arm for arm in found if controls_of(arm.recipe)), None)
    for name, changes in controls_of(taught.recipe).items() if taught is not None else ():
        control = _arm(name, CONTROL, {**taught.changes, **changes}, base, folder, source) if taught else found[0]
        if control.recipe.hash not in first:  # an arm of the study may be the control
            yield control


def _arm(name: str, factor: str, changes: Mapping[str, Any], base: Recipe, folder: Path, source: str) -> Arm:
    if "seed" in changes or any(key == "run" or key.startswith("run.") for key in changes):
        raise RecipeError(f"{source}: {name}: seed and run are no settings to compare; the study has seeds")
    nested: dict[str, Any] = {}
    for key, value in changes.items():
        section, _, inner = key.partition(".")
        nested[section] = {inner: value} if inner else value
        place_paths(folder, nested)
        value = nested[section][inner] if inner else nested[section]  # noqa: PLW2901  its path has its place
        changes = {**changes, key: value}
    said = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    return Arm(name, factor, changes, parse_recipe(base.settings(), f"{source}: {name}", said, adapt=True))


def _refuse_two_settings(arm: Arm, base: Recipe, source: str) -> None:
    """An arm of one factor changes one setting; what only means something with it, as the margin of another loss, may.

    A section counts as its settings, unless it is of another kind than the base's, or is the model.
    """
    changed = list(_changed(arm.changes, base))
    if not changed:
        raise RecipeError(f"{source}: {arm.name} changes nothing: {', '.join(arm.changes)} is what the base has")
    if len(changed) > 1:
        raise RecipeError(
            f"{source}: {arm.name} changes {len(changed)} settings, {first_of(changed)}: what it does could not be "
            "said of either; make it two factors, and name them in factorial if they are to be crossed"
        )


def _changed(changes: Mapping[str, Any], base: Recipe) -> Iterator[str]:
    for key, value in changes.items():
        place: Any = base
        for part in key.split("."):
            place = place.get(part) if isinstance(place, Mapping) else getattr(place, part, None)
        if not isinstance(place, BaseModel) or not isinstance(value, Mapping) or key in _WHOLE:
            before = place.model_dump(mode="json") if isinstance(place, BaseModel) else place
            if differences({key: before}, {key: value}):
                yield key
        elif value.get("kind", getattr(place, "kind", None)) != getattr(place, "kind", None):
            yield f"{key}.kind"
        else:
            yield from _changed({f"{key}.{name}": inner for name, inner in value.items()}, base)


def _override(content: dict[str, Any], text: str) -> None:
    key, found, value = text.partition("=")
    *sections, last = key.strip().split(".")
    place = content
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise RecipeError(f"--set {key}: {section} has no keys below it")
    if not found:
        raise RecipeError(f"--set {text}: expected key=value, e.g. seeds=[0,1]")
    place[last] = parse_yaml(value, f"--set {key}", naming(RecipeError))


def _told(error: ValidationError) -> str:
    """The first things that are wrong with the keys of a study."""
    told = []
    for detail in error.errors()[:4]:
        key = ".".join(str(part) for part in detail["loc"] if part not in ("constrained-str", "dict[str,any]", "[key]"))
        if detail["type"] == "extra_forbidden":
            known = [*Study.model_fields, *(f"report.{name}" for name in ReportSection.model_fields)]
            told.append(f"unknown key {key}; the nearest known one is {nearest_key(key, known)}")
        elif detail["type"] == "missing":
            told.append(f"{key} is missing")
        else:
            words = str(detail["msg"]).removeprefix("Value error, ")
            told.append(f"{key} = {str(detail['input'])[:60]}: {words}" if key else words)
    return "; ".join(dict.fromkeys(told))


def _names_of(value: object) -> list[str]:
    return [str(key) for key in value] if isinstance(value, dict) else []
