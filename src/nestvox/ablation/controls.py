"""The runs that say what a teacher is worth: without one, with one whose answers are shuffled, with one that is random.

A student that is no better than with a shuffled or a random teacher has learned nothing from what the teacher knows
about speakers, whatever its loss says.
"""

from __future__ import annotations

from typing import Any

from nestvox.training.recipe.kinds import DistilRecipe, LoopRecipe, Recipe


def controls_of(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The settings that make the controls of a recipe with a teacher, by name; nothing for one without."""
    if not isinstance(recipe, LoopRecipe) or not recipe.distils:
        return {}
    alone: dict[str, Any] = {"loss.distill": 0.0} | ({} if recipe.loss.weight else {"loss.weight": 1.0})
    if isinstance(recipe, DistilRecipe):
        alone = {"objective": {"alpha": 0.0, "terms": {}}, "teacher": None, "teachers": {}}
        if recipe.data.unlabelled is not None:
            alone["data.unlabelled"] = None  # nothing can be learned of these without a teacher
    return {
        "no-distillation": alone,
        "shuffled-teacher": {"teacher_order": "shuffled"},
        "random-teacher": {"teacher_order": "random"},
    }
