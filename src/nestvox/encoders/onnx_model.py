"""Speaker networks in ONNX files, as WeSpeaker, 3D-Speaker and sherpa-onnx export them. Knows no torch.

Such a file maps filter banks (B, T, M) to embeddings (B, D) and leaves the filter banks to whoever runs it. Which ones
the network was trained on does not stand in every file; the wrong window or scale costs accuracy and raises no error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.encoders.adapters import check_tap, checked_vector
from nestvox.encoders.kaldi_fbank import KaldiFbank
from nestvox.errors import ModelError
from nestvox.extras import require

__all__ = ["FRONT_ENDS", "OnnxModel"]

FRONT_ENDS: Mapping[str, KaldiFbank] = {
    "3dspeaker": KaldiFbank(window="povey", scale=1.0),
    "wespeaker": KaldiFbank(window="hamming", scale=32768.0),
}
"""Filter banks by the toolkit that trained the network; both subtract the mean."""


class OnnxModel:
    """A network in an ONNX file with its front end: a model that `extraction.embed.embed_table` takes.

    Args:
        path: the file.
        front_end: ``wespeaker``, ``3dspeaker``, or filter banks of your own; None: what the file says of itself.
        name: None: the name of the file.
        min_duration_s: shortest clip that it takes.
        training_speakers: keys of the speakers that it was trained on.
        threads: of one forward pass; one, because embedding runs several side by side.

    Attributes:
        fingerprint: 16 hex digits over the file and the front end.
        embedding_dim: D.
        metadata: what the file says of itself.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: no such file, not a network from filter banks to embeddings, or a front end that is not known.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        front_end: str | KaldiFbank | None = None,
        name: str | None = None,
        min_duration_s: float = 0.1,
        training_speakers: Sequence[str] = (),
        threads: int = 1,
    ) -> None:
        runtime = require("onnxruntime", extra="onnx", purpose="running an ONNX file")
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error}") from error
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"{path}: not an ONNX network that runs here: {_first_line(error)}") from error
        self.path = path
        self.name = name or path.stem
        self.min_duration_s = min_duration_s
        self.training_speakers = tuple(training_speakers)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.front_end = _front_end(front_end, self.metadata, path)
        self.sample_rate = self.front_end.sample_rate
        self._input = self._only_input()
        settings = json.dumps(asdict(self.front_end), sort_keys=True)
        self.fingerprint = hashlib.sha256(content + settings.encode()).hexdigest()[:16]
        # A run on a second of noise tells the size, and at once whether the network takes such features at all.
        second = 0.1 * np.random.default_rng(0).standard_normal(self.sample_rate)
        self.embedding_dim = self._run(self.front_end(second)).shape[-1]

    @property
    def dims(self) -> tuple[int, ...]:
        """Only the whole vector."""
        return (self.embedding_dim,)

    def forward(self, waveforms: Sequence[NDArray[np.floating[Any]]], *, tap: str = "nested") -> NDArray[np.float32]:
        """Embed B waveforms (S_i,) in [-1, 1], each by itself: (B, D) float32.

        Raises:
            ModelError: a tap other than ``nested`` and ``embedding``, no waveform, one shorter than a frame, or a
                result that is not finite.
        """
        check_tap(self.name, tap)
        if not len(waveforms):
            raise ModelError("forward needs at least one waveform")
        rows = []
        for waveform in waveforms:
            embedding = self._run(self.front_end(waveform))
            rows.append(checked_vector(embedding, self.embedding_dim, self.name, len(waveform) / self.sample_rate))
        return np.stack(rows)

    def _run(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            found = np.asarray(self._session.run(None, {self._input: features[None]})[0])
        except Exception as error:
            raise ModelError(f"{self.path}: fails on features {features.shape}: {_first_line(error)}") from error
        if found.ndim != 2 or found.shape[0] != 1:
            raise ModelError(f"{self.path}: its first output has shape {found.shape}, expected (1, size)")
        return found.astype(np.float32)

    def _only_input(self) -> str:
        inputs = self._session.get_inputs()
        shapes = ", ".join(f"{node.name} {node.shape}" for node in inputs)
        bands = inputs[0].shape[-1] if inputs and inputs[0].shape else None
        fits = len(inputs) == 1 and len(inputs[0].shape) == 3 and inputs[0].type == "tensor(float)"
        if not fits or (isinstance(bands, int) and bands != self.front_end.n_mels):
            raise ModelError(
                f"{self.path}: takes {shapes or 'nothing'}, expected one input (batch, frames, "
                f"{self.front_end.n_mels}) of float32; wrap another network with from_callable"
            )
        return str(inputs[0].name)


def _front_end(asked: str | KaldiFbank | None, metadata: Mapping[str, str], path: Path) -> KaldiFbank:
    if isinstance(asked, KaldiFbank):
        return asked
    # sherpa-onnx writes the toolkit into its exports.
    known = asked or metadata.get("framework", "").lower().replace("-", "")
    if known not in FRONT_ENDS:
        said = f"front_end {asked!r}" if asked else f"the file says {metadata.get('framework', 'nothing')!r}"
        raise ModelError(
            f"{path}: not known which filter banks it was trained on ({said}); give front_end="
            f"{' or '.join(repr(name) for name in FRONT_ENDS)}, or a KaldiFbank"
        )
    rate = metadata.get("sample_rate", "")
    return replace(FRONT_ENDS[known], sample_rate=int(rate)) if rate.isdecimal() else FRONT_ENDS[known]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
