"""The GE2E speaker encoder: an LSTM over 1.6 s windows of mel power, whose embeddings are averaged.

Training criterion: L. Wan et al., "Generalized end-to-end loss for speaker verification", ICASSP 2018. The network
is the one of Resemblyzer and of the Real-Time Voice Cloning project, and gives the same embeddings with their weights.

Notation: B utterances, S samples, N windows (partial utterances) of one utterance, D = 256.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.contract import Affine, Encoder, Layer, Taps
from nestvox.encoders.front_ends.log_mel import MelSpectrogram
from nestvox.encoders.pooling import TAP, length_mask
from nestvox.errors import ModelError
from nestvox.schema import StrictModel

_HOP = 160  # 10 ms
_N_FFT = 400  # 25 ms
_N_MELS = 40
_WINDOW_FRAMES = 160  # 1.6 s
_HIDDEN = 256
_LAYERS = 3
_LEVEL_DBFS = -30.0
# Below -200 dBFS there is no signal to raise: one step of a 24-bit file, once in an hour, is -222 dBFS.
_SILENCE_POWER = 1e-20
# Windows in one LSTM call. Larger calls are no faster on a CPU, and this many need 20 MB a layer.
_WINDOWS_PER_CALL = 128


class _Arguments(StrictModel):
    partials_per_s: Annotated[float, Field(gt=0, le=1000)] = 1.3
    min_coverage: Annotated[float, Field(gt=0, le=1)] = 0.75


class GE2E(Encoder):
    """Three-layer LSTM on 40 mel bands; its last state, projected, is the embedding of one 1.6 s window.

    The `frames` tap holds the embeddings of the windows (unit length), `pooled` is their mean, and `embedding` is
    `pooled` at unit length. Layers are ``mel`` and, of each window, the last state of every LSTM (``lstm0``, ``lstm1``,
    ``lstm2``). An utterance quieter than -30 dBFS is raised to that level first; a louder one stays.

    Args:
        partials_per_s: windows per second, rounded to a whole number of 10 ms frames between two windows.
        min_coverage: a last window with less than this fraction of real samples is dropped, unless it is the only one.

    Raises:
        ModelError: the windows would leave gaps or not advance, or `min_coverage` is not in (0, 1].
    """

    architecture = "ge2e"
    sample_rate = 16_000
    frames_dim = _HIDDEN
    pooled_dim = _HIDDEN
    embedding_dim = _HIDDEN
    min_samples = 1_600
    arguments = _Arguments
    forms = {"onnx": "nestvox.encoders.runtime.lstm_onnx:run_with_onnx"}  # noqa: RUF012

    def __init__(self, *, partials_per_s: float = 1.3, min_coverage: float = 0.75) -> None:
        super().__init__()
        step = round(self.sample_rate / partials_per_s / _HOP) if partials_per_s > 0 else 0
        if not 0 < step <= _WINDOW_FRAMES:
            raise ModelError(f"partials_per_s must lie between 0.625 (no gaps) and 100, got {partials_per_s}")
        if not 0 < min_coverage <= 1:
            raise ModelError(f"min_coverage must lie in (0, 1], got {min_coverage}")
        self.partials_per_s = partials_per_s
        self.min_coverage = min_coverage
        self.step = step
        self.frame_rate_hz = self.sample_rate / _HOP / step
        states = dict.fromkeys((f"lstm{number}" for number in range(_LAYERS)), self.frame_rate_hz)
        self.layer_rates_hz = {"mel": self.sample_rate / _HOP, **states}
        self.pool = TAP(_HIDDEN)
        self.mel = MelSpectrogram(sample_rate=self.sample_rate, n_fft=_N_FFT, hop=_HOP, n_mels=_N_MELS)
        self.lstm = nn.LSTM(_N_MELS, _HIDDEN, num_layers=_LAYERS, batch_first=True)
        self.linear = nn.Linear(_HIDDEN, _HIDDEN)

    def config(self) -> dict[str, Any]:
        """Return the JSON-serialisable constructor arguments."""
        return {"partials_per_s": self.partials_per_s, "min_coverage": self.min_coverage}

    def projection(self) -> Affine:
        """Return the identity: the embedding is `pooled` at unit length."""
        return Affine.identity(_HIDDEN)

    def n_windows(self, lengths: Tensor) -> Tensor:
        """Number of windows of each utterance.

        Windows begin every `step` frames as long as one more would still reach new frames; the last is dropped when
        too little of it is signal.

        Args:
            lengths: (B,) int64, samples.

        Returns:
            (B,) int64, at least 1.
        """
        # A centred spectrogram of S samples has ceil((S + 1) / hop) = S // hop + 1 frames.
        starts = (lengths // _HOP + 1 - _WINDOW_FRAMES + self.step + 1).clamp(min=1)
        count = (starts + self.step - 1) // self.step
        in_last = lengths - (count - 1) * self.step * _HOP
        sparse = in_last / (_WINDOW_FRAMES * _HOP) < self.min_coverage
        return torch.where(sparse & (count > 1), count - 1, count)

    def forward(self, audio: Tensor, lengths: Tensor | None = None, *, layers: Collection[str] = ()) -> Taps:
        """Run the network once; see `Encoder.forward`."""
        lengths = self.check_input(audio, lengths, layers).to(audio.device)
        audio = audio.float().masked_fill(~length_mask(lengths, audio.shape[1]), 0.0)
        count = self.n_windows(lengths)  # (B,)
        most = int(count.max())
        mel = self.mel(_raised(audio, lengths), (most - 1) * self.step + _WINDOW_FRAMES)  # (B, T, 40)
        windows = mel.unfold(1, _WINDOW_FRAMES, self.step)  # (B, N, 40, 160), a view
        mask = length_mask(count, most)  # (B, N)
        rows, places = mask.nonzero(as_tuple=True)
        parts, states = [], []
        for first in range(0, len(rows), _WINDOWS_PER_CALL):
            call = slice(first, first + _WINDOWS_PER_CALL)
            _, (hidden, _) = self.lstm(windows[rows[call], places[call]].transpose(1, 2))  # (layers, n, D)
            parts.append(functional.normalize(functional.relu(self.linear(hidden[-1]))))
            if layers:
                states.append(hidden)

        def over_time(real: Tensor) -> Tensor:  # windows (sum of counts, D) to (B, D, N)
            return real.new_zeros(len(mask), most, _HIDDEN).index_put((rows, places), real).transpose(1, 2)

        frames = over_time(torch.cat(parts))
        pooled = self.pool(frames, mask)
        found = {}
        for name in layers:
            if name == "mel":
                heard = torch.minimum(lengths // _HOP + 1, (count - 1) * self.step + _WINDOW_FRAMES)
                inside = length_mask(heard, int(heard.max()))
                values = mel[:, : inside.shape[1]].transpose(1, 2).masked_fill(~inside[:, None], 0.0)
            else:
                values, inside = over_time(torch.cat(states, dim=1)[int(name[-1])]), mask
            found[name] = Layer(values, inside, self.layer_rates_hz[name])
        return Taps(frames, mask, pooled, self.embed(pooled), found)

    def embed(self, pooled: Tensor) -> Tensor:
        """Scale (..., 256) to unit length."""
        return functional.normalize(pooled, dim=-1)


def _raised(audio: Tensor, lengths: Tensor) -> Tensor:
    """Scale the rows of (B, S) that are quieter than -30 dBFS (RMS over the real samples) up to that level."""
    # Summed in float64, so that the order of a longer, padded row does not change the gain.
    power = audio.double().square().sum(dim=1) / lengths
    heard = power > _SILENCE_POWER
    level = torch.where(heard, power, 1.0).sqrt()
    gain = torch.where(heard, 10 ** (_LEVEL_DBFS / 20) / level, 1.0).clamp(min=1.0)
    return audio * gain.float()[:, None]
