"""What a student minimises: speakers and a teacher, each of them one series that can be looked at on its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from nestvox.errors import ModelError
from nestvox.losses.bottleneck import Bottleneck
from nestvox.losses.distillation import NestedTerm
from nestvox.losses.hints import AttentionTransfer, Hints, SeveralTeachers
from nestvox.losses.precision import weights_by_name
from nestvox.losses.relations import Angles, Correlation, Distances, Gram, Neighbours, Similarity
from nestvox.losses.terms import DistillationTerm, EmbeddingCosine, EmbeddingMse, LogitKd

SPEAKERS = "ce"  # the part of a loss that is no distillation

TERMS: Mapping[str, type[DistillationTerm]] = {
    "angles": Angles,
    "attention": AttentionTransfer,
    "bottleneck": Bottleneck,
    "correlation": Correlation,
    "cosine": EmbeddingCosine,
    "distances": Distances,
    "gram": Gram,
    "hints": Hints,
    "logits": LogitKd,
    "mse": EmbeddingMse,
    "nested": NestedTerm,
    "neighbours": Neighbours,
    "similarity": Similarity,
    "teachers": SeveralTeachers,
}


def make_term(kind: str, **settings: Any) -> DistillationTerm:
    """Build a term by its name.

    Args:
        kind: a key of `TERMS`.
        settings: arguments of its class.

    Raises:
        ModelError: another name, a setting that the term does not have (a temperature among them, where it would have
            no effect), or a value that it refuses.
    """
    if kind not in TERMS:
        raise ModelError(f"unknown distillation term {kind!r}; known: {', '.join(TERMS)}")
    known = set(inspect.signature(TERMS[kind]).parameters)
    if unknown := sorted(set(settings) - known):
        if "temperature" in unknown:
            raise ModelError(
                f"a temperature has no effect on the term {kind}, which compares directions and no probabilities; "
                "leave it out, and give the term a weight if it should count less or more"
            )
        raise ModelError(f"the term {kind} has no {', '.join(unknown)}; it has {', '.join(sorted(known)) or 'none'}")
    return TERMS[kind](**settings)


@dataclass(frozen=True)
class Combined:
    """A loss and all that it is made of; every scalar here has its gradient.

    Attributes:
        alpha: share of distillation.
        raw: of each term, neither weighted nor scaled.
        ce: the loss over speakers, not scaled; None without labels.
        distilled: the weighted sum of the terms, not scaled.
        speakers: (1 - alpha) ce, or 0.
        distillation: alpha distilled.
        total: speakers + distillation.
    """

    alpha: float
    raw: Mapping[str, Tensor]
    ce: Tensor | None
    distilled: Tensor
    speakers: Tensor
    distillation: Tensor
    total: Tensor


class DistillationObjective(nn.Module):
    """(1 - alpha) CE + alpha sum over terms of w_k L_k.

    0.3 CE + 0.4 final + 0.3 intermediate is alpha 0.7 with weights 4/7 and 3/7.

    Args:
        terms: by name.
        weights: w_k by name; a term that is not named weighs 1.
        alpha: in [0, 1].

    Attributes:
        terms: their projections, where they have any, belong into the optimiser.
        weights: w_k by name.
        alpha: to be set by a schedule before a step; see `losses.alpha`. Not part of the state.

    Raises:
        ModelError: no terms, one that is called ``ce``, a weight for another term or one that is not positive, or an
            alpha outside of [0, 1].
    """

    def __init__(
        self,
        terms: Mapping[str, DistillationTerm],
        weights: Mapping[str, float] | None = None,
        *,
        alpha: float = 0.5,
    ) -> None:
        super().__init__()
        if not terms:
            raise ModelError("an objective without terms distils nothing")
        if SPEAKERS in terms:
            raise ModelError(f"a term cannot be called {SPEAKERS}: that is the loss over speakers")
        self.weights = weights_by_name("terms", terms, weights, "leave a term out of the objective")
        self.terms = nn.ModuleDict(dict(terms))
        self._alpha = checked_alpha(alpha)

    @property
    def alpha(self) -> float:
        """Share of distillation."""
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self._alpha = checked_alpha(alpha)

    def term(self, name: str) -> DistillationTerm:
        """Return a term."""
        return cast("DistillationTerm", self.terms[name])

    def forward(self, pairs: Mapping[str, tuple[Any, Any]], ce: Tensor | None = None) -> Combined:
        """Return the loss of a batch.

        Args:
            pairs: for each term what of student and teacher it compares.
            ce: the loss over speakers; None where there are no labels, which needs alpha 1.

        Raises:
            ModelError: pairs for other terms, or no CE where a share of the loss is meant for it.
        """
        if set(pairs) != set(self.weights):
            raise ModelError(f"pairs are needed for the terms {sorted(self.weights)}, got {sorted(pairs)}")
        if ce is None and self._alpha != 1:
            raise ModelError(f"alpha {self._alpha:g} leaves a share to the speakers, but there is no loss over them")
        raw = {name: cast("Tensor", self.terms[name](*pairs[name])) for name in self.weights}
        distilled = torch.stack([self.weights[name] * value for name, value in raw.items()]).sum()
        speakers = distilled.new_zeros(()) if ce is None else (1 - self._alpha) * ce
        distillation = self._alpha * distilled
        return Combined(self._alpha, raw, ce, distilled, speakers, distillation, speakers + distillation)


def checked_alpha(alpha: float) -> float:
    """Return an alpha that is a share.

    Raises:
        ModelError: it is outside of [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ModelError(f"alpha is a share of the loss, from 0 to 1, got {alpha}")
    return float(alpha)


def gradient_at(value: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Return the gradient of a scalar at some tensors, as one float64 vector; 0 where it does not depend on them.

    The graph stays, so that the loss can still be followed back.
    """
    if not value.requires_grad:
        return torch.cat([torch.zeros(place.numel(), dtype=torch.float64, device=place.device) for place in places])
    found = torch.autograd.grad(value, list(places), retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([one.flatten().double() for one in found])
