"""Mel front ends, always in float32: framing, power spectra and the mel matrix, in pieces that front ends share.

Notation: B utterances, S samples, T frames, F frequency bins, M mel bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.front_ends.kaldi_fbank import LOG_FLOOR, PREEMPHASIS, KaldiFbank, triangles

# 4,096 frames of a 400-point spectrum are 6.6 MB of float32, and the same again for each step of the chain.
_FRAMES_PER_CHUNK = 4096


class Float32Module(nn.Module):
    """A module whose tensors follow it to another device, but never to another precision."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            # Cast back would not do: what a shorter mantissa has lost does not return.
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(keep, recurse)  # type: ignore[no-untyped-call]
        return self


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


def htk_edges_hz(n_mels: int, f_min_hz: float, f_max_hz: float) -> NDArray[np.float64]:
    """Corner frequencies of `n_mels` triangles that are equally spaced on HTK's mel scale.

    Args:
        n_mels: M.
        f_min_hz: lower corner of the first triangle.
        f_max_hz: upper corner of the last triangle.

    Returns:
        (M + 2,) ascending, in Hz, as `slaney_edges_hz` gives them.

    Source: mel = 2595 log10(1 + f / 700); S. Young et al., The HTK Book, section 5.4.
    """
    edges: NDArray[np.float64] = 700.0 * (10.0 ** (_htk_edges(n_mels, f_min_hz, f_max_hz) / 2595.0) - 1.0)
    return edges


def _htk_edges(n_mels: int, f_min_hz: float, f_max_hz: float) -> NDArray[np.float64]:
    first, last = _htk_mels(np.array([f_min_hz, f_max_hz]))
    return np.linspace(first, last, n_mels + 2)


def _htk_mels(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2595.0 * np.log10(1.0 + hz / 700.0)


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
    filters = triangles(edges_hz, np.fft.rfftfreq(n_fft, 1.0 / sample_rate).astype(np.float64))
    if area_norm:
        filters *= 2.0 / (edges_hz[2:, None] - edges_hz[:-2, None])
    return torch.from_numpy(filters.astype(np.float32))


def mel_filters_in_mels(n_mels: int, f_min_hz: float, f_max_hz: float, *, bins_hz: NDArray[np.float64]) -> Tensor:
    """Triangular filters whose flanks are straight over mels instead of Hz, on HTK's scale; peaks are 1.

    Args:
        n_mels: M.
        f_min_hz: lower corner of the first triangle.
        f_max_hz: upper corner of the last triangle.
        bins_hz: (F,) frequency that each bin of the spectrum counts as.

    Returns:
        (M, F) float32, zero at bins of 0 Hz.
    """
    filters = triangles(_htk_edges(n_mels, f_min_hz, f_max_hz), _htk_mels(bins_hz))
    filters[:, bins_hz == 0] = 0.0
    return torch.from_numpy(filters.astype(np.float32))


def power_frames(
    audio: Tensor, window: Tensor, *, hop: int, n_fft: int | None = None, preemphasis: float = 0.0
) -> Tensor:
    """Power spectra of the whole windows that fit in `audio`, without padding.

    Args:
        audio: (B, S) float32.
        window: (W,) float32.
        hop: samples from one frame to the next.
        n_fft: length of the transform, at least W; None: W. Zeros fill it up: where does not matter to the power.
        preemphasis: not 0: each frame loses its mean, and each sample this much of the one before, the first of itself.

    Returns:
        (B, T, F) with T = (S - W) // hop + 1 and F = n_fft // 2 + 1.
    """
    frames = audio.unfold(1, window.numel(), hop)  # (B, T, W)
    if preemphasis:
        frames = frames - frames.mean(dim=2, keepdim=True)
        frames = frames - preemphasis * torch.cat([frames[..., :1], frames[..., :-1]], dim=2)
    spectrum = torch.fft.rfft(frames * window, n=n_fft)  # (B, T, F)
    power: Tensor = spectrum.real.square() + spectrum.imag.square()
    return power


def mel_frames(
    audio: Tensor,
    window: Tensor,
    bands: Callable[[Tensor], Tensor],
    *,
    hop: int,
    n_fft: int | None = None,
    preemphasis: float = 0.0,
) -> Tensor:
    """Mel bands of the whole windows that fit in `audio`, a few thousand frames at a time.

    Args:
        audio: (B, S) float32, padded as the front end wants it.
        window: (W,) float32.
        bands: maps the power of some frames (B, t, F) to their bands (B, t, M).
        hop: samples from one frame to the next.
        n_fft: as in `power_frames`.
        preemphasis: the same.

    Returns:
        (B, T, M).
    """
    n_frames = (audio.shape[1] - window.numel()) // hop + 1
    chunk = max(1, _FRAMES_PER_CHUNK // max(1, audio.shape[0]))
    parts = []
    for first in range(0, n_frames, chunk):
        last = min(first + chunk, n_frames)
        piece = audio[:, first * hop : (last - 1) * hop + window.numel()]
        parts.append(bands(power_frames(piece, window, hop=hop, n_fft=n_fft, preemphasis=preemphasis)))  # (B, t, M)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class MelSpectrogram(Float32Module):
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
            audio = functional.pad(audio, (left, max(0, covered - left - audio.shape[1])))[:, :covered]
            return mel_frames(audio, self.window, lambda power: power @ self.filters.T, hop=self.hop)


class NormalisedLogMel(Float32Module):
    """80 log-mel bands at 100 Hz, each with mean 0 and variance 1 over the utterance.

    Windows of 400 samples (Hamming's, periodic) centred on multiples of 160 with reflected ends, the power of 512
    points, HTK's scale from 0 to 8000 Hz with peaks of 1, logarithm of the power and 1e-6, biased variance and 1e-5.
    It needs 257 samples. Nothing here is learnt, and its tensors do not stand in a checkpoint.
    """

    n_mels = 80
    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = mel_filters(htk_edges_hz(self.n_mels, 0.0, 8000.0), sample_rate=16_000, n_fft=512, area_norm=False)
        self.register_buffer("window", torch.hamming_window(400, dtype=torch.float64).float(), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Map (B, S) to (B, M, S // 160 + 1) float32, whatever autocast is on."""
        with torch.autocast(audio.device.type, enabled=False):
            # The window in the middle of 512 samples: the zeros at its sides change phases only.
            padded = functional.pad(audio.float()[:, None], (200, 200), mode="reflect")[:, 0]
            bands = mel_frames(padded, self.window, lambda power: power @ self.filters.T, hop=160, n_fft=512)
            return functional.instance_norm((bands + 1e-6).log().transpose(1, 2), eps=1e-5)


class KaldiBands(Float32Module):
    """`KaldiFbank` for batches, with gradients, in float32.

    Args:
        settings: what it computes.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, settings: KaldiFbank) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("window", torch.from_numpy(settings.window_shape).float(), persistent=False)
        self.register_buffer("filters", torch.from_numpy(settings.filters).float(), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Map (B, S) to (B, M, T) float32, whatever autocast is on."""
        with torch.autocast(audio.device.type, enabled=False):
            energies = mel_frames(
                audio.float() * self.settings.scale,
                self.window,
                lambda power: power[..., :-1] @ self.filters.T,
                hop=self.settings.hop_samples,
                n_fft=2 * self.filters.shape[1],
                preemphasis=PREEMPHASIS,
            )
            bands = energies.clamp(min=LOG_FLOOR).log().transpose(1, 2)
            return bands - bands.mean(dim=2, keepdim=True) if self.settings.subtract_mean else bands
