"""The runs on a frozen encoder: a rotation, which is fitted at once, and the heads that the loop trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nestvox.corpora.overlap import speaker_key
from nestvox.errors import RecipeError
from nestvox.extraction.cache.feature_cache import CacheTap, FeatureCache
from nestvox.heads.contract import Head
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.rotation import Rotation, truncation
from nestvox.heads.trained import TrainedHead
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Bars
from nestvox.training.checkpoint import Progressed
from nestvox.training.criterion import Criterion
from nestvox.training.data.development import Development
from nestvox.training.data.material import Material
from nestvox.training.epoch_models import EpochModels
from nestvox.training.head_start import begin_head, fit_rotation, nested_dims
from nestvox.training.loop import TrainingLoop
from nestvox.training.parallel import Processes
from nestvox.training.recipe.recipe import Recipe
from nestvox.training.tasks.from_cache import CachedSource, CachedUtterances, HeadTask, cached_rows
from nestvox.training.watch import Watch

__all__ = [
    "Finished",
    "about_run",
    "cached_pairs",
    "described",
    "dev_pairs",
    "epoch_models",
    "first_criterion",
    "plain_rates",
    "prepared_head",
    "run_cached",
    "run_rotation",
    "training_data",
    "warned",
]

_ROTATION_FILE = "rotation.safetensors"


@dataclass(frozen=True, eq=False)
class Finished:
    """A run's end, before it is written down.

    Attributes:
        model: encoder and head, without thresholds.
        pairs: development trials on the vectors that the head takes.
        truncated: EER of the encoder's own embedding, cut, by prefix length.
        progressed: counts and rates of the loop.
        notes: what was warned of.
    """

    model: SpeakerModel
    pairs: LabelledPairs
    truncated: Mapping[int, float]
    progressed: Progressed
    notes: tuple[str, ...] = ()


def training_data(material: Material) -> CachedUtterances:
    """Take the training utterances of the cache."""
    assert material.train_cache is not None
    names = None if material.train is None else material.usable.frame["utt_id"].to_list()
    return CachedUtterances.of(material.train_cache, names)


def dev_pairs(material: Material, tap: CacheTap) -> LabelledPairs:
    """Return the development trials on cached vectors of the clean utterances."""
    return cached_pairs(material.dev, material.dev_cache, tap)


def cached_pairs(dev: Development, cache: FeatureCache | None, tap: CacheTap) -> LabelledPairs:
    """Likewise, of one cache."""
    assert cache is not None
    return dev.pairs(lambda names: cache.gather(cached_rows(cache, names), 0, tap=tap))


def prepared_head(
    recipe: Recipe, model: SpeakerModel, material: Material, folder: Path, processes: Processes, bars: Bars
) -> TrainedHead:
    """Build the head as it is before the first step.

    The rotation that it begins with is fitted once, by the first process, and kept in the run's folder.
    """
    if isinstance(model.head, TrainedHead):
        head = type(model.head).from_saved(model.head.config(), model.head.tensors())
        if recipe.head.dims is not None and nested_dims(recipe, head.dims[-1]) != head.dims:
            raise RecipeError(f"head.dims: {model.name} has a head of {head.dims}; leave dims out to go on with it")
        return head
    data = training_data(material)
    rotation = model.head if isinstance(model.head, Rotation) else None
    if recipe.head.start == "rotation" and rotation is None:
        kept = folder / _ROTATION_FILE
        if processes.first and not kept.is_file():
            with bars("rotation", "candidates") as progress:
                fit_rotation(recipe, data, dev_pairs(material, "embedding"), progress=progress).save(kept)
        processes.wait()
        rotation = Rotation.load(kept)
    return begin_head(recipe, model, data, rotation if recipe.head.start == "rotation" else None)


def warned(watch: Watch, processes: Processes, notes: Sequence[str]) -> tuple[str, ...]:
    """Tell notes in the first process, and return them."""
    for note in notes if processes.first else ():
        watch.warn(note)
    return tuple(notes)


def described(
    recipe: Recipe, given: SpeakerModel | None, material: Material, model: SpeakerModel, *, epoch: int | None = None
) -> SpeakerModel:
    """Give the model of a run its name, the speakers that it must not be reported on, and its card.

    Args:
        recipe: of the run.
        given: the model that it began with; None: random weights.
        material: of the run.
        model: encoder and head.
        epoch: whose weights these are; None: the best, which the development trials chose.
    """
    before = () if given is None else given.training_speakers
    card: dict[str, Any] = {} if given is None else dict(given.card)
    n_train = len(training_data(material).utterances) if material.train is None else len(material.usable)
    how = f"chosen on {material.dev.trials.source}" if epoch is None else f"epoch {epoch}"
    card |= {
        "head_data": f"{n_train} utterances, recipe {recipe.kind} {recipe.hash}, {how}",
        # Whoever takes one epoch for its rates in the log has chosen it on these trials too.
        "chosen_on": sorted({material.dev.trials.sha256, *card.get("chosen_on", ())}),
    }
    name = recipe.run.name or f"{'scratch' if given is None else given.name}-{recipe.kind}"
    return SpeakerModel(
        model.encoder,
        model.head,
        name if epoch is None else f"{name}-epoch-{epoch}",
        thresholds=model.thresholds,
        training_speakers=tuple(sorted({*map(speaker_key, material.speakers), *before})),
        card=card,
    )


def epoch_models(
    recipe: Recipe,
    given: SpeakerModel | None,
    material: Material,
    folder: Path,
    weights: Callable[[], SpeakerModel],
) -> EpochModels | None:
    """What keeps the models of epochs, where the recipe asks for any; `weights` copies them as they are."""
    run = recipe.run
    if run.save_interval is None:
        return None
    return EpochModels(
        folder,
        run.save_interval,
        run.keep_last_n,
        lambda epoch: described(recipe, given, material, weights(), epoch=epoch),
    )


def about_run(recipe: Recipe, material: Material, notes: Sequence[str]) -> dict[str, Any]:
    """What the log of a run says before its first epoch."""
    trials = material.dev.trials
    return {
        "epochs": recipe.training.epochs,
        "labels": list(material.labels),
        "warnings": list(notes),
        "development": {
            "trials": trials.source,
            "sha256": trials.sha256,
            "n_target": trials.n_target,
            "n_nontarget": trials.n_nontarget,
        },
    }


def run_rotation(recipe: Recipe, model: SpeakerModel, material: Material, bars: Bars) -> Finished:
    """Fit a rotation and choose it on the development trials."""
    if model.head is not None:
        raise RecipeError(f"model: {model.name} has a head already; start from its encoder")
    pairs = dev_pairs(material, "embedding")
    with bars("rotation", "candidates") as progress:
        rotation = fit_rotation(recipe, training_data(material), pairs, progress=progress)
    progressed = Progressed(recipe.hash)
    plain = truncation(rotation.input_dim, rotation.dims)
    before, after = pairs.eers(plain), pairs.eers(rotation)
    progressed.eers = {"0": {str(dim): rate for dim, rate in after.items()}}
    return Finished(SpeakerModel(model.encoder, rotation), pairs, before, progressed)


def run_cached(
    recipe: Recipe,
    model: SpeakerModel,
    material: Material,
    folder: Path,
    processes: Processes,
    bars: Bars,
    watch: Watch,
) -> Finished:
    """Train a head on cached vectors."""
    head = prepared_head(recipe, model, material, folder, processes, bars)
    data = training_data(material)
    pairs = dev_pairs(material, head.tap)
    criterion = first_criterion(recipe, head, data, data.names)
    start = material.origins(model, model.fingerprint)
    head.to(processes.device)
    task = HeadTask(head, criterion.to(processes.device), pairs, recipe)
    source = CachedSource(data, recipe, head.tap, processes, teacher=criterion.distils, of=material.whole)
    notes = warned(watch, processes, [*material.notes, *source.notes])
    with bars(f"train {head.kind} head", "samples") as progress:
        loop = TrainingLoop(
            task,
            source,
            recipe,
            folder,
            processes,
            start=start,
            about=about_run(recipe, material, notes),
            progress=progress,
            watch=watch,
            keep_epoch=epoch_models(
                recipe,
                model,
                material,
                folder,
                lambda: SpeakerModel(model.encoder, type(head).from_saved(head.config(), head.tensors())),
            ),
        )
        progressed = loop.run()
    head.cpu().eval()
    return Finished(SpeakerModel(model.encoder, head), pairs, plain_rates(material, head), progressed, notes)


def first_criterion(
    recipe: Recipe, head: TrainedHead, data: CachedUtterances | None, names: Sequence[str]
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
        if recipe.loss.prototypes == "means" and recipe.loss.weight and data is not None:
            head.eval()
            place = {name: row for row, name in enumerate(data.names)}
            rows = [place[name] if name in place else place[name.partition("#speed")[0]] for name in names]
            criterion.begin_at(data.mean_embeddings(head, head.tap)[rows])
    return criterion


def plain_rates(material: Material, head: Head) -> dict[int, float]:
    """EER of the encoder's own embedding, cut to each prefix length of a head that it has."""
    if material.dev_cache is None:
        return {}
    pairs = dev_pairs(material, "embedding")
    size = pairs.vectors.shape[1]
    wanted = [dim for dim in head.dims if dim <= size]
    found = pairs.eers(truncation(size, wanted or None))
    return {dim: rate for dim, rate in found.items() if dim in head.dims}
