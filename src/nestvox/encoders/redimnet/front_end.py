"""The three log-mel front ends of ReDimNet checkpoints: `pt`, `tf` and `tf_spec`, always in float32.

Modules and buffers are named as the released checkpoints name them. The buffers are functions of the configuration,
so a checkpoint may lack them.

Notation: B utterances, S samples, T frames, F bands.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.front_ends.log_mel import (
    Float32Module,
    htk_edges_hz,
    mel_filters,
    mel_filters_in_mels,
    mel_frames,
)
from nestvox.errors import ModelError
from nestvox.gate import naming
from nestvox.schema import validated_dataclass

_RATE = 16_000
_N_FFT = 512
_WINDOW = 400
_F_MIN_HZ = 20.0
_F_MAX_HZ = 7600.0
_PREEMPHASIS = 0.97
_KINDS = {"pt": "pt", "pt_mel": "pt", "tf": "tf", "tf_mel": "tf", "tf_spec": "tf_spec"}
# What checkpoints may state, but none states otherwise.
_FIXED: dict[str, Any] = {
    "sample_rate": _RATE,
    "n_fft": _N_FFT,
    "win_length": _WINDOW,
    "f_min": _F_MIN_HZ,
    "f_max": _F_MAX_HZ,
    "window": "hamming",
}

Bins = Annotated[int, Field(ge=1, le=256)]


@dataclass(frozen=True)
class FrontEndSettings:
    """The `spec_params` of a checkpoint.

    Attributes:
        norm_signal: bring each utterance to mean 0 and variance 1 first.
        do_preemph: filter with 1 - 0.97 / z.
        spec_norm: ``mn`` subtracts the mean over time of each band, ``mvn`` also divides by the standard deviation,
            ``bn`` normalises with learnt statistics. `tf` front ends know ``mn`` only.
        do_spec_aug: blank bands in training.
        num_apply_spec_aug: how often.
        freq_mask_width: smallest width of a band of frequencies, and one more than the largest.
        time_mask_width: the same for frames.
        freq_start_bin: no band, of frequencies or frames, begins before this place.
        pool_freqs: `tf_spec` averages over this many bins and frames.
    """

    norm_signal: bool = False
    do_preemph: bool = True
    spec_norm: str = "mn"
    do_spec_aug: bool = False
    num_apply_spec_aug: Annotated[int, Field(ge=0, le=1000)] = 1
    freq_mask_width: tuple[int, int] = (0, 8)
    time_mask_width: tuple[int, int] = (0, 10)
    freq_start_bin: int = 0
    pool_freqs: tuple[Bins, Bins] = (2, 1)

    @classmethod
    def of(cls, spec_params: Mapping[str, Any]) -> FrontEndSettings:
        """Read `spec_params`.

        Raises:
            ModelError: an unknown key, or a value that no front end here has.
        """
        known = {field.name for field in fields(cls)}
        given = dict(spec_params)
        for key, value in _FIXED.items():
            if given.pop(key, value) != value:
                raise ModelError(f"spec_params {key}: only {value!r} is supported, got {spec_params[key]!r}")
        for key in given.keys() - known:
            near = difflib.get_close_matches(str(key), [*known, *_FIXED], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ModelError(f"spec_params: unknown key {key!r}{hint}")
        for key in ("freq_mask_width", "time_mask_width", "pool_freqs"):
            if isinstance(given.get(key), list):
                given[key] = tuple(given[key])
        return validated_dataclass(cls, given, "spec_params", naming(ModelError))


class FrontEnd(Float32Module):
    """Waveforms to log-mel features: normalise, pre-emphasise, power spectrum, bands, logarithm, mean subtraction.

    Two families, which differ in nearly every constant. `pt`: windows centred on multiples of the hop with reflected
    ends, a periodic Hamming window, 257 bins, triangles straight over Hz. `tf`: whole windows over a signal with half
    a hop of zeros at both ends, a symmetric Hamming window, 256 bins, triangles straight over mels.

    Args:
        feat_type: ``pt`` (also ``pt_mel``), ``tf`` (also ``tf_mel``), or ``tf_spec``, which has no mel bands.
        n_bands: F.
        hop: samples from one frame to the next.
        settings: the `spec_params` of the checkpoint.

    Raises:
        ModelError: an unknown `feat_type`, or settings that it does not have.
    """

    def __init__(self, feat_type: str, *, n_bands: int, hop: int, settings: FrontEndSettings) -> None:
        super().__init__()
        if feat_type not in _KINDS:
            raise ModelError(f"unknown feat_type {feat_type!r}; known: {', '.join(_KINDS)}")
        self.kind = _KINDS[feat_type]
        self.settings = settings
        self.hop = hop
        self.n_bands = n_bands
        normalise = _Normalise(1e-6 if self.kind == "pt" else 1e-8) if settings.norm_signal else nn.Identity()
        preemphasise = _Preemphasis() if settings.do_preemph else nn.Identity()
        if self.kind == "pt":
            self.torchfbank = nn.Sequential(normalise, preemphasise, _CentredMel(n_bands, hop))
            self.floor = 1e-6
        elif self.kind == "tf":
            self.torchfbank = nn.Sequential(normalise, preemphasise, _FramedSpectrum(hop, n_bands))
            self.floor = 1e-8
        else:
            if hop != 160 or n_bands * settings.pool_freqs[0] != 256 or settings.pool_freqs[1] != 1:
                raise ModelError(
                    "feat_type tf_spec needs hop_length 160, F times pool_freqs[0] equal to 256, and pool_freqs[1] = 1"
                )
            self.spectrogram = nn.Sequential(normalise, preemphasise, _FramedSpectrum(hop, None))
            self.floor = 1e-8
        self.spec_norm = self._spec_norm()

    def _spec_norm(self) -> nn.Module:
        name = self.settings.spec_norm
        if self.kind == "pt" and name == "bn":
            return nn.BatchNorm1d(self.n_bands)
        if name == "mn" or (self.kind == "pt" and name == "mvn"):
            return _CentreOverTime(divide=name == "mvn")
        raise ModelError(f"feat_type {self.kind} has no spec_norm {name!r}")

    def min_samples(self, n_frames: int) -> int:
        """Samples that give at least `n_frames` frames."""
        if self.kind == "pt":
            # The reflected ends of 256 samples must find as many samples to mirror.
            return max((n_frames - 1) * self.hop, _N_FFT // 2 + 1)
        return (n_frames - 1) * self.hop + _WINDOW - 2 * (self.hop // 2)

    def forward(self, audio: Tensor) -> Tensor:
        """Map (B, S) to (B, F, T) float32, whatever autocast is on."""
        with torch.autocast(audio.device.type, enabled=False):
            chain = self.spectrogram if self.kind == "tf_spec" else self.torchfbank
            bands = torch.log(chain(audio.float()) + self.floor)  # (B, T, F)
            features: Tensor = self.spec_norm(bands.transpose(1, 2))  # (B, F, T)
            if self.kind == "tf_spec":
                features = functional.avg_pool2d(features[:, None], self.settings.pool_freqs)[:, 0]
            if self.training and self.settings.do_spec_aug:
                for _ in range(self.settings.num_apply_spec_aug):
                    start = self.settings.freq_start_bin
                    features = mask_bands(features, axis=2, width=self.settings.time_mask_width, first=start)
                    features = mask_bands(features, axis=1, width=self.settings.freq_mask_width, first=start)
            return features


class _Normalise(nn.Module):
    """Mean 0 and (biased) standard deviation 1 of each utterance."""

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, audio: Tensor) -> Tensor:
        centred = audio - audio.mean(dim=1, keepdim=True)
        scaled: Tensor = centred / (audio.std(dim=1, correction=0, keepdim=True) + self.floor)
        return scaled


class _Preemphasis(nn.Module):
    """Each sample less 0.97 of the one before it; before the first stands the second."""

    flipped_filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("flipped_filter", torch.tensor([[[-_PREEMPHASIS, 1.0]]]))

    def forward(self, audio: Tensor) -> Tensor:
        before, now = self.flipped_filter[0, 0]
        filtered: Tensor = now * audio + before * torch.cat([audio[:, 1:2], audio[:, :-1]], dim=1)
        return filtered


class _CentreOverTime(nn.Module):
    def __init__(self, *, divide: bool) -> None:
        super().__init__()
        self.divide = divide

    def forward(self, features: Tensor) -> Tensor:
        centred = features - features.mean(dim=2, keepdim=True)
        normed: Tensor = centred / (features.std(dim=2, keepdim=True) + 1e-8) if self.divide else centred
        return normed


class _Window(nn.Module):
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        # 0.54 and 0.46 are Hamming's own; rounded, as everywhere.
        phase = 2.0 * np.pi * np.arange(_WINDOW) / _WINDOW
        self.register_buffer("window", torch.from_numpy((0.54 - 0.46 * np.cos(phase)).astype(np.float32)))


class _MelScale(nn.Module):
    fb: Tensor

    def __init__(self, n_bands: int) -> None:
        super().__init__()
        edges = htk_edges_hz(n_bands, _F_MIN_HZ, _F_MAX_HZ)
        filters = mel_filters(edges, sample_rate=_RATE, n_fft=_N_FFT, area_norm=False)
        self.register_buffer("fb", filters.T.contiguous())  # (257, F)


class _CentredMel(nn.Module):
    """Mel power of `pt`: frame t looks at the 400 samples around t * hop."""

    def __init__(self, n_bands: int, hop: int) -> None:
        super().__init__()
        self.hop = hop
        self.spectrogram = _Window()
        self.mel_scale = _MelScale(n_bands)

    def forward(self, audio: Tensor) -> Tensor:
        # The published chain centres the window in 512 samples; the 56 zeros at its sides change phases only.
        padded = functional.pad(audio[:, None], (_WINDOW // 2, _WINDOW // 2), mode="reflect")[:, 0]
        filters = self.mel_scale.fb
        return mel_frames(padded, self.spectrogram.window, lambda p: p @ filters, hop=self.hop, n_fft=_N_FFT)


class _FramedSpectrum(nn.Module):
    """Power of `tf` in 256 bins, or in mel bands of them.

    The two kernels of the published chain are a Fourier transform written as a convolution. They are kept because
    checkpoints hold them; the power is computed with the fast transform, which gives the same.
    """

    real_kernel_pt: Tensor
    image_kernel_pt: Tensor
    melbanks_pt: Tensor
    window: Tensor

    def __init__(self, hop: int, n_bands: int | None) -> None:
        super().__init__()
        self.hop = hop
        n_bins = _N_FFT // 2
        window = np.hamming(_WINDOW).astype(np.float32)
        angles = 2.0 * np.pi / _N_FFT * np.outer(np.arange(n_bins), np.arange(_WINDOW))
        for name, wave in (("real_kernel_pt", np.cos(angles)), ("image_kernel_pt", np.sin(angles))):
            self.register_buffer(name, torch.from_numpy(wave.astype(np.float32) * window)[:, None])  # (256, 1, 400)
        self.register_buffer("window", torch.from_numpy(window), persistent=False)
        self.has_bands = n_bands is not None
        if n_bands is not None:
            # Bins count as if the last of 256 lay at 8 kHz, which is one bin too high: the networks were trained so.
            bins_hz = np.linspace(0.0, _RATE / 2, n_bins)
            filters = mel_filters_in_mels(n_bands, _F_MIN_HZ, _F_MAX_HZ, bins_hz=bins_hz)
            self.register_buffer("melbanks_pt", filters[:, :, None])  # (F, 256, 1)

    def forward(self, audio: Tensor) -> Tensor:
        padded = functional.pad(audio, (self.hop // 2, self.hop // 2))
        return mel_frames(padded, self.window, self._bands, hop=self.hop, n_fft=_N_FFT)

    def _bands(self, power: Tensor) -> Tensor:
        clipped = power[..., : _N_FFT // 2].clamp(1e-8, 1e8)
        return (clipped @ self.melbanks_pt[..., 0].T).clamp(1e-8, 1e8) if self.has_bands else clipped


def mask_bands(features: Tensor, *, axis: int, width: tuple[int, int], first: int = 0) -> Tensor:
    """Set one band of each utterance to zero.

    Args:
        features: (B, F, T); zero stands for the mean, which the front end has subtracted.
        axis: 1 blanks frequencies, 2 blanks times.
        width: the width of the band is drawn evenly from ``low <= width < high``.
        first: no band begins before this place. Where the axis is too short for it, bands begin at this place or
            beyond the end, and then blank nothing.

    Returns:
        (B, F, T).

    Source: D. Park et al., "SpecAugment: a simple data augmentation method for automatic speech recognition",
    Interspeech 2019, without the time warping.
    """
    batch, size = features.shape[0], features.shape[axis]
    widths = torch.randint(width[0], width[1], (batch,), device=features.device)
    # One range of starts for the whole batch, as the recipes of the published networks draw them.
    end = max(first + 1, size - int(widths.max()))
    starts = torch.randint(first, end, (batch,), device=features.device)
    places = torch.arange(size, device=features.device)
    band = (places >= starts[:, None]) & (places < (starts + widths)[:, None])  # (B, F or T)
    return features.masked_fill(band[:, :, None] if axis == 1 else band[:, None, :], 0.0)
