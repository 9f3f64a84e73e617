"""The sum of speakers and teacher, alpha in all its ways, and what the monitor says about a batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch
from torch import Tensor

from nestvox.errors import ModelError
from nestvox.losses.alpha import AlphaSchedule, GradientBalance, capacity_alpha
from nestvox.losses.distillation import NestedTerm, PrefixDistillation
from nestvox.losses.hints import Hints, Stage
from nestvox.losses.monitor import DistillationMonitor, Reading
from nestvox.losses.objective import Combined, DistillationObjective
from nestvox.losses.relations import Similarity
from nestvox.losses.terms import EmbeddingCosine, EmbeddingMse, LogitKd


def vectors(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def unrelated(student_seed: int = 0) -> tuple[Tensor, Tensor]:
    """Student and teacher of 512 numbers, every cosine between them exactly 0."""
    student, teacher = torch.zeros(32, 512), torch.zeros(32, 512)
    student[:, :256], teacher[:, 256:] = vectors(student_seed, 32, 256), vectors(1, 32, 256)
    return student.requires_grad_(), teacher


def classified(student: Tensor, classes: int = 140) -> Tensor:
    """Cross-entropy of a scaled cosine classifier, as in training."""
    weight = torch.nn.functional.normalize(vectors(3, classes, student.shape[1]))
    logits = 8 * torch.nn.functional.normalize(student) @ weight.T
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(student)) % classes)


def looked(objective: DistillationObjective, student: Tensor, teacher: Tensor, times: int = 1) -> Reading:
    monitor = DistillationMonitor(objective)
    pairs = dict.fromkeys(objective.weights, (student, teacher))
    for _ in range(times):
        reading = monitor.look(objective(pairs, classified(student)), pairs, [student], (student, teacher))
    return reading


def test_three_series_by_hand() -> None:
    """0.3 CE + 0.7 (2 cosine + similarity), of one right angle a row and of two equal Gram matrices."""
    objective = DistillationObjective({"c": EmbeddingCosine(), "s": Similarity()}, {"c": 2.0}, alpha=0.7)
    student, teacher = torch.eye(3, 6), torch.eye(6)[3:]
    found = objective({"c": (student, teacher), "s": (student, teacher)}, torch.tensor(4.0))
    assert found.raw["c"].item() == 1
    assert found.raw["s"].item() == 0
    assert found.speakers.item() == pytest.approx(1.2, rel=1e-6)
    assert found.distillation.item() == pytest.approx(1.4, rel=1e-6)
    assert found.total.item() == (found.speakers + found.distillation).item()


def test_without_labels_the_teacher_has_all() -> None:
    objective, pair = DistillationObjective({"c": EmbeddingCosine()}), (torch.eye(3), torch.eye(3).roll(1, 0))
    with pytest.raises(ModelError, match=r"alpha 0\.5 leaves a share to the speakers"):
        objective({"c": pair})
    objective.alpha = 1
    assert objective({"c": pair}).total.item() == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"terms": {}}, "distils nothing"),
        ({"terms": {"ce": EmbeddingCosine()}}, "cannot be called ce"),
        ({"weights": {"d": 1.0}}, r"name terms \['d'\]"),
        ({"weights": {"c": 0.0}}, "positive"),
        ({"alpha": 1.9}, "from 0 to 1, got 1.9"),
    ],
)
def test_objectives_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        DistillationObjective(**{"terms": {"c": EmbeddingCosine()}, **settings})


def test_pairs_belong_to_terms() -> None:
    with pytest.raises(ModelError, match=r"terms \['c'\], got \['d'\]"):
        DistillationObjective({"c": EmbeddingCosine()})({"d": (torch.eye(2), torch.eye(2))}, torch.tensor(1.0))


def test_curriculum() -> None:
    schedule = AlphaSchedule([(1, 0.5), (41, 0.7), (81, 0.5)])
    assert [schedule.at(epoch) for epoch in (1, 40, 41, 80, 81, 100)] == [0.5, 0.5, 0.7, 0.7, 0.5, 0.5]
    assert AlphaSchedule([(1, 0.3)]).at(1000) == 0.3
    with pytest.raises(ModelError, match="from 1"):
        schedule.at(0)


@pytest.mark.parametrize("stages", [[], [(2, 0.5)], [(1, 0.5), (1, 0.6)], [(1, 1.5)]])
def test_schedules_that_are_refused(stages: list[tuple[int, float]]) -> None:
    with pytest.raises(ModelError):
        AlphaSchedule(stages)


@pytest.mark.parametrize(
    ("student", "teacher", "table", "formula"),
    [
        (1, 4, 0.9, 0.9),
        (1, 2, 0.7, 0.9),
        (2_664_576, 3_873_745, 0.7, 0.9),
        (1, 1, 0.5, 0.9),
        (3, 2, 0.4, 0.608),
        (7_844_864, 3_873_745, 0.4, 0.391),
        (3, 1, 0.4, 0.108),
        (4, 1, 0.4, 0.1),
    ],
)
def test_alpha_by_capacity(student: int, teacher: int, table: float, formula: float) -> None:
    """The rows of the write-up, with the true parameter counts."""
    assert capacity_alpha(student, teacher) == table
    assert capacity_alpha(student, teacher, "formula") == pytest.approx(formula, abs=5e-4)


def test_alpha_by_capacity_refuses() -> None:
    with pytest.raises(ModelError, match="table, formula"):
        capacity_alpha(0, 1)


def test_balanced_gradients() -> None:
    """Gradients of 0.01 and 3 at the embedding: with the alpha found, the share is the one asked for."""
    x = torch.zeros(4, requires_grad=True)
    slow, fast = 0.01 * x[0], 3 * x[1]
    found = Combined(0.5, {}, fast, slow, 0.5 * fast, 0.5 * slow, 0.5 * (slow + fast))
    balance = GradientBalance(0.25, momentum=0.0)
    assert balance.alpha == 0.25
    alpha = balance.update(found, [x])
    assert alpha * 0.01 / (alpha * 0.01 + (1 - alpha) * 3) == pytest.approx(0.25, rel=1e-6)
    slower = GradientBalance(0.5, momentum=0.75)
    slower.update(found, [x])
    slower.update(Combined(0.5, {}, slow, slow, slow, slow, slow), [x])  # ratio 1
    assert float(slower.log_ratio) == pytest.approx(0.75 * math.log(0.01 / 3), rel=1e-6)
    resumed = GradientBalance(0.5, momentum=0.75)
    resumed.load_state_dict(slower.state_dict())
    assert resumed.alpha == slower.alpha
    before = slower.alpha
    assert slower.update(Combined(0.5, {}, fast, 0 * slow, fast, slow, fast), [x]) == before


def test_failure_of_the_first_write_up_is_named() -> None:
    """MSE over elements at temperature 4 and alpha 0.5, beside a cross-entropy of 3.05: 0.008 % of the total."""
    student, teacher = unrelated()
    objective = DistillationObjective({"mse": EmbeddingMse("element", 4.0)}, alpha=0.5)
    monitor, pairs = DistillationMonitor(objective), {"mse": (student, teacher)}
    for _ in range(2):
        ce = classified(student)
        ce = ce + (3.05 - ce.item())
        reading = monitor.look(objective(pairs, ce), pairs, [student], (student, teacher))
    part = reading.parts["mse"]
    assert part.value == pytest.approx(2**-12, rel=1e-6)
    assert (part.chance, part.maximum) == (2**-12, 2**-11)
    assert part.share == pytest.approx(2**-12 / (3.05 + 2**-12), rel=1e-4)
    nothing, chance = sorted(reading.warnings)
    assert nothing.startswith("mse contributes nothing: it is 0.008 % of the loss and 0.0")
    assert "of the gradient; to be half of the gradient, its weight would have to be" in nothing
    assert chance.startswith("mse is still at chance after 2 looks: 0.000244141, where unrelated vectors give 0.000244")
    assert "learned nothing from the teacher" in chance
    # The same as a cosine, 4096 times as heavy: it is heard at once.
    louder = looked(DistillationObjective({"cosine": EmbeddingCosine()}, alpha=0.5), student, teacher)
    assert louder.warnings == ()
    assert louder.parts["cosine"].gradient_norm == pytest.approx(4096 * part.gradient_norm, rel=1e-4)


def test_shares_and_norms_by_hand() -> None:
    """Gradients of the weighted parts are (0.7 * 2 * [0, -1], 0.3 * [4, 3]): norms 1.4 and 1.5, cosine -0.6."""
    student, teacher = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 1.0]])
    objective = DistillationObjective({"c": EmbeddingCosine()}, {"c": 2.0}, alpha=0.7)
    pairs = {"c": (student, teacher)}
    ce = 4 * student[0, 0] + 3 * student[0, 1]
    reading = DistillationMonitor(objective).look(objective(pairs, ce), pairs, [student])
    part, speakers = reading.parts["c"], reading.parts["ce"]
    assert (part.gradient_norm, speakers.gradient_norm) == pytest.approx((1.4, 1.5), rel=1e-6)
    assert part.gradient_share == pytest.approx(1.4 / 2.9, rel=1e-6)
    assert (part.share, speakers.share) == pytest.approx((1.4 / 2.6, 1.2 / 2.6), rel=1e-6)
    assert (part.weight, speakers.weight) == pytest.approx((1.4, 0.3))
    assert reading.agreement == pytest.approx(-0.6, rel=1e-6)
    assert reading.total == reading.speakers + reading.distillation
    assert student.grad is None
    scalars = reading.scalars()
    assert scalars["loss/total"] == scalars["loss/speakers"] + scalars["loss/distillation"]
    assert scalars["c/chance"] == 1
    assert "ce/chance" not in scalars
    assert all(math.isfinite(value) for value in scalars.values())


def test_a_student_that_learns_is_left_alone() -> None:
    teacher = vectors(1, 16, 32)
    student = (teacher + 0.5 * vectors(2, 16, 32)).requires_grad_()
    objective = DistillationObjective(
        {"cosine": EmbeddingCosine(), "nested": NestedTerm(PrefixDistillation([8, 32]))}, alpha=0.9
    )
    reading = looked(objective, student, teacher, times=5)
    assert reading.warnings == ()
    expected = torch.nn.functional.cosine_similarity(student, teacher).mean().item()
    assert reading.cosine == pytest.approx(expected, rel=1e-5)
    assert abs(reading.cosine_shuffled) < 0.1
    perfect = looked(objective, teacher.clone().requires_grad_(), teacher, times=5)
    assert perfect.warnings == (), "a term that has nothing left to learn has no gradient, and that is no fault"


def test_a_student_that_knows_the_average_alone_is_at_chance() -> None:
    """Cosines of 0.9 that say nothing of the speaker: every order of the teacher's vectors gives as much."""
    teacher = 10 + vectors(1, 32, 64)
    reading = looked(
        DistillationObjective({"cosine": EmbeddingCosine()}, alpha=0.999),
        (10 + vectors(2, 32, 64)).requires_grad_(),
        teacher,
        times=3,
    )
    assert reading.cosine > 0.9
    assert reading.cosine_shuffled == pytest.approx(reading.cosine, abs=0.002)
    assert any("still at chance after 3 looks" in one and "in another order" in one for one in reading.warnings)


def test_impossible_values_are_named() -> None:
    """0.001242 of the first write-up, where 0.000488 is the most; and totals that are not their sum."""

    class Wrong(EmbeddingMse):
        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            return 0 * super().forward(student, teacher) + 0.001242

    student, teacher = unrelated()
    reading = looked(DistillationObjective({"mse": Wrong("element", 4.0)}), student, teacher)
    assert reading.warnings == (
        "mse is impossible: 0.001242 is outside of 0 to 0.000488281, the most that the term can be; it is computed or "
        "logged wrongly",
    )
    objective, pairs = DistillationObjective({"c": EmbeddingCosine()}), {"c": (student, teacher)}
    found = objective(pairs, classified(student))
    twice = Combined(**{**vars(found), "total": found.total + found.distillation})
    assert "the total is impossible" in DistillationMonitor(objective).look(twice, pairs, [student]).warnings[0]
    rising = Combined(**{**vars(found), "raw": {"c": found.raw["c"] * math.nan}})
    assert any(
        "c is impossible: nan" in one for one in DistillationMonitor(objective).look(rising, pairs, [student]).warnings
    )


def test_terms_without_a_gradient_are_named() -> None:
    student, teacher = unrelated()
    objective = DistillationObjective({"c": EmbeddingCosine()}, alpha=0.5)
    pairs = {"c": (student.detach(), teacher)}
    reading = DistillationMonitor(objective).look(objective(pairs, classified(student)), pairs, [student])
    assert "has no gradient: it does not depend on the tensors looked at" in reading.warnings[0]
    objective.alpha = 0
    assert "switched off, as alpha is 0" in looked(objective, student, teacher).warnings[0]
    assert looked(objective, student, teacher).parts["ce"].gradient_share == 1


def test_hints_are_seen_at_the_layers_they_reach() -> None:
    torch.manual_seed(0)
    layer = vectors(0, 8, 6, 10).requires_grad_()
    student, teacher = layer.mean(dim=2), vectors(1, 8, 6)
    objective = DistillationObjective({"c": EmbeddingCosine(), "h": Hints([Stage("b", "b", 6, 5)])}, alpha=0.7)
    pairs = {"c": (student, teacher), "h": ({"b": layer}, {"b": vectors(2, 8, 5, 10)})}
    reading = DistillationMonitor(objective).look(objective(pairs, classified(student, 4)), pairs, [layer])
    assert 0.05 < reading.parts["h"].gradient_share < 1
    at_embedding = DistillationMonitor(objective).look(objective(pairs, classified(student, 4)), pairs, [student])
    assert at_embedding.parts["h"].gradient_norm == 0


def test_a_temperature_that_flattens_is_named() -> None:
    student, teacher = vectors(0, 8, 140).requires_grad_(), vectors(1, 8, 140)
    for temperature, said in ((1.0, False), (50.0, True)):
        reading = looked(DistillationObjective({"kd": LogitKd(temperature)}), student, teacher)
        assert any("kd has nothing to teach at temperature 50" in one for one in reading.warnings) is said


def test_monitors_that_are_refused() -> None:
    objective = DistillationObjective({"c": EmbeddingCosine()})
    with pytest.raises(ModelError, match="patience"):
        DistillationMonitor(objective, patience=0)
    student, teacher = unrelated()
    pairs = {"c": (student, teacher)}
    with pytest.raises(ModelError, match="student's embeddings"):
        DistillationMonitor(objective).look(objective(pairs, classified(student)), pairs, [])
