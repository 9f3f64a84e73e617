"""Encoders of speechbrain and pyannote.audio, loaded by those toolkits, as models that `embed_table` takes.

Both compute their features themselves, from audio in [-1, 1]: the adapters hand over one utterance at a time, unpadded
and at the network's own sample rate, so that nothing stands between a file and what the toolkit would do with it. Knows
torch only where a network is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.encoders.foreign.adapters import CallableModel
from nestvox.errors import ModelError
from nestvox.extras import require
from nestvox.fingerprint import fingerprint_of

_RATE = 16_000


def from_speechbrain(
    classifier: Any,
    *,
    name: str,
    version: str = "",
    min_duration_s: float = 0.25,
    training_speakers: Sequence[str] = (),
) -> CallableModel:
    """Make a model of a speechbrain encoder with its own features and normalisation.

    Args:
        classifier: a ``speechbrain.inference.speaker.EncoderClassifier`` (or ``SpeakerRecognition``).
        name: for people; stores remember it.
        version: of what neither the weights nor the modules' settings say.
        min_duration_s: shortest clip that it takes.
        training_speakers: keys (`corpora.overlap.speaker_key`) of the speakers that it was trained on.

    Raises:
        ModelError: not such an object, or it gives no vector.
    """
    encode = getattr(classifier, "encode_batch", None)
    if encode is None or not hasattr(classifier, "state_dict"):
        raise ModelError(f"{type(classifier).__name__} has no encode_batch; give an EncoderClassifier of speechbrain")
    torch = require("torch", extra="torch", purpose="running an encoder")
    classifier.eval()

    def embed(audio: NDArray[np.float32]) -> Any:
        with torch.inference_mode():
            return encode(torch.from_numpy(audio)[None]).reshape(-1)  # (1, 1, D)

    rate = int(getattr(getattr(classifier, "audio_normalizer", None), "sample_rate", _RATE))
    return _model("speechbrain", classifier, embed, rate, name, version, min_duration_s, training_speakers)


def from_pyannote(
    model: Any,
    *,
    name: str,
    version: str = "",
    min_duration_s: float = 0.25,
    training_speakers: Sequence[str] = (),
) -> CallableModel:
    """Make a model of a pyannote.audio network that gives one embedding a recording.

    Args:
        model: a ``pyannote.audio.Model`` for embedding, as ``Model.from_pretrained`` loads it.
        name: for people; stores remember it.
        version: of what neither the weights nor the hyperparameters say.
        min_duration_s: shortest clip that it takes.
        training_speakers: keys (`corpora.overlap.speaker_key`) of the speakers that it was trained on.

    Raises:
        ModelError: not such an object, or one for more than one channel, or it gives no vector.
    """
    settings = getattr(model, "hparams", None)
    if settings is None or not callable(model) or not hasattr(model, "state_dict"):
        raise ModelError(f"{type(model).__name__} has no hparams; give a Model of pyannote.audio, not a pipeline")
    if settings.get("num_channels", 1) != 1:
        raise ModelError(f"{name} takes {settings['num_channels']} channels; speaker embeddings are made from one")
    torch = require("torch", extra="torch", purpose="running an encoder")
    model.eval()

    def embed(audio: NDArray[np.float32]) -> Any:
        device = next(model.parameters()).device
        with torch.inference_mode():
            return model(torch.from_numpy(audio)[None, None].to(device)).reshape(-1)  # (1, D)

    rate = int(settings.get("sample_rate", _RATE))
    return _model("pyannote.audio", model, embed, rate, name, version, min_duration_s, training_speakers)


def _model(
    toolkit: str,
    module: Any,
    embed: Any,
    sample_rate: int,
    name: str,
    version: str,
    min_duration_s: float,
    training_speakers: Sequence[str],
) -> CallableModel:
    # Before the first run: some modules count their calls.
    settings = {"toolkit": toolkit, "version": version, "sample_rate": sample_rate, "modules": _settings(module)}
    arrays = {key: value.detach().cpu().numpy() for key, value in module.state_dict().items() if hasattr(value, "cpu")}
    fingerprint = fingerprint_of(settings, arrays)
    second = (0.1 * np.random.default_rng(0).standard_normal(sample_rate)).astype(np.float32)
    embedding_dim = int(embed(second).shape[0])
    if embedding_dim < 2:
        raise ModelError(f"{name} gives {embedding_dim} number for a recording, which is no embedding")
    return CallableModel(embed, name, fingerprint, sample_rate, embedding_dim, min_duration_s, tuple(training_speakers))


def _settings(module: Any) -> dict[str, dict[str, Any]]:
    """Plain attributes of every part, such as a window's length: features have settings that are no weights."""
    found: dict[str, dict[str, Any]] = {}
    for path, part in module.named_modules():
        own = {
            key: value
            for key, value in vars(part).items()
            if isinstance(value, bool | int | float | str) and key != "training" and not key.startswith(("_", "device"))
        }
        given: Any = getattr(part, "hparams", {})
        if hasattr(given, "items"):
            own |= {f"hparams.{key}": str(value) for key, value in given.items()}
        if own:
            found[path] = own
    return found
