"""Training the encoder: what learns and what stays, clips, adapters, and nothing of a teacher in the student."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from torch import nn

import nestvox
from nestvox.audio.augment import Banks
from nestvox.audio.errors import AugmentationError, SilentAudioError
from nestvox.audio.read import read
from nestvox.corpora.shards import write_shards
from nestvox.corpora.trials import Trials, write_trials
from nestvox.corpora.utterances import UtteranceTable, read_utterances, write_utterances
from nestvox.encoders.registry import build
from nestvox.errors import AudioError, ModelError, RecipeError
from nestvox.heads.linear import LinearHead
from nestvox.model.speaker_model import SpeakerModel
from nestvox.training.checkpoint import read_checkpoint
from nestvox.training.criterion import Criterion
from nestvox.training.data.batches import another_each
from nestvox.training.data.clips import AudioSource
from nestvox.training.data.development import Development
from nestvox.training.lora import add_low_rank, apply_adapter, merge_low_rank
from nestvox.training.parallel import Processes
from nestvox.training.recipe.recipe import load_recipe
from nestvox.training.recipe.sections import Lora, SpecAugment
from nestvox.training.tasks.encoder import EncoderTask, NestedNetwork, blanked_bands, full_precision_front_end
from nestvox.training.train import Trained, train

from ..conftest import TINY, World

RATE = 16_000
TRAIN, DEV, TAKES = 8, 4, 3
ALONE = Processes(0, 1, torch.device("cpu"))


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noises through a resonance of each speaker's own, 0.5 to 1.2 s."""
    folder = tmp_path_factory.mktemp("speech")
    draw = np.random.default_rng(2)
    rows = []
    for speaker in range(TRAIN + DEV):
        for take in range(TAKES):
            samples = draw.standard_normal(int(draw.uniform(0.5, 1.2) * RATE))
            time = np.arange(len(samples)) / RATE
            samples = 0.05 * samples * np.sin(2 * np.pi * (120 + 40 * speaker) * time)
            name = f"s{speaker}-{take}"
            soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")
            split = "train" if speaker < TRAIN else "dev"
            rows.append({"utt_id": name, "path": f"{name}.wav", "speaker": f"s{speaker}", "split": split})
    write_utterances(UtteranceTable(pl.DataFrame(rows), "table", folder), folder / "table.tsv")
    dev = [(row["speaker"], row["utt_id"]) for row in rows if row["split"] == "dev"]
    pairs = [(a, b, x == y) for k, (x, a) in enumerate(dev) for y, b in dev[k + 1 :]]
    schema = {"enrol": pl.String, "test": pl.String, "target": pl.Boolean}
    write_trials(Trials(pl.DataFrame(pairs, schema, orient="row"), "dev"), folder / "dev.txt", "voxceleb")
    return folder


def settings(speech: Path, **changes: str) -> list[str]:
    given = {
        "data.table": f"{speech}/table.tsv",
        "data.dev_trials": f"{speech}/dev.txt",
        "data.test": "{}",
        "data.crop_s": "0.5",
        "data.augmentation": "{p_channel: 0}",
        "head.dims": "[8,24]",
        "head.start": "pretrained",
        "training.epochs": "2",
        "training.validate_epochs": "2",
        "training.batch_size": "8",
        "training.learning_rate": "0.01",
        "training.ema": "null",
        "training.warmup_epochs": "0",
        "run.device": "cpu",
        "run.checkpoint_steps": "2",
        **changes,
    }
    return [f"{key}={value}" for key, value in given.items()]


UNFREEZE = {"stages": "[{epoch: 1, train: [pool, backbone.stage2]}]", "encoder.learning_rate": "1.0"}
SCRATCH = {
    "model": json.dumps({"architecture": "redimnet", **TINY}),
    "head.start": "random",
    "training.micro_batch": "null",
    "training.large_margin": "null",
    "training.margin_warmup_epochs": "1",
}


def run(speech: Path, out: Path, kind: str, start: SpeakerModel | None, **changes: str) -> Trained:
    found = train(load_recipe(kind, settings(speech, **changes)), out, start=start)
    assert found is not None
    return found


def state_of(model: SpeakerModel) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.encoder.state_dict().items()}


AT_ONCE = {"stages": "[{epoch: 0, train: [pool, backbone.stage2]}]", "training.epochs": "1"}


@pytest.fixture(scope="module")
def as_given(encoder: SpeakerModel) -> tuple[dict[str, bytes], list[bool]]:
    return state_of(encoder), [parameter.requires_grad for parameter in encoder.encoder.parameters()]


@pytest.fixture(scope="module")
def unfrozen(speech: Path, encoder: SpeakerModel, as_given: Any, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(speech, tmp_path_factory.mktemp("unfreeze") / "run", "unfreeze", encoder, **UNFREEZE)


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    """What the run ended with; the best may be what it began with."""
    return read_checkpoint(folder / "checkpoint.safetensors").section("network")


def test_only_what_a_stage_names_learns(unfrozen: Trained, encoder: SpeakerModel) -> None:
    before, after = encoder.encoder.state_dict(), last_weights(unfrozen.folder)
    learned = {name.removeprefix("encoder.") for name in after if name.startswith("encoder.")}
    assert learned
    assert all(name.startswith(("pool.", "backbone.stage2.")) for name in learned)
    assert not any("running" in name for name in learned), "frozen statistics are not even kept"
    changed = {name for name in learned if not torch.equal(after[f"encoder.{name}"], before[name])}
    assert {name.split(".")[0] for name in changed} == {"pool", "backbone"}
    kept = state_of(unfrozen.model)
    for name, content in state_of(encoder).items():
        if name not in learned:
            assert kept[name] == content, name


def test_the_given_model_stays_as_it_is(encoder: SpeakerModel, as_given: Any, unfrozen: Trained) -> None:
    assert (state_of(encoder), [parameter.requires_grad for parameter in encoder.encoder.parameters()]) == as_given
    assert not encoder.encoder.training


def test_what_is_saved_is_what_was_measured(unfrozen: Trained, speech: Path) -> None:
    model = nestvox.load(unfrozen.folder / "model")
    assert model.fingerprint == unfrozen.model.fingerprint
    trials = pl.read_csv(speech / "dev.txt", separator=" ", has_header=False, new_columns=["target", "a", "b"])
    scores = [model.verify(speech / f"{a}.wav", speech / f"{b}.wav", dim=8).score for _, a, b in trials.iter_rows()]
    threshold = next(t for t in model.thresholds if t.dim == 8 and t.operating_point == "eer")
    targets = trials["target"].to_numpy() == 1
    assert np.mean(np.array(scores)[targets] < threshold.value - 1e-5) <= threshold.p_miss
    assert np.mean(np.array(scores)[~targets] >= threshold.value + 1e-5) <= threshold.p_fa


def test_statistics_move_where_asked(speech: Path, encoder: SpeakerModel, tmp_path: Path) -> None:
    run(speech, tmp_path / "run", "unfreeze", encoder, **UNFREEZE, **{"encoder.batch_norm": "train"})
    before, after = encoder.encoder.state_dict(), last_weights(tmp_path / "run")
    means = {name.removeprefix("encoder.") for name in after if name.endswith("running_mean") and "encoder." in name}
    assert means
    assert all(name.startswith(("pool.", "backbone.stage2.")) for name in means)
    assert any(not torch.equal(after[f"encoder.{name}"], before[name]) for name in means)


def test_stopped_and_taken_up(speech: Path, encoder: SpeakerModel, tmp_path: Path, unfrozen: Trained) -> None:
    class Killed(BaseException):
        pass

    class Bars:
        def __call__(self, description: str, unit: str) -> Bars:
            return self

        def __enter__(self) -> Callable[[int, int | None], None]:
            return self.report

        def __exit__(self, *_: object) -> None: ...

        def report(self, done: int, total: int | None) -> None:
            if total == 2 * TRAIN * TAKES and done >= 40:  # the fifth of six steps
                raise Killed

    recipe = load_recipe("unfreeze", settings(speech, **UNFREEZE))
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", start=encoder, bars=Bars())
    train(recipe, tmp_path / "run", start=encoder, resume=True)
    first, second = (
        read_checkpoint(folder / "checkpoint.safetensors") for folder in (unfrozen.folder, tmp_path / "run")
    )
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name
    assert first.progressed.eers == second.progressed.eers


def test_parts_named_later_learn_more_slowly(encoder: SpeakerModel) -> None:
    stages = "[{epoch: 0, train: [linear]}, {epoch: 1, train: [pool, backbone.stage2]}]"
    recipe = load_recipe(
        "unfreeze", [f"stages={stages}", "encoder.learning_rate=0.5", "encoder.decay=0.1", "training.weight_decay=0.01"]
    )
    network = build({"architecture": "redimnet", **TINY})
    head = LinearHead(network.pooled_dim, (8, 24), norm="none")
    criterion = Criterion(recipe.loss, (8, 24), 5)
    table = UtteranceTable(pl.DataFrame({"utt_id": ["a"], "path": ["a"], "speaker": ["a"]}), "t", Path())
    nothing = np.zeros(0, np.int64)
    trials = Trials(pl.DataFrame({"enrol": ["a"], "test": ["a"], "target": [True]}), "t")
    task = EncoderTask(
        NestedNetwork(network, head),
        criterion,
        Development(table, trials, nothing, nothing, nothing, nothing > 0),
        recipe,
    )
    scale = {id(parameter): group.scale for group in task.groups for parameter in group.parameters}
    decay = {id(parameter): group.weight_decay for group in task.groups for parameter in group.parameters}
    expected = {"linear": 0.5, "pool": 0.05, "backbone.stage2": 0.005}
    for name, parameter in network.named_parameters():
        part = next((part for part in expected if name.startswith(f"{part}.")), None)
        if part is None:
            assert id(parameter) not in scale
            assert not parameter.requires_grad
        else:
            assert scale[id(parameter)] == pytest.approx(expected[part])
            assert decay[id(parameter)] == (0.01 if parameter.ndim > 1 else 0.0)
    assert scale[id(head.linear.weight)] == 1.0
    assert all(scale[id(parameter)] == 1.0 for parameter in criterion.parameters())
    for epoch, parts in ((0, ("linear.",)), (1, ("linear.", "pool.", "backbone.stage2."))):
        task.begin_epoch(epoch)
        learning = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        assert learning
        assert all(name.startswith(parts) for name in learning)
        assert {name.split(".")[0] for name in learning} == {part.split(".")[0] for part in parts}
        norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
        assert not any(norm.training for norm in norms)


def test_an_adapter_is_the_difference(speech: Path, encoder: SpeakerModel, tmp_path: Path) -> None:
    found = run(speech, tmp_path / "run", "lora", encoder, **{"encoder.lora.rank": "2", "training.epochs": "1"})
    network = SpeakerModel(nestvox.load(tmp_path / "run" / "model").encoder)
    assert network.encoder.state_dict().keys() == encoder.encoder.state_dict().keys(), "merged, and named as before"
    changed = {name for name, content in state_of(network).items() if content != state_of(encoder)[name]}
    assert all(name.endswith("weight") for name in changed)
    again = SpeakerModel(nestvox.load(tmp_path / "run" / "model").encoder)
    again.encoder.load_state_dict(encoder.encoder.state_dict())
    apply_adapter(again.encoder, tmp_path / "run" / "adapter.safetensors", fingerprint=encoder.fingerprint)
    for name, tensor in again.encoder.state_dict().items():
        assert torch.allclose(tensor, network.encoder.state_dict()[name], atol=1e-6), name
    with pytest.raises(ModelError, match=r"adapter\.safetensors was trained on the encoder"):
        apply_adapter(again.encoder, tmp_path / "run" / "adapter.safetensors", fingerprint="0" * 16)
    assert found.model.head is not None


def test_low_rank_additions(encoder: SpeakerModel) -> None:
    network = build({"architecture": "redimnet", **TINY}).eval()
    network.load_state_dict(encoder.encoder.state_dict())
    audio = 0.1 * torch.randn(2, RATE, generator=torch.Generator().manual_seed(0))
    expected = network(audio).embedding
    names = add_low_rank(network, Lora(rank=3, targets=("attention", "pointwise")))
    attention = [name for name in names if ".attention." in name]
    assert {name.rsplit(".", maxsplit=1)[-1] for name in attention} == {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert any(name.endswith("pwconv1") for name in names)
    assert not any("dwconvs" in name for name in names), "grouped convolutions are no matrices"
    assert torch.equal(network(audio).embedding, expected), "nothing is changed before the first step"
    learnable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert len(learnable) == 2 * len(names)
    with torch.no_grad():
        for parameter in learnable:
            parameter.normal_(0, 0.05)
    changed = network(audio).embedding
    assert not torch.allclose(changed, expected, atol=1e-3)
    merge_low_rank(network)
    assert torch.allclose(network(audio).embedding, changed, atol=1e-5)


def test_an_encoder_without_such_matrices(encoder: SpeakerModel) -> None:
    with pytest.raises(ModelError, match="GE2E has no attention and no pointwise"):
        add_low_rank(build({"architecture": "ge2e"}), Lora())


@pytest.mark.parametrize(
    "model",
    [
        {"architecture": "redimnet", **TINY},
        {"architecture": "mixer", "width": 16, "depth": 2, "embedding_dim": 24},
        {"architecture": "lstm_autoencoder", "channels": 8, "bottleneck": 6, "hidden": 6, "embedding_dim": 24},
    ],
    ids=lambda model: model["architecture"],
)
def test_from_scratch(speech: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    found = run(speech, tmp_path / "run", "scratch", None, **{**SCRATCH, "model": json.dumps(model)})
    loaded = nestvox.load(tmp_path / "run" / "model")
    assert loaded.dims == (8, 24)
    assert loaded.fingerprint == found.model.fingerprint
    assert all(rate.truncated is None for rate in found.rates)
    after = last_weights(tmp_path / "run")
    assert any(name.endswith("running_mean") for name in after)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_every_utterance_is_taught_another_ones(count: int) -> None:
    other = another_each(count, 4)
    assert sorted(other) == list(range(count))
    assert (other != np.arange(count)).all()
    assert count < 50 or (other != another_each(count, 5)).any()


def test_an_encoder_may_learn_from_another_than_it_begins_with(
    speech: Path, encoder: SpeakerModel, tmp_path: Path
) -> None:
    other = SpeakerModel(build({"architecture": "ge2e"}).eval(), name="other")
    taught = {"stages": "[{epoch: 0, train: [pool]}]", "loss.distill": "0.5", "training.epochs": "1"}
    lines = []
    for name, teacher in (("own", None), ("other", other)):
        train(load_recipe("unfreeze", settings(speech, **taught)), tmp_path / name, start=encoder, teacher=teacher)
        lines.append(next(line["loss"] for line in log_of(tmp_path / name) if "loss" in line))
    assert lines[0] != lines[1]
    recipe = load_recipe("unfreeze", settings(speech, **UNFREEZE, **{"loss.distill": "0"}))
    with pytest.raises(RecipeError, match=r"distils nothing"):
        train(recipe, tmp_path / "c", start=encoder, teacher=other)


def source(speech: Path, **changes: str) -> AudioSource:
    table = read_utterances(speech / "table.tsv").where(split="train")
    recipe = load_recipe("lora", settings(speech, **changes))
    return AudioSource(table, recipe, RATE, ALONE, Banks())


def test_clips_do_not_depend_on_workers_nor_on_where_an_epoch_is_entered(speech: Path) -> None:
    one, many = source(speech, **{"run.workers": "1"}), source(speech, **{"run.workers": "4"})
    whole = [list(batch.parts) for batch in one.batches(3, 0)]
    assert [sum(len(part.labels) for part in parts) for parts in whole] == [8, 8, 8]
    for first in (0, 1, 2):
        for parts, expected in zip([list(batch.parts) for batch in many.batches(3, first)], whole[first:], strict=True):
            for part, other in zip(parts, expected, strict=True):
                assert torch.equal(part.inputs, other.inputs)
                assert torch.equal(part.labels, other.labels)
    another = [list(batch.parts) for batch in one.batches(4, 0)]
    assert not torch.equal(another[0][0].inputs, whole[0][0].inputs)


def test_a_clean_clip_is_a_stretch_of_its_file(speech: Path) -> None:
    clips = source(speech, **{"data.variants": "1"})
    for row, utterance in enumerate(clips.utterances[:3]):
        clip, speaker = clips.clip(row, 0)
        whole, _ = read(utterance.segment.path)
        assert speaker == utterance.speaker
        assert clip.shape == (RATE // 2,)
        if len(whole) >= len(clip):
            windows = np.lib.stride_tricks.sliding_window_view(whole, len(clip))
            assert np.abs(windows - clip).max(axis=1).min() < 1e-6
        else:
            assert np.allclose(clip[: len(whole)], whole, atol=1e-6)
            assert np.allclose(clip[len(whole) :], whole[: len(clip) - len(whole)], atol=1e-6)


def test_who_has_too_few_clips_is_heard_in_others(speech: Path) -> None:
    drawn = f"{{speakers: {TRAIN}, utterances: 4}}"
    clips = source(speech, **{"data.variants": "1", "data.crop_s": "0.35", "training.balanced": drawn})
    batches = clips.batches(0, 0)
    (part,) = next(batches).parts
    assert torch.bincount(part.labels).tolist() == [4] * TRAIN
    assert len(torch.unique(part.inputs, dim=0)) == 4 * TRAIN


def test_clips_are_read_from_a_few_shards_at_a_time(speech: Path, tmp_path: Path) -> None:
    table = read_utterances(speech / "table.tsv").where(split="train")
    halves = [UtteranceTable(table.frame[first::2], "half", speech) for first in (0, 1)]
    shards = [write_shards(half, tmp_path / f"{number}") for number, half in enumerate(halves)]
    paths = [str(path) for shard in shards for path in shard.audio_paths]
    frame = pl.concat([half.frame for half in halves]).with_columns(pl.Series("path", paths))
    recipe = load_recipe("lora", settings(speech, **{"data.open_shards": "1", "training.batch_size": "12"}))
    clips = AudioSource(UtteranceTable(frame, "t", tmp_path), recipe, RATE, ALONE, Banks())
    assert [set((batch // 12).tolist()) for batch in clips.order.batches(0)] in ([{0}, {1}], [{1}, {0}])
    plain = source(speech, **{"training.batch_size": "12"})
    row = [utterance.utt_id for utterance in plain.utterances].index(clips.utterances[3].utt_id)
    assert np.array_equal(clips.clip(3, 1)[0], plain.clip(row, 1)[0])
    with pytest.raises(RecipeError, match="the table names no archives"):
        source(speech, **{"data.open_shards": "1"})


@pytest.mark.parametrize("kind", ["lora", "unfreeze"])
def test_models_of_epochs_with_an_encoder_that_learns(
    speech: Path, encoder: SpeakerModel, tmp_path: Path, kind: str
) -> None:
    """The last epoch's model is the best one, where it is the best; low-rank additions are merged in both."""
    changes = {**(UNFREEZE if kind == "unfreeze" else {}), "run.save_interval": "1"}
    found = run(speech, tmp_path / "run", kind, encoder, **changes)
    models = {epoch: nestvox.load(tmp_path / "run" / "checkpoints" / f"epoch_{epoch}") for epoch in (1, 2)}
    assert models[1].fingerprint != models[2].fingerprint
    assert models[2].encoder.config() == found.model.encoder.config()
    if found.best_epoch:
        assert models[found.best_epoch].fingerprint == found.model.fingerprint
    else:
        pytest.skip("the starting point is the best here")


def test_clips_that_are_shorter_than_the_crop_are_counted(speech: Path, encoder: SpeakerModel, tmp_path: Path) -> None:
    """All files have less than 1.5 s; and a crop that all of them have repeats none."""
    for crop_s, repeated in (("1.5", 24), ("0.5", None)):
        changes = {**AT_ONCE, "data.crop_s": crop_s, "data.variants": "1", "data.augmentation": "{}"}
        run(speech, tmp_path / crop_s, "unfreeze", encoder, **changes)
        epochs = [line for line in log_of(tmp_path / crop_s) if "seen" in line]
        assert [line["seen"]["samples"] for line in epochs] == [24]
        assert [line.get("repeated_clips") for line in epochs] == [repeated]


def test_clips_are_of_the_channel_that_the_table_names(speech: Path, tmp_path: Path) -> None:
    both = 0.1 * np.random.default_rng(0).standard_normal((2 * RATE, 2))
    soundfile.write(tmp_path / "call.wav", both, RATE)
    soundfile.write(tmp_path / "side.wav", both[:, 1], RATE)
    rows = [
        {"utt_id": "u", "path": f"{name}.wav", "speaker": "s", "start_s": 0.25, "duration_s": 1.5, "channel": channel}
        for name, channel in (("call", 1), ("side", None))
    ]
    recipe = load_recipe("lora", settings(speech, **{"data.variants": "1", "data.train": "{}"}))
    tables = [UtteranceTable(pl.DataFrame([row]), "t", tmp_path) for row in rows]
    call, side = (AudioSource(table, recipe, RATE, ALONE, Banks()) for table in tables)
    assert np.array_equal(call.clip(0, 1)[0], side.clip(0, 1)[0])


def test_a_clip_is_not_cut_out_of_digital_silence(speech: Path, tmp_path: Path) -> None:
    samples = np.zeros(4 * RATE, np.float32)
    samples[3 * RATE :] = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    soundfile.write(tmp_path / "late.wav", samples, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "never.wav", np.zeros(RATE, np.float32), RATE)
    rows = [{"utt_id": name, "path": f"{name}.wav", "speaker": name} for name in ("late", "never")]
    recipe = load_recipe("lora", settings(speech, **{"data.variants": "1", "data.train": "{}"}))
    clips = AudioSource(UtteranceTable(pl.DataFrame(rows), "t", tmp_path), recipe, RATE, ALONE, Banks())
    assert all(clips.clip(0, epoch)[0].any() for epoch in range(12))
    assert np.array_equal(clips.clip(0, 5)[0], clips.clip(0, 5)[0])
    with pytest.raises(SilentAudioError, match=r"never\.wav"):
        clips.clip(1, 0)


def test_a_student_that_leaves_bad_audio_out_holds_nothing_of_its_teacher(
    speech: Path, encoder: SpeakerModel, unfrozen: Trained, tmp_path: Path
) -> None:
    (speech / "broken.wav").write_bytes(b"RIFF")
    frame = read_utterances(speech / "table.tsv").frame
    extra = {"utt_id": "broken", "path": "broken.wav", "speaker": "s0", "split": "train"}
    write_utterances(UtteranceTable(pl.concat([frame, pl.DataFrame(extra)]), "t", speech), speech / "more.tsv")
    changes = {**UNFREEZE, "data.table": f"{speech}/more.tsv", "loss.distill": "0.5"}
    with pytest.raises(AudioError, match=r"broken\.wav.*data\.skip_bad"):
        run(speech, tmp_path / "a", "unfreeze", encoder, **changes)
    with pytest.warns(
        UserWarning, match=r"1 of 25 training utterances are left out as unusable, e\.g\. broken: cannot be"
    ):
        found = run(speech, tmp_path / "b", "unfreeze", encoder, **changes, **{"data.skip_bad": "true"})
    seen = [line["seen"] for line in log_of(tmp_path / "b") if "seen" in line]
    assert {(one["utterances"], one["of_utterances"]) for one in seen} == {(24, 25)}
    assert found.model.card["head_data"].startswith(f"{TRAIN * TAKES} utterances")
    taught, alone = (read_checkpoint(folder / "checkpoint.safetensors") for folder in (found.folder, unfrozen.folder))
    assert {name: tensor.shape for name, tensor in taught.tensors.items()} == {
        name: tensor.shape for name, tensor in alone.tensors.items()
    }
    assert state_of(found.model).keys() == state_of(encoder).keys()


@pytest.mark.parametrize(
    ("settings_", "told"),
    [("{p_reverb: 1}", "p_reverb asks for rooms"), ("{p_nois: 1}", "no setting 'p_nois'; it has channels, clip")],
)
def test_augmentation_is_checked_before_anything_is_embedded(
    speech: Path, encoder: SpeakerModel, tmp_path: Path, settings_: str, told: str
) -> None:
    with pytest.raises(AugmentationError, match=told):
        run(speech, tmp_path / "run", "unfreeze", encoder, **UNFREEZE, **{"data.augmentation": settings_})
    assert not (tmp_path / "run" / "cache").exists()


def test_another_speed_is_another_speaker(speech: Path) -> None:
    clips = source(speech, **{"data.augmentation": "{p_channel: 0, p_speed: 1, speeds: [0.9]}"})
    assert len(clips.names) == 2 * TRAIN
    clip, speaker = clips.clip(0, 0)
    assert speaker == clips.utterances[0].speaker + "#speed0.9"
    assert clip.shape == (RATE // 2,)
    with pytest.raises(RecipeError, match="set p_speed to 0"):
        source(
            speech,
            **{
                "data.augmentation": "{p_channel: 0, p_speed: 1}",
                "training.balanced": "{speakers: 4, utterances: 2}",
            },
        )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stages": "[{epoch: 0, train: [backbone.stage9]}]"}, r"'backbone\.stage9'; backbone has .*stage0, stage1"),
        ({"stages": "[{epoch: 0, train: [pol]}]"}, "'pol'; it has backbone, .*pool"),
        ({**UNFREEZE, "data.crop_s": "0.01"}, r"data\.crop_s: the encoder needs clips of at least 0\.\d+ s, got 0\.01"),
    ],
)
def test_what_the_encoder_cannot_do(
    speech: Path, encoder: SpeakerModel, tmp_path: Path, changes: dict[str, str], told: str
) -> None:
    with pytest.raises(RecipeError, match=told):
        run(speech, tmp_path / "run", "unfreeze", encoder, **changes)


def test_bands_are_blanked_in_training_and_nowhere_else(speech: Path, encoder: SpeakerModel, tmp_path: Path) -> None:
    network = encoder.encoder
    settings_ = network.spec.settings
    audio = 0.1 * torch.randn(16, RATE, generator=torch.Generator().manual_seed(0))
    whole = network.spec(audio)
    with blanked_bands(network, SpecAugment(bands=6, frames=9, masks=2)):
        assert torch.equal(network.spec(audio), whole)
        network.spec.training = True
        found = network.spec(audio)
        network.spec.training = False
    blank = (found == 0) & (whole != 0)
    assert torch.equal(found[~blank], whole[~blank])
    widths = {
        "bands": {int(one.all(dim=1).sum()) for one in blank},
        "frames": {int(one.all(dim=0).sum()) for one in blank},
    }
    # Two masks of each kind, from nothing to the widest each.
    assert 0 < max(widths["bands"]) <= 12
    assert 0 < max(widths["frames"]) <= 18
    assert network.spec.settings is settings_
    ge2e = build({"architecture": "ge2e"})
    with pytest.raises(RecipeError, match="GE2E has no front end"), blanked_bands(ge2e, SpecAugment()):
        pass
    changes = {**AT_ONCE, "data.spec_augment": "{bands: 4}", "training.batch_size": "24"}
    losses = []
    for name, change in (("plain", {**AT_ONCE, "training.batch_size": "24"}), ("one", changes), ("two", changes)):
        run(speech, tmp_path / name, "unfreeze", encoder, **change)
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[1] == losses[2]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "mixer", "width": 16, "depth": 1},
        {"architecture": "mixer", "width": 16, "depth": 1, "front_end": "gabor"},
        {"architecture": "lstm_autoencoder", "channels": 8, "bottleneck": 4, "hidden": 4},
        {"architecture": "campplus", "head_channels": 4, "initial": 16, "growth": 4, "bottleneck": 8},
    ],
)
def test_bands_of_every_filter_bank_are_blanked_in_training_only(config: dict[str, Any]) -> None:
    front = build(config).eval().get_submodule("features")
    audio = 0.1 * torch.randn(16, RATE, generator=torch.Generator().manual_seed(0))
    whole = front(audio)
    with blanked_bands(build(config), SpecAugment()):
        pass
    parent = nn.Sequential(front).eval()
    with blanked_bands(parent, SpecAugment(bands=6, frames=9, masks=2)):  # type: ignore[arg-type]
        assert torch.equal(front(audio), whole)
        front.train()
        found = front(audio)
    assert torch.equal(front(audio), whole)  # also in training, once it is over
    blank = (found == 0) & (whole != 0)
    assert torch.equal(found[~blank], whole[~blank])
    widths = [{int(one.all(dim=axis).sum()) for one in blank} for axis in (1, 0)]
    assert 0 < max(widths[0]) <= 12
    assert 0 < max(widths[1]) <= 18


def test_the_front_end_stays_in_float32_under_autocast(encoder: SpeakerModel) -> None:
    network = encoder.encoder
    audio = 0.1 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    expected = network.spec(audio)
    with torch.autocast("cpu", torch.bfloat16), full_precision_front_end(network):
        assert torch.equal(network.spec(audio), expected)
    assert "forward" not in vars(network.spec)


def test_a_cache_alone_does_not_train_an_encoder(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    recipe = load_recipe("lora", [*world.settings(), "data.table=[]"])
    with pytest.raises(RecipeError, match="learns from audio"):
        train(recipe, tmp_path / "run", start=encoder)
