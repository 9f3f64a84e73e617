"""--config files of voxceleb_trainer: every key is honoured, explained or refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from typer.testing import CliRunner

from nestvox.cli.app import app
from nestvox.compat.voxceleb_trainer.config import is_voxceleb_trainer, migrate, migration_table
from nestvox.compat.voxceleb_trainer.config_data import data_there, prepare_data
from nestvox.corpora import read_trials, read_utterances
from nestvox.encoders import LSTMAutoencoder
from nestvox.errors import RecipeError, TableError
from nestvox.model import load
from nestvox.training.recipe.kinds import DistilRecipe
from nestvox.training.recipe.learning import Term
from nestvox.training.recipe.recipe import parse_recipe

# Arguments of trainSpeakerNet.py in clovaai/voxceleb_trainer, of the two further trainers of the fork, and what its
# files say besides: names alone.
UPSTREAM = """
    max_frames eval_frames batch_size max_seg_per_spk nDataLoaderThread augment seed test_interval max_epoch trainfunc
    optimizer scheduler lr lr_decay weight_decay hard_prob hard_rank margin scale nPerSpeaker nClasses dcf_p_target
    dcf_c_miss dcf_c_fa initial_model save_path train_list test_list train_path test_path musan_path rir_path n_mels
    log_input model encoder_type nOut sinc_stride eval port distributed mixedprec gpu_id
"""
FORK = """
    patience max_test_pairs prefetch_factor persistent_workers gradient_accumulation_steps enable_profiling
    compile_model eval_batch_size hidden_dim num_blocks expansion_factor groups teacher_model teacher_checkpoint
    distillation_alpha distillation_temperature distillation_type freeze_teacher ae_latent_dim lstm_hidden lstm_layers
    pooling_type gpu save_every_epoch num_workers_persistent
"""
IN_FILES_ONLY = """
    num_levels fusion_type test_step stride num_filters n_cpu loss kernel_size score_save_epoch init_w init_b
"""

DATA = {"train_list": "train.txt", "train_path": "vox2", "test_list": "test.txt", "test_path": "vox1"}
# Keys and values of mlp_mixer_distillation_config.yaml without its teacher, written down anew.
STUDENT: dict[str, Any] = {
    "model": "MLPMixerSpeaker",
    "nOut": 512,
    "n_mels": 80,
    "log_input": True,
    "hidden_dim": 192,
    "num_blocks": 6,
    "expansion_factor": 3,
    "groups": 4,
    "save_path": "exps/x",
    "initial_model": "",
    "max_frames": 200,
    "batch_size": 64,
    "max_seg_per_spk": 100,
    "nDataLoaderThread": 8,
    "augment": False,
    "seed": 42,
    "test_interval": 5,
    "max_epoch": 100,
    "trainfunc": "amsoftmax",
    "optimizer": "adam",
    "lr": 0.001,
    "weight_decay": "2e-4",
    "scheduler": "steplr",
    "lr_decay": 0.95,
    "patience": 15,
    "mixedprec": False,
    "gradient_accumulation_steps": 1,
    "num_workers_persistent": True,
    "margin": 0.2,
    "scale": 30,
    "nPerSpeaker": 1,
    "nClasses": 140,
    "max_test_pairs": 0,
    "eval_batch_size": 1,
    "distributed": False,
    "port": "8888",
    "gpu": 0,
    "dcf_p_target": 0.05,
    "dcf_c_miss": 1,
    "dcf_c_fa": 1,
    "save_every_epoch": False,
    **DATA,
}
# Of lstm_autoencoder_config.yaml.
TEACHER: dict[str, Any] = {
    "model": "LSTMAutoencoder",
    "n_mels": 80,
    "log_input": True,
    "ae_latent_dim": 128,
    "lstm_hidden": 256,
    "lstm_layers": 2,
    "pooling_type": "ASP",
    "augment": True,
    "batch_size": 32,
    "eval_frames": 0,
    "lr": 0.0005,
    "trainfunc": "aamsoftmax",
    "test_interval": 1,
    "lr_decay": 0.98,
    "weight_decay": 0.0001,
    "patience": 0,
    "gradient_accumulation_steps": 2,
    "margin": 0.2,
    "musan_path": "musan",
    "rir_path": "rirs",
    **DATA,
}


def recipe_of(content: dict[str, Any]) -> Any:
    return parse_recipe(dict(migrate(content, "c.yaml").recipe), "c.yaml")


def refused(pattern: str, **values: Any) -> None:
    content = {key: value for key, value in {**STUDENT, **values}.items() if value != "absent"}
    with pytest.raises(RecipeError, match=pattern):
        migrate(content, "c.yaml")


def test_every_key_is_in_the_table() -> None:
    assert {key for key, _ in migration_table()} == {*UPSTREAM.split(), *FORK.split(), *IN_FILES_ONLY.split()}


def test_the_student() -> None:
    assert is_voxceleb_trainer(STUDENT)
    assert not is_voxceleb_trainer({"kind": "scratch", "model": "redimnet-b2"})
    recipe = recipe_of(STUDENT)
    assert recipe.model == {
        "architecture": "mixer",
        "variant": "pointwise",
        "width": 192,
        "depth": 6,
        "expansion": 3,
        "groups": 4,
        "embedding_dim": 512,
    }
    assert (recipe.seed, recipe.head.start, recipe.encoder.learning_rate) == (42, "random", 1.0)
    assert (recipe.loss.kind, recipe.loss.margin, recipe.loss.scale, recipe.loss.prototypes) == (
        "am",
        0.2,
        30,
        "random",
    )
    training = recipe.training
    assert (training.epochs, training.batch_size, training.micro_batch, training.patience) == (100, 64, None, 15)
    assert (training.schedule, training.step_epochs, training.gamma, training.validate_epochs) == ("step", 5, 0.95, 5)
    assert (training.optimizer, training.learning_rate, training.weight_decay) == ("adamw", 0.001, 2e-4)
    assert (training.precision, training.max_grad_norm) == ("float32", 5.0)
    assert recipe.data.crop_s == pytest.approx(32_240 / 16_000)
    assert recipe.data.augmentation == {}
    told = " ".join(migrate(STUDENT, "c.yaml").notes)
    for key in ("max_seg_per_spk", "save_path", "lr_decay: every 5 epochs", "weight_decay"):
        assert key in told
    assert "port" not in told  # asks for nothing


def test_the_teacher() -> None:
    recipe = recipe_of(TEACHER)
    assert recipe.model == {
        "architecture": "lstm_autoencoder",
        "bottleneck": 128,
        "hidden": 256,
        "depth": 2,
        "embedding_dim": 512,
    }
    assert (recipe.loss.kind, recipe.training.batch_size, recipe.training.micro_batch) == ("aam", 64, 32)
    assert (recipe.training.patience, recipe.training.step_epochs, recipe.training.gamma) == (None, 1, 0.98)
    assert (str(recipe.data.noise), str(recipe.data.rooms)) == ("musan", "rirs")
    assert recipe.data.augmentation["p_noise"] == 0.6
    assert recipe.training.precision == "bfloat16"  # mixedprec is on where it is not there


def test_what_is_not_there_has_their_default() -> None:
    kept = {"model", "n_mels", "log_input", "trainfunc", *DATA}
    recipe = recipe_of({key: value for key, value in STUDENT.items() if key in kept})
    assert (recipe.model["width"], recipe.model["depth"], recipe.model["expansion"]) == (256, 8, 4)
    assert (recipe.loss.margin, recipe.loss.scale, recipe.seed) == (0.1, 30.0, 10)  # and not the margin 0.2 of a recipe
    assert (recipe.training.epochs, recipe.training.batch_size, recipe.training.patience) == (500, 128, 10)
    assert (recipe.training.step_epochs, recipe.training.gamma, recipe.training.weight_decay) == (5, 0.95, 0.0)


def test_a_pairwise_loss() -> None:
    recipe = recipe_of({**STUDENT, "trainfunc": "angleproto", "nPerSpeaker": 2})
    assert recipe.loss.kind == "angular"
    assert (recipe.training.balanced.speakers, recipe.training.balanced.utterances) == (64, 2)


# Of mlp_mixer_distillation_config.yaml and of its successor.
TAUGHT = {"teacher_model": "LSTMAutoencoder", "teacher_checkpoint": "model000000057.model", "freeze_teacher": True}


def test_a_teacher() -> None:
    cosine = {"distillation_type": "cosine", "distillation_alpha": 0.7, "distillation_temperature": 4.0}
    plan = migrate({**STUDENT, **TAUGHT, **cosine}, "c.yaml")
    assert plan.teacher == Path("model000000057.model")
    recipe = parse_recipe({**plan.recipe, "teacher": "made/teacher"}, "c.yaml")
    assert isinstance(recipe, DistilRecipe)
    assert (recipe.objective.alpha, recipe.objective.terms) == (0.7, {"cosine": Term()})
    assert plan.recipe["head"]["dims"] == [512]
    assert "a cosine does not depend on it" in " ".join(plan.notes)
    mse = migrate({**STUDENT, **TAUGHT, "distillation_type": "mse", "distillation_alpha": 0.5}, "c.yaml")
    assert mse.recipe["objective"] == {"alpha": 0.5, "terms": {"mse": {"per": "element", "temperature": 4.0}}}
    assert "alpha is 0.000244 in truth" in " ".join(mse.notes)


def test_what_is_refused() -> None:
    refused(r"unknown key nLcasses; voxceleb_trainer has .*nClasses", nLcasses=140)
    refused("n_mels: 40 cannot be honoured: .* say n_mels: 80", n_mels="absent")
    refused("log_input: False cannot be honoured: .* say log_input: true", log_input=False)
    refused("ResNetSE34L.* there is MLPMixerSpeaker and LSTMAutoencoder", model="ResNetSE34L")
    refused("MLPMixerSpeaker_RawWaveform", model="MLPMixerSpeaker_RawWaveform")
    refused("num_filters: 80 cannot be honoured: of the raw waveform", num_filters=80)
    refused("initial_model: .* import-voxceleb-trainer", initial_model="a.model")
    refused("say trainfunc", loss="amsoftmax")
    refused("softmax.* amsoftmax with margin 0", trainfunc="softmax")
    refused("nPerSpeaker: 2 cannot be honoured", nPerSpeaker=2)
    refused("needs two utterances", trainfunc="angleproto")
    refused("scheduler: 'cosine'", scheduler="cosine")
    refused("optimizer.*there is adam, sgd", optimizer="lamb")
    refused("augment is true, and musan_path is missing", augment=True)
    refused("batch_size = 'many': ", batch_size="many")
    refused("augment = 'yes': ", augment="yes")
    refused("train_list is missing", train_list="absent")
    refused("belong together", teacher_model="LSTMAutoencoder")
    refused("kl.* are no classes", **TAUGHT, distillation_type="kl")
    refused("leave it out", **TAUGHT, distillation_alpha=0)


def corpus(folder: Path) -> dict[str, Any]:
    """Lists as that project has them, and audio where they say."""
    rng = np.random.default_rng(5)

    def put(place: str, name: str) -> str:
        path = folder / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(8_000), 16_000)
        return name

    lines = [f"id0000{n} {put('vox2', f'id0000{n}/0000{k}_vid.wav')}" for n in (1, 2, 3) for k in (1, 2)]
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    a, b, c = (put("vox1", f"id1000{n}/0000{k}_vid.wav") for n, k in ((1, 1), (1, 2), (2, 1)))
    (folder / "test.txt").write_text(f"1 {a} {b}\n0 {a} {c}\n0 {b} {c}\n")
    small = {"hidden_dim": 8, "num_blocks": 1, "expansion_factor": 2, "nOut": 16, "max_epoch": 1, "test_interval": 1}
    short = {"max_frames": 30, "batch_size": 3, "nDataLoaderThread": 1, "nClasses": 3}
    return {**STUDENT, **small, **short, **{key: str(folder / value) for key, value in DATA.items()}}


def test_lists_become_tables(tmp_path: Path) -> None:
    plan = migrate({**corpus(tmp_path), "max_test_pairs": 2}, "c.yaml")
    recipe = prepare_data(plan, tmp_path / "made")
    train, dev = (read_utterances(tmp_path / "made" / name) for name in ("train.tsv", "dev.tsv"))
    assert sorted(set(train.frame["speaker"])) == ["id00001", "id00002", "id00003"]
    assert train.frame["utt_id"][0] == "id00001/00001_vid.wav"
    assert set(dev.frame["speaker"]) == {"id10001", "id10002"}
    assert read_trials(recipe["data"]["dev_trials"]).frame["target"].to_list() == [True, False]
    assert data_there(plan, tmp_path / "made")
    with pytest.raises(RecipeError, match="made with other settings"):
        data_there(migrate(corpus(tmp_path), "c.yaml"), tmp_path / "made")


def test_the_speaker_is_the_folder_that_the_labels_follow(tmp_path: Path) -> None:
    content = corpus(tmp_path)
    lines = (tmp_path / "test.txt").read_text()
    (tmp_path / "deep.txt").write_text(lines.replace("id1000", "vox1/id1000"))
    plan = migrate({**content, "test_list": str(tmp_path / "deep.txt"), "test_path": str(tmp_path)}, "c.yaml")
    prepare_data(plan, tmp_path / "made")
    assert set(read_utterances(tmp_path / "made" / "dev.tsv").frame["speaker"]) == {"id10001", "id10002"}


def test_lists_that_do_not_fit(tmp_path: Path) -> None:
    content = corpus(tmp_path)

    def fails(kind: type[Exception], pattern: str, **values: Any) -> None:
        with pytest.raises(kind, match=pattern):
            prepare_data(migrate({**content, **values}, "c.yaml"), tmp_path / "made")
        assert not (tmp_path / "made" / "recipe.yaml").exists()

    fails(RecipeError, "3 speakers, and nClasses = 2", nClasses=2)
    fails(TableError, "none of 6 files can be read", train_path=str(tmp_path / "vox1"))
    (tmp_path / "three.txt").write_text("id1 a.wav\nid2 b.wav 1\n")
    fails(RecipeError, "line 2: expected a speaker and a file", train_list=str(tmp_path / "three.txt"))
    (tmp_path / "both.txt").write_text("id10001 id10001/00001_vid.wav\n")
    fails(
        RecipeError,
        r"1 speakers of .* stand in .* \(id10001\)",
        train_list=str(tmp_path / "both.txt"),
        train_path=str(tmp_path / "vox1"),
    )
    (tmp_path / "wrong.txt").write_text((tmp_path / "test.txt").read_text().replace("0 ", "1 "))
    fails(RecipeError, "no folder in the names of its files is the speaker", test_list=str(tmp_path / "wrong.txt"))
    (tmp_path / "vox1" / "id10002" / "00001_vid.wav").unlink()
    fails(TableError, "1 files of its trials cannot be read")


def test_the_command_trains_it(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(corpus(tmp_path)))
    words = ["train", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "run"), "--set", "run.device=cpu"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert (tmp_path / "run-data" / "recipe.yaml").is_file()


def published(teacher: LSTMAutoencoder) -> dict[str, torch.Tensor]:
    """The state of a network from here under the names of that project."""
    names = {
        r"^norm\.": "bn.",
        r"^linear\.": "fc.",
        r"^encoder\.": "autoencoder.encoder.",
        r"^layer_norm\.": "lstm_encoder.layer_norm.",
        r"^lstms\.(\d)\.(\w+)_l0(\w*)$": r"lstm_encoder.lstm.\2_l\1\3",
        r"^pool\.linear1\.": "pooling.attention.0.",
        r"^pool\.linear2\.": "pooling.attention.2.",
    }
    state = {}
    for name, tensor in teacher.state_dict().items():
        for ours, theirs in names.items():
            name = re.sub(ours, theirs, name)  # noqa: PLW2901
        state[f"__S__.{name}"] = tensor[:, :, 0] if "attention" in name and tensor.ndim == 3 else tensor
    return state


def test_the_command_trains_a_student(tmp_path: Path) -> None:
    torch.save(published(LSTMAutoencoder(bottleneck=4, hidden=4, embedding_dim=16)), tmp_path / "model000000057.model")
    taught = {**TAUGHT, "teacher_checkpoint": str(tmp_path / "model000000057.model")}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**corpus(tmp_path), **taught}))
    words = ["train", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "run"), "--set", "run.device=cpu"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert "50 tensors loaded, none missing" in " ".join(done.output.split())
    assert load(tmp_path / "run-data" / "teacher").embedding_dim == 16
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["objective"]["alpha"] == 0.5


GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "moving-from-voxceleb-trainer.md"


def test_the_guide_has_the_table() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    for key, becomes in migration_table():
        assert f"| `{key}` | {becomes} |" in guide


def test_the_rates_of_the_guide_are_multiples_of_one_trial() -> None:
    """With Wilson's interval, written out."""
    rows = re.findall(r"^\| .+ \| (\d\d) \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|$", GUIDE.read_text("utf-8"), re.M)
    assert len(rows) == 9
    n, z = 465, 1.959964
    for errors, *told in rows:
        p = int(errors) / n
        middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
        low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
        assert told == [f"{100 * p:.2f}", f"{100 * low:.1f}", f"{100 * high:.1f}"]
