"""How much of the loss is the teacher's: constant, by epoch, by sizes, or so that gradients stand in a ratio."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from nestvox.errors import ModelError
from nestvox.losses.objective import Combined, checked_alpha, gradient_at

CapacityRule = Literal["table", "formula"]

_TABLE = ((0.5, 0.9), (1.0, 0.7), (1.5, 0.5), (math.inf, 0.4))  # below this ratio, this alpha
_LEAST, _MOST = 0.1, 0.9


class AlphaSchedule:
    """Alpha by epoch, in steps; a constant is a schedule of one.

    Args:
        stages: (first epoch, alpha), epochs from 1 and ascending. ``[(1, 0.5), (41, 0.7), (81, 0.5)]`` is the
            curriculum of the MLP-Mixer write-up.

    Raises:
        ModelError: the first stage does not begin at 1, epochs do not ascend, or an alpha outside of [0, 1].
    """

    def __init__(self, stages: Sequence[tuple[int, float]]) -> None:
        firsts = [first for first, _ in stages]
        if not firsts or firsts[0] != 1 or any(a >= b for a, b in itertools.pairwise(firsts)):
            raise ModelError(f"stages of alpha begin at epoch 1 and ascend, got {list(stages)}")
        self.stages = tuple((first, checked_alpha(alpha)) for first, alpha in stages)

    def at(self, epoch: int) -> float:
        """Return the alpha of an epoch, counted from 1.

        Raises:
            ModelError: an epoch before the first.
        """
        if epoch < 1:
            raise ModelError(f"epochs are counted from 1, got {epoch}")
        return [alpha for first, alpha in self.stages if first <= epoch][-1]


def capacity_alpha(student: int, teacher: int, rule: CapacityRule = "table") -> float:
    """Return alpha by the ratio r of student to teacher parameters. A heuristic: no comparison supports it.

    ``table`` is 0.9 for r < 0.5, 0.7 for r < 1, 0.5 for r < 1.5 and 0.4 above; ``formula`` is 0.9 - 0.5 log2 r, which
    leaves [0, 1] below r = 0.87, clamped to [0.1, 0.9]. They disagree nearly everywhere from 0.5 to 2 (0.7 and 0.9 at
    r = 0.69). Both are from the write-up of the distilled MLP-Mixer, whose one pair of runs on the question also
    differed in data, augmentation and margin.

    Args:
        student: parameters.
        teacher: parameters.
        rule: ``table`` or ``formula``.

    Raises:
        ModelError: numbers that are not positive, or another rule.
    """
    if min(student, teacher) < 1 or rule not in get_args(CapacityRule):
        rules = ", ".join(get_args(CapacityRule))
        raise ModelError(
            f"alpha by capacity needs two positive numbers of parameters and a rule of {rules}, got {student}, "
            f"{teacher} and {rule!r}"
        )
    ratio = student / teacher
    if rule == "table":
        return next(alpha for below, alpha in _TABLE if ratio < below)
    return min(max(0.9 - 0.5 * math.log2(ratio), _LEAST), _MOST)


class GradientBalance(nn.Module):
    """Alpha by which distillation has a given share of the gradient: a |G_d| / (a |G_d| + (1 - a) |G_s|) = share.

    G_d and G_s are the gradients, at the embedding, of the weighted terms and of the loss over speakers, both without
    alpha. The logarithm of their ratio is averaged over steps, and is the state: it belongs into a checkpoint.

    Args:
        share: in (0, 1).
        momentum: of the average; 0 takes each step for itself.

    Raises:
        ModelError: numbers outside of their ranges.
    """

    log_ratio: Tensor
    known: Tensor

    def __init__(self, share: float = 0.5, momentum: float = 0.9) -> None:
        super().__init__()
        if not 0 < share < 1 or not 0 <= momentum < 1:
            raise ModelError(f"share is in (0, 1) and momentum in [0, 1), got {share} and {momentum}")
        self.share, self.momentum = share, momentum
        self.register_buffer("log_ratio", torch.zeros((), dtype=torch.float64))
        self.register_buffer("known", torch.zeros((), dtype=torch.float64))  # 1 once there was a step

    @property
    def alpha(self) -> float:
        """For the next step; before the first `update`, the share itself."""
        ratio = math.exp(float(self.log_ratio))  # of nothing, 1
        return self.share / (self.share + (1 - self.share) * ratio)

    def update(self, found: Combined, places: Sequence[Tensor]) -> float:
        """Take in a step, before it is followed back, and return the new alpha.

        A step in which one of the two has no gradient says nothing about their ratio and is passed over; the monitor
        names it.

        Args:
            found: of the objective.
            places: where gradients are compared: the student's embeddings, and layers that hints reach.

        Raises:
            ModelError: there is no loss over speakers.
        """
        if found.ce is None:
            raise ModelError("gradients can be balanced only against a loss over speakers")
        distilled, speakers = (
            float(torch.linalg.vector_norm(gradient_at(value, places))) for value in (found.distilled, found.ce)
        )
        if 0 < distilled < math.inf and 0 < speakers < math.inf:
            now = math.log(distilled / speakers)
            before = float(self.log_ratio)
            self.log_ratio.fill_(self.momentum * before + (1 - self.momentum) * now if self.known else now)
            self.known.fill_(1.0)
        return self.alpha
