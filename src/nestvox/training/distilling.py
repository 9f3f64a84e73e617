"""The loss of a student: what its objective says of the teacher, and the speakers as far as they have a share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from nestvox.errors import RecipeError
from nestvox.losses.alpha import AlphaSchedule, GradientBalance, capacity_alpha
from nestvox.losses.bottleneck import Bottleneck
from nestvox.losses.distillation import NestedTerm, PrefixDistillation
from nestvox.losses.hints import Hints, SeveralTeachers, Stage
from nestvox.losses.margins import ClassifierLoss
from nestvox.losses.monitor import DistillationMonitor, Reading
from nestvox.losses.nested import NestedTerms
from nestvox.losses.objective import DistillationObjective, make_term
from nestvox.losses.precision import full_precision, unit, working
from nestvox.losses.terms import DistillationTerm, LogitKd
from nestvox.training.criterion import Criterion
from nestvox.training.data.live import Layers
from nestvox.training.recipe.kinds import DistilRecipe
from nestvox.training.recipe.learning import Prototypes, Term

_SAME_SIZE = ("cosine", "mse")  # compare vectors; the others compare relations, between any sizes


class DistilCriterion(Criterion):
    """(1 - alpha) CE + alpha times the terms, each of which is followed by itself, and looked at once an epoch.

    Args:
        recipe: objective, and the loss over speakers.
        dims: prefix lengths of the student.
        classes: training speakers.
        size: numbers of the student's embedding.
        taught: of each teacher's, by name, in the order in which they stand side by side; empty: there is none.
        parameters: of student and teacher, for an alpha by capacity.
        channels: of layers of the student and, by teacher, of the teachers, where layers are compared.
        means: (classes, E) of the embeddings that each teacher has of the training speakers, where logits are
            compared: no released teacher has its classifier, and cosines with these, times the scale of the loss over
            speakers, stand for what it would say. Of the student the cosines with its own prototypes, without a margin.

    Attributes:
        objective: None without a teacher.
        reading: of the monitor, since it was last asked for.
        epoch: that is under way, from 1.

    Raises:
        ModelError: a term with a setting that it does not have, or sizes that it cannot compare.
        RecipeError: the objective needs what there is not.
    """

    looked: Tensor
    at_chance: Tensor

    def __init__(
        self,
        recipe: DistilRecipe,
        dims: Sequence[int],
        classes: int,
        size: int,
        taught: Mapping[str | None, int],
        parameters: tuple[int, int] = (1, 1),
        channels: tuple[Mapping[str, int], Mapping[tuple[str | None, str], int]] = ({}, {}),
        means: Mapping[str | None, Tensor] = MappingProxyType({}),
    ) -> None:
        super().__init__(recipe.loss, dims, classes)
        section = recipe.objective
        self.objective: DistillationObjective | None = None
        self.balance: GradientBalance | None = None
        self.reading: Reading | None = None
        if not section.needs_speakers:
            self.speakers = None
        self._taught = dict(taught)
        self._shuffled = recipe.teacher_order == "shuffled"
        self._layers = {name: (term.of, term.layers) for name, term in section.terms.items() if term.layers}
        self._heard = [
            (term.of, term.prefix or (self.dims[-1] if (term.kind or name) == "logits" else size))
            for name, term in section.terms.items()
        ]
        self._scale = recipe.loss.scale if isinstance(recipe.loss, Prototypes) else 1.0
        self._means = {of: f"means{number}" for number, of in enumerate(means)}
        for of, buffer in self._means.items():  # of the teacher, and found again in its targets
            self.register_buffer(buffer, means[of], persistent=False)
        if taught and section.terms:
            for name, term in section.terms.items():
                if term.prefix is not None and term.prefix not in self.dims:
                    raise RecipeError(f"objective.terms.{name}.prefix: {term.prefix} is none of head.dims {self.dims}")
            terms = {
                name: (
                    _of_layers(name, term, *channels)
                    if term.layers
                    else _made(name, term, [d for d in self.dims if d <= heard], heard, taught[of])
                )
                for (name, term), (of, heard) in zip(section.terms.items(), self._heard, strict=True)
            }
            self.objective = DistillationObjective(terms, {name: term.weight for name, term in section.terms.items()})
            self.monitor = DistillationMonitor(self.objective)
        stages: Sequence[tuple[int, float]] = section.stages or [(1, section.alpha)]
        if section.capacity is not None:
            stages = [(1, capacity_alpha(*parameters, section.capacity))]
        self._alphas = AlphaSchedule(stages)
        if section.balance is not None:
            self.balance = GradientBalance(section.balance)
        self.distils = self.objective is not None
        self.relational = self.distils or self.relational
        self.series = tuple(
            [*(["ce", "accuracy"] if self.speakers is not None else []), *(section.terms if self.objective else [])]
            + (["distillation", "alpha"] if self.objective else [])
        )
        self.register_buffer("looked", torch.zeros((), dtype=torch.float64))  # the last epoch that was looked at
        self.register_buffer("at_chance", torch.zeros(len(section.terms), dtype=torch.float64))
        self.epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        """Set what an epoch, counted from 0, has of its own."""
        self.epoch = epoch + 1
        if self.objective is not None:
            self.objective.alpha = self._alphas.at(self.epoch) if self.balance is None else self.balance.alpha

    def forward(
        self,
        embedding: Tensor,
        labels: Tensor,
        teacher: Tensor | None = None,
        layers: tuple[Mapping[str, Tensor], Layers] = ({}, {}),
    ) -> NestedTerms:
        """Return the loss of a batch.

        Args:
            embedding: (B, D).
            labels: (B,) int64.
            teacher: (B, E) embeddings of all teachers, side by side, where there are any.
            layers: (B, C, T) each, of the student and of the teachers, where they are compared.
        """
        nested = None if self.speakers is None else self.speakers(embedding, labels)
        parts = {} if nested is None else {"ce": nested.total.detach(), "accuracy": self._accuracy(embedding, labels)}
        per_dim = {} if nested is None else nested.per_dim
        if self.objective is None:
            assert nested is not None
            return NestedTerms(nested.total, per_dim, parts)
        assert teacher is not None
        each = dict(zip(self._taught, torch.split(teacher, list(self._taught.values()), 1), strict=True))
        pairs: dict[str, tuple[Any, Any]] = {}
        for (name, term), (of, heard) in zip(self.objective.terms.items(), self._heard, strict=True):
            if name in self._layers:
                pairs[name] = self._within(name, *layers)
            elif isinstance(term, LogitKd):
                pairs[name] = self._logits(embedding[:, :heard], each[of], of)
            else:
                pairs[name] = embedding[:, :heard], _target(term, embedding, each[of])
        found = self.objective(pairs, None if nested is None else nested.total)
        places = [embedding, *layers[0].values()]
        if embedding.requires_grad and self.looked < self.epoch:
            self._look(found, pairs, places)
        parts |= {name: value.detach() for name, value in found.raw.items()}
        parts |= {"distillation": found.distilled.detach(), "alpha": found.total.new_tensor(found.alpha).detach()}
        if self.balance is not None and embedding.requires_grad:
            self.objective.alpha = self.balance.update(found, places)
        return NestedTerms(found.total, per_dim, parts)

    def _logits(self, prefix: Tensor, teacher: Tensor, of: str | None) -> tuple[Tensor, Tensor]:
        """(B, classes) of the student's prefix and of the teacher."""
        assert self.speakers is not None
        criteria, dim = self.speakers.criteria, prefix.shape[1]
        criterion = cast("ClassifierLoss", criteria[str(dim if str(dim) in criteria else self.dims[-1])])
        with full_precision(prefix):
            said = unit(working(teacher)) @ unit(self.get_buffer(self._means[of])).T
            return self._scale * criterion.cosines(prefix, criterion.weight[..., :dim]), self._scale * said

    def _within(self, name: str, student: Mapping[str, Tensor], teacher: Layers) -> tuple[Any, Any]:
        """What a term compares of the layers; shuffled, those of the next clip of the batch."""
        of, every = self._layers[name]
        theirs = {pair.teacher: teacher[of, pair.teacher] for pair in every}
        if self._shuffled:
            theirs = {layer: values.roll(1, 0) for layer, values in theirs.items()}
        if isinstance(self.objective and self.objective.terms[name], Hints):
            return student, theirs
        (pair,) = every
        return student[pair.student], theirs[pair.teacher]

    def _look(self, found: Any, pairs: Mapping[str, tuple[Any, Any]], places: Sequence[Tensor]) -> None:
        """Once an epoch; what the monitor remembers is part of the state, so that a resumed run says the same."""
        self.monitor.at_chance = dict(zip(self.monitor.at_chance, map(int, self.at_chance.tolist()), strict=True))
        self.reading = self.monitor.look(found, pairs, places)
        self.at_chance.copy_(torch.tensor(list(self.monitor.at_chance.values()), dtype=torch.float64))
        self.looked.fill_(self.epoch)

    @torch.no_grad()
    def _accuracy(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Share of the batch that is nearest to its own prototype, without a margin; NaN where there are none."""
        assert self.speakers is not None
        criterion = self.speakers.criteria[str(self.dims[-1])]
        if not isinstance(criterion, ClassifierLoss):
            return embedding.new_zeros(())
        cosines = criterion.cosines(embedding[:, : self.dims[-1]])
        return (cosines.argmax(dim=1) == labels).float().mean()


def _target(term: nn.Module, embedding: Tensor, teacher: Tensor) -> Any:
    """What a term holds the student against; an autoencoder makes it of the student itself."""
    if isinstance(term, SeveralTeachers):
        return {"teacher": teacher}
    return embedding if isinstance(term, Bottleneck) else teacher


def _of_layers(
    name: str, section: Term, student: Mapping[str, int], teacher: Mapping[tuple[str | None, str], int]
) -> DistillationTerm:
    """Build a term between layers."""
    kind = section.kind or name
    if given := [key for key in ("per", "temperature", "target", "factors") if getattr(section, key)]:
        raise RecipeError(f"objective.terms.{name}.{given[0]} means nothing here: {kind} has none; leave it out")
    if kind == "attention":
        return make_term(kind)
    pairs = [(pair, teacher[section.of, pair.teacher]) for pair in section.layers]
    return Hints([Stage(pair.student, pair.teacher, student[pair.student], size, pair.weight) for pair, size in pairs])


def _made(name: str, section: Term, dims: Sequence[int], size: int, taught: int) -> DistillationTerm:
    """Build a term; where it compares vectors of other sizes, behind a linear map that is left out of the student."""
    kind = section.kind or name
    given = {key: value for key in ("per", "temperature") if (value := getattr(section, key)) is not None}
    if kind == "nested":
        settings: dict[str, Any] = {str(key): value for key, value in section.factors.items()}
        return NestedTerm(PrefixDistillation(dims, target=section.target or "full", **settings, **given))
    if section.factors or section.target:
        raise RecipeError(f"objective.terms.{name}: target and factors are of the kind nested")
    if kind == "bottleneck":
        return Bottleneck(size)
    if kind in _SAME_SIZE and size != taught:
        return SeveralTeachers({"teacher": taught}, size, term=lambda: make_term(kind, **given))
    return make_term(kind, **given)


def parameters_of(network: nn.Module) -> int:
    """How many numbers a network has learned."""
    return sum(parameter.numel() for parameter in network.parameters())
