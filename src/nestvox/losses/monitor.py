"""Whether a student learns from its teacher: what each part of the loss is, what it could be, and what it moves.

Shares of the loss alone deceive, as a loss that cannot be made smaller has the largest; so the gradients are shown too.
It watches, and needs no training loop: losses, tensors to look at, and a held-out batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nestvox.errors import ModelError
from nestvox.losses.objective import SPEAKERS, Combined, DistillationObjective, gradient_at
from nestvox.losses.terms import EmbeddingCosine, LogitKd, mean_of

_ROUNDING = 1e-4  # relative, of sums in float32
_FLAT = 0.01  # of certainty: less, and all classes are alike


@dataclass(frozen=True)
class PartReading:
    """One part of the loss at one look.

    Attributes:
        value: raw: neither weighted nor scaled by alpha.
        chance: what unrelated vectors give; NaN where that is unknown.
        shuffled: what the same vectors give with the teacher's in another order; NaN where there is no teacher.
        maximum: the largest value that is possible.
        weight: all that multiplies the value in the total.
        share: of weight x value in the total.
        gradient_norm: of weight x value, at the places looked at.
        gradient_share: of that norm in the sum of the norms of all parts.
    """

    value: float
    chance: float
    shuffled: float
    maximum: float
    weight: float
    share: float
    gradient_norm: float
    gradient_share: float


@dataclass(frozen=True)
class Reading:
    """All parts at one look.

    Attributes:
        parts: the terms by name, and the loss over speakers as ``ce``, where there is one.
        alpha: share of distillation.
        speakers: (1 - alpha) CE.
        distillation: alpha times the weighted sum of the terms.
        total: speakers + distillation.
        agreement: cosine of the gradients of the two: below 0 they pull against each other; NaN where one is 0.
        cosine: mean cosine of student and teacher on the held-out batch; NaN without one. Chance is 0 for vectors
            without a common mean, and `cosine_shuffled` for these.
        cosine_shuffled: the same with the teacher's vectors in another order.
        warnings: sentences.
    """

    parts: Mapping[str, PartReading]
    alpha: float
    speakers: float
    distillation: float
    total: float
    agreement: float
    cosine: float
    cosine_shuffled: float
    warnings: tuple[str, ...]

    def scalars(self) -> dict[str, float]:
        """Return every finite number by a name, as a run's log takes them: ``loss/total``, ``cosine/value``."""
        named = {
            "loss/speakers": self.speakers,
            "loss/distillation": self.distillation,
            "loss/total": self.total,
            "alpha": self.alpha,
            "gradient/agreement": self.agreement,
            "held_out/cosine": self.cosine,
            "held_out/cosine_shuffled": self.cosine_shuffled,
        }
        named |= {f"{part}/{what}": value for part, one in self.parts.items() for what, value in vars(one).items()}
        return {name: value for name, value in named.items() if math.isfinite(value)}


class DistillationMonitor:
    """Looks at the loss of a batch now and then, and says in words what is wrong with it.

    Args:
        objective: that is minimised.
        least: a term that has a smaller share of the gradient contributes nothing.
        near: a term within this share of chance, or of its value when shuffled, knows nothing of the teacher; nor does
            one that is no better than with the best of the other orders.
        patience: looks in a row at chance before it is said; with a look an epoch, epochs.

    Attributes:
        at_chance: looks in a row by term: what a resumed run has to be given back.

    Raises:
        ModelError: numbers outside of (0, 1), or no patience.
    """

    def __init__(
        self, objective: DistillationObjective, *, least: float = 0.05, near: float = 0.02, patience: int = 2
    ) -> None:
        if not 0 < least < 1 or not 0 < near < 1 or patience < 1:
            raise ModelError(f"least and near are in (0, 1), patience at least 1, got {least}, {near} and {patience}")
        self.objective = objective
        self.least, self.near, self.patience = least, near, patience
        self.at_chance = dict.fromkeys(objective.weights, 0)

    def look(
        self,
        found: Combined,
        pairs: Mapping[str, tuple[Any, Any]],
        places: Sequence[Tensor],
        held_out: tuple[Tensor, Tensor] | None = None,
    ) -> Reading:
        """Read a batch, before it is followed back; the graph and all gradients stay as they are.

        Args:
            found: of the objective, on `pairs`.
            pairs: what each term compared.
            places: tensors of the graph at which gradients are compared: the student's embeddings, and layers that
                hints reach.
            held_out: (B, D) embeddings of student and teacher of the same utterances, the same ones at every look.

        Raises:
            ModelError: no places.
        """
        if not places:
            raise ModelError("gradients are compared at some tensor: give the student's embeddings")
        alpha, weights = found.alpha, self.objective.weights
        values = {name: value.item() for name, value in found.raw.items()}
        scales = {name: alpha * weights[name] for name in values}
        gradients = {name: scales[name] * gradient_at(value, places) for name, value in found.raw.items()}
        taught = torch.stack(list(gradients.values())).sum(dim=0)
        by_speakers = torch.zeros_like(taught)
        if found.ce is not None:
            values[SPEAKERS], scales[SPEAKERS] = found.ce.item(), 1 - alpha
            gradients[SPEAKERS] = by_speakers = (1 - alpha) * gradient_at(found.ce, places)
        speakers, distillation = found.speakers.item(), found.distillation.item()
        total = speakers + distillation
        norms = {name: torch.linalg.vector_norm(one).item() for name, one in gradients.items()}
        parts, best_shuffled = {}, {}
        for name, value in values.items():
            chance = shuffled = math.nan
            maximum = math.inf
            if name != SPEAKERS:
                term = self.objective.term(name)
                orders = term.in_other_orders(*pairs[name])
                shuffled = mean_of(orders)
                bounds = term.bounds(*pairs[name], shuffled=shuffled)
                chance, maximum = bounds.chance, bounds.maximum
                best_shuffled[name] = min(orders, default=math.nan)
            share, norm = _share(scales[name] * value, total), norms[name]
            parts[name] = PartReading(
                value, chance, shuffled, maximum, scales[name], share, norm, _share(norm, sum(norms.values()))
            )
        cosine, cosine_shuffled = _cosines(held_out)
        reading = Reading(
            parts,
            alpha,
            speakers,
            distillation,
            total,
            _cosine(taught, by_speakers),
            cosine,
            cosine_shuffled,
            (),
        )
        warnings = [
            *self._sums(reading, found.total.item()),
            *self._of_terms(reading, best_shuffled),
            *self._flat(pairs),
        ]
        return replace(reading, warnings=tuple(warnings))

    def _sums(self, reading: Reading, told: float) -> list[str]:
        terms = sum(part.weight * part.value for part in reading.parts.values())
        off = max(abs(told - reading.total), abs(terms - reading.total))
        if off <= _ROUNDING * max(abs(reading.total), abs(told), 1e-12):
            return []
        return [
            f"the total is impossible: it is {told:.6g}, but speakers + distillation are {reading.total:.6g} and the "
            f"weighted parts {terms:.6g}; something is added, left out or logged twice"
        ]

    def _of_terms(self, reading: Reading, best_shuffled: Mapping[str, float]) -> list[str]:
        warnings = []
        for name in self.objective.weights:
            part = reading.parts[name]
            if not (-_ROUNDING <= part.value <= part.maximum * (1 + _ROUNDING) and math.isfinite(part.value)):
                warnings.append(
                    f"{name} is impossible: {part.value:.6g} is outside of 0 to {part.maximum:.6g}, the most that the "
                    "term can be; it is computed or logged wrongly"
                )
                continue
            known = (part.chance * (1 - self.near), min(part.shuffled * (1 - self.near), best_shuffled[name]))
            levels = (part.chance, part.shuffled)
            knows_nothing = [level for level, least in zip(levels, known, strict=True) if part.value >= least]
            self.at_chance[name] = self.at_chance[name] + 1 if knows_nothing else 0
            if self.at_chance[name] >= self.patience:
                warnings.append(
                    f"{name} is still at chance after {self.at_chance[name]} looks: {part.value:.6g}, where "
                    f"{_level(part, knows_nothing[0])}; the student has learned nothing from the teacher"
                )
            warnings += self._nothing(name, part, reading)
        return warnings

    def _nothing(self, name: str, part: PartReading, reading: Reading) -> list[str]:
        learned = part.value <= self.near * part.chance  # its gradient is small because nothing is left to learn
        if len(reading.parts) < 2 or part.gradient_share >= self.least or learned:
            return []
        said = f"{name} contributes nothing: it is {_percent(part.share)} of the loss"
        if not part.gradient_norm:
            why = "does not depend on the tensors looked at" if reading.alpha else "is switched off, as alpha is 0"
            return [f"{said} and has no gradient: it {why}"]
        times = sum(one.gradient_norm for one in reading.parts.values()) / part.gradient_norm - 1
        return [
            f"{said} and {_percent(part.gradient_share)} of the gradient; to be half of the gradient, its weight would "
            f"have to be {times:,.0f} times as large"
        ]

    def _flat(self, pairs: Mapping[str, tuple[Any, Any]]) -> list[str]:
        warnings = []
        for name in self.objective.weights:
            term = self.objective.term(name)
            if isinstance(term, LogitKd) and (certainty := term.certainty(pairs[name][1])) < _FLAT:
                warnings.append(
                    f"{name} has nothing to teach at temperature {term.temperature:g}: the teacher's classes are all "
                    f"alike ({_percent(certainty)} from flat); lower the temperature, or scale logits that are cosines"
                )
        return warnings


def _level(part: PartReading, level: float) -> str:
    if level == part.chance:
        return f"unrelated vectors give {level:.6g}"
    return f"the teacher's vectors in another order give {level:.6g}"


def _cosines(held_out: tuple[Tensor, Tensor] | None) -> tuple[float, float]:
    if held_out is None:
        return math.nan, math.nan
    term = EmbeddingCosine()
    with torch.no_grad():
        return 1 - float(term(*held_out)), 1 - term.shuffled(*held_out)


def _cosine(a: Tensor, b: Tensor) -> float:
    lengths = float(torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b))
    return float(a @ b) / lengths if lengths else math.nan


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
