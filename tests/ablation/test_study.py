"""What a study may say: arms of one setting, factorials that are declared, seeds, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nestvox.ablation import load_study, shipped_studies
from nestvox.encoders.registry import build
from nestvox.errors import RecipeError
from nestvox.training.recipe.kinds import DistilRecipe

Made = Callable[..., dict[str, Any]]

RATE = {"low": {"training.learning_rate": 0.004}, "high": {"training.learning_rate": 0.1}}
DIMS = {"three": {"head.dims": [4, 8, 24]}}


def test_an_arm_is_the_base_but_for_its_setting(study: Made) -> None:
    plan = load_study(study(factors={"rate": RATE, "dims": DIMS}))
    base, low, high, three = plan.arms
    assert [arm.name for arm in plan.arms] == ["base", "rate=low", "rate=high", "dims=three"]
    assert (low.factor, three.factor) == ("rate", "dims")
    assert low.recipe.decisive() | {"training": {}} == base.recipe.decisive() | {"training": {}}
    assert [arm.recipe.training.learning_rate for arm in (base, low, high)] == [0.02, 0.004, 0.1]  # type: ignore[attr-defined]
    assert three.recipe.head.dims == (4, 8, 24)
    assert [(arm.name, seed) for arm, seed in plan.runs][3:5] == [("dims=three", 0), ("base", 1)]


def test_a_factorial_crosses_what_it_names(study: Made) -> None:
    plan = load_study(study(factors={"rate": RATE, "dims": DIMS}, factorial=["rate", "dims"]))
    names = [arm.name for arm in plan.arms]
    assert names[:4] == ["base", "rate=low", "rate=high", "dims=three"]
    assert names[4:] == ["rate=low,dims=three", "rate=high,dims=three"]
    cell = plan.arms[-1]
    assert (cell.recipe.training.learning_rate, cell.recipe.head.dims) == (0.1, (4, 8, 24))  # type: ignore[attr-defined]
    grid = {"alpha": {"a": {"training.ema": 0.9}, "b": {"training.ema": 0.99}}, "rate": RATE}
    assert len(load_study(study(factors=grid, factorial=["alpha", "rate"])).arms) == 9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"factors": {"x": {"a": {"training.learning_rate": 0.1, "training.weight_decay": 0.1}}}},
            "x=a changes 2 settings, training.learning_rate, training.weight_decay",
        ),
        (
            {"factors": {"x": {"a": {"training": {"learning_rate": 0.1, "batch_size": 64}}}}},
            "x=a changes 2 settings, training.learning_rate, training.batch_size",
        ),
        ({"factors": {"x": {"a": {"training.learning_rate": 0.02}}}}, "x=a changes nothing"),
        ({"factors": {"x": {"a": {"training.learning_rat": 0.1}}}}, "nearest known one is training.learning_rate"),
        ({"factors": {"x": {"a": {"seed": 3}}}}, "x=a: seed and run are no settings to compare"),
        (
            {"factors": {"x": {"a": {"training.ema": 0.9}}, "y": {"b": {"training.ema": 0.9}}}},
            "y=b is the same run as x=a",
        ),
        ({"factors": {"rate": RATE}, "factorial": ["rate", "size"]}, "size is no factor; there is rate"),
        ({"factors": {"rate": RATE}, "factorial": ["rate"]}, "name two or more factors"),
        ({"seed": [1]}, "unknown key seed; the nearest known one is seeds"),
        ({"report": {"trial": "t.txt"}}, "unknown key report.trial; the nearest known one is report.trials"),
        ({"seeds": [1, 1]}, "seeds: one is named twice"),
        ({"seeds": []}, "seeds"),
        ({"name": "a/b"}, "name = a/b"),
        ({"factors": {"x": {"../a": {"training.ema": 0.9}}}}, "factors.x"),
    ],
)
def test_what_is_no_study_is_refused_by_name(study: Made, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words.replace(".", r"\.")):
        load_study(study(**changes))


def test_another_loss_is_one_setting_with_what_belongs_to_it(study: Made) -> None:
    plan = load_study(study(factors={"loss": {"sphere": {"loss": {"kind": "sphereface2", "margin": 0.3}}}}))
    assert plan.arms[1].recipe.loss.kind == "sphereface2"  # type: ignore[attr-defined]


def test_of_a_file_paths_start_from_its_folder_and_keys_are_overridden(study: Made, tmp_path: Path) -> None:
    content = study(base="base.yaml", factors={"alpha": {0.9: {"training.ema": 0.9}}}, seeds=[4, 5])
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(study()["base"]))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    plan = load_study(tmp_path / "study.yaml", ["seeds=[7]", "training.epochs=9"])
    assert [arm.name for arm in plan.arms] == ["base", "alpha=0.9"]
    assert plan.study.seeds == (7,)
    assert {(arm.recipe.seed, arm.recipe.training.epochs) for arm in plan.arms} == {(7, 9)}  # type: ignore[attr-defined]
    assert plan.hash != load_study(tmp_path / "study.yaml", ["seeds=[7]"]).hash
    with pytest.raises(RecipeError, match=r"--set seeds=\[3,4\]"):
        load_study(tmp_path / "study.yaml", ["seed=3"])


def test_a_teacher_brings_its_controls(study: Made) -> None:
    base = study()["base"] | {"loss": {"distill": 1.0}}
    arms = {arm.name: arm for arm in load_study(study(base=base)).arms}
    assert list(arms)[2:] == ["no-distillation", "shuffled-teacher", "random-teacher"]
    assert {arms[name].factor for name in list(arms)[2:]} == {"control"}
    assert arms["no-distillation"].recipe.loss.distill == 0.0  # type: ignore[attr-defined]
    assert arms["shuffled-teacher"].recipe.teacher_order == "shuffled"  # type: ignore[attr-defined]
    assert arms["random-teacher"].recipe.teacher_order == "random"  # type: ignore[attr-defined]
    alone = load_study(study(base=base | {"loss": {"distill": 1.0, "weight": 0.0}})).arms[-3].recipe.loss  # type: ignore[attr-defined]
    assert (alone.distill, alone.weight) == (0.0, 1.0)


def test_a_student_has_the_same_controls() -> None:
    base = {"kind": "distil", "model": "mixer-v2", "teacher": "campplus", "objective": {"alpha": 1}}
    base["data"] = {"targets": "targets", "unlabelled": {"split": "none"}}
    base["teachers"] = {"other": "ge2e"}
    base["objective"]["terms"] = {"cosine": {}, "second": {"kind": "gram", "of": "other"}}
    half = {"half": {"objective.alpha": 0.5}}
    with pytest.raises(RecipeError, match="these have no speakers"):
        load_study({"name": "a", "base": base, "factors": {"alpha": half}})
    rate = {"rate": {"low": {"training.learning_rate": 0.1}}}
    arms = {arm.name: arm.recipe for arm in load_study({"name": "a", "base": base, "factors": rate}).arms}
    assert list(arms) == ["base", "rate=low", *CONTROLS]
    alone = arms["no-distillation"]
    assert isinstance(alone, DistilRecipe)
    assert (alone.objective.alpha, alone.objective.terms, alone.teacher, alone.teachers) == (0.0, {}, None, {})
    assert alone.data.unlabelled is None
    assert arms["random-teacher"].teacher_order == "random"  # type: ignore[attr-defined]


def test_an_arm_may_be_a_control_already_and_only_an_arm_may_have_a_teacher(study: Made) -> None:
    base = study()["base"] | {"loss": {"distill": 1.0}}
    names = [arm.name for arm in load_study(study(base=base, factors={"alpha": {"0": {"loss.distill": 0.0}}})).arms]
    assert names == ["base", "alpha=0", "shuffled-teacher", "random-teacher"]
    arms = load_study(study(factors={"alpha": {"0.5": {"loss.distill": 0.5}}})).arms
    assert [arm.name for arm in arms] == ["base", "alpha=0.5", "shuffled-teacher", "random-teacher"]
    assert arms[2].changes == {"loss.distill": 0.5, "teacher_order": "shuffled"}


CONTROLS = ["no-distillation", "shuffled-teacher", "random-teacher"]


@pytest.mark.parametrize(
    ("name", "n_arms", "n_seeds"),
    [
        ("alpha", 5, 3),
        ("alpha_by_capacity", 9, 5),
        ("augmentation", 4, 3),
        ("capacity", 5, 3),
        ("components", 7, 3),
        ("data_size", 4, 3),
        ("loss", 4, 3),
    ],
)
def test_the_studies_of_the_package(name: str, n_arms: int, n_seeds: int) -> None:
    plan = load_study(name, ["training.epochs=3"])
    assert len(plan.arms) == n_arms + 3
    assert [arm.name for arm in plan.arms[-3:]] == CONTROLS
    assert len(plan.study.seeds) == n_seeds
    assert {arm.recipe.training.epochs for arm in plan.arms} == {3}  # type: ignore[attr-defined]
    for arm in plan.arms:
        if isinstance(model := arm.recipe.model, dict):  # type: ignore[attr-defined]
            with torch.device("meta"):
                build(model)


def test_every_study_of_the_package_is_tried() -> None:
    assert list(shipped_studies()) == [
        "alpha", "alpha_by_capacity", "augmentation", "capacity", "components", "data_size", "loss",
    ]  # fmt: skip
    assert all(about and not about.startswith("name") for about in shipped_studies().values())
    with pytest.raises(RecipeError, match=r"alpa: .*studies of the package are alpha, alpha_by_capacity"):
        load_study("alpa")
