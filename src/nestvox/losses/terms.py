"""What a student can be asked to have in common with a teacher: vectors and logits, one term each.

A term is a mean without a weight and does not grow with the number of dimensions, so that one weight means the same at
16 and at 512. It also says what its value would be worth: what a student has that knows nothing of the teacher
(`chance`), and the most that it can be (`maximum`).

Notation: B utterances; s', t' the unit vectors of student and teacher, D numbers each; cos = s' . t'.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestvox.errors import ModelError
from nestvox.losses.precision import full_precision, unit, working

Per = Literal["vector", "element"]

_SHIFTS = 8  # other orders of the teacher's utterances that stand for all of them


@dataclass(frozen=True)
class Bounds:
    """What a value of a term is worth.

    Attributes:
        chance: what unrelated vectors give: from the formula where it says so, else the value when shuffled.
        maximum: the largest that is possible; infinite where there is none.
    """

    chance: float
    maximum: float


class DistillationTerm(nn.Module, ABC):
    """A distance of what a student has to what a teacher has, of the same utterances in the same order.

    Attributes:
        known_chance: of the formula, where it has one; see `bounds`.
        known_maximum: likewise.
    """

    known_chance: float | None = None
    known_maximum: float = math.inf

    @abstractmethod
    def forward(self, student: Any, teacher: Any) -> Tensor:
        """Return the scalar distance, which has a gradient to the student alone.

        Raises:
            ModelError: shapes that do not belong together.
        """

    @torch.no_grad()
    def in_other_orders(self, student: Any, teacher: Any) -> tuple[float, ...]:
        """Return values with the teacher's utterances in up to eight other orders; none for a single utterance.

        A student that knows the teacher's average and nothing of who is speaking has as much.
        """
        n = _utterances(teacher)
        shifts = sorted({1 + (n - 1) * i // _SHIFTS for i in range(_SHIFTS)} if n > 1 else set())
        return tuple(float(self(student, _rolled(teacher, shift))) for shift in shifts)

    def shuffled(self, student: Any, teacher: Any) -> float:
        """Return the mean value in other orders; NaN for a single utterance."""
        return mean_of(self.in_other_orders(student, teacher))

    @torch.no_grad()
    def bounds(self, student: Any, teacher: Any, *, shuffled: float | None = None) -> Bounds:
        """Return what the value on a batch has to be compared with; `shuffled` is its own, where it is known."""
        chance, maximum = self.known_bounds(student, teacher)
        if chance is None:
            chance = self.shuffled(student, teacher) if shuffled is None else shuffled
        return Bounds(chance, maximum)

    def known_bounds(self, student: Any, teacher: Any) -> tuple[float | None, float]:  # noqa: ARG002  sizes may count
        """Return chance, where there is a formula, and maximum for a batch."""
        return self.known_chance, self.known_maximum


class EmbeddingCosine(DistillationTerm):
    """Mean over B of 1 - cos. Chance 1, maximum 2. Its gradient has the length sin(angle) / |s| a row, over B."""

    known_chance = 1.0
    known_maximum = 2.0

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare (B, D) with (B, D)."""
        s, t = _same_shape(student, teacher)
        with full_precision(s):
            return (1 - (unit(s) * unit(t)).sum(dim=1)).mean()


class EmbeddingMse(DistillationTerm):
    """Squared distance of unit vectors: cosine with another weight.

    With |s' - t'|^2 = 2 (1 - cos),

        per vector:  mean over B of |s' - t'|^2                  = 2 (1 - cos)
        per element: mean over B and D of (s' / T - t' / T)^2     = 2 (1 - cos) / (D T^2)

    and the gradients are related alike. The second is what libraries call the mean squared error, and it is no loss to
    give a weight like that of a cosine: at D = 512 and T = 4 its gradient is 1/4096 of the cosine's, and a student that
    learned nothing has 0.000244.

    Args:
        per: ``vector``, which does not depend on D; ``element`` as it is often written, to repeat such a result.
        temperature: T of the second form. It softens nothing and divides the term by its square.

    Raises:
        ModelError: another form, a temperature that is not positive, or one for the first form.
    """

    known_chance = 2.0
    known_maximum = 4.0

    def __init__(self, per: Per = "vector", temperature: float | None = None) -> None:
        super().__init__()
        if per not in get_args(Per):
            raise ModelError(f"unknown per {per!r}; known: {', '.join(get_args(Per))}")
        if per == "vector" and temperature is not None:
            raise ModelError(
                "a temperature has no effect on a squared distance but to divide it by its square; leave it out and "
                'give the term a weight, or repeat an old result with per="element"'
            )
        self.per = per
        self.temperature = positive_temperature(1.0 if temperature is None else temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare (B, D) with (B, D)."""
        s, t = _same_shape(student, teacher)
        with full_precision(s):
            if self.per == "vector":
                return (unit(s) - unit(t)).square().sum(dim=1).mean()
            return functional.mse_loss(unit(s) / self.temperature, unit(t) / self.temperature)

    def known_bounds(self, student: Tensor, teacher: Tensor) -> tuple[float, float]:  # noqa: ARG002  as its base
        """Per element, both over D T^2."""
        divisor = 1.0 if self.per == "vector" else student.shape[1] * self.temperature**2
        return self.known_chance / divisor, self.known_maximum / divisor


class LogitKd(DistillationTerm):
    """T^2 times the mean over B of KL(softmax(t / T) || softmax(s / T)), of class logits t and s.

    T^2 keeps the size of the gradient as T grows (G. Hinton et al., "Distilling the knowledge in a neural network",
    2015); for T far above the spread of the logits it is the squared distance of centred logits over 2 C. The
    coordinates of an embedding are no classes: take `EmbeddingCosine`. Logits under a margin are not what the teacher
    believes: take those without.

    Args:
        temperature: T.

    Raises:
        ModelError: a temperature that is not positive and finite.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = positive_temperature(temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare (B, C) with (B, C), C at least 2: one class has the same posterior at every temperature."""
        s, t = _same_shape(student, teacher)
        if s.shape[1] < 2:
            raise ModelError("logits of one class: its probability is 1 at every temperature; two or more are needed")
        with full_precision(s):
            p = (t / self.temperature).log_softmax(dim=1)
            q = (s / self.temperature).log_softmax(dim=1)
            return self.temperature**2 * functional.kl_div(q, p, reduction="batchmean", log_target=True)

    @torch.no_grad()
    def certainty(self, teacher: Tensor) -> float:
        """Return how far the softened posteriors of (B, C) logits are from flat: 0 all alike, 1 one class has all."""
        p = (working(teacher) / self.temperature).log_softmax(dim=1)
        entropy = -(p.exp() * p).sum(dim=1).mean()
        return float(1 - entropy / math.log(teacher.shape[1]))


def mean_of(values: Sequence[float]) -> float:
    """Return the mean; NaN of none."""
    return sum(values) / len(values) if values else math.nan


def positive_temperature(temperature: float) -> float:
    """Return a temperature that can divide.

    Raises:
        ModelError: it is not positive and finite.
    """
    if not 0 < temperature < math.inf:
        raise ModelError(f"a temperature is positive and finite, got {temperature}")
    return float(temperature)


def _same_shape(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.ndim != 2 or student.shape != teacher.shape or not student.numel():
        raise ModelError(
            f"student and teacher must be the same (B, D), got {tuple(student.shape)} and {tuple(teacher.shape)}; "
            "between other sizes a learnt projection (SeveralTeachers) or a relational term is needed"
        )
    wide = working(student)
    return wide, working(teacher.detach()).to(wide.dtype)


def _utterances(teacher: Any) -> int:
    return len(teacher) if isinstance(teacher, Tensor) else min(len(one) for one in teacher.values())


def _rolled(teacher: Any, shift: int) -> Any:
    if isinstance(teacher, Tensor):
        return teacher.roll(shift, 0)
    return {name: one.roll(shift, 0) for name, one in teacher.items()}
