"""PyanNet, the segmentation network of pyannote.audio: which of up to three speakers are active, 59 times a second.

It stands here and not among the encoders: it gives no vector of a speaker, has none of their taps, and hears always
ten seconds. Modules are named as the published checkpoint names them.

Sources: H. Bredin and A. Laurent, "End-to-end speaker segmentation for overlap-aware resegmentation", Interspeech 2021;
A. Plaquet and H. Bredin, "Powerset multi-class cross entropy loss for neural speaker diarization", Interspeech 2023;
the filters: M. Ravanelli and Y. Bengio, "Speaker recognition from raw waveform with SincNet", SLT 2018, in the form of
M. Pariente et al., "Filterbank design for end-to-end speech separation", ICASSP 2020.

Notation: B chunks, n samples, T frames, K classes.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nestvox.download import Announce
from nestvox.progress import Progress, silent
from nestvox.zoo.weights import load_strict, read_weights

SAMPLE_RATE = 16_000
CHUNK_SAMPLES = 160_000
"""The normalisations see the whole chunk, so another length gives another result; what is shorter is padded."""
FEWEST_SAMPLES = 1_261
"""Two frames, which the last normalisation needs."""
FRAME_STEP = 270
"""Samples from one frame to the next."""
FRAME_WIDTH = 991
"""Samples that the convolutions of a frame see."""

LOCAL_SPEAKERS = 3
POWERSET = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], np.uint8)
"""(7, 3): which of the chunk's speakers are active in each class."""

_FILTERS, _TAPS, _STRIDE = 40, 251, 10
_SLOPE = 0.01
_HIDDEN = 128
_LOWEST_HZ = 50.0


def frames_of(samples: int) -> int:
    """Frames that so many samples give."""
    count = (samples - _TAPS) // _STRIDE + 1
    return ((count // 3 - 4) // 3 - 4) // 3


FRAMES = frames_of(CHUNK_SAMPLES)
"""589."""


class PyanNet(nn.Module):
    """The network with the sizes of segmentation-3.0."""

    def __init__(self) -> None:
        super().__init__()
        self.sincnet = SincNet()
        self.lstm = nn.LSTM(60, _HIDDEN, num_layers=4, bidirectional=True, batch_first=True, dropout=0.5)
        self.linear = nn.ModuleList([nn.Linear(2 * _HIDDEN, 128), nn.Linear(128, 128)])
        self.classifier = nn.Linear(128, len(POWERSET))

    def forward(self, audio: Tensor) -> Tensor:
        """Map (B, n) float32 in [-1, 1] to natural logarithms of probabilities (B, T, 7), by the classes of POWERSET.

        Chunks do not influence each other. n is `CHUNK_SAMPLES` except in tests.
        """
        hidden = self.lstm(self.sincnet(audio[:, None]).transpose(1, 2))[0]
        for layer in self.linear:
            hidden = functional.leaky_relu(layer(hidden), _SLOPE)
        found: Tensor = functional.log_softmax(self.classifier(hidden), dim=-1)
        return found


class SincNet(nn.Module):
    """From samples to 60 features a frame, every normalisation over the whole chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.wav_norm1d = nn.InstanceNorm1d(1, affine=True)
        self.conv1d = nn.ModuleList([SincConv(), nn.Conv1d(2 * _FILTERS, 60, 5), nn.Conv1d(60, 60, 5)])
        self.norm1d = nn.ModuleList([nn.InstanceNorm1d(size, affine=True) for size in (2 * _FILTERS, 60, 60)])

    def forward(self, audio: Tensor) -> Tensor:
        """Map (B, 1, n) to (B, 60, T)."""
        x: Tensor = self.wav_norm1d(audio)
        for number, (conv, norm) in enumerate(zip(self.conv1d, self.norm1d, strict=True)):
            x = conv(x)
            x = functional.max_pool1d(x.abs() if number == 0 else x, 3, 3)
            x = functional.leaky_relu(norm(x), _SLOPE)
        return x


class SincConv(nn.Module):
    """Band-pass filters whose edges are learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.filterbank = SincFilters()

    def forward(self, audio: Tensor) -> Tensor:
        """Map (B, 1, n) to (B, 80, n')."""
        return functional.conv1d(audio, self.filterbank(), stride=_STRIDE)


class SincFilters(nn.Module):
    """A cosine and a sine filter for each of 40 bands, under half a Hamming window mirrored."""

    n_: Tensor
    window_: Tensor

    def __init__(self) -> None:
        super().__init__()
        edges = 700 * (10 ** (np.linspace(_mel(30.0), _mel(7900.0), _FILTERS + 1) / 2595) - 1)
        self.low_hz_ = nn.Parameter(torch.tensor(edges[:-1, None], dtype=torch.float32))
        self.band_hz_ = nn.Parameter(torch.tensor(np.diff(edges)[:, None], dtype=torch.float32))
        half = _TAPS // 2
        places = 2 * math.pi * np.arange(-half, 0) / SAMPLE_RATE
        self.register_buffer("n_", torch.tensor(places[None], dtype=torch.float32))
        shape = 0.54 - 0.46 * np.cos(2 * math.pi * np.arange(half) / (_TAPS - 1))
        self.register_buffer("window_", torch.tensor(shape, dtype=torch.float32))

    def forward(self) -> Tensor:
        """Make the filters, (80, 1, 251); in the precision of the parameters, on which sines of hundreds depend."""
        low = _LOWEST_HZ + self.low_hz_.abs()
        high = torch.clamp(low + _LOWEST_HZ + self.band_hz_.abs(), _LOWEST_HZ, SAMPLE_RATE / 2)
        band = (high - low)[:, :1]
        at_low, at_high = low @ self.n_, high @ self.n_
        cosine = ((at_high.sin() - at_low.sin()) / (self.n_ / 2)) * self.window_
        sine = ((at_low.cos() - at_high.cos()) / (self.n_ / 2)) * self.window_
        even = torch.cat([cosine, 2 * band, cosine.flip(1)], dim=1)
        odd = torch.cat([sine, torch.zeros_like(band), -sine.flip(1)], dim=1)
        return torch.cat([even / (2 * band), odd / (2 * band)])[:, None]


def _mel(hz: float) -> float:
    return 2595 * math.log10(1 + hz / 700)


def load_segmentation(
    *,
    weights: str | Path | None = None,
    offline: bool = False,
    announce: Announce | None = None,
    progress: Progress = silent,
) -> PyanNet:
    """Load segmentation-3.0 in evaluation mode; arguments and errors are those of `zoo.load_encoder`."""
    checkpoint, path = read_weights(
        "segmentation-3.0", weights=weights, offline=offline, announce=announce, progress=progress
    )
    network = PyanNet()
    load_strict(network, checkpoint.tensors, str(path))
    return network.eval()


def activity(log_probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probability that each of a chunk's speakers is active: (..., 7) to (..., 3)."""
    marginal: NDArray[np.float32] = np.exp(log_probabilities) @ POWERSET.astype(np.float32)
    return marginal
