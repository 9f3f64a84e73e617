"""A head on a frozen encoder, of which only cached vectors are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.trained import TrainedHead
from nestvox.model.speaker_model import SpeakerModel
from nestvox.training.criterion import Criterion
from nestvox.training.data.cached import CachedSource
from nestvox.training.head_start import copy_of_head, first_criterion, prepared_head
from nestvox.training.recipe.kinds import HeadRecipe, LoopRecipe
from nestvox.training.run import Finished, Run
from nestvox.training.task import ParameterGroup


class HeadTask:
    """A head that learns whole in every epoch.

    Args:
        head: on the device of the run.
        criterion: likewise.
        pairs: development trials on vectors of the head's tap.
        recipe: rates and decay.
    """

    def __init__(self, head: TrainedHead, criterion: Criterion, pairs: LabelledPairs, recipe: LoopRecipe) -> None:
        self.network: nn.Module = head
        self.criterion = criterion
        self._head = head
        self._pairs = pairs
        training = recipe.training
        self.groups: Sequence[ParameterGroup] = [
            *split_decay(head.parameters(), 1.0, training.weight_decay),
            *split_decay(criterion.parameters(), training.prototype_rate, training.weight_decay),
        ]
        self.kept = tuple(head.state_dict())
        self.statistics: Sequence[Tensor] = moving_statistics(head)

    def begin_epoch(self, epoch: int) -> None:  # noqa: ARG002  everything learns in every epoch
        """Set the modes."""
        self.network.train()

    def validate(self) -> Mapping[int, float]:
        """Return the EER on the development trials at each dimension."""
        training = self.network.training
        self.network.eval()
        eers = self._pairs.eers(self._head)
        self.network.train(training)
        return eers


def train_head(run: Run[HeadRecipe]) -> Finished:
    """Train a head on cached vectors."""
    recipe, material, model = run.recipe, run.material, run.start
    assert model is not None
    head = prepared_head(run)
    data = material.cached()
    pairs = material.dev_pairs(head.tap)
    criterion = first_criterion(recipe, head, data, data.names)
    head.to(run.processes.device)
    task = HeadTask(head, criterion.to(run.processes.device), pairs, recipe)
    source = CachedSource(data, recipe, head.tap, run.processes, teacher=material.teacher_cache, of=material.whole)
    progressed, notes = run.loop(
        task,
        source,
        f"train {head.kind} head",
        began_with=model.fingerprint,
        copied=lambda: SpeakerModel(model.encoder, copy_of_head(head)),
    )
    head.cpu().eval()
    return Finished(SpeakerModel(model.encoder, head), pairs, progressed, notes)


def moving_statistics(head: TrainedHead) -> list[Tensor]:
    """Return the running statistics of a head that its training renews."""
    return list(head.buffers()) if head.norm_kind == "batch" else []


def split_decay(parameters: Iterator[nn.Parameter], scale: float, weight_decay: float) -> list[ParameterGroup]:
    """Divide parameters into those that decay (matrices) and those that do not (biases, normalisations, scalars)."""
    every = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in every if parameter.ndim > 1]
    others = [parameter for parameter in every if parameter.ndim <= 1]
    groups = [ParameterGroup(matrices, scale, weight_decay), ParameterGroup(others, scale, 0.0)]
    return [group for group in groups if group.parameters]
