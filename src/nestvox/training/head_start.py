"""Where a trained head begins: at the pretrained model, rotated, or at random."""

from __future__ import annotations

from typing import Any

import torch

from nestvox.errors import RecipeError
from nestvox.extraction.cache.feature_cache import CacheTap
from nestvox.heads.choose import choose_rotation
from nestvox.heads.linear import LinearHead
from nestvox.heads.mlp import MlpHead
from nestvox.heads.moments import Moments
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.refine import Refinement
from nestvox.heads.rotation import Rotation, default_dims
from nestvox.heads.trained import Norm, TrainedHead
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Progress, silent
from nestvox.training.recipe.recipe import Recipe
from nestvox.training.tasks.from_cache import CachedUtterances

__all__ = ["begin_head", "fit_rotation", "head_tap", "nested_dims"]

_BLOCK = 16_384


def nested_dims(recipe: Recipe, embedding_dim: int) -> tuple[int, ...]:
    """Prefix lengths of the head of a recipe, ascending."""
    return tuple(sorted(recipe.head.dims)) if recipe.head.dims else default_dims(embedding_dim)


def head_tap(recipe: Recipe, model: SpeakerModel) -> CacheTap:
    """Which output of the encoder the head takes.

    That is the pooled vector where the encoder's embedding is an affine function of it (or where the head begins at
    random), else the embedding itself, since nothing linear could begin there.
    """
    if recipe.kind == "rotation":
        return "embedding"
    return "pooled" if recipe.head.start == "random" or model.encoder.projection() is not None else "embedding"


def fit_rotation(
    recipe: Recipe,
    data: CachedUtterances,
    pairs: LabelledPairs,
    *,
    progress: Progress = silent,
) -> Rotation:
    """Fit a rotation on the clean training embeddings and choose it on the development pairs.

    Args:
        recipe: seed and dims; it may name a finished rotation.
        data: training utterances.
        pairs: development trials on embeddings.
        progress: candidates measured of all.

    Raises:
        ModelError: the file is no rotation, or too few speakers.
        RecipeError: the rotation in the file is of another size, or the recipe asks for more dims than there are.
    """
    size = data.cache.embedding_dim
    if recipe.head.start_from is not None:
        rotation = Rotation.load(recipe.head.start_from)
        if rotation.input_dim != size:
            raise RecipeError(
                f"head.start_from: {recipe.head.start_from} rotates {rotation.input_dim} dimensions, "
                f"the embedding has {size}"
            )
        return rotation
    wanted = nested_dims(recipe, size)
    if recipe.kind == "rotation" and wanted[-1] > size:
        raise RecipeError(f"head.dims: a rotation has the {size} dimensions of the embedding at most, got {wanted[-1]}")
    dims = [dim for dim in wanted if dim <= size]
    found = choose_rotation(
        data.cache.gather(data.utterances, 0, tap="embedding"),
        data.speakers,
        pairs,
        dims=dims or None,
        refinement=Refinement(seed=recipe.seed),
        progress=progress,
    )
    return found["best"].rotation


def begin_head(
    recipe: Recipe, model: SpeakerModel, data: CachedUtterances | None, rotation: Rotation | None
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
    section = recipe.head
    kind = section.kind or ("mlp" if recipe.kind == "mlp" else "linear")
    head_class: type[LinearHead] | type[MlpHead] = MlpHead if kind == "mlp" else LinearHead
    settings: dict[str, Any] = {}
    if kind == "mlp":
        settings = {"hidden": section.hidden, "layers": section.layers, "dropout": section.dropout}
    encoder = model.encoder
    dims, tap = nested_dims(recipe, encoder.embedding_dim), head_tap(recipe, model)
    input_dim = encoder.pooled_dim if tap == "pooled" else encoder.embedding_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if section.start == "random":
            norm: Norm = "none" if section.norm == "none" else "batch"
            return head_class(input_dim, dims, tap=tap, norm=norm, **settings)
        if rotation is None:
            rotation = Rotation(torch.eye(encoder.embedding_dim, dtype=torch.float64).numpy(), dims[:1], "truncation")
        return head_class.from_pretrained(
            encoder.projection() if tap == "pooled" else None,
            rotation,
            dims,
            moments=None if data is None else _moments(data, tap, input_dim),
            norm=section.norm,
            **settings,
        )


def _moments(data: CachedUtterances, tap: CacheTap, size: int) -> Moments:
    moments = Moments(size)
    for start in range(0, len(data.utterances), _BLOCK):
        moments.add(data.cache.gather(data.utterances[start : start + _BLOCK], 0, tap=tap))
    return moments
