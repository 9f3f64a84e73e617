"""From a varying number of frames to one vector, under masks.

Notation: B utterances, T frames, C frame channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["length_mask", "masked_mean"]


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Return (B, size) bool, true at the first `lengths` (B,) places of each row."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def masked_mean(frames: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real frames.

    Args:
        frames: (B, C, T); what stands where `mask` is false is ignored, even if it is not finite.
        mask: (B, T) bool with at least one true place in every row.

    Returns:
        (B, C).
    """
    total = frames.masked_fill(~mask[:, None, :], 0.0).sum(dim=2)
    return total / mask.sum(dim=1, keepdim=True)
