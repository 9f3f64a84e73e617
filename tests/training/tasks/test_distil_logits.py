"""Posteriors of the training speakers that a student learns from a teacher; and students that begin with a model."""

# ruff: noqa: F811  fixtures of the file beside this one

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nestvox
from nestvox.audio.augment import Banks
from nestvox.corpora.utterances import read_utterances
from nestvox.errors import RecipeError
from nestvox.extraction.cache.feature_cache import open_cache
from nestvox.training.checkpoint import read_checkpoint
from nestvox.training.data.clips import AudioSource
from nestvox.training.data.targets import Targets
from nestvox.training.distilling import DistilCriterion
from nestvox.training.parallel import Processes
from nestvox.training.recipe.kinds import DistilRecipe
from nestvox.training.recipe.recipe import parse_recipe

from .test_distil import (  # noqa: F401
    RATE,
    SIZE,
    KilledError,
    Told,
    lines_of,
    recipe_of,
    speech,
    teacher,
    trained,
)

LOGITS: dict[str, Any] = {"alpha": 0.5, "terms": {"logits": {"temperature": 2}}}


def test_a_killed_run_with_logits_ends_with_the_same_bits_and_keeps_nothing_of_the_teacher(
    speech: Path, teacher: Path, tmp_path: Path
) -> None:
    content = recipe_of(speech, teacher, LOGITS)
    whole = trained(content, tmp_path / "whole")
    with pytest.raises(KilledError):
        trained(content, tmp_path / "killed", Told(stop_at=1))
    again = trained(content, tmp_path / "killed", resume=True)
    assert again.model.fingerprint == whole.model.fingerprint
    both = [read_checkpoint(tmp_path / name / "checkpoint.safetensors").tensors for name in ("whole", "killed")]
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])
    assert not [name for name in both[0] if "means" in name]
    look = next(line["monitor"] for line in lines_of(tmp_path / "whole") if "monitor" in line)
    assert look["logits/gradient_norm"] > 0


def test_the_teachers_classifier_is_its_mean_of_each_speaker_at_each_speed(
    speech: Path, teacher: Path, tmp_path: Path
) -> None:
    content = recipe_of(speech, teacher, {"alpha": 0.5, "terms": {"logits": {"prefix": 8}}})
    speeds = {"variants": 2, "augmentation": {"p_noise": 0, "p_channel": 0, "p_speed": 0.5, "speeds": [0.8]}}
    content["data"] |= {"targets": str(tmp_path / "targets"), **speeds}
    trained({**content, "training": {"epochs": 0, "batch_size": 6}}, tmp_path / "run")  # caches
    recipe = parse_recipe(content, "test", [])
    assert isinstance(recipe, DistilRecipe)
    caches = {speed: open_cache(tmp_path / f"targets{tail}") for speed, tail in {1.0: "", 0.8: "-speed0.8"}.items()}
    targets = Targets(caches[1.0], "a", "a", at_speeds={0.8: caches[0.8]})
    table = read_utterances(speech / "table.tsv").where(split="train")
    cpu = Processes(0, 1, torch.device("cpu"))
    source = AudioSource(table, recipe, RATE, cpu, Banks(), teacher=targets)
    means = source.class_means()[None]
    directions = (means / means.norm(dim=1, keepdim=True)).numpy()
    assert len(directions) == len(source.names) == 12
    for speed, cache in caches.items():
        vectors = cache.gather(np.arange(len(cache)), 0, tap="embedding").astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        for speaker in sorted(set(cache.speakers)):
            mean = vectors[np.array(cache.speakers) == speaker].mean(axis=0)
            place = source.names.index(speaker.partition("#")[0] + ("" if speed == 1 else "#speed0.8"))
            assert np.allclose(directions[place], mean / np.linalg.norm(mean), atol=1e-5)

    criterion = DistilCriterion(recipe, (8, SIZE), 12, SIZE, {None: SIZE}, means={None: means})
    criterion.begin_epoch(0)
    draw = torch.Generator().manual_seed(1)
    embedding, said = torch.randn(6, SIZE, generator=draw), torch.randn(6, SIZE, generator=draw)
    embedding.requires_grad_()
    found = criterion(embedding, torch.arange(6), said).parts["logits"]
    own = criterion.speakers.criteria["8"].weight[:, 0]  # type: ignore[union-attr,index]
    cosine = torch.nn.functional.cosine_similarity
    student = 30 * cosine(embedding[:, None, :8], own[None], dim=2)
    theirs = 30 * cosine(said[:, None], torch.from_numpy(directions)[None], dim=2)
    p, q = (theirs / 4).softmax(1), (student / 4).softmax(1)
    assert float(found) == pytest.approx(float(16 * (p * (p / q).log()).sum(1).mean().detach()), rel=1e-4)
    (gradient,) = torch.autograd.grad(criterion(embedding, torch.arange(6), said).total, embedding)
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": {"alpha": 1, "terms": {"logits": {}}}},
        {"loss": {"kind": "sphereface2"}},
        {"loss": {"kind": "angular"}, "training": {"balanced": {"speakers": 3}}},
    ],
    ids=["no speakers", "not one among all", "pairs"],
)
def test_logits_without_speakers_to_tell_apart_are_refused(changes: dict[str, Any]) -> None:
    content = {"kind": "distil", "model": "mixer-v2", "teacher": "campplus", "objective": LOGITS, **changes}
    with pytest.raises(RecipeError, match="logits are of the training speakers"):
        parse_recipe(content, "test", [])


def test_a_student_begins_with_what_it_learned_of_speakers_and_may_be_its_own_teacher(
    speech: Path, tmp_path: Path
) -> None:
    """Classification first, then distillation from that very network."""
    trained(recipe_of(speech, None, {"alpha": 0, "terms": {}}), tmp_path / "first")
    content = recipe_of(speech, tmp_path / "first" / "model", {"alpha": 1, "terms": {"cosine": {}}})
    content["data"] |= {"targets": str(tmp_path / "targets")}
    content |= {"model": None, "start": str(tmp_path / "first" / "model")}
    content["training"] = {"epochs": 1, "batch_size": 6, "learning_rate": 1e-30, "optimizer": "sgd"}
    second = trained(content, tmp_path / "second")
    before, after = lines_of(tmp_path / "first"), lines_of(tmp_path / "second")
    rates = [line["dev_eer"] for line in before if "dev_eer" in line]
    assert after[0]["dev_eer"] in rates
    model = nestvox.load(tmp_path / "first" / "model", device="cpu", backend="eager")
    cache = open_cache(tmp_path / "targets")
    said = cache.gather(np.array([4]), 0, tap="embedding")[0].astype(np.float64)
    own = np.asarray(model.encode(str(speech / f"{cache.utt_ids[4]}.wav")), np.float64).ravel()
    assert said @ own / np.linalg.norm(said) / np.linalg.norm(own) > 0.9999
    weights = model.encoder.state_dict()
    now = second.model.encoder.state_dict()
    moved = [name for name in weights if not torch.equal(weights[name], now[name])]
    assert not [name for name in moved if "running" not in name and "num_batches" not in name]
