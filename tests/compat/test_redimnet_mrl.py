"""config.yaml of redimnet-mrl: every key is honoured, explained or refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

from nestvox.compat.redimnet_mrl import config_data as room
from nestvox.compat.redimnet_mrl.config import is_redimnet_mrl, migrate, migration_table
from nestvox.compat.redimnet_mrl.config_data import data_there, prepare_data
from nestvox.corpora.trials import read_trials
from nestvox.corpora.utterances import read_utterances
from nestvox.errors import RecipeError
from nestvox.training.recipe.recipe import parse_recipe

# Keys and values of the published file, written down anew; the folders are shorter.
CONFIG = yaml.safe_load("""
model: {name: b2, embed_dim: 256, mrl_dims: [64, 128, 192, 256], mrl_weights: [1.0, 1.0, 1.0, 1.0], F: 72, C: 12,
        block_1d_type: att, block_2d_type: convnext_like, pooling_func: ASTP, out_channels: 512, feat_type: pt}
loss: {type: AAMSoftmax, margin: 0.2, scale: 30.0, easy_margin: false, num_subcenters: 3}
training: {num_epochs: 30, batch_size: 64, accumulation_steps: 1, max_grad_norm: 1.0, learning_rate: 0.0001,
           lr_scheduler: cosine, warmup_epochs: 5, min_lr: 0.000001, optimizer: AdamW, weight_decay: 0.001,
           betas: [0.9, 0.999], dropout: 0.1, feat_agg_dropout: 0.1}
data: {train_dataset: vox2/dev, val_dataset: vox1/dev, test_dataset: vox1/test, sample_rate: 16000, chunk_duration: 3.0,
       min_duration: 1.0, augmentation: true, noise_snr_range: [20, 40], volume_range: [-3, 3], num_workers: 8,
       pin_memory: true, prefetch_factor: 2}
hardware: {device: 'cuda:0', mixed_precision: true, compile: false, distributed: false, world_size: 1, rank: 0}
logging: {log_dir: logs, tensorboard: true, wandb: true, wandb_project: mrl, wandb_run_name: null, wandb_tags: [b2],
          wandb_watch_model: false, save_dir: checkpoints, save_interval: 5, keep_last_n: 3, save_best_only: true,
          log_interval: 10, val_interval: 1}
evaluation: {use_eer_validation: true, use_eer_for_best_model: true, test_datasets: {voxceleb1: vox1/test},
             num_val_pairs_per_dataset: 500, eval_all_dims_during_training: false, metrics: [eer, mindcf],
             eer_threshold: auto, test_pairs: null, eval_all_dims: true}
seed: 42
deterministic: false
advanced: {use_pretrained: true, model_name: b2, train_type: ptn, pretrained_dataset: vox2,
           freeze_backbone_epochs: 9999,
           pretrained_checkpoint: null, progressive_mrl: false, progressive_schedule: [10, 20, 30],
           mixed_datasets: false, dataset_sampling_weights: [1.0]}
""")


def changed(**values: Any) -> dict[str, Any]:
    """The configuration with other values; keys are ``section__name``."""
    content = copy.deepcopy(CONFIG)
    for key, value in values.items():
        section, _, name = key.partition("__")
        if name:
            content[section][name] = value
        else:
            content[section] = value
    return content


def recipe_of(content: dict[str, Any]) -> Any:
    return parse_recipe(migrate(content, "config.yaml").recipe, "config.yaml", adapt=True)


def test_the_published_file() -> None:
    assert is_redimnet_mrl(CONFIG)
    plan = migrate(CONFIG, "config.yaml")
    recipe = parse_recipe(dict(plan.recipe), "config.yaml")
    assert (recipe.kind, recipe.start, recipe.seed) == ("linear", "redimnet-b2-vox2-ptn", 42)
    assert recipe.head.dims == (64, 128, 192, 256)
    assert (recipe.loss.kind, recipe.loss.margin, recipe.loss.scale, recipe.loss.weights) == (
        "aam",
        0.2,
        30.0,
        dict.fromkeys((64, 128, 192, 256), 1.0),
    )
    training = recipe.training
    assert (training.epochs, training.batch_size, training.micro_batch) == (30, 64, None)
    assert (training.learning_rate, training.min_learning_rate, training.warmup_epochs) == (1e-4, 1e-6, 5)
    assert (training.optimizer, training.weight_decay, training.schedule) == ("adamw", 0.001, "cosine")
    assert recipe.data.crop_s == 3.0
    assert (recipe.run.workers, recipe.run.log_steps, recipe.run.wandb) == (8, 10, "mrl")
    assert (plan.train_folder, plan.dev_folder, plan.test_folders) == (
        Path("vox2/dev"),
        Path("vox1/dev"),
        (Path("vox1/test"),),
    )
    assert (plan.n_pairs, plan.min_duration_s) == (500, 1.0)
    assert (recipe.run.save_interval, recipe.run.keep_last_n) == (5, 3)
    told = " ".join(plan.notes)
    for key in ("training.dropout", "data.pin_memory", "logging.log_dir", "hardware.mixed_precision"):
        assert key in told
    assert "hardware.rank" not in told  # asks for nothing


def test_the_noise_is_as_loud_as_it_says() -> None:
    augmentation = recipe_of(CONFIG).data.augmentation
    assert augmentation["snr_noise_db"] == [20.0, 40.0]
    assert augmentation["gain_db"] == [-3.0, 3.0]
    assert recipe_of(changed(data__augmentation=False)).data.augmentation == {}
    assert recipe_of(changed(data__augmentation=False)).data.variants == 1


def test_every_key_is_in_the_table() -> None:
    keys = {key for key, _ in migration_table()}
    theirs = {
        f"{section}.{key}" if isinstance(values, dict) else section
        for section, values in CONFIG.items()
        for key in (values if isinstance(values, dict) else [""])
    }
    assert theirs == keys


def test_the_guide_has_the_table() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "moving.md").read_text(encoding="utf-8")
    for key, becomes in migration_table():
        assert f"| `{key}` | {becomes} |" in guide


def test_weights_stay_with_their_dims() -> None:
    recipe = recipe_of(changed(model__mrl_dims=[256, 64], model__mrl_weights=[3.0, 1.0]))
    assert recipe.loss.weights == {256: 3.0, 64: 1.0}
    assert recipe.head.dims == (64, 256)


def test_kinds() -> None:
    unfreeze = recipe_of(changed(advanced__freeze_backbone_epochs=5))
    assert (unfreeze.kind, unfreeze.stages[0].epoch, unfreeze.stages[0].train) == ("unfreeze", 5, ("all",))
    assert unfreeze.training.precision == "bfloat16"
    progressive = recipe_of(changed(advanced__progressive_mrl=True, advanced__progressive_schedule=[5, 10, 20]))
    assert progressive.kind == "progressive"
    assert [(s.epoch, s.dims) for s in progressive.stages] == [
        (0, (256,)),
        (5, (256, 192)),
        (10, (256, 192, 128)),
        (20, (256, 192, 128, 64)),
    ]
    triplet = recipe_of(changed(loss__type="Triplet"))
    assert (triplet.loss.kind, triplet.training.balanced.speakers) == ("triplet", 32)
    assert recipe_of(changed(loss__type="SubCenter")).loss.kind == "subcenter"


def test_accumulation_is_one_batch() -> None:
    training = recipe_of(changed(training__accumulation_steps=4)).training
    assert (training.batch_size, training.micro_batch) == (256, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data__sample_rate": 8000}, r"data\.sample_rate: 8000 cannot be honoured: the networks take 16 kHz"),
        ({"evaluation__use_eer_validation": False}, r"evaluation\.use_eer_validation: False cannot be honoured"),
        ({"advanced__use_pretrained": False}, "write a recipe of kind scratch"),
        ({"advanced__pretrained_checkpoint": "x.pt"}, "nestvox models import-weights NAME FILE --out FOLDER"),
        ({"advanced__mixed_datasets": True}, r"data\.table"),
        ({"loss__type": "Softmax"}, "there is AAMSoftmax, SubCenter, Triplet"),
        ({"training__optimizer": "Adam"}, "there is AdamW, SGD"),
        ({"training__lr_scheduler": "linear"}, "there is cosine, step, exponential"),
        ({"model__mrl_weights": [1.0]}, "4 dims need as many weights"),
        ({"training__epochs": 3}, r"unknown key training\.epochs; redimnet-mrl has training\.num_epochs"),
        ({"data__train_dataset": None}, r"data\.train_dataset must name a folder"),
        ({"hardware": 3}, "hardware must be a section"),
    ],
)
def test_refusals_say_why(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        migrate(changed(**change), "config.yaml")


@pytest.mark.parametrize(
    ("value", "folders"),
    [
        ({"one": "a", "two": "b"}, ["a", "b"]),
        (["a", "b"], ["a", "b"]),
        ("a", ["a"]),
        ([{"name": "voxceleb1", "path": "a"}, {"name": "voxceleb2", "path": "b"}], ["a", "b"]),
        ([{"name": "voxceleb1", "data_dir": "a"}], ["a"]),
        ([{"voxceleb1": "a"}, {"voxceleb2": "b"}], ["a", "b"]),
        ({"voxceleb1": {"path": "a", "pairs": 250}}, ["a"]),
        ([], []),
        (None, []),
    ],
)
def test_test_sets_in_every_form(value: Any, folders: list[str]) -> None:
    content = changed(evaluation__test_datasets=value, data__test_dataset=None)
    assert [str(folder) for folder in migrate(content, "config.yaml").test_folders] == folders


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"evaluation__test_datasets": [{"name": "voxceleb1", "n": 3}]},
            r"evaluation\.test_datasets = .*: expected a folder",
        ),
        ({"evaluation__test_datasets": 5}, r"evaluation\.test_datasets = 5: expected a folder, a list of folders"),
        ({"data__test_dataset": [[3]]}, r"data\.test_dataset = \[\[3\]\]: expected a folder"),
        ({"data__train_dataset": ["a"]}, r"data\.train_dataset = \['a'\]: Input should be a valid string"),
        ({"data__val_dataset": {"a": "b"}}, r"data\.val_dataset = .*valid string"),
        ({"data__train_dataset": "~nobody-at-all/x"}, "~nobody-at-all/x: no such user"),
        ({"model__mrl_dims": "64,128"}, r"model\.mrl_dims = '64,128': Input should be a valid list"),
        ({"model__mrl_dims": []}, r"model\.mrl_dims = \[\]"),
        ({"model__mrl_dims": [64, "many"]}, r"model\.mrl_dims = .*: number 1: Input should be a valid integer"),
        ({"model__mrl_weights": {"64": 1}}, r"model\.mrl_weights = .*valid list"),
        ({"model__embed_dim": 10**13}, r"model\.embed_dim = 10000000000000: Input should be less"),
        ({"training__batch_size": "large"}, r"training\.batch_size = 'large': Input should be a valid integer"),
        ({"training__batch_size": 10**12}, r"training\.batch_size = .*less than or equal to 1000000"),
        ({"training__accumulation_steps": [2]}, r"training\.accumulation_steps = \[2\]"),
        ({"training__lr_scheduler": ["cosine"]}, r"training\.lr_scheduler = .*valid string"),
        ({"training__optimizer": {"name": "AdamW"}}, r"training\.optimizer = .*valid string"),
        ({"loss__type": ["AAMSoftmax"]}, r"loss\.type = .*valid string"),
        ({"data__noise_snr_range": 20}, r"data\.noise_snr_range = 20: Input should be a valid tuple"),
        ({"data__noise_snr_range": [20]}, r"data\.noise_snr_range = \[20\]: number 1: Field required"),
        ({"data__volume_range": ["low", "high"]}, r"data\.volume_range = .*: number 0: Input should be a valid number"),
        ({"data__num_workers": None}, r"data\.num_workers = None: Input should be a valid integer"),
        ({"data__min_duration": "1 s"}, r"data\.min_duration = '1 s': Input should be a valid number"),
        ({"evaluation__num_val_pairs_per_dataset": [500]}, r"num_val_pairs_per_dataset = \[500\]: Input should be"),
        ({"advanced__freeze_backbone_epochs": "never"}, r"freeze_backbone_epochs = 'never': Input should be a valid"),
        ({"advanced__progressive_schedule": 10}, r"progressive_schedule = 10: Input should be a valid list"),
        ({"advanced__model_name": ["b2"]}, r"advanced\.model_name = \['b2'\]: Input should be a valid string"),
        ({"logging__save_interval": "often"}, r"logging\.save_interval = 'often': Input should be a valid integer"),
    ],
)
def test_a_value_of_another_kind_is_named(change: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told) as caught:
        migrate(changed(**change), "config.yaml")
    assert str(caught.value).startswith("config.yaml: ")


@pytest.mark.parametrize("value", [[], {}, "x", 10**39, -1, True, [[1]], [{"a": None}], "9" * 5000, None, 0.5])
def test_whatever_stands_in_a_key_is_a_recipe_or_refused(value: Any) -> None:
    for key, _ in migration_table():
        section, _, name = key.partition(".")
        told = ""
        try:
            recipe_of(changed(**{f"{section}__{name}" if name else section: value}))
        except RecipeError as error:
            told = str(error)
        assert len(told) < 600, key


def test_a_run_is_not_resumed_on_tables_of_other_folders(folders: Path, tmp_path: Path) -> None:
    """The recipe names the tables alone, which are made once."""
    plan = migrate(config_for(folders), "config.yaml")
    prepare_data(plan, tmp_path / "run-data")
    assert data_there(plan, tmp_path / "run-data")
    other = config_for(folders, data__min_duration=0.0)
    other["data"]["train_dataset"] = str(folders / "elsewhere")
    with pytest.raises(
        RecipeError, match=r"data\.train_dataset .*/train' there, .*/elsewhere' now; data\.min_duration 1\.0"
    ):
        data_there(migrate(other, "config.yaml"), tmp_path / "run-data")


def test_a_recipe_of_ours_is_not_taken_for_one() -> None:
    assert not is_redimnet_mrl({"kind": "linear", "model": "ge2e", "training": {}})
    assert not is_redimnet_mrl({"training": {"epochs": 3}})
    assert not is_redimnet_mrl([1])


# --- data ---


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for corpus, first in (("train", 0), ("dev", 4), ("test", 8)):
        for speaker in range(first, first + 4):
            for clip in range(3):
                path = tmp_path / corpus / f"id{speaker}" / f"v{clip}" / "00001.wav"
                path.parent.mkdir(parents=True)
                soundfile.write(path, 0.1 * rng.standard_normal(24_000), 16_000)
    soundfile.write(tmp_path / "train" / "id0" / "v0" / "short.wav", 0.1 * rng.standard_normal(4_000), 16_000)
    return tmp_path


def config_for(folders: Path, **more: Any) -> dict[str, Any]:
    return changed(
        data__train_dataset=str(folders / "train"),
        data__val_dataset=str(folders / "dev"),
        data__test_dataset=str(folders / "test"),
        evaluation__test_datasets={"one": str(folders / "test")},
        evaluation__num_val_pairs_per_dataset=16,
        **more,
    )


def test_folders_become_tables_and_pairs(folders: Path, tmp_path: Path) -> None:
    (folders / "train" / "id0" / "v0" / "broken.wav").write_bytes(b"no audio")
    told: list[str] = []
    content = prepare_data(migrate(config_for(folders), "config.yaml"), tmp_path / "run", tell=told.append)
    assert len(told) == 2
    assert "1 files skipped; id0/v0/broken.wav: " in told[0]
    assert told[1].endswith("train: 1 files are shorter than data.min_duration = 1 s")
    recipe = parse_recipe(content, "config.yaml")
    train = read_utterances(recipe.data.table[0])
    assert (len(train), set(train.frame["split"])) == (12, {"train"})  # the short file is left out
    assert all(Path(path).is_file() for path in train.audio_paths)
    dev = read_utterances(recipe.data.dev_table[0])
    trials = read_trials(recipe.data.dev_trials)
    assert (trials.n_target, trials.n_nontarget) == (8, 8)
    dev.resolve([*trials.frame["enrol"], *trials.frame["test"]])
    again = prepare_data(migrate(config_for(folders), "config.yaml"), tmp_path / "again")
    assert read_trials(Path(again["data"]["dev_trials"])).sha256 == trials.sha256


def test_folders_may_be_relative_as_they_are_there(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders)
    content = prepare_data(migrate(config_for(Path()), "config.yaml"), tmp_path / "elsewhere" / "run-data")
    for table in (*content["data"]["table"], *content["data"]["dev_table"]):
        assert all(Path(path).is_file() for path in read_utterances(table).audio_paths)
    monkeypatch.setenv("HOME", str(folders))
    assert migrate(config_for(Path("~")), "config.yaml").train_folder == folders / "train"


def test_too_few_pairs_name_the_key(folders: Path, tmp_path: Path) -> None:
    content = config_for(folders)
    content["evaluation"]["num_val_pairs_per_dataset"] = 500
    with pytest.raises(RecipeError, match=r"asked for 250 .*set evaluation\.num_val_pairs_per_dataset, now 500"):
        prepare_data(migrate(content, "config.yaml"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_left_out_is_told() -> None:
    content = changed()
    del content["advanced"]["freeze_backbone_epochs"]
    plan = migrate(content, "config.yaml")
    assert plan.recipe["kind"] == "linear"
    assert any("freeze_backbone_epochs is not there" in note for note in plan.notes)


def test_the_recipe_is_shown_before_anything_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nestvox.cli.app import app

    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))  # whose folders are not there
    shown = CliRunner().invoke(app, ["train", "config.yaml", "--show", "--set", "training.epochs=7"])
    assert shown.exit_code == 0, shown.output
    recipe = yaml.safe_load(shown.stdout)
    assert (recipe["start"], recipe["training"]["epochs"]) == ("redimnet-b2-vox2-ptn", 7)
    assert recipe["data"]["table"] == [str(tmp_path / "run-data" / "train.tsv")]
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_what_is_not_here_is_said_before_anything_is_opened(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")
    from nestvox.errors import ModelError
    from nestvox.training.train import refuse_what_is_not_here

    recipe = recipe_of(CONFIG)
    there = recipe.model_copy(update={"run": recipe.run.model_copy(update={"wandb": None, "device": "cpu"})})
    refuse_what_is_not_here(there)
    far = there.model_copy(update={"run": there.run.model_copy(update={"device": f"cuda:{torch.cuda.device_count()}"})})
    with pytest.raises(ModelError, match=r"torch finds .* GPU here"):
        refuse_what_is_not_here(far)


def test_shared_speakers_are_named(folders: Path, tmp_path: Path) -> None:
    (folders / "test" / "id5").mkdir()
    plan = migrate(config_for(folders), "config.yaml")
    with pytest.raises(RecipeError, match=r"1 speakers of .*test stand in dev too \(id5"):
        prepare_data(plan, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_their_file_trains_a_model(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nestvox train config.yaml`, from folders of speakers to a model, with a small network as the released one."""
    torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")
    from nestvox.cli.app import app
    from nestvox.encoders.redimnet.redimnet import ReDimNet
    from nestvox.model.speaker_model import SpeakerModel

    monkeypatch.setenv("NESTVOX_CACHE", str(tmp_path / "weights"))
    small = {"stages_setup": [[1, 1, 1, [[3, 3]], 4], [2, 1, 1, [[3, 3]], 4]], "F": 24, "C": 4, "embed_dim": 192}
    torch.manual_seed(0)
    torch.save({"model_config": small, "state_dict": ReDimNet(**small).state_dict()}, tmp_path / "b0.pt")
    runner = CliRunner()
    fetched = runner.invoke(app, ["models", "fetch", "redimnet-b0-vox2-ptn", "--weights", str(tmp_path / "b0.pt")])
    assert fetched.exit_code == 0, fetched.output
    content = config_for(
        folders, training__num_epochs=2, training__batch_size=8, data__chunk_duration=1.0, advanced__model_name="b0"
    )
    content["hardware"]["device"] = "cpu"
    content["logging"]["wandb"] = False
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    out = tmp_path / "runs" / "mrl"
    done = runner.invoke(app, ["train", str(tmp_path / "config.yaml"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "training.dropout" in done.output
    model = SpeakerModel.from_folder(out / "model")
    assert model.dims == (64, 128, 192, 256)
    assert model.head.kind == "linear"
    assert not model.thresholds, "eight pairs of a kind set none"
    assert "no threshold of 64 dimensions" in (out / "result.json").read_text()
    assert read_utterances(tmp_path / "runs" / "mrl-data" / "train.tsv").frame.height == 12

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("files were opened again")

    monkeypatch.setattr(room, "prepare_folder", opened)
    weights = (out / "model" / "model.safetensors").read_bytes()
    again = runner.invoke(app, ["train", str(tmp_path / "config.yaml"), "--out", str(out), "--resume"])
    assert again.exit_code == 0, again.output
    assert (out / "model" / "model.safetensors").read_bytes() == weights
