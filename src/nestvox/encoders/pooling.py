"""From a varying number of frames to one vector: one forward pass of a network, pooled under any number of masks.

What a pooling weighs or divides by depends on every frame that it sees, so frames that a mask leaves out are taken away
and not weighed with zero. Names in capitals are those that checkpoints use, and so are the names of their parameters.

Notation: B utterances, M masks, T frames, C frame channels, P pooled size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nestvox.errors import ModelError

# Under the root of every deviation, and of that which weights may depend on.
_VARIANCE_FLOOR = CONTEXT_FLOOR = 1e-7


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Return (B, size) bool, true at the first `lengths` (B,) places of each row."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


class Pooling(nn.Module):
    """Statistics over time, of all frames or of those that masks choose; a kind of it says which (`statistics`).

    Args:
        channels: C.

    Attributes:
        out_dim: P.
        fewest_frames: that its statistics need.
    """

    out_dim: int
    fewest_frames: int = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_dim = channels

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool.

        Args:
            frames: (B, C, T).
            mask: (B, T) bool, or (B, M, T) for M results of one utterance; None: every frame counts. What stands where
                it is false is ignored, even if it is not finite.

        Returns:
            (B, P), or (B, M, P). Under a mask, to rounding, what the chosen frames alone give.

        Raises:
            ModelError: a mask of another shape or type, or one that chooses fewer than `fewest_frames`.
        """
        if mask is None:
            return self.statistics(frames)
        masks = mask if mask.ndim == 3 else mask[:, None]
        fits = masks.ndim == 3 and masks[:, 0].shape == frames[:, 0].shape
        if mask.dtype != torch.bool or not fits:
            raise ModelError(
                f"a mask of frames {tuple(frames.shape)} is bool, (batch, frames) or (batch, masks, frames), "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        counts = masks.sum(dim=2)  # (B, M)
        if (counts < self.fewest_frames).any():
            row, number = (counts < self.fewest_frames).nonzero()[0].tolist()
            raise ModelError(
                f"pooling needs at least {self.fewest_frames} frames: mask {number} of utterance {row} chooses "
                f"{int(counts[row, number])}"
            )
        pooled = self.masked(frames, masks, counts)
        return pooled if mask.ndim == 3 else pooled[:, 0]

    def statistics(self, frames: Tensor) -> Tensor:
        """Map (B, C, T), all of them real, to (B, P)."""
        raise NotImplementedError

    def masked(self, frames: Tensor, masks: Tensor, counts: Tensor) -> Tensor:
        """Map (B, C, T) under (B, M, T) with (B, M) real frames each to (B, M, P)."""
        if masks.all():
            return self.statistics(frames)[:, None].expand(-1, masks.shape[1], -1)
        places, parts = [], []
        for count in sorted(set(counts.flatten().tolist())):  # masks of as many frames run together
            places.append((counts == count).nonzero())  # (n, 2)
            chosen = [frames[row][:, masks[row, number]] for row, number in places[-1].tolist()]
            parts.append(self.statistics(torch.stack(chosen)))
        order = (torch.cat(places) * counts.new_tensor([masks.shape[1], 1])).sum(dim=1).argsort()
        return torch.cat(parts)[order].reshape(*counts.shape, -1)


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
    simple: dict[str, type[Pooling]] = {kind.__name__: kind for kind in (MHASTP, MQMHASTP, TAP, TMAP, TSDP, TSTP)}
    if name not in simple:
        raise ModelError(f"unknown pooling {name!r}; known: {', '.join(sorted([*simple, 'ASTP']))}")
    return simple[name](channels)


class TAP(Pooling):
    """Mean over time."""

    def statistics(self, frames: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C)."""
        return frames.mean(dim=2)

    def masked(self, frames: Tensor, masks: Tensor, counts: Tensor) -> Tensor:
        """Zeros add nothing to a sum: all at once."""
        totals = [frames.masked_fill(~masks[:, number, None], 0.0).sum(dim=2) for number in range(masks.shape[1])]
        return torch.stack(totals, dim=1) / counts[..., None]


class TSDP(Pooling):
    """Standard deviation over time, unbiased; needs two frames."""

    fewest_frames = 2

    def statistics(self, frames: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C)."""
        return _deviation(frames)[:, :, 0]


class TSTP(Pooling):
    """Mean and unbiased standard deviation over time; needs two frames.

    Args:
        channels: C.
        variance_floor: added under the root.
    """

    fewest_frames = 2

    def __init__(self, channels: int, *, variance_floor: float = _VARIANCE_FLOOR) -> None:
        super().__init__(channels)
        self.out_dim = 2 * channels
        self.variance_floor = variance_floor

    def statistics(self, frames: Tensor) -> Tensor:
        """Map (B, C, T) to (B, 2 C)."""
        return torch.cat([frames.mean(dim=2), _root(frames.var(dim=2) + self.variance_floor)], dim=1)

    def weighted(self, frames: Tensor, weights: Tensor) -> Tensor:
        """Pool under weights that need not be 0 or 1, as those of frames where speakers overlap.

        With weights w, v1 = sum w and v2 = sum w^2, the variance is sum w (x - mean)^2 / (v1 - v2 / v1): without bias
        for weights of reliability, and that of the chosen frames where all are 0 or 1.

        Args:
            frames: (B, C, T), finite where a weight is not 0.
            weights: (B, T) float in [0, 1], or (B, M, T) for M results of one utterance.

        Returns:
            (B, 2 C), or (B, M, 2 C).

        Raises:
            ModelError: weights of another shape, beyond [0, 1], or all on one frame, which has no deviation.
        """
        many = weights if weights.ndim == 3 else weights[:, None]
        if many.ndim != 3 or many[:, 0].shape != frames[:, 0].shape or not ((many >= 0) & (many <= 1)).all():
            raise ModelError(
                f"weights of frames {tuple(frames.shape)} lie in [0, 1], (batch, frames) or (batch, masks, frames), "
                f"got {tuple(weights.shape)}"
            )
        total = many.sum(dim=2, keepdim=True)  # (B, M, 1)
        if ((many > 0).sum(dim=2) < self.fewest_frames).any():
            raise ModelError(f"pooling needs weights above 0 at {self.fewest_frames} frames at least")
        degrees = total - many.square().sum(dim=2, keepdim=True) / total
        pooled = []
        for number in range(many.shape[1]):
            w, v1 = many[:, number, None], total[:, number]  # (B, 1, T), (B, 1)
            heard = frames.masked_fill(w == 0, 0.0)
            mean = (w * heard).sum(dim=2) / v1
            variance = (w * (heard - mean[:, :, None]).square()).sum(dim=2) / degrees[:, number]
            pooled.append(torch.cat([mean, _root(variance + self.variance_floor)], dim=1))
        stacked = torch.stack(pooled, dim=1)
        return stacked if weights.ndim == 3 else stacked[:, 0]


class TMAP(Pooling):
    """Maximum plus mean over time."""

    def statistics(self, frames: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C)."""
        return frames.amax(dim=2) + frames.mean(dim=2)


class ASTP(Pooling):
    """Attentive statistics: mean and deviation under weights that the network draws for each channel and frame.

    Args:
        channels: C.
        global_context: the weights also depend on mean and deviation of the utterance; needs two frames.
        bottleneck: hidden channels of the weights.
        per_channel: every channel has its own weights; else all share one.
        variance_floor: the variance is never less.

    Source: K. Okabe et al., "Attentive statistics pooling for deep speaker embedding", Interspeech 2018; the global
    context is that of B. Desplanques et al., "ECAPA-TDNN", Interspeech 2020.
    """

    def __init__(
        self,
        channels: int,
        *,
        global_context: bool = False,
        bottleneck: int = 128,
        per_channel: bool = True,
        variance_floor: float = _VARIANCE_FLOOR,
    ) -> None:
        super().__init__(channels)
        self.out_dim = 2 * channels
        self.variance_floor = variance_floor
        self.global_context = global_context
        self.fewest_frames = 2 if global_context else 1
        self.linear1 = nn.Conv1d(3 * channels if global_context else channels, bottleneck, 1)
        self.linear2 = nn.Conv1d(bottleneck, channels if per_channel else 1, 1)

    def statistics(self, frames: Tensor) -> Tensor:
        """Map (B, C, T) to (B, 2 C), means before deviations."""
        seen = frames
        if self.global_context:
            mean = frames.mean(dim=2, keepdim=True).expand_as(frames)
            seen = torch.cat([frames, mean, _deviation(frames).expand_as(frames)], dim=1)  # (B, 3 C, T)
        return _attentive_statistics(frames, self.linear2(self.linear1(seen).tanh()), self.variance_floor)


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

    def statistics(self, frames: Tensor) -> Tensor:
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

    def statistics(self, frames: Tensor) -> Tensor:
        """Map (B, C, T) to (B, 4 C), query by query."""
        return torch.cat([query(frames) for query in self.n_query], dim=1)


def _deviation(frames: Tensor) -> Tensor:
    """Unbiased standard deviation over time, (B, C, 1)."""
    return (frames.var(dim=2, keepdim=True) + _VARIANCE_FLOOR).sqrt()


def _root(variance: Tensor) -> Tensor:
    """Square root whose slope at 0 is 0, not infinite: a rectified channel may be the same at all frames."""
    positive = variance > 0
    return torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)


def _attentive_statistics(frames: Tensor, logits: Tensor, variance_floor: float = _VARIANCE_FLOOR) -> Tensor:
    """Mean and deviation (B, 2 C) of (B, C, T) under the softmax over time of `logits` (B, C or 1, T)."""
    # In sixteen bits the weights would not sum to one, and the deviation be lost beside the mean.
    precision = torch.promote_types(frames.dtype, torch.float32)
    weights, wide = logits.softmax(dim=2, dtype=precision), frames.to(precision)
    mean = (weights * wide).sum(dim=2, keepdim=True)
    variance = (weights * (wide - mean).square()).sum(dim=2, keepdim=True)
    deviation = variance.clamp(min=variance_floor).sqrt()
    return torch.cat([mean, deviation], dim=1)[:, :, 0].to(frames.dtype)
