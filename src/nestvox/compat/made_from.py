"""What the tables of a run were made of, so that a run is not resumed on others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestvox.atomic import write_text
from nestvox.differences import differences, differences_in_words
from nestvox.errors import RecipeError
from nestvox.gate import naming, read_json

RECIPE_FILE = "recipe.yaml"

_MADE_FROM = "made_from.json"


def note_made_from(made: Path, settings: Mapping[str, Any]) -> None:
    """Write down what the tables of a folder are made of; the recipe, written last, says that they are whole."""
    write_text(made / _MADE_FROM, json.dumps(settings, indent=2) + "\n")


def made_before(made: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a folder has its tables already.

    Raises:
        RecipeError: they were made of other settings, which are named, or the note of these is damaged.
    """
    if not (made / RECIPE_FILE).is_file():
        return False
    if (made / _MADE_FROM).is_file():
        before = read_json(made / _MADE_FROM, naming(RecipeError))
        if different := differences(before if isinstance(before, dict) else {}, settings):
            raise RecipeError(
                f"{made} was made with other settings ({differences_in_words(different)}): give the same ones to "
                "resume the run, or another --out"
            )
    return True
