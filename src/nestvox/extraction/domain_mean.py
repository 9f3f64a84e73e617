"""The mean of a domain's own recordings, put into a model: the cheapest adaptation, and it needs no labels."""

from __future__ import annotations

import dataclasses

import numpy as np

from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import FingerprintError, ModelError
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.heads.rotation import Rotation, Scatter, centred
from nestvox.model.speaker_model import SpeakerModel

_BATCH_ROWS = 16_384


def centre(
    model: SpeakerModel, on: EmbeddingStore, *, table: UtteranceTable | None = None, name: str | None = None
) -> SpeakerModel:
    """Return the model with the mean of stored recordings in place of its own.

    The mean is subtracted from the coordinates from which the model's own was, else from all. It is another model:
    thresholds and calibration of the old one do not belong to it and are left out. Speakers that the store names count
    as training speakers from now on.

    Args:
        model: an encoder alone, or with a rotation, which stays.
        on: recordings of the domain, as the model or its encoder embedded them; a few hundred of many speakers.
        table: only the utterances that it names; None: all of the store.
        name: of the new model; None: the old one's with ``-centred``.

    Raises:
        ModelError: another head than a rotation, or fewer than two recordings.
        FingerprintError: the store is of another model, or of another tap.
        StoreError: an utterance of `table` is not in it.
    """
    head = Rotation(np.eye(model.embedding_dim), model.dims, "truncation") if model.head is None else model.head
    if not isinstance(head, Rotation):
        raise ModelError(
            f"{model.name} has a {head.kind} head, whose own bias was learned where a mean would stand; centre its "
            "encoder, or train the head on this speech"
        )
    nested = on.metadata.fingerprint == model.fingerprint and on.metadata.tap == "nested"
    if not nested and (on.metadata.fingerprint, on.metadata.tap) != (model.encoder_fingerprint, "embedding"):
        raise FingerprintError(
            f"{on.path} holds the tap {on.metadata.tap} of the model {on.metadata.fingerprint}; embed the recordings "
            f"with {model.name} ({model.fingerprint}), or with its encoder (--tap embedding)"
        )
    rows = np.arange(len(on)) if table is None else on.index_of(table.frame["utt_id"].to_list())
    if len(rows) < 2:
        raise ModelError(f"a mean needs two recordings at least, better some hundred; got {len(rows)}")
    scatter = Scatter(head.input_dim)
    for start in range(0, len(rows), _BATCH_ROWS):
        vectors = np.asarray(on.take(rows[start : start + _BATCH_ROWS]), np.float64)
        if nested:
            vectors = (vectors if head.mean is None else vectors + head.mean) @ head.matrix.T
        scatter.add(vectors)
    named = {speaker_key(who) for who in np.asarray(on.speakers, object)[rows] if who is not None}
    left = {"results", "head_data"}
    said = "; ".join(filter(None, [model.card.get("head_data"), f"mean of {len(rows)} recordings in {on.path.name}"]))
    return dataclasses.replace(
        model,
        head=centred(head, scatter.mean(), 0 if head.mean is None else head.details.get("centred_from", 0)),
        name=name or f"{model.name}-centred",
        thresholds=(),
        llr=None,
        training_speakers=tuple(sorted({*model.training_speakers, *on.metadata.training_speakers, *named})),
        card={**{key: value for key, value in model.card.items() if key not in left}, "head_data": said},
    )
