"""A frozen encoder becomes a nested model: embed once, fit a rotation, set thresholds.

Nothing of the encoder changes, and the whole takes seconds once the embeddings are in the store. The head may hold the
mean of the training vectors; without one full-dimension scores stay as they are. The rotation is fitted on the training
speakers and chosen on the development trials; the thresholds are set on these as well, and so are optimistic: report on
other speakers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nestvox.corpora.overlap import refuse_overlap, speaker_key
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import ModelError, RecipeError
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.heads.choose import Candidate, Method, choose_rotation
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.refine import Refinement
from nestvox.heads.rotation import Centre, Rotation
from nestvox.metrics.thresholds import DecisionRule
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Progress, silent
from nestvox.training.checkpoint import Progressed
from nestvox.training.data.development import RULES, Development
from nestvox.training.recipe.kinds import RotationRecipe
from nestvox.training.run import Finished, Run


@dataclass(frozen=True, eq=False)
class NestedFit:
    """What came of it.

    Attributes:
        model: the encoder with the best rotation, its thresholds (EER, minDCF, FAR 1 % and 0.1 %) and its calibration.
        candidates: the best rotation of each method, ``truncation`` and ``centred`` first and ``best`` last, with their
            EERs on the development trials.
        speakers: keys of the training and development speakers, and of those that the encoder was trained on as far
            as it says: what the model must not be reported on.
    """

    model: SpeakerModel
    candidates: Mapping[str, Candidate]
    speakers: tuple[str, ...]


def nest_encoder(
    encoder: SpeakerModel,
    store: EmbeddingStore,
    train: UtteranceTable,
    dev: UtteranceTable,
    dev_trials: Trials,
    *,
    dims: Sequence[int] | None = None,
    method: Method = "auto",
    centre: Centre = "auto",
    seed: int = 0,
    name: str | None = None,
    progress: Progress = silent,
) -> NestedFit:
    """Fit a rotation head on stored embeddings of `train`, choose it on `dev_trials`, and return the nested model.

    Args:
        encoder: a model without a head.
        store: its ``embedding`` tap for every utterance of `train` and of the trials.
        train: utterances to fit on.
        dev: utterances of the development trials.
        dev_trials: labelled.
        dims: prefix lengths; None: powers of two from 16 up, and the full size.
        method: the richest method to try.
        centre: whether the training vectors' mean is subtracted, see `heads.choose`.
        seed: of the gradient steps.
        name: of the new model; None: the encoder's with ``-nested``.
        progress: candidates measured of all.

    Raises:
        ModelError: the encoder has a head, or the store is of another model.
        OverlapError: training and development share speakers.
        StoreError: an utterance is not in the store.
        TableError: a trial names an utterance that is not in `dev`.
        TrainingError: a trial has no label.
    """
    if encoder.head is not None:
        raise ModelError(f"{encoder.name} has a head already; start from its encoder")
    if store.metadata.fingerprint != encoder.fingerprint or store.metadata.tap != "embedding":
        raise ModelError(
            f"{store.path} holds the tap {store.metadata.tap} of {store.metadata.fingerprint}; "
            f"needed is the embedding of {encoder.fingerprint}"
        )
    train_speakers = train.frame["speaker"].to_list()
    keys = {speaker_key(speaker) for speaker in train_speakers}
    dev_speakers = dev.frame["speaker"].unique().to_list()
    refuse_overlap(keys, dev_speakers)
    # Trials that name other utterances than those of `dev` would slip past the line above.
    development = Development.of(dev, dev_trials)
    pairs = development.pairs(lambda names: store.take(store.index_of(names)))
    candidates = choose_rotation(
        store.take(store.index_of(train.frame["utt_id"].to_list())),
        train_speakers,
        pairs,
        dims=dims,
        method=method,
        refinement=Refinement(seed=seed),
        centre=centre,
        progress=progress,
    )
    rotation = candidates["best"].rotation
    labels = tuple(sorted({*store.metadata.labels, *dev.labels}))
    speakers = tuple(sorted({*keys, *map(speaker_key, dev_speakers), *encoder.training_speakers}))
    card: dict[str, Any] = {
        **encoder.card,
        "head_data": f"{len(train)} utterances of {len(keys)} speakers ({train.source}), chosen on {dev_trials.source}",
    }
    model = SpeakerModel(
        encoder.encoder,
        rotation,
        name or f"{encoder.name}-nested",
        training_speakers=speakers,
        card=card,
    )
    rules = (*RULES, DecisionRule("far", 0.01), DecisionRule("far", 0.001))
    model.thresholds = development.thresholds(model, pairs, labels, rules=rules)[0]
    model.llr = development.calibration(model, pairs, labels)
    return NestedFit(model, candidates, speakers)


def fit_for(run: Run[Any], pairs: LabelledPairs, centre: Centre = "none") -> Rotation:
    """Fit a rotation on the clean training embeddings and choose it on the development pairs.

    Args:
        run: its recipe says seed and dims, or names a finished rotation.
        pairs: development trials on embeddings.
        centre: whether a mean is subtracted; a finished rotation is taken as it is.

    Raises:
        ModelError: the file is no rotation, or too few speakers.
        RecipeError: the rotation in the file is of another size.
    """
    recipe, data = run.recipe, run.material.cached()
    size = data.cache.embedding_dim
    if recipe.head.start_from is not None:
        rotation = Rotation.load(recipe.head.start_from)
        if rotation.input_dim != size:
            raise RecipeError(
                f"head.start_from: {recipe.head.start_from} rotates {rotation.input_dim} dimensions, "
                f"the embedding has {size}"
            )
        return rotation
    with run.bars("rotation", "candidates") as progress:
        found = choose_rotation(
            data.cache.gather(data.utterances, 0, tap="embedding"),
            data.speakers,
            pairs,
            dims=sorted(dim for dim in recipe.head.dims or () if dim <= size) or None,
            refinement=Refinement(seed=recipe.seed),
            centre=centre,
            progress=progress,
        )
    return found["best"].rotation


def train_rotation(run: Run[RotationRecipe]) -> Finished:
    """Fit a rotation, which takes no steps, and choose it on the development trials."""
    model, wanted = run.start, run.recipe.head.dims or (1,)
    assert model is not None
    if model.head is not None:
        raise RecipeError(f"start: {model.name} has a head already; start from its encoder")
    size = model.encoder.embedding_dim
    if max(wanted) > size:
        raise RecipeError(
            f"head.dims: a rotation has the {size} dimensions of the embedding at most, got {max(wanted)}"
        )
    notes = run.warned()
    pairs = run.material.dev_pairs("embedding")
    rotation = fit_for(run, pairs, run.recipe.head.centre)
    progressed = Progressed(run.recipe.hash)
    progressed.eers = {"0": {str(dim): rate for dim, rate in pairs.eers(rotation).items()}}
    return Finished(SpeakerModel(model.encoder, rotation), pairs, progressed, notes)
