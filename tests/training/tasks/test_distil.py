"""Distillation: its parts sum up, a killed run ends with the same bits, and the teacher stays out of the student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
import torch

import nestvox
from nestvox.audio.augment import Banks
from nestvox.audio.channel import change_speed
from nestvox.corpora.trials import Trials, write_trials
from nestvox.corpora.utterances import UtteranceTable, read_utterances, write_utterances
from nestvox.encoders.registry import build
from nestvox.errors import FingerprintError, ModelError, RecipeError, StoreError, TableError
from nestvox.extraction.cache.feature_cache import open_cache
from nestvox.heads.rotation import truncation
from nestvox.model.speaker_model import SpeakerModel
from nestvox.training.checkpoint import read_checkpoint
from nestvox.training.data.clips import AudioSource
from nestvox.training.data.targets import Targets
from nestvox.training.distilling import DistilCriterion
from nestvox.training.parallel import Processes
from nestvox.training.recipe.kinds import DistilRecipe
from nestvox.training.recipe.recipe import parse_recipe
from nestvox.training.run_log import EpochReport, Watch
from nestvox.training.tasks.encoder import drawn_encoder
from nestvox.training.train import Trained, train, with_random_weights

RATE = 16_000
STUDENT = {"architecture": "mixer", "variant": "temporal", "width": 16, "depth": 1, "embedding_dim": 24, "chunk": 4}
SIZE = 24
SPEEDS = {1.0: "", 0.8: "-speed0.8", 1.25: "-speed1.25"}


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noises with a beat of each speaker's own."""
    folder = tmp_path_factory.mktemp("speech")
    draw = np.random.default_rng(2)
    rows = []
    for speaker in range(9):
        for take in range(3):
            samples = draw.standard_normal(int(draw.uniform(0.6, 1.0) * RATE)).astype(np.float32)
            samples *= 0.05 * np.sin(2 * np.pi * (120 + 40 * speaker) * np.arange(len(samples)) / RATE)
            name = f"s{speaker}-{take}"
            soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")
            split = "train" if speaker < 6 else "dev"
            rows.append({"utt_id": name, "path": f"{name}.wav", "speaker": f"s{speaker}", "split": split})
    write_utterances(UtteranceTable(pl.DataFrame(rows), "table", folder), folder / "table.tsv")
    dev = [(row["speaker"], row["utt_id"]) for row in rows if row["split"] == "dev"]
    pairs = [(a, b, x == y) for k, (x, a) in enumerate(dev) for y, b in dev[k + 1 :]]
    schema = {"enrol": pl.String, "test": pl.String, "target": pl.Boolean}
    write_trials(Trials(pl.DataFrame(pairs, schema, orient="row"), "dev"), folder / "dev.txt", "voxceleb")
    return folder


@pytest.fixture(scope="module")
def teacher(speech: Path, encoder: SpeakerModel) -> Path:
    SpeakerModel(encoder.encoder, truncation(SIZE, [8, SIZE]), name="nested teacher").save(speech / "teacher")
    return speech / "teacher"


def recipe_of(speech: Path, teacher: Path | None, objective: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "kind": "distil",
        "model": STUDENT,
        **({} if teacher is None else {"teacher": str(teacher)}),
        "data": {
            "table": str(speech / "table.tsv"),
            "dev_trials": str(speech / "dev.txt"),
            "test": {},
            "crop_s": 0.5,
            "variants": 1,
            "targets": str(speech / "targets"),
        },
        "head": {"dims": [8, SIZE]},
        "objective": objective,
        "training": {"epochs": 2, "batch_size": 6, "learning_rate": 0.01, "max_grad_norm": None},
        "run": {"device": "cpu", "checkpoint_steps": 2, "log_steps": 1},
        **changes,
    }


class KilledError(Exception):
    """Stands for the end of a process."""


class Told(Watch):
    def __init__(self, stop_at: int | None = None) -> None:
        self.warnings: list[str] = []
        self.stop_at = stop_at

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def epoch(self, report: EpochReport) -> None:
        if report.epoch == self.stop_at:
            raise KilledError


def trained(content: dict[str, Any], out: Path, watch: Watch | None = None, *, resume: bool = False) -> Trained:
    found = train(parse_recipe(content, "test", []), out, watch=watch or Told(), resume=resume)
    assert found is not None
    return found


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


ALL_TERMS = {
    "alpha": 0.7,
    "terms": {
        "cosine": {"weight": 2},
        "old": {"kind": "mse", "per": "element", "temperature": 4},
        "gram": {},
        "far": {"kind": "distances"},
        "nested": {"target": "truncated", "factors": {"cosine": 1, "similarity": 1, "correlation": 0}},
    },
}


def test_the_total_is_the_sum_of_its_parts_and_each_part_is_a_series(
    speech: Path, teacher: Path, tmp_path: Path
) -> None:
    trained(recipe_of(speech, teacher, ALL_TERMS), tmp_path / "run")
    lines = [line for line in lines_of(tmp_path / "run") if "loss" in line]
    assert len(lines) == 6
    for line in lines:
        terms = sum(ALL_TERMS["terms"][name].get("weight", 1) * line[name] for name in ALL_TERMS["terms"])
        assert line["distillation"] == pytest.approx(terms, rel=1e-5)
        assert line["alpha"] == pytest.approx(0.7)
        assert line["loss"] == pytest.approx(0.3 * line["ce"] + 0.7 * line["distillation"], rel=1e-5)
        assert 0 <= line["accuracy"] <= 1
        # |s' - t'|^2 = 2 (1 - cos), of which a mean over D numbers divided by T^2 is taken.
        assert line["old"] * SIZE * 16 / 2 == pytest.approx(line["cosine"], rel=1e-4)
    looks = [line for line in lines_of(tmp_path / "run") if "monitor" in line]
    assert [round(line["epoch"], 2) for line in looks] == [0.17, 1.17]
    assert looks[0]["monitor"]["old/weight"] == pytest.approx(0.7)
    ends = [line for line in lines_of(tmp_path / "run") if "dev_eer" in line]
    assert all(set(line["dev_min_dcf"]) == {"8", "24"} for line in ends)
    assert ends[-1]["epoch_ce"] == pytest.approx(np.mean([line["ce"] for line in lines[3:]]), rel=1e-5)


def test_a_term_that_does_nothing_is_named(speech: Path, teacher: Path, tmp_path: Path) -> None:
    """The failure that was published: a squared error per element, at temperature 4, with half of the loss."""
    objective = {"alpha": 0.5, "terms": {"mse": {"per": "element", "temperature": 4}}}
    told = Told()
    trained(recipe_of(speech, teacher, objective), tmp_path / "run", told)
    assert sum("mse contributes nothing" in words for words in told.warnings) == 2


@pytest.mark.parametrize(
    "objective",
    [
        {"alpha": 1, "terms": {"cosine": {}}},
        {"balance": 0.5, "terms": {"cosine": {}, "similarity": {}}},
        {"stages": [[1, 0.5], [2, 0.9]], "terms": {"cosine": {}}},
    ],
    ids=["no speakers", "balanced", "curriculum"],
)
def test_a_run_that_was_killed_ends_with_the_same_bits(
    speech: Path, teacher: Path, tmp_path: Path, objective: dict[str, Any]
) -> None:
    content = recipe_of(speech, teacher, objective)
    whole = trained(content, tmp_path / "whole")
    with pytest.raises(KilledError):
        trained(content, tmp_path / "killed", Told(stop_at=1))
    again = trained(content, tmp_path / "killed", resume=True)
    assert again.model.fingerprint == whole.model.fingerprint
    both = [read_checkpoint(tmp_path / name / "checkpoint.safetensors").tensors for name in ("whole", "killed")]
    assert both[0].keys() == both[1].keys()
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])
    logs = [
        [{**x, "time": 0, "epoch_s": 0, "samples_per_s": 0} for x in lines_of(tmp_path / n)]
        for n in ("whole", "killed")
    ]
    assert logs[0] == logs[1]


def test_alpha_follows_its_schedule_or_the_gradients(speech: Path, teacher: Path, tmp_path: Path) -> None:
    trained(recipe_of(speech, teacher, {"stages": [[1, 0.5], [2, 0.9]], "terms": {"cosine": {}}}), tmp_path / "a")
    assert [round(line["alpha"], 4) for line in lines_of(tmp_path / "a") if "loss" in line] == [0.5] * 3 + [0.9] * 3
    trained(recipe_of(speech, teacher, {"balance": 0.5, "terms": {"cosine": {}}}), tmp_path / "b")
    alphas = [line["alpha"] for line in lines_of(tmp_path / "b") if "loss" in line]
    assert alphas[0] == pytest.approx(0.5)
    assert alphas[1] > 0.8, "a cosine has the smaller gradient by far, and gets the larger share"


def test_the_student_holds_nothing_of_its_teacher_and_needs_no_head(
    speech: Path, teacher: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in teacher.iterdir()}
    trained(recipe_of(speech, teacher, ALL_TERMS), tmp_path / "run")
    assert before == {path.name: path.read_bytes() for path in teacher.iterdir()}
    network = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors").section("network")
    student = nestvox.load(tmp_path / "run" / "model", device="cpu", backend="eager")
    assert student.dims == (8, SIZE)
    assert network.keys() <= {f"encoder.{name}" for name in student.encoder.state_dict()}
    stranger = SpeakerModel(build(STUDENT).eval(), name="stranger")
    with pytest.raises(FingerprintError, match="fingerprint"):
        train(
            parse_recipe(recipe_of(speech, teacher, ALL_TERMS), "test", []),
            tmp_path / "run",
            teacher=stranger,
            resume=True,
        )
    sent = student.encode(str(speech / "s0-0.wav"))
    with torch.no_grad():
        audio = torch.from_numpy(soundfile.read(speech / "s0-0.wav", dtype="float32")[0])[None]
        own = student.encoder(audio).embedding[0]
    assert np.allclose(np.asarray(sent).ravel(), (own / own.norm()).numpy(), atol=1e-5)


def test_a_shuffled_and_a_random_teacher_teach_something_else(speech: Path, teacher: Path, tmp_path: Path) -> None:
    """They are controls: the first is the same teacher's vectors of other utterances, the second another network."""
    first = {}
    for order in ("own", "shuffled", "random"):
        content = recipe_of(speech, teacher, {"alpha": 1}, teacher_order=order)
        content["data"]["targets"] = str(tmp_path / "targets")
        content["training"]["epochs"] = 1
        trained(content, tmp_path / order)
        first[order] = next(line["loss"] for line in lines_of(tmp_path / order) if "loss" in line)
    assert len(set(first.values())) == 3
    own, other = (open_cache(tmp_path / name).metadata.fingerprint for name in ("targets", "targets-random-0"))
    nested = nestvox.load(teacher, device="cpu")
    assert own == nested.encoder_fingerprint != other
    assert with_random_weights(nested, 3).dims == (8, SIZE)
    assert with_random_weights(nested, 3).fingerprint == with_random_weights(nested, 3).fingerprint
    assert with_random_weights(nested, 4).fingerprint != with_random_weights(nested, 3).fingerprint
    alone = recipe_of(speech, None, {"alpha": 0, "terms": {}}, teacher_order="random")
    with pytest.raises(RecipeError, match="teacher_order means nothing here"):
        parse_recipe(alone, "test", [])


def test_targets_are_the_nested_vectors_of_the_teacher(speech: Path, teacher: Path, tmp_path: Path) -> None:
    """The teacher's head takes part: a teacher whose coordinates are turned teaches the turned ones."""
    from nestvox.heads.rotation import Rotation

    trained(recipe_of(speech, teacher, {"alpha": 1, "terms": {"cosine": {}}}), tmp_path / "run")
    cache = open_cache(speech / "targets")
    turned = Rotation(np.linalg.qr(np.random.default_rng(1).standard_normal((SIZE, SIZE)))[0], (8, SIZE), "turned")
    rows = np.array([3, 1])
    plain = Targets(cache, "a", "a").gather(rows)
    assert np.allclose(Targets(cache, "a", "a", head=turned).gather(rows), turned.transform(plain), atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teacher": None}, "teacher: name the model to learn from"),
        ({"objective": {"alpha": 0.5, "terms": {}}}, "nothing is taught"),
        ({"objective": {"alpha": 0.6, "balance": 0.5}}, "balance says what alpha is"),
        ({"objective": {"stages": [[2, 0.5]]}}, "begins at epoch 1"),
        ({"objective": {"capacity": "table", "balance": 0.5}}, "both say what alpha is"),
        ({"objective": {"terms": {"cosinus": {"kind": "cosinus"}}}}, "cosinus"),
        ({"loss": {"distill": 1}}, "kind distil has objective"),
        ({"model": None}, "say one of them"),
        ({"head": {"start": "pretrained"}}, "random"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(changes: dict[str, Any], told: str) -> None:
    content = {"kind": "distil", "model": STUDENT, "teacher": "campplus", **changes}
    with pytest.raises(RecipeError, match=told):
        parse_recipe(content, "test", [])


def test_a_temperature_where_it_has_no_effect_is_refused() -> None:
    recipe = parse_recipe(
        {"kind": "distil", "model": STUDENT, "teacher": "x", "objective": {"terms": {"cosine": {"temperature": 4}}}},
        "test",
        [],
    )
    with pytest.raises(ModelError, match="temperature"):
        DistilCriterion(recipe, (8, SIZE), 6, SIZE, {None: SIZE})  # type: ignore[arg-type]


def test_a_student_of_another_size_learns_behind_a_map_that_is_left_out(
    speech: Path, teacher: Path, tmp_path: Path
) -> None:
    content = recipe_of(speech, teacher, {"alpha": 1, "terms": {"cosine": {}}}, head={"dims": [8, 32]})
    content["model"] = {**STUDENT, "embedding_dim": 32}
    trained(content, tmp_path / "run")
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert checkpoint.section("criterion")["objective.terms.cosine.projections.0.weight"].shape == (SIZE, 32)
    assert nestvox.load(tmp_path / "run" / "model", device="cpu").dims == (8, 32)


def test_rows_without_a_speaker_are_taught_too(speech: Path, teacher: Path, tmp_path: Path) -> None:
    lines = (speech / "table.tsv").read_text().splitlines()
    place = lines[0].split("\t").index
    rows = [line.split("\t") for line in lines]
    for row in rows[1:]:
        if row[place("utt_id")].startswith(("s4", "s5")):
            row[place("speaker")], row[place("split")] = "", "nameless"
    (speech / "thin.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    content = recipe_of(speech, teacher, {"alpha": 1, "terms": {"cosine": {}}})
    content["data"] |= {"table": str(speech / "thin.tsv"), "targets": str(tmp_path / "targets")}
    with pytest.raises(TableError, match="speaker is empty"):
        trained(content, tmp_path / "a")
    content["data"]["unlabelled"] = {"split": "nameless"}
    trained(content, tmp_path / "b")
    assert lines_of(tmp_path / "b")[-1]["seen"] == {
        "utterances": 18,
        "of_utterances": 18,
        "speakers": 10,  # four, and one for each of the six rows that nobody named
        "of_speakers": 10,
        "samples": 18,
    }
    content["objective"] = {"alpha": 0.5}
    with pytest.raises(RecipeError, match=r"data\.unlabelled: these have no speakers"):
        parse_recipe(content, "test", [])
    content["objective"] = {"alpha": 1}
    content["data"] |= {"train": {"split": "nameless"}, "unlabelled": {"split": "train"}}
    with pytest.raises(RecipeError, match=r"6 rows have no speaker, e\.g\. s4-0"):
        trained(content, tmp_path / "c")


def test_a_clip_at_another_speed_learns_what_the_teacher_says_of_the_utterance_at_that_speed(
    speech: Path, teacher: Path, tmp_path: Path
) -> None:
    """Another speed is another voice; the target is of the whole utterance at that speed, and the clean one stays."""
    content = recipe_of(speech, teacher, {"alpha": 1, "terms": {"cosine": {}}})
    content["data"] |= {
        "targets": str(tmp_path / "targets"),
        "variants": 2,
        "clean": 0.4,
        "augmentation": {"p_noise": 0, "p_gain": 0, "p_clip": 0, "p_channel": 0, "p_speed": 1, "speeds": [0.8, 1.25]},
    }
    recipe = parse_recipe(content, "test", [])
    assert isinstance(recipe, DistilRecipe)
    trained(content, tmp_path / "run")
    assert sorted(path.name for path in tmp_path.glob("targets*")) == [
        "targets",
        "targets-speed0.8",
        "targets-speed1.25",
    ]

    model = nestvox.load(teacher, device="cpu", backend="eager")
    caches = {speed: open_cache(tmp_path / f"targets{tail}") for speed, tail in SPEEDS.items()}
    targets = Targets(caches[1.0], "a", "a", at_speeds={0.8: caches[0.8], 1.25: caches[1.25]})
    table = read_utterances(speech / "table.tsv").where(split="train")
    source = AudioSource(table, recipe, RATE, Processes(0, 1, torch.device("cpu")), Banks(), teacher=targets)
    heard = set()
    for batch, rows in zip(source.batches(0, 0), source.order.batches(0), strict=True):
        (part,) = batch.parts
        assert part.teacher is not None
        for row, label, target in zip(rows, part.labels, part.teacher, strict=True):
            name = source.utterances[row].utt_id
            speed = float(source.names[label].partition("#speed")[2] or 1)
            samples = soundfile.read(speech / f"{name}.wav", dtype="float32")[0]
            whole = samples if speed == 1 else change_speed(samples, speed)
            with torch.no_grad():
                own = model.encoder(torch.from_numpy(whole)[None]).embedding[0]
            assert torch.nn.functional.cosine_similarity(own, target, dim=0) > 0.9999
            heard.add(speed)
    assert heard == set(SPEEDS)


def test_each_term_learns_from_its_own_teacher_and_its_own_prefix(
    speech: Path, teacher: Path, encoder: SpeakerModel, tmp_path: Path
) -> None:
    """The first eight numbers learn from another model than all of them, and both cached targets are what they say."""
    other = SpeakerModel(drawn_encoder({**STUDENT, "embedding_dim": 12}, 5), truncation(12, [4, 12]), name="small")
    other.save(tmp_path / "small")
    terms = {"cosine": {}, "small": {"kind": "similarity", "of": "small", "prefix": 8}}
    content = recipe_of(speech, teacher, {"alpha": 1, "terms": terms}, teachers={"small": str(tmp_path / "small")})
    content["data"] |= {"targets": str(tmp_path / "targets")}
    trained(content, tmp_path / "run")
    assert (tmp_path / "targets-small").is_dir()

    recipe = parse_recipe(content, "test", [])
    assert isinstance(recipe, DistilRecipe)
    both = open_cache(tmp_path / "targets"), open_cache(tmp_path / "targets-small")
    targets = Targets(both[0], "a", "a", others={"small": Targets(both[1], "b", "b")})
    table = read_utterances(speech / "table.tsv").where(split="train")
    source = AudioSource(table, recipe, RATE, Processes(0, 1, torch.device("cpu")), Banks(), teacher=targets)
    batches = source.batches(0, 0)
    (part,) = next(batches).parts
    assert part.teacher is not None
    assert part.teacher.shape == (6, SIZE + 12)
    own = nestvox.load(tmp_path / "small", device="cpu", backend="eager").encoder
    for row, target in zip(source.order.batches(0)[0], part.teacher[:, SIZE:], strict=True):
        samples = soundfile.read(speech / f"{source.utterances[row].utt_id}.wav", dtype="float32")[0]
        with torch.no_grad():
            said = own(torch.from_numpy(samples)[None]).embedding[0]
        assert torch.nn.functional.cosine_similarity(said, target, dim=0) > 0.9999

    criterion = DistilCriterion(recipe, (8, SIZE), 6, SIZE, targets.sizes)
    criterion.begin_epoch(0)
    embedding = torch.randn(6, SIZE, generator=torch.Generator().manual_seed(1)).requires_grad_()
    one, two = part.teacher[:, :SIZE], part.teacher[:, SIZE:]
    found = criterion(embedding, part.labels, part.teacher)
    cosine = 1 - torch.nn.functional.cosine_similarity(embedding, one).mean()
    assert found.parts["cosine"] == pytest.approx(float(cosine.detach()), abs=1e-5)
    # The relations between the recordings as the small teacher sees them are all that its term says.
    turned = criterion(embedding, part.labels, torch.cat([one, two @ torch.linalg.qr(torch.randn(12, 12))[0]], dim=1))
    assert turned.parts["small"] == pytest.approx(float(found.parts["small"]), abs=1e-4)
    (gradient,) = torch.autograd.grad(criterion.objective.terms["small"](embedding[:, :8], two), embedding)  # type: ignore[union-attr]
    assert gradient[:, 8:].abs().max() == 0
    assert gradient[:, :8].abs().max() > 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teachers": {"b": "ge2e"}}, "teachers.b: nothing is learned from it"),
        ({"objective": {"alpha": 1, "terms": {"cosine": {"of": "b"}}}}, "teachers has no b, it has none"),
    ],
)
def test_teachers_that_do_not_fit_the_terms(speech: Path, teacher: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        parse_recipe(recipe_of(speech, teacher, {"alpha": 1, "terms": {"cosine": {}}}) | changes, "test", [])


def test_a_run_on_part_of_the_recordings_hears_no_teacher_again(speech: Path, teacher: Path, tmp_path: Path) -> None:
    content = recipe_of(speech, teacher, {"alpha": 1, "terms": {"cosine": {}}})
    content["data"] |= {"targets": str(tmp_path / "targets")}
    trained(content, tmp_path / "whole")
    before = {path.name: path.read_bytes() for path in (tmp_path / "targets").iterdir()}
    table = read_utterances(speech / "table.tsv")
    rows = table.frame.filter(pl.col("speaker") != "s0").with_columns(path=str(speech) + "/" + pl.col("path"))
    write_utterances(UtteranceTable(rows, "part", tmp_path), tmp_path / "part.tsv")
    content["data"] |= {"table": str(tmp_path / "part.tsv")}
    trained(content, tmp_path / "part")
    assert {path.name: path.read_bytes() for path in (tmp_path / "targets").iterdir()} == before

    soundfile.write(tmp_path / "other.wav", np.random.default_rng(0).standard_normal(RATE) * 0.1, RATE)
    other = rows.with_columns(path=pl.when(pl.col("utt_id") == "s1-0").then(pl.lit("other.wav")).otherwise("path"))
    write_utterances(UtteranceTable(other, "other", tmp_path), tmp_path / "other.tsv")
    content["data"] |= {"table": str(tmp_path / "other.tsv")}
    with pytest.raises(StoreError, match="the rows of the table"):
        trained(content, tmp_path / "other")
