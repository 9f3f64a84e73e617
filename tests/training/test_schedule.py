"""Learning rate, margin and stages over time, against values by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nestvox.training.recipe.kinds import LoopRecipe
from nestvox.training.recipe.learning import Schedule
from nestvox.training.recipe.recipe import parse_recipe


def schedule(stages: list[dict[str, Any]] | None = None, margin: float = 0.2, **training: Any) -> Schedule:
    given = {"epochs": 10, "learning_rate": 1.0, **training}
    content = {"kind": "unfreeze", "loss": {"margin": margin}, "training": given, "stages": stages or ALL}
    recipe = parse_recipe(content, "test")
    assert isinstance(recipe, LoopRecipe)
    return recipe.schedule


ALL = [{"epoch": 0, "train": ["all"]}]


def test_warm_up_is_a_line_from_zero() -> None:
    warm = schedule(warmup_epochs=2, schedule="constant")
    assert [warm.rate(time) for time in (0.0, 0.5, 1.0, 2.0, 9.9)] == [0.0, 0.25, 0.5, 1.0, 1.0]


def test_cosine_falls_from_the_top_to_the_bottom() -> None:
    cosine = schedule(warmup_epochs=2, min_learning_rate=0.1)
    assert cosine.rate(2) == 1.0
    assert cosine.rate(6) == pytest.approx(0.55)
    assert cosine.rate(4) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert cosine.rate(10) == pytest.approx(0.1)


def test_steps_and_exponential() -> None:
    steps = schedule(schedule="step", step_epochs=3, gamma=0.1, min_learning_rate=0.005)
    assert [steps.rate(time) for time in (0, 2.99, 3, 6)] == pytest.approx([1, 1, 0.1, 0.01])
    assert steps.rate(9) == 0.005
    falling = schedule(schedule="exponential", gamma=0.5)
    assert [falling.rate(time) for time in (0, 1, 2.5)] == pytest.approx([1, 0.5, 2**-2.5])


def test_margin_warms_up_and_grows_at_the_end() -> None:
    found = schedule(margin_warmup_epochs=4, large_margin={"epochs": 2, "margin": 0.5, "crop_s": 6.0})
    assert [found.margin_at(time) for time in (0, 1, 4, 7.99, 8, 9.9)] == pytest.approx([0, 0.05, 0.2, 0.2, 0.5, 0.5])
    assert [found.crop_s(epoch, 3.0) for epoch in (0, 7, 8, 9)] == [3.0, 3.0, 6.0, 6.0]


def test_dims_are_the_last_named() -> None:
    found = schedule(
        [
            {"epoch": 0, "dims": [64]},
            {"epoch": 2, "train": ["pool"]},
            {"epoch": 5, "dims": [64, 16]},
        ]
    )
    assert [found.dims(epoch, (16, 32, 64)) for epoch in (0, 4, 5)] == [(64,), (64,), (16, 64)]
    assert schedule().dims(3, (16, 32)) == (16, 32)
