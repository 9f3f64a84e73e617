"""The loss of a recipe: speakers at every prefix, and the distance of every prefix to the pretrained embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nestvox.errors import RecipeError
from nestvox.losses.distillation import PrefixDistillation
from nestvox.losses.margins import AamSoftmax, AmSoftmax, SphereFace2, SubCenterAamSoftmax
from nestvox.losses.nested import NestedLoss, NestedTerms, PrefixLoss
from nestvox.losses.pairwise import AngularPrototypical, Prototypical, Triplet
from nestvox.training.recipe.learning import (
    Additive,
    AngularMargin,
    LossSection,
    Pairwise,
    Prototypes,
    SubCenters,
    Triplets,
)


class Criterion(nn.Module):
    """The weighted sum of a nested loss over speakers and a distillation, where a recipe asks for both.

    Args:
        section: of the recipe.
        dims: prefix lengths of the head.
        classes: training speakers.

    Attributes:
        dims: ascending.
        relational: it compares the clips of a batch with each other, so it needs the whole batch at once.
        distils: it needs the pretrained embeddings.
        series: names of what it reports besides the prefixes, in the order of `NestedTerms.parts`.

    Raises:
        RecipeError: a weight for a dimension that the head does not have.
    """

    series: tuple[str, ...] = ()

    def __init__(self, section: LossSection, dims: Sequence[int], classes: int) -> None:
        super().__init__()
        self.dims = tuple(sorted(dims))
        weights = section.weights
        if unknown := sorted(set(weights or {}) - set(self.dims)):
            raise RecipeError(f"loss.weights names {unknown}, the head has {self.dims}")
        self.weight, self.distill_weight = section.weight, section.distill
        self.speakers: NestedLoss | None = None
        if section.weight:
            make = _maker(section, classes)
            shared = section.classifier if isinstance(section, Prototypes) else "own"
            self.speakers = NestedLoss(self.dims, make, weights, classifier=shared)
        self.distillation: PrefixDistillation | None = None
        if section.distill:
            self.distillation = PrefixDistillation(
                self.dims, weights, target=section.distill_target, rotation=None, **section.distill_terms
            )
        self.distils = self.distillation is not None
        self.relational = self.distils or (section.weight > 0 and isinstance(section, Pairwise | Triplets))

    def forward(self, embedding: Tensor, labels: Tensor, teacher: Tensor | None = None) -> NestedTerms:
        """Return the loss of a batch.

        Args:
            embedding: (B, D).
            labels: (B,) int64.
            teacher: (B, E) pretrained embeddings, where it distils.
        """
        found: list[tuple[float, NestedTerms]] = []
        if self.speakers is not None:
            found.append((self.weight, self.speakers(embedding, labels)))
        if self.distillation is not None:
            assert teacher is not None
            found.append((self.distill_weight, self.distillation(embedding, teacher)))
        total = torch.stack([weight * terms.total for weight, terms in found]).sum()
        per_dim = {
            dim: torch.stack([weight * terms.per_dim[dim] for weight, terms in found]).sum()
            for dim in found[0][1].per_dim
        }
        return NestedTerms(total, per_dim)

    def set_margin(self, margin: float) -> None:
        """Set the margin of what has one."""
        if self.speakers is not None:
            self.speakers.set_margin(margin)

    def check_dims(self, dims: Sequence[int]) -> None:
        """Refuse prefix lengths that a stage names and the head does not have.

        Raises:
            RecipeError: naming them.
        """
        if unknown := sorted(set(dims) - set(self.dims)):
            raise RecipeError(f"stages: dims {unknown} are not among the head's {self.dims}")

    def set_dims(self, dims: Sequence[int]) -> None:
        """Choose the prefix lengths that take part from now on.

        Raises:
            RecipeError: one that the head does not have.
        """
        self.check_dims(dims)
        parts: list[PrefixLoss | None] = [self.speakers, self.distillation]
        for part in parts:
            if part is not None:
                part.set_active(dims)

    def begin_at(self, means: Tensor) -> None:
        """Begin the prototypes at the speakers' mean embeddings, (classes, D); pairwise losses have none."""
        if self.speakers is not None and any(hasattr(one, "set_prototypes") for one in self.speakers.criteria.values()):
            self.speakers.set_prototypes(means)


def _maker(section: LossSection, classes: int) -> Callable[[int], nn.Module]:
    match section:
        case AngularMargin(margin=margin, scale=scale, easy_margin=easy):
            if isinstance(section, SubCenters):
                centers = section.sub_centers
                return lambda dim: SubCenterAamSoftmax(dim, classes, margin, scale, centers=centers, easy_margin=easy)
            return lambda dim: AamSoftmax(dim, classes, margin, scale, easy_margin=easy)
        case Additive(kind=kind, margin=margin, scale=scale):
            loss = {"am": AmSoftmax, "sphereface2": SphereFace2}[kind]
            return lambda dim: loss(dim, classes, margin, scale)
        case Triplets(margin=margin, mining=mining):
            return lambda _: Triplet(margin=margin, mining=mining)
        case _:
            return lambda _: {"angular": AngularPrototypical, "prototypical": Prototypical}[section.kind]()
