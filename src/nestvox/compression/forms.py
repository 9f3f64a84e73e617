"""The forms that a model can be written in: each a model folder that loads, verifies and embeds like any other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import ModelError, NestvoxError
from nestvox.heads.contract import Head
from nestvox.model.folder import read_head
from nestvox.model.speaker_model import SpeakerModel
from nestvox.model.storage import Storage, learnt, pack, unpack

if TYPE_CHECKING:
    from nestvox.encoders.contract import Encoder

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Form:
    """A way to make a model smaller.

    Attributes:
        name: in tables and of the folder.
        what: in words.
        make: of a model and the recordings to calibrate on; the original stays as it is.
        storage: of its weights on disk.
        calibrated: it needs recordings.
    """

    name: str
    what: str
    make: Callable[[SpeakerModel, Sequence[Waveform]], SpeakerModel]
    storage: Storage = "float32"
    calibrated: bool = False


def chosen_forms(names: Sequence[str] | None) -> tuple[Form, ...]:
    """Return the forms of these names; None: all.

    Raises:
        NestvoxError: no such form.
    """
    if unknown := [name for name in names or () if name not in FORMS]:
        raise NestvoxError(f"no form is called {unknown[0][:40]!r}; known: {', '.join(FORMS)}")
    if names is not None and not names:
        raise NestvoxError(f"which forms? Known: {', '.join(FORMS)}")
    return tuple(FORMS.values()) if names is None else tuple(FORMS[name] for name in dict.fromkeys(names))


def with_encoder(model: SpeakerModel, encoder: Encoder, form: str, head: Head | None = None) -> SpeakerModel:
    """Return the model with another encoder; thresholds and calibration are of the old one's scores and stay behind."""
    card = {key: value for key, value in model.card.items() if key != "results"}
    made = {"base_model": f"{model.name} ({model.fingerprint}), {form}"}
    return SpeakerModel(
        encoder,
        model.head if head is None else head,
        f"{model.name}-{form}",
        model.truncate_dim,
        training_speakers=model.training_speakers,
        card={**card, **made, "chosen_on": list(model.chosen_on)},
    )


def _rounded(storage: Storage) -> Callable[[SpeakerModel, Sequence[Waveform]], SpeakerModel]:
    def make(model: SpeakerModel, _: Sequence[Waveform]) -> SpeakerModel:
        from nestvox.zoo.weights import load_strict  # noqa: PLC0415  imports torch

        _with_weights(model, storage)
        arrays = {f"encoder.{key}": value.numpy() for key, value in model.encoder.state_dict().items()}
        heads = {} if model.head is None else {f"head.{key}": value for key, value in model.head.tensors().items()}
        read = unpack(pack({**arrays, **heads}, storage, learnt(model.encoder, model.head)))
        encoder = copy.deepcopy(model.encoder)
        load_strict(encoder, {key: read[f"encoder.{key}"] for key in encoder.state_dict()}, model.name)
        if model.head is None:
            return with_encoder(model, encoder, storage)
        tensors = {key: read[f"head.{key}"] for key in model.head.tensors()}
        head = read_head({**model.head.config(), "kind": model.head.kind}, tensors)
        return with_encoder(model, encoder, storage, head)

    return make


def _with_weights(model: SpeakerModel, form: str) -> None:
    if not any(True for _ in model.encoder.parameters()):
        raise ModelError(
            f"{form} is of weights, and the {model.encoder.architecture} network of {model.name} is a closed box"
        )


def _int8(ranges: str) -> Callable[[SpeakerModel, Sequence[Waveform]], SpeakerModel]:
    def make(model: SpeakerModel, recordings: Sequence[Waveform]) -> SpeakerModel:
        from nestvox.compression.quantise import quantised  # noqa: PLC0415  imports torch

        dynamic = ranges == "dynamic"
        encoder = quantised(model.encoder, "dynamic" if dynamic else "static", recordings)
        return with_encoder(model, encoder, f"int8-{ranges}")  # type: ignore[arg-type]  # stands for one

    return make


def _sparse(model: SpeakerModel, _: Sequence[Waveform]) -> SpeakerModel:
    from nestvox.compression.pruning import sparse  # noqa: PLC0415  imports torch

    return with_encoder(model, sparse(model.encoder), "sparse")


def _pruned(model: SpeakerModel, _: Sequence[Waveform]) -> SpeakerModel:
    import torch  # noqa: PLC0415  an extra

    from nestvox.compression.pruning import without_weak_channels  # noqa: PLC0415  imports torch

    head = model.head
    given = {} if head is None or head.tap != "pooled" else head.tensors()
    encoder, left = without_weak_channels(model.encoder, {key: torch.from_numpy(given[key]) for key in given})
    if head is None or not given:
        return with_encoder(model, encoder, "pruned")
    config = {**head.config(), "kind": head.kind, "input_dim": encoder.pooled_dim}
    smaller = read_head(config, {key: tensor.numpy() for key, tensor in left.items()})
    return with_encoder(model, encoder, "pruned", smaller)


EIGHT_BITS = Form("int8", "weights of 8 bits on disk, one scale a row", _rounded("int8"), "int8")
"""What the torch weights beside the model in the box are written in."""

FORMS: Mapping[str, Form] = {
    form.name: form
    for form in (
        Form("float16", "weights of 16 bits on disk", _rounded("float16"), "float16"),
        Form("int4", "weights of 4 bits on disk, in blocks of 32 with one scale", _rounded("int4"), "int4"),
        Form("int8-dynamic", "8-bit products of matrices and LSTMs, ranges found at every call", _int8("dynamic")),
        Form("int8-static", "8-bit convolutions and products, ranges of recordings", _int8("static"), calibrated=True),
        Form("sparse", "the smaller half of every matrix set to zero, not trained again", _sparse),
        Form("pruned", "about half of the hidden channels left out, not trained again", _pruned),
    )
}
"""By name, in the order of the table."""

LEARNT_AGAIN: Mapping[str, tuple[str, str]] = {
    "sparse": ("sparse-distilled", "the same, which learned again from the original and kept its zeros"),
    "pruned": ("pruned-distilled", "the same, which learned again from the original"),
}
"""By form: what it is called once it has learned again, and that in words."""
