"""Distillation: a student whose own embedding learns from what a teacher says of whole, clean utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from nestvox.encoders.contract import Encoder
from nestvox.errors import ModelError
from nestvox.heads.contract import FloatArray
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.rotation import Rotation, default_dims, truncation
from nestvox.heads.trained import TrainedHead
from nestvox.metrics.costs import min_dcf
from nestvox.metrics.curves import error_curve
from nestvox.model.loading import load
from nestvox.model.speaker_model import SpeakerModel
from nestvox.training.data.clips import AudioSource
from nestvox.training.data.live import LiveTeachers, channels_of, refuse_other_layers
from nestvox.training.data.material import banks_of
from nestvox.training.data.targets import Targets
from nestvox.training.distilling import DistilCriterion, parameters_of
from nestvox.training.recipe.kinds import DistilRecipe
from nestvox.training.run import Finished, Run
from nestvox.training.tasks.encoder import (
    EncoderTask,
    NestedNetwork,
    blanked_bands,
    copy_of_encoder,
    drawn_encoder,
    full_precision_front_end,
    refuse_missing_audio,
    refuse_short_clips,
)


class OwnEmbedding(TrainedHead):
    """The prefixes of an embedding as it is: a head that learns nothing.

    Args:
        size: numbers of the embedding.
        dims: prefix lengths.
    """

    kind = "own"

    def __init__(self, size: int, dims: tuple[int, ...]) -> None:
        super().__init__(size, dims, tap="embedding", norm="none")

    def forward(self, vectors: Tensor) -> Tensor:
        """Return (B, D) as they are."""
        return vectors

    def evaluate(self, vectors: FloatArray, weights: Mapping[str, FloatArray]) -> FloatArray:  # noqa: ARG002
        """Return (N, D) as they are."""
        return vectors

    def linear_path(self) -> nn.Linear:
        """There is none.

        Raises:
            ModelError: always.
        """
        raise ModelError("a student's own embedding has no head that could begin anywhere")

    def saved(self) -> Rotation:
        """Return the head that is saved in its place."""
        return truncation(self.input_dim, self.dims)


class DistilTask(EncoderTask):
    """A student; see `EncoderTask`.

    Attributes:
        warn: told in words where a part of the loss does nothing.
    """

    criterion: DistilCriterion
    warn: Callable[[str], None]
    _costs: Mapping[str, Any] = MappingProxyType({})

    def begin_epoch(self, epoch: int) -> None:
        """Set the modes, and what the objective has of its own in an epoch."""
        super().begin_epoch(epoch)
        self.criterion.begin_epoch(epoch)
        self._costs = {}

    def validate(self) -> Mapping[int, float]:
        """Return the EER on the development trials at each dimension; the costs are observed."""
        pairs, head = self.pairs(), self.network.head
        self._costs = {"dev_min_dcf": _costs(pairs, head)}
        return pairs.eers(head)

    def observed(self) -> Mapping[str, Any]:
        """Return the costs of a validation, or what the monitor saw in a step."""
        found, self._costs = dict(self._costs), {}
        reading, self.criterion.reading = self.criterion.reading, None
        if reading is not None:
            found |= {"monitor": reading.scalars(), "monitor_warnings": list(reading.warnings)}
            for words in reading.warnings:
                self.warn(f"epoch {self.criterion.epoch}: {words}")
        return found


def train_student(run: Run[DistilRecipe]) -> Finished:
    """Train a student on audio files.

    Raises:
        RecipeError: there is no audio, or the objective needs what there is not.
    """
    recipe, material, processes = run.recipe, run.material, run.processes
    refuse_missing_audio(run)
    encoder = _student(recipe)
    refuse_short_clips(recipe, encoder)
    dims = tuple(sorted(recipe.head.dims)) if recipe.head.dims else default_dims(encoder.embedding_dim)
    rate, table, teacher = encoder.sample_rate, material.usable, material.teacher
    live, channels = _live(recipe, encoder, teacher, processes.device)
    network = NestedNetwork(encoder, OwnEmbedding(encoder.embedding_dim, dims), channels[0])
    began_with = SpeakerModel(encoder).fingerprint
    banks = banks_of(recipe.data, table, rate)
    source = AudioSource(table, recipe, rate, processes, banks, teacher=teacher, of=material.whole, live=live)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        criterion = DistilCriterion(
            recipe,
            dims,
            len(source.names),
            encoder.embedding_dim,
            {} if teacher is None else teacher.sizes,
            (parameters_of(encoder), 0 if teacher is None else teacher.parameters),
            channels,
            source.class_means() if recipe.objective.has("logits") else {},
        )
    network.to(processes.device)
    task = DistilTask(network, criterion.to(processes.device), material.dev, recipe, scratch=run.folder)
    task.warn = run.watch.warn if processes.first else lambda _: None

    def copied() -> SpeakerModel:
        return SpeakerModel(copy_of_encoder(network.encoder), _saved(network.head))

    with (
        full_precision_front_end(encoder),
        blanked_bands(encoder, recipe.data.spec_augment),
        zeros_kept(encoder) if recipe.encoder.keep_zeros else nullcontext(),
    ):
        progressed, notes = run.loop(task, source, "train (distil)", began_with=began_with, copied=copied)
    pairs = task.pairs()
    network.cpu().eval().requires_grad_(requires_grad=True)
    return Finished(SpeakerModel(encoder, _saved(network.head)), pairs, progressed, notes)


@contextmanager
def zeros_kept(encoder: nn.Module) -> Iterator[None]:
    """Give what is zero in the matrices of an encoder a gradient of zero: no optimizer moves it, nor does decay."""
    hooks = [
        weight.register_hook(partial(torch.mul, (weight != 0).to(weight.dtype)))  # type: ignore[no-untyped-call]
        for weight in encoder.parameters()
        if weight.ndim >= 2
    ]
    yield
    for hook in hooks:
        hook.remove()


def _live(
    recipe: DistilRecipe, student: Encoder, targets: Targets | None, device: torch.device
) -> tuple[LiveTeachers | None, tuple[dict[str, int], dict[tuple[str | None, str], int]]]:
    """Teachers whose layers are compared, and the channels of these layers and of the student's.

    Raises:
        RecipeError: there are no such layers.
    """
    pairs = [(term.of, pair) for term in recipe.objective.terms.values() for pair in term.layers]
    if not pairs or targets is None:
        return None, ({}, {})
    own = sorted({pair.student for _, pair in pairs})
    refuse_other_layers(student, own, "student")
    wanted = {name: sorted({pair.teacher for of, pair in pairs if of == name}) for name in dict(pairs)}
    every: list[tuple[str | None, Targets]] = [(None, targets), *targets.others.items()]
    encoders = {name: one.encoder for name, one in every if one.encoder is not None}
    live = LiveTeachers(encoders, wanted, student.sample_rate, device)
    theirs = {(of, k): size for of, some in wanted.items() for k, size in channels_of(encoders[of], some).items()}
    return live, (channels_of(student, own), theirs)


def _student(recipe: DistilRecipe) -> Encoder:
    if recipe.start is not None:
        return load(recipe.start, device="cpu", backend="eager").encoder
    assert recipe.model is not None
    return drawn_encoder(recipe.model, recipe.seed)


def _saved(head: TrainedHead) -> Rotation:
    assert isinstance(head, OwnEmbedding)
    return head.saved()


def _costs(pairs: LabelledPairs, head: TrainedHead) -> dict[str, float]:
    """MinDCF at p_target 0.05 at each dimension."""
    return {str(d): float(min_dcf(error_curve(pairs.scores(head, d), pairs.target)).value) for d in head.dims}
