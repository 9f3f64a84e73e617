"""Mel front ends, always in float32: framing, power spectra and the mel matrix, in pieces that front ends share.

Notation: B utterances, S samples, T frames, F frequency bins, M mel bands.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MelSpectrogram", "mel_filters", "power_frames", "slaney_edges_hz"]

# 4,096 frames of a 400-point spectrum are 6.6 MB of float32, and the same again for each step of the chain.
_FRAMES_PER_CHUNK = 4096


def slaney_edges_hz(n_mels: int, f_min_hz: float, f_max_hz: float) -> NDArray[np.float64]:
    """Corner frequencies of `n_mels` triangles that are equally spaced on Slaney's mel scale.

    The scale is linear (200/3 Hz a mel) below 1 kHz and logarithmic (27 mels for a factor of 6.4) above.

    Args:
        n_mels: M.
        f_min_hz: lower corner of the first triangle.
        f_max_hz: upper corner of the last triangle.

    Returns:
        (M + 2,) ascending, in Hz: triangle m rises from edge m, peaks at edge m + 1 and ends at edge m + 2.

    Source: M. Slaney, Auditory Toolbox, Technical Report 1998-010, Interval Research Corporation.
    """
    hz_per_mel = 200.0 / 3.0
    knee_hz = 1000.0
    log_step = math.log(6.4) / 27.0

    def to_mel(hz: float) -> float:
        return hz / hz_per_mel if hz < knee_hz else knee_hz / hz_per_mel + math.log(hz / knee_hz) / log_step

    mels = np.linspace(to_mel(f_min_hz), to_mel(f_max_hz), n_mels + 2)
    above = mels - knee_hz / hz_per_mel
    edges: NDArray[np.float64] = np.where(
        above < 0, mels * hz_per_mel, knee_hz * np.exp(np.maximum(above, 0) * log_step)
    )
    return edges


def mel_filters(edges_hz: NDArray[np.float64], *, sample_rate: int, n_fft: int, area_norm: bool) -> Tensor:
    """Triangular filters over the bins of a real FFT.

    Args:
        edges_hz: (M + 2,) corner frequencies, as `slaney_edges_hz` gives them.
        sample_rate: in Hz.
        n_fft: length of the transform; F = n_fft // 2 + 1.
        area_norm: scale every triangle to the same area, 2 / width in Hz (Slaney's norm); else its peak is 1.

    Returns:
        (M, F) float32.
    """
    bins_hz = np.fft.rfftfreq(n_fft, 1.0 / sample_rate)
    lower, centre, upper = (edges_hz[k : len(edges_hz) - 2 + k, None] for k in range(3))
    rising = (bins_hz - lower) / (centre - lower)
    falling = (upper - bins_hz) / (upper - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if area_norm:
        filters *= 2.0 / (upper - lower)
    return torch.from_numpy(filters.astype(np.float32))


def power_frames(audio: Tensor, window: Tensor, *, hop: int) -> Tensor:
    """Power spectra of the whole windows that fit in `audio`, without padding.

    Args:
        audio: (B, S) float32.
        window: (W,) float32; the transform has length W.
        hop: samples from one frame to the next.

    Returns:
        (B, T, F) with T = (S - W) // hop + 1 and F = W // 2 + 1.
    """
    frames = audio.unfold(1, window.numel(), hop) * window  # (B, T, W)
    spectrum = torch.fft.rfft(frames)  # (B, T, F)
    power: Tensor = spectrum.real.square() + spectrum.imag.square()
    return power


class MelSpectrogram(nn.Module):
    """Mel power spectrogram with centred frames: frame t looks at the samples around t * hop, zeros beyond the ends.

    Nothing here is learnt, and its tensors do not stand in a checkpoint.

    Args:
        sample_rate: in Hz.
        n_fft: length of window and transform, in samples; the window is Hann's, periodic.
        hop: samples from one frame to the next.
        n_mels: M; Slaney's scale and norm from 0 Hz to half the sample rate.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, *, sample_rate: int, n_fft: int, hop: int, n_mels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop = hop
        edges = slaney_edges_hz(n_mels, 0.0, sample_rate / 2)
        filters = mel_filters(edges, sample_rate=sample_rate, n_fft=n_fft, area_norm=True)
        self.register_buffer("window", torch.hann_window(n_fft, dtype=torch.float64).float(), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, audio: Tensor, n_frames: int) -> Tensor:
        """Return the first `n_frames` frames, (B, n_frames, M) float32, whatever autocast is on.

        Args:
            audio: (B, S), zero where there is no signal; S may be less than the frames cover.
            n_frames: T.
        """
        with torch.autocast(audio.device.type, enabled=False):
            audio = audio.float()
            left = self.n_fft // 2
            covered = (n_frames - 1) * self.hop + self.n_fft
            audio = functional.pad(audio, (left, max(0, covered - left - audio.shape[1])))
            chunk = max(1, _FRAMES_PER_CHUNK // max(1, audio.shape[0]))
            parts = []
            for first in range(0, n_frames, chunk):
                last = min(first + chunk, n_frames)
                piece = audio[:, first * self.hop : (last - 1) * self.hop + self.n_fft]
                parts.append(power_frames(piece, self.window, hop=self.hop) @ self.filters.T)  # (B, t, M)
            return torch.cat(parts, dim=1)
