"""Layers of a student that learn from layers of a teacher, which hears each clip as it was recorded."""

# ruff: noqa: F811  a fixture of the file beside this one

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import nestvox
from nestvox.audio.augment import Banks
from nestvox.audio.channel import change_speed
from nestvox.corpora.utterances import read_utterances
from nestvox.errors import RecipeError
from nestvox.extraction.cache.feature_cache import open_cache
from nestvox.heads.rotation import truncation
from nestvox.model.speaker_model import SpeakerModel
from nestvox.training.checkpoint import read_checkpoint
from nestvox.training.data.clips import AudioSource
from nestvox.training.data.live import LiveTeachers
from nestvox.training.data.targets import Targets
from nestvox.training.distilling import DistilCriterion
from nestvox.training.parallel import Processes
from nestvox.training.recipe.kinds import DistilRecipe
from nestvox.training.recipe.recipe import parse_recipe
from nestvox.training.tasks.distil import OwnEmbedding
from nestvox.training.tasks.encoder import NestedNetwork, drawn_encoder

from .test_distil import (  # noqa: F401
    RATE,
    SIZE,
    STUDENT,
    KilledError,
    Told,
    lines_of,
    recipe_of,
    speech,
    trained,
)

TEACHER = {"architecture": "lstm_autoencoder", "channels": 6, "bottleneck": 5, "hidden": 4, "embedding_dim": SIZE}
CHANNELS = {"bottleneck": 5, "lstm1": 8, "lstm2": 8}
TERMS: dict[str, Any] = {
    "final": {"kind": "cosine", "weight": 4 / 7},
    "stages": {
        "kind": "hints",
        "weight": 3 / 7,
        "layers": [
            {"student": "front", "teacher": "lstm1", "weight": 0.5},
            {"student": "block1", "teacher": "lstm2"},
        ],
    },
    "attention": {"layers": [{"student": "block1", "teacher": "bottleneck"}]},
}
CPU = Processes(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recurrent") / "teacher"
    SpeakerModel(drawn_encoder(TEACHER, 3).eval(), truncation(SIZE, [8, SIZE]), name="recurrent").save(folder)
    return folder


def content_of(speech: Path, teacher: Path, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    content = recipe_of(speech, teacher, {"alpha": 0.7, "terms": TERMS}, **changes)
    content["data"] |= {"targets": str(tmp_path / "targets")}
    return content


def test_a_killed_run_with_layers_ends_with_the_same_bits_and_a_student_without_teacher_and_projections(
    speech: Path, teacher: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in teacher.iterdir()}
    content = content_of(speech, teacher, tmp_path)
    whole = trained(content, tmp_path / "whole")
    with pytest.raises(KilledError):
        trained(content, tmp_path / "killed", Told(stop_at=1))
    again = trained(content, tmp_path / "killed", resume=True)
    assert again.model.fingerprint == whole.model.fingerprint
    both = [read_checkpoint(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "killed")]
    assert both[0].tensors.keys() == both[1].tensors.keys()
    assert all(torch.equal(both[0].tensors[name], both[1].tensors[name]) for name in both[0].tensors)

    assert before == {path.name: path.read_bytes() for path in teacher.iterdir()}
    assert not [name for name in both[0].tensors if "lstm" in name]
    projections = {
        n: t.shape for n, t in both[0].section("criterion").items() if n.endswith("weight") and "stages" in n
    }
    assert sorted(projections.values()) == [(8, 16), (8, 16)]
    student = nestvox.load(tmp_path / "whole" / "model", device="cpu", backend="eager").encoder
    assert student.state_dict().keys() == drawn_encoder(STUDENT, 0).state_dict().keys()

    lines = [line for line in lines_of(tmp_path / "whole") if "loss" in line]
    for line in lines:
        parts = sum(TERMS[name].get("weight", 1) * line[name] for name in TERMS)
        assert line["loss"] == pytest.approx(0.3 * line["ce"] + 0.7 * parts, rel=1e-5)
        assert 0 < line["attention"] < 2
    looks = [line["monitor"] for line in lines_of(tmp_path / "whole") if "monitor" in line]
    assert all(look[f"{name}/gradient_share"] > 0 for look in looks for name in TERMS)


def test_the_teacher_hears_the_clip_as_it_was_recorded_at_its_speed_and_each_term_reaches_the_student(
    speech: Path, teacher: Path, tmp_path: Path
) -> None:
    content = content_of(speech, teacher, tmp_path)
    content["data"] |= {
        "variants": 2,
        "augmentation": {"p_noise": 0, "p_gain": 1, "p_clip": 1, "p_channel": 0, "p_speed": 1, "speeds": [0.5]},
    }
    trained(content_of(speech, teacher, tmp_path, training={"epochs": 0, "batch_size": 6}), tmp_path / "run")  # caches
    recipe = parse_recipe(content, "test", [])
    assert isinstance(recipe, DistilRecipe)
    encoder = drawn_encoder(TEACHER, 3).train()
    live = LiveTeachers({None: encoder}, {None: list(CHANNELS)}, RATE, CPU.device)
    cache = open_cache(tmp_path / "targets")
    targets = Targets(cache, "a", "a", at_speeds={0.5: cache})
    table = read_utterances(speech / "table.tsv").where(split="train")
    source = AudioSource(table, recipe, RATE, CPU, Banks(), teacher=targets, live=live)
    batches = source.batches(0, 0)
    (part,) = next(batches).parts
    assert part.layers is not None
    for row, layer in zip(source.order.batches(0)[0], part.layers[None, "lstm2"], strict=True):
        clip = source._clip(row, 0, 0)
        samples = soundfile.read(speech / f"{source.utterances[row].utt_id}.wav", dtype="float32")[0]
        recorded = clip[4]
        assert recorded is not None
        assert recorded.shape == clip[0].shape == (RATE // 2,)
        assert not np.allclose(recorded, clip[0], atol=1e-3)
        # Somewhere in the recording, at the speed that was drawn, stands just this.
        every = change_speed(samples, clip[3])
        inside = recorded[1000:5000]
        found = np.correlate(every, inside, "valid")
        place = int(found.argmax())
        near = every[place : place + len(inside)]
        assert np.corrcoef(near, inside)[0, 1] > 0.99
        with torch.no_grad():
            own = encoder.eval()(torch.from_numpy(recorded)[None], layers=["lstm2"]).layers["lstm2"].values[0]
        assert torch.allclose(own, layer, atol=1e-5)

    student = drawn_encoder(STUDENT, 0)
    network = NestedNetwork(student, OwnEmbedding(SIZE, (8, SIZE)), ["front", "block1"])
    theirs = {(None, name): size for name, size in CHANNELS.items()}
    criterion = DistilCriterion(
        recipe, (8, SIZE), 12, SIZE, {None: SIZE}, channels=({"front": 16, "block1": 16}, theirs)
    )
    criterion.begin_epoch(0)
    embedding = network(part.inputs)
    criterion(embedding, part.labels, part.teacher, layers=(network.layers, part.layers))
    reading = criterion.reading
    assert reading is not None
    assert {name for name, one in reading.parts.items() if one.gradient_norm > 0} == {"ce", *TERMS}
    assert criterion.objective is not None
    pairs = criterion._within("stages", network.layers, part.layers)
    weights = [dict(student.named_parameters())["front.0.weight"], *criterion.objective.terms["stages"].parameters()]
    gradients = torch.autograd.grad(criterion.objective.terms["stages"](*pairs), weights)
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)


def test_shuffled_layers_are_those_of_another_clip(speech: Path, teacher: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(content_of(speech, teacher, tmp_path, teacher_order="shuffled"), "test", [])
    assert isinstance(recipe, DistilRecipe)
    theirs = {(None, name): size for name, size in CHANNELS.items()}
    criterion = DistilCriterion(
        recipe, (8, SIZE), 6, SIZE, {None: SIZE}, channels=({"front": 16, "block1": 16}, theirs)
    )
    layer = torch.randn(4, 5, 7)
    said = criterion._within("attention", {"block1": torch.ones(4, 16, 7)}, {(None, "bottleneck"): layer})[1]
    assert torch.equal(said, layer[[3, 0, 1, 2]])


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        ({"cosine": {"layers": [{"student": "a", "teacher": "b"}]}}, "only hints and attention compare layers"),
        ({"hints": {}}, "hints compares pairs of layers"),
        ({"attention": {"layers": [{"student": "a", "teacher": "b"}] * 2}}, "attention compares one pair"),
        ({"hints": {"prefix": 8, "layers": [{"student": "a", "teacher": "b"}]}}, "prefix means nothing here"),
        ({"hints": {"layers": [{"student": "block9", "teacher": "lstm1"}]}}, "student hands out no layer 'block9'"),
        ({"hints": {"layers": [{"student": "front", "teacher": "lstm9"}]}}, "teacher hands out no layer 'lstm9'"),
        (
            {"hints": {"temperature": 2, "layers": [{"student": "front", "teacher": "lstm1"}]}},
            "temperature means nothing",
        ),
    ],
)
def test_layers_that_cannot_be_compared_are_refused(
    speech: Path, teacher: Path, tmp_path: Path, terms: dict[str, Any], told: str
) -> None:
    content = recipe_of(speech, teacher, {"alpha": 1, "terms": terms})
    content["data"] |= {"targets": str(teacher.parent / "shared")}
    with pytest.raises(RecipeError, match=told):
        trained(content, tmp_path / "run")
