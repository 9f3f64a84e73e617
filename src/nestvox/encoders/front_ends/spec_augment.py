"""SpecAugment: bands of time and of frequency are blanked while a network is trained.

Source: D. Park et al., "SpecAugment: a simple data augmentation method for automatic speech recognition",
Interspeech 2019, without the time warping.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    """
    batch, size = features.shape[0], features.shape[axis]
    widths = torch.randint(width[0], width[1], (batch,), device=features.device)
    # One range of starts for the whole batch, as the recipes of the published networks draw them.
    end = max(first + 1, size - int(widths.max()))
    starts = torch.randint(first, end, (batch,), device=features.device)
    places = torch.arange(size, device=features.device)
    band = (places >= starts[:, None]) & (places < (starts + widths)[:, None])  # (B, F or T)
    return features.masked_fill(band[:, :, None] if axis == 1 else band[:, None, :], 0.0)
