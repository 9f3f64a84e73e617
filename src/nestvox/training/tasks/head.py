"""A head: where it begins (at the pretrained model, rotated, or at random), and its training on cached vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nestvox.errors import RecipeError
from nestvox.extraction.cache.feature_cache import CacheTap
from nestvox.heads.linear import LinearHead
from nestvox.heads.mlp import MlpHead
from nestvox.heads.moments import Moments
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.rotation import Rotation, default_dims
from nestvox.heads.trained import Norm, TrainedHead
from nestvox.model.speaker_model import SpeakerModel
from nestvox.training.criterion import Criterion
from nestvox.training.data.cached import CachedSource, CachedUtterances
from nestvox.training.recipe.kinds import HeadRecipe, LoopRecipe
from nestvox.training.recipe.learning import Prototypes
from nestvox.training.recipe.sections import MlpSection
from nestvox.training.run import Finished, Run
from nestvox.training.task import ParameterGroup, split_decay
from nestvox.training.tasks.rotation import fit_for

_BLOCK = 16_384
_ROTATION_FILE = "rotation.safetensors"


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

    def observed(self) -> Mapping[str, Any]:
        """Nothing more."""
        return {}


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
    source = CachedSource(data, recipe, head.tap, run.processes, teacher=material.teacher, of=material.whole)
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


def copy_of_head(head: TrainedHead) -> TrainedHead:
    """Copy a head as it is, on the CPU."""
    return type(head).from_saved(head.config(), head.tensors())


def prepared_head(run: Run[Any]) -> TrainedHead:
    """Build the head as it is before the first step.

    The rotation that it begins with is fitted once, by the first process, and kept in the run's folder.
    """
    recipe, model = run.recipe, run.start
    assert model is not None
    wanted = recipe.head.dims
    if isinstance(model.head, TrainedHead):
        if wanted is not None and tuple(sorted(wanted)) != model.head.dims:
            raise RecipeError(
                f"head.dims: {model.name} has a head of {model.head.dims}; leave dims out to go on with it"
            )
        return copy_of_head(model.head)
    data = run.material.cached()
    rotation = None
    if recipe.head.start == "rotation":
        rotation = model.head if isinstance(model.head, Rotation) else None
        kept = run.folder / _ROTATION_FILE
        if rotation is None:
            if run.processes.first and not kept.is_file():
                fit_for(run, run.material.dev_pairs("embedding")).save(kept)
            run.processes.wait()
            rotation = Rotation.load(kept)
    return begin_head(recipe, model, data, rotation)


def begin_head(
    recipe: LoopRecipe, model: SpeakerModel, data: CachedUtterances | None, rotation: Rotation | None
) -> TrainedHead:
    """Build the head of a recipe as it is before the first step.

    Args:
        recipe: kind, dims and start.
        model: the encoder.
        data: training utterances, whose statistics standardise the input; None: nothing is standardised.
        rotation: of the embedding; None: none.

    Raises:
        ModelError: sizes that do not fit.
    """
    section, encoder = recipe.head, model.encoder
    perceptron = isinstance(section, MlpSection)
    head_class: type[LinearHead] | type[MlpHead] = MlpHead if perceptron else LinearHead
    settings: dict[str, Any] = section.model_dump(include={"hidden", "layers", "dropout"}) if perceptron else {}
    dims = tuple(sorted(section.dims)) if section.dims else default_dims(encoder.embedding_dim)
    # The embedding itself, where it is no affine function of the pooled vector: nothing linear could begin there.
    pooled = section.start == "random" or encoder.projection() is not None
    tap: CacheTap = "pooled" if pooled else "embedding"
    input_dim = encoder.pooled_dim if pooled else encoder.embedding_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if section.start == "random":
            norm: Norm = "none" if section.norm == "none" else "batch"
            return head_class(input_dim, dims, tap=tap, norm=norm, **settings)
        if rotation is None:
            rotation = Rotation(torch.eye(encoder.embedding_dim, dtype=torch.float64).numpy(), dims[:1], "truncation")
        return head_class.from_pretrained(
            encoder.projection() if pooled else None,
            rotation,
            dims,
            moments=None if data is None else _moments(data, tap, input_dim),
            norm=section.norm,
            **settings,
        )


def first_criterion(
    recipe: LoopRecipe, head: TrainedHead, data: CachedUtterances | None, names: Sequence[str]
) -> Criterion:
    """Build the criterion, its prototypes where the recipe says that they begin.

    Args:
        recipe: the section `loss`, and the seed.
        head: as it is before the first step.
        data: training features, of which the speakers' means are; None: prototypes begin at random.
        names: of the classes; one that `data` lacks, a speaker at another speed, begins at the speaker's own mean.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        criterion = Criterion(recipe.loss, head.dims, len(names))
        means = isinstance(recipe.loss, Prototypes) and recipe.loss.prototypes == "means"
        if means and recipe.loss.weight and data is not None:
            head.eval()
            place = {name: row for row, name in enumerate(data.names)}
            rows = [place[name] if name in place else place[name.partition("#speed")[0]] for name in names]
            criterion.begin_at(data.mean_embeddings(head, head.tap)[rows])
    return criterion


def _moments(data: CachedUtterances, tap: CacheTap, size: int) -> Moments:
    moments = Moments(size)
    for start in range(0, len(data.utterances), _BLOCK):
        moments.add(data.cache.gather(data.utterances[start : start + _BLOCK], 0, tap=tap))
    return moments
