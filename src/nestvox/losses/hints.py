"""What happens within student and teacher, and teachers of other sizes: time profiles, stages and learnt projections.

The projections are parameters of the loss. They belong into the optimiser and into a checkpoint of the training; the
student never holds them, so nothing has to be taken out of it for inference.

Notation: B utterances, C channels, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestvox.errors import ModelError
from nestvox.losses.precision import full_precision, unit, weights_by_name, working
from nestvox.losses.terms import DistillationTerm, EmbeddingCosine

Profiled = Literal["activations", "weights"]


class AttentionTransfer(DistillationTerm):
    """Mean over B of the squared distance of two time profiles of unit length. Maximum 2, as no profile is negative.

    The profile is the sum over channels of squared activations, (B, C, T) to (B, T), or the mean over channels of
    attention weights. Where one network has more frames, its profile is averaged down to those of the other.

    Source: S. Zagoruyko & N. Komodakis, "Paying more attention to attention", ICLR 2017, over time in place of space.

    Args:
        of: ``activations`` or ``weights``.

    Raises:
        ModelError: something else.
    """

    known_maximum = 2.0

    def __init__(self, of: Profiled = "activations") -> None:
        super().__init__()
        if of not in get_args(Profiled):
            raise ModelError(f"unknown of {of!r}; known: {', '.join(get_args(Profiled))}")
        self.of = of

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare (B, C, T) with (B, C', T'); frames that are 0 in all channels, as padding is, have no part in it."""
        _check_frames(student, teacher)
        with full_precision(student):
            s, t = self._profile(student), self._profile(teacher.detach())
            frames = min(s.shape[1], t.shape[1])
            s, t = (functional.adaptive_avg_pool1d(one[:, None], frames)[:, 0] for one in (s, t.to(s.dtype)))
            return (unit(s) - unit(t)).square().sum(dim=1).mean()

    def _profile(self, values: Tensor) -> Tensor:
        wide = working(values)
        return wide.square().sum(dim=1) if self.of == "activations" else wide.mean(dim=1)


@dataclass(frozen=True)
class Stage:
    """One pair of layers.

    Attributes:
        student: name of the student's layer.
        teacher: name of the teacher's.
        student_channels: C of the first.
        teacher_channels: C of the second.
        weight: against the other stages; they are divided by their sum.
    """

    student: str
    teacher: str
    student_channels: int
    teacher_channels: int
    weight: float = 1.0


class Hints(DistillationTerm):
    """Weighted mean over stages of 1 - cosine of each frame of the projected student and of the teacher. Maximum 2.

    A linear projection without time maps the student's channels to the teacher's. With the layers of one teacher for
    several blocks, a stage of its own says which goes with which. Where one has more frames than the other, the longer
    is averaged down. Its chance is the value when shuffled: projections learn the average frame at once.

    Source: A. Romero et al., "FitNets: hints for thin deep nets", ICLR 2015.

    Args:
        stages: the pairs.

    Attributes:
        projections: in the order of the stages.

    Raises:
        ModelError: no stages, a pair twice, or a size or weight that is not positive.
    """

    known_maximum = 2.0

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        pairs = [(stage.student, stage.teacher) for stage in stages]
        if not pairs or len(set(pairs)) != len(pairs):
            raise ModelError(f"hints are between distinct pairs of layers, got {pairs}")
        self.stages = tuple(stages)
        names = [f"{student} -> {teacher}" for student, teacher in pairs]
        self.weights = _shares("stages", names, dict(zip(names, (stage.weight for stage in stages), strict=True)))
        self.projections = nn.ModuleList(
            [_projection(stage.student_channels, stage.teacher_channels) for stage in stages]
        )

    def forward(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        """Compare layers by name, each (B, C, T), or (B, C) for one that has no time.

        Raises:
            ModelError: a layer that is missing or has other channels.
        """
        weighted = [
            weight * self._stage(stage, projection, student, teacher)
            for stage, projection, weight in zip(self.stages, self.projections, self.weights.values(), strict=True)
        ]
        return torch.stack(weighted).sum()

    def _stage(
        self, stage: Stage, projection: nn.Module, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]
    ) -> Tensor:
        s = _layer(student, "student", stage.student, stage.student_channels)
        t = _layer(teacher, "teacher", stage.teacher, stage.teacher_channels).detach()
        _check_frames(s, t)
        with full_precision(s):
            s = working(s)
            t = working(t).to(s.dtype)
            frames = min(s.shape[2], t.shape[2])
            s, t = (functional.adaptive_avg_pool1d(one, frames).mT for one in (s, t))
            return (1 - (unit(projection(s)) * unit(t)).sum(dim=2)).mean()


class SeveralTeachers(DistillationTerm):
    """Weighted mean of one term against each of several teachers.

    Args:
        sizes: the numbers of each teacher's embedding, by name.
        student: the numbers of the student's; each teacher gets a linear projection of it to its own size. None: no
            projections, for relational terms and for teachers of the student's size.
        weights: by teacher; one that is not named weighs 1. They are divided by their sum.
        term: builds the term for a teacher.

    Attributes:
        projections: by position of the teacher; empty without.
        terms: likewise.

    Raises:
        ModelError: no teachers, a weight for another teacher, or a size or weight that is not positive.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        student: int | None = None,
        weights: Mapping[str, float] | None = None,
        *,
        term: Callable[[], DistillationTerm] = EmbeddingCosine,
    ) -> None:
        super().__init__()
        if not sizes:
            raise ModelError("no teachers")
        self.weights = _shares("teachers", sizes, weights)
        self.sizes = dict(sizes)
        self.terms = nn.ModuleList([term() for _ in sizes])
        self.projections = nn.ModuleList([_projection(student, size) for size in sizes.values()] if student else [])

    def forward(self, student: Tensor, teacher: Mapping[str, Tensor]) -> Tensor:
        """Compare (B, D) with each teacher's (B, size).

        Raises:
            ModelError: a teacher that is missing or has another size.
        """
        seen = self._seen(student, teacher)
        return torch.stack([w * one(s, t) for w, (one, s, t) in zip(self.weights.values(), seen, strict=True)]).sum()

    @torch.no_grad()
    def known_bounds(self, student: Tensor, teacher: Mapping[str, Tensor]) -> tuple[float | None, float]:
        """The weighted means of the terms' own."""
        each = [one.known_bounds(s, t) for one, s, t in self._seen(student, teacher)]
        weights = self.weights.values()
        chances = [chance for chance, _ in each if chance is not None]
        return (
            sum(w * chance for w, chance in zip(weights, chances, strict=True)) if len(chances) == len(each) else None,
            sum(w * maximum for w, (_, maximum) in zip(weights, each, strict=True)),
        )

    def _seen(self, student: Tensor, teacher: Mapping[str, Tensor]) -> list[tuple[DistillationTerm, Tensor, Tensor]]:
        """Each teacher's term, and what it compares."""
        if student.ndim != 2 or not student.numel():
            raise ModelError(f"the student's embeddings are (B, D), got {tuple(student.shape)}")
        found = []
        for k, (name, size) in enumerate(self.sizes.items()):
            target = _layer(teacher, "teacher", name, size, "embedding")
            with full_precision(student):
                own = self.projections[k](working(student)) if self.projections else student
            found.append((cast("DistillationTerm", self.terms[k]), own, target))
        return found


def _projection(of: int, to: int) -> nn.Module:
    if min(of, to) < 1:
        raise ModelError(f"a projection is between positive sizes, got {of} to {to}")
    return nn.Linear(of, to)


def _shares(what: str, names: Iterable[str], given: Mapping[str, float] | None) -> dict[str, float]:
    """Weights that sum to 1."""
    weights = weights_by_name(what, names, given)
    whole = sum(weights.values())
    return {name: weight / whole for name, weight in weights.items()}


def _layer(values: Mapping[str, Tensor], whose: str, name: str, channels: int, what: str = "layer") -> Tensor:
    if name not in values:
        raise ModelError(f"the {whose} {what} {name!r} is missing; there are {sorted(values)}")
    value = values[name]
    shapes = (2,) if what == "embedding" else (2, 3)
    if value.ndim not in shapes or value.shape[1] != channels:
        raise ModelError(f"the {whose} {what} {name!r} should have {channels} channels, got {tuple(value.shape)}")
    return value[..., None] if what == "layer" and value.ndim == 2 else value


def _check_frames(student: Tensor, teacher: Tensor) -> None:
    if student.ndim != 3 or teacher.ndim != 3 or len(student) != len(teacher) or not student.numel():
        raise ModelError(
            f"student (B, C, T) and teacher (B, C', T') must have the same B, got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
