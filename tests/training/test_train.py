"""`train` from a cache: what it starts from, what it keeps, what it writes, and what it leaves as it was."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

import nestvox
from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.trials import read_trials
from nestvox.corpora.utterances import UtteranceTable, read_utterances, write_utterances
from nestvox.errors import (
    AudioError,
    FingerprintError,
    NestvoxError,
    OverlapError,
    RecipeError,
    StoreError,
    TrainingError,
)
from nestvox.extraction.cache.feature_cache import open_cache
from nestvox.heads.rotation import truncation
from nestvox.locking import held
from nestvox.metrics.curves import error_curve
from nestvox.metrics.rates import eer
from nestvox.model.speaker_model import SpeakerModel
from nestvox.training.recipe.recipe import load_recipe
from nestvox.training.train import Trained, train

from .conftest import DEV, TRAIN, World, write_cache

SMALL = {"training.batch_size": "50", "training.epochs": "4", "head.dims": "[8,24]"}


def run(encoder: SpeakerModel, world: World, out: Path, recipe: str = "linear", **changes: str) -> Trained:
    found = train(load_recipe(recipe, world.settings(**{**SMALL, **changes})), out, start=encoder)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def trained(encoder: SpeakerModel, world: World, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(encoder, world, tmp_path_factory.mktemp("linear") / "run")


def pretrained_scores(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of the encoder's own embeddings, straight from the cache."""
    cache, trials = open_cache(world.dev_cache), read_trials(world.trials)
    place = {name: row for row, name in enumerate(cache.utt_ids)}
    vectors = cache.gather(np.arange(len(cache)), tap="embedding").astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = ([place[name] for name in trials.frame[side]] for side in ("enrol", "test"))
    return (vectors[first] * vectors[second]).sum(axis=1), trials.frame["target"].to_numpy()


def test_a_frozen_encoder_is_byte_identical_after_training(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    before = {key: value.numpy().tobytes() for key, value in encoder.encoder.state_dict().items()}
    found = run(encoder, world, tmp_path / "run", **{"training.learning_rate": "0.01"})
    for network in (encoder.encoder, found.model.encoder, nestvox.load(tmp_path / "run" / "model").encoder):
        assert {key: value.numpy().tobytes() for key, value in network.state_dict().items()} == before
    assert not any(parameter.grad is not None for parameter in encoder.encoder.parameters())


@pytest.mark.parametrize("recipe", ["linear"])
def test_epoch_0_is_the_pretrained_encoder_to_the_last_trial(
    encoder: SpeakerModel, world: World, tmp_path: Path, recipe: str
) -> None:
    found = run(encoder, world, tmp_path / "run", recipe, **{"training.epochs": "0"})
    scores, targets = pretrained_scores(world)
    expected = eer(error_curve(scores, targets)).rate
    assert found.best_epoch == found.epochs == 0
    assert found.rates[-1].start == found.rates[-1].best.value == expected
    # Not only the rate: the scores themselves, of the model that was written.
    model = nestvox.load(tmp_path / "run" / "model")
    assert model.head is not None
    cache = open_cache(world.dev_cache)
    nested = model.head.transform(cache.gather(np.arange(len(cache)))).astype(np.float64)
    nested /= np.linalg.norm(nested, axis=1, keepdims=True)
    embedding = cache.gather(np.arange(len(cache)), tap="embedding").astype(np.float64)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    assert np.abs(nested @ nested.T - embedding @ embedding.T).max() < 1e-5


def test_what_a_run_leaves(trained: Trained, encoder: SpeakerModel, world: World) -> None:
    folder = trained.folder
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint.safetensors",
        "events",
        "metrics.jsonl",
        "model",
        "recipe.yaml",
        "result.json",
        "rotation.safetensors",
    }
    model = nestvox.load(folder / "model")
    assert model.fingerprint == trained.model.fingerprint != encoder.fingerprint
    assert model.dims == (8, 24)
    assert {threshold.dim for threshold in model.thresholds} == {8, 24}
    assert {threshold.fingerprint for threshold in model.thresholds} == {model.fingerprint}
    keys = {speaker_key(f"s{s:02}") for s in [*TRAIN, *DEV]} | {"encoder key"}
    assert set(model.training_speakers) == keys
    assert model.chosen_on == (trained.trials.sha256,)
    recipe = load_recipe(folder / "recipe.yaml")
    result = json.loads((folder / "result.json").read_text())
    assert result["recipe_hash"] == recipe.hash
    assert yaml.safe_load((folder / "recipe.yaml").read_text()) == result["recipe"]
    development = result["development"]
    assert development["n_target"] == len(DEV) * 10
    assert development["sha256"] == read_trials(world.trials).sha256
    for rate in development["eer"]:
        assert rate["best_low"] <= rate["best"] <= rate["best_high"]


def test_the_best_epoch_is_kept(trained: Trained) -> None:
    lines = [json.loads(line) for line in (trained.folder / "metrics.jsonl").read_text().splitlines()]
    means = {line["epoch"]: line["dev_eer_mean"] for line in lines if "dev_eer_mean" in line}
    assert set(means) == {0, 1, 2, 3, 4}
    assert trained.best_epoch == min(means, key=lambda epoch: means[epoch])
    kept = sum(rate.best.value for rate in trained.rates) / len(trained.rates)
    assert kept == pytest.approx(means[trained.best_epoch], abs=1e-12)
    assert means[trained.best_epoch] < means[0], "training on these vectors helps"


def test_a_run_is_not_overwritten(trained: Trained, encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds a run; --resume"):
        run(encoder, world, trained.folder)
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(TrainingError, match="not empty and holds no run"):
        run(encoder, world, tmp_path)
    recipe = load_recipe("linear", world.settings(**SMALL))
    with pytest.raises(TrainingError, match="not empty and holds no run"):
        train(recipe, tmp_path, start=encoder, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_only_the_same_recipe_and_data_are_resumed(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    run(encoder, world, tmp_path / "run")
    changed = {
        "training.learning_rate": ("0.5", "training.learning_rate 0.0001 there, 0.5 now"),
        "head.dims": ("[16, 24]", "head.dims [8, 24] there, [16, 24] now"),
        "training.balanced": ("{speakers: 7}", "training.balanced None there, {'speakers': 7, 'utterances': 2} now"),
        "loss.kind": ("am", "loss.kind 'aam' there, 'am' now; loss.easy_margin False there, nothing now"),
        "seed": ("3", "seed 0 there, 3 now"),
        "data.dev_trials": (str(tmp_path / "other.txt"), "data.dev_trials 'dev.txt' there, 'other.txt' now"),
    }
    for key, (value, told) in changed.items():
        again = load_recipe("linear", world.settings(**{**SMALL, key: value}))
        with pytest.raises(TrainingError, match=re.escape(f"is of another recipe ({told})")):
            train(again, tmp_path / "run", start=encoder, resume=True)
    several = {"training.learning_rate": "0.5", "loss.margin": "0.3"}
    with pytest.raises(TrainingError, match=r"loss\.margin 0\.1 there, 0\.3 now; training\.learning_rate"):
        train(
            load_recipe("linear", world.settings(**{**SMALL, **several})), tmp_path / "run", start=encoder, resume=True
        )
    same = load_recipe("linear", world.settings(**SMALL))
    finished = train(same, tmp_path / "run", start=encoder, resume=True)
    assert finished is not None
    assert finished.epochs == 4


def test_only_what_it_began_with_is_resumed(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    """Names alone stand in the hash of a recipe; other content under the same name is told too."""
    run(encoder, world, tmp_path / "run", **{"training.epochs": "1"})
    fewer, other = tmp_path / "dev.txt", tmp_path / "table.tsv"
    fewer.write_text("\n".join(world.trials.read_text().splitlines()[1:]) + "\n")
    other.write_text("\n".join(line for line in world.table.read_text().splitlines() if "s03\t" not in line) + "\n")
    stranger = SpeakerModel(encoder.encoder, truncation(24, (8, 24)), name="stranger")
    cache = write_cache(tmp_path / "train", encoder, read_utterances(world.table).where(split="train"), 2)
    for key, value, told in (
        ("data.dev_trials", fewer, r"there .*dev\.txt \(1,770 trials, \w{12}\), now .*dev\.txt \(1,769 trials"),
        ("data.table", other, r"there 200 training utterances of 40 speakers .*, now 195 training utterances of 39"),
        ("data.cache", cache, r"there .*\(200 utterances in 3 variants, \w{16}\), now .* in 2 variants"),
        ("start", None, r"there tiny \(\w{16}\), now stranger \(\w{16}\)"),
    ):
        recipe = load_recipe(
            "linear", world.settings(**{**SMALL, "training.epochs": "1", **({key: str(value)} if value else {})})
        )
        with pytest.raises(TrainingError, match=rf"holds a run of another {key}: {told}"):
            train(recipe, tmp_path / "run", start=encoder if value else stranger, resume=True)


def test_a_run_that_was_refused_is_no_run(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.train: no utterance"):
        run(encoder, world, tmp_path / "run", **{"data.train": "{split: training}"})
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["recipe.yaml"]
    assert run(encoder, world, tmp_path / "run", **{"training.epochs": "1"}).epochs == 1


def test_two_runs_do_not_share_a_folder(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    with held(tmp_path / "run"), pytest.raises(NestvoxError, match="is being written by another process"):
        run(encoder, world, tmp_path / "run")


def test_speakers_must_not_meet(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    with pytest.raises(OverlapError, match=r"training and development share speakers.*s40"):
        run(encoder, world, tmp_path / "a", **{"data.train": "{}"})
    with pytest.raises(OverlapError, match=r"training and test share speakers.*s00"):
        run(encoder, world, tmp_path / "b", **{"data.test": "{split: train}"})
    with pytest.raises(OverlapError, match=r"development and test share speakers.*s40"):
        run(encoder, world, tmp_path / "c", **{"data.test": "{split: dev}"})
    # A table of its own for development may hold the speakers of the test too.
    rest = read_utterances(world.table).frame.filter(pl.col("split") != "train")
    write_utterances(UtteranceTable(rest, "rest", tmp_path), tmp_path / "rest.tsv")
    tables = {"data.dev_table": str(tmp_path / "rest.tsv"), "data.dev": "{}"}
    with pytest.raises(OverlapError, match=r"development and test share speakers.*s52"):
        run(encoder, world, tmp_path / "d", **tables)


def test_one_speaker_is_none_to_tell_apart(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.train: every training utterance is of the speaker s07"):
        run(encoder, world, tmp_path / "run", **{"data.train": "{speaker: s07}"})


def test_a_cache_with_the_speakers_of_yesterday(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    frame = read_utterances(world.table).frame
    merged = pl.when(pl.col("speaker") == "s03").then(pl.lit("s04")).otherwise(pl.col("speaker")).alias("speaker")
    write_utterances(UtteranceTable(frame.with_columns(merged), "t", tmp_path), tmp_path / "table.tsv")
    with pytest.raises(StoreError, match=r"other speakers than .*table\.tsv for 5 utterances, e\.g\. s03 for u03-0"):
        run(encoder, world, tmp_path / "run", **{"data.table": str(tmp_path / "table.tsv")})


def test_the_training_cache_serves_for_development_where_it_holds_the_trials(
    encoder: SpeakerModel, world: World, tmp_path: Path
) -> None:
    table = read_utterances(world.table)
    both = write_cache(tmp_path / "both", encoder, UtteranceTable(table.frame[: 52 * 5], "t", tmp_path), 1)
    found = run(encoder, world, tmp_path / "a", **{"data.cache": str(both), "data.dev_cache": "null"})
    assert found.trials.n_target == 12 * 10
    # It does not, so the clips are to be embedded; there are none here.
    with pytest.raises(AudioError, match=r"40/0\.wav"):
        run(encoder, world, tmp_path / "b", **{"data.dev_cache": "null"})


def test_material_that_is_missing_or_of_another_encoder(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.train: no utterance of .*table\.tsv has"):
        run(encoder, world, tmp_path / "a", **{"data.train": "{split: training}"})
    table = read_utterances(world.table)
    strange = write_cache(tmp_path / "cache", encoder, table.where(split="train"), 1, fingerprint="0" * 16)
    with pytest.raises(FingerprintError, match="0000000000000000"):
        run(encoder, world, tmp_path / "b", **{"data.cache": str(strange)})
    half = write_cache(tmp_path / "half", encoder, table.where(speaker="s01"), 1)
    with pytest.raises(StoreError, match="lacks 195 of 200 utterances"):
        run(encoder, world, tmp_path / "c", **{"data.cache": str(half)})


def test_a_rotation_is_a_recipe_too(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    found = train(load_recipe("rotation", world.settings(**{"head.dims": "[8,24]"})), tmp_path / "run", start=encoder)
    assert found is not None
    assert found.model.head is not None
    assert found.model.head.kind == "rotation"
    assert found.rates[-1].best.value == pytest.approx(found.rates[-1].truncated)
    assert found.rates[0].best.value <= found.rates[0].truncated
    more = load_recipe("rotation", world.settings(**{"head.dims": "[8,32]"}))
    with pytest.raises(RecipeError, match=r"head\.dims: a rotation has the 24 dimensions .* got 32"):
        train(more, tmp_path / "more", start=encoder)


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("data.variants", "2", "variants 3 there, 2 expected"),
        ("data.crop_s", "2.5", "crop_s None there, 2.5 expected"),
        ("data.augmentation", "{p_noise: 0.9}", "augmentation.p_noise nothing there, 0.9 expected"),
    ],
)
def test_a_cache_that_was_made_otherwise_than_the_recipe_says(
    encoder: SpeakerModel, world: World, tmp_path: Path, setting: str, value: str, told: str
) -> None:
    with pytest.raises(StoreError, match=re.escape(told)):
        run(encoder, world, tmp_path / "run", **{setting: value})


def test_a_trained_head_is_gone_on_with(trained: Trained, world: World, tmp_path: Path) -> None:
    found = run(trained.model, world, tmp_path / "run", **{"head.dims": "null", "training.epochs": "1"})
    kept = {rate.dim: rate.best.value for rate in trained.rates}
    assert {rate.dim: rate.start for rate in found.rates} == kept
    assert found.model.dims == trained.model.dims
    with pytest.raises(RecipeError, match=r"has a head of \(8, 24\); leave dims out"):
        run(trained.model, world, tmp_path / "other", **{"head.dims": "[4,24]"})


def test_dims_beyond_the_pretrained_size(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    found = run(encoder, world, tmp_path / "run", **{"head.dims": "[8,24,30]"})
    assert found.model.dims == (8, 24, 30)
    scores, targets = pretrained_scores(world)
    assert {rate.dim: rate.start for rate in found.rates}[24] == eer(error_curve(scores, targets)).rate
    assert found.rates[-1].truncated is None
