"""Every prefix taught by the embedding of a teacher.

Teacher and student may differ in size: what is compared is how the utterances of a batch relate to each other, so no
projection between the two spaces has to be learnt or thrown away. Where they have the same coordinates (a target that
is cut like the student) the vectors themselves can be compared too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from nestvox.errors import ModelError
from nestvox.losses.nested import NestedTerms, PrefixLoss
from nestvox.losses.precision import unit, working
from nestvox.losses.relations import Correlation, CosineTerm, Neighbours, Similarity, check_relations, other_cosines
from nestvox.losses.terms import DistillationTerm, EmbeddingCosine

Target = Literal["full", "truncated", "rotated"]

_TOLERANCE = 1e-5  # of float32 matrices that were fitted in float64


class PrefixDistillation(PrefixLoss):
    """Distance of each prefix of the student to the teacher, in the relations within a batch and in the vectors.

    The loss of a prefix is the sum of four terms, each times its factor: `relations.Similarity`,
    `relations.Correlation`, `relations.Neighbours` and `terms.EmbeddingCosine`.

    What a prefix of d numbers is held against is the teacher's embedding in full, its first d numbers, or its first d
    numbers after a rotation that was fitted to be cut. With a teacher whose short prefixes are good once rotated, the
    full embedding pulls short prefixes away from what they could be.

    Args:
        dims: prefix lengths.
        weights: by prefix length; a length that is not named weighs 1.
        similarity: factor of the first term.
        correlation: factor of the second.
        neighbours: factor of the third.
        cosine: factor of the fourth, for which target and prefix must have the same length.
        temperature: of the third, in units of the cosine; None: 0.1.
        target: ``full``, ``truncated`` or ``rotated``.
        rotation: (E, E) orthogonal, column k the direction that becomes coordinate k, for ``rotated``.

    Raises:
        ModelError: see `PrefixLoss`; negative factors, none above 0, a temperature that is not positive or that nothing
            uses, an unknown target, or a rotation that is missing, idle or not orthogonal.
    """

    rotation: Tensor | None

    def __init__(
        self,
        dims: Sequence[int],
        weights: Mapping[int, float] | None = None,
        *,
        similarity: float = 1.0,
        correlation: float = 1.0,
        neighbours: float = 0.0,
        cosine: float = 0.0,
        temperature: float | None = None,
        target: Target = "full",
        rotation: Tensor | None = None,
    ) -> None:
        super().__init__(dims, weights)
        factors = (similarity, correlation, neighbours, cosine)
        if min(factors) < 0 or max(factors) <= 0 or not (temperature is None or temperature > 0):
            raise ModelError(
                f"distillation needs factors of which none is negative and one is positive, got {factors}, and a "
                f"positive temperature, got {temperature}"
            )
        if temperature is not None and not neighbours:
            raise ModelError(
                f"a temperature of {temperature} has no effect: only the term neighbours has one, and its factor is "
                "0; leave the temperature out, or give neighbours a factor"
            )
        self.cosine = cosine
        self.target = target
        relations: list[tuple[float, CosineTerm]] = [
            (similarity, Similarity()),
            (correlation, Correlation()),
            (neighbours, Neighbours(0.1 if temperature is None else temperature)),
        ]
        self._relations = [(factor, term) for factor, term in relations if factor]
        if target not in get_args(Target):
            raise ModelError(f"unknown target {target!r}; known: {', '.join(get_args(Target))}")
        if (rotation is not None) != (target == "rotated"):
            raise ModelError(f"target {target!r} {'has no' if rotation is not None else 'needs a'} rotation")
        if rotation is not None:
            _check_rotation(rotation)
        self.register_buffer("rotation", rotation, persistent=False)

    def forward(self, student: Tensor, teacher: Tensor) -> NestedTerms:
        """Return the loss of a batch, at every active prefix.

        Args:
            student: (B, D) float of any precision and length; D at least the largest dim, B at least 3.
            teacher: (B, E) float; it gets no gradient. With a target that is cut, E at least the largest active dim.

        Raises:
            ModelError: another shape, or fewer than three utterances.
        """
        check_relations(student, teacher)
        size = teacher.shape[1]
        if self.target != "full" and size < self.active[-1]:
            raise ModelError(f"a teacher of {size} numbers has no prefix of {self.active[-1]}; use target 'full'")
        if self.rotation is not None and len(self.rotation) != size:
            raise ModelError(f"the rotation is for {len(self.rotation)} numbers, the teacher has {size}")
        whole = working(teacher.detach())
        if self.rotation is not None:
            whole = whole @ self.rotation.to(whole)
        targets: dict[int, tuple[Tensor, Tensor]] = {}

        def loss_at(d: int, prefix: Tensor) -> Tensor:
            length = size if self.target == "full" else d
            if length not in targets:
                vectors = unit(whole[:, :length].to(prefix.dtype))
                targets[length] = vectors, other_cosines(vectors)
            target, wanted = targets[length]
            loss, found = prefix.new_zeros(()), other_cosines(prefix)
            for factor, term in self._relations:
                loss = loss + factor * term.of_cosines(found, wanted)
            if self.cosine:
                loss = loss + self.cosine * EmbeddingCosine()(prefix, target)
            return loss

        return self._terms(student, loss_at)


class NestedTerm(DistillationTerm):
    """The weighted mean over prefixes of `PrefixDistillation`, as one term of an objective.

    Args:
        distillation: of the prefixes.
    """

    def __init__(self, distillation: PrefixDistillation) -> None:
        super().__init__()
        self.distillation = distillation

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare (B, D) with (B, E)."""
        terms: NestedTerms = self.distillation(student, teacher)
        return terms.total


def _check_rotation(rotation: Tensor) -> None:
    square = rotation.ndim == 2 and rotation.shape[0] == rotation.shape[1] and rotation.is_floating_point()
    if square:
        wide = rotation.double()
        off = (wide.T @ wide - torch.eye(len(wide), dtype=wide.dtype, device=wide.device)).abs().max()
        square = bool(off <= _TOLERANCE)
    if not square:
        raise ModelError(f"a rotation is a square orthogonal matrix, got {rotation.dtype} {tuple(rotation.shape)}")
