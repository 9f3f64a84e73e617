"""ONNX files that `export_onnx` wrote, as models again: what stands in their metadata is enough. Knows no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from nestvox.encoders.foreign.onnx_check import check_onnx
from nestvox.encoders.graph import GraphEncoder
from nestvox.encoders.runtime.onnx_graph import EMBEDDING, WAVEFORM, OnnxSession
from nestvox.errors import ModelError
from nestvox.gate import naming
from nestvox.heads.rotation import Rotation
from nestvox.model.speaker_model import SpeakerModel
from nestvox.schema import OpenModel, Size, Word, validated

_PRODUCER = b"nestvox"
_HEAD_BYTES = 64  # the producer is the second field of the file
_NUMBERS = ("sample_rate", "min_samples", "dim")


class _About(OpenModel):
    """The metadata, its numbers read."""

    name: Word
    fingerprint: Word
    sample_rate: Annotated[int, Field(ge=1_000, le=768_000)]
    min_samples: Annotated[int, Field(ge=1, le=1 << 24)]
    dim: Size
    dims: list[Size]
    encoder: Word = "network"
    training_speakers: list[Word] = Field(default_factory=list)


def read_exported(content: bytes, source: str) -> SpeakerModel | None:
    """Make the model of a file that holds front end, network and head; None: the file is no such one.

    Every prefix of its dims is an embedding, as of the model that it was written from. The fingerprint is its own, for
    it stands for the bytes; neither thresholds nor a calibration are in a file.

    Args:
        content: of the file.
        source: its name, for messages.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: the file is damaged, or says of itself what cannot be.
    """
    if _PRODUCER not in content[:_HEAD_BYTES]:
        return None
    check_onnx(content, source, n_mels=80)
    try:
        session = OnnxSession(content)
    except Exception as error:  # the runtime's exceptions have no common class
        raise ModelError(f"{source}: does not run here: {str(error).splitlines()[0][:300]}") from error
    if session.inputs != [WAVEFORM] or session.names != [EMBEDDING]:
        return None
    about = _about(session.metadata, source)
    encoder = GraphEncoder(
        written_from=f"{about.encoder}, exported",
        size_bytes=len(content),
        sample_rate=about.sample_rate,
        min_samples=about.min_samples,
        embedding_dim=about.dim,
    ).hold(content)
    encoder.running = session
    return SpeakerModel(
        encoder,  # type: ignore[arg-type]  # stands for one
        prefixes(about.dim, about.dims),
        about.name,
        training_speakers=tuple(about.training_speakers),
        card={"base_model": f"{about.name} ({about.fingerprint}), exported"},
    )


def prefixes(size: int, dims: list[int]) -> Rotation | None:
    """The head that cuts and changes nothing else; None: there is but one size."""
    shorter = sorted({dim for dim in dims if dim < size})
    return Rotation(np.eye(size), (*shorter, size), "truncation") if shorter else None


def _about(metadata: Mapping[str, str], source: str) -> _About:
    found: dict[str, Any] = dict(metadata)
    for name in _NUMBERS:
        if re.fullmatch("[0-9]{1,9}", found.get(name, "")):
            found[name] = int(found[name])
    found["dims"] = [int(word) for word in found.get("dims", "").split(",") if re.fullmatch("[0-9]{1,9}", word)]
    found["training_speakers"] = [word for word in found.get("training_speakers", "").split(",") if word]
    return validated(_About, found, f"{Path(source).name}: what it says of itself", naming(ModelError))
