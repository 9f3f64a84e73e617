"""Recipes: every key is known or named, overrides are typed, what decides the result is in the hash."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from nestvox.errors import RecipeError
from nestvox.training.recipe.recipe import load_recipe, parse_recipe, shipped_recipes


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_are_whole_and_are_read_again(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    about = shipped_recipes()[name]
    assert about == about.strip()
    assert "#" not in about
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    again = load_recipe(tmp_path / "again.yaml")
    assert again == recipe
    assert again.hash == recipe.hash
    assert recipe.to_yaml().startswith(f"# recipe {recipe.hash}\n")


def test_there_is_a_recipe_of_every_kind() -> None:
    kinds = {load_recipe(name).kind for name in shipped_recipes()}
    assert kinds == {"rotation", "linear", "mlp", "progressive", "unfreeze", "lora", "scratch", "distil"}


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("training.epoch", "training.epochs"),
        ("training.learning_rat", "training.learning_rate"),
        ("learning_rate", "training.learning_rate"),
        ("data.trials", "data.dev_trials"),
        ("los.margin", "loss"),
        ("training.large_margin.margins", "training.large_margin.margin"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(key: str, nearest: str) -> None:
    extra = ["training.large_margin.epochs=1"] if "large" in key else []
    with pytest.raises(RecipeError) as caught:
        load_recipe("linear", [*extra, f"{key}=1"])
    unknown = key if "los." not in key else "los"
    assert f"unknown key {unknown}; the nearest known one is " in str(caught.value)
    assert str(caught.value).endswith(nearest)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.epochs=3", 3),
        ("training.learning_rate=1e-5", 1e-5),
        ("training.ema=null", None),
        ("training.micro_batch=16", 16),
        ("training.betas=[0.8, 0.99]", (0.8, 0.99)),
        ("training.precision=bfloat16", "bfloat16"),
    ],
)
def test_an_override_is_yaml(override: str, value: Any) -> None:
    recipe = load_recipe("linear", [override])
    assert getattr(recipe.training, override.partition("=")[0].partition(".")[2]) == value


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.epochs=-1", "training.epochs = -1: Input should be greater than or equal to 0"),
        ("training.learning_rate=.inf", ".inf is no finite number"),
        ("seed=99999999999999999999", "seed = 99999999999999999999: Input should be less than"),
        ("training.schedule=linear", "training.schedule = 'linear': Input should be 'cosine'"),
        ("kind=bilinear", "kind = 'bilinear'"),
        ("kind.linear=1", "--set kind.linear: kind holds 'linear' and has no keys below it"),
        ("training", "--set training: expected section.key=value"),
        ("training.epochs=[", "--set training.epochs=[: not YAML"),
    ],
)
def test_a_wrong_value_is_told_with_its_place(override: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("linear", [override])
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "training.epochs=1000000000000",
            "training.epochs = 1000000000000: Input should be less than or equal to 100000",
        ),
        ("data.variants=1000000000", "data.variants = 1000000000: Input should be less than or equal to 1000"),
        ("training.batch_size=10000000000000", "training.batch_size = 10000000000000: Input should be less"),
        (
            "training.balanced={speakers: 100000, utterances: 100}",
            "10,000,000 samples in a batch; there may be 1,000,000",
        ),
        ("training.micro_batch=2000000", "training.micro_batch = 2000000: Input should be less"),
        ("head.dims=[1000000000000]", "head.dims.0 = 1000000000000: Input should be less than or equal to 65536"),
        (f"head.dims=[{', '.join(map(str, range(1, 1000)))}]", "head.dims = "),
        ("loss={kind: subcenter, sub_centers: 100000}", "loss.sub_centers = 100000: Input should be less"),
        ("loss.scale=1.0e+300", "loss.scale = 1e+300: Input should be less"),
        ("data.crop_s=1000000", "data.crop_s = 1000000: Input should be less than or equal to 600"),
        ("run.workers=1000000", "run.workers = 1000000: Input should be less"),
        ("training.warmup_epochs=1.0e+18", "training.warmup_epochs = 1e+18: Input should be less"),
        ("training.large_margin={epochs: 10000000}", "training.large_margin.epochs = 10000000: Input should be less"),
        ("training.epochs=true", "training.epochs = True: a number is expected, got true"),
        ("training.learning_rate=[1]", "training.learning_rate = [1]: Input should be a valid number"),
        ("data.train={split: [train]}", "data.train.split = ['train']: Input should be a valid string"),
        ("start=[ge2e]", "start = ['ge2e']: Input should be a valid string"),
        ("training=fast", "training = 'fast': Input should be a valid dictionary"),
        (
            "data.table=~nobody-at-all/t.tsv",
            "data.table.0 = '~nobody-at-all/t.tsv': ~nobody-at-all/t.tsv: no such user",
        ),
        (f"data.noise={'x' * 5000}", "a path of 5,000 characters"),
        (f"seed={'9' * 6000}", "an integer of 6,000 digits"),
        (f"run.name={'[' * 100_000}", "nested more than 64 deep"),
        ("training.learning_rate=!!python/object:os.system x", "not YAML"),
    ],
)
def test_a_hostile_value_is_refused_at_once_and_in_few_words(override: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("linear", [override])
    assert told in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: linear\nkind: mlp\n", "the key 'kind' stands twice"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)),
            "with its aliases written out",
        ),
        ("kind: " + "[" * 100_000, "nested more than 64 deep"),
        ("kind: linear\nseed: .nan\n", "is no finite number"),
        ("kind: linear\n" + "".join(f"unknown{i}: 1\n" for i in range(20_000)), "and 19,992 more"),
        ("kind: linear\n1: 2\n", "1 = 1: Keys should be strings"),
    ],
    ids=["twice", "laughs", "deep", "nan", "unknown", "number"],
)
def test_a_hostile_recipe_file_is_refused_at_once(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=re.escape(told)) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_a_recipe_file_is_a_regular_file_of_some_size(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (4 << 20) + b"\n")
    with pytest.raises(RecipeError, match=r"large\.yaml: larger than the 4,194,304 bytes"):
        load_recipe(large)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.yaml")
        with pytest.raises(RecipeError, match="neither a file nor a recipe"):
            load_recipe(tmp_path / "pipe.yaml")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            {"kind": "linear", "encoder": {"decay": 0.5}},
            "encoder means nothing here: kind linear does not have it (unfreeze, lora, scratch, distil have)",
        ),
        (
            {"kind": "linear", "stages": [{"epoch": 0, "train": ["pool"]}]},
            "stages.0.train means nothing here: kind linear does not have it (unfreeze have)",
        ),
        ({"kind": "progressive"}, "kind progressive needs stages with dims"),
        ({"kind": "unfreeze"}, "kind unfreeze needs stages with train"),
        (
            {"kind": "unfreeze", "encoder": {"lora": {}}, "stages": [{"epoch": 1, "train": ["all"]}]},
            "kind unfreeze does not have it",
        ),
        ({"kind": "scratch"}, "model is missing"),
        ({"kind": "scratch", "model": "redimnet-b0"}, "say random"),
        (
            {"kind": "scratch", "model": "redimnet-b0", "encoder": {"batch_norm": "frozen"}},
            "encoder.batch_norm = 'frozen': Input should be 'train'",
        ),
        ({"kind": "linear", "loss": {"kind": "angular"}}, "compares clips of one speaker"),
        ({"kind": "linear", "loss": {"distill": 1}, "training": {"micro_batch": 8}}, "of the whole batch"),
        ({"kind": "linear", "loss": {"weight": 0}}, "nothing would be learned"),
        ({"kind": "linear", "stages": [{"epoch": 3, "dims": [8]}, {"epoch": 1, "dims": [4]}]}, "epochs must rise"),
        ({"kind": "linear", "stages": [{"epoch": 30, "dims": [8]}]}, "never begins"),
        ({"kind": "linear", "training": {"epochs": 2, "large_margin": {"epochs": 3}}}, "3 of 2"),
        (
            {"kind": "rotation", "stages": [{"epoch": 0, "dims": [8]}]},
            "stages means nothing here: kind rotation does not have it",
        ),
        ({"kind": "rotation", "training": {"ema": 0.9}}, "training means nothing here: kind rotation"),
        ({"kind": "linear", "data": {"spec_augment": {}}}, "data.spec_augment means nothing here: kind linear"),
        ({"kind": "linear", "data": {"open_shards": 3}}, "data.open_shards means nothing here"),
        ({"kind": "rotation", "data": {"crop_s": 3}}, "data.crop_s means nothing here"),
        ({"kind": "linear", "loss": {"margin": 11.5}}, "loss.margin = 11.5: an angle in radians, below pi"),
        (
            {"kind": "linear", "training": {"large_margin": {"epochs": 1, "margin": 4}}},
            "training.large_margin.margin: loss aam takes an angle",
        ),
        (
            {"kind": "linear", "head": {"dropout": 0.1}},
            "head.dropout means nothing here: kind linear does not have it (mlp, ",
        ),
        ({"kind": "linear", "head": {"start": "pretrained", "start_from": "r.safetensors"}}, "head.start_from"),
        (
            {"kind": "linear", "loss": {"mining": "hard"}},
            "loss.mining means nothing here: loss aam does not have it (triplet have)",
        ),
        (
            {"kind": "linear", "loss": {"kind": "am", "easy_margin": True}},
            "loss am does not have it (aam, subcenter have)",
        ),
        ({"kind": "linear", "loss": {"sub_centers": 4}}, "loss aam does not have it (subcenter have)"),
        ({"kind": "linear", "loss": {"distill_terms": {"similarity": 2}}}, "loss.distill is 0"),
        (
            {"kind": "linear", "loss": {"distill": 1, "distill_terms": {"temperature": 0.2}}},
            "temperature has no effect",
        ),
        (
            {"kind": "linear", "loss": {"kind": "triplet", "scale": 9}, "training": {"balanced": {}}},
            "loss.scale means nothing here: loss triplet does not have it",
        ),
        (
            {"kind": "linear", "loss": {"kind": "prototypical", "margin": 0.3}, "training": {"balanced": {}}},
            "loss prototypical does not have it",
        ),
        ({"kind": "linear", "training": {"momentum": 0.8}}, "of the optimizer sgd"),
        ({"kind": "linear", "training": {"optimizer": "sgd", "betas": [0.8, 0.9]}}, "of the optimizer adamw"),
        ({"kind": "linear", "training": {"gamma": 0.5}}, "the schedule is cosine"),
        ({"kind": "linear", "training": {"schedule": "exponential", "step_epochs": 5}}, "not step"),
        ({"kind": "linear", "training": {"schedule": "constant", "min_learning_rate": 1e-5}}, "is constant"),
        (
            {"kind": "linear", "training": {"large_margin": {"epochs": 1, "crop_s": 5}}},
            "training.large_margin.crop_s means nothing here",
        ),
        (
            {"kind": "lora", "encoder": {"lora": {}, "batch_norm": "train"}},
            "encoder.batch_norm means nothing here: kind lora",
        ),
        ({"kind": "lora", "encoder": {"lora": {}, "decay": 0.5}}, "encoder.decay means nothing here: kind lora"),
    ],
)
def test_a_setting_that_means_nothing_is_refused_with_the_reason(content: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(content, "here.yaml")
    assert str(caught.value).startswith("here.yaml: ")
    assert told in str(caught.value)


def test_an_override_leaves_nothing_meaningless_in_a_recipe_of_the_package() -> None:
    drawn = "training.balanced={speakers: 8}"
    assert load_recipe("linear").loss.scale == 20
    recipe = load_recipe("linear", ["loss.kind=triplet", drawn])
    assert "scale" not in recipe.settings()["loss"]
    assert load_recipe("mlp", ["kind=linear"]).head == load_recipe("linear").head
    with pytest.raises(RecipeError, match=r"loss\.scale means nothing here"):
        load_recipe("linear", ["loss.kind=triplet", "loss.scale=20", drawn])


def test_what_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"linaer is neither a file nor a recipe; did you mean linear\?"):
        load_recipe("linaer")
    for text, told in (("- 1\n", "a recipe is a mapping"), ("a: [", "not YAML"), ("seed: 1\n", "kind is missing")):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(RecipeError, match=told):
            load_recipe(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="save it as UTF-8"):
        load_recipe(tmp_path / "r.yaml")


def test_paths_of_a_file_start_from_its_folder_and_those_of_an_override_do_not(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    content = {
        "kind": "linear",
        "start": "encoder",
        "teacher": "encoder",
        "loss": {"distill": 1},
        "data": {"table": ["a.tsv", "/b.tsv"], "dev_trials": "dev.txt", "cache": "cache"},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    recipe = load_recipe(tmp_path / "r.yaml", ["data.cache=other"])
    assert recipe.data.table == (tmp_path / "a.tsv", Path("/b.tsv"))
    assert recipe.data.dev_trials == tmp_path / "dev.txt"
    assert recipe.data.cache == Path("other")
    assert recipe.start == recipe.teacher == str(tmp_path / "encoder")


def test_a_path_may_begin_at_home_and_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "r.yaml").write_text("kind: linear\ndata: {table: ['~/t.tsv', u.tsv], noise: ~/noise}\n")
    recipe = load_recipe(tmp_path / "r.yaml", ["data.rooms=~/rooms"])
    assert recipe.data.table == (tmp_path / "t.tsv", tmp_path / "u.tsv")
    assert (recipe.data.noise, recipe.data.rooms) == (tmp_path / "noise", tmp_path / "rooms")
    (tmp_path / "r.yaml").write_text("kind: linear\ndata: {table: [5], noise: {a: 1}}\n")
    with pytest.raises(RecipeError, match=r"data\.table\.0 = 5: .*data\.noise = "):
        load_recipe(tmp_path / "r.yaml")


def test_the_hash_is_of_what_decides_the_result() -> None:
    plain = load_recipe("linear", ["data.table=a/t.tsv"]).hash
    assert load_recipe("linear", ["data.table=b/t.tsv", "run.workers=7", "run.name=x"]).hash == plain
    assert load_recipe("linear", ["data.table=a/u.tsv"]).hash != plain
    assert load_recipe("linear", ["data.table=a/t.tsv", "seed=1"]).hash != plain


def test_one_table_stands_for_a_list_of_one() -> None:
    assert load_recipe("linear", ["data.table=t.tsv"]).data.table == (Path("t.tsv"),)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"kind": "linear", "model": "ge2e"}, "model is now start: what a run begins with"),
        ({"kind": "scratch", "encoder": {"variant": "redimnet-b0"}}, "encoder.variant is now model"),
        ({"kind": "scratch", "encoder": {"config": {"architecture": "ge2e"}}}, "encoder.config is now model"),
        ({"kind": "scratch", "start": "ge2e", "model": "redimnet-b0"}, "start means nothing here: kind scratch"),
        ({"kind": "rotation", "teacher": "ge2e"}, "teacher means nothing here: kind rotation does not have it"),
        ({"kind": "linear", "teacher": "ge2e"}, "teacher means nothing here: nothing is distilled"),
        (
            {"kind": "scratch", "model": "redimnet-b0", "head": {"start": "random"}, "loss": {"distill": 1}},
            "says what: alpha instead of loss.weight and loss.distill, terms instead of distill_terms",
        ),
        (
            {"kind": "scratch", "model": "redimnet-b0", "head": {"start": "random"}, "teacher": "campplus"},
            "from random weights the kind distil learns from a teacher",
        ),
        ({"kind": "mlp", "head": {"kind": "linear"}}, "head.kind = 'linear': Input should be 'mlp'"),
        ({"kind": "linear", "loss": {"kind": "amm"}}, "loss = {'kind': 'amm'}: "),
    ],
)
def test_what_is_trained_where_it_begins_and_what_it_learns_from_are_three_things(
    content: dict[str, Any], told: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(content, "here.yaml")
    assert told in str(caught.value)


def test_folders_of_teachers_lie_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "mine.yaml").write_text(
        "{kind: distil, model: mixer-v2, teacher: small, teachers: {a: small, b: ge2e}, objective: {alpha: 1, terms: "
        "{one: {kind: gram, of: a}, two: {kind: gram, of: b}}}}"
    )
    recipe = load_recipe(tmp_path / "mine.yaml").settings()
    assert recipe["teacher"] == str(tmp_path / "small")
    assert recipe["teachers"] == {"a": str(tmp_path / "small"), "b": "ge2e"}


def test_the_second_weighting_of_p3_is_what_its_comment_says() -> None:
    text = resources.files("nestvox.training.recipe").joinpath("recipes", "p3_hints.yaml").read_text("utf-8")
    said = text.partition("--set '")[2].partition("'\n")[0].replace("\n#", "\n")
    terms = load_recipe("p3_hints", [said]).settings()["objective"]["terms"]
    shares = [pair["weight"] * terms["stages"]["weight"] / 6 for pair in terms["stages"]["layers"]]
    assert [8 * share for share in [*shares, terms["final"]["weight"]]] == [0.5, 0.5, 1, 1, 1.5, 1.5, 2]
