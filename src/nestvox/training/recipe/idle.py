"""Settings of a recipe that mean nothing where they stand: found, so that nobody believes that they did something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nestvox.training.recipe.recipe import Recipe

__all__ = ["idle_settings"]


@dataclass(frozen=True)
class _Rule:
    """Keys that mean something in some recipes only."""

    keys: tuple[str, ...]
    meant: Callable[[Recipe], bool]
    reason: Callable[[Recipe], str]


def _speakers(recipe: Recipe, *kinds: str) -> bool:
    return bool(recipe.loss.weight) and recipe.loss.kind in kinds


def _perceptron(recipe: Recipe) -> bool:
    return (recipe.head.kind or recipe.kind) == "mlp"


_MARGINS = ("aam", "am", "subcenter", "sphereface2")

# In the order in which they are told: whole sections first.
_RULES = (
    _Rule(
        ("loss", "training", "head.kind", "head.norm"),
        lambda recipe: recipe.kind != "rotation",
        lambda _: "a rotation is found in closed form; data, head.dims, head.start_from and seed decide it",
    ),
    _Rule(
        ("data.augmentation", "data.noise", "data.rooms", "data.crop_s"),
        lambda recipe: recipe.kind != "rotation",
        lambda _: "a rotation is fitted on whole, clean utterances",
    ),
    _Rule(
        ("data.cache", "data.dev_cache"),
        lambda recipe: recipe.kind != "scratch",
        lambda _: "with kind scratch nothing is pretrained that there could be features of",
    ),
    _Rule(
        ("data.skip_bad",),
        lambda recipe: recipe.kind != "scratch",
        lambda _: "with kind scratch no features say what is left out; nestvox data check finds unusable audio",
    ),
    _Rule(
        ("data.spec_augment",),
        lambda recipe: not recipe.from_cache,
        lambda recipe: f"with kind {recipe.kind} the encoder runs once, before training",
    ),
    _Rule(
        ("data.open_shards",),
        lambda recipe: not recipe.from_cache and recipe.training.balanced is None,
        lambda recipe: (
            f"with kind {recipe.kind} training reads the cache and no audio"
            if recipe.from_cache
            else "training.balanced draws clips of each speaker from wherever they are"
        ),
    ),
    _Rule(
        ("head.hidden", "head.layers", "head.dropout"),
        _perceptron,
        lambda _: "a linear head has no hidden layer; head.kind mlp has",
    ),
    _Rule(
        ("head.start_from",),
        lambda recipe: recipe.head.start == "rotation",
        lambda recipe: f"the head begins {recipe.head.start}, not at a rotation",
    ),
    _Rule(
        ("loss.kind", "loss.prototypes", "loss.classifier"),
        lambda recipe: bool(recipe.loss.weight),
        lambda _: "loss.weight is 0: distillation alone is learned from",
    ),
    _Rule(
        ("loss.margin", "training.margin_warmup_epochs"),
        lambda recipe: _speakers(recipe, *_MARGINS, "triplet"),
        lambda recipe: f"loss {recipe.loss.kind} has no margin",
    ),
    _Rule(
        ("loss.scale", "loss.prototypes"),
        lambda recipe: _speakers(recipe, *_MARGINS),
        lambda recipe: f"loss {recipe.loss.kind} has no prototypes of speakers and no scale",
    ),
    _Rule(
        ("loss.easy_margin",),
        lambda recipe: _speakers(recipe, "aam", "subcenter"),
        lambda recipe: f"loss {recipe.loss.kind} has no easy margin; aam and subcenter have",
    ),
    _Rule(
        ("loss.sub_centers",),
        lambda recipe: _speakers(recipe, "subcenter"),
        lambda recipe: f"loss {recipe.loss.kind} has one prototype a speaker; subcenter has several",
    ),
    _Rule(
        ("loss.mining",),
        lambda recipe: _speakers(recipe, "triplet"),
        lambda recipe: f"loss {recipe.loss.kind} has no triplets",
    ),
    _Rule(
        ("loss.distill_terms",),
        lambda recipe: bool(recipe.loss.distill),
        lambda _: "loss.distill is 0",
    ),
    _Rule(
        ("training.prototype_rate",),
        lambda recipe: _speakers(recipe, *_MARGINS, "angular"),
        lambda recipe: f"loss {recipe.loss.kind} has nothing of its own that learns",
    ),
    _Rule(
        ("training.momentum",),
        lambda recipe: recipe.training.optimizer == "sgd",
        lambda _: "it is of the optimizer sgd; adamw has betas",
    ),
    _Rule(
        ("training.betas",),
        lambda recipe: recipe.training.optimizer == "adamw",
        lambda _: "they are of the optimizer adamw; sgd has momentum",
    ),
    _Rule(
        ("training.step_epochs",),
        lambda recipe: recipe.training.schedule == "step",
        lambda recipe: f"the schedule is {recipe.training.schedule}, not step",
    ),
    _Rule(
        ("training.gamma",),
        lambda recipe: recipe.training.schedule in ("step", "exponential"),
        lambda recipe: f"the schedule is {recipe.training.schedule}, neither step nor exponential",
    ),
    _Rule(
        ("training.min_learning_rate",),
        lambda recipe: recipe.training.schedule != "constant",
        lambda _: "the schedule is constant",
    ),
    _Rule(
        ("training.large_margin.crop_s",),
        lambda recipe: not recipe.from_cache,
        lambda recipe: f"with kind {recipe.kind} training sees what is in the cache, and no clips",
    ),
    _Rule(
        ("run.save_interval",),
        lambda recipe: recipe.kind != "rotation",
        lambda _: "a rotation is fitted at once, without epochs",
    ),
    _Rule(
        ("run.keep_last_n",),
        lambda recipe: recipe.run.save_interval is not None,
        lambda _: "run.save_interval is not set: the best model alone is kept",
    ),
    _Rule(
        ("encoder.batch_norm",),
        lambda recipe: recipe.kind != "lora",
        lambda _: "with kind lora the encoder's statistics stay as they are",
    ),
    _Rule(
        ("encoder.decay",),
        lambda recipe: recipe.kind not in ("lora", "scratch"),
        lambda recipe: f"with kind {recipe.kind} the encoder is one part, with one rate",
    ),
)


def idle_settings(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield the key and the reason of every setting that is not its default, and is not looked at.

    Args:
        recipe: whole and otherwise right.
    """
    for rule in _RULES:
        if not rule.meant(recipe):
            for key in rule.keys:
                if _differs(recipe, key):
                    yield key, rule.reason(recipe)


def _differs(recipe: Recipe, key: str) -> bool:
    *sections, name = key.split(".")
    place: Any = recipe
    for section in sections:
        place = getattr(place, section)
        if place is None:
            return False
    return bool(getattr(place, name) != type(place).model_fields[name].default)
