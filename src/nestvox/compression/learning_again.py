"""Pruned and sparse forms that learn again from the original: a distillation that begins with the form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from nestvox.compression.forms import LEARNT_AGAIN, with_encoder
from nestvox.errors import ModelError
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Bars
from nestvox.training.recipe.kinds import Recipe
from nestvox.training.recipe.recipe import load_recipe
from nestvox.training.run_log import Watch
from nestvox.training.train import train


def recipe_of(recipe: str | Path, model: SpeakerModel, form: str, out: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe of kind distil, and let it begin with a form and learn from the original.

    Args:
        recipe: its name, or a YAML file; what it says of model, start, teacher and dimensions does not count.
        model: the original.
        form: that the student is.
        out: folder of the forms.
        overrides: ``section.key=value`` each.

    Raises:
        ModelError: the head of the model takes pooled vectors, which a distillation of the embedding does not hold.
        RecipeError: as of `load_recipe`.
    """
    if model.head is not None and model.head.tap == "pooled":
        raise ModelError(
            f"{form} cannot learn again: the head of {model.name} takes pooled vectors; only the embedding is taught"
        )
    ours = {
        "kind": "distil",
        "model": None,
        "start": str(out / form),
        "teacher": model.name,
        "head.dims": [*sorted({*model.dims, model.encoder.embedding_dim})],
        "encoder.keep_zeros": form == "sparse",
        "data.targets": str(out / "targets"),
    }
    return load_recipe(recipe, [*overrides, *(f"{key}={json.dumps(value)}" for key, value in ours.items())])


def learnt_again(
    recipe: Recipe, model: SpeakerModel, form: str, out: Path, bars: Bars, watch: Watch | None
) -> SpeakerModel:
    """Train a form that is written on the embeddings of the original, and put the original's head behind it.

    The run in ``out/FORM-run`` goes on where one was stopped.
    """
    name, _ = LEARNT_AGAIN[form]
    alone = SpeakerModel(model.encoder, name=model.name, backend=model.backend)
    trained = train(recipe, out / f"{form}-run", teacher=alone, resume=True, bars=bars, watch=watch)
    assert trained is not None
    made = with_encoder(model, trained.model.encoder, name)
    made.training_speakers = tuple(dict.fromkeys([*made.training_speakers, *trained.model.training_speakers]))
    made.card["chosen_on"] = sorted({*made.chosen_on, *trained.model.chosen_on})
    return made
