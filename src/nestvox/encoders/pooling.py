"""From a varying number of frames to one vector.

The functions take masks. The classes see whole utterances only, because what they weigh or divide by depends on every
frame; their names in capitals are those that checkpoints use, and so are the names of their parameters.

Notation: B utterances, T frames, C frame channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nestvox.errors import ModelError

__all__ = [
    "ASTP",
    "MHASTP",
    "MQMHASTP",
    "TAP",
    "TMAP",
    "TSDP",
    "TSTP",
    "Pooling",
    "length_mask",
    "masked_mean",
    "pooling",
]

# Under the root of every deviation.
_VARIANCE_FLOOR = 1e-7


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


class Pooling(nn.Module):
    """Maps (B, C, T) to (B, P).

    Args:
        channels: C.

    Attributes:
        out_dim: P.
    """

    out_dim: int

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_dim = channels


def pooling(name: str, channels: int, *, global_context: bool = False) -> Pooling:
    """Build a pooling by the name that checkpoints use.

    Args:
        name: ``ASTP``, ``MHASTP``, ``MQMHASTP``, ``TAP``, ``TMAP``, ``TSDP`` or ``TSTP``.
        channels: C.
        global_context: of ASTP; the others have none.

    Raises:
        ModelError: an unknown name, or channels that it cannot share among its heads.
    """
    if name == "ASTP":
        return ASTP(channels, global_context=global_context)
    simple: dict[str, type[Pooling]] = {
        "MHASTP": MHASTP,
        "MQMHASTP": MQMHASTP,
        "TAP": TAP,
        "TMAP": TMAP,
        "TSDP": TSDP,
        "TSTP": TSTP,
    }
    if name not in simple:
        raise ModelError(f"unknown pooling {name!r}; known: {', '.join(sorted([*simple, 'ASTP']))}")
    return simple[name](channels)


class TAP(Pooling):
    """Mean over time."""

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C)."""
        return frames.mean(dim=2)


class TSDP(Pooling):
    """Standard deviation over time, unbiased; needs two frames."""

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C)."""
        return _deviation(frames)[:, :, 0]


class TSTP(Pooling):
    """Mean and unbiased standard deviation over time; needs two frames."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.out_dim = 2 * channels

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, C, T) to (B, 2 C)."""
        return torch.cat([frames.mean(dim=2), _deviation(frames)[:, :, 0]], dim=1)


class TMAP(Pooling):
    """Maximum plus mean over time."""

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C)."""
        return frames.amax(dim=2) + frames.mean(dim=2)


class ASTP(Pooling):
    """Attentive statistics: mean and deviation under weights that the network draws for each channel and frame.

    Args:
        channels: C.
        global_context: the weights also depend on mean and deviation of the utterance; needs two frames.
        bottleneck: hidden channels of the weights.

    Source: K. Okabe et al., "Attentive statistics pooling for deep speaker embedding", Interspeech 2018; the global
    context is that of B. Desplanques et al., "ECAPA-TDNN", Interspeech 2020.
    """

    def __init__(self, channels: int, *, global_context: bool = False, bottleneck: int = 128) -> None:
        super().__init__(channels)
        self.out_dim = 2 * channels
        self.global_context = global_context
        self.linear1 = nn.Conv1d(3 * channels if global_context else channels, bottleneck, 1)
        self.linear2 = nn.Conv1d(bottleneck, channels, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, C, T) to (B, 2 C), means before deviations."""
        seen = frames
        if self.global_context:
            mean = frames.mean(dim=2, keepdim=True).expand_as(frames)
            seen = torch.cat([frames, mean, _deviation(frames).expand_as(frames)], dim=1)  # (B, 3 C, T)
        return _attentive_statistics(frames, self.linear2(self.linear1(seen).tanh()))


class MHASTP(Pooling):
    """Attentive statistics with several heads, each over its own share of the channels.

    Args:
        channels: C.
        heads: among which the channels are shared.
        bottleneck: hidden channels of each head.
        per_channel: a head weighs its channels one by one, not all alike.

    Raises:
        ModelError: the heads cannot share the channels.
    """

    def __init__(self, channels: int, *, heads: int = 2, bottleneck: int = 64, per_channel: bool = False) -> None:
        super().__init__(channels)
        if channels % heads:
            raise ModelError(f"{heads} heads of the pooling cannot share {channels} channels")
        self.out_dim = 2 * channels
        share = channels // heads
        self.heads_att_trans = nn.ModuleList(
            nn.ModuleDict(
                {
                    "att_0": nn.Conv1d(share, bottleneck, 1),
                    "att_1": nn.Conv1d(bottleneck, share if per_channel else 1, 1),
                }
            )
            for _ in range(heads)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, C, T) to (B, 2 C): head by head, means before deviations."""
        parts = []
        for head, share in zip(self.heads_att_trans, frames.chunk(len(self.heads_att_trans), dim=1), strict=True):
            assert isinstance(head, nn.ModuleDict)
            parts.append(_attentive_statistics(share, head["att_1"](head["att_0"](share).tanh())))
        return torch.cat(parts, dim=1)


class MQMHASTP(Pooling):
    """Two poolings of eight heads each, side by side.

    Args:
        channels: C.

    Source: M. Zhao et al., "Multi-query multi-head attention pooling and inter-topK penalty for speaker verification",
    ICASSP 2022.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.out_dim = 4 * channels
        self.n_query = nn.ModuleList(MHASTP(channels, heads=8, per_channel=True) for _ in range(2))

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, C, T) to (B, 4 C), query by query."""
        return torch.cat([query(frames) for query in self.n_query], dim=1)


def _deviation(frames: Tensor) -> Tensor:
    """Unbiased standard deviation over time, (B, C, 1)."""
    return (frames.var(dim=2, keepdim=True) + _VARIANCE_FLOOR).sqrt()


def _attentive_statistics(frames: Tensor, logits: Tensor) -> Tensor:
    """Mean and deviation (B, 2 C) of (B, C, T) under the softmax over time of `logits` (B, C or 1, T)."""
    # In sixteen bits the weights would not sum to one, and the deviation be lost beside the mean.
    precision = torch.promote_types(frames.dtype, torch.float32)
    weights, wide = logits.softmax(dim=2, dtype=precision), frames.to(precision)
    mean = (weights * wide).sum(dim=2, keepdim=True)
    variance = (weights * (wide - mean).square()).sum(dim=2, keepdim=True)
    deviation = variance.clamp(min=_VARIANCE_FLOOR).sqrt()
    return torch.cat([mean, deviation], dim=1)[:, :, 0].to(frames.dtype)
