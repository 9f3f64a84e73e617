"""A front end that learns its band-passes from the waveform, always in float32.

Notation: B utterances, S samples, M bands, N steps of 0.5 ms, T frames of 10 ms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.front_ends.log_mel import Float32Module, htk_edges_hz

_RATE_HZ = 16_000
_TAPS = 401  # 25 ms, as the window of a log-mel front end
_STEP = 8  # the energy of a band varies no faster than the band is wide, and those of speech stay below 1 kHz
_SMOOTHING_TAPS, _HOP = 51, 20  # in steps: 25 ms and 10 ms
_FLOOR = 1e-6
_HALF_POWER = math.sqrt(math.log(2))  # where the square of a Gaussian is half of its peak, in standard deviations


class GaborBands(Float32Module):
    """Log energies of 80 learnt band-passes at 100 Hz, each with mean 0 and variance 1 over the utterance.

    Gabor filters (a complex tone under a Gaussian) over 25 ms, the square of their modulus at 2 kHz, a learnt Gaussian
    low-pass of 25 ms, every twentieth value, the logarithm of it and 1e-6, biased variance and 1e-5. The filters begin
    as the triangles of HTK's mel scale from 0 to 8000 Hz: the same centres, as wide at half of the peak of the energy,
    which is 1 for a tone of power 1.

    Attributes:
        centre_hz: (M,) of each filter, learnt; held between 0 and 8000.
        width_hz: (M,) of each filter at half of the peak of its energy, learnt; held between 20 and 8000.
        smoothing_s: (M,) standard deviation of each low-pass, learnt; held between 0.5 and 12.5 ms.

    Source: the chain, not its sizes, is that of N. Zeghidour et al., "LEAF: A learnable frontend for audio
    classification", ICLR 2021.
    """

    n_mels = 80

    def __init__(self) -> None:
        super().__init__()
        edges = torch.from_numpy(htk_edges_hz(self.n_mels, 0.0, _RATE_HZ / 2)).float()
        self.centre_hz = nn.Parameter(edges[1:-1].clone())
        self.width_hz = nn.Parameter((edges[2:] - edges[:-2]) / 2)
        self.smoothing_s = nn.Parameter(torch.full((self.n_mels,), 0.005))

    def filters(self) -> Tensor:
        """Return (2 M, 401): the cosines of all bands, then their sines."""
        time_s = (torch.arange(_TAPS, device=self.centre_hz.device) - _TAPS // 2) / _RATE_HZ
        centre = self.centre_hz.clamp(0, _RATE_HZ / 2)[:, None]
        deviation_hz = self.width_hz.clamp(20, _RATE_HZ / 2)[:, None] / 2 / _HALF_POWER
        envelope = (-2 * (math.pi * deviation_hz * time_s).square()).exp()
        # A real tone of power 1 has two lines of amplitude 1 / sqrt(2), of which a band hears one.
        envelope = envelope / envelope.sum(dim=1, keepdim=True) * math.sqrt(2)
        phase = 2 * math.pi * centre * time_s
        return torch.cat([envelope * phase.cos(), envelope * phase.sin()])

    def energies(self, audio: Tensor) -> Tensor:
        """Map (B, S) to (B, M, (S - 1) // 160 + 1), the power of each band."""
        padded = functional.pad(audio.float()[:, None], (_TAPS // 2, _TAPS // 2), mode="reflect")
        real, imaginary = functional.conv1d(padded, self.filters()[:, None], stride=_STEP).chunk(2, dim=1)  # (B, M, N)
        power = real.square() + imaginary.square()
        steps_s = (torch.arange(_SMOOTHING_TAPS, device=power.device) - _SMOOTHING_TAPS // 2) * (_STEP / _RATE_HZ)
        low_pass = (-0.5 * (steps_s / self.smoothing_s.clamp(0.0005, 0.0125)[:, None]).square()).exp()
        low_pass = low_pass / low_pass.sum(dim=1, keepdim=True)
        half = _SMOOTHING_TAPS // 2
        return functional.conv1d(power, low_pass[:, None], stride=_HOP, padding=half, groups=self.n_mels)

    def forward(self, audio: Tensor) -> Tensor:
        """Map (B, S) to (B, M, T) float32, whatever autocast is on."""
        with torch.autocast(audio.device.type, enabled=False):
            return functional.instance_norm((self.energies(audio) + _FLOOR).log(), eps=1e-5)
