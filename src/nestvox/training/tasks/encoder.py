"""Training the encoder too: parts that join in stages, low-rank additions, or everything from random weights."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nestvox.encoders.contract import Encoder, Taps
from nestvox.encoders.front_ends.gabor import GaborBands
from nestvox.encoders.front_ends.log_mel import KaldiBands, MelSpectrogram, NormalisedLogMel
from nestvox.encoders.redimnet.front_end import FrontEnd, mask_bands
from nestvox.encoders.registry import build
from nestvox.errors import RecipeError
from nestvox.extraction.embed import embed_table
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.trained import TrainedHead
from nestvox.model.speaker_model import SpeakerModel
from nestvox.training.criterion import Criterion
from nestvox.training.data.clips import AudioSource
from nestvox.training.data.development import Development
from nestvox.training.data.material import banks_of
from nestvox.training.lora import add_low_rank, merge_low_rank, save_adapter
from nestvox.training.recipe.kinds import EncoderRecipe, ScratchRecipe
from nestvox.training.recipe.sections import SpecAugment
from nestvox.training.run import Finished, Run
from nestvox.training.task import ParameterGroup, split_decay
from nestvox.training.tasks.head import begin_head, copy_of_head, first_criterion, moving_statistics, prepared_head
from nestvox.zoo.variants import variant

_ADAPTER_FILE = "adapter.safetensors"
DEV_FOLDER = ".dev-"
_DEV_BATCH = 8
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class NestedNetwork(nn.Module):
    """Encoder and head as one network: clips of one length in, nested embeddings out.

    Args:
        encoder: the encoder.
        head: of one of its taps.
        wanted: layers of the encoder that a loss looks at too.

    Attributes:
        layers: of the last pass, (B, C, T) each.
    """

    def __init__(self, encoder: Encoder, head: TrainedHead, wanted: Collection[str] = ()) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.wanted = tuple(wanted)
        self.layers: Mapping[str, Tensor] = {}

    def forward(self, audio: Tensor) -> Tensor:
        """Map (B, S) to (B, D), not normalised."""
        taps: Taps = self.encoder(audio, layers=self.wanted) if self.wanted else self.encoder(audio)
        self.layers = {name: layer.values for name, layer in taps.layers.items()}
        nested: Tensor = self.head(taps.pooled if self.head.tap == "pooled" else taps.embedding)
        return nested


class EncoderTask:
    """Encoder and head, of which more and more learns.

    Args:
        network: on the device of the run.
        criterion: likewise.
        dev: development trials, whose audio is embedded anew at every validation.
        recipe: stages, rates and decay.
        scratch: folder in which development vectors stand while they are compared; None: the system's.

    Raises:
        RecipeError: a stage names a part that the encoder does not have, or that an earlier stage names.
    """

    def __init__(
        self,
        network: NestedNetwork,
        criterion: Criterion,
        dev: Development,
        recipe: EncoderRecipe,
        *,
        scratch: Path | None = None,
    ) -> None:
        self.scratch = scratch
        self.network = network
        self.criterion = criterion
        self.dev = dev
        self.recipe = recipe
        training, encoder, decay = recipe.training, network.encoder, recipe.training.weight_decay
        learnable = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
        self._part_of: dict[str, str] = {}
        groups = [*split_decay(network.head.parameters(), 1.0, decay)]
        for _, part, scale in recipe.parts:
            mine = [name for name in learnable if name not in self._part_of and _within(name, part)]
            if not mine:
                raise RecipeError(
                    f"stages: nothing of the encoder is left for {part!r}; {_parts_beside(encoder, part)}"
                )
            self._part_of |= dict.fromkeys(mine, part)
            groups += split_decay((learnable[name] for name in mine), scale, decay)
        groups += split_decay(criterion.parameters(), training.prototype_rate, decay)
        self.groups: Sequence[ParameterGroup] = groups
        for name, parameter in learnable.items():
            parameter.requires_grad_(name in self._part_of)
        moving = self._statistics_that_move()
        self.statistics: Sequence[Tensor] = [
            *moving_statistics(network.head),
            *(encoder.get_buffer(name) for name in moving),
        ]
        self.kept = [
            *(f"head.{name}" for name in network.head.state_dict()),
            *(f"encoder.{name}" for name in [*self._part_of, *moving]),
        ]

    def _statistics_that_move(self) -> list[str]:
        """Names of the running statistics that are renewed at some time."""
        if not self.recipe.renews_statistics:
            return []
        return [
            f"{name}.{buffer}"
            for name, module in self.network.encoder.named_modules()
            if isinstance(module, _NORMS) and any(_within(f"{name}.weight", part) for _, part, _ in self.recipe.parts)
            for buffer, _ in module.named_buffers()
        ]

    def begin_epoch(self, epoch: int) -> None:
        """Let the parts of the epoch learn, and set the modes: what is frozen is in evaluation, BatchNorm as asked."""
        parts = [part for first, part, _ in self.recipe.parts if first <= epoch]
        encoder = self.network.encoder
        for name, parameter in encoder.named_parameters():
            if name in self._part_of:
                parameter.requires_grad_(self._part_of[name] in parts)
        self.network.head.train()
        encoder.eval()
        for name, module in encoder.named_modules():
            if not any(_within(f"{name}.weight", part) for part in parts):
                continue
            # A network whose weights hardly move is left as it was trained: no dropout, no masking.
            module.training = self.recipe.trains_all
            if isinstance(module, _NORMS) and not self.recipe.renews_statistics:
                module.training = False
        if self.recipe.data.spec_augment is not None:
            for front in _front_ends(encoder):
                front.training = True  # it alone: its statistics, where it has any, are parts like all others

    def validate(self) -> Mapping[int, float]:
        """Return the EER on the development trials at each dimension."""
        return self.pairs().eers(self.network.head)

    def observed(self) -> Mapping[str, Any]:
        """Nothing more."""
        return {}

    def pairs(self) -> LabelledPairs:
        """Return the development trials on vectors of the encoder as it is now."""
        modes = {module: module.training for module in self.network.modules()}
        self.network.eval()
        table = replace(self.dev.table, frame=self.dev.table.frame[self.dev.utterances], _lines=None)
        with tempfile.TemporaryDirectory(prefix=DEV_FOLDER, dir=self.scratch) as folder:
            store = embed_table(
                SpeakerModel(self.network.encoder, backend="eager"),
                table,
                Path(folder) / "store",
                tap=self.network.head.tap,
                # Said, not tried out: a validation that is repeated must give the same bits.
                batch_size=_DEV_BATCH,
                streams=1,
                threads=torch.get_num_threads(),
                workers=self.recipe.run.workers,
            )
            pairs = self.dev.pairs(lambda names: store.take(store.index_of(names)))
        for module, training in modes.items():
            module.training = training
        return pairs


def train_encoder(run: Run[EncoderRecipe]) -> Finished:
    """Train encoder and head on audio files; the model that was given stays as it is.

    Raises:
        RecipeError: only a cache was given, or the encoder has no such parts.
    """
    recipe, material, processes = run.recipe, run.material, run.processes
    refuse_missing_audio(run)
    network, began_with = _network(run)
    refuse_short_clips(recipe, network.encoder)
    lora = recipe.lora
    if lora is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            add_low_rank(network.encoder, lora)
    rate, table = network.encoder.sample_rate, material.usable
    source = AudioSource(
        table,
        recipe,
        rate,
        processes,
        banks_of(recipe.data, table, rate),
        teacher=material.teacher,
        of=material.whole,
    )
    # Prototypes begin at the means of the clean features, where there are any; a speaker at another speed begins beside
    # the speaker.
    data = None if material.train_cache is None else material.cached()
    criterion = first_criterion(recipe, network.head, data, source.names)
    network.to(processes.device)
    task = EncoderTask(network, criterion.to(processes.device), material.dev, recipe, scratch=run.folder)
    with full_precision_front_end(network.encoder), blanked_bands(network.encoder, recipe.data.spec_augment):
        progressed, notes = run.loop(
            task,
            source,
            f"train ({recipe.kind})",
            began_with=began_with,
            copied=lambda: SpeakerModel(copy_of_encoder(network.encoder), copy_of_head(network.head)),
        )
    pairs = task.pairs()
    network.cpu().eval()
    if lora is not None:
        if processes.first:
            save_adapter(network.encoder, run.folder / _ADAPTER_FILE, fingerprint=began_with, section=lora)
        merge_low_rank(network.encoder)
    network.requires_grad_(requires_grad=True)
    return Finished(SpeakerModel(network.encoder, network.head), pairs, progressed, notes)


def refuse_missing_audio(run: Run[EncoderRecipe]) -> None:
    """Refuse to learn from clips where only a cache was given.

    Raises:
        RecipeError: there is no table.
    """
    if run.material.train is None:
        raise RecipeError(f"data.table is missing: kind {run.recipe.kind} learns from audio, a cache is not enough")


def copy_of_encoder(encoder: Encoder) -> Encoder:
    """Copy an encoder as it is, on the CPU; low-rank additions are part of the matrices there."""
    with torch.random.fork_rng(devices=[]):  # whose first weights are drawn
        fresh = build({"architecture": encoder.architecture, **encoder.config()})

    def now(name: str) -> Tensor:
        place, _, leaf = name.rpartition(".")
        tensor: Tensor = getattr(encoder.get_submodule(place), leaf)  # where there is an addition, with it
        return tensor.detach().cpu()

    fresh.load_state_dict({name: now(name) for name in fresh.state_dict()})
    return fresh.eval()


def drawn_encoder(model: str | Mapping[str, Any], seed: int) -> Encoder:
    """Build an encoder with random weights.

    Args:
        model: size of `zoo.variants`, or architecture and constructor arguments.
        seed: of the weights.

    Raises:
        CatalogueError: no such size.
        ModelError: no such network.
    """
    if isinstance(model, str):
        size = variant(model)
        model = {"architecture": size.architecture, **size.config}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(model)


def refuse_short_clips(recipe: EncoderRecipe, encoder: Encoder) -> None:
    """Refuse clips that are shorter than what the encoder needs.

    Raises:
        RecipeError: naming the setting.
    """
    large = recipe.training.large_margin
    clips = {"data.crop_s": recipe.data.crop_s, "training.large_margin.crop_s": None if large is None else large.crop_s}
    shortest_s = encoder.min_samples / encoder.sample_rate
    for key, crop_s in clips.items():
        if crop_s is not None and crop_s < shortest_s:
            raise RecipeError(f"{key}: the encoder needs clips of at least {shortest_s:.3f} s, got {crop_s:g}")


def _network(run: Run[EncoderRecipe]) -> tuple[NestedNetwork, str]:
    """Build what the run begins with, and the fingerprint of its encoder."""
    recipe, model = run.recipe, run.start
    if model is not None:
        return NestedNetwork(copy.deepcopy(model.encoder), prepared_head(run)), model.encoder_fingerprint
    assert isinstance(recipe, ScratchRecipe)
    drawn = SpeakerModel(drawn_encoder(recipe.model, recipe.seed))
    return NestedNetwork(drawn.encoder, begin_head(recipe, drawn, None, None)), drawn.fingerprint


@contextmanager
def full_precision_front_end(encoder: Encoder) -> Iterator[None]:
    """Keep the log-mel front end in float32 where the rest of a forward pass is in half precision."""
    fronts = [module for module in encoder.modules() if isinstance(module, FrontEnd | MelSpectrogram)]
    for module in fronts:
        module.forward = _without_autocast(module.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in fronts:
            del module.forward  # the class's is there again


@contextmanager
def blanked_bands(encoder: Encoder, section: SpecAugment | None) -> Iterator[None]:
    """Let the front end of an encoder blank bands in training as a recipe says; afterwards it is as it was.

    Raises:
        RecipeError: it has no such front end.
    """
    fronts = _front_ends(encoder) if section is not None else []
    if section is not None and not fronts:
        raise RecipeError(f"data.spec_augment: {type(encoder).__name__} has no front end that can blank bands")
    with ExitStack() as afterwards:
        for front in fronts:
            assert section is not None
            bands, frames = (0, section.bands + 1), (0, section.frames + 1)
            if not isinstance(front, FrontEnd):
                hook = partial(_blanked, masks=section.masks, bands=bands, frames=frames)
                afterwards.callback(front.register_forward_hook(hook).remove)
                continue
            afterwards.callback(setattr, front, "settings", front.settings)
            front.settings = replace(
                front.settings,
                do_spec_aug=True,
                num_apply_spec_aug=section.masks,
                freq_mask_width=bands,
                time_mask_width=frames,
            )
        yield


def _blanked(
    front: nn.Module,
    _: object,
    features: Tensor,
    *,
    masks: int,
    bands: tuple[int, int],
    frames: tuple[int, int],
) -> Tensor:
    """What a front end gives, each band's mean being zero, after masks in training."""
    for _ in range(masks if front.training else 0):
        features = mask_bands(mask_bands(features, axis=2, width=frames), axis=1, width=bands)
    return features


def _front_ends(encoder: nn.Module) -> list[nn.Module]:
    kinds = FrontEnd | NormalisedLogMel | KaldiBands | GaborBands
    return [module for module in encoder.modules() if isinstance(module, kinds)]


def _without_autocast(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def whole(audio: Tensor, *others: object) -> Tensor:
        with torch.autocast(audio.device.type, enabled=False):
            return forward(audio, *others)

    return whole


def _parts_beside(encoder: nn.Module, part: str) -> str:
    """What a part could have been: those of the deepest module on its way that there is."""
    place, there = encoder, []
    for name in part.split("."):
        children = dict(place.named_children())
        if name not in children:
            break
        place = children[name]
        there.append(name)
    inside = ", ".join(name for name, _ in place.named_children())
    return f"{'.'.join(there) or 'it'} has {inside}" if inside else f"{'.'.join(there)} has no parts"


def _within(name: str, part: str) -> bool:
    return part == "all" or name.startswith(f"{part}.")
