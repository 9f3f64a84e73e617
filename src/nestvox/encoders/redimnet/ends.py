"""What is behind the backbone of a ReDimNet, arranged for inference: its pooling and its embedding layers.

In the attentive pooling the context, equal at every frame, is multiplied once instead of at every frame.

Notation: B utterances, T frames, C frame channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nestvox.encoders.pooling import ASTP, Pooling
from nestvox.encoders.redimnet.network import ReDimNetEncoder
from nestvox.encoders.runtime.folding import Product, folded, scale_and_shift


def fold_ends(encoder: ReDimNetEncoder) -> None:
    """Fold, in place, the normalisations around the embedding layer into it; an attentive pooling becomes lean.

    Args:
        encoder: in evaluation mode.
    """
    if isinstance(encoder.pool, ASTP):
        encoder.pool = _LeanASTP(encoder.pool)
    scale, shift = scale_and_shift(encoder.bn)
    weight, bias = encoder.linear.weight.double(), encoder.linear.bias.double()
    weight, bias = weight * scale, bias + weight @ shift
    if isinstance(encoder.bn2, nn.BatchNorm1d):
        scale, shift = scale_and_shift(encoder.bn2)
        weight, bias = weight * scale[:, None], bias * scale + shift
    encoder.linear.weight.copy_(weight)
    encoder.linear.bias.copy_(bias)
    encoder.bn = nn.Identity()  # type: ignore[assignment]
    encoder.bn2 = nn.Identity()


class _LeanASTP(Pooling):
    """Attentive statistics that multiply their context once."""

    def __init__(self, original: ASTP) -> None:
        super().__init__(original.out_dim)
        self.fewest_frames = original.fewest_frames
        weight, bias = folded(original.linear1, None)
        parts = weight[:, :, 0].chunk(3, dim=1) if original.global_context else (weight[:, :, 0],)
        self.seen = Product(parts[0], bias)
        self.context = Product(torch.cat(parts[1:], dim=1), None) if original.global_context else None
        weight, bias = folded(original.linear2, None)
        self.weigh = Product(weight.flatten(1), bias)
        self.floor = 1e-7

    def statistics(self, frames: Tensor) -> Tensor:
        rows = frames.transpose(1, 2)  # (B, T, C)
        hidden = self.seen(rows)
        if self.context is not None:
            mean = rows.mean(dim=1)
            variance = (rows - mean[:, None]).square_().sum(dim=1) / (rows.shape[1] - 1)
            hidden = hidden + self.context(torch.cat([mean, (variance + self.floor).sqrt()], dim=1))[:, None]
        precision = torch.promote_types(rows.dtype, torch.float32)
        weights, wide = self.weigh(hidden.tanh()).softmax(dim=1, dtype=precision), rows.to(precision)
        mean = (weights * wide).sum(dim=1)
        variance = (weights * (wide - mean[:, None]).square_()).sum(dim=1)
        return torch.cat([mean, variance.clamp(min=self.floor).sqrt()], dim=1).to(rows.dtype)
