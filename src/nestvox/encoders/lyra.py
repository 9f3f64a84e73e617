"""The encoder half of Lyra v2, a neural codec: what it says about the audio before and after it is quantised.

The networks are the two files of the codec, run by LiteRT as they are. Encoder: 320 samples to 64 numbers, causal;
quantiser: 46 stages of 4 bits, of which the codec sends 16, 30 or 46 (3.2, 6 and 9.2 kbit/s).

Source: N. Zeghidour et al., "SoundStream: An end-to-end neural audio codec", IEEE/ACM TASLP 30, 2021.

Notation: B utterances, S samples, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from nestvox.encoders.contract import Affine, Encoder, Layer, Taps
from nestvox.encoders.pooling import TSTP, length_mask
from nestvox.errors import ModelError
from nestvox.extras import require
from nestvox.schema import StrictModel

HOP = 320
_LATENTS = 64
_STAGES = 46
_CODES = 16
_NOT_SENT = -1
_DOUBT = 3e-3  # of squared distances; 5e-5 is what rounding was seen to decide
_RATE_HZ = 50.0
BIT_RATES = {16: 3.2, 30: 6.0, 46: 9.2}
"""Stages of the quantiser that the codec sends, to kbit/s."""

_FileSize = Annotated[int, Field(ge=1, le=1 << 30)]


class _Arguments(StrictModel):
    encoder_bytes: _FileSize
    quantizer_bytes: _FileSize
    stages: Literal[0, 16, 30, 46] = 0


class Lyra(Encoder):
    """`frames` are the latents at 50 Hz, `pooled` their means and deviations, and `embedding` is the same.

    Layers are ``latents``, ``dequantised16``, ``dequantised30``, ``dequantised46``, and ``codes``, the numbers 0 to 15
    of all 46 stages. The last frame is completed with zeros: ceil(S / 320) frames. The files' bytes are tensors of the
    module: they are saved with a model, enter its fingerprint, and load strictly like any weight. Gradients do not
    pass.

    Args:
        encoder_bytes: size of the encoder's file.
        quantizer_bytes: size of the quantiser's.
        stages: of the quantiser that `frames` went through; 0: none.
    """

    architecture = "lyra"
    arguments = _Arguments
    sample_rate = 16_000
    frame_rate_hz = _RATE_HZ
    frames_dim = _LATENTS
    pooled_dim = embedding_dim = 2 * _LATENTS
    min_samples = 2 * HOP  # a deviation needs two frames
    encoder_file: Tensor
    quantizer_file: Tensor

    def __init__(self, *, encoder_bytes: int, quantizer_bytes: int, stages: int = 0) -> None:
        super().__init__()
        self.stages = stages
        self.pool = TSTP(_LATENTS)
        self.layer_rates_hz = dict.fromkeys(("latents", *map(_dequantised, BIT_RATES), "codes"), _RATE_HZ)
        self.register_buffer("encoder_file", torch.zeros(encoder_bytes, dtype=torch.uint8))
        self.register_buffer("quantizer_file", torch.zeros(quantizer_bytes, dtype=torch.uint8))
        self._read: tuple[tuple[int, ...], bytes, bytes] | None = None
        self._vectors: tuple[bytes, NDArray[np.float32]] | None = None

    def config(self) -> dict[str, Any]:
        """Sizes of the files, and the stages."""
        return {
            "encoder_bytes": len(self.encoder_file),
            "quantizer_bytes": len(self.quantizer_file),
            "stages": self.stages,
        }

    def projection(self) -> Affine:
        """Return the identity."""
        return Affine.identity(self.embedding_dim)

    def embed(self, pooled: Tensor) -> Tensor:
        """Return (..., 128) as they are."""
        return pooled

    def forward(self, audio: Tensor, lengths: Tensor | None = None, *, layers: Collection[str] = ()) -> Taps:
        """Run the codec once for each utterance; see `Encoder.forward`.

        Raises:
            MissingExtraError: ai-edge-litert is not installed.
            ModelError: as `Encoder.forward`, or the files are not the codec's.
        """
        lengths = self.check_input(audio, lengths, layers)
        waves = audio.detach().to("cpu", torch.float32).numpy()
        named = _dequantised(self.stages) if self.stages else "latents"
        wanted = {named, *layers}
        rows = [self._layers(wave[:length], wanted) for wave, length in zip(waves, lengths.tolist(), strict=True)]
        counts = (lengths + HOP - 1) // HOP
        mask = length_mask(counts, int(counts.max()))

        def whole(name: str) -> Tensor:
            values = torch.zeros(len(rows), rows[0][name].shape[1], mask.shape[1])
            for place, row in zip(values, rows, strict=True):
                place[:, : len(row[name])] = torch.from_numpy(row[name].T)
            return values

        frames = whole(named)
        pooled = self.pool(frames, mask)
        found = {name: Layer(whole(name), mask, _RATE_HZ) for name in layers}
        return Taps(frames, mask, pooled, self.embed(pooled), found)

    def _layers(self, wave: NDArray[np.float32], names: Collection[str]) -> dict[str, NDArray[np.float32]]:
        """What one utterance (S,) gives, (T, C) by name."""
        encoder_file, quantizer_file = self._files()
        blocks = np.zeros((-(-len(wave) // HOP), HOP), np.float32)
        blocks.reshape(-1)[: len(wave)] = wave
        # The state is made of resource variables, which `reset_all_variables` leaves as they are: one interpreter an
        # utterance (3 ms) is what begins anew.
        network = _interpreter(encoder_file, "encoder")
        entry, leave = (details()[0]["index"] for details in (network.get_input_details, network.get_output_details))
        latents = np.empty((len(blocks), _LATENTS), np.float32)
        for block, row in zip(blocks, latents, strict=True):
            network.set_tensor(entry, block[None])
            network.invoke()
            row[:] = network.get_tensor(leave).reshape(-1)
        found = {"latents": latents}
        if set(names) - {"latents"}:
            # The first stages of all 46 are those that fewer stages give: a residual is quantised stage by stage.
            vectors = self._vectors_of(quantizer_file)
            codes = _quantised(quantizer_file, vectors, latents)
            found["codes"] = codes.astype(np.float32)
            for stages in BIT_RATES:
                found[_dequantised(stages)] = vectors[np.arange(stages), codes[:, :stages]].sum(axis=1)
        return found

    def _files(self) -> tuple[bytes, bytes]:
        files = self.encoder_file, self.quantizer_file
        version = tuple(number for file in files for number in (file.data_ptr(), file._version))
        read = self._read  # another thread may replace it meanwhile
        if read is None or read[0] != version:
            read = version, self.encoder_file.numpy().tobytes(), self.quantizer_file.numpy().tobytes()
            self._read = read
        return read[1], read[2]

    def _vectors_of(self, file: bytes) -> NDArray[np.float32]:
        known = self._vectors  # as above
        if known is None or known[0] is not file:
            known = file, _code_vectors(file)
            self._vectors = known
        return known[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": None, "_vectors": None}  # the bytes are there once already

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: ARG002
        return self  # the bytes of a file have no device and no precision


def _dequantised(stages: int) -> str:
    return f"dequantised{stages}"


def _quantised(file: bytes, vectors: NDArray[np.float32], latents: NDArray[np.float32]) -> NDArray[np.int64]:
    """The codes of all stages, (T, 46): of each stage the vector nearest to what the stages before left over.

    All frames at once are ten times as fast as the codec frame by frame. Where two vectors are so nearly as near that
    rounding could decide, in one frame of a hundred, the codec itself is asked.
    """
    codes = np.empty((len(latents), _STAGES), np.int64)
    left, doubt = latents.copy(), np.full(len(latents), np.inf)
    for stage, known in enumerate(vectors):
        distances = np.square(known).sum(axis=1) - 2 * left @ known.T
        nearest = np.partition(distances, 1, axis=1)
        doubt = np.minimum(doubt, nearest[:, 1] - nearest[:, 0])
        codes[:, stage] = distances.argmin(axis=1)
        left -= known[codes[:, stage]]
    unsure = np.flatnonzero(doubt < _DOUBT)
    if len(unsure):
        encode = _interpreter(file, "quantiser").get_signature_runner("encode")
        stages = np.asarray(_STAGES, np.int32)
        for row in unsure:
            given = encode(input_frames=latents[row].reshape(1, 1, -1), num_quantizers=stages)
            codes[row] = given["output_0"].ravel()
    return codes


def _code_vectors(file: bytes) -> NDArray[np.float32]:
    """What each code of each stage stands for, (46, 16, 64): the sum over stages is what the decoder hears."""
    decode = _interpreter(file, "quantiser").get_signature_runner("decode")
    vectors = np.empty((_STAGES, _CODES, _LATENTS), np.float32)
    for stage, code in np.ndindex(_STAGES, _CODES):
        alone = np.full((_STAGES, 1, 1), _NOT_SENT, np.int32)
        alone[stage] = code
        vectors[stage, code] = decode(encoding_indices=alone)["output_0"].ravel()
    return vectors


def _interpreter(content: bytes, what: str) -> Any:
    """A network of the codec, its state as at the beginning of a stream."""
    litert = require("ai_edge_litert.interpreter", extra="codec", purpose="running the codec Lyra")
    try:
        network = litert.Interpreter(model_content=content, num_threads=1)
        network.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or [""]
        raise ModelError(f"the {what} of lyra is no network that LiteRT can run: {reason[0][:200]}") from error
    return network
