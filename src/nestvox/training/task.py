"""What the loop runs: a task (a network, a criterion, what learns, how it is validated) and a source of batches.

A task is a small object: whoever has these members is trained, checkpointed, resumed and reported like all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from nestvox.training.criterion import Criterion
from nestvox.training.data.batches import Batch, Seen


class Source(Protocol):
    """Where batches come from.

    Indexed data begin anywhere at no cost; a source that streams from shards skips what was seen.
    """

    @property
    def n(self) -> int:
        """Samples of an epoch, for the display."""

    def steps(self, epoch: int) -> int:
        """Batches of an epoch."""

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `first` on: the same ones whenever it is asked."""

    def seen(self, epoch: int) -> Seen:
        """How much of the training data the batches of an epoch hold."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with one learning rate.

    Attributes:
        parameters: that learn at some time.
        scale: factor of the learning rate.
        weight_decay: of the optimizer.
    """

    parameters: Sequence[nn.Parameter]
    scale: float
    weight_decay: float


class Task(Protocol):
    """What is trained."""

    @property
    def network(self) -> nn.Module:
        """Maps inputs to embeddings (b, D)."""

    @property
    def criterion(self) -> Criterion:
        """Maps embeddings and labels to a loss; it may have parameters of its own."""

    @property
    def groups(self) -> Sequence[ParameterGroup]:
        """Everything that learns at some time, always in the same order."""

    @property
    def kept(self) -> Sequence[str]:
        """Names in the network's state of what changes: the tensors that are averaged, kept and restored."""

    @property
    def statistics(self) -> Sequence[Tensor]:
        """Running statistics that a step renews, which processes have to agree on."""

    def begin_epoch(self, epoch: int) -> None:
        """Set what learns in an epoch, and the modes of the modules."""

    def validate(self) -> Mapping[int, float]:
        """Return the EER on the development trials at each dimension."""

    def observed(self) -> Mapping[str, Any]:
        """Return what else the log should have of the last step or validation, once; what needs a word is told."""


def split_decay(parameters: Iterator[nn.Parameter], scale: float, weight_decay: float) -> list[ParameterGroup]:
    """Divide parameters into those that decay (matrices) and those that do not (biases, normalisations, scalars)."""
    every = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in every if parameter.ndim > 1]
    others = [parameter for parameter in every if parameter.ndim <= 1]
    groups = [ParameterGroup(matrices, scale, weight_decay), ParameterGroup(others, scale, 0.0)]
    return [group for group in groups if group.parameters]
