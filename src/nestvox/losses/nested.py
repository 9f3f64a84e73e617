"""One loss for every prefix of a nested embedding, computed from one forward pass.

Source: A. Kusupati et al., "Matryoshka representation learning", NeurIPS 2022. Its loss is

    sum_{d in dims} w_d L_d(unit(x[:d])) / sum_{d in dims} w_d

and this is it, over the active dims, with unit() because a prefix is scored by its cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from nestvox.errors import ModelError
from nestvox.losses.precision import full_precision, unit, weights_by_name, working

Classifier = Literal["own", "shared"]


@dataclass(frozen=True)
class NestedTerms:
    """A loss and what it is made of.

    Attributes:
        total: scalar with a gradient: the weighted mean of the active dims.
        per_dim: scalars without one, per prefix length, unweighted; still on the device, so that nothing is waited for.
        parts: likewise by name: what else is followed, such as the terms of a distillation.
    """

    total: Tensor
    per_dim: dict[int, Tensor]
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class PrefixLoss(nn.Module):
    """Prefix lengths, the weight that each has in the loss, and which of them take part now.

    Args:
        dims: prefix lengths.
        weights: by prefix length; a length that is not named weighs 1.

    Attributes:
        dims: ascending.
        weights: by prefix length.

    Raises:
        ModelError: no dims, repeated or not positive ones, or a weight for another dim, or one that is not positive.
    """

    def __init__(self, dims: Sequence[int], weights: Mapping[int, float] | None = None) -> None:
        super().__init__()
        self.dims = tuple(sorted(int(d) for d in dims))
        if not self.dims or self.dims[0] < 1 or len(set(self.dims)) != len(self.dims):
            raise ModelError(f"dims must be distinct and positive, got {tuple(dims)}")
        self.weights = weights_by_name("dims", self.dims, weights, "leave a dim out by set_active")
        self._active = self.dims

    @property
    def active(self) -> tuple[int, ...]:
        """Prefix lengths that take part, ascending."""
        return self._active

    def set_active(self, dims: Sequence[int]) -> None:
        """Choose the prefix lengths that take part from now on; a progressive schedule begins with the large ones.

        Not part of the state that is saved: a schedule sets it from the step.

        Raises:
            ModelError: none, or one that is not among `dims`.
        """
        chosen = tuple(sorted(set(dims)))
        if not chosen or not set(chosen) <= set(self.dims):
            raise ModelError(f"active dims must be some of {self.dims}, got {tuple(dims)}")
        self._active = chosen

    def _terms(self, embedding: Tensor, loss_at: Callable[[int, Tensor], Tensor]) -> NestedTerms:
        """Sum up `loss_at(d, unit prefix (B, d))`; `embedding` is (B, D)."""
        if embedding.ndim != 2 or embedding.shape[1] < self._active[-1]:
            raise ModelError(f"embeddings must be (B, {self.dims[-1]}), got {tuple(embedding.shape)}")
        with full_precision(embedding):
            wide = working(embedding)
            losses = {d: loss_at(d, unit(wide[:, :d])) for d in self._active}
            whole = sum(self.weights[d] for d in self._active)
            total = torch.stack([loss * (self.weights[d] / whole) for d, loss in losses.items()]).sum()
        return NestedTerms(total, {d: loss.detach() for d, loss in losses.items()})


class NestedLoss(PrefixLoss):
    """A criterion at every prefix, each with a classifier of its own.

    Args:
        dims: prefix lengths.
        make: builds the criterion for a prefix length, e.g. ``lambda d: AamSoftmax(d, num_classes)``.
        weights: by prefix length; a length that is not named weighs 1.
        classifier: ``own``: `make(d)` for every d. ``shared``: one `make(max(dims))` for all, of whose weight vectors a
            prefix sees the first d columns, normalised again, as in redimnet-mrl and the paper's "efficient" form.

    Attributes:
        criteria: the criteria by prefix length (``shared``: only the largest); their parameters belong into the
            optimiser and into the checkpoint.

    Raises:
        ModelError: see `PrefixLoss`.
    """

    def __init__(
        self,
        dims: Sequence[int],
        make: Callable[[int], nn.Module],
        weights: Mapping[int, float] | None = None,
        *,
        classifier: Classifier = "own",
    ) -> None:
        super().__init__(dims, weights)
        if classifier not in ("own", "shared"):
            raise ModelError(f"unknown classifier {classifier!r}; known: own, shared")
        self.classifier = classifier
        made = self.dims if classifier == "own" else self.dims[-1:]
        self.criteria = nn.ModuleDict({str(d): make(d) for d in made})

    def forward(self, embedding: Tensor, labels: Tensor) -> NestedTerms:
        """Return the loss of a batch, at every active prefix.

        Args:
            embedding: (B, D) float of any precision and length, D at least the largest dim.
            labels: (B,) int64.

        Raises:
            ModelError: another shape or type, or a batch that a criterion refuses.
        """
        if self.classifier == "own":
            return self._terms(embedding, lambda d, prefix: cast("Tensor", self.criteria[str(d)](prefix, labels)))
        criterion = self.criteria[str(self.dims[-1])]
        # Losses on pairs have nothing to slice and take any prefix.
        at_prefix = cast("Callable[[Tensor, Tensor], Tensor]", getattr(criterion, "at_prefix", criterion))
        return self._terms(embedding, lambda _, prefix: at_prefix(prefix, labels))

    def set_margin(self, margin: float) -> None:
        """Set the margin of every criterion that has one: warm-up from 0, or a large-margin stage."""
        for criterion in self.criteria.values():
            if hasattr(criterion, "margin"):
                setattr(criterion, "margin", margin)  # noqa: B010  whose type a container does not know

    @torch.no_grad()
    def set_prototypes(self, prototypes: Tensor) -> None:
        """Begin every classifier at known class directions.

        Args:
            prototypes: (C, D) float, e.g. the mean embedding of each speaker; prefixes are taken from it.

        Raises:
            ModelError: another shape, or criteria without classes.
        """
        if prototypes.ndim != 2 or prototypes.shape[1] < self.dims[-1]:
            raise ModelError(f"prototypes must be (classes, {self.dims[-1]}), got {tuple(prototypes.shape)}")
        for d, criterion in self.criteria.items():
            if not hasattr(criterion, "set_prototypes"):
                raise ModelError(f"{type(criterion).__name__} has no classes to begin at prototypes")
            cast("Callable[[Tensor], None]", criterion.set_prototypes)(prototypes[:, : int(d)])
