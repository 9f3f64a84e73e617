"""An autoencoder beside a student: what it is asked to be worth through a few numbers. No part of the student.

Notation: B utterances, D numbers of the student, D' of the target.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nestvox.errors import ModelError
from nestvox.losses.precision import full_precision, unit, working
from nestvox.losses.terms import DistillationTerm


class Bottleneck(DistillationTerm):
    """Mean over B of 1 - cosine of a target and of what two layers make of the student by way of a few numbers.

    D -> `bottleneck`, a rectifier, -> D'. The target is the teacher's vector, or the student's own, as an autoencoder
    has it: neither gets a gradient by being the target. Both layers are parameters of the loss: the optimiser and the
    training's checkpoint hold them, a saved student does not. Maximum 2; its chance is the value when shuffled, as the
    layers learn the average target at once. Lambda is the weight of the term.

    Args:
        size: D.
        bottleneck: numbers that the target is made of.
        target: D'; None: D.

    Raises:
        ModelError: a size that is not positive, or a bottleneck that is none, not being smaller than D and D'.
    """

    known_maximum = 2.0

    def __init__(self, size: int = 512, bottleneck: int = 128, target: int | None = None) -> None:
        super().__init__()
        target = size if target is None else target
        if not 0 < bottleneck < min(size, target):
            raise ModelError(f"a bottleneck lies between two larger sizes, got {size} -> {bottleneck} -> {target}")
        self.sizes = size, target
        self.layers = nn.Sequential(nn.Linear(size, bottleneck), nn.ReLU(), nn.Linear(bottleneck, target))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare what is made of (B, D) with (B, D').

        Raises:
            ModelError: vectors of other sizes, or none.
        """
        entering, leaving = self.sizes
        if student.shape != (len(teacher), entering) or teacher.shape != (len(student), leaving) or not len(student):
            raise ModelError(
                f"expected (batch, {entering}) and (batch, {leaving}), got {tuple(student.shape)} and "
                f"{tuple(teacher.shape)}"
            )
        with full_precision(student):
            made = self.layers(student.to(next(self.parameters()).dtype))
            cosines = (unit(made) * unit(working(teacher.detach()).to(made.dtype))).sum(dim=1)
            return torch.mean(1 - cosines)
