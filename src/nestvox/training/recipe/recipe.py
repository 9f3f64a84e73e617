"""Reading a recipe: YAML, checked key by key, overridden from the command line.

A recipe has one section for each question: which `data`, which `head`, which `loss`, how to run the `training`, how
fast the `encoder` learns, and what to write down (`run`). Every key has a default; an unknown one is an error that
names the nearest known key. The section `run` decides nothing about the result and does not enter the hash.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from nestvox.errors import RecipeError
from nestvox.gate import MOST_YAML_BYTES, is_folder, naming, parse_yaml, read_text
from nestvox.training.recipe.kinds import AnyRecipe, Recipe

_KINDS: Mapping[str, type[Recipe]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(get_args(AnyRecipe)[0])
}
_RECIPE: TypeAdapter[Recipe] = TypeAdapter(AnyRecipe)
_MOVED = {  # of version 0.1
    "model": ("start", "what a run begins with; model is what kind scratch builds"),
    "encoder.variant": ("model", "what is trained"),
    "encoder.config": ("model", "what is trained"),
}
_PATHS = (
    "data.table",
    "data.dev_table",
    "data.dev_trials",
    "data.cache",
    "data.dev_cache",
    "data.noise",
    "data.rooms",
    "head.start_from",
    "data.targets",
)
_MOST_TOLD = 8  # errors of one recipe
_MOST_SHOWN = 80  # characters of a value


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
        place_paths(folder, content)
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
    said = [f"{override.partition('=')[0].strip()}." for override in overrides]
    while True:
        try:
            return _RECIPE.validate_python(changed)
        except ValidationError as error:
            idle = [key for key in map(_idle, error.errors()) if key and adapt]
            dropped = [
                key for key in idle if not any(f"{key}.".startswith(one) or one.startswith(f"{key}.") for one in said)
            ]
            if not dropped:
                raise _refusal(source, error) from error
            for key in dropped:
                _drop(changed, key)


def _refusal(source: str, error: ValidationError) -> RecipeError:
    found = error.errors()
    more = f"; and {len(found) - _MOST_TOLD:,} more" if len(found) > _MOST_TOLD else ""
    return RecipeError(f"{source}: " + "; ".join(map(_told, found[:_MOST_TOLD])) + more)


def _drop(content: dict[str, Any], key: str) -> None:
    *sections, last = key.split(".")
    place: Any = content
    for section in sections:
        place = place[int(section) if isinstance(place, list) else section]
    del place[last]


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


def place_paths(folder: Path, content: dict[str, Any]) -> None:
    """Make the relative paths of a recipe file start from its folder."""
    for key in _PATHS:
        section, _, name = key.partition(".")
        values = content.get(section)
        if isinstance(values, dict) and values.get(name) is not None:
            given = values[name]
            values[name] = (
                [_beside(folder, one) for one in given] if isinstance(given, list) else _beside(folder, given)
            )
    named = content.get("teachers")
    teachers: dict[str, Any] = named if isinstance(named, dict) else {}
    for place, names in ((content, ("start", "teacher")), (teachers, tuple(teachers))):
        for name in names:
            model = place.get(name)
            if isinstance(model, str) and is_folder(folder / model):
                place[name] = str(folder / model)


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


def _place(detail: Any) -> tuple[str, str, str]:
    """Kind of recipe, kind of loss or head, and key that an error of pydantic is about; empty where there is none."""
    if detail["type"].startswith("union_tag") and not detail["loc"]:
        return "", "", "kind"
    kind, *places = map(str, detail["loc"])
    inner = ""
    if len(places) > 1 and places[1] in _known(kind).get(f"{places[0]}.kind", ()):
        inner = places.pop(1)
    if detail["type"] == "idle":
        places.append(detail["ctx"]["key"])
    return kind, inner, ".".join(places)


def _idle(detail: Any) -> str:
    """The key of a setting that means nothing in this recipe, though it does in others; empty for other errors."""
    _, _, key = _place(detail)
    known = any(_unnumbered(key) in _known(other) for other in _KINDS)
    return key if detail["type"] == "idle" or (detail["type"] == "extra_forbidden" and known) else ""


def _told(detail: Any) -> str:
    """One sentence about one error that pydantic found."""
    kind, inner, key = _place(detail)
    shown, value, problem = _brief(key), detail["input"], detail["type"]
    if not kind:
        known = f"it is one of {', '.join(_KINDS)}"
        return f"kind = {_brief(repr(value['kind']))}: {known}" if "kind" in value else f"kind is missing; {known}"
    if problem in ("extra_forbidden", "none_required"):
        return _strange(kind, inner, key)
    if problem == "missing":
        return f"{shown} is missing"
    if problem == "idle":
        return f"{shown} means nothing here: {detail['ctx']['reason']}; leave it out"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{shown} = {_brief(repr(value))}: {message}" if key else message


def _strange(kind: str, inner: str, key: str) -> str:
    """What a key is that this kind of recipe does not know."""
    name = _unnumbered(key)
    if name in _MOVED and _MOVED[name][0] in _known(kind):
        return "{} is now {}: {}".format(key, *_MOVED[name])
    if having := _known(kind).get(name, ()):
        what = f"{key.partition('.')[0]} {inner}"
    else:
        having, what = tuple(other for other in _KINDS if name in _known(other) and other != kind), f"kind {kind}"
    if having:
        return f"{key} means nothing here: {what} does not have it ({', '.join(having)} have); leave it out"
    return f"unknown key {_brief(key)}; the nearest known one is {nearest_key(key, [*_known(kind)])}"


def _unnumbered(key: str) -> str:
    return ".".join(part for part in key.split(".") if not part.isdigit())


@cache
def _known(kind: str) -> Mapping[str, tuple[str, ...]]:
    """Keys of a kind of recipe; of those of a loss or head also which kinds of it know them."""
    found: dict[str, tuple[str, ...]] = {}

    def walk(section: type[BaseModel], prefix: str, tags: tuple[str, ...]) -> None:
        for name, entry in section.model_fields.items():
            key = prefix + name
            found[key] = (*found.get(key, ()), *tags)
            below = [one for one in (entry.annotation, *get_args(entry.annotation)) if isinstance(one, type)]
            for one in below:
                if issubclass(one, BaseModel):
                    inner = one.model_fields.get("kind")
                    walk(one, f"{key}.", get_args(inner.annotation) if inner is not None else ())

    if kind in _KINDS:
        walk(_KINDS[kind], "", ())
    return found


def _brief(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def nearest_key(key: str, known: Sequence[str]) -> str:
    """A likely slip of the pen in the same section, else the same name in another, else whatever looks most alike."""
    section, _, name = key.rpartition(".")
    beside = [other for other in known if other.rpartition(".")[0] == section]
    slips = difflib.get_close_matches(key, beside, n=1, cutoff=0.8)
    elsewhere = [other for other in known if other.rpartition(".")[2] == name]
    return (slips or elsewhere or difflib.get_close_matches(key, known, n=1, cutoff=0.0))[0]
