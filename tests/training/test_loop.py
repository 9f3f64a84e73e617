"""One step of the loop against what it should be, and what ends or refuses a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nestvox.errors import RecipeError, TrainingError
from nestvox.extraction.cache.feature_cache import open_cache
from nestvox.model.speaker_model import SpeakerModel
from nestvox.training.checkpoint import Checkpoint, read_checkpoint
from nestvox.training.data.cached import CachedSource, CachedUtterances
from nestvox.training.parallel import Processes
from nestvox.training.recipe.recipe import load_recipe
from nestvox.training.train import Trained, train

from .conftest import World

ONE_STEP = {
    "training.epochs": "1",
    "training.batch_size": "200",
    "training.warmup_epochs": "0",
    "training.margin_warmup_epochs": "0",
    "training.learning_rate": "0.1",
    "training.schedule": "constant",
    "training.optimizer": "sgd",
    "training.max_grad_norm": "null",
    "head.dims": "[8,24]",
    "head.start": "pretrained",
}


def run(
    encoder: SpeakerModel, world: World, out: Path, recipe: str = "linear", **changes: str
) -> tuple[Checkpoint, Trained]:
    found = train(load_recipe(recipe, world.settings(**{**ONE_STEP, **changes})), out, start=encoder)
    assert found is not None
    return read_checkpoint(out / "checkpoint.safetensors"), found


@pytest.fixture(scope="module")
def start(encoder: SpeakerModel, world: World, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return run(encoder, world, tmp_path_factory.mktemp("start") / "run", **{"training.epochs": "0"})[0]


@pytest.fixture(scope="module")
def stepped(encoder: SpeakerModel, world: World, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return run(encoder, world, tmp_path_factory.mktemp("stepped") / "run")[0]


def learned(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {
        name: tensor.double()
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(("network.", "criterion."))
    }


def gradient(before: Checkpoint, after: Checkpoint, rate: float = 0.1) -> dict[str, torch.Tensor]:
    """One step of SGD says what the gradient was."""
    first, second = learned(before), learned(after)
    return {name: (first[name] - second[name]) / rate for name in first}


@pytest.mark.parametrize("size", [7, 64, 199])
def test_micro_batches_add_up_to_the_gradient_of_the_whole(
    encoder: SpeakerModel, world: World, tmp_path: Path, start: Checkpoint, stepped: Checkpoint, size: int
) -> None:
    parts, _ = run(encoder, world, tmp_path / "run", **{"training.micro_batch": str(size)})
    whole, summed = gradient(start, stepped), gradient(start, parts)
    assert whole["network.linear.weight"].norm() > 1e-3
    for name, expected in whole.items():
        assert torch.allclose(summed[name], expected, rtol=1e-3, atol=1e-5), name


def test_a_sample_alone_cannot_be_normalised(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    batch_norm = {"head.norm": "batch", "training.batch_size": "40"}
    run(encoder, world, tmp_path / "a", **batch_norm, **{"training.micro_batch": "39"})  # 20 and 20, not 39 and 1
    with pytest.raises(TrainingError, match=r"larger training\.batch_size or training\.micro_batch"):
        run(encoder, world, tmp_path / "b", **batch_norm, **{"training.micro_batch": "1"})


def test_no_batch_is_too_small_for_distillation(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    # 200 utterances in batches of 6: the last two join the last batch.
    run(encoder, world, tmp_path / "run", **{"training.batch_size": "6", "loss.distill": "0.5"})
    with pytest.raises(RecipeError, match=r"training\.batch_size: distillation needs at least 3"):
        load_recipe("linear", ["training.batch_size=2", "loss.distill=0.5"])


def test_prototypes_learn_and_are_kept(start: Checkpoint, stepped: Checkpoint) -> None:
    names = {f"criterion.speakers.criteria.{dim}.weight" for dim in (8, 24)}
    assert names <= set(stepped.tensors)
    for name in names:
        assert not torch.equal(start.tensors[name], stepped.tensors[name])
    # The two prefix lengths have classifiers of their own.
    assert {stepped.tensors[name].shape[-1] for name in names} == {8, 24}
    assert len(stepped.section("optimizer")) >= 2 + len(names)


def test_prototypes_begin_at_the_speakers_means(start: Checkpoint, encoder: SpeakerModel, world: World) -> None:
    cache = open_cache(world.train_cache)
    weight = start.tensors["criterion.speakers.criteria.24.weight"][:, 0]
    embedding = torch.stack(
        [
            torch.nn.functional.normalize(torch.from_numpy(cache.gather(range(len(cache)), v, tap="embedding")))
            for v in range(3)
        ]
    ).sum(0)
    speakers = sorted(set(cache.speakers))
    for row, speaker in enumerate(speakers):
        mine = [place for place, name in enumerate(cache.speakers) if name == speaker]
        mean = torch.nn.functional.normalize(embedding[mine].sum(0), dim=0)
        assert torch.allclose(torch.nn.functional.normalize(weight[row], dim=0), mean, atol=2e-3)


def test_the_gradient_is_clipped_once_a_step(
    encoder: SpeakerModel, world: World, tmp_path: Path, start: Checkpoint, stepped: Checkpoint
) -> None:
    clip = {"training.max_grad_norm": "0.01"}
    clipped, _ = run(encoder, world, tmp_path / "a", **clip)
    parts, _ = run(encoder, world, tmp_path / "b", **clip, **{"training.micro_batch": "50"})
    norms = [
        torch.stack([part.norm() for part in gradient(start, end).values()]).norm().item()
        for end in (stepped, clipped, parts)
    ]
    assert norms[0] > 0.02
    assert norms[1:] == pytest.approx([0.01, 0.01], rel=1e-2)


def test_average_of_the_weights(
    encoder: SpeakerModel, world: World, tmp_path: Path, start: Checkpoint, stepped: Checkpoint
) -> None:
    averaged, _ = run(encoder, world, tmp_path / "run", **{"training.ema": "0.75"})
    for name, tensor in averaged.section("average").items():
        if tensor.is_floating_point():
            expected = 0.75 * start.tensors[f"network.{name}"] + 0.25 * stepped.tensors[f"network.{name}"]
            assert torch.allclose(tensor, expected, atol=1e-6), name


def test_bfloat16_on_a_cpu_without_it_is_told(
    encoder: SpeakerModel, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nestvox.training.loop.cpu_computes", lambda precision: False)
    with pytest.warns(UserWarning, match=r"bfloat16: this processor does not compute in it.*float32"):
        run(encoder, world, tmp_path / "run", **{"training.precision": "bfloat16"})


def test_bfloat16_on_a_cpu(
    encoder: SpeakerModel,
    world: World,
    tmp_path: Path,
    start: Checkpoint,
    stepped: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nestvox.training.loop.cpu_computes", lambda precision: True)
    half, _ = run(encoder, world, tmp_path / "run", **{"training.precision": "bfloat16"})
    whole, rounded = gradient(start, stepped), gradient(start, half)
    assert all(tensor.dtype == torch.float32 for name, tensor in half.tensors.items() if name.startswith("network.lin"))
    a, b = (found["network.linear.weight"].flatten() for found in (whole, rounded))
    assert not torch.equal(a, b)
    assert torch.cosine_similarity(a, b, dim=0) > 0.99
    with pytest.raises(TrainingError, match="float16 is for a GPU"):
        run(encoder, world, tmp_path / "half", **{"training.precision": "float16"})


def test_dimensions_join_later(encoder: SpeakerModel, world: World, tmp_path: Path, start: Checkpoint) -> None:
    stages = "[{epoch: 0, dims: [24]}, {epoch: 1, dims: [8, 24]}]"
    first, _ = run(encoder, world, tmp_path / "a", "progressive", stages="[{epoch: 0, dims: [24]}]")
    second, _ = run(encoder, world, tmp_path / "b", "progressive", stages=stages, **{"training.epochs": "2"})
    small = "criterion.speakers.criteria.8.weight"
    assert torch.equal(first.tensors[small], start.tensors[small])
    assert not torch.equal(second.tensors[small], start.tensors[small])
    log = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    assert [set(line["loss_of"]) for line in log if "loss_of" in line] == [{"24"}, {"8", "24"}]
    with pytest.raises(RecipeError, match=r"dims \[16\] are not among the head's \(8, 24\)"):
        run(encoder, world, tmp_path / "c", "progressive", stages="[{epoch: 0, dims: [16]}]")


def test_a_run_ends_when_nothing_gets_better(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    changes = {"training.epochs": "30", "training.patience": "2", "training.learning_rate": "1e-9"}
    checkpoint, found = run(encoder, world, tmp_path / "run", **changes)
    assert (found.best_epoch, found.epochs) == (0, 2)
    assert checkpoint.progressed.stopped
    again = train(
        load_recipe("linear", world.settings(**{**ONE_STEP, **changes})), tmp_path / "run", start=encoder, resume=True
    )
    assert again is not None
    assert again.epochs == 2


def test_a_loss_that_is_no_number_stops_the_run(
    encoder: SpeakerModel, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nestvox.training.loop._RUN_AWAY", 1e4)  # recipes allow no rate that runs further in a moment
    remedy = r"(has run away|the loss is).*; lower training\.learning_rate, or clip .*with another --out"
    with pytest.raises(TrainingError, match=remedy):
        run(encoder, world, tmp_path / "run", **{"training.learning_rate": "1e6", "training.epochs": "4"})
    kept = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.tensors.values())


@pytest.mark.parametrize("kind", ["angular", "prototypical", "triplet", "subcenter", "am", "sphereface2"])
def test_every_loss_trains(encoder: SpeakerModel, world: World, tmp_path: Path, kind: str) -> None:
    changes = {"loss.kind": kind, "training.learning_rate": "0.01", "training.epochs": "2"}
    if kind in ("angular", "prototypical", "triplet"):
        changes["training.balanced"] = "{speakers: 20, utterances: 2}"
    if kind == "triplet":
        changes["loss.mining"] = "hard"  # the other two are means over those that still have a loss
    checkpoint, _ = run(encoder, world, tmp_path / "run", **changes)
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert checkpoint.progressed.total_steps > 0


def test_weights_of_a_dimension_the_head_has_not(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"loss\.weights names \[16\], the head has \(8, 24\)"):
        run(encoder, world, tmp_path / "run", **{"loss.weights": "{16: 2.0}"})


def test_a_stage_of_later_is_checked_before_the_first_step(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    stages = {"stages": "[{epoch: 0, dims: [24]}, {epoch: 1, dims: [9, 24]}]", "training.epochs": "2"}
    with pytest.raises(RecipeError, match=r"stages: dims \[9\] are not among the head's \(8, 24\)"):
        run(encoder, world, tmp_path / "run", **stages)
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_a_head_at_random_without_standardisation(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    for norm, standardised in (("none", False), ("batch", True), ("fixed", True)):
        checkpoint, _ = run(encoder, world, tmp_path / norm, **{"head.start": "random", "head.norm": norm})
        assert ("network.norm.running_mean" in checkpoint.tensors) == standardised


def test_training_leaves_the_random_numbers_alone(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    torch.manual_seed(4)
    expected = torch.randn(3)
    torch.manual_seed(4)
    run(encoder, world, tmp_path / "run", "mlp", **{"head.hidden": "8", "head.dropout": "0.5"})
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize(("utterances", "different"), [(7, 7), (20, 15)])
def test_who_has_too_few_clips_comes_in_other_variants(world: World, utterances: int, different: int) -> None:
    data = CachedUtterances.of(open_cache(world.train_cache))
    drawn = f"training.balanced={{speakers: 40, utterances: {utterances}}}"
    alone = Processes(0, 1, torch.device("cpu"))
    batches = CachedSource(data, load_recipe("linear", [drawn]), "pooled", alone).batches(0, 0)
    (part,) = next(batches).parts
    for speaker in range(40):
        mine = part.inputs[part.labels == speaker]
        assert len(mine) == utterances
        # Five clips in three variants are all that there is.
        assert len(torch.unique(mine, dim=0)) == different
