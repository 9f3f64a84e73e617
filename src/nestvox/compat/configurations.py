"""A configuration of another project in the place of a recipe: which project's it is, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestvox.compat.redimnet_mrl import config as redimnet_mrl
from nestvox.compat.redimnet_mrl import config_data as of_redimnet_mrl
from nestvox.compat.voxceleb_trainer import config as voxceleb_trainer
from nestvox.compat.voxceleb_trainer import config_data as of_voxceleb_trainer


@dataclass(frozen=True)
class Configuration:
    """A configuration that was translated.

    Attributes:
        notes: one sentence for each key that needs a word.
        recipe_of: the whole recipe, of the folder for its tables.
        data_there: whether that folder has them; refuses one that was made of others.
        prepare_data: makes them; takes `tell` and `progress` too.
    """

    notes: tuple[str, ...]
    recipe_of: Callable[[Path], Mapping[str, Any]]
    data_there: Callable[[Path], bool]
    prepare_data: Callable[..., Mapping[str, Any]]


def read_configuration(name_or_path: str | Path) -> Configuration | None:
    """Return what becomes of a configuration of redimnet-mrl or voxceleb_trainer; None where it is something else.

    Raises:
        RecipeError: an unknown key, or one that cannot be honoured, with the reason.
    """
    if (plan := redimnet_mrl.read_configuration(name_or_path)) is not None:
        return _bound(plan, of_redimnet_mrl)
    if (other := voxceleb_trainer.read_configuration(name_or_path)) is not None:
        return _bound(other, of_voxceleb_trainer)
    return None


def _bound(plan: Any, made_by: Any) -> Configuration:
    return Configuration(
        plan.notes,
        lambda folder: made_by.recipe_of(plan, folder),
        lambda folder: made_by.data_there(plan, folder),
        lambda folder, **asked: made_by.prepare_data(plan, folder, **asked),
    )


def data_folder(out: Path) -> Path:
    """Where the tables and trials of a run stand: beside it, with ``-data`` behind its name."""
    return out.absolute().with_name(f"{out.absolute().name}-data")
